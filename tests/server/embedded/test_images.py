# SPDX-License-Identifier: Apache-2.0
"""Block info, resize, detach and the list of disks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import House, disk_xml

from virtblock.server.core.errors import VirError
from virtblock.server.core.model import DiskImage, Domain

MIB = 1024 * 1024
BYTES = 1


@pytest.fixture
def domain(house: House, make_image: Callable[..., Path], tmp_path: Path) -> Any:
    return house.define(
        disk_xml(make_image(tmp_path / "a.qcow2", "qcow2", 16 * MIB, writes=[(0, MIB, 1)])),
        disk_xml(make_image(tmp_path / "b.raw", "raw", 4 * MIB, writes=[(0, MIB, 1)]), None, target="vdb"),
        disk_xml(None, None, target="hdc", attributes="type='file' device='cdrom'"),
    )


def test_block_info(house: House, domain: Domain, tmp_path: Path) -> None:
    driver = house.driver
    status = os.stat(tmp_path / "a.qcow2")
    info = driver.domain_get_block_info(domain, "vda", 0)
    assert info.capacity_bytes == 16 * MIB
    assert (info.allocation_bytes, info.physical_bytes) == (status.st_blocks * 512, status.st_size)
    assert driver.domain_get_block_info(domain, str(tmp_path / "a.qcow2"), 0) == info
    assert driver.domain_get_block_info(domain, "vdb", 0).capacity_bytes == 4 * MIB


def test_block_info_refusals(house: House, domain: Domain, refused: Callable[..., VirError], tmp_path: Path) -> None:
    info = house.driver.domain_get_block_info
    refused((8, 10, "invalid argument: invalid path vdz not assigned to domain"), info, domain, "vdz", 0)
    refused((8, 10, "invalid argument: disk 'hdc' does not currently have a source assigned"), info, domain, "hdc", 0)
    (tmp_path / "b.raw").unlink()
    ids = f"(as uid:{os.geteuid()}, gid:{os.getegid()})"
    message = f"Cannot access storage file '{tmp_path / 'b.raw'}' {ids}: No such file or directory"
    refused((38, 18, message), info, domain, "vdb", 0)


@pytest.mark.parametrize(
    ("disk", "size", "flags", "expected"),
    [
        ("vda", 32 * 1024, 0, 32 * MIB),
        ("vda", 32 * MIB + 1, BYTES, 32 * MIB + 512),
        ("vdb", 8 * 1024, 0, 8 * MIB),
        ("vdb", MIB, BYTES, MIB),
    ],
)
def test_resize(
    house: House, domain: Domain, qemu_img: Any, disk: Any, size: Any, flags: int, expected: Any, tmp_path: Path
) -> None:
    house.driver.domain_block_resize(domain, disk, size, flags)
    assert house.driver.domain_get_block_info(domain, disk, 0).capacity_bytes == expected
    path, image_format = (tmp_path / "a.qcow2", "qcow2") if disk == "vda" else (tmp_path / "b.raw", "raw")
    assert qemu_img.info(path, image_format=image_format)["virtual-size"] == expected


def test_resize_refusals(house: House, domain: Domain, refused: Callable[..., VirError]) -> None:
    resize = house.driver.domain_block_resize
    overflow = (82, 10, "numerical overflow: size must be less than 18014398509481983")
    refused(overflow, resize, domain, "nope", 2**60, 0)
    missing = "invalid argument: disk '{}' was not found in the domain config"
    refused((8, 10, missing.format("nope")), resize, domain, "nope", 1024, 0)
    refused((8, 10, missing.format("")), resize, domain, "", 1024, 0)
    empty = "Operation not supported: can't resize empty or readonly disk 'hdc'"
    refused((84, 10, empty), resize, domain, "hdc", 1024, 0)
    with pytest.raises(VirError) as caught:
        resize(domain, "vda", MIB, BYTES)
    assert caught.value.number in (67, 84)
    assert house.driver.domain_get_block_info(domain, "vda", 0).capacity_bytes == 16 * MIB
    with pytest.raises(VirError) as caught:
        resize(domain, "vda", 2**64 - 1, BYTES)
    assert caught.value.number == 82


@pytest.mark.parametrize("flags", [0, 1, 2])
def test_detach_goes_by_target_alone(house: House, domain: Domain, tmp_path: Path, flags: int) -> None:
    house.driver.domain_detach_device(domain, disk_xml("/another", target="vdb"), flags)
    assert [disk.target for disk in house.driver.domain_list_disks(domain)] == ["vda", "hdc"]
    assert (tmp_path / "b.raw").exists()
    assert house.domain_events()[-1].detail == 1


DETACH_REFUSALS = {
    "garbage": ("garbage", (35, 20, "(device_definition):1: Start tag expected, '<' not found\ngarbage\n^")),
    "unknown device": ("<foo/>", (67, 20, "unsupported configuration: unknown device type 'foo'")),
    "interface": (
        "<interface type='network'/>",
        (84, 10, "Operation not supported: detaching devices of type 'interface' is not supported"),
    ),
    "unknown disk": (disk_xml("/x", target="vdz"), (99, 10, "device not found: no target device vdz")),
    "no target": (
        "<disk type='file'><source file='/x'/></disk>",
        (20, 20, "missing target information for device /x"),
    ),
}


@pytest.mark.parametrize("case", DETACH_REFUSALS)
def test_detach_refusals(house: House, domain: Domain, refused: Callable[..., VirError], case: str) -> None:
    xml, expected = DETACH_REFUSALS[case]
    refused(expected, house.driver.domain_detach_device, domain, xml, 0)
    assert len(house.driver.domain_list_disks(domain)) == 3


def test_list_of_disks(house: House, make_chain: Any, tmp_path: Path) -> None:
    chain = make_chain()
    domain = house.define(
        disk_xml(chain.top, more="<shareable/>"),
        disk_xml(tmp_path / "gone", target="vdb"),
        disk_xml(None, None, target="hdc", attributes="type='file' device='cdrom'"),
    )
    shared, gone, cdrom = house.driver.domain_list_disks(domain)
    assert shared.chain == tuple(DiskImage(str(path), "qcow2") for path in (chain.snap2, chain.snap1, chain.base))
    assert (shared.is_shareable, shared.bus, shared.device, shared.source_type) == (True, "virtio", "disk", "file")
    assert gone.chain == (DiskImage(str(tmp_path / "gone"), "qcow2"),)
    assert (cdrom.chain, cdrom.is_read_only, cdrom.bus) == ((), True, "ide")
