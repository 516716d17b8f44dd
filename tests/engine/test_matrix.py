# SPDX-License-Identifier: Apache-2.0
"""Every kind of source copied in every way, judged by qemu: same content, a clean image, the right backing file."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import (
    ANY_PATH,
    KINDS,
    Source,
    SourceMaker,
    copy_image,
    noisy_raw,
    own_bytes,
    reads_same,
    set_length,
)

from virtblock.engine import Chain, compare


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, source_of: SourceMaker) -> Source:
    """One source of each kind."""
    return source_of(request.param)


@pytest.fixture
def judge(qemu_img: Any, is_untouched: Callable[[Source], bool]) -> Callable[..., None]:
    """Asserts that a destination shows a guest what the source does and is a sound image of its format."""

    def check(source: Source, path: Path, image_format: str) -> None:
        assert reads_same(qemu_img, source.path, source.format, path, image_format)
        assert is_untouched(source)
        info = qemu_img.info(path, image_format=image_format)
        if image_format == "qcow2":
            qemu_img.check(path)
            assert info["virtual-size"] == source.size_bytes
            assert info["dirty-flag"] is False
            assert info["format-specific"]["data"].get("corrupt", False) is False
        else:
            assert path.stat().st_size == source.size_bytes
        assert [leftover.name for leftover in path.parent.iterdir() if "partial" in leftover.name] == []

    return check


def test_flat(source: Source, tmp_path: Path, judge: Any, qemu_img: Any) -> None:
    """A new destination in the source's format, the whole chain in it, no backing file."""
    destination = tmp_path / "copy"
    copy_image(source.path, source.format, destination, source.format)
    judge(source, destination, source.format)
    info = qemu_img.info(destination, image_format=source.format)
    assert "backing-filename" not in info
    if source.format == "qcow2":
        of_source = qemu_img.info(source.path, image_format="qcow2")
        assert info["cluster-size"] == of_source["cluster-size"]
        assert info["format-specific"]["data"]["compat"] == "1.1"
    else:
        assert filecmp.cmp(source.path, destination, shallow=False)
    assert destination.stat().st_mode & 0o777 == 0o600


def test_raw(source: Source, tmp_path: Path, judge: Any) -> None:
    """A new raw destination."""
    destination = tmp_path / "copy.raw"
    copy_image(source.path, source.format, destination, "raw")
    judge(source, destination, "raw")


def test_raw_is_sparse(source: Source, tmp_path: Path, qemu_img: Any) -> None:
    """What the source does not hold takes no room: no more than qemu-img's own copy occupies, to a page per piece."""
    destination, by_qemu = tmp_path / "copy.raw", tmp_path / "qemu.raw"
    copy_image(source.path, source.format, destination, "raw")
    qemu_img("convert", "-f", source.format, "-O", "raw", source.path, by_qemu)
    assert destination.stat().st_blocks * 512 <= by_qemu.stat().st_blocks * 512 + 64 * 1024


@pytest.mark.parametrize("cluster_size_bytes", [512, 4096, 65536, 2 * 1024 * 1024])
def test_chain_to_any_cluster_size(
    cluster_size_bytes: int, source_of: SourceMaker, tmp_path: Path, judge: Any, qemu_img: Any
) -> None:
    """The destination's clusters need not be the source's."""
    source = source_of("chain")
    destination = tmp_path / "copy.qcow2"
    copy_image(source.path, source.format, destination, "qcow2", cluster_size_bytes=cluster_size_bytes)
    judge(source, destination, "qcow2")
    assert qemu_img.info(destination)["cluster-size"] == cluster_size_bytes


@pytest.mark.parametrize("kind", ["raw", "qcow2-512", "zlib", "chain"])
def test_raw_source_to_qcow2(kind: str, source_of: SourceMaker, tmp_path: Path, judge: Any) -> None:
    """qcow2 from whatever source, with the default cluster size where the source has none."""
    source = source_of(kind)
    destination = tmp_path / "copy.qcow2"
    copy_image(source.path, source.format, destination, "qcow2")
    judge(source, destination, "qcow2")


def test_odd_raw_source_to_qcow2(source_of: SourceMaker, tmp_path: Path, qemu_img: Any) -> None:
    """qcow2 holds whole sectors: the copy is as long as qemu takes the raw disk to be, and ends in zeros."""
    source = source_of("raw-odd")
    destination = tmp_path / "copy.qcow2"
    copy_image(source.path, "raw", destination, "qcow2")
    qemu_img.check(destination)
    assert reads_same(qemu_img, source.path, "raw", destination, "qcow2")
    with Chain([(str(source.path), "raw")], ANY_PATH) as left, Chain([(str(destination), "qcow2")], ANY_PATH) as right:
        assert right.size_bytes == -(-left.size_bytes // 512) * 512
        assert right.read(0, left.size_bytes) == source.path.read_bytes()
        assert compare(left, right, pad=True) is None


def test_shallow(source: Source, tmp_path: Path, judge: Any, qemu_img: Any) -> None:
    """Only the top image is copied, over the same backing file; without one it is a plain copy."""
    destination = tmp_path / "copy"
    if source.backing is None:
        copy_image(source.path, source.format, destination, source.format, mode="top")
        judge(source, destination, source.format)
        return
    backing = str(source.backing)
    copy_image(
        source.path, source.format, destination, "qcow2",
        mode="top", backing_path=backing, backing_format=source.backing_format,
    )  # fmt: skip
    judge(source, destination, "qcow2")
    info = qemu_img.info(destination)
    assert info["backing-filename"] == backing
    assert info["backing-filename-format"] == source.backing_format
    assert own_bytes(qemu_img, destination) <= own_bytes(qemu_img, source.path)


@pytest.fixture
def full_of_garbage(tmp_path: Path, qemu_img: Any) -> Callable[[str, int], Path]:
    """A destination to reuse: every byte of it is noise that the copy must replace."""

    def make(image_format: str, size_bytes: int) -> Path:
        raw = noisy_raw(tmp_path / "garbage.raw", size_bytes, [(0, size_bytes)])
        if image_format == "raw":
            return raw
        path = tmp_path / "garbage.qcow2"
        qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, path)
        raw.unlink()
        return path

    return make


def test_reuse(source: Source, judge: Any, full_of_garbage: Any) -> None:
    """An existing image of the source's format is overwritten in place, zeros included."""
    destination = full_of_garbage(source.format, source.size_bytes)
    inode = destination.stat().st_ino
    copy_image(source.path, source.format, destination, source.format, reuse=True)
    judge(source, destination, source.format)
    assert destination.stat().st_ino == inode


def test_reuse_empty(source: Source, tmp_path: Path, judge: Any, make_image: Any) -> None:
    """An existing image with nothing in it, as a control plane makes it beforehand."""
    destination = make_image(tmp_path / "copy", source.format, source.size_bytes)
    if source.format == "raw":
        set_length(destination, source.size_bytes)
    copy_image(source.path, source.format, destination, source.format, reuse=True)
    judge(source, destination, source.format)


def test_reuse_raw(source: Source, judge: Any, full_of_garbage: Any) -> None:
    """An existing raw file."""
    destination = full_of_garbage("raw", source.size_bytes)
    copy_image(source.path, source.format, destination, "raw", reuse=True)
    judge(source, destination, "raw")


def test_reuse_twice(source: Source, judge: Any, full_of_garbage: Any) -> None:
    """A second copy onto the first one's result neither leaks clusters nor changes what it reads as."""
    destination = full_of_garbage(source.format, source.size_bytes)
    for _ in range(2):
        copy_image(source.path, source.format, destination, source.format, reuse=True)
    judge(source, destination, source.format)


def test_reuse_shallow(source: Source, tmp_path: Path, judge: Any, qemu_img: Any, make_image: Any) -> None:
    """An existing overlay of the source's backing file gets the top's content; its backing name stays as it is."""
    destination = tmp_path / "overlay"
    if source.backing is None:
        make_image(destination, source.format, source.size_bytes)
        if source.format == "raw":
            set_length(destination, source.size_bytes)
        copy_image(source.path, source.format, destination, source.format, mode="top", reuse=True)
        judge(source, destination, source.format)
        return
    name = os.path.relpath(source.backing, tmp_path)
    make_image(destination, "qcow2", source.size_bytes, backing=name, backing_format=source.backing_format)
    copy_image(source.path, source.format, destination, "qcow2", mode="top", reuse=True)
    judge(source, destination, "qcow2")
    assert qemu_img.info(destination)["backing-filename"] == name
    assert own_bytes(qemu_img, destination) > 0


def test_reuse_shallow_raw(source: Source, tmp_path: Path, judge: Any, qemu_img: Any) -> None:
    """A raw volume that holds the backing file's content already gets only the top image's."""
    destination = tmp_path / "volume.raw"
    if source.backing is None:
        destination.touch()
    else:
        qemu_img("convert", "-f", source.backing_format, "-O", "raw", source.backing, destination)
    set_length(destination, source.size_bytes)
    copy_image(source.path, source.format, destination, "raw", mode="top", reuse=True)
    judge(source, destination, "raw")
