# SPDX-License-Identifier: Apache-2.0
"""Lists the domains of a server, their disks with the backing chains, and the jobs that run.

    python connect_and_list.py [SERVER]

SERVER is unix:PATH or HOST:PORT; without it $VIRTBLOCK_SERVER, else the system's socket.
"""

from __future__ import annotations

import sys

from virtblock.client import Client, VirError


def show(client: Client) -> None:
    """Print what is there."""
    versions = client.get_capabilities()
    print(f"virtblockd {versions.server_version} at {client.target}, connection {versions.connection.uri}")
    for domain in client.list_all_domains():
        print(f"{domain.name}  {domain.state.name.lower()}  {domain.uuid}")
        for disk in client.list_disks(domain):
            if not disk.source_path:
                print(f"  {disk.target}  no medium")
                continue
            # From the image that is written down to the bottom of the chain.
            chain = [disk.source_path, *(image.path for image in disk.backing_chain)]
            size = f"{disk.capacity_bytes} bytes" if disk.capacity_bytes >= 0 else "size not known"
            print(f"  {disk.target}  {disk.format}  {size}  {' -> '.join(chain)}")
            if disk.chain_error is not None:
                print(f"    {disk.chain_error.message}")
    for job in client.list_block_jobs().jobs:
        print(f"job {job.job_id}: {job.domain.name} {job.disk} {job.state.name} {job.cur} of {job.end} bytes")


def main() -> int:
    """Connect, show, and say what went wrong where something did."""
    try:
        with Client(sys.argv[1] if len(sys.argv) > 1 else None) as client:
            show(client)
    except VirError as error:
        print(f"error {error.number}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
