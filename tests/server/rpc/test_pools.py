# SPDX-License-Identifier: Apache-2.0
"""The workers: bounded, and a caller that goes away neither stops what runs nor starts what waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from virtblock.server.core.errors import ErrorNumber, VirError
from virtblock.server.rpc import limits
from virtblock.server.rpc.pools import WorkerPool

WAIT_S = 60


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in threads
            await asyncio.sleep(0.005)


async def test_a_result_and_an_exception_come_back() -> None:
    pool = WorkerPool("test", 1)
    assert await pool.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)
    pool.close()


async def test_what_runs_goes_on_when_its_caller_is_gone(gate: threading.Event) -> None:
    pool, entered, done = WorkerPool("test", 1), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        gate.wait(WAIT_S)
        done.set()

    call = asyncio.ensure_future(pool.run(work))
    await until(entered.is_set)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert pool.admitted_count == 1, "abandoned work still holds its thread"
    gate.set()
    await until(done.is_set)
    await until(lambda: pool.admitted_count == 0)
    pool.close()


async def test_what_waits_never_begins_when_its_caller_is_gone(gate: threading.Event) -> None:
    pool, begun = WorkerPool("test", 1), threading.Event()
    running = asyncio.ensure_future(pool.run(gate.wait, WAIT_S))
    waiting = asyncio.ensure_future(pool.run(begun.set))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gate.set()
    await running
    await pool.run(lambda: None)
    assert not begun.is_set()
    pool.close()


async def test_a_full_queue_is_told_at_once(gate: threading.Event) -> None:
    pool = WorkerPool("test", 1, queue_max=2)
    calls = [asyncio.ensure_future(pool.run(gate.wait, WAIT_S)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(VirError) as refused:
        await pool.run(lambda: None)
    assert refused.value.number == ErrorNumber.RESOURCE_BUSY
    gate.set()
    await asyncio.gather(*calls)
    await until(lambda: pool.admitted_count == 0)
    await pool.run(lambda: None)
    pool.close()


async def test_a_key_has_its_share_of_the_threads_and_no_more(gate: threading.Event) -> None:
    pool = WorkerPool("test", limits.DOMAIN_THREADS_MAX + 1)
    begun = threading.Semaphore(0)

    def work() -> None:
        begun.release()
        gate.wait(WAIT_S)

    calls = [asyncio.ensure_future(pool.run_for("stuck", work)) for _ in range(limits.DOMAIN_THREADS_MAX * 3)]
    for _ in range(limits.DOMAIN_THREADS_MAX):
        await until(lambda: begun.acquire(blocking=False))
    assert await pool.run_for("other", divmod, 7, 2) == (3, 1)
    assert pool.admitted_count == limits.DOMAIN_THREADS_MAX
    calls.pop().cancel()
    gate.set()
    await asyncio.gather(*calls)
    await until(lambda: pool.admitted_count == 0)
    assert not pool._turns, "a key that nobody uses is forgotten"
    pool.close()
