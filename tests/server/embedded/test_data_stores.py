# SPDX-License-Identifier: Apache-2.0
"""Disks whose images keep their data in another file, which the definition names by `<dataStore>`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import House, domain_xml

from virtblock.server.core.errors import VirError
from virtblock.server.core.model import JobState

MIB = 1024 * 1024
SHALLOW, PIVOT, DISK_ONLY, NO_METADATA = 1, 2, 16, 4


def data_store(path: Path) -> str:
    return f"<dataStore type='file'><format type='raw'/><source file='{path}'/></dataStore>"


def disk(path: Path, store: str = "", backing: str = "") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'>{store}</source>"
        f"{backing}<target dev='vda'/></disk>"
    )


def level(path: Path, store: str = "") -> str:
    return f"<backingStore type='file'><format type='qcow2'/><source file='{path}'>{store}</source></backingStore>"


@pytest.fixture
def base(tmp_path: Path, qemu_img: Any, qemu_io: Any) -> Path:
    """An image with a data file."""
    path: Path = qemu_img.create(
        tmp_path / "base.qcow2", "qcow2", 4 * MIB, options=[f"data_file={tmp_path / 'base.data'}"]
    )
    qemu_io(path, "qcow2", "write -P 1 0 700k", "write -P 2 3M 64k")
    return path


@pytest.fixture
def store(tmp_path: Path) -> str:
    return data_store(tmp_path / "base.data")


@pytest.fixture
def top(base: Path, tmp_path: Path, qemu_img: Any, qemu_io: Any) -> Path:
    path: Path = qemu_img.create(tmp_path / "top.qcow2", "qcow2", backing=base, backing_format="qcow2")
    qemu_io(path, "qcow2", "write -P 3 500k 300k")
    return path


def test_copied_and_pivoted(house: House, base: Path, store: str, tmp_path: Path, qemu_img: Any) -> None:
    """The copy holds its data itself, and after the pivot nothing speaks of a data store."""
    domain = house.define(disk(base, store))
    house.copied(domain, tmp_path / "copy.qcow2")
    assert house.disk(domain).find("source/dataStore/source").get("file") == str(tmp_path / "base.data")
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert house.disk(domain, flags=2).find(".//dataStore") is None
    assert qemu_img.is_same(tmp_path / "copy.qcow2", "qcow2", base, "qcow2")
    qemu_img.check(tmp_path / "copy.qcow2")


def test_below_an_overlay(house: House, top: Path, base: Path, store: str, tmp_path: Path, qemu_img: Any) -> None:
    """A shallow copy keeps the base, and the definition and the live XML name its data file after the pivot too."""
    domain = house.define(disk(top, backing=level(base, store)))
    job_id = house.copied(domain, tmp_path / "copy.qcow2", 8 | SHALLOW)
    house.restart()
    assert house.jobs.get(job_id).state is JobState.READY
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    for flags in (0, 2):
        shown = house.disk(domain, flags=flags).find("backingStore/source/dataStore/source")
        assert shown.get("file") == str(tmp_path / "base.data")
    assert qemu_img.is_same(tmp_path / "copy.qcow2", "qcow2", top, "qcow2")
    house.copied(domain, tmp_path / "again.qcow2")
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert qemu_img.is_same(tmp_path / "again.qcow2", "qcow2", top, "qcow2")


def test_snapshot_names_the_data_file(house: House, base: Path, store: str, tmp_path: Path, qemu_img: Any) -> None:
    """The overlay's definition spells out the image below, which could not be opened otherwise."""
    domain = house.define(disk(base, store))
    xml = f"<domainsnapshot><disks><disk name='vda'><source file='{tmp_path}/snap'/></disk></disks></domainsnapshot>"
    house.driver.domain_snapshot_create_xml(domain, xml, DISK_ONLY | NO_METADATA)
    house.copied(domain, tmp_path / "copy.qcow2")
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert qemu_img.is_same(tmp_path / "copy.qcow2", "qcow2", base, "qcow2")


def test_pull_from_it(house: House, top: Path, base: Path, store: str, qemu_img: Any, tmp_path: Path) -> None:
    """What lies in a data file moves into the image above it."""
    domain = house.define(disk(top, backing=level(base, store)))
    before = tmp_path / "before.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", top, before)
    house.wait(house.pull(domain), JobState.COMPLETED)
    assert qemu_img.is_same(top, "qcow2", before, "raw")
    assert "backing-filename" not in qemu_img.info(top)
    assert house.disk(domain, flags=2).find(".//dataStore") is None


def test_commit_into_it_is_refused(house: House, top: Path, base: Path, store: str, sha256_of: Any) -> None:
    """An image with a data file is not written in place (67)."""
    domain = house.define(disk(top, backing=level(base, store)))
    before = sha256_of(base)
    with pytest.raises(VirError, match="external data file") as caught:
        house.commit(domain, flags=4)
    assert caught.value.number == 67
    assert sha256_of(base) == before


def test_not_named(house: House, base: Path, top: Path, tmp_path: Path, store: str) -> None:
    """88 with the way to name it: for a source, below one, and for another file than the image's."""
    other = tmp_path / "other.data"
    other.write_bytes(bytes(4 * MIB))
    for definition in (disk(base), disk(top), disk(top, backing=level(base)), disk(base, data_store(other))):
        domain = house.define(definition)
        with pytest.raises(VirError, match="external data file") as caught:
            house.rebase(domain, tmp_path / "copy.qcow2")
        assert caught.value.number == 88
        assert not (tmp_path / "copy.qcow2").exists()


def test_source_changed_while_the_server_was_down(house: House, base: Path, store: str, tmp_path: Path) -> None:
    """A write into the data file is a change of the source: the job is not READY again."""
    domain = house.define(disk(base, store))
    job_id = house.copied(domain, tmp_path / "copy.qcow2")
    house.stop()
    with (tmp_path / "base.data").open("r+b") as file:
        file.write(b"x")
    house.start()
    job = house.jobs.get(job_id)
    assert job.state is JobState.FAILED
    assert "base.data' was changed" in job.reason


def test_never_a_destination(house: House, base: Path, store: str, tmp_path: Path) -> None:
    """Not the source's data file (1), and none in the destination's XML (84)."""
    domain = house.define(disk(base, store))
    with pytest.raises(VirError, match="is the data file of the source's image") as caught:
        house.rebase(domain, tmp_path / "base.data", 8 | 2 | 4)
    assert caught.value.number == 1
    with pytest.raises(VirError, match="data store is not supported") as caught:
        house.copy(domain, disk(tmp_path / "copy", data_store(tmp_path / "x")))
    assert caught.value.number == 84


@pytest.mark.parametrize(
    ("store", "number", "words"),
    [
        ("<dataStore><format type='raw'/><source file='/d'/></dataStore>", 27, "missing 'type'"),
        ("<dataStore type='x'><format type='raw'/><source file='/d'/></dataStore>", 27, "unknown storage source"),
        ("<dataStore type='file'><source file='/d'/></dataStore>", 67, "format 'raw'"),
        ("<dataStore type='file'><format type='qcow2'/><source file='/d'/></dataStore>", 67, "format 'raw'"),
        ("<dataStore type='file'><format type='raw'/></dataStore>", 67, "local file"),
        ("<dataStore type='network'><format type='raw'/><source/></dataStore>", 67, "local file"),
    ],
)
def test_bad_definitions(store: str, number: int, words: str, house: House, base: Path) -> None:
    """Refused when they are defined, in the source and below it."""
    for definition in (disk(base, store), disk(base, backing=level(base, store))):
        with pytest.raises(VirError, match=words) as caught:
            house.driver.domain_define_xml(domain_xml(definition), 0)
        assert caught.value.number == number


def test_only_qcow2_has_one(house: House, tmp_path: Path) -> None:
    xml = disk(tmp_path / "disk", data_store(tmp_path / "d")).replace("type='qcow2'", "type='raw'")
    with pytest.raises(VirError, match="'qcow2' images") as caught:
        house.driver.domain_define_xml(domain_xml(xml), 0)
    assert caught.value.number == 67
