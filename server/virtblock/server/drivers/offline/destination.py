# SPDX-License-Identifier: Apache-2.0
"""The destination of a copy: what the caller asked for, and libvirt's checks of it.

Owns: destination XML of BlockCopy, the checks of an existing or missing file, and the choice of its format.
Invariants: nothing here makes or changes a file; the engine checks again when it opens the destination (size, same
file, locks), because between a look and an open anything may happen.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace

from virtblock.engine import EngineError, inspect, probe
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report, system_error
from virtblock.server.drivers.offline import xml_text
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.destination_options import NO_OPTIONS, DestinationOptions, read_options
from virtblock.server.drivers.offline.disk_xml import (
    COPIED_FORMATS,
    DiskDefinition,
    ImageSource,
    data_files_of,
    driver_format,
    has_source,
    read_backing,
    read_source,
    source_type_of,
)
from virtblock.server.drivers.offline.disks import backing_sources
from virtblock.server.drivers.offline.engine_errors import destination_exists, opening_error, vir_error


@dataclass(frozen=True)
class Destination:
    """Where a copy goes.

    `format` None: not given. `backing`: the chain that the caller's XML names, None when it names none.
    """

    path: str
    type: str = "file"
    format: str | None = None
    backing: tuple[ImageSource, ...] | None = None
    is_reused: bool = False
    options: DestinationOptions = NO_OPTIONS

    @property
    def source(self) -> ImageSource:
        """The destination as an image of the domain, once its format is known."""
        assert self.format is not None
        return ImageSource(self.type, self.path, self.format)


def parse_destination(xml: str, *, is_reused: bool) -> Destination:
    """BlockCopy's destination XML. Only the host's side of the disk counts."""
    element = xml_text.parse(xml, "(disk_definition)", "disk")
    source_type = source_type_of(element)
    image_format = driver_format(element)
    if not has_source(element, source_type):
        raise report(ErrorNumber.NO_SOURCE, domain=ErrorDomain.DOMAIN)
    source = read_source(element, source_type)
    backing, _ = read_backing(element)
    if source is None or source.path is None or source_type not in ("file", "block"):
        detail = f"block copy to a destination of type '{source_type}' is not supported"
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
    if source.data_file is not None:
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, "block copy to an image with a data store is not supported")
    if source.unread_feature is not None:
        detail = f"block copy to an image with <{source.unread_feature}> is not supported"
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
    options = read_options(element)
    if is_reused and options != NO_OPTIONS:
        detail = "options of a new destination with VIR_DOMAIN_BLOCK_COPY_REUSE_EXT don't make sense"
        raise report(ErrorNumber.INVALID_ARG, detail)
    return Destination(source.path, source_type, image_format, backing or None, is_reused, options)


def require_absolute(destination: Destination) -> None:
    """8 for a relative path."""
    if not destination.path.startswith("/"):
        raise report(ErrorNumber.INVALID_ARG, "absolute path must be used as block copy target")


def require_allowed(context: Context, destination: Destination) -> None:
    """88 outside the allowed folders: before anything about the file is told."""
    if not context.policy.folders:
        return
    try:
        context.policy.check(destination.path)
    except EngineError as error:
        if error.kind == "denied":
            raise vir_error(error) from None


def require_fit_for_lun(disk: DiskDefinition, destination: Destination) -> None:
    """A disk that is a LUN stays a raw block device (67)."""
    if disk.device != "lun":
        return
    detail = ""
    if destination.type != "block":
        detail = "disk device='lun' is only valid for block type disk source"
    elif destination.format not in (None, "raw"):
        detail = f"disk device 'lun' using target '{disk.target}' must use 'raw' format"
    if detail:
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail)


def require_sense_of_backing(destination: Destination, *, is_shallow: bool) -> None:
    """A chain below the destination needs SHALLOW (8)."""
    if destination.backing and not is_shallow:
        detail = "backingStore of mirror without VIR_DOMAIN_BLOCK_COPY_SHALLOW doesn't make sense"
        raise report(ErrorNumber.INVALID_ARG, detail)


def require_overlay_format(disk: DiskDefinition, destination: Destination, *, is_shallow: bool) -> None:
    """A new raw file cannot record a backing file (67)."""
    if is_shallow and not destination.is_reused and destination.format == "raw":
        detail = f"shallow copy of disk '{disk.target}' into a raw file is not possible"
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail)


def check_existence(disk: DiskDefinition, destination: Destination) -> Destination:
    """The file is there or not as the flags want it. A block device may have content: the copy formats it anew."""
    status = _status(destination.path)
    if status is None:
        if destination.is_reused or destination.type == "block":
            detail = f"missing destination file for disk {disk.target}: {destination.path}"
            raise system_error(errno.ENOENT, detail)
        return destination
    if stat.S_ISBLK(status.st_mode):
        return destination
    if status.st_size != 0 and not destination.is_reused:
        raise destination_exists(disk.target, destination.path)
    if destination.type == "block":
        detail = f"blockdev flag requested for disk {disk.target}, but file '{destination.path}' is not a block device"
        raise report(ErrorNumber.INVALID_ARG, detail)
    return destination


def choose_format(context: Context, disk: DiskDefinition, destination: Destination) -> Destination:
    """The given format; else the source's; with REUSE_EXT what the file's first bytes say (67 if they say nothing)."""
    assert disk.source is not None
    image_format = destination.format
    if image_format is None:
        image_format = _probed(context, destination) if destination.is_reused else disk.source.format
        if destination.options.compression != "none":
            image_format = "qcow2"
    if image_format not in COPIED_FORMATS:
        detail = f"block copy into an image of format '{image_format}' is not supported"
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail)
    return replace(destination, format=image_format)


def require_fitting_options(disk: DiskDefinition, destination: Destination) -> None:
    """What cannot be had together (67)."""
    options = destination.options
    detail = ""
    if destination.format == "raw" and options.are_of_qcow2:
        detail = f"destination options of disk '{disk.target}' need format 'qcow2', not 'raw'"
    elif options.compression != "none" and (options.extended_l2 or options.preallocation != "off"):
        detail = f"compressed destination of disk '{disk.target}' has no extended L2 entries and no preallocation"
    if detail:
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail)


def require_shareable(disk: DiskDefinition, destination: Destination) -> None:
    """Guests that share a disk need it raw (84)."""
    if disk.is_shareable and not disk.is_read_only and destination.format != "raw":
        detail = "can't pivot a shared disk to a storage volume not supporting sharing"
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)


def find_reused_backing(
    context: Context, destination: Destination, data_files: Mapping[str, str]
) -> tuple[ImageSource, ...]:
    """The images below a reused overlay, as its header and theirs name them; 38 when one is missing.

    `data_files`: those of the source's images, which may be the same.
    """
    layers = [(destination.path, destination.source.format)]
    layers += [(image.path or "", image.format) for image in destination.backing or ()]
    try:
        named = data_files_of(destination.backing or ())
        chain = context.open_chain(layers, is_terminated=False, lock=False, data_files={**data_files, **named})
    except EngineError as error:
        raise opening_error(error, destination.path, context.policy) from None
    try:
        return backing_sources(tuple(layers), chain.layers)
    finally:
        chain.close()


def require_space(context: Context, disk: DiskDefinition, destination: Destination, required_bytes: int) -> None:
    """38 with ENOSPC when the copy will not fit into the folder's file system, or onto the block device."""
    try:
        free_bytes, place = _room(context, destination.path)
    except OSError:
        return  # making the file will tell why
    if required_bytes > free_bytes:
        detail = (
            f"copy of disk '{disk.target}' to '{destination.path}' needs {required_bytes} bytes, "
            f"{place} has {free_bytes} free"
        )
        raise system_error(errno.ENOSPC, detail)


def _room(context: Context, path: str) -> tuple[int, str]:
    status = _status(path)
    if status is not None and stat.S_ISBLK(status.st_mode):
        return inspect(path, "raw", context.policy).file_size_bytes, "the block device"
    space = os.statvfs(os.path.dirname(path))
    return space.f_bavail * space.f_frsize, "its file system"


def _status(path: str) -> os.stat_result | None:
    """The file's status; None when there is none; 38 when that cannot be found out."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        detail = f"unable to verify existence of block copy target '{path}'"
        raise system_error(error.errno or errno.EIO, detail) from None
    except ValueError as error:  # a NUL in the path
        raise report(ErrorNumber.INVALID_ARG, f"block copy target: {error}") from None


def _probed(context: Context, destination: Destination) -> str:
    try:
        return probe(destination.path, context.policy)
    except EngineError as error:
        raise _format_unknown(error) from None


def _format_unknown(error: EngineError) -> VirError:
    if error.kind == "denied":
        return vir_error(error)
    return report(ErrorNumber.CONFIG_UNSUPPORTED, f"reused mirror destination format must be specified ({error})")
