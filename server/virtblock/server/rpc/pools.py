# SPDX-License-Identifier: Apache-2.0
"""The threads that the core's blocking calls run in.

Owns: two bounded pools, one for calls that may wait long and one for calls that may not, so that looking always works
while the other pool is stuck in a hypervisor. Invariants: a call that began runs to its end whatever becomes of its
caller (a deadline ends the call, never the work); a call that waits for a thread and loses its caller never begins;
no more than `limits.POOL_QUEUE_MAX` calls wait for one pool; one domain has no more than `limits.DOMAIN_THREADS_MAX`
threads, so that one whose hypervisor does not answer leaves some to the others: its next calls wait without a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, report
from virtblock.server.rpc import limits

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class _Turns:
    """The threads that a key may have, and how many calls hold one or wait for it."""

    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(limits.DOMAIN_THREADS_MAX))
    user_count: int = 0


class WorkerPool:
    """A bounded thread pool with a bounded queue."""

    def __init__(self, name: str, thread_count: int, queue_max: int = limits.POOL_QUEUE_MAX) -> None:
        self._name = name
        self._admitted_max = thread_count + queue_max
        self._admitted_count = 0
        self._turns: dict[Hashable, _Turns] = {}
        self._executor = ThreadPoolExecutor(thread_count, thread_name_prefix=f"virtblock-{name}")

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function in the pool. Raises VirError RESOURCE_BUSY when the queue is full.

        Only to be called on the event loop: the counts are kept there, without a lock.
        """
        return await asyncio.wrap_future(self._submit(partial(function, *args, **kwargs), lambda: None))

    async def run_for(self, key: Hashable, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, with no more than `limits.DOMAIN_THREADS_MAX` at a time for one key; the others wait their turn."""
        turns = self._turns.setdefault(key, _Turns())
        turns.user_count += 1
        has_turn = False
        try:
            await turns.free.acquire()
            has_turn = True
            work = self._submit(partial(function, *args, **kwargs), lambda: self._leave(key, turns, has_turn=True))
        except BaseException:
            self._leave(key, turns, has_turn=has_turn)
            raise
        return await asyncio.wrap_future(work)

    def _submit(self, function: Callable[[], T], on_over: Callable[[], None]) -> Future[T]:
        """`on_over` is called on the event loop when the work is over, or was given up before it began."""
        if self._admitted_count >= self._admitted_max:
            detail = f"{self._admitted_count} calls wait for or hold a {self._name} worker"
            raise report(ErrorNumber.RESOURCE_BUSY, detail, domain=ErrorDomain.RPC)
        loop = asyncio.get_running_loop()
        work = self._executor.submit(function)
        self._admitted_count += 1
        # Counted until the work is over, not until its caller is gone: abandoned work holds its thread all the same.
        work.add_done_callback(lambda _: self._release_from(loop, on_over))
        return work

    def _leave(self, key: Hashable, turns: _Turns, *, has_turn: bool) -> None:
        if has_turn:
            turns.free.release()
        turns.user_count -= 1
        if turns.user_count == 0:
            del self._turns[key]

    @property
    def admitted_count(self) -> int:
        """Calls that run or wait now."""
        return self._admitted_count

    def close(self) -> None:
        """Take no more calls and forget those that wait. Calls that run are not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _release_from(self, loop: asyncio.AbstractEventLoop, on_over: Callable[[], None]) -> None:
        try:
            loop.call_soon_threadsafe(self._release, on_over)
        except RuntimeError:
            # The loop is closed: the process ends, and nobody counts any more.
            return

    def _release(self, on_over: Callable[[], None]) -> None:
        self._admitted_count -= 1
        on_over()


class WorkerPools:
    """Both pools of a server."""

    def __init__(
        self,
        blocking_thread_count: int = limits.BLOCKING_THREAD_COUNT,
        cheap_thread_count: int = limits.CHEAP_THREAD_COUNT,
    ) -> None:
        self.blocking = WorkerPool("blocking", blocking_thread_count)
        self.cheap = WorkerPool("cheap", cheap_thread_count)

    @property
    def is_idle(self) -> bool:
        """Whether no call runs or waits in either pool."""
        return self.blocking.admitted_count == 0 and self.cheap.admitted_count == 0

    def close(self) -> None:
        """Close both; see `WorkerPool.close`."""
        self.blocking.close()
        self.cheap.close()
