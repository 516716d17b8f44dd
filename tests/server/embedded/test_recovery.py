# SPDX-License-Identifier: Apache-2.0
"""Jobs over restarts: parked, killed, and with files that changed meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import House, disk_xml

from virtblock.engine import Chain, PathPolicy, digest
from virtblock.server.core.errors import VirError
from virtblock.server.core.model import Domain, JobState

MIB = 1024 * 1024
COPY, SHALLOW, REUSE = 8, 1, 2
PIVOT = 2


@pytest.fixture
def chain(make_chain: Any) -> Any:
    return make_chain()


@pytest.fixture
def domain(house: House, chain: Any) -> Any:
    return house.define(disk_xml(chain.top))


def test_running_copy_goes_on(house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path) -> None:
    destination = tmp_path / "copy.qcow2"
    job_id = house.rebase(domain, destination, bandwidth=1)
    house.hold(job_id)
    inode = destination.with_name("copy.qcow2.virtblock-partial").stat().st_ino
    house.restart()
    job = house.jobs.get(job_id)
    assert (job.state, job.is_restarted, job.bandwidth_bytes_per_s) == (JobState.RUNNING, False, MIB)
    assert "goes on" in job.reason
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    house.driver.block_job_resume(job_id)
    job = house.wait_ready(job_id)
    assert destination.stat().st_ino == inode
    with Chain([(str(chain.top), "qcow2")], PathPolicy()) as source:
        assert job.digest == digest(source)
    assert list((house.folder / "jobs").iterdir()) == []
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert qemu_img.is_same(destination, "qcow2", chain.top, "qcow2")
    assert not list(tmp_path.glob("*partial*"))
    assert [status for _, _, _, status in house.block_events()] == [3, 3, 0, 0]


def test_without_a_journal_a_copy_begins_anew(
    make_house: Callable[..., House], chain: Any, qemu_img: Any, tmp_path: Path
) -> None:
    house = make_house()
    domain = house.define(disk_xml(chain.top))
    job_id = house.rebase(domain, tmp_path / "copy.qcow2", bandwidth=1)
    house.hold(job_id)
    house.stop()
    (house.folder / "jobs" / f"{job_id}.journal").unlink()
    house.start()
    job = house.jobs.get(job_id)
    assert (job.state, job.is_restarted) == (JobState.RUNNING, True)
    assert "began anew" in job.reason
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    house.driver.block_job_resume(job_id)
    house.wait_ready(job_id)
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert qemu_img.is_same(tmp_path / "copy.qcow2", "qcow2", chain.top, "qcow2")


def test_a_source_that_was_written_meanwhile_fails_the_job(
    house: House, domain: Domain, chain: Any, qemu_io: Any, tmp_path: Path
) -> None:
    """What is there and what would follow do not belong together."""
    job_id = house.rebase(domain, tmp_path / "copy.qcow2", bandwidth=1)
    house.hold(job_id)
    house.stop()
    qemu_io(chain.top, "qcow2", "write -P 1 0 64k")
    house.start()
    job = house.jobs.get(job_id)
    assert (job.state, job.error.number) == (JobState.FAILED, 9)
    assert str(chain.top) in job.reason
    assert "was modified after the job was begun" in job.reason
    assert not list(tmp_path.glob("*partial*"))
    assert list((house.folder / "jobs").iterdir()) == []


def test_paused_copy_stays_paused(house: House, domain: Domain, tmp_path: Path) -> None:
    job_id = house.rebase(domain, tmp_path / "copy.qcow2", is_held=True)
    house.driver.block_job_pause(job_id)
    house.restart()
    assert house.jobs.get(job_id).paused
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    house.driver.block_job_resume(job_id)
    house.wait_ready(job_id)


def test_reused_destination_begins_anew(
    house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path
) -> None:
    destination = qemu_img.create(tmp_path / "there.qcow2", "qcow2", chain.size_bytes)
    job_id = house.rebase(domain, destination, COPY | REUSE, is_held=True)
    house.restart()
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    house.wait_ready(job_id)
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert qemu_img.is_same(destination, "qcow2", chain.top, "qcow2")


@pytest.mark.parametrize(("flags", "state"), [(PIVOT, JobState.COMPLETED), (0, JobState.CANCELED)])
def test_ready_is_ready_again(
    house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path, flags: int, state: Any
) -> None:
    destination = tmp_path / "copy.qcow2"
    job_id = house.copied(domain, destination)
    before = house.jobs.get(job_id)
    house.restart()
    assert house.jobs.get(job_id) == before
    assert house.disk(domain).find("mirror").get("ready") == "yes"
    info = house.info(domain)
    assert info.cur == info.end
    assert set(house.driver.block_job_map(job_id, 16)) == {3}
    # Nobody writes to the source of a READY copy.
    done = qemu_img("resize", "-f", "qcow2", chain.top, "+1M", check=False)
    assert "lock" in done.stderr
    house.driver.domain_block_job_abort(domain, "vda", flags)
    assert house.jobs.get(job_id).state is state
    assert qemu_img.is_same(destination, "qcow2", chain.top, "qcow2")


def change_source(chain: Any, destination: Any) -> Any:
    with chain.base.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"\0" * 512)
    return str(chain.base), "was changed while the server was down"


def replace_destination(chain: Any, destination: Any) -> Any:
    shutil.copy(destination, f"{destination}.2")
    os.rename(f"{destination}.2", destination)
    return str(destination), "is not the file that it was"


def remove_destination(chain: Any, destination: Any) -> Any:
    destination.unlink()
    return str(destination), "is not the file that it was"


@pytest.mark.parametrize("harm", [change_source, replace_destination, remove_destination])
def test_ready_with_other_files_fails(house: House, domain: Domain, chain: Any, tmp_path: Path, harm: Any) -> None:
    destination = tmp_path / "copy.qcow2"
    job_id = house.copied(domain, destination)
    house.stop()
    place, reason = harm(chain, destination)
    house.start()
    job = house.jobs.get(job_id)
    assert (job.state, job.error.number) == (JobState.FAILED, 9)
    assert place in job.reason
    assert reason in job.reason
    assert house.block_events()[2:] == [(8, str(chain.top), 2, 1), (16, "vda", 2, 1)]
    assert house.disk(domain, flags=2).find("source").get("file") == str(chain.top)
    house.copied(domain, tmp_path / "next.qcow2")


def test_running_whose_source_is_gone_fails(house: House, domain: Domain, chain: Any, tmp_path: Path) -> None:
    job_id = house.rebase(domain, tmp_path / "copy.qcow2", is_held=True)
    house.stop()
    chain.base.unlink()
    house.start()
    job = house.jobs.get(job_id)
    assert (job.state, job.error.number) == (JobState.FAILED, 38)
    assert str(chain.base) in job.reason


def test_new_job_of_a_killed_process_fails(
    house: House, domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: Any, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("virtblock.server.drivers.offline.copy_job.CopyJob.open_images", dies)
    with pytest.raises(KeyboardInterrupt):
        house.rebase(domain, tmp_path / "copy.qcow2")
    monkeypatch.undo()
    (job,) = house.jobs.list_active()
    assert job.state is JobState.NEW
    house.restart()
    job = house.jobs.get(job.job_id)
    assert (job.state, job.reason) == (
        JobState.FAILED,
        "operation failed: the server stopped before the copy began",
    )
    assert house.block_events() == []
    house.copied(domain, tmp_path / "copy.qcow2")


def test_abort_that_a_killed_process_had_promised(house: House, domain: Domain, chain: Any, tmp_path: Path) -> None:
    job_id = house.rebase(domain, tmp_path / "copy.qcow2", is_held=True)
    house.driver.close()
    house.jobs.transition(job_id, JobState.ABORTING)
    house.store.close()
    house.start()
    assert house.jobs.get(job_id).state is JobState.CANCELED
    assert house.block_events() == [(8, str(chain.top), 2, 2), (16, "vda", 2, 2)]


def test_pivot_that_a_killed_process_had_promised(house: House, domain: Domain, chain: Any, tmp_path: Path) -> None:
    destination = tmp_path / "copy.qcow2"
    job_id = house.copied(domain, destination)
    house.driver.close()
    house.jobs.transition(job_id, JobState.PIVOTING)
    house.store.close()
    house.start()
    assert house.jobs.get(job_id).state is JobState.COMPLETED
    assert house.disk(domain, flags=2).find("source").get("file") == str(destination)
    assert house.block_events()[2:] == [(8, str(destination), 2, 0), (16, "vda", 2, 0)]
    house.restart()
    assert house.jobs.get(job_id).state is JobState.COMPLETED


def test_published_before_it_could_be_said(
    house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the destination's last rename and the record of READY: it is READY, not copied again."""
    destination = tmp_path / "copy.qcow2"

    def dies(self: Any) -> None:
        raise SystemError("killed")

    monkeypatch.setattr("virtblock.server.drivers.offline.copy_job.CopyJob._announce_ready", dies)
    job_id = house.rebase(domain, destination)
    copy_job = house.driver._running.find(job_id)
    assert copy_job is not None
    copy_job.ended.wait(60)
    monkeypatch.undo()
    assert house.jobs.get(job_id).state is JobState.RUNNING
    inode = destination.stat().st_ino
    house.restart()
    job = house.wait_ready(job_id)
    assert (job.is_restarted, job.progress.cur) == (False, job.progress.end)
    with Chain([(str(chain.top), "qcow2")], PathPolicy()) as source:
        assert job.digest == digest(source)
    assert destination.stat().st_ino == inode
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert qemu_img.is_same(destination, "qcow2", chain.top, "qcow2")


def test_partial_file_of_a_killed_process_is_removed(house: House, domain: Domain, tmp_path: Path) -> None:
    """Found by its inode, so that nobody else's file of that name is lost."""
    destination = tmp_path / "copy.qcow2"
    job_id = house.rebase(domain, destination, is_held=True)
    partial = tmp_path / "copy.qcow2.virtblock-partial"
    keep = tmp_path / "keep"
    os.link(partial, keep)
    house.driver.close()
    os.replace(keep, partial)  # close may have removed it, a kill would not have
    house.jobs.transition(job_id, JobState.ABORTING)
    house.store.close()
    house.start()
    assert house.jobs.get(job_id).state is JobState.CANCELED
    assert not partial.exists()
    partial.write_bytes(b"not ours")
    job_id = house.rebase(domain, tmp_path / "next.qcow2", is_held=True)
    house.restart()
    assert partial.read_bytes() == b"not ours"


def test_record_that_cannot_be_read_fails_and_stops_nothing(house: House, domain: Domain, tmp_path: Path) -> None:
    broken = house.rebase(domain, tmp_path / "copy.qcow2", is_held=True)
    house.driver.close()
    house.jobs.update(broken, details={})
    house.store.close()
    house.start()
    assert house.jobs.get(broken).state is JobState.FAILED
    house.copied(domain, tmp_path / "next.qcow2")


def test_closed_driver_takes_no_new_job(
    house: House, domain: Domain, tmp_path: Path, refused: Callable[..., VirError]
) -> None:
    house.driver.close()
    refused((78, 10, "operation aborted: the server is stopping"), house.rebase, domain, tmp_path / "copy.qcow2")
    assert not (tmp_path / "copy.qcow2").exists()


KILLED = """
import sys, time
from pathlib import Path
from server.embedded.house import House, disk_xml
state, top, destination, bandwidth = sys.argv[1:]
house = House(Path(state))
domain = house.define(disk_xml(top))
job_id = house.rebase(domain, destination, bandwidth=int(bandwidth))
if bandwidth == "0":
    house.wait_ready(job_id)
print(job_id, flush=True)
time.sleep(600)
"""


@pytest.mark.fault
@pytest.mark.parametrize(("bandwidth", "state"), [("1", JobState.RUNNING), ("0", JobState.READY)])
def test_killed_process(
    make_house: Callable[..., House], chain: Any, qemu_img: Any, tmp_path: Path, bandwidth: str, state: JobState
) -> None:
    """SIGKILL while copying and when READY: the next process goes on, and the copy is whole."""
    destination, folder = tmp_path / "copy.qcow2", tmp_path / "killed"
    folder.mkdir()
    arguments = [str(folder), str(chain.top), str(destination), bandwidth]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        job_id = process.stdout.readline().strip()
        process.kill()
    assert job_id.startswith("vb-")
    house = make_house(folder=folder)
    job = house.jobs.get(job_id)
    assert job.state is state
    assert job.is_restarted == ("began anew" in job.reason)
    (domain,) = house.driver.list_all_domains(0)
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    house.wait_ready(job_id)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert qemu_img.is_same(destination, "qcow2", chain.top, "qcow2")
    assert not list(tmp_path.glob("*partial*"))
