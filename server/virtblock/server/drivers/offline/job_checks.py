# SPDX-License-Identifier: Apache-2.0
"""What all starting calls on a shut-off domain's disk have in common.

Owns: the checks of domain and disk, and how a job that was begun is set going. Invariants: a job that was begun never
stays behind without an end when its start fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from virtblock.server.core import checks
from virtblock.server.core.driver import JobOrigin
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.core.jobs import Origin
from virtblock.server.core.model import Domain
from virtblock.server.drivers.offline import disks, guards
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.definitions import Definitions
from virtblock.server.drivers.offline.disk_xml import DiskDefinition
from virtblock.server.drivers.offline.domain_xml import Definition
from virtblock.server.drivers.offline.engine_job import EngineJob
from virtblock.server.drivers.offline.file_identity import file_identity, is_same_file


def domain_not_running() -> VirError:
    """libvirt's answer to a call on a domain that is shut off (55)."""
    return report(ErrorNumber.OPERATION_INVALID, "domain is not running", domain=ErrorDomain.DOMAIN)


def running_disk(
    context: Context, definitions: Definitions, domain: Domain, disk: str
) -> tuple[Definition, DiskDefinition]:
    """The disk of a call that libvirt allows on running domains only; offered here on shut-off ones."""
    definition = definitions.load(domain)
    if context.strict_libvirt:
        raise domain_not_running()
    return definition, disks.find_job_disk(definition, disk)


def job_target(context: Context, definitions: Definitions, domain: Domain, disk: str) -> tuple[Definition, str]:
    """The disk of a call on a job. Where there is one it counts, whatever the definition says by now."""
    active = guards.find_engine_job(context, domain.uuid, disk)
    if active is not None:
        return definitions.load(domain), active.disk
    definition, found = running_disk(context, definitions, domain, disk)
    return definition, found.target


def require_idle(context: Context, definition: Definition, disk: DiskDefinition) -> None:
    """83 or 84 when the disk has a job."""
    active = context.jobs.find_active(context.uri, definition.uuid, disk.target)
    if active is not None:
        raise checks.disk_busy(active)


def require_unshared(context: Context, definition: Definition, disk: DiskDefinition, paths: Iterable[str]) -> None:
    """1 when a file that is to be written belongs to another disk of the domain, whatever name it has there.

    Running domains refuse it as well: their hypervisor holds the locks on all disks. At rest nobody does.
    """
    written = [(path, identity) for path in paths if (identity := file_identity(path)) is not None]
    if not written:
        return
    for other in definition.disks:
        images = () if other is disk else disks.images_of(context, other)
        for path, identity in written:
            if any(is_same_file(identity, file_identity(image)) for image in images):
                detail = f"Failed to get \"write\" lock: disk '{other.target}' of the domain uses the image: '{path}'"
                raise report(ErrorNumber.INTERNAL_ERROR, detail)


def origin_of(origin: JobOrigin) -> Origin:
    """Who started the job, as the registry takes it."""
    return Origin(origin.principal, origin.request_id, origin.request_digest)


def set_going(job: EngineJob, open_images: Callable[[], None]) -> str:
    """Opens the images and starts; returns the job's id. What fails here ends the job and is the call's error."""
    try:
        open_images()
        job.start()
    except VirError as error:
        job.fail(error)
        raise
    except Exception as error:
        # A bug, but the disk must not stay taken by a job that nobody runs.
        job.fail(report(ErrorNumber.INTERNAL_ERROR, f"{job.noun} of disk '{job.target}' broke: {error}"))
        raise
    return job.job_id
