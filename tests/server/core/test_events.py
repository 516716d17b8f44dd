# SPDX-License-Identifier: Apache-2.0
"""The event log: numbering, memory and disk saying the same, retention, listeners."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.core.samples import DOMAIN, Core, sample_job

from virtblock.server.core.errors import VirError
from virtblock.server.core.events import DomainEvents, EventLog, EventsCompacted
from virtblock.server.core.model import (
    BlockJobEvent,
    BlockJobStatus,
    BlockJobType,
    DomainEventId,
    LifecycleEvent,
)
from virtblock.server.core.store import Store


def _append(core: Core, count: int = 1) -> None:
    for _ in range(count):
        with core.store.transaction() as transaction:
            core.events.append(transaction, job=sample_job(job_id="vb-1", details={"secret": 1}))


def test_payloads_survive_a_restart(core: Core) -> None:
    event = BlockJobEvent(DOMAIN, DomainEventId.BLOCK_JOB_2, "vda", BlockJobType.COPY, BlockJobStatus.READY)
    with core.store.transaction() as transaction:
        core.events.append(transaction, job=sample_job(job_id="vb-1", details={"secret": 1}))
        core.events.append(transaction, domain_event=event)
        DomainEvents(core.events).defined(transaction, DOMAIN, is_update=True)
        DomainEvents(core.events).undefined(transaction, DOMAIN)
    from_memory = core.events.read(0)
    assert [entry.sequence for entry in from_memory] == [1, 2, 3, 4]
    assert from_memory[0].job == sample_job(job_id="vb-1")
    assert from_memory[1].domain_event == event
    assert from_memory[2].domain_event == LifecycleEvent(DOMAIN, 0, 1)
    assert from_memory[3].domain_event == LifecycleEvent(DOMAIN, 1, 0)
    assert EventLog(core.store).read(0) == from_memory


def test_exactly_one_payload(core: Core) -> None:
    lifecycle = LifecycleEvent(DOMAIN, 0, 0)
    for payloads in ({}, {"job": sample_job(), "domain_event": lifecycle}):
        with pytest.raises(ValueError, match="exactly one"), core.store.transaction() as transaction:
            core.events.append(transaction, **payloads)  # type: ignore[arg-type]
    assert core.events.last_sequence == 0


def test_an_empty_log(core: Core) -> None:
    assert (core.events.oldest_sequence, core.events.last_sequence) == (1, 0)
    assert core.events.read(0) == []


def test_a_rolled_back_entry_is_nowhere(core: Core) -> None:
    heard: list[int] = []
    core.events.add_listener(heard.append)

    def fail() -> None:
        with core.store.transaction() as transaction:
            core.events.append(transaction, job=sample_job())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (core.events.last_sequence, core.events.read(0), heard) == (0, [], [])
    _append(core)
    assert core.events.last_sequence == 1


def test_listeners_hear_what_they_can_read(core: Core) -> None:
    heard: list[tuple[int, int]] = []

    def listen(sequence: int) -> None:
        with Store(core.store._path).reading() as reads:  # another connection: only what is committed
            bounds = reads.event_bounds()
        assert bounds is not None
        heard.append((sequence, bounds[1]))

    core.events.add_listener(listen)
    _append(core, 2)
    core.events.remove_listener(listen)
    _append(core)
    assert heard == [(1, 1), (2, 2)]


def test_listeners_are_called_with_the_store_free(core: Core) -> None:
    """A listener that waits for another thread must not wait for ever on a reader of that thread."""
    alive: list[bool] = []

    def listen(sequence: int) -> None:
        reader = threading.Thread(target=lambda: core.store.list_domains("a:///"), daemon=True)
        reader.start()
        reader.join(60)
        alive.append(reader.is_alive())

    core.events.add_listener(listen)
    _append(core)
    assert alive == [False]


def test_a_broken_listener_harms_nobody(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[int] = []

    def broken(sequence: int) -> None:
        raise ZeroDivisionError

    core.events.add_listener(broken)
    core.events.add_listener(heard.append)
    _append(core)
    assert heard == [1]
    assert "a listener of the event log failed" in caplog.text


def test_retention(tmp_path: Path) -> None:
    core = Core.open(tmp_path / "state.db", retention_count=5, tail_count=2)
    _append(core, 12)
    assert (core.events.oldest_sequence, core.events.last_sequence) == (8, 12)
    assert [entry.sequence for entry in core.events.read(7)] == [8, 9, 10, 11, 12]
    with pytest.raises(EventsCompacted) as caught:
        core.events.read(6)
    assert caught.value.oldest_sequence == 8
    assert isinstance(caught.value, VirError)
    assert caught.value.number == 82
    with core.store.reading() as reads:
        assert reads.event_bounds() == (8, 12)
    again = EventLog(core.store, retention_count=5)
    assert (again.oldest_sequence, again.last_sequence) == (8, 12)
    core.store.close()


def test_retention_keeps_at_least_one(core: Core) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EventLog(core.store, retention_count=0)


@settings(max_examples=25, deadline=None)
@given(
    tail_count=st.integers(1, 4),
    retention_count=st.integers(1, 12),
    count=st.integers(0, 14),
    after=st.integers(0, 15),
    limit=st.integers(1, 15),
)
def test_memory_and_disk_agree(
    tmp_path_factory: pytest.TempPathFactory, tail_count: int, retention_count: int, count: int, after: int, limit: int
) -> None:
    """Whatever the memory holds, a read is a slice of the one sequence, or says that it is gone."""
    path = tmp_path_factory.mktemp("log") / "state.db"
    core = Core.open(path, tail_count=tail_count, retention_count=retention_count)
    _append(core, count)
    kept = list(range(max(count - retention_count, 0) + 1, count + 1))
    if kept and after < kept[0] - 1:
        with pytest.raises(EventsCompacted) as gone:
            core.events.read(after, limit)
        assert gone.value.oldest_sequence == kept[0]
    else:
        read = [entry.sequence for entry in core.events.read(after, limit)]
        assert read == [sequence for sequence in kept if sequence > after][:limit]
    core.store.close()
