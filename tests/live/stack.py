# SPDX-License-Identifier: Apache-2.0
"""The server's core with the libvirt driver, without the wire."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from virtblock.engine import PathPolicy
from virtblock.server.core.block_api import BlockApi
from virtblock.server.core.connections import Connections
from virtblock.server.core.domain_api import DomainApi
from virtblock.server.core.events import EventLog
from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.model import BlockJobEvent, Caller, DomainSelector, JobState, LogEntry
from virtblock.server.core.store import Store
from virtblock.server.drivers.libvirt import LibvirtDriver

CALLER = Caller()
WAIT_TIMEOUT_S = 60.0


class Stack:
    """Store, log, registry, driver and the two APIs over them."""

    def __init__(
        self, uri: str, folder: Path, *, allow_path: Sequence[Path] = (), strict_libvirt: bool = False
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.store = Store(folder / "virtblock.db")
        self.events = EventLog(self.store)
        self.jobs = JobRegistry(self.store, self.events)
        policy = PathPolicy([str(path) for path in allow_path])
        self.driver = LibvirtDriver(uri, self.store, self.jobs, self.events, policy, strict_libvirt=strict_libvirt)
        self.driver.open()
        connections = Connections([self.driver])
        self.blocks = BlockApi(connections, self.jobs)
        self.domains = DomainApi(connections)

    def close(self) -> None:
        """The driver first: it writes to the store."""
        self.driver.close()
        self.store.close()

    def entries(self, uuid: str) -> list[LogEntry]:
        """What the log has of a domain."""
        return [entry for entry in self.events.read(0, 100_000) if _uuid(entry) == uuid]

    def states(self, uuid: str) -> list[JobState]:
        """The states that the domain's jobs went through."""
        return [entry.job.state for entry in self.entries(uuid) if entry.job is not None]

    def libvirt_events(self, uuid: str) -> list[tuple[int, str, int, int]]:
        """(event id, disk, type, status) of libvirt's block-job events."""
        found = [entry.domain_event for entry in self.entries(uuid)]
        return [
            (int(event.event_id), event.disk, int(event.type), int(event.status))
            for event in found
            if isinstance(event, BlockJobEvent)
        ]

    def wait_for(self, job_id: str, *states: JobState) -> None:
        """Until the job is in one of the states."""
        until(lambda: self.jobs.get(job_id).state in states, f"job {job_id} becomes {states}")


def selector(uuid: str) -> DomainSelector:
    """A domain by its UUID, on the default connection."""
    return DomainSelector(uuid=uuid)


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits; AssertionError with `what` when it does not come."""
    deadline_s = time.monotonic() + WAIT_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {WAIT_TIMEOUT_S:.0f} s for: {what}"
        time.sleep(0.01)


def _uuid(entry: LogEntry) -> str:
    if entry.job is not None:
        return entry.job.domain_uuid
    return "" if entry.domain_event is None else entry.domain_event.domain.uuid
