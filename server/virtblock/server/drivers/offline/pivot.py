# SPDX-License-Identifier: Apache-2.0
"""The pivot: the definition gets the copy.

Owns: what a finished copy changes in a definition. Invariants: the definition is changed only where its source is
still the one that was copied; the new definition is durable before the job is COMPLETED; no image is deleted. Doing
it again after a crash gives the same result.
"""

from __future__ import annotations

from virtblock.server.core.errors import ErrorNumber, VirError, report
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.copy_job import CopyJob
from virtblock.server.drivers.offline.copy_spec import CopySpec
from virtblock.server.drivers.offline.definitions import Definitions
from virtblock.server.drivers.offline.disk_xml import DiskDefinition
from virtblock.server.drivers.offline.domain_xml import Definition, with_source
from virtblock.server.drivers.offline.engine_job import EngineJob


def finish_pivot(context: Context, definitions: Definitions, copy_job: CopyJob) -> None:
    """Makes definition and end durable. 9 when the definition names another source by now; nothing is changed then."""
    with context.locks.hold(copy_job.domain.uuid):
        definition = definitions.load(copy_job.domain)
        disk = definition.disk_of_target(copy_job.target)
        if has_source(disk, copy_job.final_path):  # a crash came after the definition and before the record
            copy_job.complete(None)
            return
        if disk is None or not has_source(disk, copy_job.source_path):
            raise other_source(copy_job.target, copy_job.source_path, disk)
        definitions.save_with(with_destination(definition, disk, copy_job.spec), copy_job.complete)


def is_pivoted(definitions: Definitions, job: EngineJob) -> bool:
    """Whether the definition names already what the job pivots to."""
    return has_source(definitions.load(job.domain).disk_of_target(job.target), job.final_path)


def has_source(disk: DiskDefinition | None, path: str) -> bool:
    """Whether the disk is there and its source is this file, by the name that was recorded."""
    return disk is not None and disk.source is not None and disk.source.path == path


def other_source(target: str, source_path: str, disk: DiskDefinition | None) -> VirError:
    """Why a definition is left alone (9)."""
    detail = f"the domain's definition no longer has the disk '{target}' and was left alone"
    if disk is not None:
        named = disk.source.path if disk.source is not None else None
        detail = f"the domain's definition names '{named or ''}' for disk '{target}' and not '{source_path}'"
    return report(ErrorNumber.OPERATION_FAILED, detail)


def with_destination(definition: Definition, disk: DiskDefinition, spec: CopySpec) -> Definition:
    """The definition with the destination in the disk.

    Below the new image lies nothing after a full copy, the same chain after a shallow one, its own for a reused
    overlay.
    """
    if spec.mode == "full":
        return with_source(definition, disk.target, spec.destination, is_terminated=True)
    if spec.given_backing or spec.reuses_chain:
        return with_source(definition, disk.target, spec.destination, backing=spec.given_backing)
    return with_source(
        definition, disk.target, spec.destination, backing=disk.backing, is_terminated=disk.is_terminated
    )
