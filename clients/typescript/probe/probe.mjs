// SPDX-License-Identifier: Apache-2.0
// Runs conformance cases through this client, as tests/conformance/PROBE.md defines it.
import { createInterface } from "node:readline";

import { Client, VirError } from "@virtblock/client";
import { BlockJobEvent, BlockJobServiceService, WatchBlockJobsRequest } from "../dist/esm/gen/virtblock/v1/block_job_service.js";
import { ConnectServiceService } from "../dist/esm/gen/virtblock/v1/connect_service.js";
import { DomainServiceService } from "../dist/esm/gen/virtblock/v1/domain_service.js";

const SERVICES = {
  ConnectService: [ConnectServiceService, "connect"],
  DomainService: [DomainServiceService, "domain"],
  BlockJobService: [BlockJobServiceService, "jobs"],
};
const clients = new Map();
const streams = new Map();

function find(method, data) {
  const [service, rpc] = method.split(".");
  const [definitions, property] = SERVICES[service];
  const [name, definition] = Object.entries(definitions).find(([, each]) => each.path.endsWith(`/${rpc}`));
  return { name, property, definition, request: definition.requestDeserialize(Buffer.from(data, "base64")) };
}

const encoded = (bytes) => Buffer.from(bytes).toString("base64");

const actions = {
  dial({ client, target, read_only, insecure, connection_uri, tls }) {
    const trust = tls && { ca: tls.ca, cert: tls.cert, key: tls.key, serverName: tls.server_name };
    const made = new Client(target, { readOnly: read_only, insecure, connectionUri: connection_uri, tls: trust });
    clients.set(client, made);
    return { target: made.target };
  },
  async call({ client, method, request, timeout_ms, cancel_after_ms }) {
    const { name, property, definition, request: given } = find(method, request);
    const signal = cancel_after_ms ? AbortSignal.timeout(cancel_after_ms) : undefined;
    const response = await clients.get(client)[property][name](given, { timeoutMs: timeout_ms, signal });
    return { response: encoded(definition.responseSerialize(response)) };
  },
  open({ client, stream, method, request }) {
    const { name, property, definition, request: given } = find(method, request);
    const stop = new AbortController();
    const messages = clients.get(client)[property][name](given, { signal: stop.signal });
    streams.set(stream, { messages, encode: definition.responseSerialize, close: () => stop.abort() });
    return {};
  },
  async watch({ client, stream, request }) {
    const { resumeToken, filter, includeSnapshot, progressIntervalMs } = WatchBlockJobsRequest.decode(Buffer.from(request, "base64"));
    const watch = await clients.get(client).watchBlockJobs({ resumeToken, filter, includeSnapshot, progressIntervalMs });
    const encode = (event) => BlockJobEvent.encode(event).finish();
    streams.set(stream, { messages: watch, encode, token: () => watch.resumeToken, close: () => watch.close() });
    return {};
  },
  async next({ stream }) {
    const { messages, encode, token } = streams.get(stream);
    const { done, value } = await messages.next();
    return done ? { end: true } : { response: encoded(encode(value)), ...(token && { token: token() }) };
  },
  close_stream({ stream }) {
    streams.get(stream).close();
    return {};
  },
  close({ client }) {
    clients.get(client).close();
    return {};
  },
};

async function run(command) {
  try {
    return await actions[command.op](command);
  } catch (error) {
    if (!(error instanceof VirError)) {
      return { crash: `${error?.stack}` };
    }
    const { number, domain, level, message, int1, int2, reason } = error;
    const [str1, str2, str3] = [error.str1, error.str2, error.str3].map((each) => each ?? null);
    return { error: { number, domain, level, message, str1, str2, str3, int1, int2, reason } };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await run(JSON.parse(line)))}\n`);
}
process.exit(0);
