# SPDX-License-Identifier: Apache-2.0
"""A copy job over its whole life, with real images, judged by qemu-img."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from server.embedded.house import WAIT_S, House, disk_xml

from virtblock.server.core.errors import VirError
from virtblock.server.core.jobs import JobFilter
from virtblock.server.core.model import BlockJobInfo, Domain, JobState, ParameterType, TypedParameter

MIB = 1024 * 1024
COPY, SHALLOW, REUSE, RAW, BYTES = 8, 1, 2, 4, 64
ASYNC, PIVOT = 1, 2


def printed(element: Any) -> Any:
    return etree.tostring(element, encoding="unicode", with_tail=False).replace('"', "'")


@pytest.fixture
def chain(make_chain: Any) -> Any:
    return make_chain()


@pytest.fixture
def domain(house: House, chain: Any) -> Any:
    return house.define(disk_xml(chain.top))


@pytest.fixture
def slow(house: House, domain: Domain, tmp_path: Path) -> Any:
    """A copy that gets nowhere before it is hastened."""
    return house.rebase(domain, tmp_path / "copy.qcow2", is_held=True)


def test_full_copy_with_pivot(
    house: House, domain: Domain, chain: Any, qemu_img: Any, sha256_of: Callable[[Path], str], tmp_path: Path
) -> None:
    digests = [sha256_of(file) for file in chain.files]
    destination = tmp_path / "copy.qcow2"
    job_id = house.copied(domain, destination)
    info = house.info(domain)
    assert info.cur == info.end > 1
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    job = house.jobs.get(job_id)
    assert (job.state, job.error) == (JobState.COMPLETED, None)
    assert 0 < job.create_time_s <= job.start_time_s <= job.ready_time_s <= job.end_time_s
    assert qemu_img.is_same(destination, "qcow2", chain.top, "qcow2")
    qemu_img.check(destination)
    assert "backing-filename" not in qemu_img.info(destination)
    assert [sha256_of(file) for file in chain.files] == digests
    assert house.block_events() == [
        (8, str(chain.top), 2, 3),
        (16, "vda", 2, 3),
        (8, str(destination), 2, 0),
        (16, "vda", 2, 0),
    ]
    assert house.info(domain) is None
    inactive = house.disk(domain, flags=2)
    assert inactive.find("source").get("file") == str(destination)
    assert inactive.find("backingStore").attrib == {}
    # After a pivot the old path finds the disk no more.
    with pytest.raises(VirError, match="not found in domain"):
        house.driver.domain_get_block_job_info(domain, str(chain.top), 0)


def test_mirror_while_it_runs_and_when_it_is_ready(
    house: House, domain: Domain, slow: Any, chain: Any, tmp_path: Path
) -> None:
    destination = tmp_path / "copy.qcow2"
    expected = f"""<mirror type='file' file='{destination}' format='qcow2' job='copy'>
        <format type='qcow2'/>
        <source file='{destination}' index='4'/>
        <backingStore/>
      </mirror>"""
    mirror = house.disk(domain).find("mirror")
    assert printed(mirror) == expected
    assert house.disk(domain, flags=2).find("mirror") is None
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    house.wait_ready(slow)
    assert house.disk(domain).find("mirror").get("ready") == "yes"


def test_live_xml_shows_the_chain(house: House, domain: Domain, chain: Any) -> None:
    disk = house.disk(domain)
    assert disk.find("source").get("index") == "1"
    snap1 = disk.find("backingStore")
    base = snap1.find("backingStore")
    assert (snap1.get("index"), snap1.find("source").get("file")) == ("2", str(chain.snap1))
    assert (base.get("index"), base.find("source").get("file")) == ("3", str(chain.base))
    assert base.find("format").get("type") == "qcow2"
    assert base.find("backingStore").attrib == {}
    assert [child.tag for child in disk] == ["driver", "source", "backingStore", "target"]


def test_broken_chain_is_shown_as_defined(house: House, domain: Domain, chain: Any) -> None:
    chain.base.unlink()
    disk = house.disk(domain)
    assert disk.find("backingStore") is None
    assert [image.path for image in house.driver.domain_list_disks(domain)[0].chain] == [str(chain.top)]


def test_shallow_copy_keeps_the_chain_below(
    house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path
) -> None:
    destination = tmp_path / "shallow.qcow2"
    house.copied(domain, destination, COPY | SHALLOW)
    assert house.disk(domain).find("mirror").find("backingStore") is None
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    found = qemu_img.info(destination)
    assert found["backing-filename"] == str(chain.snap1)
    assert found["backing-filename-format"] == "qcow2"
    assert qemu_img.is_same(destination, "qcow2", chain.top, "qcow2")
    assert house.disk(domain, flags=2).find("backingStore") is None
    assert [image.path for image in house.driver.domain_list_disks(domain)[0].chain] == [
        str(destination),
        str(chain.snap1),
        str(chain.base),
    ]


def test_shallow_pivot_keeps_what_the_definition_says_of_the_chain(house: House, chain: Any, tmp_path: Path) -> None:
    below = f"<backingStore type='file'><format type='qcow2'/><source file='{chain.snap1}'/></backingStore>"
    domain = house.define(disk_xml(chain.top, more=below))
    house.copied(domain, tmp_path / "shallow.qcow2", COPY | SHALLOW)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    store = house.disk(domain, flags=2).find("backingStore")
    assert store.find("source").get("file") == str(chain.snap1)
    assert store.find("backingStore") is None


def test_definition_gives_the_format_that_no_image_records(
    house: House, chain: Any, qemu_img: Any, make_image: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_image(tmp_path / "b.raw", "raw", MIB, writes=[(0, 4096, 7)])
    top = make_image(tmp_path / "t.qcow2", "qcow2", backing=base, backing_format="raw")
    content = bytearray(top.read_bytes())
    place = content.index(bytes.fromhex("e2792aca"))  # the header extension that names the backing format
    content[place : place + 4] = b"\x12\x34\x56\x78"
    top.write_bytes(content)
    domain = house.define(disk_xml(top), disk_xml(chain.top, target="vdb"))
    with pytest.raises(VirError) as caught:
        house.rebase(domain, tmp_path / "copy.qcow2")
    assert (caught.value.number, caught.value.domain, caught.value.message) == (
        55,
        18,
        f"Requested operation is not valid: format of backing image '{base}' of image '{top}' was not specified in the"
        " image metadata (See https://libvirt.org/kbase/backing_chains.html for troubleshooting)",
    )
    below = f"<backingStore type='file'><format type='raw'/><source file='{base}'/></backingStore>"
    house.define(disk_xml(top, more=below), disk_xml(chain.top, target="vdb"))
    house.copied(domain, tmp_path / "copy.qcow2")
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert qemu_img.is_same(tmp_path / "copy.qcow2", "qcow2", base, "raw")


def test_terminated_definition_hides_what_the_image_names(
    house: House, make_image: Callable[..., Path], qemu_img: Any, tmp_path: Path
) -> None:
    base = make_image(tmp_path / "b.qcow2", "qcow2", MIB, writes=[(0, 65536, 7)])
    top = make_image(tmp_path / "t.qcow2", "qcow2", backing=base, backing_format="qcow2", writes=[(65536, 65536, 8)])
    alone = make_image(tmp_path / "alone.qcow2", "qcow2", MIB, writes=[(65536, 65536, 8)])
    domain = house.define(disk_xml(top, more="<backingStore/>"))
    house.copied(domain, tmp_path / "copy.qcow2", COPY | SHALLOW)
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert qemu_img.is_same(tmp_path / "copy.qcow2", "qcow2", alone, "qcow2")


def test_reused_overlay_keeps_its_relative_backing_name(
    house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path
) -> None:
    overlay = chain.top.parent / "overlay.qcow2"
    qemu_img.create(overlay, "qcow2", backing="snap1.qcow2", backing_format="qcow2")
    house.copied(domain, overlay, COPY | SHALLOW | REUSE)
    shown = house.disk(domain).find("mirror").find("backingStore")
    assert shown.find("source").get("file") == str(chain.snap1)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert qemu_img.info(overlay)["backing-filename"] == "snap1.qcow2"
    assert qemu_img.is_same(overlay, "qcow2", chain.top, "qcow2")
    assert house.disk(domain, flags=2).find("backingStore") is None


def test_reused_overlay_whose_chain_is_gone_fails_the_pivot_call_and_stays_ready(
    house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path
) -> None:
    below = tmp_path / "below.qcow2"
    qemu_img.create(below, "qcow2", chain.size_bytes)
    overlay = qemu_img.create(tmp_path / "overlay.qcow2", "qcow2", backing=below, backing_format="qcow2")
    job_id = house.copied(domain, overlay, COPY | SHALLOW | REUSE)
    below.rename(tmp_path / "moved.qcow2")
    with pytest.raises(VirError, match="Cannot access backing file") as caught:
        house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert caught.value.number == 38
    assert str(below) in caught.value.message
    assert house.jobs.get(job_id).state is JobState.READY
    (tmp_path / "moved.qcow2").rename(below)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert house.jobs.get(job_id).state is JobState.COMPLETED


def test_pivot_to_a_destination_that_was_removed(
    house: House, domain: Domain, tmp_path: Path, refused: Callable[..., VirError]
) -> None:
    destination = tmp_path / "copy.qcow2"
    job_id = house.copied(domain, destination)
    destination.rename(tmp_path / "hidden")
    message = f"missing destination file for disk vda: {destination}: No such file or directory"
    refused((38, 10, message), house.driver.domain_block_job_abort, domain, "vda", PIVOT)
    destination.write_bytes(b"another")
    message = f"operation failed: destination file for disk vda was replaced by another: {destination}"
    refused((9, 10, message), house.driver.domain_block_job_abort, domain, "vda", PIVOT)
    assert house.jobs.get(job_id).state is JobState.READY


def test_abort_after_ready_keeps_a_complete_copy(
    house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path
) -> None:
    destination = tmp_path / "copy.qcow2"
    job_id = house.copied(domain, destination)
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert house.jobs.get(job_id).state is JobState.CANCELED
    assert qemu_img.is_same(destination, "qcow2", chain.top, "qcow2")
    assert house.disk(domain).find("source").get("file") == str(chain.top)
    assert house.block_events()[2:] == [(8, str(chain.top), 2, 2), (16, "vda", 2, 2)]


def test_abort_before_ready_leaves_nothing_that_opens(
    house: House, domain: Domain, slow: Any, chain: Any, tmp_path: Path
) -> None:
    destination = tmp_path / "copy.qcow2"
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert house.jobs.get(slow).state is JobState.CANCELED
    assert not destination.exists() or destination.stat().st_size == 0
    assert not list(tmp_path.glob("*partial*"))
    assert house.block_events() == [(8, str(chain.top), 2, 2), (16, "vda", 2, 2)]
    # The disk is free for the next job, and so is the destination.
    house.copied(domain, destination)


@pytest.mark.parametrize("flags", [PIVOT, PIVOT | ASYNC])
def test_pivot_before_ready(
    house: House, domain: Domain, slow: Any, refused: Callable[..., VirError], flags: int
) -> None:
    message = "block copy still active: block job 'copy-vda-libvirt-1-format' not ready for pivot yet"
    refused((83, 10, message), house.driver.domain_block_job_abort, domain, "vda", flags)
    assert house.jobs.get(slow).state is JobState.RUNNING


@pytest.mark.parametrize(("flags", "state"), [(PIVOT, JobState.COMPLETED), (0, JobState.CANCELED)])
def test_asynchronous_end(house: House, domain: Domain, tmp_path: Path, flags: int, state: Any) -> None:
    job_id = house.copied(domain, tmp_path / "copy.qcow2")
    house.driver.domain_block_job_abort(domain, "vda", flags | ASYNC)
    assert house.wait(job_id, state).state is state


@pytest.mark.parametrize("name", ["vda", "source path"])
def test_info_and_speed(house: House, domain: Domain, slow: Any, chain: Any, name: Any) -> None:
    disk = str(chain.top) if name == "source path" else name
    driver = house.driver
    info = house.info(domain, disk)
    assert (info.type, info.bandwidth) == (2, 1)
    assert info.cur < info.end
    driver.domain_block_job_set_speed(domain, disk, 1_500_000, 1)
    assert house.info(domain, disk, 1).bandwidth == 1_500_000
    assert house.info(domain, disk).bandwidth == 2
    driver.domain_block_job_set_speed(domain, disk, 0, 0)
    house.wait_ready(slow)
    driver.domain_block_job_set_speed(domain, disk, 3, 0)
    assert house.info(domain, disk).bandwidth == 3


def test_holes_are_work_of_a_full_copy_and_nothing_to_do_is_one_of_one(
    house: House, make_image: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_image(tmp_path / "e.qcow2", "qcow2", MIB)
    top = make_image(tmp_path / "t.qcow2", "qcow2", backing=base, backing_format="qcow2")
    domain = house.define(disk_xml(base), disk_xml(top, target="vdb"))
    house.copied(domain, tmp_path / "copy.qcow2")
    assert house.info(domain) == BlockJobInfo(2, 0, MIB, MIB)
    house.copied(domain, tmp_path / "copy2.qcow2", COPY | SHALLOW, disk="vdb")
    assert house.driver.domain_get_block_job_info(domain, "vdb", 0) == BlockJobInfo(2, 0, 1, 1)


def test_pause_holds_and_resume_goes_on(
    house: House, domain: Domain, slow: Any, refused: Callable[..., VirError]
) -> None:
    driver = house.driver
    driver.block_job_pause(slow)
    assert house.jobs.get(slow).paused
    driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    driver.block_job_resume(slow)
    job = house.wait_ready(slow)
    assert not job.paused
    answer = (55, 10, f"Requested operation is not valid: block job '{slow}' is not copying")
    refused(answer, driver.block_job_pause, slow)
    assert set(driver.block_job_map(slow, 64)) <= {3, 4}
    driver.domain_block_job_abort(domain, "vda", 0)
    answer = (55, 10, f"Requested operation is not valid: block job '{slow}' is not active")
    refused(answer, driver.block_job_map, slow, 64)


def test_progress_is_published(house: House, domain: Domain, tmp_path: Path) -> None:
    job_id = house.rebase(domain, tmp_path / "copy.qcow2", COPY | BYTES, bandwidth=64 * 1024)
    deadline = time.monotonic() + WAIT_S
    progress = house.jobs.get(job_id).progress
    while not (progress.copied_bytes and progress.eta_s > 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
        progress = house.jobs.get(job_id).progress
    assert progress.total_bytes > progress.remaining_bytes > 0
    assert progress.rate_bytes_per_s > 0
    assert progress.cur < progress.end


def test_two_disks_at_once_and_one_job_each(
    house: House, chain: Any, make_image: Callable[..., Path], tmp_path: Path, refused: Callable[..., VirError]
) -> None:
    other = make_image(tmp_path / "r.raw", "raw", 4 * MIB, writes=[(0, 65536, 5)])
    domain = house.define(disk_xml(chain.top), disk_xml(other, "raw", target="vdb"))
    house.rebase(domain, tmp_path / "a.qcow2", is_held=True)
    house.copied(domain, tmp_path / "b.raw", disk="vdb")
    message = "block copy still active: disk '{}' already in active block job"
    refused((83, 10, message.format("vda")), house.rebase, domain, tmp_path / "c.qcow2")
    refused((83, 10, message.format("vdb")), house.rebase, domain, tmp_path / "c.qcow2", disk="vdb")
    mirrors = [house.disk(domain, target).find("mirror").find("source").get("index") for target in ("vda", "vdb")]
    assert len(set(mirrors)) == 2


def test_failed_while_copying_keeps_the_reason(house: House, domain: Domain, chain: Any, tmp_path: Path) -> None:
    """A source that turns out to be broken on the way: FAILED, with place and reason, and no good image."""
    length = chain.base.stat().st_size
    os.truncate(chain.base, length - 3 * MIB)
    destination = tmp_path / "copy.qcow2"
    try:
        job_id = house.rebase(domain, destination)
    except VirError as error:
        (job,) = house.jobs.list_jobs(JobFilter())[0]
        message = error.message
    else:
        job = house.wait(job_id, JobState.FAILED)
        message = job.reason
        assert house.block_events() == [(8, str(chain.top), 2, 1), (16, "vda", 2, 1)]
    assert job.state is JobState.FAILED
    assert job.error.message == message
    assert str(chain.base) in message
    assert not destination.exists() or destination.stat().st_size == 0
    assert house.info(domain) is None


def test_chain_that_the_destination_names_may_come_until_the_pivot(
    house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path
) -> None:
    below = tmp_path / "below.qcow2"
    overlay = qemu_img.create(tmp_path / "overlay.qcow2", "qcow2", chain.size_bytes)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", below, "-F", "qcow2", overlay)
    named = f"<backingStore type='file'><format type='qcow2'/><source file='{below}'/><backingStore/></backingStore>"
    xml = f"<disk type='file'><driver type='qcow2'/><source file='{overlay}'/>{named}</disk>"
    job_id = house.copy(domain, xml, SHALLOW | REUSE)
    house.wait_ready(job_id)
    shown = house.disk(domain).find("mirror").find("backingStore")
    assert shown.find("source").get("file") == str(below)
    with pytest.raises(VirError, match="Cannot access backing file"):
        house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    qemu_img("convert", "-O", "qcow2", chain.snap1, below)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert house.disk(domain, flags=2).find("backingStore").find("source").get("file") == str(below)
    assert qemu_img.is_same(overlay, "qcow2", chain.top, "qcow2")


def test_new_overlay_on_the_chain_that_the_destination_names(
    house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path
) -> None:
    below = tmp_path / "below.qcow2"
    qemu_img("convert", "-O", "qcow2", chain.snap1, below)
    named = f"<backingStore type='file'><format type='qcow2'/><source file='{below}'/></backingStore>"
    xml = f"<disk type='file'><source file='{tmp_path}/new.qcow2'/>{named}</disk>"
    house.wait_ready(house.copy(domain, xml, SHALLOW))
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert qemu_img.info(tmp_path / "new.qcow2")["backing-filename"] == str(below)
    assert qemu_img.is_same(tmp_path / "new.qcow2", "qcow2", chain.top, "qcow2")


@pytest.mark.parametrize("granularity", [0, 512, 64 * MIB])
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_every_granularity_that_libvirt_takes(
    house: House, domain: Domain, chain: Any, qemu_img: Any, tmp_path: Path, granularity: int, image_format: str
) -> None:
    xml = f"<disk type='file'><driver type='{image_format}'/><source file='{tmp_path}/x'/></disk>"
    house.wait_ready(house.copy(domain, xml, 0, TypedParameter("granularity", ParameterType.UINT, granularity)))
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert qemu_img.is_same(tmp_path / "x", image_format, chain.top, "qcow2")
