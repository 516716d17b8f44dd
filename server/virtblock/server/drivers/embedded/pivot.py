# SPDX-License-Identifier: Apache-2.0
"""The pivot: the definition gets the copy.

Owns: what a finished copy changes in a definition. Invariants: the definition is changed only where its source is
still the one that was copied; the new definition and the job's COMPLETED become durable in one transaction; no image
is deleted. Doing it again after a crash gives the same result.
"""

from __future__ import annotations

from virtblock.server.drivers.embedded.context import Context
from virtblock.server.drivers.embedded.copy_job import CopyJob
from virtblock.server.drivers.embedded.copy_spec import CopySpec
from virtblock.server.drivers.embedded.definitions import Definitions
from virtblock.server.drivers.embedded.disk_xml import DiskDefinition
from virtblock.server.drivers.embedded.domain_xml import Definition, with_source

NOT_REWRITTEN_REASON = "the domain's definition names another source for the disk and was left alone"


def finish_pivot(context: Context, definitions: Definitions, copy_job: CopyJob) -> None:
    """Makes definition and end durable together."""
    with context.locks.hold(copy_job.domain.uuid):
        definition = definitions.load(copy_job.domain)
        pivoted = pivoted_definition(definition, copy_job.target, copy_job.source_path, copy_job.spec)
        if pivoted is None:
            copy_job.complete(None, NOT_REWRITTEN_REASON)
        else:
            copy_job.complete(pivoted.xml)


def pivoted_definition(definition: Definition, target: str, source_path: str, spec: CopySpec) -> Definition | None:
    """The definition with the destination in the disk; None when its source is another one by now."""
    disk = definition.disk_of_target(target)
    if disk is None or disk.source is None or disk.source.path != source_path:
        return None
    return _with_destination(definition, disk, spec)


def _with_destination(definition: Definition, disk: DiskDefinition, spec: CopySpec) -> Definition:
    """What is below the new image.

    Nothing after a full copy, the same chain after a shallow one, its own for a reused overlay.
    """
    if spec.mode == "full":
        return with_source(definition, disk.target, spec.destination, is_terminated=True)
    if spec.given_backing or spec.reuses_chain:
        return with_source(definition, disk.target, spec.destination, backing=spec.given_backing)
    return with_source(
        definition, disk.target, spec.destination, backing=disk.backing, is_terminated=disk.is_terminated
    )
