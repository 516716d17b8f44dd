// SPDX-License-Identifier: Apache-2.0
/** The one error of the client, and how it is made of what gRPC reports. */
import { Metadata, ServiceError, status } from "@grpc/grpc-js";

import { ErrorInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import { VirError as VirErrorRecord } from "./gen/virtblock/v1/errors.js";
import { ErrorDomain, ErrorLevel, ErrorNumber } from "./gen/virtblock/v1/libvirt_enums.js";

/** `VirError.reason` of the failures that libvirt cannot have. */
export const Reason = {
  BLOCK_JOB_NOT_FOUND: "BLOCK_JOB_NOT_FOUND",
  COMPACTED: "COMPACTED",
  REQUEST_ID_REUSED: "REQUEST_ID_REUSED",
  SLOW_READER: "SLOW_READER",
} as const;

/** A call failed. The fields are those of libvirt's error; `message` is for people, decide by `number` and `reason`. */
export class VirError extends Error {
  override readonly name = "VirError";
  /** What went wrong (virErrorNumber). */
  readonly number: ErrorNumber;
  /** Which part found the error (virErrorDomain). */
  readonly domain: ErrorDomain;
  readonly level: ErrorLevel;
  /** libvirt's extra strings, as a rule the template and its detail; undefined where libvirt has NULL. */
  readonly str1: string | undefined;
  readonly str2: string | undefined;
  readonly str3: string | undefined;
  /** errno for ERR_SYSTEM_ERROR, else -1, or 0 for an argument check. */
  readonly int1: number;
  readonly int2: number;

  /** @param reason the ErrorInfo's, or one of `Reason`; empty: none came. @param code gRPC's, undefined where nothing was called. */
  constructor(record: VirErrorRecord, readonly reason = "", readonly code?: status, cause?: unknown) {
    super(record.message, { cause });
    ({ number: this.number, domain: this.domain, level: this.level, int1: this.int1, int2: this.int2 } = record);
    ({ str1: this.str1, str2: this.str2, str3: this.str3 } = record);
  }

  /** An error that no server sent. */
  static ofClient(number: ErrorNumber, message: string, more: Partial<VirErrorRecord> = {}, code?: status, cause?: unknown): VirError {
    const record = { number, domain: ErrorDomain.FROM_RPC, level: ErrorLevel.ERR_ERROR, message, str1: "%s", str2: message };
    return new VirError(VirErrorRecord.fromPartial({ ...record, int1: -1, int2: -1, ...more }), "", code, cause);
  }
}

/** Whether it is a VirError with one of these numbers or reasons. */
export function isVirError(error: unknown, ...what: (ErrorNumber | string)[]): error is VirError {
  return error instanceof VirError && (what.length === 0 || what.includes(error.number) || what.includes(error.reason));
}

export function fromCall(error: unknown, server: string, rpc: string): VirError {
  if (error instanceof VirError) {
    return error;
  }
  const failed = error as ServiceError;
  return sentByServer(failed) ?? withoutDetail(failed, server, rpc);
}

function sentByServer(error: ServiceError): VirError | undefined {
  const [data] = (error.metadata ?? new Metadata()).get("grpc-status-details-bin");
  if (!Buffer.isBuffer(data)) {
    return undefined;
  }
  let record: VirErrorRecord | undefined;
  let reason = "";
  for (const detail of Status.decode(data).details) {
    if (detail.typeUrl.endsWith("/virtblock.v1.VirError")) {
      record = VirErrorRecord.decode(detail.value);
    } else if (detail.typeUrl.endsWith("/google.rpc.ErrorInfo")) {
      reason = ErrorInfo.decode(detail.value).reason;
    }
  }
  return record && new VirError(record, reason, error.code, error);
}

// What the kernel says of a socket that nobody serves; gRPC passes it on in words alone.
const CONNECT_ERRNOS: [string, number, string][] = [
  ["ENOENT", 2, "No such file or directory"],
  ["ECONNREFUSED", 111, "Connection refused"],
  ["EACCES", 13, "Permission denied"],
  ["ETIMEDOUT", 110, "Connection timed out"],
  ["EHOSTUNREACH", 113, "No route to host"],
];

/** Number and domain that libvirt's own remote client would give, and what to do. */
function withoutDetail(error: ServiceError, server: string, rpc: string): VirError {
  const details = error.details || "no further detail";
  const made = (number: ErrorNumber, message: string, int1 = -1) => VirError.ofClient(number, message, { int1 }, error.code, error);
  switch (error.code) {
    case status.UNAVAILABLE: {
      const [, errno, text] = CONNECT_ERRNOS.find(([name]) => details.includes(name)) ?? ["", -1, details];
      const hint = `is it running? start it with: virtblockd --listen ${server.replace(/-ro$/, "")}`;
      return made(ErrorNumber.ERR_SYSTEM_ERROR, `cannot connect to virtblockd at ${server}: ${text}; ${hint}`, errno);
    }
    case status.DEADLINE_EXCEEDED:
      return made(
        ErrorNumber.ERR_OPERATION_TIMEOUT,
        `${rpc}: virtblockd at ${server} did not answer in time; what it was asked to do may go on`,
      );
    case status.UNIMPLEMENTED:
      return made(
        ErrorNumber.ERR_NO_SUPPORT,
        `virtblockd at ${server} does not know the call ${rpc}: ${details}; it is older than this client`,
      );
    case status.CANCELLED:
      return made(ErrorNumber.ERR_OPERATION_ABORTED, `${rpc}: the call to virtblockd at ${server} was cancelled: ${details}`);
    default:
      return made(ErrorNumber.ERR_RPC, `${rpc}: the call to virtblockd at ${server} failed with ${status[error.code]}: ${details}`);
  }
}
