# SPDX-License-Identifier: Apache-2.0
"""The event loop: libvirt's default one, and the registration of any other.

Owns: which implementation is registered, and `DefaultLoop`. Invariants: the first implementation stays for ever;
callbacks run in the thread that runs the loop and never under a lock; what was removed is not called any more; an
exception in a callback is shown and ends nothing.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from virtblock.libvirt.arguments import signed_int
from virtblock.libvirt.errors import libvirtError
from virtblock.libvirt.gen.constants import (
    VIR_EVENT_HANDLE_ERROR,
    VIR_EVENT_HANDLE_HANGUP,
    VIR_EVENT_HANDLE_READABLE,
    VIR_EVENT_HANDLE_WRITABLE,
)

HandleCallback = Callable[[int, int, int, Any], Any]
TimerCallback = Callable[[int, Any], Any]

_MS_PER_S = 1000
_POLL_BITS = (
    (VIR_EVENT_HANDLE_READABLE, select.POLLIN),
    (VIR_EVENT_HANDLE_WRITABLE, select.POLLOUT),
    (VIR_EVENT_HANDLE_ERROR, select.POLLERR),
    (VIR_EVENT_HANDLE_HANGUP, select.POLLHUP),
)


class Implementation(NamedTuple):
    """The six functions of an event loop."""

    add_handle: Callable[..., Any]
    update_handle: Callable[..., Any]
    remove_handle: Callable[..., Any]
    add_timeout: Callable[..., Any]
    update_timeout: Callable[..., Any]
    remove_timeout: Callable[..., Any]


@dataclass
class _Handle:
    fd: int
    events: int
    callback: HandleCallback
    opaque: Any


@dataclass
class _Timer:
    interval_ms: int
    due_s: float
    callback: TimerCallback
    opaque: Any


class DefaultLoop:
    """A loop around poll(2). Handles and timers may be changed from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: dict[int, _Handle] = {}
        self._timers: dict[int, _Timer] = {}
        self._next_watch = self._next_timer = 1
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def add_handle(self, fd: int, events: int, callback: HandleCallback, opaque: Any) -> int:
        """Call `callback(watch, fd, events, opaque)` when one of the events is there; returns the watch."""
        with self._lock:
            watch = self._next_watch
            self._next_watch += 1
            self._handles[watch] = _Handle(fd, events, callback, opaque)
        self._wake()
        return watch

    def update_handle(self, watch: int, events: int) -> None:
        """Wait for other events."""
        with self._lock:
            if watch in self._handles:
                self._handles[watch].events = events
        self._wake()

    def remove_handle(self, watch: int) -> int:
        """Wait no more; -1 for a watch that there is not."""
        with self._lock:
            found = self._handles.pop(watch, None)
        self._wake()
        return -1 if found is None else 0

    def add_timeout(self, interval_ms: int, callback: TimerCallback, opaque: Any) -> int:
        """Call `callback(timer, opaque)` each time the interval is over; 0: in every round, below 0: not now."""
        with self._lock:
            timer = self._next_timer
            self._next_timer += 1
            self._timers[timer] = _Timer(interval_ms, time.monotonic() + interval_ms / _MS_PER_S, callback, opaque)
        self._wake()
        return timer

    def update_timeout(self, timer: int, interval_ms: int) -> None:
        """Another interval, from now on."""
        with self._lock:
            if timer in self._timers:
                found = self._timers[timer]
                found.interval_ms, found.due_s = interval_ms, time.monotonic() + interval_ms / _MS_PER_S
        self._wake()

    def remove_timeout(self, timer: int) -> int:
        """Forget it; -1 for a timer that there is not."""
        with self._lock:
            found = self._timers.pop(timer, None)
        self._wake()
        return -1 if found is None else 0

    def run_once(self) -> None:
        """Wait for something, and call what waits for it."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        with self._lock:
            watched = {watch: (each.fd, _poll_bits(each.events)) for watch, each in self._handles.items()}
            dues_s = [each.due_s for each in self._timers.values() if each.interval_ms >= 0]
        wanted: dict[int, int] = {}
        for fd, bits in watched.values():
            wanted[fd] = wanted.get(fd, 0) | bits
        for fd, bits in wanted.items():
            poll.register(fd, bits)
        ready = dict(poll.poll(_wait_ms(dues_s)))
        if ready.pop(self._wake_read, 0):
            os.read(self._wake_read, 4096)
        self._call_timers()
        for watch in watched:
            self._call_handle(watch, ready)

    def _call_timers(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            due = [timer for timer, each in self._timers.items() if each.interval_ms >= 0 and each.due_s <= now_s]
            for timer in due:
                self._timers[timer].due_s = now_s + self._timers[timer].interval_ms / _MS_PER_S
        for timer in due:
            with self._lock:
                found = self._timers.get(timer)
            if found is not None:
                call_safely(found.callback, timer, found.opaque)

    def _call_handle(self, watch: int, ready: dict[int, int]) -> None:
        with self._lock:
            found = self._handles.get(watch)
        if found is None:
            return
        bits = ready.get(found.fd, 0)
        events = sum(event for event, bit in _POLL_BITS if bits & bit)
        events &= found.events | VIR_EVENT_HANDLE_ERROR | VIR_EVENT_HANDLE_HANGUP
        if events:
            call_safely(found.callback, watch, found.fd, events, found.opaque)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            return  # it is awake


def _poll_bits(events: int) -> int:
    return sum(bit for event, bit in _POLL_BITS if events & event)


def _wait_ms(dues_s: list[float]) -> int | None:
    """Until the next timer, rounded up so that it is due then; None: for ever."""
    if not dues_s:
        return None
    return max(0, int((min(dues_s) - time.monotonic()) * _MS_PER_S) + 1) if min(dues_s) > time.monotonic() else 0


def call_safely(function: Callable[..., Any], *arguments: Any) -> None:
    """Call what the program gave; its exception is shown as one that nobody caught."""
    try:
        function(*arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())


_default = DefaultLoop()
_implementation: Implementation | None = None
# A foreign loop tells with the opaque tuple itself when a handle or timer is free; nothing of ours is to be freed.
_NOTHING_TO_FREE = None


def is_registered() -> bool:
    """Whether there is an event loop to call back from."""
    return _implementation is not None


def virEventRegisterDefaultImpl() -> int:
    """Register the default event loop, unless there is one already; run it by `virEventRunDefaultImpl`."""
    global _implementation
    if _implementation is None:
        _implementation = Implementation(
            _default.add_handle,
            _default.update_handle,
            _default.remove_handle,
            _default.add_timeout,
            _default.update_timeout,
            _default.remove_timeout,
        )
    return 0


def virEventRunDefaultImpl() -> int:
    """One round of the default event loop: waits for something and calls back."""
    _default.run_once()
    return 0


def virEventRegisterImpl(
    addHandle: Callable[..., Any],
    updateHandle: Callable[..., Any],
    removeHandle: Callable[..., Any],
    addTimeout: Callable[..., Any],
    updateTimeout: Callable[..., Any],
    removeTimeout: Callable[..., Any],
) -> None:
    """Register an event loop of the program's own, unless there is one already.

    `addHandle(fd, events, cb, opaque)` calls `cb(watch, fd, events, opaque)`, `addTimeout(ms, cb, opaque)` calls
    `cb(timer, opaque)`.
    """
    global _implementation
    if _implementation is None:
        _implementation = Implementation(
            addHandle, updateHandle, removeHandle, addTimeout, updateTimeout, removeTimeout
        )


def virEventAddHandle(fd: int, events: int, cb: HandleCallback, opaque: Any) -> int:
    """Have the loop call `cb(watch, fd, events, opaque)`; returns the watch."""
    if _implementation is None:
        raise libvirtError("virEventAddHandle() failed")
    payload = (cb, opaque)
    watch = _implementation.add_handle(
        signed_int(fd), signed_int(events), _eventInvokeHandleCallback, (_call_handle, payload, _NOTHING_TO_FREE)
    )
    return _checked(watch, "virEventAddHandle")


def virEventUpdateHandle(watch: int, events: int) -> None:
    """Wait for other events."""
    if _implementation is not None:
        _implementation.update_handle(signed_int(watch), signed_int(events))


def virEventRemoveHandle(watch: int) -> int:
    """Wait no more for a handle."""
    removed = -1 if _implementation is None else _implementation.remove_handle(signed_int(watch))
    return _checked(removed, "virEventRemoveHandle")


def virEventAddTimeout(timeout: int, cb: TimerCallback, opaque: Any) -> int:
    """Have the loop call `cb(timer, opaque)` every `timeout` ms; 0: in every round, -1: not now. Returns the timer."""
    if _implementation is None:
        raise libvirtError("virEventAddTimeout() failed")
    payload = (cb, opaque)
    timer = _implementation.add_timeout(
        signed_int(timeout), _eventInvokeTimeoutCallback, (_call_timer, payload, _NOTHING_TO_FREE)
    )
    return _checked(timer, "virEventAddTimeout")


def virEventUpdateTimeout(timer: int, timeout: int) -> None:
    """Another interval in ms."""
    if _implementation is not None:
        _implementation.update_timeout(signed_int(timer), signed_int(timeout))


def virEventRemoveTimeout(timer: int) -> int:
    """Forget a timer."""
    removed = -1 if _implementation is None else _implementation.remove_timeout(signed_int(timer))
    return _checked(removed, "virEventRemoveTimeout")


def virEventInvokeFreeCallback(opaque: Any) -> None:
    """What a loop calls for each handle and timer that was removed, from its own stack, with their opaque."""
    if opaque[2] is not None:
        opaque[2](opaque[1])


def _checked(answer: Any, function: str) -> int:
    if answer == -1:
        raise libvirtError(f"{function}() failed")
    return int(answer or 0)


def _eventInvokeHandleCallback(watch: int, fd: int, event: int, opaque: Any, opaquecompat: Any = None) -> None:
    """What a loop is given to call for a handle; older programs pass the first two items of the opaque one by one."""
    call, payload = (opaque, opaquecompat) if opaquecompat else opaque[:2]
    call(watch, fd, event, payload)


def _eventInvokeTimeoutCallback(timer: int, opaque: Any, opaquecompat: Any = None) -> None:
    """What a loop is given to call for a timer."""
    call, payload = (opaque, opaquecompat) if opaquecompat else opaque[:2]
    call(timer, payload)


def _call_handle(watch: int, fd: int, event: int, payload: tuple[HandleCallback, Any]) -> None:
    payload[0](watch, fd, event, payload[1])


def _call_timer(timer: int, payload: tuple[TimerCallback, Any]) -> None:
    payload[0](timer, payload[1])
