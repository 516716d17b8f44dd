# SPDX-License-Identifier: Apache-2.0
"""The chains of a domain's disks as they are now, and the numbers of their images.

Owns: what live XML shows below each source, and what block-job calls take names from. Invariants: both use the same
chains and the same numbers; while a pull or commit works on a chain, it is told as it was when the job began, because
what the files say may change under the reader.
"""

from __future__ import annotations

from virtblock.engine import EngineError
from virtblock.server.core.model import BlockJobType
from virtblock.server.drivers.offline import disks
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.copy_spec import spec_of
from virtblock.server.drivers.offline.disk_chain import DiskChain
from virtblock.server.drivers.offline.disk_xml import DiskDefinition, ImageSource
from virtblock.server.drivers.offline.domain_xml import Definition
from virtblock.server.drivers.offline.engine_errors import opening_error
from virtblock.server.drivers.offline.guards import active_jobs
from virtblock.server.drivers.offline.merge_spec import MERGE_TYPES, merge_spec_of
from virtblock.server.drivers.offline.mirror_xml import Mirror, image_indexes, live_xml


def live_backings(context: Context, definition: Definition) -> dict[str, tuple[ImageSource, ...]]:
    """By target, the images below each source; a disk whose chain cannot be read is missing."""
    merging = _merging_chains(context, definition)
    found = {
        disk.target: merging[disk.target][1:] if disk.target in merging else disks.readable_backing(context, disk)
        for disk in definition.disks
    }
    return {target: images for target, images in found.items() if images is not None}


def shown_live(context: Context, definition: Definition) -> str:
    """The XML with the chains as they are now, and `<mirror>` where a copy or an active commit runs."""
    return live_xml(definition, live_backings(context, definition), _mirrors(context, definition))


def disk_chain(context: Context, definition: Definition, disk: DiskDefinition) -> DiskChain:
    """The chain that a call on the disk takes its base and top from; VirError when it cannot be read.

    Of a disk that the engine does not read, and for a strict server, it is what the definition names.
    """
    images = () if disk.source is None else (disk.source, *disk.backing)
    references: tuple[str | None, ...] = (None,) * len(images)
    is_merging = disk.target in _merging_chains(context, definition)
    backings = live_backings(context, definition)
    if is_merging:
        images = images[:1] + backings[disk.target]
    elif images and not context.strict_libvirt and all(image.can_be_copied for image in images):
        try:
            infos = disks.read_chain(context, disk)
        except EngineError as error:
            raise opening_error(error, images[0].path or "", context.policy) from None
        images = (images[0], *disks.backing_sources(disks.layers_of(disk), infos))
        references = tuple(info.backing_path for info in infos)
    backings[disk.target] = images[1:]
    indexes = image_indexes(definition, backings).get(disk.target, ())
    return DiskChain(disk.target, images, indexes, references)


def _mirrors(context: Context, definition: Definition) -> dict[str, Mirror]:
    mirrors = {}
    for job in active_jobs(context, definition.uuid):
        if job.type is BlockJobType.COPY:
            spec = spec_of(job)
            mirrors[job.disk] = Mirror(job, spec.destination, spec.shown_backing)
        elif job.type is BlockJobType.ACTIVE_COMMIT:
            merge = merge_spec_of(job)
            mirrors[job.disk] = Mirror(job, merge.written, None, merge.base_index or 0)
    return mirrors


def _merging_chains(context: Context, definition: Definition) -> dict[str, tuple[ImageSource, ...]]:
    return {
        job.disk: merge_spec_of(job).images for job in active_jobs(context, definition.uuid) if job.type in MERGE_TYPES
    }
