# SPDX-License-Identifier: Apache-2.0
"""Connections for calls that may wait long for a hypervisor, beside the one for calls that may not.

Owns: which call goes over which connection. libvirt's daemon works on so many calls of a connection at a time, and then
reads no more from it, not even the answers of keep-alive. Invariant: no connection carries so many.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Of libvirtd's max_client_requests, which is 5, less one for keep-alive.
CALLS_PER_LINE_MAX = 4
HANDLE_COUNT_MAX = 4096


class Line:
    """One connection, opened when it is first used."""

    def __init__(self, open_connection: Callable[[], Any]) -> None:
        self._open = open_connection
        self._lock = threading.Lock()
        self._connection: Any = None
        self._handles: OrderedDict[str, Any] = OrderedDict()
        self.call_count = 0

    def domain(self, uuid: str) -> Any:
        """The handle of a domain. Raises libvirt's error."""
        with self._lock:
            if self._connection is None:
                self._connection = self._open()
            handle = self._handles.get(uuid)
        if handle is None:
            handle = self._connection.lookupByUUIDString(uuid)
            with self._lock:
                self._handles[uuid] = handle
                while len(self._handles) > HANDLE_COUNT_MAX:
                    self._handles.popitem(last=False)
        return handle

    @property
    def connection(self) -> Any:
        """The connection; None before the first use."""
        return self._connection


class Lines:
    """The connections of one hypervisor for calls that may wait. Thread-safe."""

    def __init__(self, open_connection: Callable[[], Any], close_connection: Callable[[Any], None]) -> None:
        self._open = open_connection
        self._close = close_connection
        self._lock = threading.Lock()
        self._lines: list[Line] = []

    @contextmanager
    def taken(self) -> Iterator[Line]:
        """A line for one call."""
        with self._lock:
            line = min(self._lines, key=lambda one: one.call_count, default=None)
            if line is None or line.call_count >= CALLS_PER_LINE_MAX:
                line = Line(self._open)
                self._lines.append(line)
            line.call_count += 1
        try:
            yield line
        finally:
            with self._lock:
                line.call_count -= 1

    def drop(self, line: Line) -> None:
        """Gives up a connection that was lost. Calls that are under way on it end by themselves."""
        with self._lock:
            if line in self._lines:
                self._lines.remove(line)
        if line.connection is not None:
            self._close(line.connection)

    def drop_all(self) -> None:
        """Gives up all of them."""
        with self._lock:
            lines, self._lines = self._lines, []
        for line in lines:
            if line.connection is not None:
                self._close(line.connection)
