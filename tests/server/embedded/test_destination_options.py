# SPDX-License-Identifier: Apache-2.0
"""The element of our own in BlockCopy's destination XML: what it makes, what it refuses, and over a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import House, disk_xml

from virtblock.server.core.errors import VirError
from virtblock.server.core.model import ParameterType, TypedParameter
from virtblock.server.drivers.libvirt.disk_xml import has_destination_options

KIB, MIB = 1024, 1024 * 1024
SHALLOW, REUSE = 1, 2
NAMESPACE = "xmlns:virtblock='urn:virtblock:1'"


def wanted(path: Path, attributes: str, image_format: str | None = "qcow2", **more: Any) -> str:
    return disk_xml(path, image_format, more=f"<virtblock:destination {NAMESPACE} {attributes}/>", **more)


@pytest.fixture
def domain(house: House, make_chain: Any) -> Any:
    return house.define(disk_xml(make_chain().top))


@pytest.mark.parametrize(
    ("attributes", "cluster_size_bytes", "extended_l2", "compression"),
    [
        ("", 64 * KIB, False, "zlib"),
        ("cluster-size='32768' extended-l2='yes' preallocation='metadata'", 32 * KIB, True, "zlib"),
        ("cluster-size='2097152' extended-l2='no' preallocation='falloc'", 2 * MIB, False, "zlib"),
        ("preallocation='full'", 64 * KIB, False, "zlib"),
        ("compression='zstd'", 64 * KIB, False, "zstd"),
        ("compression='zlib' cluster-size='4096' preallocation='off'", 4 * KIB, False, "zlib"),
    ],
)
def test_options(
    attributes: str,
    cluster_size_bytes: int,
    extended_l2: bool,
    compression: str,
    house: House,
    domain: Any,
    tmp_path: Path,
    qemu_img: Any,
) -> None:
    """The image is as it was asked for, and reads as the source does."""
    source = house.disk(domain).find("source").get("file")
    job_id = house.copy(domain, wanted(tmp_path / "copy", attributes))
    house.wait_ready(job_id)
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert qemu_img.is_same(tmp_path / "copy", "qcow2", source, "qcow2")
    qemu_img.check(tmp_path / "copy")
    info = qemu_img.info(tmp_path / "copy")
    data = info["format-specific"]["data"]
    assert (info["cluster-size"], data["extended-l2"], data["compression-type"]) == (
        cluster_size_bytes, extended_l2, compression,
    )  # fmt: skip
    if "falloc" in attributes or "full" in attributes:
        assert (tmp_path / "copy").stat().st_blocks * 512 >= info["virtual-size"]
    if "compression='z" in attributes:
        found = json.loads(qemu_img("check", "--output=json", tmp_path / "copy").stdout)
        assert found["compressed-clusters"] > 0


def test_inherits_from_the_source(house: House, tmp_path: Path, qemu_img: Any, qemu_io: Any) -> None:
    """As libvirt: cluster size and extended L2 entries of the source's top image, by BlockRebase too."""
    top = qemu_img.create(tmp_path / "top", "qcow2", 4 * MIB, options=["extended_l2=on", "cluster_size=128k"])
    qemu_io(top, "qcow2", "write -P 1 1M 4k")
    domain = house.define(disk_xml(top))
    house.copied(domain, tmp_path / "copy")
    info = qemu_img.info(tmp_path / "copy")
    assert (info["cluster-size"], info["format-specific"]["data"]["extended-l2"]) == (128 * KIB, True)


def test_raw_can_be_preallocated(house: House, domain: Any, tmp_path: Path) -> None:
    """The one option that a raw file knows."""
    house.wait_ready(house.copy(domain, wanted(tmp_path / "copy", "preallocation='falloc'", "raw")))
    status = (tmp_path / "copy").stat()
    assert status.st_blocks * 512 >= status.st_size


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("cluster-size='1000'", "Invalid value for attribute 'cluster-size' in element 'destination': '1000'."),
        ("cluster-size='64K'", "Invalid value"),
        ("cluster-size='٦٤'", "Invalid value"),
        ("cluster-size=''", "Invalid value"),
        ("extended-l2='on'", "Invalid value for attribute 'extended-l2'"),
        ("compression='gzip'", "Invalid value for attribute 'compression'"),
        ("preallocation='some'", "Invalid value for attribute 'preallocation'"),
        ("cluster_size='65536'", "unknown attribute 'cluster_size'"),
        ("virtblock:compression='zstd'", "unknown attribute 'compression'"),
    ],
)
def test_bad_values(more: str, words: str, house: House, domain: Any, tmp_path: Path) -> None:
    """27 with libvirt's text where it has one, and nothing is made."""
    before = set(tmp_path.iterdir())
    with pytest.raises(VirError, match=words) as caught:
        house.copy(domain, wanted(tmp_path / "copy", more))
    assert caught.value.number == 27
    assert set(tmp_path.iterdir()) == before
    assert house.info(domain) is None


@pytest.mark.parametrize(
    "element",
    [
        "<virtblock:destinations {ns}/>",
        "<virtblock:destination {ns}><a/></virtblock:destination>",
        "<virtblock:destination {ns}/><virtblock:destination {ns}/>",
    ],
)
def test_bad_elements(element: str, house: House, domain: Any, tmp_path: Path) -> None:
    """Nothing of our namespace is ignored."""
    with pytest.raises(VirError, match="unexpected element") as caught:
        house.copy(domain, disk_xml(tmp_path / "copy", more=element.format(ns=NAMESPACE)))
    assert caught.value.number == 27


def test_other_namespaces_are_ignored(house: House, domain: Any, tmp_path: Path) -> None:
    """As libvirt does, comments too."""
    more = "<!-- a --><other:destination xmlns:other='urn:other' x='1'/>"
    house.wait_ready(house.copy(domain, disk_xml(tmp_path / "copy", more=more)))


@pytest.mark.parametrize(
    ("attributes", "image_format", "flags", "number", "words"),
    [
        ("cluster-size='4096'", "raw", 0, 67, "need format 'qcow2'"),
        ("extended-l2='no'", "raw", 0, 67, "need format 'qcow2'"),
        ("compression='zlib'", "raw", 0, 67, "need format 'qcow2'"),
        ("preallocation='metadata'", "raw", 0, 67, "need format 'qcow2'"),
        ("compression='zlib' extended-l2='yes'", "qcow2", 0, 67, "no extended L2 entries"),
        ("compression='zlib' preallocation='full'", "qcow2", 0, 67, "no preallocation"),
        ("cluster-size='4096'", "qcow2", REUSE, 8, "REUSE_EXT"),
        ("cluster-size='8192' extended-l2='yes'", "qcow2", 0, 8, "16 KiB"),
        ("preallocation='metadata'", "qcow2", SHALLOW, 8, "only with extended L2"),
    ],
)
def test_what_does_not_go_together(
    attributes: str,
    image_format: str,
    flags: int,
    number: int,
    words: str,
    house: House,
    domain: Any,
    tmp_path: Path,
    qemu_img: Any,
) -> None:
    """Refused with its reason, and nothing with content is made."""
    if flags & REUSE:
        qemu_img.create(tmp_path / "copy", "qcow2", 8 * MIB)
    with pytest.raises(VirError, match=words) as caught:
        house.copy(domain, wanted(tmp_path / "copy", attributes, image_format), flags)
    assert caught.value.number == number
    assert flags & REUSE or not (tmp_path / "copy").exists()
    assert house.info(domain) is None


def test_restart_keeps_them(house: House, domain: Any, tmp_path: Path, qemu_img: Any) -> None:
    """A copy that goes on makes the same image."""
    xml = wanted(tmp_path / "copy", "cluster-size='131072' extended-l2='yes' preallocation='metadata'")
    job_id = house.copy(domain, xml, 0, TypedParameter("bandwidth", ParameterType.ULLONG, MIB))
    house.hold(job_id)
    house.restart()
    assert not house.jobs.get(job_id).is_restarted
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    house.driver.block_job_resume(job_id)
    house.wait_ready(job_id)
    info = qemu_img.info(tmp_path / "copy")
    assert (info["cluster-size"], info["format-specific"]["data"]["extended-l2"]) == (128 * KIB, True)
    assert (tmp_path / "copy").stat().st_size > info["virtual-size"]


def test_libvirt_would_ignore_them() -> None:
    """So the driver for running domains looks for them, and for nothing else."""
    assert has_destination_options(wanted(Path("/copy"), ""))
    assert not has_destination_options(disk_xml("/copy"))
    assert not has_destination_options("<disk")
