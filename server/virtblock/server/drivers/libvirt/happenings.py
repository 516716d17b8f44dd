# SPDX-License-Identifier: Apache-2.0
"""libvirt's events on their way into the records.

Owns: their order, and holding back those of a domain on which a job is being started. Invariants: events are worked off
by one thread, in libvirt's order; a domain has one holder at a time; while it is held none of its events is worked off
but those that the holder lets pass, and none is under way when the holding begins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from virtblock.server.core.errors import ErrorNumber, report
from virtblock.server.core.model import DomainEventId

# As long as libvirt itself lets a call wait for another one on the same domain.
HOLD_WAIT_S = 30.0
DRAIN_WAIT_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Happening:
    """One event of libvirt's. `values` are those of the callback."""

    event_id: DomainEventId
    uuid: str
    name: str
    domain_id: int
    values: tuple[Any, ...]


class Happenings:
    """The events of one connection. Thread-safe."""

    def __init__(self, name: str, handle: Callable[[Happening], None]) -> None:
        """`handle` is called for one event after the other, in the thread of this name."""
        self._handle = handle
        self._changed = threading.Condition()
        self._holders: set[str] = set()
        self._held: dict[str, deque[Happening]] = {}
        self._due: deque[Happening] = deque()
        self._due_count: Counter[str] = Counter()  # also what is being handled
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begins to work off events."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Ends after the event that is being handled, which is waited for so long."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def receiver(self, event_id: DomainEventId) -> Callable[..., None]:
        """What takes events of this kind from libvirt's own thread, which must not be held up."""

        def receive(uuid: str, name: str, domain_id: int, *values: Any) -> None:
            happening = Happening(event_id, uuid, name, domain_id, values)
            with self._changed:
                if uuid in self._holders:
                    self._held.setdefault(uuid, deque()).append(happening)
                else:
                    self._put(happening)
                self._changed.notify_all()

        return receive

    @contextmanager
    def held(self, uuid: str) -> Iterator[None]:
        """Holds a domain's events. OPERATION_TIMEOUT (68) when another holder does not let go."""
        with self._changed:
            if not self._changed.wait_for(lambda: uuid not in self._holders, HOLD_WAIT_S):
                raise report(ErrorNumber.OPERATION_TIMEOUT, "cannot acquire state change lock")
            self._holders.add(uuid)
            self._changed.wait_for(lambda: not self._due_count[uuid], DRAIN_WAIT_S)
        try:
            yield
        finally:
            with self._changed:
                self._holders.discard(uuid)
                for happening in self._held.pop(uuid, ()):
                    self._put(happening)
                self._changed.notify_all()

    def let_one_pass(self, uuid: str, timeout_s: float) -> bool:
        """The oldest event that is held of a domain is worked off; False when there is none in this time."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._held.get(uuid)), timeout_s):
                return False
            self._put(self._held[uuid].popleft())
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._due_count[uuid], max(deadline_s - time.monotonic(), 0))

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until a condition holds that only handled events bring about; whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: condition() or self._is_stopping, timeout_s) and condition()

    def _put(self, happening: Happening) -> None:
        self._due.append(happening)
        self._due_count[happening.uuid] += 1

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._due) or self._is_stopping)
                if self._is_stopping:
                    return
                happening = self._due.popleft()
            try:
                self._handle(happening)
            except Exception:
                # The next event must come through whatever this one met.
                logger.exception("an event of domain %s could not be recorded", happening.name)
            with self._changed:
                self._due_count[happening.uuid] -= 1
                if not self._due_count[happening.uuid]:
                    del self._due_count[happening.uuid]
                self._changed.notify_all()
