# SPDX-License-Identifier: Apache-2.0
"""The flag table of virDomainBlockRebase with COPY: every row, on a chain and on a single raw disk, over both routes.

Judged by qemu-img alone: `compare` against a flattened copy made before the job, `check`, `info`; and by the bytes of
every source file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conformance.guests import (
    ARGUMENT_UNSUPPORTED,
    CONFIG_UNSUPPORTED,
    COPY,
    COPY_DEV,
    INVALID_ARG,
    KIB,
    MIB,
    RAW,
    RELATIVE,
    REUSE_EXT,
    SHALLOW,
    SYSTEM_ERROR,
    Guest,
)


def test_copy(guest: Guest) -> None:
    guest.copy_and_pivot(COPY)
    guest.assert_result(guest.format)


def test_copy_onto_an_empty_file(guest: Guest) -> None:
    guest.destination.touch(mode=0o640)
    guest.copy_and_pivot(COPY)
    guest.assert_result(guest.format)
    assert guest.destination.stat().st_mode & 0o777 == 0o640


def test_copy_raw(guest: Guest) -> None:
    guest.copy_and_pivot(COPY | RAW)
    guest.assert_result("raw")


def test_copy_shallow_on_the_chain(chain_guest: Guest) -> None:
    chain_guest.copy_and_pivot(COPY | SHALLOW)
    chain_guest.assert_result("qcow2", backing=str(chain_guest.files[1]))


def test_copy_shallow_holds_only_the_top_layer(chain_guest: Guest) -> None:
    chain_guest.copy_and_pivot(COPY | SHALLOW)
    mapped = chain_guest.qemu_img.map(chain_guest.destination, "qcow2")
    copied = sum(extent["length"] for extent in mapped if extent["depth"] == 0 and extent["data"])
    assert 0 < copied <= 2 * MIB


def test_copy_shallow_on_raw_is_a_full_copy(raw_guest: Guest) -> None:
    raw_guest.copy_and_pivot(COPY | SHALLOW)
    raw_guest.assert_result("raw")


def test_copy_reuse_ext(guest: Guest) -> None:
    guest.qemu_img.create(guest.destination, guest.format, guest.size_bytes)
    guest.copy_and_pivot(COPY | REUSE_EXT)
    guest.assert_result(guest.format)


def test_copy_reuse_ext_over_old_content(guest: Guest, make_image: Any) -> None:
    writes = [(0, 2 * MIB, 0x77), (5 * MIB, 64 * KIB, 0x78), (guest.size_bytes - MIB, MIB, 0x79)]
    make_image(guest.destination, guest.format, guest.size_bytes, writes=writes)
    guest.copy_and_pivot(COPY | REUSE_EXT)
    guest.assert_result(guest.format)


def test_copy_reuse_ext_missing(guest: Guest) -> None:
    refusal = guest.assert_refused(
        SYSTEM_ERROR, lambda: guest.copy(COPY | REUSE_EXT), "missing destination file for disk vda"
    )
    assert refusal.int1 == 2
    assert not guest.destination.exists()


def test_copy_reuse_ext_wrong_size_names_both_sizes(guest: Guest) -> None:
    guest.qemu_img.create(guest.destination, guest.format, guest.size_bytes * 2)
    refusal = guest.assert_refused(CONFIG_UNSUPPORTED, lambda: guest.copy(COPY | REUSE_EXT))
    assert str(guest.size_bytes) in refusal.message
    assert str(guest.size_bytes * 2) in refusal.message


def test_copy_reuse_ext_shallow(chain_guest: Guest) -> None:
    backing = chain_guest.files[1]
    chain_guest.qemu_img.create(chain_guest.destination, "qcow2", backing=backing, backing_format="qcow2")
    chain_guest.copy_and_pivot(COPY | REUSE_EXT | SHALLOW)
    chain_guest.assert_result("qcow2", backing=str(backing))


def test_copy_reuse_ext_shallow_keeps_a_relative_backing_name(chain_guest: Guest) -> None:
    relative = os.path.relpath(chain_guest.files[1], chain_guest.folder)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", relative, "-F", "qcow2", chain_guest.destination.name],
        cwd=chain_guest.folder,
        check=True,
    )
    chain_guest.copy_and_pivot(COPY | REUSE_EXT | SHALLOW)
    chain_guest.assert_result("qcow2", backing=relative)


def test_copy_reuse_ext_shallow_on_raw_is_a_full_copy(raw_guest: Guest) -> None:
    raw_guest.qemu_img.create(raw_guest.destination, "raw", raw_guest.size_bytes)
    raw_guest.copy_and_pivot(COPY | REUSE_EXT | SHALLOW)
    raw_guest.assert_result("raw")


def test_copy_reuse_ext_shallow_raw(chain_guest: Guest) -> None:
    """A raw volume with the content of snap1: only what snap2 holds is copied onto it."""
    snap1 = chain_guest.files[1]
    chain_guest.qemu_img("convert", "-f", "qcow2", "-O", "raw", snap1, chain_guest.destination)
    with chain_guest.destination.open("r+b") as file:
        # A byte that snap2 does not hold: a copy of more than the top layer would set it right.
        file.seek(20 * MIB)
        file.write(b"\x99")
    chain_guest.copy_and_pivot(COPY | REUSE_EXT | SHALLOW | RAW)
    with chain_guest.destination.open("r+b") as file:
        file.seek(20 * MIB)
        assert file.read(1) == b"\x99"
        file.seek(20 * MIB)
        file.write(b"\x00")
    chain_guest.assert_result("raw")


def test_copy_reuse_ext_shallow_raw_on_raw(raw_guest: Guest) -> None:
    raw_guest.qemu_img.create(raw_guest.destination, "raw", raw_guest.size_bytes)
    raw_guest.copy_and_pivot(COPY | REUSE_EXT | SHALLOW | RAW)
    raw_guest.assert_result("raw")


def test_copy_shallow_raw_on_the_chain_is_refused(chain_guest: Guest) -> None:
    chain_guest.assert_refused(
        CONFIG_UNSUPPORTED,
        lambda: chain_guest.copy(COPY | SHALLOW | RAW),
        "shallow copy of disk 'vda' into a raw file is not possible",
    )
    assert not chain_guest.destination.exists()


def test_copy_shallow_raw_on_raw_is_a_plain_copy(raw_guest: Guest) -> None:
    raw_guest.copy_and_pivot(COPY | SHALLOW | RAW)
    raw_guest.assert_result("raw")


def test_copy_reuse_ext_raw(guest: Guest) -> None:
    guest.destination.write_bytes(b"\x5a" * MIB)
    os.truncate(guest.destination, guest.size_bytes)
    guest.copy_and_pivot(COPY | REUSE_EXT | RAW)
    guest.assert_result("raw")


def test_copy_reuse_ext_raw_onto_a_qcow2_of_another_length(guest: Guest) -> None:
    guest.qemu_img.create(guest.destination, "qcow2", guest.size_bytes)
    guest.assert_refused(CONFIG_UNSUPPORTED, lambda: guest.copy(COPY | REUSE_EXT | RAW))


@pytest.mark.parametrize("flag", [SHALLOW, REUSE_EXT, RAW, COPY_DEV])
def test_flags_that_need_copy(guest: Guest, flag: int) -> None:
    refusal = guest.assert_refused(INVALID_ARG, lambda: guest.copy(flag))
    assert refusal.message == "use of flags requires a copy job"
    assert refusal.domain == 20


def test_copy_relative(guest: Guest) -> None:
    guest.assert_refused(
        ARGUMENT_UNSUPPORTED,
        lambda: guest.copy(COPY | RELATIVE),
        "Relative backing during copy not supported yet",
    )


@pytest.mark.parametrize("bit", range(7, 32))
def test_unknown_bits(raw_guest: Guest, bit: int) -> None:
    refusal = raw_guest.assert_refused(INVALID_ARG, lambda: raw_guest.copy(COPY | 1 << bit))
    assert refusal.message == f"unsupported flags (0x{1 << bit:x}) in function qemuDomainBlockRebase"
    assert refusal.domain == 10


def test_existing_content_without_reuse(guest: Guest) -> None:
    guest.destination.write_bytes(b"precious")
    guest.assert_refused(
        CONFIG_UNSUPPORTED,
        lambda: guest.copy(COPY),
        "external destination file for disk vda already exists and is not a block device",
    )
    assert guest.destination.read_bytes() == b"precious"


def test_copy_dev_absent(guest: Guest) -> None:
    guest.assert_refused(SYSTEM_ERROR, lambda: guest.copy(COPY | COPY_DEV), "missing destination file for disk vda")


def test_copy_dev_to_an_empty_file(guest: Guest) -> None:
    guest.destination.touch()
    guest.assert_refused(
        INVALID_ARG,
        lambda: guest.copy(COPY | COPY_DEV),
        f"blockdev flag requested for disk vda, but file '{guest.destination}' is not a block device",
    )


def test_copy_dev_to_a_file_with_reuse(guest: Guest) -> None:
    guest.qemu_img.create(guest.destination, "raw", guest.size_bytes)
    guest.assert_refused(INVALID_ARG, lambda: guest.copy(COPY | COPY_DEV | REUSE_EXT | RAW), "is not a block device")


@contextlib.contextmanager
def loop_device(path: Path) -> Iterator[Path]:
    """A loop block device over a file; needs root."""
    done = subprocess.run(["losetup", "--find", "--show", path], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no loop device to be had: {done.stderr}")
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize("flags", [COPY | COPY_DEV | RAW, COPY | COPY_DEV | RAW | REUSE_EXT])
def test_copy_dev_to_a_loop_device(guest: Guest, flags: int) -> None:
    backing = guest.folder / "device.img"
    backing.write_bytes(b"\x66" * guest.size_bytes)
    with loop_device(backing) as device:
        guest.destination = device
        guest.copy_and_pivot(flags)
        guest.assert_result("raw")
        disk = ElementTree.fromstring(guest.route.xml("guest")).find("./devices/disk")
        assert disk is not None and disk.get("type") == "block"


@pytest.mark.parametrize("flags", [COPY, COPY | COPY_DEV])
def test_copy_to_a_loop_device_keeps_the_format(chain_guest: Guest, flags: int) -> None:
    """Without RAW and without REUSE_EXT the device is formatted as the source is, as libvirt does."""
    backing = chain_guest.folder / "device.img"
    backing.write_bytes(b"\x66" * (2 * chain_guest.size_bytes))
    with loop_device(backing) as device:
        chain_guest.destination = device
        chain_guest.copy_and_pivot(flags)
        chain_guest.assert_result("qcow2")


@pytest.mark.parametrize("holds", ["raw", "qcow2"])
def test_copy_reuse_ext_probes_a_loop_device(chain_guest: Guest, holds: str) -> None:
    backing = chain_guest.folder / "device.img"
    backing.write_bytes(b"\x66" * (chain_guest.size_bytes if holds == "raw" else 2 * chain_guest.size_bytes))
    with loop_device(backing) as device:
        if holds == "qcow2":
            chain_guest.qemu_img.create(device, "qcow2", chain_guest.size_bytes)
        chain_guest.destination = device
        chain_guest.copy_and_pivot(COPY | REUSE_EXT | COPY_DEV)
        chain_guest.assert_result(holds)
