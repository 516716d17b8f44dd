# SPDX-License-Identifier: Apache-2.0
"""Bitmaps of embedded domains: what a restart makes of an incremental copy, and what stands beside other jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import WAIT_S, House, disk_xml

from virtblock.engine import PathPolicy, add_bitmap
from virtblock.server.core.errors import VirError
from virtblock.server.core.model import Domain, JobState, ParameterType, TypedParameter

KIB, MIB = 1024, 1024 * 1024
SHALLOW, REUSE = 1, 2


@pytest.fixture
def chain(make_chain: Any) -> Any:
    made = make_chain()
    add_bitmap(str(made.top), "b", PathPolicy(), granularity_bytes=64 * KIB)
    return made


@pytest.fixture
def domain(house: House, chain: Any) -> Any:
    return house.define(disk_xml(chain.top))


def _incremental(house: House, domain: Domain, destination: Path, flags: int = 0, bandwidth: int = 0) -> str:
    """The job's id."""
    xml = f"<disk type='file'><driver type='qcow2'/><source file='{destination}'/></disk>"
    parameters = [TypedParameter("virtblock.bitmap", ParameterType.STRING, "b")]
    if bandwidth:
        parameters.append(TypedParameter("bandwidth", ParameterType.ULLONG, bandwidth))
    return house.copy(domain, xml, REUSE | flags, *parameters)


def _refused(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(VirError) as caught:
        call()
    assert caught.value.number == number, caught.value


def _wait_until_marked(destination: Path) -> None:
    """Until the copy has begun to write."""
    deadline = time.monotonic() + WAIT_S
    while destination.read_bytes()[:4] == b"QFI\xfb":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _earlier_copy(house: House, domain: Domain, destination: Path, flags: int = 8) -> None:
    house.copied(domain, destination, flags)
    house.driver.domain_block_job_abort(domain, "vda", 0)


@pytest.mark.parametrize("flags", [0, SHALLOW], ids=["flat", "shallow"])
def test_a_restart_goes_on(
    house: House, domain: Domain, chain: Any, qemu_img: Any, qemu_io: Any, tmp_path: Path, flags: int
) -> None:
    """The journal says that nothing was written meanwhile, so the bitmap still says what is to do."""
    destination = tmp_path / "copy.qcow2"
    _earlier_copy(house, domain, destination, 8 | flags)
    qemu_io(chain.top, "qcow2", "write -P 1 0 8M")
    job_id = _incremental(house, domain, destination, flags, bandwidth=MIB)
    house.hold(job_id)
    house.restart()
    assert not house.jobs.get(job_id).is_restarted
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    house.driver.block_job_resume(job_id)
    assert house.wait_ready(job_id).progress.total_bytes == 8 * MIB
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert qemu_img.is_same(destination, "qcow2", chain.top, "qcow2")


def test_a_source_that_was_written_meanwhile_fails_it(
    house: House, domain: Domain, chain: Any, qemu_img: Any, qemu_io: Any, tmp_path: Path
) -> None:
    """Nobody watched the bitmap while the server was down."""
    destination = tmp_path / "copy.qcow2"
    _earlier_copy(house, domain, destination)
    qemu_io(chain.top, "qcow2", "write -P 1 0 8M")
    job_id = _incremental(house, domain, destination, bandwidth=MIB)
    _wait_until_marked(destination)
    house.stop()
    qemu_io(chain.top, "qcow2", "write -P 2 20M 64k")
    house.start()
    job = house.jobs.get(job_id)
    assert job.state is JobState.FAILED
    assert str(chain.top) in job.reason
    assert "when the job was begun and has" in job.reason


def test_without_a_journal_a_flat_one_becomes_whole(
    house: House, domain: Domain, chain: Any, qemu_img: Any, qemu_io: Any, tmp_path: Path
) -> None:
    """Whatever was written meanwhile is copied too."""
    destination = tmp_path / "copy.qcow2"
    _earlier_copy(house, domain, destination)
    qemu_io(chain.top, "qcow2", "write -P 1 0 8M")
    job_id = _incremental(house, domain, destination, bandwidth=MIB)
    _wait_until_marked(destination)
    house.stop()
    (house.folder / "jobs" / f"{job_id}.journal").unlink()
    # What the bitmap does not know of.
    qemu_io(chain.top, "qcow2", "write -P 2 20M 64k")
    qemu_img("bitmap", "--clear", chain.top, "b")
    house.start()
    assert house.jobs.get(job_id).is_restarted
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    house.wait_ready(job_id)
    assert house.jobs.get(job_id).progress.end == chain.size_bytes
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert qemu_img.is_same(destination, "qcow2", chain.top, "qcow2")


def test_without_a_journal_a_shallow_one_that_broke_off_fails(
    house: House, domain: Domain, chain: Any, qemu_img: Any, qemu_io: Any, tmp_path: Path
) -> None:
    destination = tmp_path / "copy.qcow2"
    _earlier_copy(house, domain, destination, 8 | SHALLOW)
    qemu_io(chain.top, "qcow2", "write -P 1 0 8M")
    job_id = _incremental(house, domain, destination, SHALLOW, bandwidth=MIB)
    _wait_until_marked(destination)
    house.stop()
    (house.folder / "jobs" / f"{job_id}.journal").unlink()
    house.start()
    job = house.jobs.get(job_id)
    assert job.state is JobState.FAILED
    assert "unfinished copy, which lacks more than a bitmap knows" in job.reason
    assert qemu_img("info", "-f", "qcow2", destination, check=False).returncode != 0


def test_while_a_pull_writes_to_the_image(house: House, domain: Domain) -> None:
    house.pull(domain, is_held=True)
    _refused(84, lambda: house.driver.list_block_bitmaps(domain, "vda"))
    _refused(83, lambda: house.driver.clear_block_bitmap(domain, "vda", "b"))
    house.driver.domain_block_job_abort(domain, "vda", 0)


def test_a_strict_server_changes_none(make_house: Callable[..., House], chain: Any) -> None:
    strict = make_house(strict_libvirt=True)
    domain = strict.define(disk_xml(chain.top))
    assert [bitmap.name for bitmap in strict.driver.list_block_bitmaps(domain, "vda")] == ["b"]
    _refused(55, lambda: strict.driver.remove_block_bitmap(domain, "vda", "b"))


def test_outside_the_allowed_folders(make_house: Callable[..., House], chain: Any, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    fenced = make_house(policy=PathPolicy([str(allowed)]))
    domain = fenced.define(disk_xml(chain.top))
    _refused(88, lambda: fenced.driver.list_block_bitmaps(domain, "vda"))
    _refused(88, lambda: fenced.driver.add_block_bitmap(domain, "vda", "x", 65536, True))


def test_a_disk_that_a_domain_may_only_read(house: House, chain: Any) -> None:
    domain = house.define(disk_xml(chain.top, more="<readonly/>"))
    assert len(house.driver.list_block_bitmaps(domain, "vda")) == 1
    _refused(84, lambda: house.driver.add_block_bitmap(domain, "vda", "x", 65536, True))
