# SPDX-License-Identifier: Apache-2.0
"""Both clients under one face, so that every case is shown for each."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Protocol

from virtblock.client import AsyncClient, Client


class FrontEnd(Protocol):
    """Makes calls by name with a client of its own."""

    name: str

    def call(self, target: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """The answer of one call."""

    def take(self, target: str, method: str, count: int | None, *args: Any, **kwargs: Any) -> tuple[list[Any], str]:
        """The first `count` messages of a stream, or all, and the watcher's token after them."""


class Blocking:
    """The blocking client."""

    name = "blocking"

    def call(self, target: str, method: str, *args: Any, **kwargs: Any) -> Any:
        with Client(target) as client:
            return getattr(client, method)(*args, **kwargs)

    def take(self, target: str, method: str, count: int | None, *args: Any, **kwargs: Any) -> tuple[list[Any], str]:
        with Client(target) as client, getattr(client, method)(*args, **kwargs) as stream:
            taken = list(itertools.islice(stream, count))
            return taken, getattr(stream, "resume_token", "")


class Asyncio:
    """The asyncio client, each time on an event loop of its own."""

    name = "asyncio"

    def call(self, target: str, method: str, *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(target) as client:
                return await getattr(client, method)(*args, **kwargs)

        return asyncio.run(run())

    def take(self, target: str, method: str, count: int | None, *args: Any, **kwargs: Any) -> tuple[list[Any], str]:
        async def run() -> tuple[list[Any], str]:
            taken: list[Any] = []
            async with AsyncClient(target) as client, getattr(client, method)(*args, **kwargs) as stream:
                while count is None or len(taken) < count:
                    try:
                        taken.append(await anext(stream))
                    except StopAsyncIteration:
                        break
                return taken, getattr(stream, "resume_token", "")

        return asyncio.run(run())
