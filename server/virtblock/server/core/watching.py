# SPDX-License-Identifier: Apache-2.0
"""Following the event log from an asyncio loop.

Owns: the streams of job changes and of libvirt's domain events, and waiting for a job. Invariants: a watcher is a
cursor into the log and nothing else, so a slow one costs no memory and misses nothing; cancelling a watch or a wait
never touches a job; the loop is never blocked: what is not in memory is read by a worker thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Iterator
from dataclasses import dataclass
from types import TracebackType

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, argument_check, report
from virtblock.server.core.events import EventLog, EventsCompacted
from virtblock.server.core.jobs import JobFilter, JobRegistry
from virtblock.server.core.model import (
    BlockJob,
    BlockJobEvent,
    DomainEventId,
    JobProgress,
    JobState,
    LifecycleEvent,
    LogEntry,
)

READ_COUNT = 256
PROGRESS_INTERVAL_S_MIN = 0.5
BOOKMARK_INTERVAL_S = 10.0
# VIR_DOMAIN_EVENT_ID_LAST of libvirt 9.0.
DOMAIN_EVENT_ID_END = 27


@dataclass(frozen=True)
class JobChanged:
    """A job right after the change with this sequence; in a snapshot the job as of the snapshot's sequence."""

    sequence: int
    time_s: float
    job: BlockJob


@dataclass(frozen=True)
class JobProgressed:
    """Figures of a job that goes on; not kept."""

    sequence: int
    time_s: float
    job_id: str
    progress: JobProgress


@dataclass(frozen=True)
class Bookmark:
    """The watcher has everything up to `sequence`."""

    sequence: int
    time_s: float
    is_snapshot_end: bool = False


WatchItem = JobChanged | JobProgressed | Bookmark
DomainEventItem = LifecycleEvent | BlockJobEvent


class SlowReader(VirError):
    """A reader of domain events, which cannot be resumed, fell behind what the log keeps (87)."""

    def __init__(self) -> None:
        text = "the reader of the events is too slow"
        known = report(ErrorNumber.RESOURCE_BUSY, text, domain=ErrorDomain.NONE)
        super().__init__(known.number, known.message, domain=known.domain, str1=known.str1, str2=known.str2)


class Wakeup:
    """Wakes one task of a loop after each commit of the log. A context manager, entered in the loop."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._flag = asyncio.Event()

    def __enter__(self) -> Wakeup:
        self._events.add_listener(self._on_commit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.remove_listener(self._on_commit)

    def clear(self) -> None:
        """Before the log is read: what is committed from now on wakes the next `wait`."""
        self._flag.clear()

    async def wait(self, timeout_s: float | None) -> None:
        """Until a commit since `clear`, or until the time is over; None: no limit."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._flag.wait()
        except TimeoutError:
            pass

    def _on_commit(self, sequence: int) -> None:
        try:
            self._loop.call_soon_threadsafe(self._flag.set)
        except RuntimeError:
            # The loop was closed around a watcher; there is nobody left to wake.
            pass


class _ProgressPulse:
    """When to tell the progress of which jobs. `interval_s` 0: never."""

    def __init__(self, jobs: JobRegistry, filters: JobFilter, interval_s: float, now_s: float) -> None:
        self._jobs = jobs
        self._filters = filters
        self._interval_s = max(interval_s, PROGRESS_INTERVAL_S_MIN) if interval_s else 0.0
        self._due_s = now_s
        self._told: dict[str, JobProgress] = {}

    def until_due_s(self, now_s: float) -> float | None:
        """Seconds to the next look; None: never."""
        return max(self._due_s - now_s, 0.0) if self._interval_s else None

    def take(self, now_s: float) -> Iterator[tuple[str, JobProgress]]:
        """The active jobs whose figures changed since the last look, if a look is due."""
        if not self._interval_s or now_s < self._due_s:
            return
        self._due_s = now_s + self._interval_s
        jobs = [job for job in self._jobs.list_active(self._filters.connection_uri) if self._filters.matches(job)]
        changed = [job for job in jobs if self._told.get(job.job_id) != job.progress]
        self._told = {job.job_id: job.progress for job in jobs}
        for job in changed:
            yield job.job_id, job.progress


async def read_entries(events: EventLog, after_sequence: int) -> list[LogEntry]:
    """The next entries; [] at the end of the log. `EventsCompacted` when they are gone."""
    recent = events.read_recent(after_sequence, READ_COUNT)
    if recent is not None:
        return recent
    return await asyncio.to_thread(events.read, after_sequence, READ_COUNT)


async def watch_jobs(
    jobs: JobRegistry,
    events: EventLog,
    after_sequence: int | None,
    filters: JobFilter,
    *,
    include_snapshot: bool,
    progress_interval_s: float,
    bookmark_interval_s: float,
) -> AsyncGenerator[WatchItem, None]:
    """See `BlockJobApi.watch`."""
    now_s = asyncio.get_running_loop().time
    with Wakeup(events) as wakeup:
        cursor, snapshot = await _begin(jobs, events, after_sequence)
        if include_snapshot and after_sequence is None:
            for job in filter(filters.matches, snapshot):
                yield JobChanged(cursor, time.time(), job)
        is_snapshot_end = include_snapshot and after_sequence is None
        yield Bookmark(cursor, time.time(), is_snapshot_end)
        spoke_s = now_s()
        pulse = _ProgressPulse(jobs, filters, progress_interval_s, spoke_s)
        while True:
            wakeup.clear()
            entries = await read_entries(events, cursor)
            for entry in entries:
                cursor = entry.sequence
                if entry.job is not None and filters.matches(entry.job):
                    yield JobChanged(cursor, entry.time_s, entry.job)
                    spoke_s = now_s()
            if entries:
                continue
            for job_id, progress in pulse.take(now_s()):
                yield JobProgressed(cursor, time.time(), job_id, progress)
                spoke_s = now_s()
            if now_s() - spoke_s >= bookmark_interval_s:
                yield Bookmark(cursor, time.time())
                spoke_s = now_s()
            silence_s = max(spoke_s + bookmark_interval_s - now_s(), 0.0)
            until_pulse_s = pulse.until_due_s(now_s())
            await wakeup.wait(silence_s if until_pulse_s is None else min(silence_s, until_pulse_s))


async def _begin(jobs: JobRegistry, events: EventLog, after_sequence: int | None) -> tuple[int, list[BlockJob]]:
    """The cursor to start from, and the active jobs as of it when it is the log's end."""
    if after_sequence is None:
        return await asyncio.to_thread(jobs.snapshot)
    if not 0 <= after_sequence <= events.last_sequence:
        detail = f"there is no event {after_sequence} to go on after"
        raise report(ErrorNumber.INVALID_ARG, detail, domain=ErrorDomain.DOMAIN)
    events.read_recent(after_sequence, 1)  # raises when the entries after it are gone
    return after_sequence, []


async def wait_for_job(
    jobs: JobRegistry, events: EventLog, job_id: str, states: Collection[JobState], timeout_s: float | None
) -> BlockJob:
    """See `BlockJobApi.wait`. Reads the log, so a wanted state that passes quickly is seen."""
    now_s = asyncio.get_running_loop().time
    deadline_s = None if timeout_s is None else now_s() + timeout_s
    with Wakeup(events) as wakeup:
        # The cursor first: what changes between the two is seen twice rather than never.
        cursor = events.last_sequence
        job = await asyncio.to_thread(jobs.get, job_id)
        while not (job.state.is_final or job.state in states):
            wakeup.clear()
            try:
                entries = await read_entries(events, cursor)
            except EventsCompacted:
                cursor = events.last_sequence
                job = await asyncio.to_thread(jobs.get, job_id)
                continue
            if entries:
                cursor, job = _advance(entries, job, states)
                continue
            left_s = None if deadline_s is None else deadline_s - now_s()
            if left_s is not None and left_s <= 0:
                return await asyncio.to_thread(jobs.get, job_id)
            await wakeup.wait(left_s)
        return job


def _advance(entries: list[LogEntry], job: BlockJob, states: Collection[JobState]) -> tuple[int, BlockJob]:
    """The job after these entries, or at the first of them with a wanted or final state; and that entry's sequence."""
    for entry in entries:
        if entry.job is not None and entry.job.job_id == job.job_id:
            job = entry.job.with_changes(details=job.details)
            if job.state.is_final or job.state in states:
                return entry.sequence, job
    return entries[-1].sequence, job


def event_ids_of(event_ids: Collection[int]) -> frozenset[int]:
    """The kinds of domain events to send; none given means LIFECYCLE. INVALID_ARG for one that is not served."""
    function = "virConnectDomainEventRegisterAny"
    for event_id in event_ids:
        if event_id < 0:
            raise argument_check(function, "eventID", f"eventID in {function} must be zero or greater")
        if event_id >= DOMAIN_EVENT_ID_END:
            raise argument_check(function, "eventID", f"eventID must be less than {DOMAIN_EVENT_ID_END}")
        if event_id not in set(DomainEventId):
            raise argument_check(function, "eventID", f"eventID {event_id} is not served")
    return frozenset(event_ids) or frozenset({int(DomainEventId.LIFECYCLE)})


async def watch_domain_events(
    events: EventLog, connection_uri: str, domain_uuid: str | None, event_ids: frozenset[int]
) -> AsyncGenerator[DomainEventItem | None, None]:
    """See `BlockJobApi.watch_domain_events`. `domain_uuid` None: every domain."""
    with Wakeup(events) as wakeup:
        cursor = events.last_sequence
        yield None
        while True:
            wakeup.clear()
            try:
                entries = await read_entries(events, cursor)
            except EventsCompacted as error:
                raise SlowReader from error
            for entry in entries:
                cursor = entry.sequence
                event = entry.domain_event
                if event is not None and _is_wanted(event, connection_uri, domain_uuid, event_ids):
                    yield event
            if not entries:
                await wakeup.wait(None)


def _is_wanted(event: DomainEventItem, connection_uri: str, domain_uuid: str | None, event_ids: frozenset[int]) -> bool:
    event_id = DomainEventId.LIFECYCLE if isinstance(event, LifecycleEvent) else event.event_id
    return (
        event_id in event_ids
        and event.domain.connection_uri == connection_uri
        and domain_uuid in (None, event.domain.uuid)
    )
