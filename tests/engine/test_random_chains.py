# SPDX-License-Identifier: Apache-2.0
"""Chains with random writes, whose content is known as plain bytes: every reading and every copy must show those."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, KIB, copy_image, own_bytes, reads_same
from hypothesis import given, settings
from hypothesis import strategies as st

from virtblock.engine import Chain, EngineError, ImageWriter, create_image

SECTOR = 512
SECTORS_MAX = 3000

Step = tuple[str, int, int, int]


@st.composite
def _layers(draw: st.DrawFn) -> list[tuple[int, int, list[Step]]]:
    """1 to 4 layers, base first: (cluster bits, size in sectors, writes)."""
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        sector_count = draw(st.integers(1, SECTORS_MAX))
        steps = []
        for _ in range(draw(st.integers(0, 5))):
            start = draw(st.integers(0, sector_count - 1))
            length = draw(st.integers(1, min(sector_count - start, 700)))
            steps.append((draw(st.sampled_from(["data", "zero", "unmap"])), start, length, draw(st.integers(1, 255))))
        layers.append((draw(st.sampled_from([9, 10, 12, 14, 16, 18])), sector_count, steps))
    return layers


class Model:
    """A chain made by qemu, and the bytes that a guest reads from its top."""

    def __init__(self, folder: Path, layers: list[tuple[int, int, list[Step]]], qemu_img: Any, qemu_io: Any) -> None:
        self.content = b""
        self.top: Path = folder
        self.top_format = "qcow2"
        for number, (cluster_bits, sector_count, steps) in enumerate(layers):
            # A base of small clusters is drawn as raw now and then: its size and holes are of another kind.
            is_raw = number == 0 and cluster_bits == 10
            path = folder / f"{number}.{'raw' if is_raw else 'qcow2'}"
            options = [] if is_raw else [f"cluster_size={1 << cluster_bits}"]
            below = {"backing": self.top, "backing_format": self.top_format} if number else {}
            self.top_format = "raw" if is_raw else "qcow2"
            qemu_img.create(path, self.top_format, sector_count * SECTOR, options=options, **below)
            self.top = path
            self._write(sector_count * SECTOR, steps, qemu_io)

    def _write(self, size_bytes: int, steps: list[Step], qemu_io: Any) -> None:
        disk = bytearray(self.content[:size_bytes].ljust(size_bytes, b"\0"))
        commands = []
        for kind, start, length, value in steps:
            at, count = start * SECTOR, length * SECTOR
            disk[at : at + count] = bytes([value if kind == "data" else 0]) * count
            flag = {"data": f"-P {value}", "zero": "-z", "unmap": "-zu"}[kind]
            commands.append(f"write {flag} {at} {count}")
        if commands:
            qemu_io(self.top, self.top_format, *commands)
        self.content = bytes(disk)


@pytest.fixture
def in_folder(tmp_path: Path) -> Callable[[], Path]:
    """A fresh folder for each example."""
    return lambda: Path(tempfile.mkdtemp(dir=tmp_path))


SETTINGS = settings(max_examples=25, deadline=None)


@SETTINGS
@given(layers=_layers(), cluster_bits=st.sampled_from([9, 12, 16, 21]), piece=st.tuples(st.integers(0), st.integers(0)))
def test_content(
    layers: Any, cluster_bits: int, piece: tuple[int, int], in_folder: Callable[[], Path], qemu_img: Any, qemu_io: Any
) -> None:
    """read(), a raw copy and a qcow2 copy with other clusters all give the model's bytes."""
    folder = in_folder()
    model = Model(folder, layers, qemu_img, qemu_io)
    size = len(model.content)
    with Chain([(str(model.top), model.top_format)], ANY_PATH) as chain:  # type: ignore[list-item]
        assert chain.size_bytes == size
        assert chain.read(0, size) == model.content
        start = piece[0] % size
        length = piece[1] % (size - start) + 1
        assert chain.read(start, length) == model.content[start : start + length]
        _check_plan(chain, model.content)
    copy_image(model.top, model.top_format, folder / "copy.raw", "raw")
    assert (folder / "copy.raw").read_bytes() == model.content
    copy_image(model.top, model.top_format, folder / "copy", "qcow2", cluster_size_bytes=1 << cluster_bits)
    qemu_img.check(folder / "copy")
    assert reads_same(qemu_img, folder / "copy", "qcow2", folder / "copy.raw", "raw")
    shutil.rmtree(folder)


def _check_plan(chain: Chain, content: bytes) -> None:
    """The full plan ascends without overlap, and what it leaves out is zero."""
    at = 0
    for start, length, kind, layer_index in chain.map():
        assert start >= at
        assert length > 0
        assert kind in ("data", "compressed")
        assert 0 <= layer_index < len(chain.layers)
        assert not any(content[at:start])
        at = start + length
    assert at <= len(content)
    assert not any(content[at:])


@SETTINGS
@given(layers=_layers(), cluster_bits=st.sampled_from([9, 12, 16]))
def test_shallow(layers: Any, cluster_bits: int, in_folder: Callable[[], Path], qemu_img: Any, qemu_io: Any) -> None:
    """A copy of the top over the same backing file reads as the whole, whatever its clusters are."""
    folder = in_folder()
    model = Model(folder, layers, qemu_img, qemu_io)
    (folder / "whole.raw").write_bytes(model.content)
    with Chain([(str(model.top), model.top_format)], ANY_PATH) as chain:  # type: ignore[list-item]
        below = chain.layers[1] if len(chain.layers) > 1 else None
    copy_image(
        model.top, model.top_format, folder / "copy", "qcow2",
        mode="top", cluster_size_bytes=1 << cluster_bits,
        backing_path=below and below.path, backing_format=below and below.format,
    )  # fmt: skip
    qemu_img.check(folder / "copy")
    assert reads_same(qemu_img, folder / "copy", "qcow2", folder / "whole.raw", "raw")
    if below is not None:
        room = own_bytes(qemu_img, model.top) + _room_for_edges(layers[-1], cluster_bits)
        assert own_bytes(qemu_img, folder / "copy") <= room
    shutil.rmtree(folder)


def _room_for_edges(layer: tuple[int, int, list[Step]], cluster_bits: int) -> int:
    """Each end of each piece may fill the larger cluster that it touches."""
    return 2 * (len(layer[2]) + 1) * max(1 << cluster_bits, 1 << layer[0])


@SETTINGS
@given(layers=_layers(), old=_layers(), as_raw=st.booleans())
def test_reuse(layers: Any, old: Any, as_raw: bool, in_folder: Callable[[], Path], qemu_img: Any, qemu_io: Any) -> None:
    """Onto an image with old content of its own, nothing of the old shows through."""
    folder = in_folder()
    model = Model(folder, layers, qemu_img, qemu_io)
    cluster_bits, _, steps = old[0]
    sector_count = len(model.content) // SECTOR
    kept = [step for step in steps if step[1] + step[2] <= sector_count]
    place = folder / "old"
    place.mkdir()
    reused = Model(place, [(10 if as_raw else max(cluster_bits, 12), sector_count, kept)], qemu_img, qemu_io)
    copy_image(model.top, model.top_format, reused.top, reused.top_format, reuse=True)
    (folder / "whole.raw").write_bytes(model.content)
    assert reads_same(qemu_img, reused.top, reused.top_format, folder / "whole.raw", "raw")
    if reused.top_format == "qcow2":
        qemu_img.check(reused.top)
    shutil.rmtree(folder)


WRITES = st.tuples(st.sampled_from(["data", "zero"]), st.integers(0, 63), st.integers(1, 20), st.integers(1, 255))


@SETTINGS
@given(steps=st.lists(WRITES))
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_image_writer(image_format: Any, steps: list[Step], in_folder: Callable[[], Path], qemu_img: Any) -> None:
    """Writes through the engine, over and over each other, leave what a byte array says and a clean image."""
    folder, cluster = in_folder(), 4 * KIB
    size = 64 * cluster
    content = bytearray(size)
    path = folder / "image"
    create_image(str(path), image_format, size, ANY_PATH, cluster_size_bytes=cluster)
    with ImageWriter(str(path), image_format, ANY_PATH) as writer:
        for kind, start, length, value in steps:
            at, count = start * cluster, min(length, 64 - start) * cluster
            content[at : at + count] = bytes([value if kind == "data" else 0]) * count
            if kind == "data":
                writer.write(at, content[at : at + count])
            else:
                writer.zero(at, count)
    (folder / "whole.raw").write_bytes(content)
    assert reads_same(qemu_img, path, image_format, folder / "whole.raw", "raw")
    if image_format == "qcow2":
        qemu_img.check(path)
    shutil.rmtree(folder)


def test_reading_beyond_the_end(tmp_path: Path, make_image: Any) -> None:
    """A range must lie in the disk."""
    path = make_image(tmp_path / "disk.qcow2", "qcow2", 1024 * KIB)
    with Chain([(str(path), "qcow2")], ANY_PATH) as chain:
        assert chain.read(1024 * KIB, 0) == b""
        for start, length in ((1024 * KIB, 1), (0, 1024 * KIB + 1), (-1, 1), (0, -1)):
            with pytest.raises(EngineError) as caught:
                chain.read(start, length)
            assert caught.value.kind == "invalid"
