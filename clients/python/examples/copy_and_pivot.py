# SPDX-License-Identifier: Apache-2.0
"""Copies a domain's disk to another file while showing how far it is, and lets the domain go on with the copy.

    python copy_and_pivot.py SERVER DOMAIN DISK DESTINATION

The destination must not exist; it gets the disk's own format and all its data, without a backing file. Ctrl-C gives the
copy up: the domain stays with its source.
"""

from __future__ import annotations

import asyncio
import sys

from virtblock.client import AsyncClient, BlockJob, BlockJobState, ErrorNumber, VirError, errors
from virtblock.client.flags import BlockJobAbortFlags, BlockRebaseFlags

REPORT_INTERVAL_S = 1.0


async def copy(client: AsyncClient, domain: str, disk: str, destination: str) -> BlockJob:
    """Start the copy and return it READY: every byte is on the destination. Raises VirError when it fails."""
    job = await client.block_rebase(domain, disk, destination, flags=BlockRebaseFlags.COPY)
    while True:
        # The wait is at the server; when its time passes without READY, the answer has the figures of the moment.
        waited = await client.wait_block_job(job.job_id, [BlockJobState.READY], timeout_s=REPORT_INTERVAL_S)
        job = waited.job
        print(f"{job.state.name}: {job.cur} of {job.end} bytes, {job.rate_bytes_per_s} bytes/s, {job.eta_s} s left")
        if waited.reached:
            return job
        if job.error is not None:
            raise VirError(job.error)
        if job.is_final:
            raise SystemExit(f"the job was ended by somebody else: {job.reason or job.state.name}")


async def copy_and_pivot(server: str, domain: str, disk: str, destination: str) -> None:
    """The whole way; a copy that is not wanted any more is ended, so that the disk is free for the next."""
    async with AsyncClient(server) as client:
        try:
            job = await copy(client, domain, disk, destination)
        except asyncio.CancelledError:
            await client.block_job_abort(domain, disk)
            raise
        await client.block_job_abort(domain, disk, BlockJobAbortFlags.PIVOT)
        ended = await client.get_block_job(job.job_id)
        [top] = [each.source_path for each in await client.list_disks(domain) if each.target == disk]
        print(f"{ended.state.name}: {domain} now uses {top}")


def main() -> int:
    """Run it, and say what to do about the failures that have a remedy."""
    if len(sys.argv) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        asyncio.run(copy_and_pivot(*sys.argv[1:]))
    except VirError as error:
        print(f"error {error.number}: {error}", file=sys.stderr)
        if errors.is_(error, ErrorNumber.BLOCK_COPY_ACTIVE):
            print("a job runs on this disk: end it by block_job_abort first", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("given up: the domain stays with its source", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
