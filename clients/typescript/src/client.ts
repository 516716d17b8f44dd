// SPDX-License-Identifier: Apache-2.0
/** One connection to a server: the three services of the contract, each call a promise, each stream an async iterable. */
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";

import { ChannelCredentials, Client as GrpcClient, ClientReadableStream, credentials, Metadata } from "@grpc/grpc-js";

import { SERVICE_CONFIG } from "./gen/service_config.js";
import { BlockJobFilter, BlockJobServiceService } from "./gen/virtblock/v1/block_job_service.js";
import { DomainSelector, TypedParameter } from "./gen/virtblock/v1/common.js";
import { ConnectServiceService } from "./gen/virtblock/v1/connect_service.js";
import { DomainServiceService } from "./gen/virtblock/v1/domain_service.js";
import { fromCall } from "./errors.js";
import { invalid, isLoopback, parseTarget, Target, targetText } from "./target.js";
import { Watch, WatchOptions } from "./watch.js";

/** Paths of PEM files. `ca` undefined: the system's authorities. `cert` and `key`: what the client shows of itself, both or none. */
export interface TlsOptions {
  ca?: string;
  cert?: string;
  key?: string;
  /** The name in the server's certificate, where it is not the host. */
  serverName?: string;
}

export interface ClientOptions {
  /** Take the socket beside, PATH-ro, which refuses what changes anything. */
  readOnly?: boolean;
  /** Go without encryption, to this machine only. */
  insecure?: boolean;
  /** The hypervisor connection, for example "qemu:///system", of every request that names none. */
  connectionUri?: string;
  tls?: TlsOptions;
}

export interface CallOptions {
  /** Ends the call, never a job. */
  timeoutMs?: number;
  /** Cancels the call, never a job. */
  signal?: AbortSignal;
}

interface Definition<Request, Response> {
  path: string;
  responseStream: boolean;
  requestSerialize: (value: Request) => Buffer;
  requestDeserialize: (value: Buffer) => Request;
  responseDeserialize: (value: Buffer) => Response;
}

type Given<T> = T extends bigint | string | number | boolean | Uint8Array | undefined
  ? T
  : T extends (infer Element)[]
    ? Given<Element>[]
    : { [Key in keyof T]?: Given<T[Key]> | undefined };

/** A service as an object: each unary call gives a promise, each stream an async iterable. */
export type Service<Definitions> = {
  [Name in keyof Definitions]: Definitions[Name] extends Definition<infer Request, infer Response>
    ? Definitions[Name] extends { responseStream: true }
      ? (request?: Given<Request>, options?: CallOptions) => AsyncIterableIterator<Response>
      : (request?: Given<Request>, options?: CallOptions) => Promise<Response>
    : never;
};

const CHANNEL_OPTIONS = {
  "grpc.service_config": SERVICE_CONFIG,
  "grpc.service_config_disable_resolution": 1,
  "grpc.use_local_subchannel_pool": 1,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
  // A server that vanished without a word is noticed, also by a stream that only waits.
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.max_receive_message_length": 16 << 20,
};

export class Client implements Disposable {
  /** libvirt's calls on a connection: look-ups, lists, definitions, events. */
  readonly connect: Service<typeof ConnectServiceService>;
  /** libvirt's calls on a domain, the block jobs among them. */
  readonly domain: Service<typeof DomainServiceService>;
  /** What libvirt lacks: jobs by id, kept after their end. See also `watchBlockJobs`. */
  readonly jobs: Service<typeof BlockJobServiceService>;
  /** The server's address. */
  readonly target: string;
  readonly #connectionUri: string;
  readonly #grpc: GrpcClient;

  /**
   * @param server "unix:PATH", an absolute path, or "HOST:PORT" (TLS); empty: $VIRTBLOCK_SERVER, else the system's socket, else
   * that of the user's own daemon. It is contacted by the first call.
   * @throws VirError ERR_INVALID_ARG
   */
  constructor(server = "", options: ClientOptions = {}) {
    const target = parseTarget(server, options.readOnly ?? false);
    this.target = targetText(target);
    this.#connectionUri = options.connectionUri ?? "";
    const name = options.tls?.serverName;
    const address = target.path ? `unix:${target.path}` : `dns:${this.target}`;
    this.#grpc = new GrpcClient(address, trust(target, options), {
      ...CHANNEL_OPTIONS,
      ...(isLoopback(target) && { "grpc.enable_http_proxy": 0 }),
      ...(name && { "grpc.ssl_target_name_override": name }),
    });
    this.connect = this.#service(ConnectServiceService);
    this.domain = this.#service(DomainServiceService);
    this.jobs = this.#service(BlockJobServiceService);
  }

  /** Ends every call and stream, and the connection. No job ends by it. */
  close(): void {
    this.#grpc.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Shows every change of state of block jobs once and in order; when the connection breaks it goes on by itself where it was.
   * Resolves when the server has registered it: a job that is started afterwards cannot be missed.
   */
  watchBlockJobs(options: WatchOptions = {}): Promise<Watch> {
    return Watch.open(this, options);
  }

  #service<Definitions extends object>(definitions: Definitions): Service<Definitions> {
    const entries = Object.entries(definitions).map(([name, definition]: [string, Definition<object, object>]) => [
      name,
      (request: object = {}, options: CallOptions = {}) =>
        definition.responseStream ? this.#stream(definition, request, options) : this.#unary(definition, request, options),
    ]);
    return Object.fromEntries(entries) as Service<Definitions>;
  }

  #unary(definition: Definition<object, object>, request: object, options: CallOptions): Promise<object> {
    const { path, requestSerialize, responseDeserialize } = definition;
    return new Promise((resolve, reject) => {
      const call = this.#grpc.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        this.#complete(definition, request),
        new Metadata(),
        options.timeoutMs ? { deadline: Date.now() + options.timeoutMs } : {},
        (error, response) => {
          options.signal?.removeEventListener("abort", cancel);
          error ? reject(fromCall(error, this.target, rpcName(path))) : resolve(response as object);
        },
      );
      const cancel = (): void => call.cancel();
      options.signal?.aborted ? cancel() : options.signal?.addEventListener("abort", cancel);
    });
  }

  #stream(definition: Definition<object, object>, request: object, options: CallOptions): AsyncIterableIterator<object> {
    const { path, requestSerialize, responseDeserialize } = definition;
    const deadline = options.timeoutMs ? { deadline: Date.now() + options.timeoutMs } : {};
    const whole = this.#complete(definition, request);
    const call = this.#grpc.makeServerStreamRequest(path, requestSerialize, responseDeserialize, whole, new Metadata(), deadline);
    options.signal?.addEventListener("abort", () => call.cancel());
    if (options.signal?.aborted) {
      call.cancel();
    }
    return iterate(call, this.target, rpcName(path));
  }

  /**
   * Fills in what the caller left to the client: the fields' defaults, the connection, and the request_id of a call that starts a
   * job, without which a repeat after a lost answer could not be told from a second job.
   */
  #complete(definition: Definition<object, object>, request: object): object {
    const whole: Record<string, unknown> = { ...definition.requestDeserialize(Buffer.alloc(0)) };
    for (const [name, value] of Object.entries(request)) {
      whole[name] = value ?? whole[name];
    }
    whole["domain"] = whole["domain"] && DomainSelector.fromPartial(whole["domain"]);
    whole["filter"] = whole["filter"] && BlockJobFilter.fromPartial(whole["filter"]);
    if (Array.isArray(whole["params"])) {
      whole["params"] = whole["params"].map((each) => TypedParameter.fromPartial(each));
    }
    if (whole["requestId"] === "") {
      whole["requestId"] = randomUUID();
    }
    for (const holder of [whole, whole["domain"], whole["filter"]] as ({ connectionUri?: string } | undefined)[]) {
      if (holder?.connectionUri === "") {
        holder.connectionUri = this.#connectionUri;
      }
    }
    return whole;
  }
}

function iterate<T>(call: ClientReadableStream<T>, server: string, rpc: string): AsyncIterableIterator<T> {
  const early: { error?: Error } = {};
  // An error that nobody listens for ends the process, and the iteration listens from its first step on.
  call.on("error", (error) => (early.error = error));
  // Asks for the first message now: grpc-js drops one that nobody has asked for when an error comes right behind it.
  call.read(0);
  return messages(call, early, server, rpc);
}

async function* messages<T>(
  call: ClientReadableStream<T>,
  early: { error?: Error },
  server: string,
  rpc: string,
): AsyncIterableIterator<T> {
  try {
    yield* call as AsyncIterable<T>;
    if (early.error) {
      throw early.error;
    }
  } catch (error) {
    throw fromCall(error, server, rpc);
  } finally {
    call.cancel();
  }
}

function rpcName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

function trust(target: Target, { insecure, tls }: ClientOptions): ChannelCredentials {
  const text = targetText(target);
  if (insecure && tls) {
    throw invalid("a link is either insecure or has TLS options, not both");
  }
  if (insecure && !isLoopback(target)) {
    throw invalid(`server '${text}': insecure is for this machine alone, as in 127.0.0.1:${target.port}`);
  }
  if (tls && target.path) {
    throw invalid(`server '${text}': a unix socket has no TLS`);
  }
  if (!tls?.cert !== !tls?.key) {
    throw invalid("a TLS certificate and its key are given both or not at all");
  }
  return insecure || target.path ? credentials.createInsecure() : credentials.createSsl(read(tls?.ca, "CERTIFICATE"), read(tls?.key, "PRIVATE KEY"), read(tls?.cert, "CERTIFICATE"));
}

/** gRPC takes a file that lacks what it is for in silence, and then no server is good enough. */
function read(path: string | undefined, kind: string): Buffer | null {
  let content: Buffer;
  try {
    if (!path) {
      return null;
    }
    content = readFileSync(path);
  } catch (error) {
    throw invalid(`TLS file '${path}': ${(error as Error).message}`);
  }
  if (!new RegExp(`-----BEGIN [A-Z0-9 ]*${kind}`).test(content.toString("latin1"))) {
    throw invalid(`TLS file '${path}' holds no PEM ${kind.toLowerCase()}`);
  }
  return content;
}
