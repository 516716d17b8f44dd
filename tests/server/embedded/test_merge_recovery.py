# SPDX-License-Identifier: Apache-2.0
"""Pulls and commits over restarts: parked, killed in every state, and with files that changed meanwhile."""

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

from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.model import Domain, JobState

SHALLOW, DELETE, ACTIVE, COMMIT_BYTES = 1, 2, 4, 16
PULL_BYTES = 64
PIVOT = 2
SLOW_BYTES_PER_S = 64 * 1024
WAIT_S = 60


@pytest.fixture
def chain(make_chain: Any, qemu_img: Any, tmp_path: Path) -> Any:
    """`base <- snap1 <- snap2`, and in `golden` what the disk reads."""
    made = make_chain()
    made.golden = tmp_path / "golden.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", made.top, made.golden)
    return made


def named(*files: Path) -> str:
    """A terminated `<backingStore>` with these images."""
    xml = "<backingStore/>"
    for file in reversed(files):
        xml = f"<backingStore type='file'><format type='qcow2'/><source file='{file}'/>{xml}</backingStore>"
    return xml


@pytest.fixture
def domain(house: House, chain: Any) -> Domain:
    """The definition names the whole chain."""
    return house.define(disk_xml(chain.top, more=named(chain.snap1, chain.base)))


def definition(house: House, domain: Domain) -> list[str]:
    """The images that the definition names, from the top."""
    disk = house.disk(domain, flags=2)
    return [Path(source.get("file")).name for source in disk.iter("source")]


def start_pull(house: House, domain: Domain, chain: Any, bandwidth: int = 0) -> str:
    return house.pull(domain, None, PULL_BYTES, bandwidth=bandwidth)


def start_commit(house: House, domain: Domain, chain: Any, bandwidth: int = 0) -> str:
    return house.commit(domain, chain.base, chain.snap1, COMMIT_BYTES | DELETE, bandwidth=bandwidth)


def start_active(house: House, domain: Domain, chain: Any, bandwidth: int = 0) -> str:
    return house.commit(domain, None, None, ACTIVE | COMMIT_BYTES, bandwidth=bandwidth)


ONE_PHASE = {
    "pull": (start_pull, 1, ["snap2.qcow2"]),
    "commit": (start_commit, 3, ["snap2.qcow2", "base.qcow2"]),
}
STARTS: dict[str, Any] = {"pull": start_pull, "commit": start_commit, "active commit": start_active}


def hasten(house: House, domain: Domain) -> None:
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)


def assert_content(chain: Any, qemu_img: Any, top: Path) -> None:
    assert qemu_img.is_same(chain.golden, "raw", top, "qcow2")
    qemu_img.check(top)


def assert_sound(qemu_img: Any, file: Path) -> None:
    """No errors; a killed process may leave clusters behind that nothing uses (3)."""
    done = qemu_img("check", "-q", "-f", "qcow2", file, check=False)
    assert done.returncode in (0, 3), done.stdout + done.stderr


@pytest.mark.parametrize("kind", STARTS)
def test_running_goes_on(house: House, domain: Domain, chain: Any, qemu_img: Any, kind: str) -> None:
    job_id = STARTS[kind](house, domain, chain, SLOW_BYTES_PER_S)
    house.hold(job_id)
    house.restart()
    job = house.jobs.get(job_id)
    assert (job.state, job.is_restarted, job.bandwidth_bytes_per_s) == (JobState.RUNNING, False, SLOW_BYTES_PER_S)
    assert "goes on" in job.reason
    house.driver.block_job_resume(job_id)
    hasten(house, domain)
    if kind == "active commit":
        house.wait_ready(job_id)
        house.driver.domain_block_job_abort(domain, "vda", PIVOT)
        assert_content(chain, qemu_img, chain.base)
        assert definition(house, domain) == ["base.qcow2"]
        return
    house.wait(job_id, JobState.COMPLETED)
    _, number, left = ONE_PHASE[kind]
    assert definition(house, domain) == left
    assert house.block_events() == [(8, str(chain.top), number, 0), (16, "vda", number, 0)]
    assert_content(chain, qemu_img, chain.top)


@pytest.mark.parametrize("kind", STARTS)
def test_abort_that_a_killed_process_had_promised(
    house: House, domain: Domain, chain: Any, qemu_img: Any, kind: str
) -> None:
    before = house.xml(domain, 2)
    job_id = STARTS[kind](house, domain, chain, SLOW_BYTES_PER_S)
    house.driver.close()
    house.jobs.transition(job_id, JobState.ABORTING)
    house.store.close()
    house.start()
    assert house.jobs.get(job_id).state is JobState.CANCELED
    assert [status for _, _, _, status in house.block_events()] == [2, 2]
    assert house.xml(domain, 2) == before
    assert_content(chain, qemu_img, chain.top)
    assert all(file.exists() for file in chain.files)


class Death(Exception):
    """Stands for the kill of the process, in the thread of a job."""


def die_before(monkeypatch: pytest.MonkeyPatch, state: JobState) -> None:
    """The process gets no further than to the record of this state."""
    real = JobRegistry.transition

    def transition(self: JobRegistry, job_id: str, wanted: JobState, **more: Any) -> Any:
        if wanted is state:
            raise Death
        return real(self, job_id, wanted, **more)

    monkeypatch.setattr(JobRegistry, "transition", transition)


@pytest.mark.parametrize("kind", ONE_PHASE)
@pytest.mark.parametrize("is_aborted", [False, True])
def test_done_before_it_could_be_said(
    house: House,
    domain: Domain,
    chain: Any,
    qemu_img: Any,
    kind: str,
    is_aborted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The backing reference has changed, the record has not: the job is COMPLETED, and the definition follows."""
    start, number, left = ONE_PHASE[kind]
    die_before(monkeypatch, JobState.COMPLETED)
    job_id = start(house, domain, chain)
    job = house.driver._running.find(job_id)
    assert job is not None and job.ended.wait(WAIT_S)
    monkeypatch.undo()
    assert house.jobs.get(job_id).state is JobState.RUNNING
    if is_aborted:
        house.jobs.transition(job_id, JobState.ABORTING)
    written = {file: file.stat().st_mtime_ns for file in chain.files if file.exists()}
    house.restart()
    job = house.jobs.get(job_id)
    assert (job.state, job.is_restarted, job.progress.cur) == (JobState.COMPLETED, False, chain.size_bytes)
    assert definition(house, domain) == left
    assert house.block_events() == [(8, str(chain.top), number, 0), (16, "vda", number, 0)]
    assert_content(chain, qemu_img, chain.top)
    assert chain.snap1.exists() == (kind == "pull")  # DELETE was still to be done
    assert {file: file.stat().st_mtime_ns for file in chain.files if file.exists()}.items() <= written.items()
    house.restart()
    assert house.jobs.get(job_id) == job


def test_ready_is_ready_again(house: House, domain: Domain, chain: Any, qemu_img: Any) -> None:
    job_id = start_active(house, domain, chain)
    house.wait_ready(job_id)
    before = house.jobs.get(job_id)
    house.restart()
    assert house.jobs.get(job_id) == before
    mirror = house.disk(domain).find("mirror")
    assert (mirror.get("job"), mirror.get("ready")) == ("active-commit", "yes")
    info = house.info(domain)
    assert info.cur == info.end
    assert set(house.driver.block_job_map(job_id, 16)) == {3}
    for file in (chain.base, chain.top):  # nobody writes to source or base
        assert "lock" in qemu_img("resize", "-f", "qcow2", file, "+1M", check=False).stderr
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert house.jobs.get(job_id).state is JobState.COMPLETED
    assert definition(house, domain) == ["base.qcow2"]
    assert_content(chain, qemu_img, chain.base)


def test_pivot_that_a_killed_process_had_promised(house: House, domain: Domain, chain: Any, qemu_img: Any) -> None:
    job_id = house.commit(domain, chain.snap1, None, ACTIVE | DELETE)
    house.wait_ready(job_id)
    house.driver.close()
    house.jobs.transition(job_id, JobState.PIVOTING)
    house.store.close()
    house.start()
    assert house.jobs.get(job_id).state is JobState.COMPLETED
    assert definition(house, domain) == ["snap1.qcow2", "base.qcow2"]
    assert house.block_events()[2:] == [(8, str(chain.snap1), 4, 0), (16, "vda", 4, 0)]
    assert not chain.top.exists()
    assert_content(chain, qemu_img, chain.snap1)


def grow(path: Path) -> str:
    with path.open("ab") as file:
        file.write(b"\0" * 512)
    return "was changed while the server was down"


def replace(path: Path) -> str:
    shutil.copy(path, f"{path}.2")
    os.rename(f"{path}.2", path)
    return "is not the file that it was before the server stopped"


def remove(path: Path) -> str:
    path.unlink()
    return "is not the file that it was before the server stopped"


def resize(path: Path) -> str:
    subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", path, "+1M"], check=True)
    return "was changed while the server was down"


def cut_off(path: Path) -> str:
    """Another backing reference than before, and not the final one."""
    subprocess.run(
        ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", path.with_name("other"), path], check=True
    )
    return "was changed while the server was down"


# kind, which file, harm: the image that is written may differ in content and time alone
HARMS: dict[str, tuple[str, str, Callable[[Path], str]]] = {
    "pull, source of data changed": ("pull", "snap1", grow),
    "pull, base of the chain replaced": ("pull", "base", replace),
    "pull, image gone": ("pull", "base", remove),
    "pull, top replaced": ("pull", "snap2", replace),
    "pull, top of another size": ("pull", "snap2", resize),
    "pull, top with another backing file": ("pull", "snap2", cut_off),
    "commit, top changed": ("commit", "snap1", grow),
    "commit, base replaced": ("commit", "base", replace),
    "commit, base of another size": ("commit", "base", resize),
    "commit, overlay gone": ("commit", "snap2", remove),
    "commit, overlay with another backing file": ("commit", "snap2", cut_off),
    "active commit, top changed": ("active commit", "snap2", grow),
    "active commit, base replaced": ("active commit", "base", replace),
}


@pytest.mark.parametrize("name", HARMS)
def test_running_with_other_files_fails(house: House, domain: Domain, chain: Any, name: str) -> None:
    kind, which, harm = HARMS[name]
    before = house.xml(domain, 2)
    job_id = STARTS[kind](house, domain, chain, SLOW_BYTES_PER_S)
    house.stop()
    path = chain.base.with_name(f"{which}.qcow2")
    reason = harm(path)
    house.start()
    job = house.jobs.get(job_id)
    assert (job.state, job.error.number) == (JobState.FAILED, 9)
    assert str(path) in job.reason
    assert reason in job.reason
    assert [status for _, _, _, status in house.block_events()] == [1, 1]
    assert house.xml(domain, 2) == before


@pytest.mark.parametrize("which", ["snap2", "snap1", "base"])
def test_ready_with_other_files_fails(house: House, domain: Domain, chain: Any, which: str) -> None:
    job_id = start_active(house, domain, chain)
    house.wait_ready(job_id)
    house.stop()
    path = chain.base.with_name(f"{which}.qcow2")
    grow(path)
    house.start()
    job = house.jobs.get(job_id)
    assert (job.state, job.error.number) == (JobState.FAILED, 9)
    assert str(path) in job.reason
    assert definition(house, domain) == ["snap2.qcow2", "snap1.qcow2", "base.qcow2"]


def test_new_job_of_a_killed_process_fails(
    house: House, domain: Domain, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: Any, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("virtblock.server.drivers.offline.merge_job.MergeJob.open_images", dies)
    with pytest.raises(KeyboardInterrupt):
        house.pull(domain)
    monkeypatch.undo()
    (job,) = house.jobs.list_active()
    house.restart()
    job = house.jobs.get(job.job_id)
    assert (job.state, job.reason) == (
        JobState.FAILED,
        "operation failed: the server stopped before the pull began",
    )
    assert house.block_events() == []
    house.wait(house.pull(domain), JobState.COMPLETED)


@pytest.mark.parametrize("details", [{}, {"images": []}, {"images": 3}])
def test_record_that_cannot_be_read_fails_and_stops_nothing(
    house: House, domain: Domain, chain: Any, details: dict[str, Any]
) -> None:
    broken = start_pull(house, domain, chain, SLOW_BYTES_PER_S)
    house.driver.close()
    house.jobs.update(broken, details=details)
    house.store.close()
    house.start()
    assert house.jobs.get(broken).state is JobState.FAILED
    house.wait(house.pull(domain), JobState.COMPLETED)


KILLED = """
import sys, time
from pathlib import Path
from server.embedded.house import House
from server.embedded.test_merge_recovery import STARTS, disk_xml, named
state, kind, bandwidth, *files = sys.argv[1:]
base, snap1, top = map(Path, files)
class chain: pass
chain.base, chain.snap1, chain.top = base, snap1, top
house = House(Path(state))
domain = house.define(disk_xml(top, more=named(snap1, base)))
job_id = STARTS[kind](house, domain, chain, int(bandwidth))
if bandwidth == "0":
    house.wait_ready(job_id)
else:
    while not house.jobs.get(job_id).progress.copied_bytes:
        time.sleep(0.01)
    house.driver.domain_block_job_set_speed(domain, "vda", 1, 1)
print(job_id, flush=True)
time.sleep(600)
"""


@pytest.mark.fault
@pytest.mark.parametrize(
    ("kind", "bandwidth"),
    [(kind, SLOW_BYTES_PER_S) for kind in STARTS] + [("active commit", 0)],
)
def test_killed_process(
    make_house: Callable[..., House], chain: Any, qemu_img: Any, tmp_path: Path, kind: str, bandwidth: int
) -> None:
    """SIGKILL in the middle, and when READY: the next process goes on, and the disk reads as it did."""
    folder = tmp_path / "killed"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = [str(folder), kind, str(bandwidth), *map(str, chain.files)]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        job_id = process.stdout.readline().strip()
        process.kill()
    assert job_id.startswith("vb-")
    written = chain.top if kind == "pull" else chain.base
    assert_sound(qemu_img, written)
    assert qemu_img.is_same(chain.golden, "raw", chain.top, "qcow2")
    house = make_house(folder=folder)
    (domain,) = house.driver.list_all_domains(0)
    job = house.jobs.get(job_id)
    assert job.is_restarted == ("began anew" in job.reason)
    hasten(house, domain)
    if kind == "active commit":
        house.wait_ready(job_id)
        house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    else:
        house.wait(job_id, JobState.COMPLETED)
    assert_sound(qemu_img, written)
    assert qemu_img.is_same(chain.golden, "raw", chain.base if kind == "active commit" else chain.top, "qcow2")
