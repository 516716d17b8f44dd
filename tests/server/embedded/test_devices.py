# SPDX-License-Identifier: Apache-2.0
"""Copies onto real loop devices."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import House, disk_xml

from virtblock.server.core.errors import VirError
from virtblock.server.core.model import Domain, JobState

MIB = 1024 * 1024
COPY, SHALLOW, REUSE, RAW, DEVICE = 8, 1, 2, 4, 32
PIVOT = 2


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes loop devices full of noise: `make_device(64 * MIB)`."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    devices: list[str] = []

    def make(size_bytes: int) -> Path:
        backing = tmp_path / f"device{len(devices)}.img"
        backing.write_bytes(b"\x66" * size_bytes)
        done = subprocess.run(["losetup", "-f", "--show", str(backing)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop device: {done.stderr.strip()}")
        devices.append(done.stdout.strip())
        return Path(devices[-1])

    yield make
    for device in devices:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.fixture
def chain(make_chain: Any) -> Any:
    return make_chain()


@pytest.fixture
def domain(house: House, chain: Any) -> Domain:
    return house.define(disk_xml(chain.top))


def test_device_gets_the_sources_format(
    house: House, domain: Domain, chain: Any, make_device: Callable[..., Path], qemu_img: Any
) -> None:
    device = make_device(2 * chain.size_bytes)
    house.copied(domain, device, COPY | DEVICE)
    mirror = house.disk(domain).find("mirror")
    assert dict(mirror.attrib) == {"type": "block", "job": "copy", "ready": "yes"}
    assert mirror.find("source").get("dev") == str(device)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    disk = house.disk(domain, flags=2)
    assert (disk.get("type"), disk.find("driver").get("type")) == ("block", "qcow2")
    assert qemu_img.is_same(device, "qcow2", chain.top, "qcow2")
    qemu_img.check(device)


def test_shallow_copy_onto_a_device(
    house: House, domain: Domain, chain: Any, make_device: Callable[..., Path], qemu_img: Any
) -> None:
    device = make_device(2 * chain.size_bytes)
    house.copied(domain, device, COPY | DEVICE | SHALLOW)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert qemu_img.info(device, image_format="qcow2")["backing-filename"] == str(chain.snap1)
    assert qemu_img.is_same(device, "qcow2", chain.top, "qcow2")


def test_raw_copy_onto_a_larger_device(
    house: House, domain: Domain, chain: Any, make_device: Callable[..., Path], qemu_img: Any, tmp_path: Path
) -> None:
    device = make_device(chain.size_bytes)
    house.copied(domain, device, COPY | DEVICE | RAW)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert qemu_img.is_same(device, "raw", chain.top, "qcow2")


def test_unfinished_copy_on_a_device_never_opens(
    house: House, domain: Domain, chain: Any, make_device: Callable[..., Path], qemu_img: Any
) -> None:
    device = make_device(2 * chain.size_bytes)
    job_id = house.rebase(domain, device, COPY | DEVICE, bandwidth=1)
    house.hold(job_id)
    house.restart()
    assert "goes on" in house.jobs.get(job_id).reason
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert house.jobs.get(job_id).state is JobState.CANCELED
    assert qemu_img("info", "-f", "qcow2", device, check=False).returncode != 0


def test_device_that_is_too_small(
    house: House, domain: Domain, make_device: Callable[..., Path], sha256_of: Callable[[Path], str]
) -> None:
    device = make_device(MIB)
    before = sha256_of(device)
    with pytest.raises(VirError, match="No space left on device") as caught:
        house.rebase(domain, device, COPY | DEVICE)
    assert (caught.value.number, caught.value.int1) == (38, 28)
    assert str(device) in caught.value.message
    assert sha256_of(device) == before


def test_device_of_the_source_by_another_name(
    house: House, make_device: Callable[..., Path], qemu_img: Any, tmp_path: Path, sha256_of: Callable[[Path], str]
) -> None:
    """A second node of one device has locks of its own, and must be refused all the same."""
    device = make_device(8 * MIB)
    qemu_img.create(device, "qcow2", 4 * MIB)
    before = sha256_of(device)
    alias = tmp_path / "alias"
    os.mknod(alias, device.stat().st_mode, device.stat().st_rdev)
    domain = house.define(disk_xml(device, attributes="type='block' device='disk'"))
    for flags in (COPY | DEVICE, COPY | DEVICE | REUSE, COPY | DEVICE | RAW):
        with pytest.raises(VirError) as caught:
            house.rebase(domain, alias, flags)
        assert caught.value.number == 1, caught.value.message
    assert sha256_of(device) == before


@pytest.fixture
def device_domain(house: House, make_device: Callable[..., Path], qemu_img: Any, qemu_io: Any) -> tuple[Domain, Path]:
    """A domain whose disk is a qcow2 image on a device."""
    device = make_device(32 * MIB)
    qemu_img.create(device, "qcow2", 16 * MIB)
    qemu_io(device, "qcow2", "write -P 0x11 0 8M")
    return house.define(disk_xml(device, attributes="type='block' device='disk'")), device


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.READY])
def test_a_device_that_was_written_meanwhile_fails_the_job(
    house: House, device_domain: tuple[Domain, Path], qemu_io: Any, tmp_path: Path, state: JobState
) -> None:
    """The guest ran while the server was away: what it wrote is not in the copy."""
    domain, device = device_domain
    job_id = begun(house, domain, tmp_path / "copy.qcow2", state)
    house.stop()
    qemu_io(device, "qcow2", "write -P 0x22 1M 64k")
    house.start()
    job = house.jobs.get(job_id)
    assert (job.state, job.reason) == (
        JobState.FAILED,
        f"operation failed: the source '{device}' was changed while the server was down",
    )
    assert str(device) in house.xml(domain)


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.READY])
def test_a_job_of_a_device_that_was_only_read_goes_on(
    house: House, device_domain: tuple[Domain, Path], qemu_img: Any, tmp_path: Path, state: JobState
) -> None:
    domain, device = device_domain
    job_id = begun(house, domain, tmp_path / "copy.qcow2", state)
    house.stop()
    qemu_img.check(device)
    house.start()
    assert house.jobs.get(job_id).state is state
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    if state is JobState.RUNNING:
        house.driver.block_job_resume(job_id)
    house.wait_ready(job_id)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert qemu_img.is_same(device, "qcow2", tmp_path / "copy.qcow2", "qcow2")


def begun(house: House, domain: Domain, path: Path, state: JobState) -> str:
    """A copy that stays in the state."""
    if state is JobState.READY:
        return house.copied(domain, path)
    job_id = house.rebase(domain, path, bandwidth=1)
    house.hold(job_id)
    return job_id


def test_an_active_commit_of_a_device_that_was_written_meanwhile_fails(
    house: House, make_device: Callable[..., Path], qemu_img: Any, qemu_io: Any, tmp_path: Path
) -> None:
    base, top = tmp_path / "base.qcow2", make_device(32 * MIB)
    qemu_img.create(base, "qcow2", 16 * MIB)
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    qemu_io(top, "qcow2", "write -P 0x11 0 8M")
    domain = house.define(disk_xml(top, attributes="type='block' device='disk'"))
    job_id = house.commit(domain, flags=4)
    house.wait_ready(job_id)
    house.stop()
    qemu_io(top, "qcow2", "write -P 0x22 1M 64k")
    house.start()
    assert house.jobs.get(job_id).state is JobState.FAILED
    assert str(top) in house.xml(domain)
