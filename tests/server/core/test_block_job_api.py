# SPDX-License-Identifier: Apache-2.0
"""Waits and streams: in order, without gaps, over resumption; and nothing of it touches a job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TypeVar

import pytest
from server.core.samples import CALLER, DOMAIN, READ_ONLY, URI, UUID, Apis, BareDriver, Core

from virtblock.server.core import watching
from virtblock.server.core.block_job_api import Bookmark, JobChanged, JobProgressed, SlowReader, WatchItem
from virtblock.server.core.errors import VirError
from virtblock.server.core.events import DomainEvents, EventLog, EventsCompacted
from virtblock.server.core.jobs import BlockJobNotFound, JobFilter
from virtblock.server.core.model import (
    BlockJobEvent,
    BlockJobStatus,
    Domain,
    DomainSelector,
    JobProgress,
    JobState,
    LifecycleEvent,
    LogEntry,
)

ALL = JobFilter()
WAIT_S = 60.0
T = TypeVar("T")


async def _take(stream: AsyncGenerator[T, None], count: int) -> list[T]:
    async with asyncio.timeout(WAIT_S):
        return [await anext(stream) for _ in range(count)]


def _run_job(core: Core, disk: str = "vda", *states: JobState) -> str:
    job_id = core.begin(disk).job_id
    for state in states or (JobState.RUNNING, JobState.READY, JobState.CANCELED):
        core.jobs.transition(job_id, state)
    return job_id


def _states(items: list[WatchItem]) -> list[tuple[int, JobState]]:
    return [(item.sequence, item.job.state) for item in items if isinstance(item, JobChanged)]


async def test_a_watch_begins_now(apis: Apis) -> None:
    _run_job(apis.core)
    stream = apis.jobs.watch(CALLER, None, ALL)
    assert [type(item) for item in await _take(stream, 1)] == [Bookmark]
    _run_job(apis.core, "vdb", JobState.RUNNING)
    assert _states(await _take(stream, 2)) == [(5, JobState.NEW), (6, JobState.RUNNING)]
    await stream.aclose()


async def test_a_watch_begins_with_a_snapshot(apis: Apis) -> None:
    _run_job(apis.core)
    job_id = _run_job(apis.core, "vdb", JobState.RUNNING)
    stream = apis.jobs.watch(CALLER, None, ALL, include_snapshot=True)
    job, mark = await _take(stream, 2)
    assert isinstance(job, JobChanged)
    assert (job.job.job_id, job.job.state, job.sequence) == (job_id, JobState.RUNNING, 6)
    assert isinstance(mark, Bookmark)
    assert (mark.sequence, mark.is_snapshot_end) == (6, True)
    await stream.aclose()


async def test_a_resumed_watch_misses_nothing(apis: Apis, tmp_path: Path) -> None:
    """Whatever entry it goes on after, and over a restart of the server."""
    _run_job(apis.core)
    core = Core.open(tmp_path / "state.db")
    again = Apis.over(core)
    for after in range(5):
        stream = again.jobs.watch(CALLER, after, ALL, include_snapshot=True)
        items = await _take(stream, 1 + 4 - after)
        assert isinstance(items[0], Bookmark)
        assert (items[0].sequence, items[0].is_snapshot_end) == (after, False)
        assert [sequence for sequence, _ in _states(items)] == list(range(after + 1, 5))
        await stream.aclose()
    core.store.close()


async def test_writers_on_other_threads_are_seen_in_order(apis: Apis) -> None:
    stream = apis.jobs.watch(CALLER, 0, ALL)
    writers = [threading.Thread(target=_run_job, args=(apis.core, f"vd{number}")) for number in range(8)]
    for writer in writers:
        writer.start()
    items = await _take(stream, 1 + 8 * 4)
    assert [sequence for sequence, _ in _states(items)] == list(range(1, 33))
    for writer in writers:
        writer.join()
    await stream.aclose()


async def test_a_change_right_after_the_read_is_not_slept_through(apis: Apis, monkeypatch: pytest.MonkeyPatch) -> None:
    read = watching.read_entries
    missed = [True]

    async def read_and_miss(events: EventLog, after_sequence: int) -> list[LogEntry]:
        entries = await read(events, after_sequence)
        if missed and missed.pop():
            await asyncio.to_thread(apis.core.begin)
            await asyncio.sleep(0.01)
        return entries

    monkeypatch.setattr(watching, "read_entries", read_and_miss)
    stream = apis.jobs.watch(CALLER, None, ALL, bookmark_interval_s=3600)
    assert _states(await _take(stream, 2)) == [(1, JobState.NEW)]
    await stream.aclose()


async def test_filters(apis: Apis) -> None:
    ready = JobFilter(disk="vdb", states=frozenset({JobState.READY}))
    stream = apis.jobs.watch(CALLER, 0, ready)
    _run_job(apis.core)
    _run_job(apis.core, "vdb")
    assert _states(await _take(stream, 2)) == [(7, JobState.READY)]
    await stream.aclose()


async def test_bookmarks_carry_a_filtered_reader_on(apis: Apis) -> None:
    stream = apis.jobs.watch(CALLER, None, JobFilter(disk="vdz"), bookmark_interval_s=0.05)
    await _take(stream, 1)
    _run_job(apis.core)
    async with asyncio.timeout(WAIT_S):
        while (await anext(stream)).sequence < 4:
            pass
    await stream.aclose()


async def test_progress(apis: Apis) -> None:
    job_id = _run_job(apis.core, "vda", JobState.RUNNING)
    stream = apis.jobs.watch(CALLER, None, ALL, progress_interval_s=0.001)
    loop = asyncio.get_running_loop()
    await _take(stream, 1)
    begin_s = loop.time()
    for cur in (5, 6, 7):
        apis.core.jobs.set_progress(job_id, JobProgress(cur=cur, end=10))
        (item,) = await _take(stream, 1)
        assert isinstance(item, JobProgressed)
        assert (item.job_id, item.progress.cur, item.sequence) == (job_id, cur, 2)
    assert loop.time() - begin_s >= 0.9  # at most two a second
    apis.core.jobs.transition(job_id, JobState.CANCELED)
    assert _states(await _take(stream, 1)) == [(3, JobState.CANCELED)]
    await stream.aclose()


async def test_tokens_that_cannot_be_resumed(tmp_path: Path) -> None:
    core = Core.open(tmp_path / "other.db", retention_count=3)
    apis = Apis.over(core)
    _run_job(core)
    _run_job(core)
    with pytest.raises(EventsCompacted) as gone:
        await _take(apis.jobs.watch(CALLER, 4, ALL), 1)
    assert gone.value.oldest_sequence == 6
    for after in (9, -1):
        with pytest.raises(VirError, match="no event") as caught:
            await _take(apis.jobs.watch(CALLER, after, ALL), 1)
        assert caught.value.number == 8
    stream = apis.jobs.watch(CALLER, 5, ALL)
    assert len(_states(await _take(stream, 4))) == 3
    await stream.aclose()
    core.store.close()


async def test_leaving_a_watch_leaves_the_job(apis: Apis) -> None:
    job_id = _run_job(apis.core, "vda", JobState.RUNNING)
    stream = apis.jobs.watch(CALLER, None, ALL)
    await _take(stream, 1)
    reading = asyncio.ensure_future(anext(stream))
    waiting = asyncio.ensure_future(apis.jobs.wait(CALLER, job_id, [], None))
    await asyncio.sleep(0.05)
    for future in (reading, waiting):
        future.cancel()
    await asyncio.gather(reading, waiting, return_exceptions=True)
    await stream.aclose()
    assert apis.core.events._listeners == ()
    assert apis.core.jobs.get(job_id).state is JobState.RUNNING


async def test_wait_for_a_state(apis: Apis) -> None:
    job_id = _run_job(apis.core, "vda", JobState.RUNNING)
    waiting = asyncio.ensure_future(apis.jobs.wait(CALLER, job_id, [JobState.READY], WAIT_S))
    await asyncio.sleep(0.05)
    # Gone again before the waiter could look: it reads the log.
    apis.core.jobs.transition(job_id, JobState.READY)
    apis.core.jobs.transition(job_id, JobState.PIVOTING)
    assert (await waiting).state is JobState.READY


async def test_a_final_state_ends_every_wait(apis: Apis) -> None:
    job_id = _run_job(apis.core, "vda", JobState.RUNNING)
    waiting = asyncio.ensure_future(apis.jobs.wait(CALLER, job_id, [JobState.READY], None))
    await asyncio.sleep(0.05)
    apis.core.jobs.transition(job_id, JobState.FAILED, reason="no space")
    assert (await waiting).reason == "no space"
    assert (await apis.jobs.wait(CALLER, job_id, [], None)).state is JobState.FAILED


async def test_a_wait_that_takes_too_long_answers_the_job_as_it_is(apis: Apis) -> None:
    job_id = _run_job(apis.core, "vda", JobState.RUNNING)
    assert (await apis.jobs.wait(CALLER, job_id, [], 0.05)).state is JobState.RUNNING
    assert (await apis.jobs.wait(CALLER, job_id, [JobState.RUNNING], 0.0)).state is JobState.RUNNING
    with pytest.raises(VirError, match="timeout"):
        await apis.jobs.wait(CALLER, job_id, [], -1)
    with pytest.raises(BlockJobNotFound):
        await apis.jobs.wait(CALLER, "vb-0", [], 1)


def test_get(apis: Apis) -> None:
    job_id = _run_job(apis.core)
    assert apis.jobs.get(READ_ONLY, job_id).state is JobState.CANCELED
    for unknown in ("", "vb-0"):
        with pytest.raises(VirError) as caught:
            apis.jobs.get(CALLER, unknown)
        assert caught.value.number == 8


def test_pausing(apis: Apis) -> None:
    job_id = _run_job(apis.core, "vda", JobState.RUNNING)
    assert apis.jobs.pause(CALLER, job_id).paused
    assert apis.jobs.pause(CALLER, job_id).paused
    assert not apis.jobs.resume(CALLER, job_id).paused
    assert apis.driver.calls == [("pause", job_id), ("resume", job_id)]
    with pytest.raises(VirError, match="prevents PauseBlockJob"):
        apis.jobs.pause(READ_ONLY, job_id)
    apis.core.jobs.transition(job_id, JobState.CANCELED)
    with pytest.raises(VirError, match="is canceled") as caught:
        apis.jobs.resume(CALLER, job_id)
    assert caught.value.number == 55


def test_a_map_has_no_cell_below_a_granule(apis: Apis) -> None:
    job_id = _run_job(apis.core, "vda", JobState.RUNNING)
    for size_bytes, asked, cells, cell_bytes in [
        (64 << 20, 64, 64, 1 << 20),
        (64 << 20, 65536, 1024, 65536),
        ((1 << 20) + 1, 4, 4, 5 * 65536),
        (1, 1, 1, 65536),
    ]:
        apis.core.jobs.update(job_id, size_bytes=size_bytes)
        picture = apis.jobs.map(CALLER, job_id, asked)
        assert (picture.size_bytes, picture.cell_bytes, len(picture.cells)) == (size_bytes, cell_bytes, cells)
        assert len(picture.cells) == -(-picture.size_bytes // picture.cell_bytes)
    for wrong in (0, 65537):
        with pytest.raises(VirError, match="cell_count"):
            apis.jobs.map(CALLER, job_id, wrong)


async def test_watching_a_map_to_its_end(apis: Apis) -> None:
    """The driver of this test forgets a job's map with its end; the last picture stands, settled when it completed."""
    job_id = _run_job(apis.core, "vda", JobState.RUNNING)
    apis.core.jobs.update(job_id, size_bytes=4 << 20)
    stream = apis.jobs.watch_map(CALLER, job_id, 4, 60.0)
    (first,) = await _take(stream, 1)
    assert first.cells == b"\x03\x01\x01\x01"
    apis.core.jobs.transition(job_id, JobState.COMPLETED)
    # Long before the interval is over.
    (last,) = await _take(stream, 1)
    assert (last.job.state, last.cells) == (JobState.COMPLETED, b"\x03\x03\x03\x03")
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert apis.jobs.map(CALLER, job_id, 4).cells == b"\x03\x03\x03\x03"
    with pytest.raises(VirError, match="interval"):
        await anext(apis.jobs.watch_map(CALLER, job_id, 4, 0.0))


async def test_libvirts_own_events(apis: Apis) -> None:
    job_id = _run_job(apis.core, "vda", JobState.RUNNING)
    stream = apis.jobs.watch_domain_events(CALLER, "", DomainSelector(name="test"), [8, 16])
    assert await _take(stream, 1) == [None]
    apis.core.jobs.transition(job_id, JobState.READY, status=BlockJobStatus.READY, domain=DOMAIN, event_path="/p")
    events = await _take(stream, 2)
    assert [(event.event_id, event.disk) for event in events if isinstance(event, BlockJobEvent)] == [
        (8, "/p"),
        (16, "vda"),
    ]
    await stream.aclose()
    assert apis.core.events._listeners == ()


async def test_domain_events_are_filtered(apis: Apis) -> None:
    stream = apis.jobs.watch_domain_events(CALLER, URI, DomainSelector(uuid=UUID), [])
    await _take(stream, 1)
    others = [Domain("other:///", "test", UUID), Domain(URI, "other", "00000000-0000-0000-0000-000000000001"), DOMAIN]
    told = DomainEvents(apis.core.events)
    for domain in others:
        with apis.core.store.transaction() as transaction:
            told.defined(transaction, domain, is_update=False)
    assert await _take(stream, 1) == [LifecycleEvent(DOMAIN, 0, 0)]
    await stream.aclose()


async def test_domain_events_that_cannot_be_served(apis: Apis) -> None:
    for selector, event_ids, number in [
        (None, [3], 8),
        (None, [27], 8),
        (DomainSelector(name="none"), [], 42),
        (DomainSelector(connection_uri="other:///", name="test"), [], 8),
    ]:
        with pytest.raises(VirError) as caught:
            await anext(apis.jobs.watch_domain_events(CALLER, "", selector, event_ids))
        assert caught.value.number == number


async def test_a_reader_of_domain_events_that_falls_behind_is_told(tmp_path: Path) -> None:
    core = Core.open(tmp_path / "other.db", retention_count=2)
    stream = Apis.over(core, BareDriver).jobs.watch_domain_events(CALLER, "", None, [])
    await _take(stream, 1)
    _run_job(core)
    with pytest.raises(SlowReader) as caught:
        await _take(stream, 1)
    assert caught.value.number == 87
    core.store.close()
