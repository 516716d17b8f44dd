# SPDX-License-Identifier: Apache-2.0
"""The end of a pull or commit: the definition names the chain as it is then.

Owns: what these jobs change in a definition. Invariants: a definition that names no chain is left as it is, but for
the source after an active commit; it never names an image that is no part of the chain any more; the new definition
and the job's end become durable in one transaction. Doing it again after a crash gives the same result.
"""

from __future__ import annotations

from virtblock.server.core.model import BlockJobType
from virtblock.server.drivers.embedded.context import Context
from virtblock.server.drivers.embedded.definitions import Definitions
from virtblock.server.drivers.embedded.disk_xml import DiskDefinition
from virtblock.server.drivers.embedded.domain_xml import Definition, with_backing, with_source
from virtblock.server.drivers.embedded.merge_job import MergeJob, delete_removed
from virtblock.server.drivers.embedded.merge_spec import MergeSpec
from virtblock.server.drivers.embedded.pivot import NOT_REWRITTEN_REASON


def finish_merge(context: Context, definitions: Definitions, merge_job: MergeJob) -> None:
    """Makes definition and end durable together, and then removes what DELETE asked to remove."""
    spec = merge_job.spec
    with context.locks.hold(merge_job.domain.uuid):
        definition = definitions.load(merge_job.domain)
        disk = definition.disk_of_target(merge_job.target)
        if disk is None or disk.source is None or disk.source.path != merge_job.source_path:
            merge_job.complete(None, NOT_REWRITTEN_REASON)
        else:
            merged = merged_definition(definition, disk, spec)
            merge_job.complete(None if merged is None else merged.xml)
    if spec.is_deleting and merge_job.failure is None:
        delete_removed(context, merge_job.job, spec)


def merged_definition(definition: Definition, disk: DiskDefinition, spec: MergeSpec) -> Definition | None:
    """The definition after the job; None when nothing in it changes.

    Where it names images, but none down to the base, it names only those above the ones that went: what lies below is
    found by the headers then, as in libvirt.
    """
    removed = spec.removed
    named = (disk.source, *disk.backing)
    kept = tuple(image for position, image in enumerate(named) if position not in removed and image is not None)
    names_base = spec.base_index is None or spec.base_index < len(named)
    if spec.type is BlockJobType.ACTIVE_COMMIT:
        backing = kept[1:] if names_base else ()
        return with_source(
            definition,
            disk.target,
            kept[0] if names_base else spec.written,
            backing=backing,
            is_terminated=names_base and disk.is_terminated,
        )
    if len(named) <= removed.start and not disk.is_terminated:
        return None
    return with_backing(definition, disk.target, kept[1:], is_terminated=names_base and disk.is_terminated)
