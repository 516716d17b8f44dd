# SPDX-License-Identifier: Apache-2.0
"""Starting a block job of a running domain, and its record.

Owns: the way from the call to a job that everybody sees. Invariants: libvirt decides, and a call that it refuses leaves
no record; the record is made durable while libvirt works, and the caller is answered when both are done, so an answer
costs no wait for a disk of its own; the job's entries in the log follow at once, and events of the domain are held back
until then, so that none overtakes them. A start whose answer was lost with the connection stays prepared until it is
seen whether libvirt has begun it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from virtblock.server.core import checks
from virtblock.server.core.driver import JobOrigin
from virtblock.server.core.errors import ConnectionLost, VirError
from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.model import BlockJob, BlockJobType, Domain, JobState
from virtblock.server.core.store import StartRecord
from virtblock.server.drivers.libvirt.binding import Binding
from virtblock.server.drivers.libvirt.disk_xml import LiveDisk, find_disk
from virtblock.server.drivers.libvirt.happenings import Happenings

# As many as there are threads for calls that may wait: no start waits for another's record.
THREAD_COUNT = 16
# The caller waits for the answer on its way, and nobody for the log: this much later its work takes nothing from it.
ANSWER_FIRST_S = 0.005
STATE_RUNNING = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobRequest:
    """What a starting call asked for, as far as the record tells it."""

    type: BlockJobType
    flags: int
    bandwidth: int
    is_bandwidth_bytes: bool
    destination_path: str = ""
    destination_format: str = ""
    takes_source_format: bool = False  # a copy whose destination libvirt makes, in no format that was named
    is_pivoting: bool = False  # by itself, when it is READY

    @property
    def bandwidth_bytes_per_s(self) -> int:
        """The limit in bytes/s; libvirt took it, so it fits."""
        return self.bandwidth if self.is_bandwidth_bytes else self.bandwidth * checks.MIB


def new_record(domain: Domain, disk: LiveDisk, request: JobRequest) -> BlockJob:
    """The job's record. `disk`: as it was when the job had not yet changed its chain."""
    mirror = disk.mirror
    source_format = disk.format if request.takes_source_format else ""
    return BlockJob(
        job_id="",
        connection_uri=domain.connection_uri,
        domain_uuid=domain.uuid,
        domain_name=domain.name,
        disk=disk.target,
        type=request.type,
        state=JobState.NEW,
        source_path=disk.source_path,
        destination_path=request.destination_path or (mirror.path if mirror else ""),
        destination_format=request.destination_format or source_format or (mirror.format if mirror else ""),
        flags=request.flags,
        bandwidth_bytes_per_s=request.bandwidth_bytes_per_s,
        domain_id=domain.id,
        is_domain_persistent=domain.is_persistent,
        is_domain_active=True,
        domain_state=domain.state,
        details={"chain_paths": list(disk.chain_paths), "is_pivoting": request.is_pivoting},
    )


class Starter:
    """The starts on one connection. Thread-safe."""

    def __init__(
        self, binding: Binding, uri: str, jobs: JobRegistry, happenings: Happenings, clear: Callable[[str, str], None]
    ) -> None:
        """`clear(uuid, target)`: libvirt has begun a job there, so the record of the last one is to be ended."""
        self._binding = binding
        self._jobs = jobs
        self._happenings = happenings
        self._clear = clear
        self._workers = ThreadPoolExecutor(THREAD_COUNT, thread_name_prefix=f"start-{uri}")
        self._lock = threading.Lock()
        self._unanswered: list[StartRecord] = []  # guarded by it

    def stop(self) -> None:
        """Takes no more starts. What is under way and not recorded is found by the next process."""
        self._workers.shutdown(wait=False)

    def begin(
        self, domain: Domain, disk: str, request: JobRequest, origin: JobOrigin, call: Callable[[Any], object]
    ) -> str:
        """Starts a job by `call` and records it; returns its id. libvirt's error as it is."""
        is_asked = False

        def ask(found: Any) -> None:
            nonlocal is_asked
            is_asked = True
            call(found)

        with ExitStack() as stack:
            stack.enter_context(self._happenings.held(domain.uuid))
            # A copy leaves its disk's chain as it is, so that may be looked at meanwhile.
            before = None if request.type is BlockJobType.COPY else self._look(domain.uuid, disk)
            prepared = self._workers.submit(self._prepare, domain, disk, request, origin, before)
            try:
                self._binding.on_domain(domain.uuid, ask, may_wait=True)
                job_id = self._accept(prepared.result(), request)
            except BaseException as error:
                if is_asked and isinstance(error, ConnectionLost):
                    self._keep_unanswered(prepared)
                else:
                    self._workers.submit(self._withdraw, prepared)
                raise
            held = stack.pop_all()
        self._workers.submit(self._enter, job_id, held)
        return job_id

    def _prepare(
        self, domain: Domain, disk: str, request: JobRequest, origin: JobOrigin, before: LiveDisk | None
    ) -> StartRecord:
        found = before or self._look(domain.uuid, disk) or LiveDisk(disk, "", (), None)
        try:
            is_persistent, state = self._binding.on_domain(
                domain.uuid, lambda one: (bool(one.isPersistent()), one.state()[0])
            )
        except VirError:
            is_persistent, state = False, STATE_RUNNING  # it is gone, and libvirt refuses the start
        domain = replace(domain, is_persistent=is_persistent, state=state)
        # What the mirror is called is told by the request; this disk's may be an earlier job's.
        return self._jobs.prepare(new_record(domain, replace(found, mirror=None), request), origin)

    def _accept(self, start: StartRecord, request: JobRequest) -> str:
        job = start.job
        self._clear(job.domain_uuid, job.disk)
        self.give_up(lambda other: (other.domain_uuid, other.disk) == (job.domain_uuid, job.disk))
        is_mirroring = request.type in (BlockJobType.COPY, BlockJobType.ACTIVE_COMMIT)
        if is_mirroring and not (job.destination_path and job.destination_format):
            disk = self._look(job.domain_uuid, job.disk)  # libvirt chose, and tells
            if disk is not None and disk.mirror is not None:
                path, image_format = disk.mirror.path, disk.mirror.format
                job = job.with_changes(
                    destination_path=job.destination_path or path,
                    destination_format=job.destination_format or image_format,
                )
        return self._jobs.accept(replace(start, job=job)).job_id

    def claim(self, uuid: str, disk: LiveDisk, job_type: BlockJobType) -> StartRecord | None:
        """The start that libvirt has begun, of those whose answer was lost; None: somebody else started this job."""
        with self._lock:
            for start in self._unanswered:
                job = start.job
                is_there = disk.mirror is None or job.destination_path in ("", disk.mirror.path)
                if (job.domain_uuid, job.disk, job.type) == (uuid, disk.target, job_type) and is_there:
                    self._unanswered.remove(start)
                    return start
        return None

    def give_up(self, is_settled: Callable[[BlockJob], bool]) -> None:
        """Withdraws what was not claimed where every job that libvirt has was looked at, or another was begun since."""
        with self._lock:
            given_up = [start for start in self._unanswered if is_settled(start.job)]
            self._unanswered = [start for start in self._unanswered if start not in given_up]
        for start in given_up:
            self._jobs.withdraw(start)

    def _keep_unanswered(self, prepared: Future[StartRecord]) -> None:
        try:
            start = prepared.result()
        except Exception:
            logger.exception("a start whose answer was lost has no record")
            return
        with self._lock:
            self._unanswered.append(start)

    def _withdraw(self, prepared: Future[StartRecord]) -> None:
        try:
            self._jobs.withdraw(prepared.result())
        except Exception:
            logger.exception("a start that libvirt refused stays prepared until the next start of this process")

    def _enter(self, job_id: str, held: ExitStack) -> None:
        with held:
            time.sleep(ANSWER_FIRST_S)
            try:
                if self._jobs.get(job_id).state is JobState.NEW:
                    self._jobs.transition(job_id, JobState.RUNNING)
            except VirError as error:  # an end that was asked for at once, or the store, of which the next change tells
                logger.warning("job %s does not become running: %s", job_id, error)

    def _look(self, uuid: str, name: str) -> LiveDisk | None:
        """The disk; None when the hypervisor cannot be asked."""
        try:
            xml = self._binding.on_domain(uuid, lambda found: found.XMLDesc(0))
        except VirError as error:
            logger.debug("domain %s cannot be looked at: %s", uuid, error)
            return None
        return find_disk(xml, name)
