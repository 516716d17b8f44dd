# SPDX-License-Identifier: Apache-2.0
"""The blocking front end, below its methods: one channel, calls, streams and watches over grpc.

Owns: the channel and everything that waits on it. Invariants: safe to be used by several threads, a stream or watch by
one at a time; closing one, from any thread, ends the wait of another at once; to cancel a call never cancels a job.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from virtblock.client.calls.call import Call, StreamCall, Watch
from virtblock.client.endpoint import Endpoint
from virtblock.client.errors import VirError, timed_out
from virtblock.client.model import BlockJobEvent
from virtblock.client.target import Target, TlsOptions
from virtblock.client.watch import WatchCourse

T = TypeVar("T")

_LOGGER = logging.getLogger("virtblock.client")


class Caller(Endpoint):
    """Makes calls on a channel that connects with the first one."""

    def __init__(
        self,
        target: Target | str | None = None,
        *,
        connection_uri: str = "",
        read_only: bool = False,
        tls: TlsOptions | None = None,
        insecure: bool = False,
    ) -> None:
        super().__init__(target, connection_uri=connection_uri, read_only=read_only, tls=tls, insecure=insecure)
        address = self.target.grpc_address
        if self._credentials is None:
            self._channel = grpc.insecure_channel(address, options=self._options)
        else:
            self._channel = grpc.secure_channel(address, self._credentials, options=self._options)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every call and stream, and the connection. No job ends by it. Closing twice changes nothing."""
        self._closed = True
        self._channel.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _open_channel(self) -> grpc.Channel:
        if self._closed:
            raise RuntimeError("the client is closed")
        return self._channel

    def _unary(self, call: Call[T]) -> T:
        method: Any = self._open_channel().unary_unary(call.path)
        try:
            data: bytes = method(call.request.SerializeToString(), timeout=call.timeout_s)
        except grpc.RpcError as error:
            raise self._failure(call, error, call.timeout_s) from error
        return self._read(call, data)

    def _stream(self, call: StreamCall[T]) -> Stream[T]:
        return Stream(self, call)

    def _watch(self, watch: Watch) -> BlockJobWatcher:
        return BlockJobWatcher(self, watch)


class Messages(Generic[T]):
    """One open stream, read by one thread and closed by any."""

    def __init__(self, caller: Caller, call: StreamCall[T], timeout_s: float | None) -> None:
        self._caller = caller
        self._call = call
        self._timeout_s = timeout_s
        method: Any = caller._open_channel().unary_stream(call.path)
        self._rpc: Any = method(call.request.SerializeToString(), timeout=timeout_s)
        self._closed = False

    def read(self) -> tuple[bool, T | None]:
        """Whether a message came, and what it says; False: the stream is over. Raises VirError."""
        try:
            data = next(self._rpc)
        except StopIteration:
            return False, None
        except grpc.RpcError as error:
            if self._closed or self._caller.closed:
                return False, None
            raise self._caller._failure(self._call, error, self._timeout_s) from error
        return True, self._caller._read(self._call, data)

    def close(self) -> None:
        """End the stream."""
        self._closed = True
        self._rpc.cancel()


class Stream(Generic[T]):
    """Iterates a stream: `with stream:` waits for its begin and ends it; `for` reads on.

    `close` may come from any thread.
    """

    def __init__(self, caller: Caller, call: StreamCall[T]) -> None:
        self._caller = caller
        self._call = call
        self._messages: Messages[T] | None = None
        self._first: T | None = None
        self._closed = False
        self._opening = threading.Lock()

    def __enter__(self) -> Self:
        if self._messages is None:
            self._first = self._next_message()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """The next message. Raises VirError when the stream breaks."""
        first, self._first = self._first, None
        while first is None and not self._closed:
            first = self._next_message()
        if first is None or self._closed:
            raise StopIteration
        return first

    def _next_message(self) -> T | None:
        """What the next message says; None: it is not to be shown, or the stream is over."""
        with self._opening:
            if self._messages is None and not self._closed:
                self._messages = Messages(self._caller, self._call, self._call.timeout_s)
        if self._messages is None:
            return None
        came, item = self._messages.read()
        if not came:
            self.close()
        return item

    def close(self) -> None:
        """End the stream, also for a thread that waits on it. Closing twice changes nothing."""
        with self._opening:
            self._closed = True
            if self._messages is not None:
                self._messages.close()


class BlockJobWatcher:
    """Iterates block job events and goes on by itself when the connection breaks: none is missed and none comes twice.

    `with watcher:` waits until it is established and ends it; `for` reads on. `close` may come from any thread.
    """

    def __init__(self, caller: Caller, watch: Watch) -> None:
        self._caller = caller
        self._course = WatchCourse(watch)
        self._timeout_s = watch.timeout_s
        self._deadline_s: float | None = None
        self._messages: Messages[BlockJobEvent] | None = None
        self._closed = threading.Event()
        self._opening = threading.Lock()

    @property
    def resume_token(self) -> str:
        """Store it after handling an event, to go on behind it later, in another process as well."""
        return self._course.resume_token

    def __enter__(self) -> Self:
        while not self._course.established and not self._is_over:
            self._step()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BlockJobEvent:
        """The next event. Raises VirError for what does not end by itself."""
        while not self._is_over:
            event = self._course.pop()
            if event is not None:
                return event
            self._step()
        raise StopIteration

    def close(self) -> None:
        """End the watch, also for a thread that waits on it. Closing twice changes nothing."""
        with self._opening:
            self._closed.set()
            if self._messages is not None:
                self._messages.close()

    @property
    def _is_over(self) -> bool:
        return self._closed.is_set() or self._caller.closed

    def _step(self) -> None:
        """Take one message, or get over the end of a stream."""
        failure: VirError | None = None
        try:
            messages = self._open()
            if messages is None:
                return
            came, event = messages.read()
            if came:
                if event is not None:
                    self._course.take(event)
                return
        except VirError as error:
            failure = error
        self._messages = None
        if not self._is_over:
            self._pause(self._course.pause_before_next(failure), failure)

    def _open(self) -> Messages[BlockJobEvent] | None:
        """The stream; None: the watch is closed."""
        with self._opening:
            if self._messages is None and not self._closed.is_set():
                self._messages = Messages(self._caller, self._course.request(), self._time_left_s())
            return self._messages

    def _pause(self, pause_s: float, failure: VirError | None) -> None:
        why = failure or "the server ended it"
        _LOGGER.warning("watch of block jobs at %s goes on in %.1f s: %s", self._caller.target, pause_s, why)
        left_s = self._time_left_s()
        self._closed.wait(pause_s if left_s is None else min(pause_s, left_s))

    def _time_left_s(self) -> float | None:
        if self._timeout_s is None:
            return None
        if self._deadline_s is None:
            self._deadline_s = time.monotonic() + self._timeout_s
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise timed_out("WatchBlockJobs", self._timeout_s)
        return left_s
