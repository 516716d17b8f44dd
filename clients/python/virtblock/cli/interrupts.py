# SPDX-License-Identifier: Apache-2.0
"""Waiting for what comes first: news from a stream, a time limit, or Ctrl-C.

Owns: the signal handler while a wait goes on, and the thread that reads the stream. Invariants: the first SIGINT is
only noted, and wakes the wait; a second one ends the program in the usual way; afterwards the handler is as it was.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Generic, TypeVar

T = TypeVar("T")


class Woken:
    """What `Inbox.get` returns when nothing came: why it woke up."""

    def __init__(self, text: str) -> None:
        self.text = text


INTERRUPTED = Woken("interrupted")
TIMED_OUT = Woken("timed out")


class Inbox(Generic[T]):
    """Takes news from a reading thread and from the signal handler, for one waiting thread."""

    def __init__(self, timeout_s: float | None = None) -> None:
        # Its put() may be called from a signal handler, that of Queue may not.
        self._items: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._interrupted = False

    def interrupt(self) -> None:
        """Note Ctrl-C and wake the waiting thread."""
        self._interrupted = True
        self._items.put(None)

    def feed(self, source: Callable[[], Iterable[T]]) -> None:
        """Read all that the source gives, in a thread of its own. An exception of it comes out of `get`."""

        def read() -> None:
            try:
                for item in source():
                    self._items.put(item)
            except BaseException as error:  # raised again in the thread that waits
                self._items.put(error)

        threading.Thread(target=read, name="news", daemon=True).start()

    def get(self, at_most_s: float | None = None) -> T | Woken | None:
        """The next item; INTERRUPTED or TIMED_OUT; None when `at_most_s` passed. Raises what the source raised."""
        until_s = None if at_most_s is None else time.monotonic() + at_most_s
        while True:
            if self._interrupted:
                return INTERRUPTED
            item = None
            # What has come already comes before any limit.
            if not self._items.empty():
                item = self._items.get()
            else:
                now_s = time.monotonic()
                if self._deadline_s is not None and now_s >= self._deadline_s:
                    return TIMED_OUT
                if until_s is not None and now_s >= until_s:
                    return None
                limits = [limit - now_s for limit in (self._deadline_s, until_s) if limit is not None]
                with contextlib.suppress(queue.Empty):
                    item = self._items.get(timeout=min(limits) if limits else None)
            if isinstance(item, BaseException):
                raise item
            if item is not None:
                return item


@contextlib.contextmanager
def caught_interrupt(note: Callable[[], None]) -> Iterator[None]:
    """Have the first SIGINT call `note`, and further ones do what they did before."""
    before = signal.getsignal(signal.SIGINT)

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        note()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
