# SPDX-License-Identifier: Apache-2.0
"""The asyncio front end, below its methods: one channel, calls, streams and watches over grpc.aio.

Owns: the channel and everything that waits on it. Invariants: a stream or watch that is closed ends at once, also for a
task that waits on it; a cancelled wait (`asyncio.wait_for`) loses no message; to cancel a call never cancels a job.
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
import grpc.aio

from virtblock.client.calls.call import Call, StreamCall, Watch
from virtblock.client.endpoint import Endpoint
from virtblock.client.errors import VirError, timed_out
from virtblock.client.model import BlockJobEvent
from virtblock.client.watch import WatchCourse

T = TypeVar("T")

_LOGGER = logging.getLogger("virtblock.client")


class AsyncCaller(Endpoint):
    """Makes calls on a channel that is opened by the first one, on the event loop that then runs."""

    _channel: grpc.aio.Channel | None = None
    _closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every call and stream, and the connection. No job ends by it. Closing twice changes nothing."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _open_channel(self) -> grpc.aio.Channel:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._channel is None:
            address = self.target.grpc_address
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(address, options=self._options)
            else:
                self._channel = grpc.aio.secure_channel(address, self._credentials, options=self._options)
        return self._channel

    async def _unary(self, call: Call[T]) -> T:
        method: Any = self._open_channel().unary_unary(call.path)
        try:
            data: bytes = await method(call.request.SerializeToString(), timeout=call.timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self._failure(call, error, call.timeout_s) from error
        return self._read(call, data)

    def _stream(self, call: StreamCall[T]) -> AsyncStream[T]:
        return AsyncStream(self, call)

    def _watch(self, watch: Watch) -> AsyncBlockJobWatcher:
        return AsyncBlockJobWatcher(self, watch)


class AsyncMessages(Generic[T]):
    """One open stream. `read` may be cancelled and called again; `close` ends it from anywhere on the loop."""

    def __init__(self, caller: AsyncCaller, call: StreamCall[T], timeout_s: float | None) -> None:
        self._caller = caller
        self._call = call
        self._timeout_s = timeout_s
        method: Any = caller._open_channel().unary_stream(call.path)
        self._rpc: Any = method(call.request.SerializeToString(), timeout=timeout_s)
        self._reading: asyncio.Task[Any] | None = None

    async def read(self) -> tuple[bool, T | None]:
        """Whether a message came, and what it says; False: the stream is over. Raises VirError."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._rpc.read())
        # Not awaited itself: grpc cancels the call when a task that reads is cancelled.
        await asyncio.wait({self._reading})
        reading, self._reading = self._reading, None
        if reading is None or reading.cancelled():
            return False, None
        error = reading.exception()
        if error is not None and self._caller.closed:
            return False, None
        if isinstance(error, grpc.aio.AioRpcError):
            raise self._caller._failure(self._call, error, self._timeout_s) from error
        data = reading.result()
        if data is grpc.aio.EOF:
            return False, None
        return True, self._caller._read(self._call, data)

    async def close(self) -> None:
        """End the stream."""
        self._rpc.cancel()
        if self._reading is not None:
            # Its end is nobody's business any more, but asyncio complains of an exception that nobody looks at.
            await asyncio.gather(self._reading, return_exceptions=True)


class AsyncStream(Generic[T]):
    """Iterates a stream: `async with stream:` waits for its begin and ends it; `async for` reads on."""

    def __init__(self, caller: AsyncCaller, call: StreamCall[T]) -> None:
        self._caller = caller
        self._call = call
        self._messages: AsyncMessages[T] | None = None
        self._first: T | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        if self._messages is None:
            self._first = await self._next_message()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next message. Raises VirError when the stream breaks."""
        first, self._first = self._first, None
        while first is None and not self._closed:
            first = await self._next_message()
        if first is None or self._closed:
            raise StopAsyncIteration
        return first

    async def _next_message(self) -> T | None:
        """What the next message says; None: it is not to be shown, or the stream is over."""
        if self._messages is None:
            self._messages = AsyncMessages(self._caller, self._call, self._call.timeout_s)
        came, item = await self._messages.read()
        if not came:
            await self.close()
        return item

    async def close(self) -> None:
        """End the stream, also for a task that waits on it. Closing twice changes nothing."""
        self._closed = True
        if self._messages is not None:
            await self._messages.close()


class AsyncBlockJobWatcher:
    """Iterates block job events and goes on by itself when the connection breaks: none is missed and none comes twice.

    `async with watcher:` waits until it is established and ends it; `async for` reads on.
    """

    def __init__(self, caller: AsyncCaller, watch: Watch) -> None:
        self._caller = caller
        self._course = WatchCourse(watch)
        self._timeout_s = watch.timeout_s
        self._deadline_s: float | None = None
        self._messages: AsyncMessages[BlockJobEvent] | None = None
        self._closed = asyncio.Event()

    @property
    def resume_token(self) -> str:
        """Store it after handling an event, to go on behind it later, in another process as well."""
        return self._course.resume_token

    async def __aenter__(self) -> Self:
        while not self._course.established and not self._is_over:
            await self._step()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BlockJobEvent:
        """The next event. Raises VirError for what does not end by itself."""
        while not self._is_over:
            event = self._course.pop()
            if event is not None:
                return event
            await self._step()
        raise StopAsyncIteration

    async def close(self) -> None:
        """End the watch, also for a task that waits on it. Closing twice changes nothing."""
        self._closed.set()
        if self._messages is not None:
            await self._messages.close()

    @property
    def _is_over(self) -> bool:
        return self._closed.is_set() or self._caller.closed

    async def _step(self) -> None:
        """Take one message, or get over the end of a stream."""
        failure: VirError | None = None
        try:
            if self._messages is None:
                self._messages = AsyncMessages(self._caller, self._course.request(), self._time_left_s())
            came, event = await self._messages.read()
            if came:
                if event is not None:
                    self._course.take(event)
                return
        except VirError as error:
            failure = error
        self._messages = None
        if not self._is_over:
            await self._pause(self._course.pause_before_next(failure), failure)

    async def _pause(self, pause_s: float, failure: VirError | None) -> None:
        why = failure or "the server ended it"
        _LOGGER.warning("watch of block jobs at %s goes on in %.1f s: %s", self._caller.target, pause_s, why)
        left_s = self._time_left_s()
        try:
            async with asyncio.timeout(pause_s if left_s is None else min(pause_s, left_s)):
                await self._closed.wait()
        except TimeoutError:
            pass

    def _time_left_s(self) -> float | None:
        if self._timeout_s is None:
            return None
        if self._deadline_s is None:
            self._deadline_s = time.monotonic() + self._timeout_s
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise timed_out("WatchBlockJobs", self._timeout_s)
        return left_s
