# SPDX-License-Identifier: Apache-2.0
"""External, disk-only snapshots of shut-off domains: a new overlay above each disk.

Owns: making the overlays and the step from the old definition to the new. Invariants: every overlay is durable before
the definition that names it is; several disks go together or not at all; after a crash in between there is at worst
an overlay that nothing names. No record of a snapshot is kept (as with NO_METADATA), so there is none to revert to.
"""

from __future__ import annotations

import logging
import os
import stat

from virtblock.engine import EngineError, create_image
from virtblock.server.core.errors import ErrorNumber, VirError, report, system_error, unsupported_flags
from virtblock.server.core.flags import SnapshotCreateFlags
from virtblock.server.core.model import Domain
from virtblock.server.drivers.embedded.definitions import StoredDefinitions
from virtblock.server.drivers.embedded.snapshot_xml import Overlay, parse_snapshot, snapshot_xml
from virtblock.server.drivers.offline import guards
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.disk_xml import ImageSource
from virtblock.server.drivers.offline.disks import read_top, require_readable
from virtblock.server.drivers.offline.domain_xml import Definition, with_source
from virtblock.server.drivers.offline.engine_errors import opening_error, vir_error
from virtblock.server.drivers.offline.removing import remove_image

SNAPSHOT_FLAGS = int(sum(SnapshotCreateFlags))

logger = logging.getLogger(__name__)


class Snapshots:
    """SnapshotCreateXML of one connection."""

    def __init__(self, context: Context, definitions: StoredDefinitions) -> None:
        self._context = context
        self._definitions = definitions

    def create(self, domain: Domain, xml: str, flags: int) -> tuple[str, str]:
        """virDomainSnapshotCreateXML: (name, XML). QUIESCE, HALT and ATOMIC change nothing on a shut-off domain."""
        if flags & ~SNAPSHOT_FLAGS:
            raise unsupported_flags(flags, SNAPSHOT_FLAGS, "qemuSnapshotCreateXML")
        _refuse_others(flags)
        with self._context.locks.hold(domain.uuid):
            definition = self._definitions.load(domain)
            is_disk_only = bool(flags & SnapshotCreateFlags.DISK_ONLY)
            snapshot = parse_snapshot(xml, definition, is_disk_only=is_disk_only)
            is_reused = bool(flags & SnapshotCreateFlags.REUSE_EXT)
            for overlay in snapshot.overlays:
                self._check(definition, overlay, is_reused=is_reused)
            self._make_all(definition, snapshot.overlays, is_reused=is_reused)
        return snapshot.name, snapshot_xml(snapshot, definition)

    def _check(self, definition: Definition, overlay: Overlay, *, is_reused: bool) -> None:
        guards.require_idle_disk(self._context, definition.uuid, overlay.disk.target)
        if overlay.disk.source is None:
            detail = f"external snapshot of disk '{overlay.disk.target}' without source is not possible"
            raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail)
        require_readable(overlay.disk)
        self._require_allowed(overlay.image)
        _check_file(overlay, is_reused=is_reused)

    def _require_allowed(self, image: ImageSource) -> None:
        if not self._context.policy.folders:
            return
        try:
            self._context.policy.check(image.path or "")
        except EngineError as error:
            raise vir_error(error) from None

    def _make_all(self, definition: Definition, overlays: tuple[Overlay, ...], *, is_reused: bool) -> None:
        """Overlays first, then the definition; on failure the overlays that were made are removed."""
        made: list[str] = []
        changed = definition
        try:
            for overlay in overlays:
                if not is_reused:
                    self._make(overlay)
                    made.append(overlay.image.path or "")
                changed = _with_overlay(changed, overlay)
            self._definitions.save(changed)
        except BaseException:
            for path in made:
                self._remove(path)
            raise

    def _remove(self, path: str) -> None:
        try:
            remove_image(path, self._context.policy, None)
        except (EngineError, OSError) as error:
            logger.warning("the overlay '%s' of a snapshot that failed could not be removed: %s", path, error)

    def _make(self, overlay: Overlay) -> None:
        source = overlay.disk.source
        assert source is not None  # it was checked
        assert source.path is not None
        try:
            info = read_top(self._context, source)
        except EngineError as error:
            raise opening_error(error, source.path, self._context.policy) from None
        try:
            create_image(
                overlay.image.path or "",
                "qcow2",
                info.virtual_size_bytes,
                self._context.policy,
                backing_path=source.path,
                backing_format=source.format,
            )
        except EngineError as error:
            raise _not_made(error, overlay) from None


def _refuse_others(flags: int) -> None:
    if flags & SnapshotCreateFlags.REDEFINE:
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, "redefining snapshots is not supported")
    if flags & SnapshotCreateFlags.LIVE:
        detail = "live snapshot creation is supported only during full system snapshots"
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)


def _with_overlay(definition: Definition, overlay: Overlay) -> Definition:
    """The overlay in the disk.

    A chain that the definition spelled out is kept below it: it may hold formats that no image records. A data file
    must be named for its image wherever that lies.
    """
    disk = overlay.disk
    assert disk.source is not None
    backing: tuple[ImageSource, ...] = ()
    if disk.backing or disk.is_terminated or disk.source.data_file is not None:
        backing = (disk.source, *disk.backing)
    return with_source(definition, disk.target, overlay.image, backing=backing, is_terminated=disk.is_terminated)


def _check_file(overlay: Overlay, *, is_reused: bool) -> None:
    """libvirt's rules for the overlay's file: absent for a new one, there for REUSE_EXT."""
    path, target = overlay.image.path or "", overlay.disk.target
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        if overlay.image.type == "block":
            detail = f"block device snapshot target '{path}' doesn't exist"
            raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail) from None
        if is_reused:
            detail = f"missing existing file for disk {target}: {path}"
            raise system_error(error.errno or 0, detail) from None
        return
    except (OSError, ValueError) as error:
        detail = f"unable to stat for disk {target}: {path}"
        raise system_error(getattr(error, "errno", None) or 22, detail) from None
    if not is_reused and stat.S_ISBLK(status.st_mode):
        detail = f"external snapshot of disk {target} into a block device needs an image prepared there: {path}"
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
    if not is_reused:
        raise _exists(overlay)


def _exists(overlay: Overlay) -> VirError:
    detail = (
        f"external snapshot file for disk {overlay.disk.target} already exists and is not a block device:"
        f" {overlay.image.path}"
    )
    return report(ErrorNumber.CONFIG_UNSUPPORTED, detail)


def _not_made(error: EngineError, overlay: Overlay) -> VirError:
    if error.kind == "exists":
        return _exists(overlay)
    if error.kind == "system" and error.errno:
        return system_error(error.errno, f"failed to create image file '{overlay.image.path}'")
    return vir_error(error)
