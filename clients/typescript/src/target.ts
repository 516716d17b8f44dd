// SPDX-License-Identifier: Apache-2.0
/** Where the server is. What cannot be a target is refused here, before anything is dialled. */
import { existsSync } from "node:fs";
import { isIP } from "node:net";

import { ErrorNumber } from "./gen/virtblock/v1/libvirt_enums.js";
import { VirError } from "./errors.js";

const SYSTEM_SOCKET = "/run/virtblock/virtblock-sock";
const READ_ONLY_SUFFIX = "-ro";
// sockaddr_un.sun_path holds 108 bytes, the last one a NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX = 107;

export interface Target {
  path: string;
  host: string;
  port: string;
}

export function invalid(text: string): VirError {
  return VirError.ofClient(ErrorNumber.ERR_INVALID_ARG, `invalid argument: ${text}`, { str1: "invalid argument: %s", str2: text });
}

/** Reads "unix:PATH", "unix:///PATH", an absolute path, "HOST:PORT" or "[IPV6]:PORT"; empty: the default. */
export function parseTarget(text: string, readOnly: boolean): Target {
  text ||= process.env["VIRTBLOCK_SERVER"] || defaultSocket();
  if (text.startsWith("unix:") || text.startsWith("/")) {
    return { path: socketPath(text, readOnly), host: "", port: "" };
  }
  if (readOnly) {
    throw invalid(`server '${text}': only a unix socket has a read-only one beside it`);
  }
  const match = /^(?:\[([^\]/]+)\]|([^:/[\]]+)):([^:/]*)$/.exec(text);
  if (match === null) {
    throw invalid(`server '${text}' is neither unix:PATH nor HOST:PORT`);
  }
  const port = match[3] ?? "";
  if (!/^[0-9]+$/.test(port) || Number(port) < 1 || Number(port) > 65535) {
    throw invalid(`server '${text}': the port is a number from 1 to 65535`);
  }
  return { path: "", host: match[1] ?? match[2] ?? "", port };
}

function socketPath(text: string, readOnly: boolean): string {
  let path = text.replace(/^unix:/, "");
  if (path.startsWith("//")) {
    // unix://HOST/PATH is another host's; three slashes are none's, so this one's.
    path = path.slice(2);
  }
  if (!path.startsWith("/")) {
    throw invalid(`server '${text}': the path must be absolute, as in unix:${SYSTEM_SOCKET}`);
  }
  if (readOnly && !path.endsWith(READ_ONLY_SUFFIX)) {
    path += READ_ONLY_SUFFIX;
  }
  const bytes = Buffer.byteLength(path);
  if (bytes > SOCKET_PATH_BYTES_MAX || path.includes("\0")) {
    throw invalid(`server '${text}': the path has ${bytes} bytes, a socket's at most ${SOCKET_PATH_BYTES_MAX}`);
  }
  return path;
}

function defaultSocket(): string {
  const runtimeDir = process.env["XDG_RUNTIME_DIR"];
  const own = `${runtimeDir}/virtblock/virtblock-sock`;
  // Where neither is there, the error message speaks of the system's.
  return runtimeDir && !existsSync(SYSTEM_SOCKET) && existsSync(own) ? own : SYSTEM_SOCKET;
}

export function targetText(target: Target): string {
  if (target.path) {
    return `unix:${target.path}`;
  }
  return target.host.includes(":") ? `[${target.host}]:${target.port}` : `${target.host}:${target.port}`;
}

export function isLoopback(target: Target): boolean {
  const { host } = target;
  return target.path !== "" || host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}
