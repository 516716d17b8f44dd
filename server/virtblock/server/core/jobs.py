# SPDX-License-Identifier: Apache-2.0
"""The registry of block jobs: who started them, where they are, and how each ended.

Owns: job ids, states and times. Invariants: a state is on disk before anybody hears of it; a change of state, its
entry in the log, libvirt's two events and the domain's new XML become durable together or not at all; only the
transitions of `ALLOWED` happen, and a final state never changes; a disk has at most one active job; `cur` equals
`end` only in READY and COMPLETED. Progress lives in memory and is written with the next change.

A job that a hypervisor is asked to begin is durable before the hypervisor's answer goes to the caller, and seen by
nobody before (`prepare`, `accept`). Its entry in the log comes with the registry's next transaction, before anything
that this tells; a process that died in between enters it at the next start.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from virtblock.server.core.checks import disk_busy
from virtblock.server.core.driver import JobOrigin
from virtblock.server.core.errors import TEMPLATES, ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.core.events import EventLog
from virtblock.server.core.model import (
    BlockJob,
    BlockJobEvent,
    BlockJobStatus,
    Domain,
    DomainEventId,
    JobError,
    JobProgress,
    JobState,
)
from virtblock.server.core.store import JobQuery, Reads, RequestRecord, StartRecord, Store, Transaction

REQUEST_KEPT_S = 24 * 3600.0
# As many as there are entries in the log: about 100 MB.
JOB_KEPT_COUNT = 100_000
# So often the oldest are looked for: finding them walks all.
JOB_FORGET_STEP = 1000
PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000
logger = logging.getLogger(__name__)

_JOB_ID = re.compile(r"vb-[0-9a-f]{26}")

_NEW, _RUNNING, _READY = JobState.NEW, JobState.RUNNING, JobState.READY
_ABORTING, _PIVOTING = JobState.ABORTING, JobState.PIVOTING
_FINAL = frozenset({JobState.COMPLETED, JobState.CANCELED, JobState.FAILED})

# A hypervisor's job may be several steps further when we hear of it, so steps may be skipped; none goes back but
# these: RUNNING and READY to RUNNING, when a restart makes a copy begin anew, and PIVOTING to READY, when the pivot
# failed and the mirror goes on.
ALLOWED: dict[JobState, frozenset[JobState]] = {
    _NEW: frozenset({_RUNNING, _READY, _ABORTING}) | _FINAL,
    _RUNNING: frozenset({_RUNNING, _READY, _ABORTING}) | _FINAL,
    _READY: frozenset({_RUNNING, _ABORTING, _PIVOTING}) | _FINAL,
    _ABORTING: _FINAL,
    _PIVOTING: frozenset({_READY}) | _FINAL,
    JobState.COMPLETED: frozenset(),
    JobState.CANCELED: frozenset(),
    JobState.FAILED: frozenset(),
}

# Set once, by `begin` or by `transition` itself.
_FIXED_FIELDS = frozenset(
    {"job_id", "connection_uri", "domain_uuid", "disk", "type", "state", "request_id", "principal"}
    | {"create_time_s", "start_time_s", "ready_time_s", "end_time_s"}
)
# A change of these is seen by others, so it goes through the method that tells them.
_WATCHED_FIELDS = frozenset({"progress", "paused", "error", "reason"})


@dataclass(frozen=True)
class Origin:
    """Who started a job, and under which request id (empty: none)."""

    principal: str = ""
    request_id: str = ""
    request_digest: str = ""


@dataclass(frozen=True)
class JobFilter:
    """Which jobs are meant; what is empty matches everything."""

    connection_uri: str = ""
    domain_uuid: str = ""
    disk: str = ""
    states: frozenset[JobState] = frozenset()

    def matches(self, job: BlockJob) -> bool:
        """Whether the job is meant."""
        return (
            self.connection_uri in ("", job.connection_uri)
            and self.domain_uuid in ("", job.domain_uuid)
            and self.disk in ("", job.disk)
            and (not self.states or job.state in self.states)
        )


class _NativeError(VirError):
    """INVALID_ARG (8) for what libvirt does not have; the wire gives each class a reason of its own."""

    def __init__(self, detail: str) -> None:
        template = TEMPLATES[ErrorNumber.INVALID_ARG][1]
        super().__init__(
            ErrorNumber.INVALID_ARG, template % detail, domain=ErrorDomain.DOMAIN, str1=template, str2=detail
        )


class BlockJobNotFound(_NativeError):
    """The server holds no job of this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"block job '{job_id}' not found")
        self.job_id = job_id


class RequestIdReused(_NativeError):
    """A request id came again with other arguments."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request id '{request_id}' was used before with other arguments")
        self.request_id = request_id


def job_error(error: VirError) -> JobError:
    """The error as it is kept with a failed job."""
    return JobError(
        error.number, error.domain, error.message, error.str1, error.str2, error.str3, error.int1, error.int2
    )


def libvirt_progress(total_bytes: int, remaining_bytes: int, *, is_ready: bool) -> tuple[int, int]:
    """libvirt's (cur, end) for a disk of `total_bytes` with `remaining_bytes` to do.

    cur == end means READY to callers, so before it is at least 1 lower; nothing to do at all is 0/1, and 1/1 when
    ready.
    """
    if total_bytes == 0:
        return (1, 1) if is_ready else (0, 1)
    cur = max(total_bytes - remaining_bytes, 0)
    return (cur if is_ready else min(cur, total_bytes - 1)), total_bytes


class JobRegistry:
    """The jobs of one store. Thread-safe.

    Changes are serialized by the store's lock; `_lock` guards the picture of the active jobs in memory alone and is
    taken last.
    """

    def __init__(
        self,
        store: Store,
        events: EventLog,
        clock: Callable[[], float] = time.time,
        *,
        kept_count: int = JOB_KEPT_COUNT,
        forget_step: int = JOB_FORGET_STEP,
    ) -> None:
        """`clock`: seconds since the epoch. `kept_count`: how many jobs are kept at least; of older ones those that
        have ended are forgotten, at the opening and after each `forget_step` new ones."""
        self._store = store
        self._events = events
        self._clock = clock
        self._kept_count = kept_count
        self._forget_step = forget_step
        self._entered_count = 0  # guarded by the store's lock
        self._lock = threading.Lock()
        with store.reading() as reads:
            active = reads.list_jobs(JobQuery(active_only=True))
            starts = reads.list_starts()
        self._active = {job.job_id: job for job in active}
        self._accepted: dict[str, StartRecord] = {}  # active jobs that are not in the log yet
        with store.transaction() as transaction:
            transaction.delete_ended_jobs(kept_count)
            for start in starts:  # of a process that died; see `prepare`
                self._enter_if_free(transaction, start)

    def begin(self, job: BlockJob, origin: JobOrigin) -> BlockJob:
        """Records a new job in state NEW and announces it; returns it with its id and its time of creation.

        Ids sort by time of creation. BLOCK_COPY_ACTIVE (83) or OPERATION_UNSUPPORTED (84) when the disk has an active
        job: of two starts at the same moment one gets this answer.
        """
        start = self._new(job, origin)
        with self._changing() as transaction:
            active = transaction.find_active_job(job.connection_uri, job.domain_uuid, job.disk)
            if active is not None:
                raise disk_busy(active)
            self._enter(transaction, start)
        return start.job

    def prepare(self, job: BlockJob, origin: JobOrigin) -> StartRecord:
        """Makes a job durable, in state NEW, that a hypervisor is being asked to begin. Nobody sees it.

        Then comes `accept` or `withdraw`. Without either the next process that opens the store takes it for begun,
        for nobody can tell; who knows the hypervisor finds out.
        """
        start = self._new(job, origin)
        with self._store.transaction() as transaction:
            transaction.put_start(start)
        return start

    def accept(self, start: StartRecord) -> BlockJob:
        """The hypervisor has begun the job: it is there for everybody. Nothing is written; see `prepare`.

        83 or 84 as of `begin` when the disk has an active job; the start is to be withdrawn then.
        """
        job = start.job
        active = self.find_active(job.connection_uri, job.domain_uuid, job.disk)
        if active is not None:
            raise disk_busy(active)
        with self._lock:
            self._accepted[job.job_id] = start
        return job

    def withdraw(self, start: StartRecord) -> None:
        """The hypervisor did not begin the job."""
        with self._store.transaction() as transaction:
            transaction.delete_start(start.job.job_id)

    def get(self, job_id: str) -> BlockJob:
        """The job with its latest progress, ended or not. `BlockJobNotFound` for an unknown id."""
        job = self._known(job_id)
        if job is None:
            with self._store.reading() as reads:
                job = self._load(reads, job_id)
        return job

    def find_active(self, connection_uri: str, domain_uuid: str, disk: str) -> BlockJob | None:
        """The active job of a disk, given by its target or, when `disk` begins with "/", by its source's path."""
        name = "source_path" if disk.startswith("/") else "disk"
        for job in self.list_active(connection_uri):
            if job.domain_uuid == domain_uuid and getattr(job, name) == disk:
                return job
        return None

    def list_active(self, connection_uri: str = "") -> list[BlockJob]:
        """The jobs that have not ended, oldest first; of all connections for an empty URI."""
        with self._lock:
            jobs = [*self._active.values(), *(start.job for start in self._accepted.values())]
        return [job for job in jobs if connection_uri in ("", job.connection_uri)]

    def list_jobs(
        self, filters: JobFilter, *, include_ended: bool = True, page_size: int = 0, page_token: str = ""
    ) -> tuple[list[BlockJob], str]:
        """A page of jobs, newest first, and the token of the next page ("" after the last).

        `page_size` 0 means 100, more than 1000 means 1000. A filter by a final state includes ended jobs by itself.
        INVALID_ARG for a size below 0 and for a token that was not given for the same filters.
        """
        if page_size < 0:
            raise report(ErrorNumber.INVALID_ARG, f"page_size {page_size} is below 0", domain=ErrorDomain.DOMAIN)
        limit = min(page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
        active_only = not include_ended and not filters.states & _FINAL
        query = JobQuery(
            filters.connection_uri,
            filters.domain_uuid,
            filters.disk,
            tuple(sorted(state.value for state in filters.states)),
            active_only,
            limit=limit + 1,
        )
        page_of = _query_digest(query)
        if page_token:
            query = replace(query, before_job_id=_decode_page_token(page_token, page_of))
        self._enter_accepted()
        with self._store.reading() as reads:
            jobs = reads.list_jobs(query)
            with self._lock:
                jobs = [self._active.get(job.job_id, job) for job in jobs]
        has_more = len(jobs) > limit
        jobs = jobs[:limit]
        return jobs, _encode_page_token(jobs[-1].job_id, page_of) if has_more else ""

    def snapshot(self) -> tuple[int, list[BlockJob]]:
        """The log's last sequence, and the active jobs exactly as of it."""
        self._enter_accepted()
        with self._store.reading(), self._lock:
            return self._events.last_sequence, list(self._active.values())

    def transition(
        self,
        job_id: str,
        state: JobState,
        *,
        status: BlockJobStatus | None = None,
        domain: Domain | None = None,
        event_path: str = "",
        error: JobError | None = None,
        reason: str = "",
        domain_xml: str | None = None,
        **changes: Any,
    ) -> BlockJob:
        """Takes a job to another state; returns it.

        `status` (with `domain`): libvirt's events BLOCK_JOB, with `event_path` as its disk and left out when that is
        empty, and BLOCK_JOB_2, with the target. `domain_xml`: the stored domain's new definition, for a pivot.
        `changes`: other fields of the job. A transition that is not in `ALLOWED` is INTERNAL_ERROR, and nothing is
        written.
        """
        if status is not None and domain is None:
            raise ValueError("libvirt's events need the domain")
        with self._changing() as transaction:
            before = self._load(transaction, job_id)
            _check_transition(before, state)
            job = self._next(before, state, error, reason, changes)
            transaction.put_job(job)
            if domain_xml is not None:
                _rewrite_domain(transaction, job, domain_xml)
            self._announce(transaction, before, job)
            if status is not None and domain is not None:
                self._announce_libvirt_events(transaction, job, status, domain, event_path)
        return job

    def update(self, job_id: str, **changes: Any) -> BlockJob:
        """Durable change of fields that nobody watches (`details`, `digest`…), without an entry in the log."""
        _check_changes(changes, _WATCHED_FIELDS)
        with self._changing() as transaction:
            before = self._load(transaction, job_id)
            job = replace(before, **changes)
            transaction.put_job(job)
            transaction.on_commit(lambda: self._take(before, job))
        return job

    def change_bandwidth(self, job_id: str, bandwidth_bytes_per_s: int) -> BlockJob:
        """Durable change of the speed limit, in bytes/s; 0: none."""
        return self.update(job_id, bandwidth_bytes_per_s=bandwidth_bytes_per_s)

    def set_paused(self, job_id: str, paused: bool) -> BlockJob:
        """Durable, with an entry in the log when it changes; of an ended job nothing changes."""
        with self._changing() as transaction:
            job = before = self._load(transaction, job_id)
            if before.paused != paused and not before.state.is_final:
                job = replace(before, paused=paused)
                transaction.put_job(job)
                self._announce(transaction, before, job)
        return job

    def set_progress(self, job_id: str, progress: JobProgress, paused: bool | None = None) -> None:
        """In memory only; readers look at it at their own pace. `paused`, when it changes, is `set_paused`.

        Progress of an ended job is dropped: the copy's last word may come after its end.
        """
        with self._lock:
            job = self._active.get(job_id)
            if job is None:
                return
            self._active[job_id] = replace(job, progress=_progress_in(job.state, progress))
        if paused is not None and job.paused != paused:
            self.set_paused(job_id, paused)

    def find_request(self, origin: JobOrigin) -> BlockJob | None:
        """The job that the caller's request id started in the last 24 hours. `RequestIdReused` for other arguments."""
        if not origin.request_id:
            return None
        self._enter_accepted()
        with self._store.reading() as reads:
            request = reads.get_request(origin.principal, origin.request_id)
        if request is None or request.time_s < self._clock() - REQUEST_KEPT_S:
            return None
        if request.digest != origin.request_digest:
            raise RequestIdReused(origin.request_id)
        return self.get(request.job_id)

    def _new(self, job: BlockJob, origin: JobOrigin) -> StartRecord:
        """The job with its id, as it begins."""
        now_s = self._clock()
        job = replace(
            job,
            job_id=_new_job_id(now_s),
            state=JobState.NEW,
            progress=_progress_in(JobState.NEW, job.progress),
            principal=origin.principal,
            request_id=origin.request_id,
            create_time_s=now_s,
        )
        return StartRecord(job, origin.request_digest)

    @contextmanager
    def _changing(self) -> Iterator[Transaction]:
        """A transaction that begins with the entries of the jobs that were accepted before."""
        with self._store.transaction() as transaction:
            with self._lock:
                starts = list(self._accepted.values())
            for start in starts:
                self._enter_if_free(transaction, start)
            yield transaction

    def _enter_accepted(self) -> None:
        """For what looks at the store alone."""
        if self._accepted:
            with self._changing():
                pass

    def _enter_if_free(self, transaction: Transaction, start: StartRecord) -> None:
        """As `_enter`; a start is dropped whose disk or request has another job, for then it is that job's."""
        job = start.job
        transaction.delete_requests_before(job.create_time_s - REQUEST_KEPT_S)
        is_disk_free = transaction.find_active_job(job.connection_uri, job.domain_uuid, job.disk) is None
        if is_disk_free and transaction.get_request(job.principal, job.request_id) is None:
            self._enter(transaction, start)
            return
        logger.warning("job %s is dropped: its disk or its request has another job", job.job_id)
        transaction.delete_start(job.job_id)
        transaction.on_commit(lambda: self._forget_accepted(job.job_id))

    def _forget_accepted(self, job_id: str) -> None:
        with self._lock:
            self._accepted.pop(job_id, None)

    def _enter(self, transaction: Transaction, start: StartRecord) -> None:
        """The job among the others, and its first entry in the log."""
        job = start.job
        transaction.delete_start(job.job_id)
        transaction.put_job(job)
        self._remember_request(transaction, start)
        self._announce(transaction, job, job)
        self._entered_count += 1
        if self._entered_count % self._forget_step == 0:
            transaction.delete_ended_jobs(self._kept_count)

    def _known(self, job_id: str) -> BlockJob | None:
        """The job from memory; None when it is not active."""
        with self._lock:
            start = self._accepted.get(job_id)
            return self._active.get(job_id) if start is None else start.job

    def _load(self, reads: Reads, job_id: str) -> BlockJob:
        job = self._known(job_id) or reads.get_job(job_id)
        if job is None:
            raise BlockJobNotFound(job_id)
        return job

    def _next(
        self, before: BlockJob, state: JobState, error: JobError | None, reason: str, changes: dict[str, Any]
    ) -> BlockJob:
        """The job after the transition."""
        _check_changes(changes)
        now_s = self._clock()
        job = replace(before, state=state, reason=reason, error=None, **changes)
        if state is JobState.FAILED:
            error = error or job_error(report(ErrorNumber.OPERATION_FAILED, reason or None))
            job = replace(job, error=error, reason=reason or error.message)
        if state is JobState.RUNNING and not job.start_time_s:
            job = replace(job, start_time_s=now_s)
        if state is JobState.READY and not job.ready_time_s:
            job = replace(job, ready_time_s=now_s)
        if state.is_final:
            job = replace(job, end_time_s=now_s)
        progress = job.progress
        if "progress" not in changes and state in (JobState.READY, JobState.COMPLETED):
            progress = replace(progress, cur=progress.end)
        return replace(job, progress=_progress_in(state, progress))

    def _announce(self, transaction: Transaction, before: BlockJob, job: BlockJob) -> None:
        """Our entry in the log, and the picture in memory when it is durable."""
        self._events.append(transaction, job=job)
        transaction.on_commit(lambda: self._take(before, job))

    def _announce_libvirt_events(
        self, transaction: Transaction, job: BlockJob, status: BlockJobStatus, domain: Domain, event_path: str
    ) -> None:
        named = [(DomainEventId.BLOCK_JOB, event_path)] if event_path else []
        for event_id, disk in [*named, (DomainEventId.BLOCK_JOB_2, job.disk)]:
            event = BlockJobEvent(domain, event_id, disk, job.type, status)
            self._events.append(transaction, domain_event=event)

    def _take(self, before: BlockJob, job: BlockJob) -> None:
        """Mirrors a committed job in memory. Progress that came while it was being written is not lost."""
        with self._lock:
            known = self._active.get(job.job_id)
            self._accepted.pop(job.job_id, None)
            if job.state.is_final:
                self._active.pop(job.job_id, None)
                return
            if known is not None and job.progress == before.progress:
                job = replace(job, progress=_progress_in(job.state, known.progress))
            self._active[job.job_id] = job

    def _remember_request(self, transaction: Transaction, start: StartRecord) -> None:
        job = start.job
        if not job.request_id:
            return
        transaction.delete_requests_before(job.create_time_s - REQUEST_KEPT_S)
        if transaction.get_request(job.principal, job.request_id) is not None:
            raise RequestIdReused(job.request_id)
        transaction.put_request(
            RequestRecord(job.principal, job.request_id, start.digest, job.job_id, job.create_time_s)
        )


def _new_job_id(now_s: float) -> str:
    """Microseconds since the epoch, then chance: ids sort by time, and no two servers give the same."""
    return f"vb-{int(now_s * 1_000_000):014x}{uuid.uuid4().hex[:12]}"


def _progress_in(state: JobState, progress: JobProgress) -> JobProgress:
    """The progress as a job in this state may show it: complete only in READY and COMPLETED."""
    if state in (JobState.READY, JobState.COMPLETED) or progress.end <= 0 or progress.cur < progress.end:
        return progress
    return replace(progress, cur=progress.end - 1)


def _check_transition(job: BlockJob, state: JobState) -> None:
    if state not in ALLOWED[job.state]:
        detail = f"block job '{job.job_id}' cannot go from {job.state.value} to {state.value}"
        raise report(ErrorNumber.INTERNAL_ERROR, detail)


def _check_changes(changes: dict[str, Any], others: frozenset[str] = frozenset()) -> None:
    if fixed := (_FIXED_FIELDS | others) & changes.keys():
        raise TypeError(f"not to be changed: {', '.join(sorted(fixed))}")


def _rewrite_domain(transaction: Transaction, job: BlockJob, xml: str) -> None:
    domain = transaction.get_domain(job.connection_uri, job.domain_uuid)
    if domain is None:
        detail = f"no stored domain with uuid '{job.domain_uuid}' to rewrite"
        raise report(ErrorNumber.INTERNAL_ERROR, detail)
    transaction.put_domain(replace(domain, xml=xml))


def _query_digest(query: JobQuery) -> str:
    """Binds a page token to the filters it was given for."""
    matter = (query.connection_uri, query.domain_uuid, query.disk, query.states, query.active_only)
    return hashlib.sha256(repr(matter).encode()).hexdigest()[:16]


def _encode_page_token(job_id: str, page_of: str) -> str:
    return base64.urlsafe_b64encode(f"{page_of}{job_id}".encode()).decode()


def _decode_page_token(token: str, page_of: str) -> str:
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    job_id = text.removeprefix(page_of)
    if not text.startswith(page_of) or not _JOB_ID.fullmatch(job_id):
        detail = "page_token was not given for this list"
        raise report(ErrorNumber.INVALID_ARG, detail, domain=ErrorDomain.DOMAIN)
    return job_id
