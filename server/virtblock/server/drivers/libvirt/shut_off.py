# SPDX-License-Identifier: Apache-2.0
"""Block jobs on libvirt's domains while they are shut off: the engine does them.

Owns: which calls are the engine's, and what its jobs forbid on their domains. Invariants: a call on a running domain is
libvirt's, unless it is about a job of the engine; what would change a busy disk or domain through this server is
refused with 83 before libvirt is asked, under the lock that jobs are begun under. Nobody else can be forbidden
anything: whoever starts the domain meets the locks on the images, and a pivot looks at the definition as it is then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from virtblock.engine import PathPolicy
from virtblock.server.core.checks import domain_busy
from virtblock.server.core.errors import ErrorNumber, VirError
from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.model import BlockJob, Domain
from virtblock.server.core.store import Store
from virtblock.server.drivers.libvirt.binding import Binding
from virtblock.server.drivers.libvirt.definitions import XML_INACTIVE, LibvirtDefinitions
from virtblock.server.drivers.offline import guards, xml_text
from virtblock.server.drivers.offline.bitmaps import Bitmaps
from virtblock.server.drivers.offline.block_jobs import BlockJobs
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.disk_xml import read_disk_loosely
from virtblock.server.drivers.offline.domain_xml import Definition, parse_definition
from virtblock.server.drivers.offline.journals import Journals
from virtblock.server.drivers.offline.live_chains import shown_live
from virtblock.server.drivers.offline.recovery import Recovery
from virtblock.server.drivers.offline.running_jobs import RunningJobs

FEATURES = (
    "format:raw",
    "format:qcow2",
    "compressed-source:zlib",
    "compressed-source:zstd",
    "offline-copy",
    "pull",
    "commit",
    "shallow",
    "reuse",
    "pause",
    "map",
    "image-locks",
    "bitmaps",
)

logger = logging.getLogger(__name__)


def is_local(uri: str) -> bool:
    """Whether the hypervisor is on this host, so that its images' paths are ours."""
    return not urlsplit(uri).hostname


class ShutOffDomains:
    """The engine's jobs on one connection's domains. Thread-safe."""

    def __init__(
        self,
        binding: Binding,
        uri: str,
        store: Store,
        jobs: JobRegistry,
        policy: PathPolicy,
        *,
        strict_libvirt: bool,
        journals: Journals | None = None,
    ) -> None:
        """`strict_libvirt`: no job is begun; those that were are ended as asked. `journals`: see `Context`."""
        self._binding = binding
        self.is_enabled = not strict_libvirt and is_local(uri)
        self._context = Context(uri, store, jobs, policy, strict_libvirt=not self.is_enabled, journals=journals)
        self._definitions = LibvirtDefinitions(binding)
        self._running = RunningJobs()
        self.block_jobs = BlockJobs(self._context, self._definitions, self._running)
        self.bitmaps = Bitmaps(self._context, self._definitions)

    def open(self) -> None:
        """Begins to publish progress; before the connection is opened."""
        self._running.open()

    def close(self) -> None:
        """Parks the jobs; the connection is still open."""
        self._running.close()

    def take_up(self) -> None:
        """After the connection was opened: jobs of an earlier process, and domains that were undefined meanwhile."""
        Recovery(self._context, self._definitions, self._running).run()
        for job in self._running.all_live():
            self.cancel_if_gone(job.domain.uuid)

    def cancel_if_gone(self, uuid: str) -> None:
        """Ends the jobs of a domain that is no longer defined: there is nothing that they could be pivoted in."""
        jobs = [job for job in self._running.all_live() if job.domain.uuid == uuid]
        if not jobs:
            return
        try:
            self._binding.on_domain(uuid, _look)
            return
        except VirError as error:
            if error.number != ErrorNumber.NO_DOMAIN:
                logger.warning("domain %s cannot be looked at: %s", uuid, error.message)
                return
        for job in jobs:
            job.cancel("the domain was undefined")

    def takes(self, domain: Domain) -> bool:
        """Whether a new job on the domain is the engine's: it is shut off, as far as libvirt knows now."""
        if not self.is_enabled or domain.is_active:
            return False
        return not self._binding.on_domain(domain.uuid, lambda found: found.isActive())

    def begins(self, domain: Domain) -> bool:
        """As `takes`, for a call that begins a job; 55 when the domain is to go on from a saved state."""
        if not self.takes(domain):
            return False
        self._definitions.require_not_saved(domain.uuid)
        return True

    def has_job(self, domain: Domain, disk: str) -> bool:
        """Whether the engine has a job on the disk, given by its target or its source's path."""
        return guards.find_engine_job(self._context, domain.uuid, disk) is not None

    def is_ours(self, job_id: str) -> bool:
        """Whether the engine does the job."""
        return self._running.find(job_id) is not None

    @contextmanager
    def guarding(self, domain: Domain, disk: str | None = None) -> Iterator[None]:
        """83 while a job of the engine is on the disk (None: on any); none is begun until the guarded call ends."""
        if domain.is_active and not self._jobs_of(domain):
            yield  # only a running domain's calls may take long
            return
        with self._context.locks.hold(domain.uuid):
            if any(disk in (None, job.disk, job.source_path) for job in self._jobs_of(domain)):
                raise domain_busy()
            yield

    @contextmanager
    def guarding_start(self, domain: Domain) -> Iterator[None]:
        """83 while a job of the engine is on the domain. A start may take long, so nothing is held meanwhile: a job
        that begins just then meets the hypervisor's locks on the images, or the hypervisor ours."""
        if self._jobs_of(domain):
            raise domain_busy()
        yield

    @contextmanager
    def guarding_detach(self, domain: Domain, xml: str) -> Iterator[None]:
        """83 when the disk to be detached has a job of the engine."""
        with self.guarding(domain, _target_of(xml)):
            yield

    @contextmanager
    def guarding_definition(self, xml: str, *, is_started: bool = False) -> Iterator[None]:
        """83 when the new definition changes a disk that has a job of the engine; `is_started`: while there is any."""
        named = self._domain_of(xml)
        if named is None:
            yield
            return
        if is_started:
            with self.guarding_start(named):
                yield
            return
        with self._context.locks.hold(named.uuid):
            self._require_same_disks(named, xml)
            yield

    def shown(self, domain: Domain, xml: str, flags: int) -> str:
        """libvirt's XML, with what the engine's jobs would show of a running domain."""
        if flags & XML_INACTIVE or domain.is_active or not self._jobs_of(domain):
            return xml
        return shown_live(self._context, parse_definition(xml))

    def _jobs_of(self, domain: Domain) -> list[BlockJob]:
        return guards.active_jobs(self._context, domain.uuid)

    def _domain_of(self, xml: str) -> Domain | None:
        """The domain with jobs that this XML is about; None for any other, and for what only libvirt can judge."""
        if not guards.engine_jobs(self._context):
            return None
        try:
            definition = parse_definition(xml)
        except VirError:
            return None
        for job in guards.engine_jobs(self._context):
            if definition.uuid == job.domain_uuid or definition.name == job.domain_name:
                return Domain(job.connection_uri, job.domain_name, job.domain_uuid)
        return None

    def _require_same_disks(self, domain: Domain, xml: str) -> None:
        jobs = self._jobs_of(domain)
        if not jobs:
            return
        old, new = self._definitions.load(domain), parse_definition(xml)
        if any(_is_changed(old, new, job.disk) for job in jobs):
            raise domain_busy()


def _look(found: Any) -> None:
    found.isActive()


def _is_changed(old: Definition, new: Definition, target: str) -> bool:
    return old.disk_of_target(target) != new.disk_of_target(target)


def _target_of(xml: str) -> str:
    """The target of the disk that the XML describes; "" for anything else, which libvirt judges."""
    try:
        element = xml_text.parse_any(xml, "(device_definition)")
        return read_disk_loosely(element).target if element.tag == "disk" else ""
    except VirError:
        return ""
