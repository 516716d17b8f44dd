# SPDX-License-Identifier: Apache-2.0
"""The persistent bitmaps of a shut-off domain's disks.

Owns: which image is meant, and the answers. Invariants: a change holds the domain's lock from the guard to the end, so
that no job starts in between; the engine's image lock keeps everybody else away. Only the active image's bitmaps are
told or changed: those of backing images belong to disks of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from virtblock.engine import BitmapInfo, EngineError, add_bitmap, clear_bitmap, list_bitmaps, remove_bitmap
from virtblock.server.core import checks
from virtblock.server.core.errors import ErrorNumber, VirError, report
from virtblock.server.core.model import BlockBitmap, Domain
from virtblock.server.drivers.offline import guards
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.definitions import Definitions
from virtblock.server.drivers.offline.disk_xml import DiskDefinition
from virtblock.server.drivers.offline.disks import find_job_disk, require_readable
from virtblock.server.drivers.offline.engine_errors import opening_error
from virtblock.server.drivers.offline.job_checks import domain_not_running


class Bitmaps:
    """The calls on bitmaps of one connection."""

    def __init__(self, context: Context, definitions: Definitions) -> None:
        self._context = context
        self._definitions = definitions

    def list(self, domain: Domain, name: str) -> list[BlockBitmap]:
        """The bitmaps of the disk's active image; none of one that cannot hold any."""
        disk = self._find_disk(domain, name)
        if disk.source is None or disk.source.format != "qcow2":
            return []
        path = disk.source.path or ""
        try:
            return [_record(bitmap) for bitmap in list_bitmaps(path, self._context.policy)]
        except EngineError as error:
            active = self._context.jobs.find_active(self._context.uri, domain.uuid, disk.target)
            if error.kind == "locked" and active is not None:
                raise checks.disk_busy(active) from None
            raise opening_error(error, path, self._context.policy) from None

    def add(self, domain: Domain, name: str, bitmap: str, granularity_bytes: int, is_enabled: bool) -> BlockBitmap:
        """A new bitmap, in which nothing is dirty."""

        def change(path: str) -> None:
            policy = self._context.policy
            add_bitmap(path, bitmap, policy, granularity_bytes=granularity_bytes, is_enabled=is_enabled)

        self._change(domain, name, change)
        return BlockBitmap(bitmap, granularity_bytes, is_enabled, "usable", 0)

    def remove(self, domain: Domain, name: str, bitmap: str) -> None:
        """Takes a bitmap away, whatever its state."""
        self._change(domain, name, lambda path: remove_bitmap(path, bitmap, self._context.policy))

    def clear(self, domain: Domain, name: str, bitmap: str) -> None:
        """Makes a usable bitmap mark nothing."""
        self._change(domain, name, lambda path: clear_bitmap(path, bitmap, self._context.policy))

    def _change(self, domain: Domain, name: str, change: Callable[[str], None]) -> None:
        with self._context.locks.hold(domain.uuid):
            if self._context.strict_libvirt:
                raise domain_not_running()
            disk = self._find_disk(domain, name)
            guards.require_idle_disk(self._context, domain.uuid, disk.target)
            path = _require_qcow2(disk)
            try:
                change(path)
            except EngineError as error:
                raise self._refusal(error, disk, path) from None

    def _find_disk(self, domain: Domain, name: str) -> DiskDefinition:
        disk = find_job_disk(self._definitions.load(domain), name)
        require_readable(disk)
        return disk

    def _refusal(self, error: EngineError, disk: DiskDefinition, path: str) -> VirError:
        if error.kind == "exists":
            return report(ErrorNumber.OPERATION_INVALID, f"disk '{disk.target}': {error}")
        return opening_error(error, path, self._context.policy)


def _require_qcow2(disk: DiskDefinition) -> str:
    """The image's path; 67 for one that cannot hold bitmaps."""
    if disk.source is None or disk.is_read_only:
        detail = f"an empty or readonly disk '{disk.target}' gets no bitmaps"
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
    if disk.source.format != "qcow2":
        detail = f"disk '{disk.target}' is {disk.source.format}, which cannot hold bitmaps: convert it to qcow2"
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail)
    return disk.source.path or ""


def _record(bitmap: BitmapInfo) -> BlockBitmap:
    return BlockBitmap(bitmap.name, bitmap.granularity_bytes, bitmap.is_enabled, bitmap.state, bitmap.dirty_bytes)
