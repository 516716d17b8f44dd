// SPDX-License-Identifier: Apache-2.0
/**
 * Brings an earlier copy of a disk up to date: copies only what the disk's persistent bitmap marks as written since, then clears the
 * bitmap for the next time. The first time there is no bitmap: it is added, and the whole disk is copied.
 * node incremental.js SERVER DOMAIN DISK BITMAP DESTINATION
 */
import { BlockCopyFlags, BlockJobState, Client, VirError } from "@virtblock/client";

const [server = "", name = "", disk = "", bitmap = "", destination = ""] = process.argv.slice(2);
const domain = { name };
using client = new Client(server);

const { bitmaps } = await client.jobs.listBlockBitmaps({ domain, disk });
const isKnown = bitmaps.some((each) => each.name === bitmap);
const path = destination.replace(/[&<>']/g, (character) => `&#${character.charCodeAt(0)};`);
const { job: started } = await client.domain.blockCopy({
  domain,
  disk,
  destXml: `<disk type='file'><source file='${path}'/><driver type='qcow2'/></disk>`,
  flags: isKnown ? BlockCopyFlags.DOMAIN_BLOCK_COPY_REUSE_EXT : 0,
  params: isKnown ? [{ field: "virtblock.bitmap", stringValue: bitmap }] : [],
});
const ready = { jobId: started?.jobId ?? "", states: [BlockJobState.BLOCK_JOB_STATE_READY] };
const { job, reached } = await client.jobs.waitBlockJob(ready);
if (!reached) {
  throw job?.error ? new VirError(job.error) : new Error(`the copy ended as ${job && BlockJobState[job.state]}`);
}
await client.domain.blockJobAbort({ domain, disk });
// The copy is safe: from here on the bitmap marks what comes next.
if (isKnown) {
  await client.jobs.clearBlockBitmap({ domain, disk, name: bitmap });
} else {
  await client.jobs.addBlockBitmap({ domain, disk, name: bitmap });
}
console.log(`copied ${job?.copiedBytes} bytes`);
