# SPDX-License-Identifier: Apache-2.0
"""`--allow-path` for what libvirt writes: what lies outside never reaches it. Over libvirt's driver for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import libvirt
import pytest
from live.stack import CALLER, Stack, selector

from virtblock.engine import PathPolicy
from virtblock.server.core.errors import VirError
from virtblock.server.core.flags import BlockRebaseFlags
from virtblock.server.drivers.libvirt.allowing import AllowedDestinations

URI = "test:///default"
NO_SUPPORT, INVALID_ARG, ACCESS_DENIED = 3, 8, 88
RUNNING = 1
COPY, REUSE = int(BlockRebaseFlags.COPY), int(BlockRebaseFlags.REUSE_EXT)


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """A folder, with a link that leads out of it."""
    for name in ("allowed", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "allowed/door").symlink_to(tmp_path / "outside")
    return tmp_path / "allowed"


@pytest.fixture
def stack(tmp_path: Path, allowed: Path) -> Iterator[Stack]:
    """The core over a driver with a running domain, `test`, that can copy nothing: libvirt answers 3."""
    made = Stack(URI, tmp_path / "state", allow_path=[allowed])
    yield made
    made.close()


@pytest.fixture
def uuid() -> str:
    """Of libvirt's own running domain."""
    return str(libvirt.open(URI).lookupByName("test").UUIDString())


def number_of(call: Callable[[], object]) -> int:
    with pytest.raises(VirError) as caught:
        call()
    return int(caught.value.number)


def outside(allowed: Path) -> list[str]:
    folder = allowed.parent / "outside"
    return [f"{folder}/x", f"{allowed}/../outside/x", f"{allowed}/door/x", "/etc/passwd", str(allowed)]


def test_a_rebase_goes_into_the_folders_only(stack: Stack, allowed: Path, uuid: str) -> None:
    def rebase(path: str, flags: int = COPY) -> int:
        return number_of(lambda: stack.blocks.block_rebase(CALLER, selector(uuid), "vda", path, 0, flags))

    for path in outside(allowed):
        assert rebase(path) == rebase(path, COPY | REUSE) == ACCESS_DENIED
    assert rebase("x") == INVALID_ARG
    assert rebase(f"{allowed}/x") == NO_SUPPORT
    assert rebase("/etc/passwd", 0) == NO_SUPPORT, "the base of a pull is no destination"
    assert stack.states(uuid) == []


def test_a_copy_goes_into_the_folders_only(stack: Stack, allowed: Path, uuid: str) -> None:
    def copy(xml: str) -> int:
        return number_of(lambda: stack.blocks.block_copy(CALLER, selector(uuid), "vda", xml, [], 0))

    for path in outside(allowed):
        assert copy(f"<disk type='file'><source file='{path}'/></disk>") == ACCESS_DENIED
        assert copy(f"<disk type='block'><source dev='{path}'/></disk>") == ACCESS_DENIED
        chain = f"<backingStore type='file'><format type='raw'/><source file='{path}'/></backingStore>"
        assert copy(f"<disk type='file'><source file='{allowed}/x'/>{chain}</disk>") == ACCESS_DENIED
    inside = f"<disk type='file'><source file='{allowed}/x' index='1'/></disk>"
    assert copy(inside) == NO_SUPPORT
    assert copy(f"<!DOCTYPE disk [<!ENTITY x 'y'>]>{inside}") == ACCESS_DENIED
    assert stack.states(uuid) == []


@pytest.mark.parametrize(
    "source",
    [
        "<source pool='default' volume='x'/>",
        "<source protocol='nbd' name='x'><host name='elsewhere'/></source>",
        "<source dir='/etc'/>",
        "<x:source xmlns:x='http://x' file='/etc/passwd'/>",
    ],
)
def test_what_is_no_file_of_the_folders_is_refused(allowed: Path, source: str) -> None:
    bounded = AllowedDestinations(PathPolicy([str(allowed)]), is_local=True)
    assert number_of(lambda: bounded.require_xml(f"<disk>{source}</disk>")) == ACCESS_DENIED
    AllowedDestinations(PathPolicy([]), is_local=True).require_xml(f"<disk>{source}</disk>")


def test_a_state_is_saved_in_the_folders_only(stack: Stack, allowed: Path, uuid: str) -> None:
    for path in (*outside(allowed), "relative"):
        assert number_of(partial(stack.domains.save, CALLER, selector(uuid), path)) == ACCESS_DENIED
    assert stack.domains.get_state(CALLER, selector(uuid), 0)[0] == RUNNING


@pytest.mark.parametrize(
    "parts",
    [
        "<disks><disk name='vda' snapshot='external'><source file='{path}'/></disk></disks>",
        "<disks><disk name='vda' type='block'><source dev='{path}'/></disk></disks>",
        "<memory snapshot='external' file='{path}'/>",
        "<disks><disk name='vda' type='network'><source protocol='nbd' name='x'/></disk></disks>",
    ],
)
def test_a_snapshot_goes_into_the_folders_only(stack: Stack, allowed: Path, uuid: str, parts: str) -> None:
    create = partial(stack.domains.snapshot_create_xml, CALLER, selector(uuid))
    for path in outside(allowed):
        xml = f"<domainsnapshot><name>x</name>{parts.format(path=path)}</domainsnapshot>"
        assert number_of(partial(create, xml, 0)) == ACCESS_DENIED
    name = f"without-files-{uuid4()}"  # libvirt's test domain is the whole process's
    assert create(f"<domainsnapshot><name>{name}</name></domainsnapshot>", 0)[0] == name


def test_on_another_host_names_alone_are_compared(allowed: Path) -> None:
    there = AllowedDestinations(PathPolicy([str(allowed)]), is_local=False)
    for path in (f"{allowed}/door/x", f"{allowed}/no/such/folder"):
        there.require_path(path)
    for path in (f"{allowed}/../outside/x", f"{allowed}else/x", str(allowed), "/no/such/folder"):
        assert number_of(lambda path=path: there.require_path(path)) == ACCESS_DENIED  # type: ignore[misc]


def test_xml_that_cannot_be_read_is_libvirts_to_refuse(allowed: Path) -> None:
    AllowedDestinations(PathPolicy([str(allowed)]), is_local=True).require_xml("<disk>")
