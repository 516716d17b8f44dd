# SPDX-License-Identifier: Apache-2.0
"""Making, growing, writing and inspecting images, each judged by qemu."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, KIB, MIB, TIB, SourceMaker, copy_image, noise, reads_same

from virtblock.engine import Chain, EngineError, ImageWriter, create_image, inspect, probe, resize_image


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("size_bytes", [0, 512, MIB, 10 * MIB + 512, 2 * TIB])
def test_create(image_format: Any, size_bytes: int, tmp_path: Path, qemu_img: Any) -> None:
    """An empty, sparse, private image of exactly that size."""
    path = tmp_path / "new"
    create_image(str(path), image_format, size_bytes, ANY_PATH)
    assert qemu_img.info(path, image_format=image_format)["virtual-size"] == size_bytes
    if image_format == "qcow2":
        qemu_img.check(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_blocks * 512 < 2 * MIB
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("cluster_size_bytes", [512, 4096, 65536, 2 * MIB])
def test_create_with_cluster_size(cluster_size_bytes: int, tmp_path: Path, qemu_img: Any, qemu_io: Any) -> None:
    """qemu writes into it as into its own, and it stays clean."""
    path = tmp_path / "new.qcow2"
    create_image(str(path), "qcow2", 8 * MIB, ANY_PATH, cluster_size_bytes=cluster_size_bytes)
    info = qemu_img.info(path)
    assert info["cluster-size"] == cluster_size_bytes
    assert info["format-specific"]["data"]["compat"] == "1.1"
    qemu_io(path, "qcow2", "write -P 9 1M 3M", "read -P 9 1M 3M", "read -P 0 0 1M")
    qemu_img.check(path)


@pytest.mark.parametrize("name", ["base.qcow2", None])
def test_create_overlay(name: str | None, tmp_path: Path, make_image: Any, qemu_img: Any) -> None:
    """The backing file's name is recorded as given, relative or absolute, with its format, and qemu finds it."""
    base = make_image(tmp_path / "base.qcow2", "qcow2", 4 * MIB, writes=[(0, 1 * MIB, 5)])
    path = tmp_path / "top.qcow2"
    recorded = name or str(base)
    create_image(str(path), "qcow2", 4 * MIB, ANY_PATH, backing_path=recorded, backing_format="qcow2")
    info = qemu_img.info(path)
    assert (info["backing-filename"], info["backing-filename-format"]) == (recorded, "qcow2")
    assert info["full-backing-filename"] == str(base)
    assert reads_same(qemu_img, base, "qcow2", path, "qcow2")
    with Chain([(str(path), "qcow2")], ANY_PATH) as chain:
        assert [layer.path for layer in chain.layers] == [str(path), str(base)]


def test_create_keeps_what_exists(tmp_path: Path) -> None:
    """A path that exists, even empty or as a link to nothing, is refused and kept."""
    path = tmp_path / "there"
    for prepare in (lambda: path.write_bytes(b"precious"), path.touch, lambda: path.symlink_to("nowhere")):
        prepare()
        with pytest.raises(EngineError) as caught:
            create_image(str(path), "qcow2", MIB, ANY_PATH)
        assert caught.value.kind in ("exists", "system")
        assert str(path) in str(caught.value)
        assert [entry.name for entry in tmp_path.iterdir()] == ["there"]
        path.unlink()


@pytest.mark.parametrize(
    "options",
    [
        {"cluster_size_bytes": 256},
        {"cluster_size_bytes": 4 * MIB},
        {"cluster_size_bytes": 5000},
        {"backing_path": "x" * 2000, "backing_format": "raw"},
        {"backing_path": "", "backing_format": "raw"},
        {"backing_path": "base", "backing_format": "vmdk"},
    ],
)
def test_create_refuses(options: dict[str, Any], tmp_path: Path) -> None:
    """What qcow2 cannot express; nothing is made."""
    with pytest.raises(EngineError) as caught:
        create_image(str(tmp_path / "new"), "qcow2", MIB, ANY_PATH, **options)
    assert caught.value.kind == "invalid"
    assert list(tmp_path.iterdir()) == []


def test_create_refuses_raw_with_backing(tmp_path: Path) -> None:
    """Raw has no place to record it."""
    with pytest.raises(EngineError) as caught:
        create_image(str(tmp_path / "new"), "raw", MIB, ANY_PATH, backing_path="b", backing_format="raw")
    assert caught.value.kind == "invalid"


def test_create_refuses_a_disk_too_large_for_its_clusters(tmp_path: Path) -> None:
    """The first-level table has a limit; the error says what to do."""
    with pytest.raises(EngineError) as caught:
        create_image(str(tmp_path / "new"), "qcow2", 64 * TIB, ANY_PATH, cluster_size_bytes=512)
    assert caught.value.kind == "invalid"
    assert "larger clusters" in caught.value.reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("size_bytes", [8 * MIB, 9 * MIB + 512, 600 * MIB, 5 * TIB])
def test_grow(image_format: Any, size_bytes: int, tmp_path: Path, make_image: Any, qemu_img: Any) -> None:
    """The old content stays, the new part is zeros, qemu finds it clean."""
    path = make_image(tmp_path / "disk", image_format, 8 * MIB, writes=[(0, 8 * MIB, 0x5A)])
    resize_image(str(path), image_format, size_bytes, ANY_PATH)
    assert qemu_img.info(path, image_format=image_format)["virtual-size"] == size_bytes
    if image_format == "qcow2":
        qemu_img.check(path)
    with Chain([(str(path), image_format)], ANY_PATH) as chain:
        assert chain.read(0, 8 * MIB) == b"\x5a" * 8 * MIB
        tail = min(size_bytes - 8 * MIB, MIB)
        assert chain.read(8 * MIB, tail) == bytes(tail)


def test_grow_over_a_longer_backing_file(tmp_path: Path, make_image: Any, qemu_img: Any) -> None:
    """What lies in the backing file behind the overlay's old end must not appear."""
    base = make_image(tmp_path / "base.qcow2", "qcow2", 4 * MIB, writes=[(0, 4 * MIB, 0x5A)])
    top = make_image(tmp_path / "top.qcow2", "qcow2", 1 * MIB, backing=base, backing_format="qcow2")
    resize_image(str(top), "qcow2", 3 * MIB, ANY_PATH)
    with Chain([(str(top), "qcow2")], ANY_PATH) as chain:
        assert chain.read(0, 1 * MIB) == b"\x5a" * MIB
        assert chain.read(1 * MIB, 2 * MIB) == bytes(2 * MIB)
    qemu_img.check(top)


def test_shrink(tmp_path: Path, make_image: Any) -> None:
    """Only raw; a qcow2 is refused unharmed."""
    raw = make_image(tmp_path / "disk.raw", "raw", 8 * MIB)
    resize_image(str(raw), "raw", 3 * MIB + 1, ANY_PATH)
    assert raw.stat().st_size == 3 * MIB + 1
    qcow2 = make_image(tmp_path / "disk.qcow2", "qcow2", 8 * MIB)
    before = qcow2.read_bytes()
    with pytest.raises(EngineError) as caught:
        resize_image(str(qcow2), "qcow2", 3 * MIB, ANY_PATH)
    assert caught.value.kind == "unsupported"
    assert qcow2.read_bytes() == before


def test_grow_image_with_snapshots(tmp_path: Path, make_image: Any, qemu_img: Any, sha256_of: Any) -> None:
    """An internal snapshot keeps its own size; such an image is refused, unharmed."""
    path = make_image(tmp_path / "disk.qcow2", "qcow2", 8 * MIB, writes=[(0, 1 * MIB, 7)])
    qemu_img("snapshot", "-c", "before", path)
    before = sha256_of(path)
    with pytest.raises(EngineError) as caught:
        resize_image(str(path), "qcow2", 900 * MIB, ANY_PATH)
    assert caught.value.kind == "unsupported"
    assert "snapshot" in caught.value.reason
    assert sha256_of(path) == before
    assert inspect(str(path), "qcow2", ANY_PATH).snapshot_count == 1


def test_writer_raw_anywhere(tmp_path: Path, make_image: Any) -> None:
    """Any byte of a raw image, and only those."""
    path = make_image(tmp_path / "disk.raw", "raw", 1 * MIB)
    with ImageWriter(str(path), "raw", ANY_PATH) as writer:
        writer.write(777, b"hello")
        writer.write(1 * MIB - 1, bytearray(b"!"))
        writer.write(5000, memoryview(noise(100, 1)))
        writer.zero(5010, 20)
        writer.write(0, b"")
    expected = bytearray(1 * MIB)
    expected[777:782] = b"hello"
    expected[-1:] = b"!"
    expected[5000:5100] = noise(100, 1)
    expected[5010:5030] = bytes(20)
    assert path.read_bytes() == expected


PARTS = [(512, 64 * KIB), (0, 512), (64 * KIB, 100), (1 * MIB, 1), (960 * KIB, 128 * KIB)]


@pytest.mark.parametrize(("offset", "length"), PARTS)
def test_writer_refuses_parts_of_clusters(offset: int, length: int, tmp_path: Path, make_image: Any) -> None:
    """qcow2 is written in whole clusters, within the disk."""
    path = make_image(tmp_path / "disk.qcow2", "qcow2", 1 * MIB)
    with ImageWriter(str(path), "qcow2", ANY_PATH) as writer:
        with pytest.raises(EngineError) as caught:
            writer.write(offset, bytes(length))
        assert caught.value.kind == "invalid"
        with pytest.raises(EngineError) as caught:
            writer.zero(offset, length)
        assert caught.value.kind == "invalid"


def test_writer_over_a_backing_file(tmp_path: Path, make_image: Any, qemu_img: Any) -> None:
    """Zeros hide what lies below, and the image below is untouched."""
    base = make_image(tmp_path / "base.qcow2", "qcow2", 1 * MIB, writes=[(0, 1 * MIB, 0x5A)])
    before = base.read_bytes()
    top = make_image(tmp_path / "top.qcow2", "qcow2", backing=base, backing_format="qcow2")
    with ImageWriter(str(top), "qcow2", ANY_PATH) as writer:
        writer.zero(64 * KIB, 128 * KIB)
        writer.write(512 * KIB, b"\x66" * 64 * KIB)
    expected = bytearray(b"\x5a" * MIB)
    expected[64 * KIB : 192 * KIB] = bytes(128 * KIB)
    expected[512 * KIB : 576 * KIB] = b"\x66" * 64 * KIB
    (tmp_path / "whole.raw").write_bytes(expected)
    assert reads_same(qemu_img, top, "qcow2", tmp_path / "whole.raw", "raw")
    qemu_img.check(top)
    assert base.read_bytes() == before


def test_writer_into_image_with_snapshot(tmp_path: Path, make_image: Any, qemu_img: Any) -> None:
    """Clusters that a snapshot shares are not written in place: the snapshot still reads as before."""
    path = make_image(tmp_path / "disk.qcow2", "qcow2", 1 * MIB, writes=[(0, 1 * MIB, 0x11)])
    qemu_img("snapshot", "-c", "old", path)
    with ImageWriter(str(path), "qcow2", ANY_PATH) as writer:
        writer.write(0, b"\x22" * 128 * KIB)
    qemu_img.check(path)
    qemu_img("convert", "-l", "old", "-f", "qcow2", "-O", "raw", path, tmp_path / "old.raw")
    assert (tmp_path / "old.raw").read_bytes() == b"\x11" * MIB
    copy_image(path, "qcow2", tmp_path / "new.raw", "raw")
    assert (tmp_path / "new.raw").read_bytes() == b"\x22" * 128 * KIB + b"\x11" * (MIB - 128 * KIB)


def test_writer_that_was_not_closed(tmp_path: Path, make_image: Any, qemu_img: Any) -> None:
    """Leaked clusters at most: it opens, and reads right where it was not written."""
    path = make_image(tmp_path / "disk.qcow2", "qcow2", 1 * MIB, writes=[(512 * KIB, 64 * KIB, 0x11)])
    writer = ImageWriter(str(path), "qcow2", ANY_PATH)
    writer.write(0, b"\x22" * 64 * KIB)
    del writer
    done = qemu_img("check", "-q", "-f", "qcow2", path, check=False)
    assert done.returncode in (0, 3)
    with Chain([(str(path), "qcow2")], ANY_PATH) as chain:
        assert chain.read(512 * KIB, 64 * KIB) == b"\x11" * 64 * KIB


@pytest.mark.parametrize("kind", ["raw", "raw-odd", "qcow2-v2", "qcow2-512", "qcow2-2m", "zstd", "zlib", "chain"])
def test_inspect(kind: str, source_of: SourceMaker, qemu_img: Any) -> None:
    """What the image says of itself is what qemu-img says of it."""
    source = source_of(kind)
    info = inspect(str(source.path), source.format, ANY_PATH)  # type: ignore[arg-type]
    status = source.path.stat()
    assert (info.path, info.format) == (str(source.path), source.format)
    assert (info.virtual_size_bytes, info.file_size_bytes) == (source.size_bytes, status.st_size)
    assert info.allocated_bytes == status.st_blocks * 512
    assert (info.device, info.inode, info.is_block_device) == (status.st_dev, status.st_ino, False)
    if source.format == "raw":
        assert (info.cluster_size_bytes, info.version, info.backing_path) == (0, 0, None)
        return
    said = qemu_img.info(source.path)
    data = said["format-specific"]["data"]
    assert info.cluster_size_bytes == said["cluster-size"]
    assert info.version == {"0.10": 2, "1.1": 3}[data["compat"]]
    assert info.compression == data["compression-type"]
    assert info.refcount_bits == data["refcount-bits"]
    assert (info.backing_path, info.backing_format) == (
        said.get("backing-filename"), said.get("backing-filename-format"),
    )  # fmt: skip
    assert (info.snapshot_count, info.is_dirty, info.is_corrupt) == (0, False, False)


def test_chain_from_a_definition(source_of: SourceMaker) -> None:
    """Layers given from the top, all or some; `terminated` hides what lies below; a wrong one is refused."""
    source = source_of("chain")
    files = [(str(path), "qcow2") for path in source.digests]
    for count in (1, 2, 3):
        with Chain(files[:count], ANY_PATH) as chain:  # type: ignore[arg-type]
            assert [layer.path for layer in chain.layers] == [path for path, _ in files]
    with Chain(files[:1], ANY_PATH, terminated=True) as chain:  # type: ignore[arg-type]
        assert len(chain.layers) == 1
    with pytest.raises(EngineError) as caught:
        Chain([files[0], files[2]], ANY_PATH)  # type: ignore[list-item]
    assert caught.value.kind == "backing"


@pytest.mark.parametrize("kind", ["raw", "qcow2-v3", "chain", "zero-clusters", "empty", "zlib"])
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_required_bytes_is_an_upper_bound(kind: str, image_format: Any, source_of: SourceMaker, tmp_path: Path) -> None:
    """What a copy occupies is never more than was said, and not far less for data without zeros."""
    source = source_of(kind)
    with Chain([(str(source.path), source.format)], ANY_PATH) as chain:  # type: ignore[list-item]
        required = chain.required_bytes(image_format)
    copy_image(source.path, source.format, tmp_path / "copy", image_format, cluster_size_bytes=65536)
    occupied = (tmp_path / "copy").stat().st_blocks * 512
    # A file system may count a block or two of its own to a file of many pieces.
    assert occupied <= required + 16 * KIB
    assert required <= source.size_bytes + MIB


def test_map_of_the_top(source_of: SourceMaker) -> None:
    """In top mode only what the top image says is listed, whole clusters of it, zeros too."""
    with Chain([(str(source_of("zero-clusters").path), "qcow2")], ANY_PATH) as chain:
        rows = chain.map("top")
    assert {kind for _, _, kind, _ in rows} == {"data", "zero"}
    assert sum(length for _, length, kind, _ in rows if kind == "zero") == 2 * MIB + 384 * KIB
    assert sum(length for _, length, kind, _ in rows if kind == "data") == 128 * KIB


def test_probe_follows_policy_only(tmp_path: Path) -> None:
    """Probing reads a file's first bytes and nothing else of it."""
    path = tmp_path / "x"
    path.write_bytes(b"QFI\xfb" + bytes(100))
    assert probe(str(path), ANY_PATH) == "qcow2"
    os.truncate(path, 4)
    assert probe(str(path), ANY_PATH) == "qcow2"
