# SPDX-License-Identifier: Apache-2.0
"""Watches and streams over a real connection: resumed after every kind of break, and ended at once when asked."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from client.fake_log import FakeLog
from client.fake_server import FakeServer, Refusal
from client.front_ends import FrontEnd

from virtblock.client import AsyncClient, BlockJobFilter, BlockJobState, Client, ErrorNumber, VirError
from virtblock.client.watch import WatchCourse
from virtblock.v1 import connect_service_pb2, errors_pb2, libvirt_enums_pb2

SLOW_READER = errors_pb2.VirError(number=libvirt_enums_pb2.ERR_RESOURCE_BUSY, message="too slow")
COMPACTED = errors_pb2.VirError(number=libvirt_enums_pb2.ERR_OVERFLOW, message="too old")
BREAKS: dict[str, Callable[[], Refusal | None]] = {
    "unavailable": lambda: Refusal(grpc.StatusCode.UNAVAILABLE),
    "slow-reader": lambda: Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, SLOW_READER, reason="SLOW_READER"),
    "cancelled": lambda: Refusal(grpc.StatusCode.CANCELLED),
    "ended": lambda: None,
}


class LogServer:
    """Serves a `FakeLog`, which grows by one change at each break; stream n ends after `cuts[n]` messages."""

    def __init__(self, server: FakeServer, log: FakeLog, cuts: list[int], end: Callable[[], Refusal | None]) -> None:
        self.log = log
        self.requests: list[Any] = []
        self._cuts = list(cuts)
        self._end = end
        server.handlers["WatchBlockJobs"] = self._watch

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        cut = self._cuts.pop(0) if self._cuts else None
        sent = 0
        try:
            for message in self.log.messages(request):
                if sent == cut:
                    break
                yield message
                sent += 1
        except LookupError:
            raise Refusal(grpc.StatusCode.OUT_OF_RANGE, COMPACTED, reason="COMPACTED") from None
        if cut is None:
            await asyncio.sleep(600)
        self.log.head += 1
        refusal = self._end()
        if refusal is not None:
            raise refusal


@pytest.mark.parametrize("kind", BREAKS)
@pytest.mark.parametrize("include_snapshot", [False, True])
def test_cut_at_every_position(server: FakeServer, front_end: FrontEnd, kind: str, include_snapshot: bool) -> None:
    for position in range(1, 7 if kind == "unavailable" else 3):
        log = FakeLog(head=2)
        served = LogServer(server, log, [position, 0, position], BREAKS[kind])
        wanted = (2 if include_snapshot else 0) + 3
        events, token = front_end.take(
            server.target, "watch_block_jobs", wanted, BlockJobFilter(disk="vda"), include_snapshot=include_snapshot
        )
        if include_snapshot and position < 3:
            # The first stream broke within its snapshot, so that a later one was the first that counts.
            assert len({event.job.job_id for event in events}) == wanted
        else:
            assert served.requests[-1].resume_token
            first = 1 if include_snapshot else 3
            jobs = [event.job.job_id for event in events if event.job is not None]
            assert jobs == [f"job-{number}" for number in range(first, first + len(jobs))]
        assert all(request.filter.disk == "vda" for request in served.requests)
        assert token


def test_token_is_passed_on(server: FakeServer, front_end: FrontEnd) -> None:
    served = LogServer(server, FakeLog(head=5), [], BREAKS["ended"])
    events, token = front_end.take(server.target, "watch_block_jobs", 1, resume_token="at-3", include_snapshot=True)
    assert served.requests[0].resume_token == "at-3"
    assert not served.requests[0].include_snapshot
    assert ([event.job.job_id for event in events], token) == (["job-4"], "at-4")


def test_progress_and_bookmarks_on_request(server: FakeServer, front_end: FrontEnd) -> None:
    served = LogServer(server, FakeLog(head=2), [], BREAKS["ended"])
    events, _ = front_end.take(
        server.target, "watch_block_jobs", 4, resume_token="at-1", progress_interval_s=0.25, include_bookmarks=True
    )
    assert served.requests[0].progress_interval_ms == 250
    shown = [(e.job is not None, e.progress is not None, e.bookmark is not None) for e in events]
    assert shown == [(False, False, True), (True, False, False), (False, True, False), (False, False, True)]


def test_compacted_is_raised(server: FakeServer, front_end: FrontEnd) -> None:
    LogServer(server, FakeLog(head=9, oldest=5), [], BREAKS["ended"])
    with pytest.raises(VirError) as caught:
        front_end.take(server.target, "watch_block_jobs", 1, resume_token="at-1")
    assert (caught.value.reason, caught.value.number) == ("COMPACTED", ErrorNumber.OVERFLOW)


def test_compacted_begins_anew(server: FakeServer, front_end: FrontEnd) -> None:
    LogServer(server, FakeLog(head=9, oldest=5, ended=set(range(1, 9))), [], BREAKS["ended"])
    events, token = front_end.take(server.target, "watch_block_jobs", 2, resume_token="at-1", on_compacted="snapshot")
    assert (events[0].job.job_id, events[0].is_snapshot) == ("job-9", True)
    assert events[1].bookmark.snapshot_end
    assert token == "at-9"


def test_server_restart_is_borne(server: FakeServer, front_end: FrontEnd) -> None:
    """The whole server goes and comes back, with changes in between."""
    log = FakeLog(head=0)
    LogServer(server, log, [], BREAKS["ended"])

    def restart() -> None:
        time.sleep(0.5)
        server.stop()
        time.sleep(0.3)
        log.head = 3
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    events, token = front_end.take(server.target, "watch_block_jobs", 3, timeout_s=120)
    thread.join()
    assert [event.job.job_id for event in events] == ["job-1", "job-2", "job-3"]
    assert token == "at-3"


@pytest.mark.parametrize("method", ["watch_block_jobs", "domain_events"])
def test_timeout_ends_the_stream(server: FakeServer, front_end: FrontEnd, method: str) -> None:
    LogServer(server, FakeLog(), [], BREAKS["ended"])
    server.handlers["DomainEventRegisterAny"] = _registered_forever
    start_s = time.monotonic()
    with pytest.raises(VirError) as caught:
        front_end.take(server.target, method, 1, timeout_s=0.5)
    assert time.monotonic() - start_s > 0.4
    assert caught.value.number == ErrorNumber.OPERATION_TIMEOUT


def test_timeout_ends_a_watch_between_streams(server: FakeServer, front_end: FrontEnd) -> None:
    LogServer(server, FakeLog(), [1] + [0] * 1000, BREAKS["unavailable"])
    start_s = time.monotonic()
    with pytest.raises(VirError) as caught:
        front_end.take(server.target, "watch_block_jobs", 1, timeout_s=1.5)
    assert time.monotonic() - start_s > 1.4
    assert caught.value.number == ErrorNumber.OPERATION_TIMEOUT


async def _registered_forever(request: Any, context: Any) -> AsyncIterator[Any]:
    yield connect_service_pb2.DomainEventRegisterAnyResponse()
    await asyncio.sleep(600)


def test_domain_events(server: FakeServer, front_end: FrontEnd) -> None:
    seen: list[Any] = []

    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        seen.append(request)
        yield connect_service_pb2.DomainEventRegisterAnyResponse()
        lifecycle = connect_service_pb2.DomainEvent(event_id=libvirt_enums_pb2.DOMAIN_EVENT_ID_LIFECYCLE)
        lifecycle.domain.name = "guest"
        lifecycle.lifecycle.detail = 3
        yield connect_service_pb2.DomainEventRegisterAnyResponse(event=lifecycle)
        job = connect_service_pb2.DomainEvent(event_id=libvirt_enums_pb2.DOMAIN_EVENT_ID_BLOCK_JOB_2)
        job.block_job.disk = "vda"
        job.block_job.status = libvirt_enums_pb2.DOMAIN_BLOCK_JOB_READY
        yield connect_service_pb2.DomainEventRegisterAnyResponse(event=job)
        raise Refusal(grpc.StatusCode.UNAVAILABLE)

    server.handlers["DomainEventRegisterAny"] = handler
    events, _ = front_end.take(server.target, "domain_events", 2, [0, 16], "guest", connection_uri="test:///x")
    [request] = seen
    assert (request.connection_uri, list(request.event_ids)) == ("test:///x", [0, 16])
    assert (request.domain.name, request.domain.connection_uri) == ("guest", "test:///x")
    lifecycle, job = events
    assert (lifecycle.domain.name, lifecycle.lifecycle.detail, lifecycle.block_job) == ("guest", 3, None)
    assert (job.block_job.disk, job.block_job.status.name, job.lifecycle) == ("vda", "READY", None)
    with pytest.raises(VirError, match="is it running"):
        front_end.take(server.target, "domain_events", 3)


def test_entering_waits_until_established(server: FakeServer, front_end: FrontEnd) -> None:
    """Whatever begins within the `with` is on the stream: the server has said so before."""
    LogServer(server, FakeLog(), [], BREAKS["ended"])
    events, token = front_end.take(server.target, "watch_block_jobs", 0)
    assert (events, token) == ([], "at-0")
    server.handlers["DomainEventRegisterAny"] = _registered_forever
    assert front_end.take(server.target, "domain_events", 0) == ([], "")


@pytest.mark.parametrize("method", ["watch_block_jobs", "domain_events"])
@pytest.mark.parametrize("what", ["stream", "client"])
def test_close_ends_another_threads_wait(server: FakeServer, method: str, what: str) -> None:
    LogServer(server, FakeLog(), [], BREAKS["ended"])
    server.handlers["DomainEventRegisterAny"] = _registered_forever
    with Client(server.target) as client:
        stream = getattr(client, method)()
        taken: list[Any] = []
        thread = threading.Thread(target=lambda: taken.extend(stream))
        thread.start()
        time.sleep(0.5)
        (stream if what == "stream" else client).close()
        thread.join(60)
        assert not thread.is_alive()
        assert taken == []
        stream.close()
        assert list(stream) == []


def test_close_ends_a_threads_pause(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pausing = threading.Event()

    def pause_for_ever(course: object, error: object) -> float:
        pausing.set()
        return 3600.0

    monkeypatch.setattr(WatchCourse, "pause_before_next", pause_for_ever)
    LogServer(server, FakeLog(), [1] + [0] * 1000, BREAKS["unavailable"])
    with Client(server.target) as client:
        watcher = client.watch_block_jobs()
        thread = threading.Thread(target=lambda: list(watcher))
        thread.start()
        assert pausing.wait(60)
        watcher.close()
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("method", ["watch_block_jobs", "domain_events"])
@pytest.mark.parametrize("what", ["stream", "client"])
async def test_close_ends_another_tasks_wait(server: FakeServer, method: str, what: str) -> None:
    LogServer(server, FakeLog(), [], BREAKS["ended"])
    server.handlers["DomainEventRegisterAny"] = _registered_forever
    async with AsyncClient(server.target) as client:
        stream = getattr(client, method)()

        async def read() -> list[Any]:
            return [event async for event in stream]

        task = asyncio.ensure_future(read())
        await asyncio.sleep(0.5)
        await (stream if what == "stream" else client).close()
        assert await asyncio.wait_for(task, 60) == []
        await stream.close()
        assert [event async for event in stream] == []


@pytest.mark.parametrize("method", ["watch_block_jobs", "domain_events"])
async def test_cancelled_wait_loses_nothing(server: FakeServer, method: str) -> None:
    """`asyncio.wait_for` around one event is a common loop; it must not cut the stream."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    log = FakeLog(head=1)
    server_side: list[asyncio.Event] = []

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        gate = asyncio.Event()
        server_side.append(gate)
        loop.call_soon_threadsafe(release.set)
        for message in list(log.messages(request))[:1]:
            yield message
        await gate.wait()
        log.head = 2
        request.resume_token = "at-1"
        for message in list(log.messages(request))[1:]:
            yield message
        await asyncio.sleep(600)

    async def events(request: Any, context: Any) -> AsyncIterator[Any]:
        gate = asyncio.Event()
        server_side.append(gate)
        loop.call_soon_threadsafe(release.set)
        yield connect_service_pb2.DomainEventRegisterAnyResponse()
        await gate.wait()
        yield connect_service_pb2.DomainEventRegisterAnyResponse(event=connect_service_pb2.DomainEvent())
        await asyncio.sleep(600)

    server.handlers |= {"WatchBlockJobs": watch, "DomainEventRegisterAny": events}
    async with AsyncClient(server.target) as client, getattr(client, method)() as stream:
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.1)
        await release.wait()
        server._loop.call_soon_threadsafe(server_side[0].set)
        await asyncio.wait_for(anext(stream), 60)
    assert len(server_side) == 1


async def test_cancelling_a_reading_task_cancels_it(server: FakeServer) -> None:
    LogServer(server, FakeLog(), [], BREAKS["ended"])
    async with AsyncClient(server.target) as client, client.watch_block_jobs() as watcher:
        task = asyncio.ensure_future(anext(watcher))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_unknown_state_in_an_event(server: FakeServer, front_end: FrontEnd) -> None:
    class NewerLog(FakeLog):
        def job(self, number: int) -> Any:
            made = super().job(number)
            made.state = 99  # type: ignore[assignment]
            return made

    LogServer(server, NewerLog(head=2), [], BREAKS["ended"])
    [event], _ = front_end.take(server.target, "watch_block_jobs", 1, resume_token="at-1")
    assert event.job.state == 99
    assert event.job.state not in list(BlockJobState)
    assert not event.job.is_final
