# SPDX-License-Identifier: Apache-2.0
"""Jobs by id: look, list, wait, watch, pause, and the picture of a copy. libvirt has none of these.

Owns: the checks of these calls. Invariants: what ends a wait or a watch never ends the job; pausing is recorded here,
after the driver did it, so every driver's jobs tell it alike. The plain methods block and are called from worker
threads; the others belong to an asyncio loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, replace

from virtblock.server.core.connections import Connections, require
from virtblock.server.core.driver import Driver
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.core.events import EventLog
from virtblock.server.core.jobs import JobFilter, JobRegistry
from virtblock.server.core.lookup import DomainLookup, refuse_read_only
from virtblock.server.core.model import BlockJob, Caller, DomainSelector, JobState
from virtblock.server.core.watching import (
    BOOKMARK_INTERVAL_S,
    Bookmark,
    DomainEventItem,
    JobChanged,
    JobProgressed,
    SlowReader,
    Wakeup,
    WatchItem,
    event_ids_of,
    wait_for_job,
    watch_domain_events,
    watch_jobs,
)

__all__ = [
    "BlockJobApi",
    "Bookmark",
    "DomainEventItem",
    "JobChanged",
    "JobProgressed",
    "MapPicture",
    "SlowReader",
    "WatchItem",
]

MAP_CELL_COUNT_MAX = 65536
# The engine's cell states, as the driver Protocol gives them.
CELL_TODO, CELL_DONE, CELL_FAILED = 1, 3, 6
_WITHOUT_MAP = frozenset({JobState.NEW, JobState.COMPLETED, JobState.CANCELED, JobState.FAILED})
_ENDING = frozenset({JobState.ABORTING, JobState.PIVOTING})
MAP_INTERVAL_S_MIN = 0.1
MAP_INTERVAL_S_MAX = 60.0
# No cell is smaller than a dirty granule: it would show nothing more.
MAP_CELL_BYTES_STEP = 64 * 1024

# Engine cell states that a completed job cannot have (to do, copying, dirty again), all to done.
_COMPLETED_CELLS = bytes.maketrans(b"\x01\x02\x05", b"\x03\x03\x03")


@dataclass(frozen=True)
class MapPicture:
    """The whole disk in cells of `cell_bytes` (the last may be shorter); `cells` has the engine's state per cell.

    `is_drawn`: the driver showed it; otherwise it is told from the job's state alone.
    """

    job: BlockJob
    size_bytes: int
    cell_bytes: int
    cells: bytes
    is_drawn: bool = True


class BlockJobApi:
    """The calls of BlockJobService, and ConnectService's stream of domain events, which lives on the same log."""

    def __init__(self, connections: Connections, jobs: JobRegistry, events: EventLog) -> None:
        self._connections = connections
        self._lookup = DomainLookup(connections)
        self._jobs = jobs
        self._events = events

    def get(self, caller: Caller, job_id: str) -> BlockJob:
        """The job, running or ended. `BlockJobNotFound` for an unknown id, INVALID_ARG for an empty one."""
        if not job_id:
            raise _invalid("job_id is empty")
        return self._jobs.get(job_id)

    def list(
        self, caller: Caller, filters: JobFilter, *, include_ended: bool, page_size: int, page_token: str
    ) -> tuple[list[BlockJob], str]:
        """A page of jobs, newest first, and the next page's token (see `JobRegistry.list_jobs`)."""
        return self._jobs.list_jobs(filters, include_ended=include_ended, page_size=page_size, page_token=page_token)

    def pause(self, caller: Caller, job_id: str) -> BlockJob:
        """Stops moving data until `resume`; of a paused job nothing changes."""
        job, driver = self._to_steer(caller, job_id, "block_job_pause", "PauseBlockJob")
        if not job.paused:
            driver.block_job_pause(job_id)
        return self._jobs.set_paused(job_id, True)

    def resume(self, caller: Caller, job_id: str) -> BlockJob:
        """Goes on with a paused job; of one that is not paused nothing changes."""
        job, driver = self._to_steer(caller, job_id, "block_job_resume", "ResumeBlockJob")
        if job.paused:
            driver.block_job_resume(job_id)
        return self._jobs.set_paused(job_id, False)

    def map(self, caller: Caller, job_id: str, cell_count: int) -> MapPicture:
        """The picture of a job in at most `cell_count` cells (1 to 65536). NO_SUPPORT when its driver has none."""
        if not 1 <= cell_count <= MAP_CELL_COUNT_MAX:
            raise _invalid(f"cell_count {cell_count} is not within 1..{MAP_CELL_COUNT_MAX}")
        job = self.get(caller, job_id)
        driver = self._connections.resolve(job.connection_uri)
        require(driver, "block_job_map", "WatchBlockMap")
        size_bytes = max(job.size_bytes, 1)
        cell_bytes = _round_up(-(-size_bytes // cell_count), MAP_CELL_BYTES_STEP)
        cell_count = -(-size_bytes // cell_bytes)
        cells = None if job.state in _WITHOUT_MAP else self._cells(driver, job_id, cell_count)
        job = self._jobs.get(job_id)
        if cells is None:
            return MapPicture(job, size_bytes, cell_bytes, bytes([_still_cell(job)]) * cell_count, is_drawn=False)
        return MapPicture(job, size_bytes, cell_bytes, cells)

    def _cells(self, driver: Driver, job_id: str, cell_count: int) -> bytes | None:
        """What the driver shows; None when the job has ended meanwhile, or is just being ended."""
        try:
            return driver.block_job_map(job_id, cell_count)
        except VirError:
            if self._jobs.get(job_id).state in _WITHOUT_MAP | _ENDING:
                return None
            raise

    async def wait(
        self, caller: Caller, job_id: str, states: Collection[JobState], timeout_s: float | None
    ) -> BlockJob:
        """The job when it comes into one of `states` or a final one, or as it is after `timeout_s` (None: no limit)."""
        if timeout_s is not None and timeout_s < 0:
            raise _invalid("the timeout is below 0")
        if not job_id:
            raise _invalid("job_id is empty")
        return await wait_for_job(self._jobs, self._events, job_id, states, timeout_s)

    def watch(
        self,
        caller: Caller,
        after_sequence: int | None,
        filters: JobFilter,
        *,
        include_snapshot: bool = False,
        progress_interval_s: float = 0.0,
        bookmark_interval_s: float = BOOKMARK_INTERVAL_S,
    ) -> AsyncGenerator[WatchItem, None]:
        """Every change of the jobs that match, after `after_sequence` (None: from now), in order and without gaps.

        First, only with None and `include_snapshot`, the active jobs as they are; then always a bookmark, at once.
        Progress of active jobs at most every `progress_interval_s` (0: none; never more often than every 0.5 s). A
        bookmark after each `bookmark_interval_s` of silence. `EventsCompacted` when the changes after
        `after_sequence` are no longer kept; INVALID_ARG for a sequence that the log has not reached.
        """
        if progress_interval_s < 0:
            raise _invalid("the progress interval is below 0")
        return watch_jobs(
            self._jobs,
            self._events,
            after_sequence,
            filters,
            include_snapshot=include_snapshot,
            progress_interval_s=progress_interval_s,
            bookmark_interval_s=bookmark_interval_s,
        )

    async def watch_map(
        self, caller: Caller, job_id: str, cell_count: int, interval_s: float
    ) -> AsyncGenerator[MapPicture, None]:
        """A picture at once, then every `interval_s` (0.1 to 60) and after changes of state; the final one ends it."""
        if not MAP_INTERVAL_S_MIN <= interval_s <= MAP_INTERVAL_S_MAX:
            raise _invalid(f"the interval is not within {MAP_INTERVAL_S_MIN:g}..{MAP_INTERVAL_S_MAX:g} s")
        with Wakeup(self._events) as wakeup:
            picture = await asyncio.to_thread(self.map, caller, job_id, cell_count)
            yield picture
            while not picture.job.state.is_final:
                await self._until_due(wakeup, picture.job, interval_s)
                picture = await asyncio.to_thread(self._next_picture, caller, picture, cell_count)
                yield picture

    async def watch_domain_events(
        self, caller: Caller, uri: str, selector: DomainSelector | None, event_ids: Collection[int]
    ) -> AsyncGenerator[DomainEventItem | None, None]:
        """libvirt's events of one domain or of all: first None, when all later events are included; then the events.

        `event_ids` as in virConnectDomainEventRegisterAny; none means LIFECYCLE. `SlowReader` for a reader that
        cannot follow.
        """
        wanted = event_ids_of(event_ids)
        connection_uri = self._connections.resolve(uri).uri
        domain_uuid = None
        if selector is not None:
            domain_uuid = await asyncio.to_thread(self._selected_uuid, connection_uri, selector)
        events = watch_domain_events(self._events, connection_uri, domain_uuid, wanted)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def _until_due(self, wakeup: Wakeup, job: BlockJob, interval_s: float) -> None:
        """Until the interval is over or the job's state is another."""
        now_s = asyncio.get_running_loop().time
        due_s = now_s() + interval_s
        while (left_s := due_s - now_s()) > 0:
            wakeup.clear()
            if (await asyncio.to_thread(self._jobs.get, job.job_id)).state is not job.state:
                return
            await wakeup.wait(left_s)

    def _next_picture(self, caller: Caller, last: MapPicture, cell_count: int) -> MapPicture:
        """The job's picture now. When the driver has none any more the last one stands, settled when it completed."""
        picture = self.map(caller, last.job.job_id, cell_count)
        if picture.is_drawn:
            return picture
        is_completed = picture.job.state is JobState.COMPLETED
        cells = last.cells.translate(_COMPLETED_CELLS) if is_completed else last.cells
        return replace(last, job=picture.job, cells=cells)

    def _to_steer(self, caller: Caller, job_id: str, method: str, call: str) -> tuple[BlockJob, Driver]:
        refuse_read_only(caller, call)
        job = self.get(caller, job_id)
        if job.state not in (JobState.NEW, JobState.RUNNING, JobState.READY):
            detail = f"block job '{job_id}' is {job.state.value}"
            raise report(ErrorNumber.OPERATION_INVALID, detail, domain=ErrorDomain.DOMAIN)
        driver = self._connections.resolve(job.connection_uri)
        require(driver, method, call)
        return job, driver

    def _selected_uuid(self, connection_uri: str, selector: DomainSelector) -> str:
        if selector.connection_uri not in ("", connection_uri):
            raise _invalid(f"the domain's connection_uri is not '{connection_uri}'")
        chosen = replace(selector, connection_uri=connection_uri)
        return self._lookup.select(chosen, "virConnectDomainEventRegisterAny")[1].uuid


def _still_cell(job: BlockJob) -> int:
    """What every cell of a job is that has not begun, or has ended and left no picture."""
    if job.ready_time_s or job.state is JobState.COMPLETED:
        return CELL_DONE
    return CELL_FAILED if job.state is JobState.FAILED else CELL_TODO


def _invalid(detail: str) -> VirError:
    return report(ErrorNumber.INVALID_ARG, detail, domain=ErrorDomain.DOMAIN)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
