# SPDX-License-Identifier: Apache-2.0
"""Images with extended L2 entries as sources, in any place of a chain, and written in place."""

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

from virtblock.engine import Chain, EngineError, ImageWriter, resize_image

SECTOR = 512
CLUSTER_SIZES = [16 * KIB << shift for shift in range(8)]
SETTINGS = settings(max_examples=30, deadline=None)

Step = tuple[str, int, int, int]


def _options(cluster_size_bytes: int) -> list[str]:
    return ["extended_l2=on", f"cluster_size={cluster_size_bytes}"]


def _judge(qemu_img: Any, top: Path, folder: Path) -> None:
    """A raw copy and a new qcow2 image read as the chain does, and the image is of the top's kind."""
    copy_image(top, "qcow2", folder / "copy.raw", "raw")
    assert reads_same(qemu_img, top, "qcow2", folder / "copy.raw", "raw")
    copy_image(top, "qcow2", folder / "copy.qcow2", "qcow2")
    assert reads_same(qemu_img, top, "qcow2", folder / "copy.qcow2", "qcow2")
    qemu_img.check(folder / "copy.qcow2")
    assert qemu_img.info(folder / "copy.qcow2")["format-specific"]["data"]["extended-l2"] is qemu_img.info(top)[
        "format-specific"
    ]["data"].get("extended-l2", False)


@pytest.mark.parametrize("cluster_size_bytes", CLUSTER_SIZES)
def test_every_state(cluster_size_bytes: int, tmp_path: Path, qemu_img: Any, qemu_io: Any, sha256_of: Any) -> None:
    """Writes, zero writes, discards and compressed clusters, over an image of the other kind and one of the same."""
    below: dict[str, Any] = {}
    cluster = cluster_size_bytes
    for number, options in enumerate([["cluster_size=64k"], _options(cluster), _options(CLUSTER_SIZES[3])]):
        path = tmp_path / f"{number}.qcow2"
        qemu_img.create(path, "qcow2", 9 * MIB + 512, options=options, **below)
        at = number * 5 * SECTOR
        qemu_io(
            path, "qcow2",
            f"write -c -P {number + 1} 4M {2 * max(cluster, 128 * KIB)}",
            f"write -P {number + 11} {at} 512",
            f"write -P {number + 21} {256 * KIB + at} 4k",
            f"write -P {number + 31} {1 * MIB + at} 700k",
            f"write -z {1 * MIB + 64 * KIB + at} 12k",
            f"write -zu {1 * MIB + 256 * KIB + at} 200k",
            f"discard {1 * MIB + 512 * KIB} 64k",
            f"write -z {2 * MIB + number * 100 * KIB} 64k",
            f"write -P {number + 41} {9 * MIB} 512",
        )  # fmt: skip
        below = {"backing": path, "backing_format": "qcow2"}
    files = sorted(tmp_path.iterdir())
    digests = [sha256_of(file) for file in files]
    _judge(qemu_img, path, tmp_path)
    assert [sha256_of(file) for file in files] == digests


def test_many_tables(tmp_path: Path, qemu_img: Any, qemu_io: Any) -> None:
    """Runs over the ends of tables, of windows within tables, and tables that are not there."""
    sizes = {16 * KIB: 16 * MIB, 128 * KIB: 512 * MIB, 2 * MIB: 8 * GIB}
    for cluster_size_bytes, border_bytes in sizes.items():
        folder = tmp_path / str(cluster_size_bytes)
        folder.mkdir()
        path = qemu_img.create(
            folder / "disk.qcow2", "qcow2", 5 * border_bytes + 4096, options=_options(cluster_size_bytes)
        )
        places = [border_bytes, 2 * border_bytes, 4 * border_bytes]
        qemu_io(
            path, "qcow2",
            *(f"write -P {number + 1} {place - 9 * KIB} 40k" for number, place in enumerate(places)),
            f"write -z {2 * border_bytes - 512} 1k",
        )  # fmt: skip
        copy_image(path, "qcow2", folder / "copy.qcow2", "qcow2")
        qemu_img.check(folder / "copy.qcow2")
        with Chain([(str(folder / "copy.qcow2"), "qcow2")], ANY_PATH) as chain:
            extents = list(chain.map())
        assert sum(length for _, length, _, _ in extents) <= 6 * max(cluster_size_bytes, 64 * KIB)
        assert reads_same(qemu_img, path, "qcow2", folder / "copy.qcow2", "qcow2")


@st.composite
def _layers(draw: st.DrawFn) -> list[tuple[int, int, list[Step]]]:
    """1 to 3 layers, base first: (cluster size, 0 for a standard image; size in sectors; writes)."""
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        sector_count = draw(st.integers(1, 3000))
        steps = []
        for _ in range(draw(st.integers(0, 8))):
            start = draw(st.integers(0, sector_count - 1))
            length = draw(st.integers(1, min(sector_count - start, 200)))
            steps.append((draw(st.sampled_from(["data", "zero", "unmap"])), start, length, draw(st.integers(1, 255))))
        layers.append((draw(st.sampled_from([0, *CLUSTER_SIZES])), sector_count, steps))
    return layers


def _make(folder: Path, layers: list[tuple[int, int, list[Step]]], qemu_img: Any, qemu_io: Any) -> tuple[Path, bytes]:
    """The chain, and what a guest must read from it."""
    content, path = b"", folder
    below: dict[str, Any] = {}
    for number, (cluster_size_bytes, sector_count, steps) in enumerate(layers):
        path = folder / f"{number}.qcow2"
        size_bytes = sector_count * SECTOR
        options = _options(cluster_size_bytes) if cluster_size_bytes else []
        qemu_img.create(path, "qcow2", size_bytes, options=options, **below)
        disk = bytearray(content[:size_bytes].ljust(size_bytes, b"\0"))
        commands = []
        for kind, start, length, value in steps:
            at, count = start * SECTOR, length * SECTOR
            disk[at : at + count] = bytes([value if kind == "data" else 0]) * count
            flag = {"data": f"-P {value}", "zero": "-z", "unmap": "-zu"}[kind]
            commands.append(f"write {flag} {at} {count}")
        if commands:
            qemu_io(path, "qcow2", *commands)
        content, below = bytes(disk), {"backing": path, "backing_format": "qcow2"}
    return path, content


@pytest.fixture
def in_folder(tmp_path: Path) -> Callable[[], Path]:
    """A fresh folder for each example."""
    return lambda: Path(tempfile.mkdtemp(dir=tmp_path))


@SETTINGS
@given(layers=_layers(), cluster_bits=st.sampled_from([9, 12, 16, 21]))
def test_random_chain(
    layers: Any, cluster_bits: int, in_folder: Callable[[], Path], qemu_img: Any, qemu_io: Any
) -> None:
    """Read, copied whole and copied over the same backing file: always the model's bytes."""
    folder = in_folder()
    top, content = _make(folder, layers, qemu_img, qemu_io)
    with Chain([(str(top), "qcow2")], ANY_PATH) as chain:
        assert chain.read(0, len(content)) == content
        backing = chain.layers[1].path if len(chain.layers) > 1 else None
    copy_image(top, "qcow2", folder / "copy.raw", "raw")
    assert (folder / "copy.raw").read_bytes() == content
    copy_image(
        top, "qcow2", folder / "shallow", "qcow2",
        mode="top", cluster_size_bytes=1 << cluster_bits,
        backing_path=backing, backing_format=backing and "qcow2",
    )  # fmt: skip
    qemu_img.check(folder / "shallow")
    assert reads_same(qemu_img, folder / "shallow", "qcow2", folder / "copy.raw", "raw")
    shutil.rmtree(folder)


def _fill_randomly(path: Path, steps: list[Step], sector_count: int, qemu_io: Any) -> None:
    """Old content; what does not fit the disk is left out."""
    flags = {"data": "-P 238", "zero": "-z", "unmap": "-zu"}
    fitting = [step for step in steps if step[1] + step[2] <= sector_count]
    commands = [f"write {flags[kind]} {at * SECTOR} {count * SECTOR}" for kind, at, count, _ in fitting]
    if commands:
        qemu_io(path, "qcow2", *commands)


@SETTINGS
@given(layers=_layers(), old=_layers(), bits=st.integers(14, 18), shallow=st.booleans())
def test_copied_onto(
    layers: Any, old: Any, bits: int, shallow: bool, in_folder: Callable[[], Path], qemu_img: Any, qemu_io: Any
) -> None:
    """Onto an image with subclusters of every state: nothing of the old shows through, and it stays what it is."""
    folder = in_folder()
    top, content = _make(folder, layers, qemu_img, qemu_io)
    with Chain([(str(top), "qcow2")], ANY_PATH) as chain:
        backing = chain.layers[1].path if shallow and len(chain.layers) > 1 else None
    below = {"backing": backing, "backing_format": "qcow2"} if backing else {}
    path = qemu_img.create(folder / "old", "qcow2", len(content), options=_options(1 << bits), **below)
    if not backing:  # what an overlay holds already would hide its backing file
        _fill_randomly(path, old[0][2], len(content) // SECTOR, qemu_io)
    copy_image(top, "qcow2", path, "qcow2", reuse=True, mode="top" if backing else "full")
    (folder / "whole.raw").write_bytes(content)
    assert reads_same(qemu_img, path, "qcow2", folder / "whole.raw", "raw")
    qemu_img.check(path)
    assert qemu_img.info(path)["format-specific"]["data"]["extended-l2"] is True
    shutil.rmtree(folder)


WRITES = st.tuples(st.sampled_from(["data", "zero"]), st.integers(0, 63), st.integers(1, 20), st.integers(1, 255))


@SETTINGS
@given(old=_layers(), steps=st.lists(WRITES), with_backing=st.booleans(), grown=st.integers(0, 3000))
def test_written_and_grown(
    old: Any, steps: Any, with_backing: bool, grown: int, in_folder: Callable[[], Path], qemu_img: Any, qemu_io: Any
) -> None:
    """Whole clusters over partly allocated ones, and then a larger disk, over a longer backing file or none."""
    folder, cluster = in_folder(), 16 * KIB
    size_bytes = 64 * cluster
    path, below = folder / "image", {}
    if with_backing:
        backing = noisy_raw(folder / "backing.raw", 2 * size_bytes, [(0, 2 * size_bytes)])
        below = {"backing": backing, "backing_format": "raw"}
    qemu_img.create(path, "qcow2", size_bytes, options=_options(cluster), **below)
    _fill_randomly(path, old[0][2], size_bytes // SECTOR, qemu_io)
    with Chain([(str(path), "qcow2")], ANY_PATH) as chain:
        content = bytearray(chain.read(0, size_bytes))
    with ImageWriter(str(path), "qcow2", ANY_PATH) as writer:
        for kind, start, length, value in steps:
            at, count = start * cluster, min(length, 64 - start) * cluster
            content[at : at + count] = bytes([value if kind == "data" else 0]) * count
            if kind == "data":
                writer.write(at, content[at : at + count])
            else:
                writer.zero(at, count)
    resize_image(str(path), "qcow2", size_bytes + grown * SECTOR, ANY_PATH)
    (folder / "whole.raw").write_bytes(content + bytes(grown * SECTOR))
    assert reads_same(qemu_img, path, "qcow2", folder / "whole.raw", "raw")
    qemu_img.check(path)
    shutil.rmtree(folder)


@pytest.mark.parametrize("end_bytes", [512, 3 * KIB, 5 * KIB + 512, 63 * KIB])
def test_grown_within_a_cluster(end_bytes: int, tmp_path: Path, qemu_img: Any, qemu_io: Any) -> None:
    """The subclusters behind the old end do not show the backing file; one that the end cuts would, and is refused."""
    backing = noisy_raw(tmp_path / "backing.raw", 1 * MIB, [(0, 1 * MIB)])
    path = qemu_img.create(
        tmp_path / "image", "qcow2", end_bytes, backing=backing, backing_format="raw", options=_options(64 * KIB)
    )
    if end_bytes % (2 * KIB):
        with pytest.raises(EngineError, match="ends within a cluster"):
            resize_image(str(path), "qcow2", 1 * MIB, ANY_PATH)
        qemu_io(path, "qcow2", f"write -P 3 {end_bytes - 512} 512")
    with Chain([(str(path), "qcow2")], ANY_PATH) as chain:
        before = chain.read(0, end_bytes)
    resize_image(str(path), "qcow2", 1 * MIB, ANY_PATH)
    (tmp_path / "whole.raw").write_bytes(before.ljust(1 * MIB, b"\0"))
    assert reads_same(qemu_img, path, "qcow2", tmp_path / "whole.raw", "raw")
    qemu_img.check(path)
