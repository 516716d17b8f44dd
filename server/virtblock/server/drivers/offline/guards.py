# SPDX-License-Identifier: Apache-2.0
"""What a running job forbids on its domain and disk.

Owns: the refusals that protect a job of the engine. Invariants: callers hold the domain's lock, under which jobs are
also begun, so that between a guard and what it guards no job can start.
"""

from __future__ import annotations

from virtblock.server.core.checks import domain_busy
from virtblock.server.core.model import BlockJob
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.domain_xml import Definition


def active_jobs(context: Context, uuid: str) -> list[BlockJob]:
    """The engine's jobs of a domain that have not ended."""
    return [job for job in engine_jobs(context) if job.domain_uuid == uuid]


def engine_jobs(context: Context) -> list[BlockJob]:
    """The connection's jobs that have not ended and are not a hypervisor's, which are those of running domains."""
    return [job for job in context.jobs.list_active(context.uri) if not job.is_domain_active]


def find_engine_job(context: Context, uuid: str, disk: str) -> BlockJob | None:
    """The engine's job on the disk of this target or source path."""
    return next((job for job in active_jobs(context, uuid) if disk in (job.disk, job.source_path)), None)


def require_no_job(context: Context, uuid: str) -> None:
    """83 while any disk of the domain has a job."""
    if active_jobs(context, uuid):
        raise domain_busy()


def require_idle_disk(context: Context, uuid: str, target: str) -> None:
    """83 while this disk has a job."""
    if any(job.disk == target for job in active_jobs(context, uuid)):
        raise domain_busy()


def require_unchanged_busy_disks(context: Context, old: Definition, new: Definition) -> None:
    """83 when a new definition drops or changes a disk that has a job."""
    for job in active_jobs(context, old.uuid):
        if new.disk_of_target(job.disk) != old.disk_of_target(job.disk):
            raise domain_busy()
