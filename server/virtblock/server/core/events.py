# SPDX-License-Identifier: Apache-2.0
"""The event log: one growing sequence of job transitions and of libvirt's domain events.

Signatures first; the bodies follow.
"""

from __future__ import annotations

from collections.abc import Callable

from virtblock.server.core.errors import VirError
from virtblock.server.core.model import BlockJob, BlockJobEvent, Domain, LifecycleEvent, LogEntry
from virtblock.server.core.store import Store, Transaction

Listener = Callable[[int], None]


class EventsCompacted(VirError):
    """Entries after the asked sequence were removed (82, OVERFLOW). The reader begins anew with a snapshot."""

    oldest_sequence: int


class EventLog:
    def __init__(self, store: Store, *, retention_count: int = 100_000, tail_count: int = 4096) -> None: ...
    @property
    def last_sequence(self) -> int:
        raise NotImplementedError

    @property
    def oldest_sequence(self) -> int:
        raise NotImplementedError

    def append(
        self,
        transaction: Transaction,
        *,
        job: BlockJob | None = None,
        domain_event: LifecycleEvent | BlockJobEvent | None = None,
    ) -> int:
        raise NotImplementedError

    def read(self, after_sequence: int, limit: int = 1000) -> list[LogEntry]:
        raise NotImplementedError

    def add_listener(self, callback: Listener) -> None:
        raise NotImplementedError

    def remove_listener(self, callback: Listener) -> None:
        raise NotImplementedError


class DomainEvents:
    """Appends libvirt's life-cycle events inside a store transaction of the caller's."""

    def __init__(self, events: EventLog) -> None: ...
    def defined(self, transaction: Transaction, domain: Domain, *, is_update: bool) -> None: ...
    def undefined(self, transaction: Transaction, domain: Domain) -> None: ...
