# SPDX-License-Identifier: Apache-2.0
"""Events of one connection on their way from the server's stream to callbacks in the program's event loop.

Owns: the stream, the thread that reads it, and the callbacks in the order of their registration. Invariants: a callback
runs in the event loop and nowhere else, in the order in which the server told; registering returns when the server has
the stream, so that nothing after it is missed; one callback's exception keeps nothing from the others.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from virtblock.client import Client, DomainEvent, VirError
from virtblock.libvirt.gen.constants import (
    VIR_CONNECT_CLOSE_REASON_EOF,
    VIR_DOMAIN_EVENT_ID_BLOCK_JOB,
    VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
    VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    VIR_EVENT_HANDLE_READABLE,
)

KNOWN_EVENT_IDS = (
    VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    VIR_DOMAIN_EVENT_ID_BLOCK_JOB,
    VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
)
Deliver = Callable[[DomainEvent], None]


class Loop(Protocol):
    """What the feed needs of an event loop: libvirt's calls on handles."""

    def add_handle(self, fd: int, events: int, cb: Callable[[int, int, int, Any], Any], opaque: Any) -> int: ...
    def remove_handle(self, watch: int) -> Any: ...


@dataclass(frozen=True)
class _Registration:
    event_id: int
    uuid: str | None
    deliver: Deliver


class EventFeed:
    """Callbacks of one connection. `on_loss(reason)` is called in the event loop when the stream broke."""

    def __init__(self, client: Client, loop: Loop, on_loss: Callable[[int], None]) -> None:
        self._client = client
        self._loop = loop
        self._on_loss = on_loss
        # The collector may end a connection, and so a feed, from within any of these calls.
        self._lock = threading.RLock()
        self._registrations: dict[int, _Registration] = {}
        self._next_id = 0
        self._waiting: deque[DomainEvent | int] = deque()
        self._is_closed = False
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        served = client.get_capabilities(timeout_s=None).connection.features
        self.event_ids = tuple(each for each in KNOWN_EVENT_IDS if f"event:{each}" in served)
        self._stream = client.domain_events(self.event_ids)
        try:
            self._stream.__enter__()
            self._watch = loop.add_handle(self._read_fd, VIR_EVENT_HANDLE_READABLE, self._on_readable, None)
        except BaseException:
            self._stream.close()
            self._close_pipe()
            raise
        self._thread = threading.Thread(target=self._read, name="virtblock-events", daemon=True)
        self._thread.start()

    def register(self, event_id: int, uuid: str | None, deliver: Deliver) -> int:
        """Deliver events of this kind, of one domain or of all; returns the callback's number."""
        with self._lock:
            number = self._next_id
            self._next_id += 1
            self._registrations[number] = _Registration(event_id, uuid, deliver)
        return number

    def is_tracked(self, event_id: int, uuid: str | None) -> bool:
        """Whether there is a callback for the same."""
        with self._lock:
            return any((each.event_id, each.uuid) == (event_id, uuid) for each in self._registrations.values())

    def deregister(self, number: int) -> bool:
        """Whether there was such a callback; it is not called any more."""
        with self._lock:
            return self._registrations.pop(number, None) is not None

    def lose(self, reason: int) -> None:
        """The connection is gone: after the events that came before, the loop is told."""
        self._put(reason)

    def close(self) -> None:
        """End the stream and its place in the loop."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._stream.close()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._loop.remove_handle(self._watch)
        self._close_pipe()

    def _read(self) -> None:
        """The thread: what the stream has goes to the loop."""
        try:
            for event in self._stream:
                self._put(event)
        except VirError:
            pass  # what ended it is told below
        if not self._is_closed:
            self._put(VIR_CONNECT_CLOSE_REASON_EOF)

    def _put(self, item: DomainEvent | int) -> None:
        self._waiting.append(item)
        with self._lock:
            if self._is_closed:
                return
            try:
                os.write(self._write_fd, b"\0")
            except BlockingIOError:
                return  # the loop has been woken

    def _on_readable(self, watch: int, fd: int, events: int, opaque: Any) -> None:
        """In the loop: call back for all that waits."""
        with self._lock:
            if self._is_closed:
                return
            try:
                os.read(self._read_fd, 65536)
            except BlockingIOError:
                return  # another thread that runs the loop was first
        while self._waiting:
            item = self._waiting.popleft()
            if isinstance(item, DomainEvent):
                for registration in self._registered_for(item):
                    registration.deliver(item)
            else:
                self._on_loss(item)

    def _registered_for(self, event: DomainEvent) -> Iterable[_Registration]:
        with self._lock:
            return [
                each
                for each in self._registrations.values()
                if each.event_id == int(event.event_id) and each.uuid in (None, event.domain.uuid)
            ]

    def _close_pipe(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)
