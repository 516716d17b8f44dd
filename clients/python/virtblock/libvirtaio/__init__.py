# SPDX-License-Identifier: Apache-2.0
"""libvirtaio's interface: callbacks of `virtblock.libvirt` in an asyncio event loop.

Owns: `virEventAsyncIOImpl`. Invariants: everything is called in the loop's own thread; what was removed is not called
any more, and is told to be free in a later round of the loop, never from within the removal.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from virtblock.libvirt import (
    VIR_EVENT_HANDLE_READABLE,
    VIR_EVENT_HANDLE_WRITABLE,
    virEventInvokeFreeCallback,
    virEventRegisterImpl,
)

__all__ = ["getCurrentImpl", "virEventAsyncIOImpl", "virEventRegisterAsyncIOImpl"]

_MS_PER_S = 1000
_current: virEventAsyncIOImpl | None = None


@dataclass
class _Watch:
    fd: int
    events: int
    callback: Callable[..., Any]
    opaque: Any


@dataclass
class _Timer:
    interval_ms: int
    callback: Callable[..., Any]
    opaque: Any
    pending: asyncio.TimerHandle | None = None


class virEventAsyncIOImpl:
    """An event loop for `virtblock.libvirt` that is asyncio's. `loop` None: the running or the current one."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop or asyncio.get_event_loop()
        self._numbers = itertools.count(1)
        self._watches: dict[int, _Watch] = {}
        self._timers: dict[int, _Timer] = {}
        self._unfreed_count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def register(self) -> virEventAsyncIOImpl:
        """Make it the process's event loop for libvirt, unless there is one."""
        virEventRegisterImpl(
            self._add_handle, self._update_handle, self._remove_handle,
            self._add_timeout, self._update_timeout, self._remove_timeout,
        )  # fmt: skip
        return self

    def is_idle(self) -> bool:
        """Whether nothing is registered and nothing is left to be freed."""
        return not self._watches and not self._timers and self._unfreed_count == 0

    async def drain(self) -> None:
        """Wait until nothing is registered and nothing is left to be freed: after connections were closed."""
        await self._idle.wait()

    def _add_handle(self, fd: int, events: int, callback: Callable[..., Any], opaque: Any) -> int:
        watch = next(self._numbers)
        self._watches[watch] = _Watch(fd, events, callback, opaque)
        self._hold()
        self._follow(fd)
        return watch

    def _update_handle(self, watch: int, events: int) -> None:
        self._watches[watch].events = events
        self._follow(self._watches[watch].fd)

    def _remove_handle(self, watch: int) -> int:
        found = self._watches.pop(watch, None)
        if found is None:
            return -1
        self._follow(found.fd)
        self.loop.call_soon_threadsafe(self._free, found.opaque)
        return 0

    def _follow(self, fd: int) -> None:
        """Have the loop look for what the descriptor's watches want, and for nothing else."""
        wanted = 0
        for each in self._watches.values():
            wanted |= each.events if each.fd == fd else 0
        if wanted & VIR_EVENT_HANDLE_READABLE:
            self.loop.add_reader(fd, self._call_handles, fd, VIR_EVENT_HANDLE_READABLE)
        else:
            self.loop.remove_reader(fd)
        if wanted & VIR_EVENT_HANDLE_WRITABLE:
            self.loop.add_writer(fd, self._call_handles, fd, VIR_EVENT_HANDLE_WRITABLE)
        else:
            self.loop.remove_writer(fd)

    def _call_handles(self, fd: int, event: int) -> None:
        for watch in [number for number, each in self._watches.items() if each.fd == fd and each.events & event]:
            found = self._watches.get(watch)
            if found is not None:
                found.callback(watch, fd, event, found.opaque)

    def _add_timeout(self, interval_ms: int, callback: Callable[..., Any], opaque: Any) -> int:
        number = next(self._numbers)
        self._timers[number] = _Timer(interval_ms, callback, opaque)
        self._hold()
        self._schedule(number)
        return number

    def _update_timeout(self, timer: int, interval_ms: int) -> None:
        self._timers[timer].interval_ms = interval_ms
        self._schedule(timer)

    def _remove_timeout(self, timer: int) -> int:
        found = self._timers.pop(timer, None)
        if found is None:
            return -1
        if found.pending is not None:
            found.pending.cancel()
        self.loop.call_soon_threadsafe(self._free, found.opaque)
        return 0

    def _schedule(self, timer: int) -> None:
        found = self._timers[timer]
        if found.pending is not None:
            found.pending.cancel()
        found.pending = None
        if found.interval_ms >= 0:
            found.pending = self.loop.call_later(found.interval_ms / _MS_PER_S, self._call_timer, timer)

    def _call_timer(self, timer: int) -> None:
        found = self._timers[timer]
        self._schedule(timer)
        found.callback(timer, found.opaque)

    def _hold(self) -> None:
        self._unfreed_count += 1
        self._idle.clear()

    def _free(self, opaque: Any) -> None:
        virEventInvokeFreeCallback(opaque)
        self._unfreed_count -= 1
        if self.is_idle():
            self._idle.set()


def getCurrentImpl() -> virEventAsyncIOImpl | None:
    """What `virEventRegisterAsyncIOImpl` registered last, or None."""
    return _current


def virEventRegisterAsyncIOImpl(loop: asyncio.AbstractEventLoop | None = None) -> virEventAsyncIOImpl:
    """Let asyncio call back; returns the implementation, whose `drain` is awaited at the end."""
    global _current
    _current = virEventAsyncIOImpl(loop=loop).register()
    return _current
