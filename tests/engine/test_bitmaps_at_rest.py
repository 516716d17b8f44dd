# SPDX-License-Identifier: Apache-2.0
"""Bitmaps added, removed and cleared in an image at rest: QEMU agrees with all of it, ours and its own in turn."""

from __future__ import annotations

import functools
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, GIB, KIB, MIB, TIB, copy_image, reads_same
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import qcow2

from virtblock.engine import (
    BitmapInfo,
    Chain,
    EngineError,
    ImageWriter,
    add_bitmap,
    clear_bitmap,
    list_bitmaps,
    remove_bitmap,
)

SIZE_BYTES = 4 * MIB
OPTIONS = {
    "512": ["cluster_size=512"],
    "4k": ["cluster_size=4096"],
    "64k": [],
    "2M": ["cluster_size=2M"],
    "subclusters": ["cluster_size=16384,extended_l2=on"],
    **{f"refcounts-{bits}": ["cluster_size=4096", f"refcount_bits={bits}"] for bits in (1, 2, 4, 8, 32, 64)},
}


def _names(path: Path) -> list[str]:
    return [bitmap.name for bitmap in list_bitmaps(str(path), ANY_PATH)]


def _only(path: Path) -> BitmapInfo:
    (bitmap,) = list_bitmaps(str(path), ANY_PATH)
    return bitmap


def _said(qemu_img: Any, path: Path) -> dict[str, tuple[int, tuple[str, ...]]]:
    """What qemu-img info says: name → (granularity, flags)."""
    listed = qemu_img.info(path)["format-specific"]["data"].get("bitmaps", [])
    return {entry["name"]: (entry["granularity"], tuple(entry["flags"])) for entry in listed}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("has_snapshot", [False, True])
def test_qemu_agrees(
    tmp_path: Path, make_image: Callable[..., Path], qemu_img: Any, qemu_io: Any, kind: str, has_snapshot: bool
) -> None:
    path = make_image(
        tmp_path / "disk", "qcow2", SIZE_BYTES, options=OPTIONS[kind], writes=[(0, 1 * MIB, 1), (3 * MIB, 64 * KIB, 2)]
    )
    if has_snapshot and kind != "refcounts-1":
        qemu_img("snapshot", "-c", "one", path)
        qemu_io(path, "qcow2", "write -P 3 0 64k")
    before = qemu_img.create(tmp_path / "before", "qcow2", SIZE_BYTES)
    qemu_img("convert", "-f", "qcow2", "-O", "qcow2", path, before)

    add_bitmap(str(path), "on", ANY_PATH, granularity_bytes=4096)
    add_bitmap(str(path), "off", ANY_PATH, granularity_bytes=1 * MIB, is_enabled=False)
    qemu_img.check(path)
    assert _said(qemu_img, path) == {"on": (4096, ("auto",)), "off": (1 * MIB, ())}
    qemu_io(path, "qcow2", "write -P 1 0 4k", "write -P 1 1020k 4k")  # what is there already, so that it reads the same
    assert [bitmap.dirty_bytes for bitmap in list_bitmaps(str(path), ANY_PATH)] == [8192, 0]
    qemu_img("bitmap", "--merge", "on", path, "off")
    assert [bitmap.dirty_bytes for bitmap in list_bitmaps(str(path), ANY_PATH)] == [8192, 1 * MIB]
    qemu_img("bitmap", "--add", "-g", 64 * KIB, path, "theirs")
    clear_bitmap(str(path), "on", ANY_PATH)
    qemu_img.check(path)
    assert [bitmap.dirty_bytes for bitmap in list_bitmaps(str(path), ANY_PATH)] == [0, 1 * MIB, 0]
    remove_bitmap(str(path), "on", ANY_PATH)
    qemu_img.check(path)
    qemu_img("bitmap", "--clear", path, "off")
    assert _names(path) == ["off", "theirs"]
    qemu_img("bitmap", "--remove", path, "theirs")
    remove_bitmap(str(path), "off", ANY_PATH)
    qemu_img.check(path)
    assert _said(qemu_img, path) == {} and _names(path) == []
    assert qcow2.bitmaps_extension(path) is None
    if kind != "refcounts-1" and has_snapshot:
        qemu_io(path, "qcow2", "write -P 1 0 4k", "write -P 1 1020k 4k")
    else:
        assert reads_same(qemu_img, before, "qcow2", path, "qcow2")


def test_the_backing_name_moves_on(tmp_path: Path, qemu_img: Any, make_image: Callable[..., Path]) -> None:
    """In the header it stands where the extension has to go."""
    base = make_image(tmp_path / "base.qcow2", "qcow2", SIZE_BYTES, writes=[(0, 64 * KIB, 7)])
    for name in (base.name, str(base), "./" * 300 + base.name):
        path = tmp_path / "top.qcow2"
        qemu_img.create(path, "qcow2", backing=name, backing_format="qcow2")
        add_bitmap(str(path), "b", ANY_PATH)
        qemu_img.check(path)
        assert qemu_img.info(path)["backing-filename"] == name
        assert _said(qemu_img, path) == {"b": (64 * KIB, ("auto",))}
        assert reads_same(qemu_img, base, "qcow2", path, "qcow2")
        qemu_img("rebase", "-u", "-F", "qcow2", "-b", base.name, path)
        assert _names(path) == ["b"]


def test_no_room_in_the_header(tmp_path: Path, qemu_img: Any) -> None:
    path = tmp_path / "top.qcow2"
    name = "x" * 340
    arguments = ["-u", "-o", "cluster_size=512", "-b", name, "-F", "raw", path, "1M"]
    qemu_img("create", "-q", "-f", "qcow2", *arguments)
    before = path.read_bytes()
    with pytest.raises(EngineError, match="header has no room for bitmaps") as refusal:
        add_bitmap(str(path), "b", ANY_PATH)
    assert refusal.value.kind == "unsupported"
    assert path.read_bytes() == before


def _refused(path: Path, change: Callable[[], None], kind: str, words: str) -> None:
    before = path.read_bytes()
    with pytest.raises(EngineError) as refusal:
        change()
    assert (refusal.value.kind, words in refusal.value.reason) == (kind, True), str(refusal.value)
    assert path.read_bytes() == before


def test_refusals(tmp_path: Path, qemu_img: Any) -> None:
    path = qemu_img.create(tmp_path / "disk", "qcow2", SIZE_BYTES)
    target = str(path)
    add_bitmap(target, "b", ANY_PATH)
    _refused(path, lambda: add_bitmap(target, "b", ANY_PATH), "exists", "has a bitmap 'b' already")
    _refused(path, lambda: add_bitmap(target, "", ANY_PATH), "invalid", "empty")
    _refused(path, lambda: add_bitmap(target, "n" * 1024, ANY_PATH), "invalid", "1 to 1023 bytes")
    for granularity in (0, 256, 1000, 4 * GIB):
        too_odd = functools.partial(add_bitmap, target, "c", ANY_PATH, granularity_bytes=granularity)
        _refused(path, too_odd, "invalid", "granularity")
    _refused(path, lambda: remove_bitmap(target, "c", ANY_PATH), "no-bitmap", "it has 'b'")
    _refused(path, lambda: clear_bitmap(target, "c", ANY_PATH), "no-bitmap", "it has 'b'")
    old = qemu_img.create(tmp_path / "old", "qcow2", SIZE_BYTES, options=["compat=0.10"])
    _refused(old, lambda: add_bitmap(str(old), "b", ANY_PATH), "unsupported", "version 2")
    raw = qemu_img.create(tmp_path / "raw", "raw", SIZE_BYTES)
    _refused(raw, lambda: add_bitmap(str(raw), "b", ANY_PATH), "format", "not in qcow2 format")


def test_too_fine_for_the_disk(tmp_path: Path, qemu_img: Any) -> None:
    """QEMU's limit: 2^32 bits."""
    path = qemu_img.create(tmp_path / "disk", "qcow2", 3 * TIB)
    with pytest.raises(EngineError, match="too fine"):
        add_bitmap(str(path), "b", ANY_PATH, granularity_bytes=512)
    assert qemu_img("bitmap", "--add", "-g", 512, path, "b", check=False).returncode != 0
    add_bitmap(str(path), "b", ANY_PATH, granularity_bytes=1024)
    qemu_img.check(path)
    assert _said(qemu_img, path) == {"b": (1024, ("auto",))}


def test_a_name_as_long_as_can_be(tmp_path: Path, qemu_img: Any) -> None:
    path = qemu_img.create(tmp_path / "disk", "qcow2", SIZE_BYTES)
    add_bitmap(str(path), "ü" * 511 + "n", ANY_PATH)
    assert list(_said(qemu_img, path)) == ["ü" * 511 + "n"] == _names(path)


def test_while_somebody_uses_it(tmp_path: Path, qemu_img: Any) -> None:
    """Under QEMU's locks, both ways."""
    path = qemu_img.create(tmp_path / "disk", "qcow2", SIZE_BYTES)
    add_bitmap(str(path), "b", ANY_PATH)
    with Chain([(str(path), "qcow2")], ANY_PATH):
        assert _names(path) == ["b"]
        for change in (remove_bitmap, clear_bitmap):
            with pytest.raises(EngineError) as refusal:
                change(str(path), "b", ANY_PATH)
            assert refusal.value.kind == "locked"
    with ImageWriter(str(path), "qcow2", ANY_PATH), pytest.raises(EngineError) as refusal:
        list_bitmaps(str(path), ANY_PATH)
    assert refusal.value.kind == "locked"


def test_bitmaps_that_are_not_valid_any_more(tmp_path: Path, qemu_img: Any, make_image: Callable[..., Path]) -> None:
    """Written by a program that does not know them: they can be removed, and go when a new one comes."""
    path = make_image(tmp_path / "disk", "qcow2", SIZE_BYTES, writes=[(0, 64 * KIB, 7)])
    for name in ("a", "b"):
        add_bitmap(str(path), name, ANY_PATH)
    qcow2.write_u64(path, qcow2.AUTOCLEAR_OFFSET, 0)
    assert [bitmap.state for bitmap in list_bitmaps(str(path), ANY_PATH)] == ["inconsistent"] * 2
    with pytest.raises(EngineError) as refusal:
        clear_bitmap(str(path), "a", ANY_PATH)
    assert refusal.value.kind == "bitmap"
    remove_bitmap(str(path), "a", ANY_PATH)
    assert (_only(path).name, _only(path).state) == ("b", "inconsistent")
    add_bitmap(str(path), "c", ANY_PATH)
    assert (_only(path).name, _only(path).state) == ("c", "usable")
    assert qemu_img("check", path, check=False).returncode == 3  # what is not valid is leaked, never given to others


def test_one_in_use_can_only_be_removed(tmp_path: Path, qemu_img: Any) -> None:
    path = qemu_img.create(tmp_path / "disk", "qcow2", SIZE_BYTES)
    add_bitmap(str(path), "a", ANY_PATH)
    add_bitmap(str(path), "b", ANY_PATH)
    extension = qcow2.bitmaps_extension(path)
    assert extension is not None
    qcow2.write_u32(path, qcow2.read_u64(path, extension + 16) + 12, 3)
    assert [bitmap.state for bitmap in list_bitmaps(str(path), ANY_PATH)] == ["in-use", "usable"]
    _refused(path, lambda: clear_bitmap(str(path), "a", ANY_PATH), "bitmap", "is in use")
    remove_bitmap(str(path), "a", ANY_PATH)
    assert (_only(path).name, _only(path).state) == ("b", "usable")
    qemu_img.check(path)


@pytest.mark.parametrize("what", ["data", "table", "directory"])
def test_a_cluster_with_two_owners_is_not_given_back(
    tmp_path: Path, make_image: Callable[..., Path], qemu_io: Any, what: str
) -> None:
    """What a damaged image lets a bitmap share with a guest's data stays the guest's."""
    path = make_image(tmp_path / "disk", "qcow2", SIZE_BYTES, writes=[(0, 128 * KIB, 7)])
    add_bitmap(str(path), "b", ANY_PATH)
    qemu_io(path, "qcow2", "write -P 7 0 64k")
    data = qcow2.read_u64(path, qcow2.l2_offset(path)) & qcow2.ENTRY_OFFSET_MASK
    extension = qcow2.bitmaps_extension(path)
    assert extension is not None
    directory = qcow2.read_u64(path, extension + 16)
    table = qcow2.read_u64(path, directory)
    if what == "data":
        qcow2.write_u64(path, table, data)
    elif what == "table":
        qcow2.overwrite(path, data, path.read_bytes()[table : table + 8])
        qcow2.write_u64(path, directory, data)
    else:
        qcow2.overwrite(path, data, path.read_bytes()[directory : directory + 32])
        qcow2.write_u64(path, extension + 16, data)
    _refused(path, lambda: remove_bitmap(str(path), "b", ANY_PATH), "format", "two entries name the same cluster")


def test_data_in_the_refcounts_is_not_overwritten(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    """A damaged image in which a guest's cluster is a refcount block, which any change writes."""
    path = make_image(tmp_path / "disk", "qcow2", SIZE_BYTES, writes=[(0, 64 * KIB, 7)])
    block = qcow2.read_u64(path, qcow2.read_u64(path, qcow2.REFCOUNT_TABLE_OFFSET_OFFSET))
    qcow2.write_u64(path, qcow2.l2_offset(path), block | 1 << 63)
    _refused(path, lambda: add_bitmap(str(path), "b", ANY_PATH), "format", "cluster of the header or the refcounts")


def test_many(tmp_path: Path, qemu_img: Any) -> None:
    """A directory of several clusters."""
    path = qemu_img.create(tmp_path / "disk", "qcow2", 1 * MIB, options=["cluster_size=512"])
    names = [f"bitmap {number} " + "n" * 100 for number in range(40)]
    for name in names:
        add_bitmap(str(path), name, ANY_PATH)
    qemu_img.check(path)
    assert list(_said(qemu_img, path)) == names == _names(path)
    for name in names[::2]:
        remove_bitmap(str(path), name, ANY_PATH)
    qemu_img.check(path)
    assert list(_said(qemu_img, path)) == names[1::2]


Change = tuple[str, str, int, bool]
_changes = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "clear", "qemu-add", "qemu-remove", "write"]),
        st.sampled_from(["a", "b", "c" * 200]),
        st.integers(9, 22),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(cluster_bits=st.sampled_from([9, 12, 16]), changes=_changes)
def test_any_course_of_changes(qemu_img: Any, qemu_io: Any, cluster_bits: int, changes: list[Change]) -> None:
    """Ours and QEMU's in turn, against a model of names, granularities and dirty granules."""
    model: dict[str, tuple[int, bool, set[int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "disk"
        qemu_img.create(path, "qcow2", SIZE_BYTES, options=[f"cluster_size={1 << cluster_bits}"])
        for verb, name, bits, is_enabled in changes:
            _apply(path, model, verb, name, bits, is_enabled, qemu_img, qemu_io)
        found = qcow2.read_bitmaps(path)
        assert list(found) == list(model) == _names(path)
        for bitmap in list_bitmaps(str(path), ANY_PATH):
            granularity, is_enabled, dirty = model[bitmap.name]
            assert (bitmap.granularity_bytes, bitmap.is_enabled) == (granularity, is_enabled)
            assert {index for index, is_dirty in enumerate(found[bitmap.name].dirty) if is_dirty} == dirty
        qemu_img.check(path)


def _apply(
    path: Path,
    model: dict[str, tuple[int, bool, set[int]]],
    verb: str,
    name: str,
    bits: int,
    is_enabled: bool,
    qemu_img: Any,
    qemu_io: Any,
) -> None:
    if verb == "write":
        start = bits * 100 * KIB + bits * 512
        qemu_io(path, "qcow2", f"write -P {bits} {start} 70k")
        for granularity, is_recording, dirty in model.values():
            if is_recording:
                dirty.update(range(start // granularity, (start + 70 * KIB - 1) // granularity + 1))
    elif verb.endswith("add") and name not in model:
        model[name] = (1 << bits, is_enabled, set())
        if verb == "add":
            add_bitmap(str(path), name, ANY_PATH, granularity_bytes=1 << bits, is_enabled=is_enabled)
        else:
            qemu_img("bitmap", "--add", *([] if is_enabled else ["--disable"]), "-g", 1 << bits, path, name)
    elif verb.endswith("remove") and name in model:
        del model[name]
        if verb == "remove":
            remove_bitmap(str(path), name, ANY_PATH)
        else:
            qemu_img("bitmap", "--remove", path, name)
    elif verb == "clear" and name in model:
        clear_bitmap(str(path), name, ANY_PATH)
        model[name][2].clear()


@pytest.mark.parametrize(("place", "words"), [("L1 table", "two entries name"), ("behind", "beyond the end")])
def test_reused_image_with_a_bad_directory(
    place: str, words: str, tmp_path: Path, make_image: Callable[..., Path], qemu_img: Any, sha256_of: Any
) -> None:
    """A copy onto an image marks its bitmaps as in use, where they are: not over what something else lies in."""
    source = make_image(tmp_path / "source", "qcow2", SIZE_BYTES, writes=[(0, MIB, 7)])
    path = make_image(tmp_path / "disk", "qcow2", SIZE_BYTES, writes=[(0, MIB, 1)])
    qemu_img("bitmap", "--add", path, "one")
    extension = qcow2.bitmaps_extension(path)
    assert extension is not None
    image = path.read_bytes()
    size_bytes, directory_at = struct.unpack_from(">QQ", image, extension + 8)
    l1_at = qcow2.l1_offset(path)
    with path.open("r+b") as file:
        file.seek(l1_at)  # whose one entry becomes the first word of the directory, the place of a table
        file.write(image[directory_at : directory_at + size_bytes])
        file.seek(extension + 16)
        file.write(struct.pack(">Q", l1_at if place == "L1 table" else 1 << 40))
    digest = sha256_of(path)
    with pytest.raises(EngineError, match=words) as caught:
        copy_image(source, "qcow2", path, "qcow2", reuse=True)
    assert caught.value.kind == "format"
    assert sha256_of(path) == digest
