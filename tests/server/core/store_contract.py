# SPDX-License-Identifier: Apache-2.0
"""What every store must do. A test class that inherits from `StoreContract` and gives `reopen` holds a store to it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

import pytest
from server.core.samples import URI, UUID, sample_job

from virtblock.server.core.errors import VirError
from virtblock.server.core.model import BlockJob, BlockJobType, JobError, JobProgress, JobState
from virtblock.server.core.store import DomainRecord, JobQuery, RequestRecord, Store, Transaction

OTHER_UUID = "00000000-0000-0000-0000-000000000001"
RECORD = DomainRecord(URI, UUID, "vm1", "<domain/>")


def _put_jobs(store: Store, *jobs: BlockJob) -> None:
    with store.transaction() as transaction:
        for job in jobs:
            transaction.put_job(job)


def _fail_after(store: Store, write: Callable[[Transaction], object]) -> None:
    """A transaction that writes and then fails."""

    def run() -> None:
        with store.transaction() as transaction:
            write(transaction)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()


class StoreContract(ABC):
    """The contract. `reopen()` closes the store, if one is open, and opens the same state again."""

    @pytest.fixture
    @abstractmethod
    def reopen(self) -> Callable[[], Store]: ...

    @pytest.fixture
    def store(self, reopen: Callable[[], Store]) -> Store:
        return reopen()

    def test_domains_are_kept(self, store: Store, reopen: Callable[[], Store]) -> None:
        second = DomainRecord(URI, OTHER_UUID, "a-vm", "<b/>")
        elsewhere = DomainRecord("other:///", UUID, "vm1", "<c/>")
        with store.transaction() as transaction:
            for record in (RECORD, second, elsewhere):
                transaction.put_domain(record)
        store = reopen()
        assert store.get_domain(URI, UUID) == RECORD
        assert store.find_domain_by_name("other:///", "vm1") == elsewhere
        assert store.list_domains(URI) == [second, RECORD]
        assert store.get_domain(URI, "unknown") is None
        assert store.find_domain_by_name(URI, "unknown") is None

    def test_a_domain_is_replaced_and_deleted(self, store: Store) -> None:
        changed = DomainRecord(URI, UUID, "renamed", "<new/>")
        with store.transaction() as transaction:
            transaction.put_domain(RECORD)
            transaction.put_domain(changed)
        assert store.list_domains(URI) == [changed]
        with store.transaction() as transaction:
            assert transaction.delete_domain(URI, UUID)
            assert not transaction.delete_domain(URI, UUID)
        assert store.list_domains(URI) == []

    def test_a_name_belongs_to_one_domain(self, store: Store) -> None:
        with store.transaction() as transaction:
            transaction.put_domain(RECORD)
        with pytest.raises(VirError) as caught, store.transaction() as transaction:
            transaction.put_domain(DomainRecord(URI, OTHER_UUID, "vm1", "<x/>"))
        assert caught.value.number == 9
        assert caught.value.message == f"operation failed: domain 'vm1' already exists with uuid {UUID}"
        assert store.list_domains(URI) == [RECORD]

    def test_all_or_nothing(self, store: Store, reopen: Callable[[], Store]) -> None:
        def write(transaction: Transaction) -> None:
            transaction.put_domain(RECORD)
            transaction.put_job(sample_job(job_id="vb-1"))
            transaction.append_event(1.0, "kind", "{}")
            assert transaction.get_domain(URI, UUID) == RECORD

        def is_empty(state: Store) -> bool:
            with state.reading() as reads:
                found = (reads.list_domains(URI), reads.list_jobs(JobQuery()), reads.event_bounds())
            return found == ([], [], None)

        _fail_after(store, write)
        assert is_empty(store)
        assert is_empty(reopen())

    def test_jobs_keep_every_field(self, store: Store, reopen: Callable[[], Store]) -> None:
        job = sample_job(
            job_id="vb-1",
            state=JobState.FAILED,
            type=BlockJobType.ACTIVE_COMMIT,
            progress=JobProgress(1, 2, 3, 4, 5, 6, 7, 8),
            paused=True,
            error=JobError(38, 10, "text: No such file", "%s", "text", "", 2, -1),
            is_fallback=True,
            create_time_s=1.25,
            digest="sha256:00",
            details={"plan": [1, 2], "nested": {"name": "é"}},
        )
        _put_jobs(store, job)
        with reopen().reading() as reads:
            assert reads.get_job("vb-1") == job
            assert reads.get_job("vb-2") is None

    def test_jobs_are_listed_newest_first(self, store: Store) -> None:
        names = [(f"vb-{number}", f"vd{number}", JobState.RUNNING) for number in range(4)]
        _put_jobs(store, *[sample_job(disk, job_id=job_id, state=state) for job_id, disk, state in names])
        _put_jobs(store, sample_job("vd3", job_id="vb-3", state=JobState.COMPLETED))

        def listed(**query: object) -> list[str]:
            with store.reading() as reads:
                return [job.job_id for job in reads.list_jobs(JobQuery(**query))]  # type: ignore[arg-type]

        assert listed() == ["vb-3", "vb-2", "vb-1", "vb-0"]
        assert listed(active_only=True) == ["vb-2", "vb-1", "vb-0"]
        assert listed(states=("completed",)) == ["vb-3"]
        assert listed(disk="vd1") == ["vb-1"]
        assert listed(before_job_id="vb-2", limit=1) == ["vb-1"]
        assert listed(connection_uri="other:///") == []
        assert listed(domain_uuid=OTHER_UUID) == []

    def test_one_active_job_per_disk(self, store: Store) -> None:
        _put_jobs(store, sample_job(job_id="vb-1"))
        with pytest.raises(VirError):
            _put_jobs(store, sample_job(job_id="vb-2"))
        with store.reading() as reads:
            found = reads.find_active_job(URI, UUID, "vda")
            assert found is not None
            assert found.job_id == "vb-1"
        _put_jobs(store, sample_job(job_id="vb-1", state=JobState.CANCELED), sample_job(job_id="vb-2"))

    def test_sequences_grow_by_one(self, store: Store, reopen: Callable[[], Store]) -> None:
        for count in (2, 1):
            with store.transaction() as transaction:
                for _ in range(count):
                    transaction.append_event(1.0, "kind", "{}")
        _fail_after(store, lambda transaction: transaction.append_event(1.0, "lost", "{}"))
        store = reopen()
        with store.transaction() as transaction:
            transaction.delete_events_through(2)
            assert transaction.append_event(2.5, "last", '{"a":1}') == 4
        with reopen().reading() as reads:
            assert reads.event_bounds() == (3, 4)
            assert [(e.sequence, e.kind) for e in reads.list_events(0, 10)] == [(3, "kind"), (4, "last")]
            assert [e.time_s for e in reads.list_events(3, 10)] == [2.5]
            assert len(reads.list_events(0, 1)) == 1

    def test_requests_expire(self, store: Store) -> None:
        record = RequestRecord("unix", "r1", "digest", "vb-1", 100.0)
        _put_jobs(store, sample_job(job_id="vb-1"))
        with store.transaction() as transaction:
            transaction.put_request(record)
        with store.reading() as reads:
            assert reads.get_request("unix", "r1") == record
            assert reads.get_request("tls:CN=x", "r1") is None
        with store.transaction() as transaction:
            transaction.delete_requests_before(100.0)
            assert transaction.get_request("unix", "r1") == record
            transaction.delete_requests_before(100.5)
            assert transaction.get_request("unix", "r1") is None

    def test_a_request_names_a_job_that_exists(self, store: Store) -> None:
        with pytest.raises(VirError), store.transaction() as transaction:
            transaction.put_request(RequestRecord("unix", "r1", "digest", "vb-none", 100.0))

    def test_callbacks_run_once_and_only_after_a_commit(self, store: Store) -> None:
        told: list[str] = []

        def after() -> None:
            told.append("after")

        def register(transaction: Transaction) -> None:
            transaction.on_commit(lambda: told.append("lost"))
            transaction.after_commit(after)

        _fail_after(store, register)
        with store.transaction() as transaction:
            transaction.after_commit(after)
            transaction.after_commit(after)
            transaction.on_commit(lambda: told.append("on"))
            assert told == []
        assert told == ["on", "after"]

    def test_nesting_is_refused(self, store: Store) -> None:
        with store.transaction(), pytest.raises(RuntimeError), store.transaction():
            pass
        with store.transaction() as transaction:
            transaction.put_domain(RECORD)
        assert store.get_domain(URI, UUID) == RECORD

    def test_threads_take_turns(self, store: Store) -> None:
        def append() -> None:
            for _ in range(5):
                with store.transaction() as transaction:
                    first = transaction.append_event(1.0, "a", "{}")
                    assert transaction.append_event(1.0, "b", "{}") == first + 1

        threads = [threading.Thread(target=append) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with store.reading() as reads:
            kinds = [event.kind for event in reads.list_events(0, 100)]
        assert kinds == ["a", "b"] * 20
