# SPDX-License-Identifier: Apache-2.0
"""Incremental copies: what a persistent bitmap marks, and nothing else, is brought up to date on an earlier copy.

The bitmaps are qemu's: added by qemu-img, and marked by qemu-io, which records its writes in every enabled one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, GIB, KIB, MIB, copy_image, noisy_raw, reads_same
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import qcow2

from virtblock.engine import Chain, Copy, EngineError, list_bitmaps

SIZE_BYTES = 8 * MIB
CLUSTER_SIZES = [512, 4 * KIB, 64 * KIB, 2 * MIB]


@pytest.fixture
def disk_with_bitmap(tmp_path: Path, qemu_img: Any, qemu_io: Any) -> Callable[..., Path]:
    """A disk of noise with an empty enabled bitmap `b`."""

    def make(cluster_size: int = 64 * KIB, granularity: int = 64 * KIB, size_bytes: int = SIZE_BYTES) -> Path:
        raw = noisy_raw(tmp_path / "content.raw", size_bytes, [(0, 3 * MIB), (5 * MIB, 1 * MIB)])
        path = tmp_path / "disk.qcow2"
        qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", f"cluster_size={cluster_size}", raw, path)
        qemu_img("bitmap", "--add", "-g", granularity, path, "b")
        return path

    return make


def _incremental(source: Path, destination: Path, destination_format: str, **options: Any) -> Any:
    """Copy by the bitmap `b`, and return the progress at the end."""
    with (
        Chain([(str(source), "qcow2")], ANY_PATH) as chain,
        Copy(chain, str(destination), destination_format, ANY_PATH, reuse=True, bitmap="b", **options) as copy,  # type: ignore[arg-type]
    ):
        copy.run()
        return copy.progress()


@pytest.mark.parametrize("cluster_size", CLUSTER_SIZES)
@pytest.mark.parametrize("granularity", [512, 64 * KIB, 1 * MIB])
def test_lists_what_qemu_recorded(
    disk_with_bitmap: Callable[..., Path], qemu_img: Any, qemu_io: Any, cluster_size: int, granularity: int
) -> None:
    path = disk_with_bitmap(cluster_size, granularity)
    qemu_img("bitmap", "--add", "--disable", path, "off")
    qemu_io(path, "qcow2", "write -P 1 1k 512", "write -P 2 3M 1M", "write -P 3 8388096 512")
    marked, off = list_bitmaps(str(path), ANY_PATH)
    expected = qcow2.read_bitmaps(path)
    assert (marked.name, marked.is_enabled, marked.state, marked.granularity_bytes) == (
        "b",
        True,
        "usable",
        granularity,
    )
    assert marked.dirty_bytes == expected["b"].dirty_bytes(SIZE_BYTES) >= 1 * MIB + 1024
    assert (off.name, off.is_enabled, off.state, off.dirty_bytes) == ("off", False, "usable", 0)
    said = qemu_img.info(path)["format-specific"]["data"]["bitmaps"]
    assert [(entry["name"], entry["granularity"], entry["flags"]) for entry in said] == [
        ("b", granularity, ["auto"]),
        ("off", off.granularity_bytes, []),
    ]


def test_lists_nothing_where_there_is_nothing(tmp_path: Path, qemu_img: Any) -> None:
    for options in (["compat=0.10"], ["compat=1.1"]):
        path = qemu_img.create(tmp_path / f"{options[0]}.qcow2", "qcow2", 1 * MIB, options=options)
        assert list_bitmaps(str(path), ANY_PATH) == ()


@pytest.mark.parametrize("destination_format", ["qcow2", "raw"])
@pytest.mark.parametrize("cluster_size", CLUSTER_SIZES)
@pytest.mark.parametrize("granularity", [512, 128 * KIB])
def test_brings_an_earlier_copy_up_to_date(
    disk_with_bitmap: Callable[..., Path],
    tmp_path: Path,
    qemu_img: Any,
    qemu_io: Any,
    sha256_of: Callable[[Path], str],
    destination_format: str,
    cluster_size: int,
    granularity: int,
) -> None:
    source = disk_with_bitmap(cluster_size, granularity)
    copy = tmp_path / "copy"
    copy_image(source, "qcow2", copy, destination_format)
    qemu_io(
        source,
        "qcow2",
        "write -P 1 0 512",
        "write -z 1M 200k",
        "write -P 2 4M 64k",
        "discard 5M 1M",
        "write -P 3 8388096 512",
    )
    digest = sha256_of(source)
    dirty_bytes = list_bitmaps(str(source), ANY_PATH)[0].dirty_bytes
    progress = _incremental(source, copy, destination_format)
    assert reads_same(qemu_img, source, "qcow2", copy, destination_format)
    assert dirty_bytes is not None and dirty_bytes <= progress.total_bytes == progress.moved_bytes < SIZE_BYTES
    assert sha256_of(source) == digest
    if destination_format == "qcow2":
        qemu_img.check(copy)


def test_leaves_all_else_untouched(disk_with_bitmap: Callable[..., Path], tmp_path: Path, qemu_io: Any) -> None:
    source, copy = disk_with_bitmap(), tmp_path / "copy.raw"
    copy_image(source, "qcow2", copy, "raw")
    qemu_io(source, "qcow2", "write -P 1 1M 64k", "write -z 2M 64k")
    before = bytearray(copy.read_bytes())
    before[0:512] = b"x" * 512  # what the bitmap does not mark stays, be it right or wrong
    before[7 * MIB : 7 * MIB + 512] = b"y" * 512
    copy.write_bytes(before)
    assert _incremental(source, copy, "raw").total_bytes == 128 * KIB
    before[1 * MIB : 1 * MIB + 64 * KIB] = b"\1" * (64 * KIB)
    before[2 * MIB : 2 * MIB + 64 * KIB] = b"\0" * (64 * KIB)
    assert copy.read_bytes() == before


def test_an_empty_bitmap_moves_nothing(disk_with_bitmap: Callable[..., Path], tmp_path: Path) -> None:
    source, copy = disk_with_bitmap(), tmp_path / "copy.raw"
    copy_image(source, "qcow2", copy, "raw")
    before = copy.read_bytes()
    progress = _incremental(source, copy, "raw")
    assert (progress.total_bytes, progress.read_bytes, progress.written_bytes) == (0, 0, 0)
    assert copy.read_bytes() == before


@pytest.mark.parametrize("mode", ["full", "top"])
def test_what_the_top_gave_up_goes_from_the_copy_too(tmp_path: Path, qemu_img: Any, qemu_io: Any, mode: Any) -> None:
    """A dirty granule that the top does not hold any more reads as the backing file does, in both modes."""
    base, top, copy = (tmp_path / name for name in ("base.qcow2", "top.qcow2", "copy.qcow2"))
    noisy_raw(tmp_path / "content.raw", SIZE_BYTES, [(0, 4 * MIB)])
    qemu_img("convert", "-f", "raw", "-O", "qcow2", tmp_path / "content.raw", base)
    qemu_img.create(top, "qcow2", backing=base, backing_format="qcow2")
    qemu_io(top, "qcow2", "write -P 7 1M 1M", "write -P 8 6M 1M")
    backing = {"backing_path": str(base), "backing_format": "qcow2"} if mode == "top" else {}
    copy_image(top, "qcow2", copy, "qcow2", mode=mode, **backing)
    qemu_img("bitmap", "--add", "-g", 64 * KIB, top, "b")
    qemu_io(top, "qcow2", "write -P 9 1M 64k", "write -P 10 6M 64k")
    # The base does not change and the top gives these clusters up, but the bitmap says that they changed.
    entry = qcow2.l2_offset(top)
    for offset in (1 * MIB, 6 * MIB):
        qcow2.write_u64(top, entry + offset // (64 * KIB) * 8, 0)
    _incremental(top, copy, "qcow2", mode=mode)
    assert reads_same(qemu_img, top, "qcow2", copy, "qcow2")
    qemu_img.check(copy)
    assert qemu_img.info(copy).get("full-backing-filename") == (str(base) if mode == "top" else None)


def _refused(source: Path, copy: Path, source_format: Any = "qcow2", bitmap: str = "b", **options: Any) -> EngineError:
    before = copy.read_bytes()
    with Chain([(str(source), source_format)], ANY_PATH) as chain, pytest.raises(EngineError) as refusal:
        Copy(chain, str(copy), "raw", ANY_PATH, **{"reuse": True, "bitmap": bitmap, **options})
    assert copy.read_bytes() == before
    return refusal.value


def test_refusals_name_what_is_wrong(disk_with_bitmap: Callable[..., Path], tmp_path: Path, qemu_img: Any) -> None:
    source, copy = disk_with_bitmap(), tmp_path / "copy.raw"
    copy_image(source, "qcow2", copy, "raw")
    error = _refused(source, copy, bitmap="c")
    assert (error.kind, error.reason) == ("no-bitmap", "The image has no bitmap 'c'; it has 'b'")
    assert "reuse" in _refused(source, copy, reuse=False).reason
    other = tmp_path / "other.raw"
    shutil.copy(copy, other)
    assert "raw image has no bitmaps" in _refused(copy, other, "raw").reason
    old = qemu_img.create(tmp_path / "old.qcow2", "qcow2", SIZE_BYTES, options=["compat=0.10"])
    assert "version 2 qcow2 image has no bitmaps" in _refused(old, copy).reason
    empty = qemu_img.create(tmp_path / "empty.qcow2", "qcow2", SIZE_BYTES)
    assert "nor any other" in _refused(empty, copy).reason


def test_a_bitmap_that_says_nothing_is_refused(disk_with_bitmap: Callable[..., Path], tmp_path: Path) -> None:
    source, copy = disk_with_bitmap(), tmp_path / "copy.raw"
    copy_image(source, "qcow2", copy, "raw")
    good = source.read_bytes()
    extension = qcow2.bitmaps_extension(source)
    assert extension is not None
    directory = qcow2.read_u64(source, extension + 16)

    def spoiled(offset_bytes: int, value: int) -> EngineError:
        qcow2.write_u32(source, offset_bytes, value)
        error = _refused(source, copy)
        state = list_bitmaps(str(source), ANY_PATH)[0]
        assert state.dirty_bytes is None and state.state != "usable"
        source.write_bytes(good)
        return error

    in_use = spoiled(directory + 12, 3)
    assert in_use.kind == "bitmap" and "is in use" in in_use.reason
    inconsistent = spoiled(qcow2.AUTOCLEAR_OFFSET + 4, 0)
    assert inconsistent.kind == "bitmap" and "is inconsistent" in inconsistent.reason
    other_size = spoiled(directory + 8, 2)
    assert other_size.kind == "bitmap" and "of another size" in other_size.reason


def test_an_unfinished_copy_is_refused(disk_with_bitmap: Callable[..., Path], tmp_path: Path, qemu_io: Any) -> None:
    """It lacks what no bitmap knows of, and would look complete afterwards."""
    source = disk_with_bitmap()
    for destination_format in ("raw", "qcow2"):
        copy = tmp_path / f"copy.{destination_format}"
        copy_image(source, "qcow2", copy, destination_format)
        with (
            Chain([(str(source), "qcow2")], ANY_PATH) as chain,
            Copy(chain, str(copy), destination_format, ANY_PATH, reuse=True) as begun,
        ):
            begun.cancel()
            with pytest.raises(EngineError):
                begun.run()
        if destination_format == "qcow2":
            qcow2.write_u32(copy, 0, 0x56427066)
        else:
            copy.write_bytes(copy.read_bytes()[:SIZE_BYTES] + b"virtblock: unfinished copy\n".ljust(512, b"\0"))
        with pytest.raises(EngineError, match="unfinished copy, which lacks more than a bitmap knows"):
            _incremental(source, copy, destination_format)


def test_command(
    disk_with_bitmap: Callable[..., Path], tmp_path: Path, qemu_io: Any, copy_command: Callable[..., Any]
) -> None:
    source, copy = disk_with_bitmap(), tmp_path / "copy.qcow2"
    assert copy_command(source, copy).returncode == 0
    qemu_io(source, "qcow2", "write -P 1 0 64k")
    unknown = copy_command("--reuse", "--bitmap", "c", source, copy)
    assert unknown.returncode == 1 and "has no bitmap 'c'; it has 'b'" in unknown.stderr
    done = copy_command("--reuse", "--bitmap", "b", "--verify", source, copy)
    assert done.returncode == 0 and "Copied 64.0 KiB of a 8.00 MiB disk" in done.stdout, done.stdout + done.stderr


Step = tuple[str, int, int, int]
SECTOR = 512


@st.composite
def _steps(draw: st.DrawFn, sector_count: int) -> list[Step]:
    steps = []
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, sector_count - 1))
        length = draw(st.integers(1, min(sector_count - start, 900)))
        steps.append((draw(st.sampled_from(["data", "zero", "discard"])), start, length, draw(st.integers(1, 255))))
    return steps


def _write(path: Path, steps: list[Step], qemu_io: Any) -> None:
    words = {"data": "write -P {v}", "zero": "write -z", "discard": "discard"}
    commands = [f"{words[kind].format(v=v)} {start * SECTOR} {length * SECTOR}" for kind, start, length, v in steps]
    if commands:
        qemu_io(path, "qcow2", *commands)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_writes_arrive(qemu_img: Any, qemu_io: Any, data: st.DataObject) -> None:
    """Whatever clusters, granularity, granule, mode and writes: afterwards the copy reads as the source does."""
    sector_count = data.draw(st.integers(1, 6000))
    cluster_bits, copy_bits = data.draw(st.tuples(*[st.sampled_from([9, 12, 16, 18])] * 2))
    granularity = 1 << data.draw(st.integers(9, 20))
    mode: Any = data.draw(st.sampled_from(["full", "top"]))
    with tempfile.TemporaryDirectory() as folder:
        base, top, copy = (Path(folder) / name for name in ("base", "top", "copy"))
        qemu_img.create(base, "qcow2", sector_count * SECTOR)
        _write(base, data.draw(_steps(sector_count)), qemu_io)
        qemu_img.create(
            top, "qcow2", backing=base, backing_format="qcow2", options=[f"cluster_size={1 << cluster_bits}"]
        )
        _write(top, data.draw(_steps(sector_count)), qemu_io)
        backing = {"backing_path": str(base), "backing_format": "qcow2"} if mode == "top" else {}
        copy_image(top, "qcow2", copy, "qcow2", mode=mode, cluster_size_bytes=1 << copy_bits, **backing)
        qemu_img("bitmap", "--add", "-g", granularity, top, "b")
        for _ in range(2):
            _write(top, data.draw(_steps(sector_count)), qemu_io)
        expected = qcow2.read_bitmaps(top)["b"].dirty_bytes(sector_count * SECTOR)
        assert list_bitmaps(str(top), ANY_PATH)[0].dirty_bytes == expected
        granule_bytes = data.draw(st.sampled_from([0, 4096, 64 * KIB]))
        progress = _incremental(top, copy, "qcow2", mode=mode, granule_bytes=granule_bytes)
        assert expected <= progress.total_bytes
        assert reads_same(qemu_img, top, "qcow2", copy, "qcow2")
        qemu_img.check(copy)


def test_costs_what_is_dirty(tmp_path: Path, qemu_img: Any, qemu_io: Any) -> None:
    """A large disk: nothing but what the two dirty granules hold is moved, and the rest is not looked at."""
    source, copy = tmp_path / "disk.qcow2", tmp_path / "copy.raw"
    qemu_img.create(source, "qcow2", 64 * GIB)
    qemu_img("bitmap", "--add", source, "b")
    qemu_io(source, "qcow2", "write -P 1 1G 64k", "write -P 2 40G 64k")
    with copy.open("wb") as file:
        file.truncate(64 * GIB)
    progress = _incremental(source, copy, "raw")
    assert progress.total_bytes == progress.written_bytes == 128 * KIB
    with copy.open("rb") as file:
        for offset, value in ((1 * GIB, 1), (40 * GIB, 2)):
            file.seek(offset)
            assert file.read(64 * KIB) == bytes([value]) * (64 * KIB)
