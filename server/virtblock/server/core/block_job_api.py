# SPDX-License-Identifier: Apache-2.0
"""Jobs by id: look, wait, watch. Signatures first; the bodies follow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from virtblock.server.core.connections import Connections
from virtblock.server.core.events import EventLog
from virtblock.server.core.jobs import JobFilter, JobRegistry
from virtblock.server.core.model import (
    BlockJob,
    BlockJobEvent,
    Caller,
    DomainSelector,
    JobProgress,
    JobState,
    LifecycleEvent,
)


@dataclass(frozen=True)
class JobChanged:
    """A job as it was right after the change with this sequence (in a snapshot: as it is, with the snapshot's sequence)."""

    sequence: int
    time_s: float
    job: BlockJob


@dataclass(frozen=True)
class JobProgressed:
    """Figures of a running job; not kept."""

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


@dataclass(frozen=True)
class MapPicture:
    """The whole disk in cells of `cell_bytes` (the last may be shorter); `cells` has the engine's state per cell."""

    job: BlockJob
    size_bytes: int
    cell_bytes: int
    cells: bytes


WatchItem = JobChanged | JobProgressed | Bookmark
DomainEventItem = LifecycleEvent | BlockJobEvent


class BlockJobApi:
    def __init__(self, connections: Connections, jobs: JobRegistry, events: EventLog) -> None: ...
    def get(self, caller: Caller, job_id: str) -> BlockJob:
        raise NotImplementedError

    def list(
        self, caller: Caller, filters: JobFilter, *, include_ended: bool, page_size: int, page_token: str
    ) -> tuple[list[BlockJob], str]:
        raise NotImplementedError

    def pause(self, caller: Caller, job_id: str) -> BlockJob:
        raise NotImplementedError

    def resume(self, caller: Caller, job_id: str) -> BlockJob:
        raise NotImplementedError

    def map(self, caller: Caller, job_id: str, cell_count: int) -> MapPicture:
        raise NotImplementedError

    async def wait(
        self, caller: Caller, job_id: str, states: Collection[JobState], timeout_s: float | None
    ) -> BlockJob:
        raise NotImplementedError

    def watch(
        self,
        caller: Caller,
        after_sequence: int | None,
        filters: JobFilter,
        *,
        include_snapshot: bool = False,
        progress_interval_s: float = 0.0,
        bookmark_interval_s: float = 10.0,
    ) -> AsyncIterator[WatchItem]:
        raise NotImplementedError

    def watch_map(self, caller: Caller, job_id: str, cell_count: int, interval_s: float) -> AsyncIterator[MapPicture]:
        raise NotImplementedError

    def watch_domain_events(
        self, caller: Caller, uri: str, selector: DomainSelector | None, event_ids: Collection[int]
    ) -> AsyncIterator[DomainEventItem | None]:
        """First None, when all later events are included; then the events."""
        raise NotImplementedError
