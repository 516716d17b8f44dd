# SPDX-License-Identifier: Apache-2.0
"""Keeps a copy of a shut-off domain's disk up to date, copying only what was written since the last time.

    python incremental_copy.py SERVER DOMAIN DISK BITMAP DESTINATION

The first time it copies the whole disk and adds the persistent bitmap BITMAP, in which the hypervisor records every
write from then on; each later time it copies what the bitmap marks and clears it. The domain stays shut off meanwhile,
and with its own disk: the copy is ended without pivot.
"""

from __future__ import annotations

import sys
from xml.sax.saxutils import quoteattr

from virtblock.client import BlockJob, BlockJobState, Client, VirError
from virtblock.client.flags import BlockCopyFlags


def copy(client: Client, domain: str, disk: str, destination: str, bitmap: str | None) -> BlockJob:
    """One copy to its end; `bitmap` None: of the whole disk. Returns the job as it was READY. Raises VirError."""
    job = client.block_copy(
        domain,
        disk,
        f"<disk type='file'><source file={quoteattr(destination)}/><driver type='qcow2'/></disk>",
        {} if bitmap is None else {"virtblock.bitmap": bitmap},
        BlockCopyFlags(0) if bitmap is None else BlockCopyFlags.REUSE_EXT,
    )
    waited = client.wait_block_job(job.job_id, [BlockJobState.READY])
    if waited.job.error is not None:
        raise VirError(waited.job.error)
    if not waited.reached:
        raise SystemExit(f"the job was ended by somebody else: {waited.job.reason or waited.job.state.name}")
    client.block_job_abort(domain, disk)
    return waited.job


def bring_up_to_date(client: Client, domain: str, disk: str, bitmap: str, destination: str) -> None:
    """The whole way. The bitmap is touched when the copy is safe: whatever fails before, the next time makes good."""
    is_known = any(each.name == bitmap for each in client.list_block_bitmaps(domain, disk))
    job = copy(client, domain, disk, destination, bitmap if is_known else None)
    if is_known:
        client.clear_block_bitmap(domain, disk, bitmap)
    else:
        client.add_block_bitmap(domain, disk, bitmap)
    print(f"copied {job.copied_bytes} bytes{'' if is_known else ', the whole disk'}")


def main() -> int:
    """Run it, and say what went wrong where something did."""
    if len(sys.argv) != 6:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with Client(sys.argv[1]) as client:
            bring_up_to_date(client, *sys.argv[2:])
    except VirError as error:
        print(f"error {error.number}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
