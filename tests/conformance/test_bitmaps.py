# SPDX-License-Identifier: Apache-2.0
"""Persistent bitmaps and incremental copies, end to end: the bits are what qemu-io recorded, the judge is qemu-img."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conformance.guests import (
    BLOCK_COPY_ACTIVE,
    BYTES,
    CONFIG_UNSUPPORTED,
    COPY,
    INVALID_ARG,
    KIB,
    MIB,
    OPERATION_INVALID,
    REUSE_EXT,
    SHALLOW,
    STANDING_STILL_BYTES_PER_S,
    Guest,
)
from conformance.routes import Bitmap, Refused

NO_DOMAIN, NO_CHECKPOINT, INCONSISTENT = 42, 103, 109
COPY_SHALLOW, COPY_REUSE_EXT = 1, 2


def _refused(number: int, call: Callable[[], object], text: str = "") -> None:
    with pytest.raises(Refused) as refusal:
        call()
    assert refusal.value.number == number, refusal.value
    assert text in refusal.value.message, refusal.value


def _destination(path: Path, image_format: str) -> str:
    return f"<disk type='file'><driver type='{image_format}'/><source file='{path}'/></disk>"


def _incremental(guest: Guest, bitmap: str, flags: int = COPY_REUSE_EXT, image_format: str = "qcow2") -> str:
    """The job of an incremental copy to the guest's destination, READY."""
    xml = _destination(guest.destination, image_format)
    job = guest.route.copy("guest", "vda", xml, [("virtblock.bitmap", "string", bitmap)], flags)
    guest.route.wait_ready(job)
    return job


def _whole_copy(guest: Guest, flags: int = COPY) -> None:
    guest.route.wait_ready(guest.copy(flags))
    guest.route.abort("guest", "vda")


def test_life_of_a_bitmap(chain_guest: Guest, qemu_io: Any) -> None:
    route = chain_guest.route
    assert route.bitmaps("guest", "vda") == []
    made = route.add_bitmap("guest", "vda", "nightly")
    assert made == Bitmap("nightly", 64 * KIB, True, "usable", 0)
    assert route.add_bitmap("guest", "vda", "off", 4 * KIB, disabled=True) == Bitmap("off", 4096, False, "usable", 0)
    qemu_io(chain_guest.top, "qcow2", "write -P 1 3M 64k", "write -P 2 9M 1k")
    assert route.bitmaps("guest", "vda") == [
        Bitmap("nightly", 64 * KIB, True, "usable", 128 * KIB),
        Bitmap("off", 4096, False, "usable", 0),
    ]
    route.clear_bitmap("guest", "vda", "nightly")
    assert route.bitmaps("guest", str(chain_guest.top))[0].dirty_bytes == 0
    route.remove_bitmap("guest", "vda", "nightly")
    assert [bitmap.name for bitmap in route.bitmaps("guest", "vda")] == ["off"]
    chain_guest.qemu_img.check(chain_guest.top)


@pytest.mark.parametrize("is_shallow", [False, True])
def test_an_incremental_copy(chain_guest: Guest, qemu_io: Any, is_shallow: bool) -> None:
    """A whole copy, then what was written since: the job counts that alone, and reads as the source does."""
    guest, route = chain_guest, chain_guest.route
    route.add_bitmap("guest", "vda", "b")
    _whole_copy(guest, COPY | SHALLOW if is_shallow else COPY)
    qemu_io(guest.top, "qcow2", "write -P 1 3M 64k", "write -z 24M 64k", "discard 1M 64k")
    before = guest.top.read_bytes()
    job = _incremental(guest, "b", COPY_REUSE_EXT | (COPY_SHALLOW if is_shallow else 0))
    info = route.info("guest", "vda")
    assert info is not None and info.cur == info.end == 192 * KIB
    route.abort("guest", "vda")
    assert route.job(job)[0] == "canceled"  # as any copy that was READY and is not pivoted
    assert guest.qemu_img.is_same(guest.top, "qcow2", guest.destination, "qcow2")
    guest.qemu_img.check(guest.destination)
    assert guest.top.read_bytes() == before
    route.clear_bitmap("guest", "vda", "b")
    assert route.bitmaps("guest", "vda")[0].dirty_bytes == 0


def test_what_is_refused_of_a_copy(chain_guest: Guest) -> None:
    guest, route = chain_guest, chain_guest.route
    route.add_bitmap("guest", "vda", "b")
    _whole_copy(guest)
    xml = _destination(guest.destination, "qcow2")

    def copy(bitmap: Any, flags: int = COPY_REUSE_EXT, kind: str = "string") -> Callable[[], object]:
        return lambda: route.copy("guest", "vda", xml, [("virtblock.bitmap", kind, bitmap)], flags)

    content = guest.destination.read_bytes()
    _refused(INVALID_ARG, copy("b", 0), "needs VIR_DOMAIN_BLOCK_COPY_REUSE_EXT")
    _refused(INVALID_ARG, copy(""), "is empty")
    _refused(INVALID_ARG, copy(7, kind="uint"), "expected 'string'")
    _refused(NO_CHECKPOINT, copy("c"), "has no bitmap 'c'; it has 'b'")
    assert guest.destination.read_bytes() == content
    assert route.info("guest", "vda") is None


def test_a_bitmap_that_says_nothing(chain_guest: Guest) -> None:
    guest, route = chain_guest, chain_guest.route
    route.add_bitmap("guest", "vda", "b")
    _whole_copy(guest)
    with guest.top.open("r+b") as file:  # as a program leaves it that does not know bitmaps
        file.seek(95)
        file.write(b"\0")
    assert route.bitmaps("guest", "vda") == [Bitmap("b", 64 * KIB, True, "inconsistent", -1)]
    _refused(INCONSISTENT, lambda: _incremental(guest, "b"), "is inconsistent")
    _refused(INCONSISTENT, lambda: route.clear_bitmap("guest", "vda", "b"), "is inconsistent")
    route.remove_bitmap("guest", "vda", "b")
    assert route.bitmaps("guest", "vda") == []


def test_what_is_refused_of_bitmaps(chain_guest: Guest) -> None:
    route = chain_guest.route
    route.add_bitmap("guest", "vda", "b")
    before = chain_guest.top.read_bytes()
    _refused(NO_DOMAIN, lambda: route.bitmaps("nobody", "vda"))
    _refused(INVALID_ARG, lambda: route.bitmaps("guest", "vdz"), "vdz")
    _refused(INVALID_ARG, lambda: route.add_bitmap("guest", "", "x"))
    _refused(OPERATION_INVALID, lambda: route.add_bitmap("guest", "vda", "b"), "has a bitmap 'b' already")
    _refused(INVALID_ARG, lambda: route.add_bitmap("guest", "vda", ""), "empty")
    _refused(INVALID_ARG, lambda: route.add_bitmap("guest", "vda", "n" * 1024), "1 to 1023 bytes")
    _refused(INVALID_ARG, lambda: route.add_bitmap("guest", "vda", "nul\0"), "null byte")
    for granularity_bytes in (-1, 256, 1000, 4 << 30):
        _refused(INVALID_ARG, lambda: route.add_bitmap("guest", "vda", "x", granularity_bytes), "granularity_bytes")  # noqa: B023
    _refused(NO_CHECKPOINT, lambda: route.remove_bitmap("guest", "vda", "c"), "it has 'b'")
    _refused(NO_CHECKPOINT, lambda: route.clear_bitmap("guest", "vda", "c"), "it has 'b'")
    assert chain_guest.top.read_bytes() == before


def test_a_raw_disk_has_none(raw_guest: Guest) -> None:
    route = raw_guest.route
    assert route.bitmaps("guest", "vda") == []
    raw_guest.assert_refused(CONFIG_UNSUPPORTED, lambda: route.add_bitmap("guest", "vda", "b"), "cannot hold bitmaps")


def test_while_a_copy_runs(chain_guest: Guest) -> None:
    """Its bitmaps can be seen, not changed."""
    guest, route = chain_guest, chain_guest.route
    route.add_bitmap("guest", "vda", "b")
    guest.copy(COPY | BYTES, STANDING_STILL_BYTES_PER_S)
    assert [bitmap.name for bitmap in route.bitmaps("guest", "vda")] == ["b"]
    for change in (route.add_bitmap, route.remove_bitmap, route.clear_bitmap):
        _refused(BLOCK_COPY_ACTIVE, lambda: change("guest", "vda", "b"), "active block copy job")  # noqa: B023
    route.abort("guest", "vda")
    route.remove_bitmap("guest", "vda", "b")


def test_rebase_takes_no_bitmap_but_keeps_it(chain_guest: Guest) -> None:
    """A whole copy over an earlier one, by the call that has no parameters."""
    guest = chain_guest
    guest.route.add_bitmap("guest", "vda", "b")
    _whole_copy(guest)
    _whole_copy(guest, COPY | REUSE_EXT)
    assert [bitmap.name for bitmap in guest.route.bitmaps("guest", "vda")] == ["b"]
    assert guest.destination.stat().st_size > MIB
