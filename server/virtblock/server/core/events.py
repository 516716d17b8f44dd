# SPDX-License-Identifier: Apache-2.0
"""The event log: one growing sequence of job transitions and of libvirt's domain events.

Owns: which entries are kept, and telling listeners that there are new ones. Invariants: an entry is on disk before a
listener hears of it; sequences grow by one, over restarts as well; watchers pull by cursor, so a slow one holds
nothing up and misses nothing, or is told by `EventsCompacted` that what it asks for is gone. The newest entries are
also in memory, so that many watchers at the end of the log cost no reads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import IntEnum

from virtblock.server.core.errors import TEMPLATES, ErrorDomain, ErrorNumber, VirError
from virtblock.server.core.model import BlockJob, BlockJobEvent, Domain, LifecycleEvent, LogEntry
from virtblock.server.core.records import payload_from_json, payload_to_json
from virtblock.server.core.store import EventRecord, Store, Transaction

RETENTION_COUNT = 100_000
TAIL_COUNT = 4096

logger = logging.getLogger(__name__)

Listener = Callable[[int], None]


class DomainEventType(IntEnum):
    """virDomainEventType, as far as the embedded domains know them."""

    DEFINED = 0
    UNDEFINED = 1


class DomainEventDefinedDetail(IntEnum):
    """virDomainEventDefinedDetailType."""

    ADDED = 0
    UPDATED = 1


class DomainEventUndefinedDetail(IntEnum):
    """virDomainEventUndefinedDetailType."""

    REMOVED = 0


class EventsCompacted(VirError):
    """Entries after the asked sequence are no longer all kept (82). The reader begins anew, with a snapshot."""

    def __init__(self, oldest_sequence: int) -> None:
        template = TEMPLATES[ErrorNumber.OVERFLOW][1]
        detail = f"events before {oldest_sequence} are no longer kept"
        super().__init__(ErrorNumber.OVERFLOW, template % detail, domain=ErrorDomain.NONE, str1=template, str2=detail)
        self.oldest_sequence = oldest_sequence


class EventLog:
    """The log of one store. Thread-safe."""

    def __init__(
        self,
        store: Store,
        *,
        retention_count: int = RETENTION_COUNT,
        tail_count: int = TAIL_COUNT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`retention_count`: entries kept on disk, at least 1; `tail_count`: entries kept in memory."""
        if retention_count < 1:
            raise ValueError(f"retention_count must be at least 1, not {retention_count}")
        self._store = store
        self._retention_count = retention_count
        self._tail_count = tail_count
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows; nothing else is taken while it is held
        self._listeners: tuple[Listener, ...] = ()
        self._tail: list[LogEntry] = []  # ends at _last
        with store.reading() as reads:
            bounds = reads.event_bounds()
        self._oldest, self._last = (1, 0) if bounds is None else bounds

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest entry; 0 before the first."""
        with self._lock:
            return self._last

    @property
    def oldest_sequence(self) -> int:
        """The sequence of the oldest entry that is kept; `last_sequence` + 1 when there is none."""
        with self._lock:
            return self._oldest

    def append(
        self,
        transaction: Transaction,
        *,
        job: BlockJob | None = None,
        domain_event: LifecycleEvent | BlockJobEvent | None = None,
    ) -> int:
        """Adds an entry with exactly one payload as part of the transaction; returns its sequence."""
        payload = job if domain_event is None else domain_event
        if payload is None or (job is not None and domain_event is not None):
            raise ValueError("an entry has exactly one payload")
        if job is not None:
            job = job.with_changes(details={})
        time_s = self._clock()
        sequence = transaction.append_event(time_s, *payload_to_json(payload))
        if sequence > self._retention_count:
            transaction.delete_events_through(sequence - self._retention_count)
        entry = LogEntry(sequence, time_s, job=job, domain_event=domain_event)
        transaction.on_commit(lambda: self._take(entry))
        transaction.after_commit(self._notify)
        return sequence

    def read(self, after_sequence: int, limit: int = 1000) -> list[LogEntry]:
        """The entries that follow `after_sequence`, in order, at most `limit`; [] at the end. May read the disk.

        Raises `EventsCompacted` when entries right after `after_sequence` are no longer kept.
        """
        recent = self.read_recent(after_sequence, limit)
        if recent is not None:
            return recent
        with self._store.reading() as reads:
            self._check_kept(after_sequence)
            rows = reads.list_events(after_sequence, limit)
        return [_entry(row) for row in rows]

    def read_recent(self, after_sequence: int, limit: int = 1000) -> list[LogEntry] | None:
        """As `read`, from memory alone; None when the disk must be read."""
        self._check_kept(after_sequence)
        with self._lock:
            if after_sequence >= self._last:
                return []
            start = len(self._tail) - (self._last - after_sequence)
            return None if start < 0 else self._tail[start : start + limit]

    def add_listener(self, callback: Listener) -> None:
        """Calls `callback(last_sequence)` after every commit with entries, from any thread. It must not block."""
        with self._lock:
            self._listeners = (*self._listeners, callback)

    def remove_listener(self, callback: Listener) -> None:
        """Ends the calls; one that is under way may still come."""
        with self._lock:
            self._listeners = tuple(known for known in self._listeners if known != callback)

    def _check_kept(self, after_sequence: int) -> None:
        oldest = self.oldest_sequence
        if after_sequence < oldest - 1:
            raise EventsCompacted(oldest)

    def _take(self, entry: LogEntry) -> None:
        """Mirrors a committed entry in memory."""
        with self._lock:
            self._last = entry.sequence
            self._oldest = max(self._oldest, entry.sequence - self._retention_count + 1)
            self._tail.append(entry)
            # Cut in large steps: a cut moves every entry that stays.
            if len(self._tail) > 2 * self._tail_count:
                del self._tail[: -self._tail_count]

    def _notify(self) -> None:
        with self._lock:
            listeners, sequence = self._listeners, self._last
        for listener in listeners:
            try:
                listener(sequence)
            except Exception:
                # The entry is durable, and one broken reader must not harm the job that wrote it.
                logger.exception("a listener of the event log failed")


class DomainEvents:
    """Appends libvirt's life-cycle events of stored domains, inside the transaction that changes them."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def defined(self, transaction: Transaction, domain: Domain, *, is_update: bool) -> None:
        """DEFINED: ADDED for a new domain, UPDATED for a changed one."""
        detail = DomainEventDefinedDetail.UPDATED if is_update else DomainEventDefinedDetail.ADDED
        self._events.append(transaction, domain_event=LifecycleEvent(domain, DomainEventType.DEFINED, detail))

    def undefined(self, transaction: Transaction, domain: Domain) -> None:
        """UNDEFINED, REMOVED."""
        event = LifecycleEvent(domain, DomainEventType.UNDEFINED, DomainEventUndefinedDetail.REMOVED)
        self._events.append(transaction, domain_event=event)


def _entry(row: EventRecord) -> LogEntry:
    payload = payload_from_json(row.kind, row.payload)
    if isinstance(payload, BlockJob):
        return LogEntry(row.sequence, row.time_s, job=payload)
    return LogEntry(row.sequence, row.time_s, domain_event=payload)
