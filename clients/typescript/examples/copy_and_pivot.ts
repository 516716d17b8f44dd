// SPDX-License-Identifier: Apache-2.0
/**
 * Copies a domain's disk while showing how far it is, and lets the domain go on with the copy:
 * node copy_and_pivot.js SERVER DOMAIN DISK DESTINATION
 *
 * The destination must not exist. Ctrl-C gives the copy up: the domain stays with its source.
 */
import { BlockJobAbortFlags, BlockJobState, BlockRebaseFlags, Client, ErrorNumber, isVirError, VirError } from "@virtblock/client";

const REPORT_INTERVAL_MS = 1000n;

async function untilReady(client: Client, jobId: string, signal: AbortSignal): Promise<void> {
  for (;;) {
    // The wait is at the server; when its time passes without READY, the answer has the figures of the moment.
    const request = { jobId, states: [BlockJobState.BLOCK_JOB_STATE_READY], timeoutMs: REPORT_INTERVAL_MS };
    const { job, reached } = await client.jobs.waitBlockJob(request, { signal });
    if (!job) {
      throw new Error("the server answered no job");
    }
    console.log(`${BlockJobState[job.state]}: ${job.cur} of ${job.end} bytes, ${job.rateBytesPerS} bytes/s, ${job.etaS} s left`);
    if (reached) {
      return;
    }
    if (job.error) {
      throw new VirError(job.error);
    }
    if (job.endTime) {
      throw new Error(`the job was ended by somebody else: ${BlockJobState[job.state]} ${job.reason}`);
    }
  }
}

const [server = "", domain = "", disk = "", destination = ""] = process.argv.slice(2);
const givenUp = new AbortController();
process.once("SIGINT", () => givenUp.abort());
using client = new Client(server);
try {
  const started = await client.domain.blockRebase({
    domain: { name: domain },
    disk,
    base: destination,
    flags: BlockRebaseFlags.DOMAIN_BLOCK_REBASE_COPY,
  });
  await untilReady(client, started.job?.jobId ?? "", givenUp.signal);
  const flags = BlockJobAbortFlags.DOMAIN_BLOCK_JOB_ABORT_PIVOT;
  const { job } = await client.domain.blockJobAbort({ domain: { name: domain }, disk, flags });
  console.log(`${job && BlockJobState[job.state]}: ${domain} now uses ${destination}`);
} catch (error) {
  if (givenUp.signal.aborted) {
    await client.domain.blockJobAbort({ domain: { name: domain }, disk });
    console.error("given up: the domain stays with its source");
  } else if (isVirError(error, ErrorNumber.ERR_BLOCK_COPY_ACTIVE)) {
    console.error(`${error.message}: end the job on this disk by blockJobAbort first`);
  } else {
    console.error(isVirError(error) ? `error ${error.number}: ${error.message}` : error);
  }
  process.exitCode = 1;
}
