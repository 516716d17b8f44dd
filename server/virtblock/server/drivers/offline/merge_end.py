# SPDX-License-Identifier: Apache-2.0
"""The end of a pull or commit: the definition names the chain as it is then.

Owns: what these jobs change in a definition. Invariants: a definition that names no chain is left as it is, but for
the source after an active commit; it never names an image that is no part of the chain any more; the new definition
is durable when the job's end is. Doing it again after a crash gives the same result.
"""

from __future__ import annotations

import os

from virtblock.server.core.errors import PassingError, VirError
from virtblock.server.core.model import BlockJobType
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.definitions import Definitions
from virtblock.server.drivers.offline.disk_xml import DiskDefinition, ImageSource
from virtblock.server.drivers.offline.disks import images_of
from virtblock.server.drivers.offline.domain_xml import Definition, with_backing, with_source
from virtblock.server.drivers.offline.merge_job import MergeJob, delete_removed
from virtblock.server.drivers.offline.merge_spec import MergeSpec
from virtblock.server.drivers.offline.pivot import has_source, other_source


def finish_merge(context: Context, definitions: Definitions, merge_job: MergeJob) -> None:
    """Makes definition and end durable, and then removes what DELETE asked to remove.

    9 when an active commit is to pivot and the definition names another source by now; nothing is changed then.
    """
    with context.locks.hold(merge_job.domain.uuid):
        if merge_job.spec.type is BlockJobType.ACTIVE_COMMIT:
            _pivot(definitions, merge_job)
        else:
            _follow(definitions, merge_job)
    if merge_job.spec.is_deleting and merge_job.failure is None:
        delete_removed(context, merge_job.job, merge_job.spec, _named_images(context, definitions, merge_job))


def _named_images(context: Context, definitions: Definitions, merge_job: MergeJob) -> frozenset[str] | None:
    """What the domain needs to start, as it is defined by now: a definition may not have followed the chain. None when
    that cannot be known."""
    try:
        definition = definitions.load(merge_job.domain)
    except PassingError:
        return None
    except VirError:  # the domain is gone
        return frozenset()
    return frozenset(os.path.realpath(path) for disk in definition.disks for path in images_of(context, disk))


def _pivot(definitions: Definitions, merge_job: MergeJob) -> None:
    """The disk gets the base."""
    definition = definitions.load(merge_job.domain)
    disk = definition.disk_of_target(merge_job.target)
    if has_source(disk, merge_job.final_path):  # a crash came after the definition and before the record
        merge_job.complete(None)
        return
    if disk is None or not has_source(disk, merge_job.source_path):
        raise other_source(merge_job.target, merge_job.source_path, disk)
    merged = merged_definition(definition, disk, merge_job.spec)
    assert merged is not None  # the source is another one
    definitions.save_with(merged, merge_job.complete)


def _follow(definitions: Definitions, merge_job: MergeJob) -> None:
    """The chain is another one already: the definition follows where it still has this disk, and the job ends."""
    try:
        definition = definitions.load(merge_job.domain)
    except PassingError:
        raise
    except VirError as error:  # the domain is gone
        merge_job.complete(None, error.message)
        return
    disk = definition.disk_of_target(merge_job.target)
    if disk is None or not has_source(disk, merge_job.source_path):
        merge_job.complete(None, other_source(merge_job.target, merge_job.source_path, disk).message)
        return
    merged = merged_definition(definition, disk, merge_job.spec)
    if merged is None:
        merge_job.complete(None)
        return
    is_recording = False

    def complete(domain_xml: str | None) -> None:
        nonlocal is_recording
        is_recording = True
        merge_job.complete(domain_xml)

    try:
        definitions.save_with(merged, complete)
    except VirError as error:
        if is_recording or isinstance(error, PassingError):  # it is tried again, or a restart does it
            raise
        merge_job.complete(None, f"the domain's definition could not be changed: {error.message}")


def merged_definition(definition: Definition, disk: DiskDefinition, spec: MergeSpec) -> Definition | None:
    """The definition after the job; None when nothing in it changes, also because it was changed before.

    Where it names images, but none down to the base, it names only those above the ones that went: what lies below is
    found by the headers then, as in libvirt.
    """
    named = tuple(image for image in (disk.source, *disk.backing) if image is not None)
    gone = {_place(spec.images[position]) for position in spec.removed}
    kept = tuple(image for image in named if _place(image) not in gone)
    base = None if spec.base_index is None else _place(spec.images[spec.base_index])
    names_base = base is None or base in map(_place, named)
    if spec.type is BlockJobType.ACTIVE_COMMIT:
        return with_source(
            definition,
            disk.target,
            kept[0] if names_base else spec.written,
            backing=kept[1:] if names_base else (),
            is_terminated=names_base and disk.is_terminated,
        )
    if kept == named:
        return None
    return with_backing(definition, disk.target, kept[1:], is_terminated=names_base and disk.is_terminated)


def _place(image: ImageSource) -> str:
    """Where an image lies, whatever links its name goes through."""
    return os.path.realpath(image.path or "")
