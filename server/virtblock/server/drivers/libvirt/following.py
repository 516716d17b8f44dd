# SPDX-License-Identifier: Apache-2.0
"""Following the block jobs of running domains: their records, whoever started them.

Owns: the records of live jobs from their start (`starting`) to their end, and finding what libvirt did not tell.
Invariants: of events that are held back while a job is being started only the last job's end is let through; READY
comes from libvirt's event or from `ready='yes'` in its XML, never from cur == end; a job is judged by the domain's XML
only when libvirt has neither the job nor, for a while, a word about its end, and by QEMU only when libvirt shows a job
that it has lost; an end is recorded once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from virtblock.server.core import checks
from virtblock.server.core.driver import JobOrigin
from virtblock.server.core.errors import ErrorNumber, VirError, report
from virtblock.server.core.events import EventLog
from virtblock.server.core.flags import BlockJobAbortFlags, BlockJobSetSpeedFlags
from virtblock.server.core.jobs import JobRegistry, Origin, job_error
from virtblock.server.core.model import (
    BlockJob,
    BlockJobEvent,
    BlockJobStatus,
    BlockJobType,
    Domain,
    DomainEventId,
    JobProgress,
    JobState,
    LifecycleEvent,
)
from virtblock.server.core.store import Store
from virtblock.server.drivers.libvirt.binding import Binding
from virtblock.server.drivers.libvirt.disk_xml import LiveDisk, find_disk, live_disks
from virtblock.server.drivers.libvirt.ending import (
    CRASHED_REASON,
    STOPPED_REASON,
    STOPPED_REASONS,
    end_by_chain,
    end_by_qemu,
    has_job,
    is_gone,
    paths_in_use,
)
from virtblock.server.drivers.libvirt.happenings import Happening, Happenings
from virtblock.server.drivers.libvirt.polling import Poller, Rates
from virtblock.server.drivers.libvirt.starting import STATE_RUNNING, JobRequest, Starter, new_record

END_WAIT_S = 5.0
STOP_WAIT_S = 5.0
OPEN_WAIT_S = 0.5
# How long a connection that was opened is kept from callers by a domain whose hypervisor does not answer.
TAKE_UP_WAIT_S = 5.0
TAKE_UP_THREAD_COUNT = 4
LATE_END_S = 30.0
# A job that libvirt shows in the domain's XML and else knows nothing of is lost: after as long as libvirt lets a call
# wait.
LOST_S = 30.0
LIST_ACTIVE = 1  # VIR_CONNECT_LIST_DOMAINS_ACTIVE
STATE_SHUTOFF = 5
EVENT_UNDEFINED, EVENT_STOPPED, EVENT_CRASHED = 1, 5, 8
SHUTOFF_TO_STOPPED = 1  # VIR_DOMAIN_SHUTOFF_* begins with UNKNOWN, and is else VIR_DOMAIN_EVENT_STOPPED_* plus 1
XML_INACTIVE = 2  # VIR_DOMAIN_XML_INACTIVE
INFO_BYTES = 1  # VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES

_STATES = {
    BlockJobStatus.COMPLETED: JobState.COMPLETED,
    BlockJobStatus.FAILED: JobState.FAILED,
    BlockJobStatus.CANCELED: JobState.CANCELED,
    BlockJobStatus.READY: JobState.READY,
}
_STATUSES = {state: status for status, state in _STATES.items()}
_ENDING = frozenset({JobState.ABORTING, JobState.PIVOTING})
_FOLLOWED_TYPES = frozenset({BlockJobType.PULL, BlockJobType.COPY, BlockJobType.COMMIT, BlockJobType.ACTIVE_COMMIT})

logger = logging.getLogger(__name__)


class Follower:
    """The live jobs of one connection. Thread-safe."""

    def __init__(
        self,
        binding: Binding,
        uri: str,
        store: Store,
        jobs: JobRegistry,
        events: EventLog,
        on_undefined: Callable[[str], None],
    ) -> None:
        """`on_undefined` is called with the UUID of a domain that was undefined; it may use the binding."""
        self._binding = binding
        self._on_undefined = on_undefined
        self._uri = uri
        self._store = store
        self._jobs = jobs
        self._events = events
        self._lock = threading.Lock()  # guards what follows; nothing else is taken while it is held
        self._missing: dict[str, float] = {}  # jobs that libvirt has no more, and since when
        self._settled: dict[tuple[str, str], float] = {}  # disks whose job's end was judged, and when
        self._pivots: set[threading.Thread] = set()
        self._paths: dict[tuple[str, int, int], str] = {}
        self._rates = Rates()
        self._is_stopping = threading.Event()
        self._happenings = Happenings(f"follow-{uri}", self._handle)
        self._poller = Poller(f"poll-{uri}", self._pollable, self._poll_job)
        self._starter = Starter(binding, uri, jobs, self._happenings, self._await_predecessor)
        for event_id in (DomainEventId.LIFECYCLE, DomainEventId.BLOCK_JOB, DomainEventId.BLOCK_JOB_2):
            binding.subscribe(int(event_id), self._happenings.receiver(event_id))

    def start(self) -> None:
        """Begins to work off events."""
        self._happenings.start()
        self._poller.start()

    def stop(self) -> None:
        """Ends the threads. One that waits for a hypervisor without an answer is left behind; it records nothing."""
        self._is_stopping.set()
        self._starter.stop()
        deadline_s = time.monotonic() + STOP_WAIT_S
        with self._lock:
            pivots = list(self._pivots)
        for thread in pivots:
            thread.join(max(deadline_s - time.monotonic(), 0))
        self._poller.stop(max(deadline_s - time.monotonic(), 0))
        self._happenings.stop(max(deadline_s - time.monotonic(), 0))

    def begin(
        self, domain: Domain, disk: str, request: JobRequest, origin: JobOrigin, call: Callable[[Any], object]
    ) -> str:
        """Starts a job by `call` and records it; returns its id. libvirt's error as it is."""
        return self._starter.begin(domain, disk, request, origin, call)

    def end(self, domain: Domain, disk: str, flags: int, call: Callable[[Any], object]) -> None:
        """Ends a job by `call`. The record says ABORTING or PIVOTING from then on, until libvirt's event ends it."""
        job = self._find_live(domain.uuid, disk)
        self._binding.on_domain(domain.uuid, call, may_wait=True)
        if job is None:
            return
        is_pivot = bool(flags & BlockJobAbortFlags.PIVOT)
        self._step(job.job_id, JobState.PIVOTING if is_pivot else JobState.ABORTING)
        if not flags & BlockJobAbortFlags.ASYNC:
            self._await_end(job)

    def note_speed(self, domain: Domain, disk: str, bandwidth: int, flags: int) -> None:
        """Records a speed that libvirt took."""
        job = self._find_live(domain.uuid, disk)
        if job is not None:
            is_bytes = bool(flags & BlockJobSetSpeedFlags.BANDWIDTH_BYTES)
            self._jobs.change_bandwidth(job.job_id, bandwidth if is_bytes else bandwidth * checks.MIB)

    def note_stopped(self, uuid: str) -> None:
        """Ends the records of a domain that is known to be shut off: the event that says so may be on its way."""
        stale = self._live_jobs_of(uuid)
        if stale:
            _, reason = self._binding.on_domain(uuid, lambda found: found.state())
            for job in stale:
                self._fail(job, STOPPED_REASONS.get(reason - SHUTOFF_TO_STOPPED, STOPPED_REASON))

    def take_up(self) -> None:
        """After the connection was opened: what changed while nobody watched, and jobs that others started."""
        domains = self._binding.call(lambda connection: connection.listAllDomains(LIST_ACTIVE))
        running = {self._binding.remember(domain): domain for domain in domains}
        for job in self._live_jobs():
            if job.domain_uuid not in running:
                self._fail(job, "the domain was stopped while it was not watched")
        self._starter.give_up(lambda job: job.domain_uuid not in running)
        workers = ThreadPoolExecutor(TAKE_UP_THREAD_COUNT, thread_name_prefix=f"take-up-{self._uri}")
        looks = [workers.submit(self._take_up_domain, uuid, domain) for uuid, domain in running.items()]
        workers.shutdown(wait=False)
        _, late = wait(looks, TAKE_UP_WAIT_S)
        if late:
            logger.warning("%d domains do not answer; their jobs are looked at when they do", len(late))

    def _take_up_domain(self, uuid: str, domain: Any) -> None:
        try:
            with self._binding.opening(), self._happenings.held(uuid):
                for job in self._live_jobs_of(uuid):
                    self._look_at(job)
                self._adopt_all(uuid, domain)
                self._starter.give_up(lambda job: job.domain_uuid == uuid)
        except Exception as error:  # it may have been stopped meanwhile; the others are to be looked at
            logger.warning("the jobs of domain %s cannot be looked up: %s", uuid, error)

    def _live_jobs(self) -> list[BlockJob]:
        """The hypervisor's jobs that have not ended: those of domains that ran when they began."""
        return [job for job in self._jobs.list_active(self._uri) if job.is_domain_active]

    def _live_jobs_of(self, uuid: str) -> list[BlockJob]:
        return [job for job in self._live_jobs() if job.domain_uuid == uuid]

    def _find_live(self, uuid: str, disk: str) -> BlockJob | None:
        job = self._jobs.find_active(self._uri, uuid, disk)
        return job if job is not None and job.is_domain_active else None

    def _await_predecessor(self, uuid: str, target: str) -> None:
        """libvirt takes one job at a time for a disk: the end of the last one, if it is not recorded, is on its way."""
        with self._lock:
            self._settled.pop((uuid, target), None)
        deadline_s = time.monotonic() + END_WAIT_S
        while (stale := self._find_live(uuid, target)) is not None:
            if not self._happenings.let_one_pass(uuid, max(deadline_s - time.monotonic(), 0)):
                self._settle(stale, self._look(uuid, target) or LiveDisk(target, "", (), None))
                return

    def _handle(self, happening: Happening) -> None:
        if happening.event_id is DomainEventId.LIFECYCLE:
            self._handle_lifecycle(happening, *happening.values)
            return
        disk, job_type, status = happening.values
        key = (happening.uuid, job_type, status)
        if happening.event_id is DomainEventId.BLOCK_JOB:
            self._paths[key] = disk  # BLOCK_JOB_2 follows at once and names the target
            return
        self._handle_block_job(happening, disk, job_type, BlockJobStatus(status), self._paths.pop(key, ""))

    def _handle_lifecycle(self, happening: Happening, event: int, detail: int) -> None:
        domain = self._domain(happening)
        with self._store.transaction() as transaction:
            self._events.append(transaction, domain_event=LifecycleEvent(domain, event, detail))
        if event == EVENT_UNDEFINED:
            self._on_undefined(happening.uuid)
        if event not in (EVENT_STOPPED, EVENT_CRASHED):
            return
        reason = STOPPED_REASONS.get(detail, STOPPED_REASON) if event == EVENT_STOPPED else CRASHED_REASON
        for job in self._live_jobs_of(happening.uuid):
            self._fail(job, reason)

    def _handle_block_job(
        self, happening: Happening, target: str, job_type: int, status: BlockJobStatus, path: str
    ) -> None:
        state = _STATES[status]
        job = self._find_live(happening.uuid, target)
        if job is None and state.is_final and self._was_settled(happening.uuid, target):
            return
        domain = self._domain(happening, job)
        if job_type not in _FOLLOWED_TYPES:
            self._forward(domain, target, path, job_type, status)
            return
        if job is None:
            job = self._adopt_ended(domain, target, BlockJobType(job_type), path)
        if state is job.state:
            return
        if state is JobState.READY and job.state in _ENDING:
            self._forward(domain, target, path, job_type, status)  # an end that was asked for overtook it
            return
        reason = "the hypervisor reports that the job failed" if state is JobState.FAILED else ""
        self._transition(job, state, status, domain, path, reason)

    def _forward(self, domain: Domain, target: str, path: str, job_type: int, status: BlockJobStatus) -> None:
        """An event that changes no record, of a job that is none of ours (a backup): libvirt's view only."""
        named = [(DomainEventId.BLOCK_JOB, path)] if path else []
        with self._store.transaction() as transaction:
            for event_id, disk in [*named, (DomainEventId.BLOCK_JOB_2, target)]:
                event = BlockJobEvent(domain, event_id, disk, BlockJobType(job_type), status)
                self._events.append(transaction, domain_event=event)

    def _domain(self, happening: Happening, job: BlockJob | None = None) -> Domain:
        is_active = happening.domain_id >= 0
        try:
            is_persistent = (
                bool(self._binding.on_domain(happening.uuid, lambda found: found.isPersistent()))
                if job is None
                else job.is_domain_persistent
            )
        except VirError:
            is_persistent = False  # it is gone
        return Domain(
            self._uri,
            happening.name,
            happening.uuid,
            id=happening.domain_id,
            is_persistent=is_persistent,
            is_active=is_active,
            state=STATE_RUNNING if is_active else STATE_SHUTOFF,
        )

    def _find_disk(self, uuid: str, name: str) -> LiveDisk:
        xml = self._binding.on_domain(uuid, lambda found: found.XMLDesc(0))
        return find_disk(xml, name) or LiveDisk(name, "", (), None)

    def _look(self, uuid: str, name: str) -> LiveDisk | None:
        """The disk; None when the hypervisor cannot be asked."""
        try:
            return self._find_disk(uuid, name)
        except VirError as error:
            logger.debug("domain %s cannot be looked at: %s", uuid, error)
            return None

    def _record(self, domain: Domain, disk: LiveDisk, request: JobRequest) -> BlockJob:
        """The record of a job that somebody else started, or we by a call whose answer was lost."""
        with self._lock:
            self._settled.pop((domain.uuid, disk.target), None)
        start = self._starter.claim(domain.uuid, disk, request.type)
        if start is None:
            job = self._jobs.begin(new_record(domain, disk, request), Origin())
        else:
            job = self._jobs.accept(start)
        return self._jobs.transition(job.job_id, JobState.RUNNING)

    def _adopt_all(self, uuid: str, domain: Any) -> None:
        """Records the jobs of a running domain that have no record: somebody else started them."""
        for disk in live_disks(domain.XMLDesc(0)):
            if self._jobs.find_active(self._uri, uuid, disk.target) is not None or not disk.source_path:
                continue
            info = domain.blockJobInfo(disk.target, INFO_BYTES)
            if not info or info["type"] not in _FOLLOWED_TYPES:
                continue
            # A job that is only being begun is waited for by that call, and is not in the XML from before.
            disk = find_disk(domain.XMLDesc(0), disk.target) or disk
            record = Domain(
                self._uri, domain.name(), uuid, domain.ID(), bool(domain.isPersistent()), True, STATE_RUNNING
            )
            request = JobRequest(BlockJobType(info["type"]), 0, info["bandwidth"], True)
            self._look_at(self._record(record, disk, request))

    def _adopt_ended(self, domain: Domain, target: str, job_type: BlockJobType, path: str) -> BlockJob:
        """A record for a job of which the first that we hear is an event."""
        disk = self._look(domain.uuid, target) or LiveDisk(target, path, (), None)
        return self._record(domain, disk, JobRequest(job_type, 0, 0, True))

    def _look_at(self, job: BlockJob) -> None:
        """Brings a record up to what libvirt has now."""
        try:
            disk = self._find_disk(job.domain_uuid, job.disk)
            is_there = has_job(job, disk) or self._info(job).get("type") == job.type
        except VirError as error:
            self._judge_unseen(job, error)
            return
        if not is_there:
            self._miss(job, disk)
        elif job.state is JobState.READY:
            self._pivot_when_ready(job)
        elif disk.mirror is not None and disk.mirror.ready == "yes" and job.state in (JobState.NEW, JobState.RUNNING):
            self._transition(job, JobState.READY, BlockJobStatus.READY, _domain_of(job), job.source_path, "")
        elif job.state is JobState.NEW:
            self._step(job.job_id, JobState.RUNNING)

    def _judge_unseen(self, job: BlockJob, error: VirError) -> None:
        if is_gone(error):
            self._fail(job, f"the domain cannot be looked at: {error.message}")
        else:  # it may be there all the same; the next look tells
            logger.warning("job %s cannot be looked at: %s", job.job_id, error.message)

    def _miss(self, job: BlockJob, disk: LiveDisk) -> None:
        """libvirt has the job no more. Its end is on its way, or was told when nobody listened: that is settled then.

        For a moment after a job's end libvirt gives no information of it and has not yet changed its XML.
        """
        now_s = time.monotonic()
        with self._lock:
            since_s = self._missing.setdefault(job.job_id, now_s)
        is_complete = end_by_chain(job, disk)[0] is JobState.COMPLETED
        if has_job(job, disk):
            if now_s - since_s > LOST_S:
                self._settle_lost(job, disk)
        elif is_complete or now_s - since_s > END_WAIT_S:
            self._settle(job, disk)

    def _settle(self, job: BlockJob, disk: LiveDisk) -> None:
        """Ends the record of a job that libvirt no longer has and of whose end nobody told."""
        with self._lock:
            self._settled[job.domain_uuid, job.disk] = time.monotonic()
        state, reason = end_by_chain(job, disk)
        self._transition(job, state, _STATUSES[state], _domain_of(job), disk.source_path, reason)

    def _settle_lost(self, job: BlockJob, disk: LiveDisk) -> None:
        """Ends the record of a job that libvirt lost: 9.0 keeps its mirror in the XML until the domain stops."""
        try:
            paths = paths_in_use(self._binding.ask_qemu(job.domain_uuid, "query-block"))
        except VirError as error:
            logger.warning("QEMU cannot be asked about job %s: %s", job.job_id, error.message)
            paths = frozenset()
        state, reason = end_by_qemu(job, paths)
        logger.warning("job %s: %s", job.job_id, reason)
        self._transition(job, state, _STATUSES[state], _domain_of(job), disk.source_path, reason)

    def _was_settled(self, uuid: str, target: str) -> bool:
        """Whether an end that libvirt tells is that of a job whose end was judged and told before."""
        with self._lock:
            settled_s = self._settled.pop((uuid, target), None)
        return settled_s is not None and time.monotonic() - settled_s < LATE_END_S

    def _fail(self, job: BlockJob, reason: str) -> None:
        """FAILED in our view; libvirt sends no event of the job when its domain goes."""
        self._transition(job, JobState.FAILED, None, None, "", reason)

    def _transition(
        self,
        job: BlockJob,
        state: JobState,
        status: BlockJobStatus | None,
        domain: Domain | None,
        path: str,
        reason: str,
    ) -> None:
        error = job_error(report(ErrorNumber.OPERATION_FAILED, reason)) if state is JobState.FAILED else None
        progress = (
            {"progress": self._last_progress(job, state)} if state in (JobState.READY, JobState.COMPLETED) else {}
        )
        if state is JobState.COMPLETED and job.details.get("is_pivoting"):
            reason = self._definition_left_alone(job)
        self._rates.forget(job.job_id)
        with self._lock:
            self._missing.pop(job.job_id, None)
        self._step(
            job.job_id, state, status=status, domain=domain, event_path=path, error=error, reason=reason, **progress
        )
        if state is JobState.READY:
            self._pivot_when_ready(job)

    def _pivot_when_ready(self, job: BlockJob) -> None:
        """In a thread of its own: a pivot waits for the hypervisor, and events are to go on meanwhile."""
        if not job.details.get("is_pivoting"):
            return
        thread = threading.Thread(target=self._pivot, args=(job,), name=f"pivot-{job.job_id}", daemon=True)
        with self._lock:
            if self._is_stopping.is_set():
                return  # the next start finds the job READY
            self._pivots.add(thread)
            thread.start()

    def _pivot(self, job: BlockJob) -> None:
        flags = int(BlockJobAbortFlags.PIVOT)
        try:
            while not self._binding.wait_open(OPEN_WAIT_S):  # READY may be found while the connection is opened
                if self._is_stopping.is_set():
                    return
            self.end(_domain_of(job), job.disk, flags, lambda found: found.blockJobAbort(job.disk, flags))
        except VirError as error:
            # The job stays READY: whoever started it sees why, and may pivot or abort it.
            logger.warning("job %s cannot be pivoted: %s", job.job_id, error.message)
        finally:
            with self._lock:
                self._pivots.discard(threading.current_thread())

    def _definition_left_alone(self, job: BlockJob) -> str:
        """Why the persistent definition does not name the new disk; empty when it does, or there is none."""
        try:
            xml = self._binding.on_domain(job.domain_uuid, lambda found: found.XMLDesc(XML_INACTIVE))
            if not self._binding.on_domain(job.domain_uuid, lambda found: found.isPersistent()):
                return ""
        except VirError as error:
            return f"the persistent definition cannot be looked at: {error.message}"
        disk = find_disk(xml, job.disk)
        if disk is not None and disk.source_path == job.destination_path:
            return ""
        return "the persistent definition names another source for the disk and was left alone"

    def _step(self, job_id: str, state: JobState, **changes: Any) -> None:
        """A transition, unless the job is there or beyond already: its event, a poll and a call may all tell of it."""
        try:
            job = self._jobs.get(job_id)
            if not job.state.is_final and job.state is not state:
                self._jobs.transition(job_id, state, **changes)
        except VirError as error:
            logger.debug("job %s does not become %s: %s", job_id, state.value, error)

    def _last_progress(self, job: BlockJob, state: JobState) -> JobProgress:
        progress = self._jobs.get(job.job_id).progress
        end = max(progress.end, 1)
        return JobProgress(cur=end, end=end, total_bytes=end, copied_bytes=end, eta_s=0)

    def _await_end(self, job: BlockJob) -> None:
        """After a synchronous end: libvirt's event is on its way, and is told before the call returns."""

        def is_over() -> bool:
            return all(one.job_id != job.job_id for one in self._jobs.list_active(self._uri))

        if not self._happenings.wait_for(is_over, END_WAIT_S):
            self._look_at(job)

    def _pollable(self) -> list[BlockJob]:
        return self._live_jobs() if self._binding.is_open else []

    def _poll_job(self, job: BlockJob) -> None:
        info = self._info(job)
        if info.get("type") == job.type:
            with self._lock:
                self._missing.pop(job.job_id, None)
            self._jobs.set_progress(job.job_id, self._rates.progress(job.job_id, info))
        else:
            self._miss(job, self._find_disk(job.domain_uuid, job.disk))

    def _info(self, job: BlockJob) -> dict[str, int]:
        found: dict[str, int] = self._binding.on_domain(
            job.domain_uuid, lambda domain: domain.blockJobInfo(job.disk, INFO_BYTES), may_wait=True
        )
        return found


def _domain_of(job: BlockJob) -> Domain:
    return Domain(
        job.connection_uri,
        job.domain_name,
        job.domain_uuid,
        id=job.domain_id,
        is_persistent=job.is_domain_persistent,
        is_active=job.is_domain_active,
        state=job.domain_state,
    )
