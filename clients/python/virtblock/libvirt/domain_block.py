# SPDX-License-Identifier: Apache-2.0
"""virDomain's calls on disks and their block jobs.

Owns: how libvirt-python's arguments and answers of these calls look. Invariants: a starting call answers 0, whatever
the server knows of the job; a disk without a job answers {}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from virtblock.client import Client, DomainSelector
from virtblock.libvirt import arguments


class DomainBlockCalls:
    """The calls; each takes the disk's target, as "vda", or the path of its source."""

    def blockRebase(self, disk: str, base: str | None, bandwidth: int = 0, flags: int = 0) -> int:
        """With VIR_DOMAIN_BLOCK_REBASE_COPY start a mirror into `base`, else pull what is above it. Returns 0.

        `bandwidth` in MiB/s, or in bytes/s with VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES; 0: no limit.
        """
        function = "virDomainBlockRebase"
        target, path = arguments.text(function, 2, disk), arguments.text(function, 3, base)
        limit, bits = arguments.unsigned_long(bandwidth), arguments.flags(flags)
        self._change(
            function, lambda client, domain: client.block_rebase(domain, target, path, limit, bits, timeout_s=None)
        )
        return 0

    def blockCopy(self, disk: str, destxml: str, params: dict[str, Any] | None = None, flags: int = 0) -> int:
        """Start a mirror into what the XML describes. Returns 0.

        `params`: "bandwidth" in bytes/s, "granularity" and "buf-size" in bytes.
        """
        function = "virDomainBlockCopy"
        target, xml = arguments.text(function, 2, disk), arguments.text(function, 3, destxml)
        bits, typed = arguments.flags(flags), arguments.block_copy_parameters(params)
        self._change(
            function, lambda client, domain: client.block_copy(domain, target, xml, typed, bits, timeout_s=None)
        )
        return 0

    def blockPull(self, disk: str, bandwidth: int = 0, flags: int = 0) -> int:
        """Start to pull all backing images into the disk's own. Returns 0. `bandwidth` as for `blockRebase`."""
        function = "virDomainBlockPull"
        target = arguments.text(function, 2, disk)
        limit, bits = arguments.unsigned_long(bandwidth), arguments.flags(flags)
        self._change(function, lambda client, domain: client.block_pull(domain, target, limit, bits, timeout_s=None))
        return 0

    def blockCommit(self, disk: str, base: str | None, top: str | None, bandwidth: int = 0, flags: int = 0) -> int:
        """Start to merge the images from `top` down to above `base` into `base`. Returns 0.

        `bandwidth` in MiB/s, or in bytes/s with VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES; 0: no limit.
        """
        function = "virDomainBlockCommit"
        target = arguments.text(function, 2, disk)
        lower, upper = arguments.text(function, 3, base), arguments.text(function, 4, top)
        limit, bits = arguments.unsigned_long(bandwidth), arguments.flags(flags)
        self._change(
            function,
            lambda client, domain: client.block_commit(domain, target, lower, upper, limit, bits, timeout_s=None),
        )
        return 0

    def blockJobAbort(self, disk: str, flags: int = 0) -> int:
        """End the disk's job, with VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT by going on with its destination. Returns 0."""
        function = "virDomainBlockJobAbort"
        target, bits = arguments.text(function, 2, disk), arguments.flags(flags)
        self._change(function, lambda client, domain: client.block_job_abort(domain, target, bits, timeout_s=None))
        return 0

    def blockJobInfo(self, path: str, flags: int = 0) -> dict[str, int]:
        """{"type", "bandwidth", "cur", "end"} of the disk's job; {} without one.

        "bandwidth" in MiB/s, or in bytes/s with VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES; the others in bytes.
        """
        target, bits = arguments.text("virDomainGetBlockJobInfo", 2, path), arguments.flags(flags)
        info = self._ask(lambda client, domain: client.get_block_job_info(domain, target, bits, timeout_s=None))
        if info is None:
            return {}
        return {"type": int(info.type), "bandwidth": info.bandwidth, "cur": info.cur, "end": info.end}

    def blockJobSetSpeed(self, disk: str, bandwidth: int, flags: int = 0) -> int:
        """Change the limit of the disk's job. Returns 0.

        `bandwidth` in MiB/s, or in bytes/s with VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES; 0: no limit.
        """
        function = "virDomainBlockJobSetSpeed"
        target = arguments.text(function, 2, disk)
        limit, bits = arguments.unsigned_long(bandwidth), arguments.flags(flags)
        self._change(
            function, lambda client, domain: client.block_job_set_speed(domain, target, limit, bits, timeout_s=None)
        )
        return 0

    def blockResize(self, disk: str, size: int, flags: int = 0) -> int:
        """Change the disk's length, in KiB, or in bytes with VIR_DOMAIN_BLOCK_RESIZE_BYTES. Returns 0."""
        function = "virDomainBlockResize"
        target = arguments.text(function, 2, disk)
        length, bits = arguments.unsigned_long_long(size), arguments.flags(flags)
        self._change(function, lambda client, domain: client.block_resize(domain, target, length, bits, timeout_s=None))
        return 0

    def blockInfo(self, path: str, flags: int = 0) -> list[int]:
        """[length that the guest sees, space on the host, length of the image], in bytes."""
        target, bits = arguments.text("virDomainGetBlockInfo", 2, path), arguments.flags(flags)
        info = self._ask(lambda client, domain: client.get_block_info(domain, target, bits, timeout_s=None))
        return [info.capacity_bytes, info.allocation_bytes, info.physical_bytes]

    def blockStats(self, path: str) -> tuple[int, int, int, int, int]:
        """(reads, bytes read, writes, bytes written, errors); -1: not known."""
        target = arguments.text("virDomainBlockStats", 2, path)
        found = self._ask(lambda client, domain: client.block_stats(domain, target, timeout_s=None))
        return (
            found.read_request_count, found.read_bytes, found.write_request_count, found.write_bytes,
            found.error_count,
        )  # fmt: skip

    def _ask(self, call: Callable[[Client, DomainSelector], Any]) -> Any:
        raise NotImplementedError

    def _change(
        self,
        function: str,
        call: Callable[[Client, DomainSelector], Any],
        *,
        error_domain: int = 20,
        renamed: tuple[str, str] | None = None,
    ) -> Any:
        raise NotImplementedError
