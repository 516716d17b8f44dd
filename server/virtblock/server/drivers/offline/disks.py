# SPDX-License-Identifier: Apache-2.0
"""A domain's disks as the calls see them: finding one, and reading its images.

Owns: look-up by target or source path, what a block job can work on, and a disk's chain by definition and by headers.
Invariants: chains are opened read only; formats come from the definition or from the image above, never from a look
at content.
"""

from __future__ import annotations

import os

from virtblock.engine import EngineError, ImageInfo, inspect
from virtblock.server.core.errors import ErrorNumber, VirError, report
from virtblock.server.core.jobs import job_error
from virtblock.server.core.model import BlockInfo, Disk, DiskImage
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.disk_xml import COPIED_FORMATS, DiskDefinition, ImageSource, data_files_of
from virtblock.server.drivers.offline.domain_xml import Definition
from virtblock.server.drivers.offline.engine_errors import opening_error

Layers = tuple[tuple[str, str], ...]


def find_job_disk(definition: Definition, name: str) -> DiskDefinition:
    """The disk of a block-job call; 8 for an unknown one."""
    disk = definition.find_disk(name)
    if disk is None:
        raise report(ErrorNumber.INVALID_ARG, f"disk '{name}' not found in domain")
    return disk


def require_supported(disk: DiskDefinition) -> None:
    """What no block job works on.

    SD cards and transient disks (84), sources and formats that the engine does not read.
    """
    if disk.bus == "sd":
        detail = f"block jobs are not supported on disk '{disk.target}' using bus 'sd'"
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
    if disk.is_transient:
        detail = f"block jobs are not supported on transient disk '{disk.target}'"
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
    require_readable(disk)


def require_readable(disk: DiskDefinition) -> None:
    """84 for a source that is no local file or device or has more to it than its content, 67 for another format.

    Formats are raw and qcow2. An empty drive passes.
    """
    images = [disk.source] if disk.source is not None else []
    for image in (*images, *disk.backing):
        if image.type not in ("file", "block"):
            detail = f"block jobs are not supported on disk '{disk.target}' with a source of type '{image.type}'"
            raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
        if image.unread_feature is not None:
            detail = f"block jobs are not supported on disk '{disk.target}' with <{image.unread_feature}> in its source"
            raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
        if image.format not in COPIED_FORMATS:
            detail = f"block jobs are not supported on disk '{disk.target}' with an image of format '{image.format}'"
            raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail)


def layers_of(disk: DiskDefinition) -> Layers:
    """The images that the definition names, from the top, as the engine takes them. The disk has a readable source."""
    assert disk.source is not None
    images = (disk.source, *disk.backing)
    return tuple((image.path or "", image.format) for image in images)


def data_files(disk: DiskDefinition) -> dict[str, str]:
    """The data files that the definition names for the disk's images, by the images' paths."""
    images = () if disk.source is None else (disk.source, *disk.backing)
    return data_files_of(images)


def has_backing(context: Context, disk: DiskDefinition) -> bool:
    """Whether an image lies below the top one.

    A top image that cannot be read has none: opening its chain will tell why.
    """
    assert disk.source is not None
    if disk.backing or disk.is_terminated:
        return bool(disk.backing)
    try:
        return read_top(context, disk.source).backing_path is not None
    except EngineError:
        return False


def read_top(context: Context, source: ImageSource) -> ImageInfo:
    """What one image says of itself; EngineError."""
    return inspect(source.path or "", "raw" if source.format == "raw" else "qcow2", context.policy)


def read_chain(context: Context, disk: DiskDefinition) -> tuple[ImageInfo, ...]:
    """The images of a disk from the top, without locking them; EngineError."""
    chain = context.open_chain(
        layers_of(disk), is_terminated=disk.is_terminated, lock=False, data_files=data_files(disk)
    )
    try:
        return chain.layers
    finally:
        chain.close()


def backing_sources(named: Layers, layers: tuple[ImageInfo, ...]) -> tuple[ImageSource, ...]:
    """The images below the first as XML names them; `named` as for `names_of`."""
    return tuple(
        ImageSource("block" if layer.is_block_device else "file", name, layer.format, layer.data_file)
        for name, layer in zip(names_of(named, layers)[1:], layers[1:], strict=True)
    )


def names_of(named: Layers, layers: tuple[ImageInfo, ...]) -> list[str]:
    """By which name each image of an open chain was found, from the top: `named`, and then what each image records.

    Links stay, as in libvirt: where `/dev/vg/lv` leads (`/dev/dm-3`) may be another device after a boot.
    """
    names = [path for path, _ in named[: len(layers)]]
    for holder in layers[len(names) - 1 : -1]:
        recorded = (holder.backing_path or "").removeprefix("file:")
        names.append(os.path.join(os.path.dirname(names[-1]), recorded))
    return [name if name.startswith("/") else layer.path for name, layer in zip(names, layers, strict=True)]


def readable_backing(context: Context, disk: DiskDefinition) -> tuple[ImageSource, ...] | None:
    """The images below a disk's source.

    None when the chain cannot be read to its end or is not the engine's to read.
    """
    if disk.source is None or not all(image.can_be_copied for image in (disk.source, *disk.backing)):
        return None
    try:
        return backing_sources(layers_of(disk), read_chain(context, disk))
    except EngineError:
        return None


def images_of(context: Context, disk: DiskDefinition) -> list[str]:
    """The files that a disk is made of, with their data files: its whole chain, or what its definition names of it."""
    if disk.source is None:
        return []
    backing = readable_backing(context, disk)
    images = (disk.source, *(disk.backing if backing is None else backing))
    return [path for image in images for path in (image.path, image.data_file) if path is not None]


def list_disks(context: Context, definition: Definition) -> list[Disk]:
    """Every disk with its chain as far as it can be read: at least what the definition says."""
    return [_listed(context, disk) for disk in definition.disks]


def _listed(context: Context, disk: DiskDefinition) -> Disk:
    images = (disk.source, *disk.backing) if disk.source is not None else ()
    layers: tuple[ImageInfo, ...] = ()
    chain_error = None
    if disk.source is not None and all(image.can_be_copied for image in images):
        try:
            layers = read_chain(context, disk)
            images = (disk.source, *backing_sources(layers_of(disk), layers))
        except EngineError as error:
            chain_error = job_error(_unreadable(context, disk.source, error))
    return Disk(
        target=disk.target,
        device=disk.device,
        bus=disk.bus,
        source_type=disk.source_type,
        is_read_only=disk.is_read_only,
        is_shareable=disk.is_shareable,
        is_transient=disk.is_transient,
        chain=tuple(DiskImage(image.path or "", image.format) for image in images),
        capacity_bytes=layers[0].virtual_size_bytes if layers else -1,
        chain_error=chain_error,
    )


def block_info(context: Context, definition: Definition, name: str) -> BlockInfo:
    """virDomainGetBlockInfo of a shut-off domain: sizes of the top image, in bytes."""
    disk = definition.find_disk(name)
    if disk is None:
        raise report(ErrorNumber.INVALID_ARG, f"invalid path {name} not assigned to domain")
    if disk.source is None:
        raise report(ErrorNumber.INVALID_ARG, f"disk '{disk.target}' does not currently have a source assigned")
    require_readable(disk)
    try:
        info = read_top(context, disk.source)
    except EngineError as error:
        raise _unreadable(context, disk.source, error) from None
    allocation_bytes = info.file_size_bytes if info.is_block_device else info.allocated_bytes
    return BlockInfo(info.virtual_size_bytes, allocation_bytes, info.file_size_bytes)


def _unreadable(context: Context, source: ImageSource, error: EngineError) -> VirError:
    return opening_error(error, source.path or "", context.policy)
