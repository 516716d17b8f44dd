# SPDX-License-Identifier: Apache-2.0
"""Jobs while their state cannot be written (a full disk under the store): they wait for it, and end as they were to."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import WAIT_S, House, disk_xml

from virtblock.engine import PathPolicy, create_image
from virtblock.server.core.errors import VirError
from virtblock.server.core.flags import BlockJobAbortFlags
from virtblock.server.core.model import BlockJob, JobState
from virtblock.server.core.store import Transaction

MIB = 1 << 20
PIVOT, ASYNC = int(BlockJobAbortFlags.PIVOT), int(BlockJobAbortFlags.ASYNC)


class FullDisk:
    """Refuses to record jobs in the states of `refused`, as SQLite does; counts how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: set[JobState] = set()
        self.count = 0
        put_job = Transaction.put_job

        def put(transaction: Transaction, job: BlockJob) -> None:
            if job.state in self.refused:
                self.count += 1
                raise sqlite3.OperationalError("database or disk is full")
            put_job(transaction, job)

        monkeypatch.setattr(Transaction, "put_job", put)

    def wait_refused(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while not self.count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[FullDisk]:
    full = FullDisk(monkeypatch)
    yield full
    full.refused = set()  # so that the house can be closed


@pytest.fixture
def domain(house: House, tmp_path: Path) -> Any:
    """On an overlay over a base."""
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    create_image(str(base), "qcow2", MIB, PathPolicy())
    create_image(str(top), "qcow2", MIB, PathPolicy(), backing_path=str(base), backing_format="qcow2")
    chain = f"<backingStore type='file'><format type='qcow2'/><source file='{base}'/><backingStore/></backingStore>"
    return house.define(disk_xml(top, more=chain))


@pytest.fixture
def unready(house: House, domain: Any, disk: FullDisk, tmp_path: Path) -> str:
    """A copy that is done and could not say so."""
    disk.refused = {JobState.READY}
    job_id = house.rebase(domain, tmp_path / "copy.qcow2")
    disk.wait_refused()
    assert house.jobs.get(job_id).state is JobState.RUNNING
    return job_id


def test_a_copy_is_ready_as_soon_as_that_can_be_recorded(
    house: House, domain: Any, disk: FullDisk, unready: str
) -> None:
    disk.refused = set()
    house.wait_ready(unready)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert "copy.qcow2" in house.xml(domain)


def test_a_copy_that_cannot_be_recorded_as_ready_can_be_aborted(house: House, domain: Any, unready: str) -> None:
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert house.jobs.get(unready).state is JobState.CANCELED


def test_a_stop_meanwhile_leaves_the_rest_to_the_next_start(house: House, disk: FullDisk, unready: str) -> None:
    house.stop()
    disk.refused = set()
    house.start()
    house.wait_ready(unready)


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize(("flags", "end"), [(0, JobState.CANCELED), (PIVOT, JobState.COMPLETED)])
def test_an_end_waits_until_it_can_be_recorded(
    house: House, domain: Any, disk: FullDisk, tmp_path: Path, flags: int, end: JobState, is_restarted: bool
) -> None:
    job_id = house.copied(domain, tmp_path / "copy.qcow2")
    if is_restarted:
        house.restart()
    disk.refused = {end}
    house.driver.domain_block_job_abort(domain, "vda", flags | ASYNC)
    disk.wait_refused()
    assert not house.jobs.get(job_id).state.is_final
    disk.refused = set()
    house.wait(job_id, end)
    assert ("copy.qcow2" in house.xml(domain)) == (end is JobState.COMPLETED)
    house.copied(domain, tmp_path / "another.qcow2")


def test_a_pull_that_is_done_is_recorded_with_its_definition(
    house: House, domain: Any, disk: FullDisk, tmp_path: Path
) -> None:
    disk.refused = {JobState.COMPLETED}
    job_id = house.pull(domain)
    disk.wait_refused()
    disk.refused = set()
    house.wait(job_id, JobState.COMPLETED)
    assert "base.qcow2" not in house.xml(domain)


def test_a_start_that_cannot_be_recorded_gives_the_disk_back(
    house: House, domain: Any, disk: FullDisk, tmp_path: Path
) -> None:
    disk.refused = {JobState.RUNNING, JobState.FAILED}
    with pytest.raises(VirError) as caught:
        house.rebase(domain, tmp_path / "copy.qcow2")
    assert "database or disk is full" in caught.value.message
    [job] = house.jobs.list_active()
    disk.refused = set()
    house.wait(job.job_id, JobState.FAILED)
    house.copied(domain, tmp_path / "copy.qcow2")


def test_a_start_of_the_server_that_cannot_record_fails_no_job(house: House, domain: Any, disk: FullDisk) -> None:
    job_id = house.rebase(domain, house.folder / "copy.qcow2", is_held=True)
    house.stop()
    disk.refused = {JobState.RUNNING}
    with pytest.raises(VirError, match="database or disk is full"):
        house.start()
    disk.refused = set()
    house.start()
    assert house.jobs.get(job_id).state is JobState.RUNNING
