# SPDX-License-Identifier: Apache-2.0
"""External, disk-only snapshots. Numbers, domains and texts are libvirt 9.0's, where it has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from server.embedded.house import House, disk_xml

from virtblock.server.core.errors import VirError
from virtblock.server.core.model import Domain
from virtblock.server.drivers.embedded.definitions import StoredDefinitions

MIB = 1024 * 1024
DISK_ONLY, NO_METADATA, REUSE, ATOMIC, QUIESCE = 16, 4, 32, 128, 64


def snapshot(*disks: Any, name: Any = "s") -> Any:
    return f"<domainsnapshot><name>{name}</name><disks>{''.join(disks)}</disks></domainsnapshot>"


@pytest.fixture
def chain(make_chain: Any) -> Any:
    return make_chain()


@pytest.fixture
def raw(make_image: Callable[..., Path], tmp_path: Path) -> Any:
    return make_image(tmp_path / "r.raw", "raw", 4 * MIB, writes=[(0, 65536, 7)])


@pytest.fixture
def domain(house: House, chain: Any, raw: Any) -> Any:
    return house.define(
        disk_xml(chain.top),
        disk_xml(raw, None, target="vdb"),
        disk_xml(None, None, target="hdc", attributes="type='file' device='cdrom'"),
    )


def source(house: House, domain: Domain, target: Any) -> Any:
    return house.disk(domain, target, 2).find("source").get("file")


@pytest.mark.parametrize("flags", [0, NO_METADATA, ATOMIC, QUIESCE])
def test_all_disks_get_an_overlay_with_libvirts_name(
    house: House, domain: Domain, chain: Any, raw: Any, qemu_img: Any, sha256_of: Callable[[Path], str], flags: int
) -> None:
    digests = [sha256_of(file) for file in (*chain.files, raw)]
    name, xml = house.driver.domain_snapshot_create_xml(domain, snapshot(), DISK_ONLY | flags)
    overlay, raw_overlay = chain.top.parent / "snap2.s", raw.parent / "r.s"
    assert name == "s"
    assert (source(house, domain, "vda"), source(house, domain, "vdb")) == (str(overlay), str(raw_overlay))
    found = qemu_img.info(overlay)
    assert (found["backing-filename"], found["backing-filename-format"]) == (str(chain.top), "qcow2")
    assert qemu_img.info(raw_overlay)["backing-filename-format"] == "raw"
    assert qemu_img.is_same(overlay, "qcow2", chain.top, "qcow2")
    assert qemu_img.is_same(raw_overlay, "qcow2", raw, "raw")
    assert [sha256_of(file) for file in (*chain.files, raw)] == digests
    root: Any = etree.fromstring(xml)
    assert [child.tag for child in root] == ["name", "state", "creationTime", "memory", "disks", "domain"]
    assert [(disk.get("name"), disk.get("snapshot")) for disk in root.find("disks")] == [
        ("vda", "external"),
        ("vdb", "external"),
        ("hdc", "no"),
    ]
    assert root.find("domain/devices/disk/source").get("file") == str(chain.top)
    # The snapshot stands on a chain that can be copied on.
    house.copied(domain, chain.top.parent / "copy.qcow2")


def test_second_snapshot_replaces_the_suffix(house: House, domain: Domain, chain: Any) -> None:
    house.driver.domain_snapshot_create_xml(domain, snapshot(), DISK_ONLY)
    house.driver.domain_snapshot_create_xml(domain, snapshot(name="t.u"), DISK_ONLY)
    assert source(house, domain, "vda") == str(chain.top.parent / "snap2.t.u")


def test_named_file_and_one_disk(house: House, domain: Domain, raw: Any, chain: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.qcow2"
    request = snapshot(
        f"<disk name='{raw}' snapshot='external'><source file='{path}'/></disk>", "<disk name='vda' snapshot='no'/>"
    )
    house.driver.domain_snapshot_create_xml(domain, request, DISK_ONLY)
    assert (source(house, domain, "vda"), source(house, domain, "vdb")) == (str(chain.top), str(path))


def test_name_is_the_time_when_none_is_given(house: House, domain: Domain) -> None:
    name, _ = house.driver.domain_snapshot_create_xml(domain, "<domainsnapshot/>", DISK_ONLY)
    assert name.isdecimal()


def test_reused_overlay(
    house: House,
    domain: Domain,
    chain: Any,
    raw: Any,
    qemu_img: Any,
    sha256_of: Callable[[Path], str],
    tmp_path: Path,
    refused: Callable[..., VirError],
) -> None:
    path = tmp_path / "mine.qcow2"
    request = snapshot(f"<disk name='vda'><source file='{path}'/></disk>", "<disk name='vdb' snapshot='no'/>")
    message = f"missing existing file for disk vda: {path}: No such file or directory"
    refused((38, 10, message), house.driver.domain_snapshot_create_xml, domain, request, DISK_ONLY | REUSE)
    qemu_img.create(path, "qcow2", backing=chain.top, backing_format="qcow2")
    digest = sha256_of(path)
    house.driver.domain_snapshot_create_xml(domain, request, DISK_ONLY | REUSE)
    assert source(house, domain, "vda") == str(path)
    assert sha256_of(path) == digest


def test_chain_in_the_definition_goes_below_the_overlay(house: House, chain: Any) -> None:
    below = f"<backingStore type='file'><format type='qcow2'/><source file='{chain.snap1}'/></backingStore>"
    domain = house.define(disk_xml(chain.top, more=below))
    house.driver.domain_snapshot_create_xml(domain, snapshot(), DISK_ONLY)
    disk = house.disk(domain, flags=2)
    assert [store.find("source").get("file") for store in disk.iter("backingStore")] == [
        str(chain.top),
        str(chain.snap1),
    ]


REFUSALS = {
    "garbage": ("garbage", 0, (35, 35, "(domain_snapshot):1: Start tag expected, '<' not found\ngarbage\n^")),
    "root": ("<foo/>", 0, (27, 5, "XML error: expecting root element of 'domainsnapshot', not 'foo'")),
    "unknown disk": (snapshot("<disk name='vdz'/>"), 0, (67, 35, "unsupported configuration: no disk named 'vdz'")),
    "twice": (
        snapshot("<disk name='vda'/><disk name='vda'/>"),
        0,
        (67, 35, "unsupported configuration: disk 'vda' specified twice"),
    ),
    "nothing": (
        snapshot("<disk name='vda' snapshot='no'/><disk name='vdb' snapshot='no'/>"),
        0,
        (67, 10, "unsupported configuration: nothing selected for snapshot"),
    ),
    "kind": (
        snapshot("<disk name='vda' snapshot='foo'/>"),
        0,
        (27, 5, "XML error: Invalid value for attribute 'snapshot' in element 'disk': 'foo'."),
    ),
    "relative": (
        snapshot("<disk name='vda'><source file='x.qcow2'/></disk>"),
        0,
        (27, 35, "XML error: disk snapshot image path 'x.qcow2' must be absolute"),
    ),
    "raw": (
        snapshot("<disk name='vda'><driver type='raw'/><source file='/x'/></disk>"),
        0,
        (67, 10, "unsupported configuration: external snapshot format for disk vda is unsupported: raw"),
    ),
    "no name": (
        snapshot("<disk snapshot='external'/>"),
        0,
        (1, 35, "internal error: missing name from disk snapshot element"),
    ),
    "empty drive": (
        snapshot("<disk name='hdc'/>"),
        0,
        (67, 35, "unsupported configuration: cannot generate external snapshot name for disk 'hdc' without source"),
    ),
    "memory": (
        "<domainsnapshot><memory snapshot='external' file='/m'/></domainsnapshot>",
        0,
        (27, 35, "XML error: memory state cannot be saved with offline or disk-only snapshot"),
    ),
    "live": (
        snapshot(),
        256,
        (84, 10, "Operation not supported: live snapshot creation is supported only during full system snapshots"),
    ),
    "redefine": (snapshot(), 1, (84, 10, "Operation not supported: redefining snapshots is not supported")),
    "internal": (
        snapshot("<disk name='vda' snapshot='internal'/>"),
        0,
        (84, 10, "Operation not supported: internal snapshot of disk 'vda' is not supported, only external ones are"),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(house: House, domain: Domain, refused: Callable[..., VirError], tmp_path: Path, case: str) -> None:
    xml, flags, expected = REFUSALS[case]
    before = sorted(tmp_path.rglob("*"))
    refused(expected, house.driver.domain_snapshot_create_xml, domain, xml, DISK_ONLY | flags)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_disk_only_the_default_is_internal(
    house: House, domain: Domain, refused: Callable[..., VirError]
) -> None:
    message = "Operation not supported: internal snapshot of disk 'vda' is not supported, only external ones are"
    refused((84, 10, message), house.driver.domain_snapshot_create_xml, domain, snapshot(), NO_METADATA)


def test_existing_file_and_missing_folder(
    house: House, domain: Domain, refused: Callable[..., VirError], chain: Any, raw: Any, tmp_path: Path
) -> None:
    """All or nothing: what fails for the second disk leaves nothing of the first."""
    create = house.driver.domain_snapshot_create_xml
    request = snapshot(f"<disk name='vdb'><source file='{raw}'/></disk>")
    text = "external snapshot file for disk vdb already exists and is not a block device"
    refused((67, 10, f"unsupported configuration: {text}: {raw}"), create, domain, request, DISK_ONLY)
    request = snapshot(f"<disk name='vdb'><source file='{tmp_path}/no/x'/></disk>")
    message = f"failed to create image file '{tmp_path}/no/x': No such file or directory"
    refused((38, 10, message), create, domain, request, DISK_ONLY)
    assert source(house, domain, "vda") == str(chain.top)
    assert not (chain.top.parent / "snap2.s").exists()


def test_definition_that_cannot_be_stored_leaves_no_overlay(
    house: House, domain: Domain, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, definition: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoredDefinitions, "save", full)
    with pytest.raises(OSError, match="No space"):
        house.driver.domain_snapshot_create_xml(domain, snapshot(), DISK_ONLY)
    assert not (chain.top.parent / "snap2.s").exists()
    assert source(house, domain, "vda") == str(chain.top)


def test_source_that_is_gone(house: House, domain: Domain, chain: Any) -> None:
    chain.top.unlink()
    with pytest.raises(VirError, match="Cannot access storage file"):
        house.driver.domain_snapshot_create_xml(domain, snapshot(), DISK_ONLY)
