# SPDX-License-Identifier: Apache-2.0
"""What the three servicers share: the core's API, the workers, and who calls.

Owns: `Floor`, one per server, and `Servicing`, one per servicer and listener. Invariants: a servicer method decodes,
makes one call of the core in a worker, and encodes; nothing blocking runs on the event loop; a stream or a wait ends
when the server stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import grpc

from virtblock.server.core.bitmap_api import BitmapApi
from virtblock.server.core.block_api import BlockApi
from virtblock.server.core.block_job_api import BlockJobApi
from virtblock.server.core.connect_api import ConnectApi
from virtblock.server.core.domain_api import DomainApi
from virtblock.server.core.model import Caller, DomainSelector
from virtblock.server.rpc.callers import CallerRule
from virtblock.server.rpc.pools import WorkerPools
from virtblock.server.rpc.status import server_stops

P = ParamSpec("P")
T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Floor:
    """What the servicers of every listener stand on. `stopping` is set once, when the server begins to stop."""

    connect: ConnectApi
    domains: DomainApi
    blocks: BlockApi
    jobs: BlockJobApi
    bitmaps: BitmapApi
    server_version: str
    pools: WorkerPools = field(default_factory=WorkerPools)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class Servicing:
    """A servicer's footing on one listener."""

    def __init__(self, floor: Floor, rule: CallerRule) -> None:
        self._floor = floor
        self._rule = rule
        # Calls that only look at what the server or its hypervisor knows.
        self._cheap = floor.pools.cheap.run

    async def _blocking(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """A call that may wait for a disk, a lock or a hypervisor, those of one domain not holding all the threads."""
        domain = next((argument for argument in args if isinstance(argument, DomainSelector)), None)
        if domain is None:
            return await self._floor.pools.blocking.run(function, *args, **kwargs)
        return await self._floor.pools.blocking.run_for(domain, function, *args, **kwargs)

    def _caller(self, context: Context) -> Caller:
        return self._rule.caller_of(context)

    async def _unless_stopped(self, waiting: Awaitable[T]) -> T:
        """The result of a wait. Raises `server_stops` when the server stops first; the wait is cancelled then."""
        wait = asyncio.ensure_future(waiting)
        stop = asyncio.ensure_future(self._floor.stopping.wait())
        try:
            await asyncio.wait({wait, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not wait.done():
                raise server_stops()
            return wait.result()
        finally:
            await _cancel(wait, stop)

    async def _until_stopped(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items. Raises `server_stops` at the place where the server stops; the source is closed in any case."""
        try:
            while True:
                item = await self._unless_stopped(_next_or_none(items))
                if item is None:
                    return
                yield item[0]
        finally:
            await items.aclose()


async def _next_or_none(items: AsyncGenerator[T, None]) -> tuple[T] | None:
    """The next item in a tuple, or None at the end: a future cannot carry StopAsyncIteration."""
    try:
        return (await anext(items),)
    except StopAsyncIteration:
        return None


async def _cancel(*futures: asyncio.Future[Any]) -> None:
    """Cancel what is not done, and see it end, so that no future is dropped while it runs."""
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)
