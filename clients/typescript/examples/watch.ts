// SPDX-License-Identifier: Apache-2.0
/**
 * Prints every change of every block job. It misses none while the server restarts, and none while it is down itself:
 * node watch.js SERVER TOKEN_FILE [COUNT]
 *
 * TOKEN_FILE remembers how far it came; start it again with the same file and it goes on there. COUNT: stop after that many changes.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

import { BlockJobState, Client } from "@virtblock/client";

/** Replaces the file in one step, so that a crash leaves either token and never half of one. */
function remember(path: string, token: string): void {
  // Within a snapshot there is nothing to go on after; what was stored stays.
  if (token) {
    writeFileSync(`${path}.new`, token);
    renameSync(`${path}.new`, path);
  }
}

const [server = "", tokenFile = "", count = "-1"] = process.argv.slice(2);
let left = Number(count);
using client = new Client(server);
const resumeToken = existsSync(tokenFile) ? readFileSync(tokenFile, "utf8") : "";
const watch = await client.watchBlockJobs({ resumeToken, includeSnapshot: true });
console.log(`watching ${client.target}`);
for await (const { sequence, job } of watch) {
  console.log(`${sequence}: ${job?.domain?.name} ${job?.disk} ${job && BlockJobState[job.state]}`);
  // Remembered after it was handled: after a crash the last one may come once more, and none is lost.
  remember(tokenFile, watch.resumeToken);
  if (--left === 0) {
    break;
  }
}
