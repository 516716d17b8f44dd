# SPDX-License-Identifier: Apache-2.0
"""Persistent bitmaps of a disk: list, add, remove, clear. libvirt has none of these but in its checkpoints.

Owns: the checks of these calls, in the order of libvirt's public layer: look-up, read-only, whether the driver has it.
Invariants: what a name or a granularity may be is the engine's to say. Methods block; they are called from worker
threads.
"""

from __future__ import annotations

from virtblock.server.core.connections import Connections, require
from virtblock.server.core.driver import Driver
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, report
from virtblock.server.core.lookup import DomainLookup, refuse_read_only
from virtblock.server.core.model import BlockBitmap, Caller, Domain, DomainSelector

GRANULARITY_BYTES_DEFAULT = 64 * 1024


class BitmapApi:
    """The calls of BlockJobService on bitmaps."""

    def __init__(self, connections: Connections) -> None:
        self._lookup = DomainLookup(connections)

    def list(self, caller: Caller, selector: DomainSelector, disk: str) -> list[BlockBitmap]:
        """The bitmaps of the disk's active image; also for read-only callers."""
        driver, domain = self._lookup.select(selector, "ListBlockBitmaps")
        require(driver, "list_block_bitmaps", "ListBlockBitmaps")
        return driver.list_block_bitmaps(domain, disk)

    def add(
        self,
        caller: Caller,
        selector: DomainSelector,
        disk: str,
        name: str,
        granularity_bytes: int = 0,
        *,
        disabled: bool = False,
    ) -> BlockBitmap:
        """A new bitmap; `granularity_bytes` 0 is 64 KiB."""
        driver, domain = self._to_change(caller, selector, "add_block_bitmap", "AddBlockBitmap")
        if granularity_bytes < 0:
            detail = f"granularity_bytes {granularity_bytes} is below 0"
            raise report(ErrorNumber.INVALID_ARG, detail, domain=ErrorDomain.DOMAIN)
        granularity_bytes = granularity_bytes or GRANULARITY_BYTES_DEFAULT
        return driver.add_block_bitmap(domain, disk, name, granularity_bytes, not disabled)

    def remove(self, caller: Caller, selector: DomainSelector, disk: str, name: str) -> None:
        """Takes a bitmap away, whatever its state."""
        driver, domain = self._to_change(caller, selector, "remove_block_bitmap", "RemoveBlockBitmap")
        driver.remove_block_bitmap(domain, disk, name)

    def clear(self, caller: Caller, selector: DomainSelector, disk: str, name: str) -> None:
        """Makes a usable bitmap mark nothing."""
        driver, domain = self._to_change(caller, selector, "clear_block_bitmap", "ClearBlockBitmap")
        driver.clear_block_bitmap(domain, disk, name)

    def _to_change(self, caller: Caller, selector: DomainSelector, method: str, call: str) -> tuple[Driver, Domain]:
        driver, domain = self._lookup.select(selector, call)
        refuse_read_only(caller, call)
        require(driver, method, call)
        return driver, domain
