# SPDX-License-Identifier: Apache-2.0
"""Random backing chains made by qemu, of images of every kind, whose content is known as plain bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

SECTOR = 512
SECTORS_MAX = 3000


class Write(NamedTuple):
    """One write of a guest, in sectors."""

    kind: str  # data, zero, unmap, compressed
    start: int
    length: int
    value: int


class Layer(NamedTuple):
    """One image: how it is made, and what is written to it."""

    kind: str  # raw, v2, v3, extended
    cluster_bits: int
    sector_count: int
    writes: tuple[Write, ...]

    @property
    def image_format(self) -> str:
        return "raw" if self.kind == "raw" else "qcow2"

    @property
    def options(self) -> list[str]:
        if self.kind == "raw":
            return []
        extra = {"v2": ["compat=0.10"], "v3": [], "extended": ["extended_l2=on"]}[self.kind]
        return [f"cluster_size={1 << self.cluster_bits}", *extra]


@st.composite
def _writes(draw: st.DrawFn, sector_count: int, kinds: list[str]) -> tuple[Write, ...]:
    writes = []
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, sector_count - 1))
        length = draw(st.integers(1, min(sector_count - start, 700)))
        writes.append(Write(draw(st.sampled_from(kinds)), start, length, draw(st.integers(1, 255))))
    return tuple(writes)


@st.composite
def random_layers(draw: st.DrawFn, least: int = 1, most: int = 4) -> list[Layer]:
    """Base first."""
    layers = []
    for number in range(draw(st.integers(least, most))):
        kind = draw(st.sampled_from(["v3", "v2", "extended", "raw"] if number == 0 else ["v3", "v2", "extended"]))
        bits = draw(st.sampled_from([14, 16, 17] if kind == "extended" else [9, 10, 12, 14, 16, 18]))
        sector_count = draw(st.integers(1, SECTORS_MAX))
        kinds = ["data", "zero", "unmap"] + ([] if kind == "raw" else ["compressed"])
        layers.append(Layer(kind, bits, sector_count, draw(_writes(sector_count, kinds))))
    return layers


class KnownChain:
    """A chain made by qemu, and the bytes that a guest reads from its top."""

    def __init__(self, folder: Path, layers: list[Layer], qemu_img: Any, qemu_io: Any) -> None:
        self.content = b""
        self.paths: list[Path] = []  # top first, as the engine counts
        self.formats: list[str] = []
        for number, layer in enumerate(layers):
            path = folder / f"{number}.{layer.image_format}"
            below = {"backing": self.paths[0], "backing_format": self.formats[0]} if number else {}
            size_bytes = layer.sector_count * SECTOR
            qemu_img.create(path, layer.image_format, size_bytes, options=layer.options, **below)
            self.paths.insert(0, path)
            self.formats.insert(0, layer.image_format)
            self.content = self._write(layer, qemu_io)

    def _write(self, layer: Layer, qemu_io: Any) -> bytes:
        size_bytes = layer.sector_count * SECTOR
        disk = bytearray(self.content[:size_bytes].ljust(size_bytes, b"\0"))
        commands: list[str] = []
        for kind, start, length, value in layer.writes:
            at, count = start * SECTOR, length * SECTOR
            if kind == "compressed":  # whole clusters; qemu takes them only where nothing was written
                cluster = 1 << layer.cluster_bits
                at, count = at // cluster * cluster, -(-count // cluster) * cluster
                if commands or at + count > size_bytes:
                    continue
            disk[at : at + count] = bytes([0 if kind in ("zero", "unmap") else value]) * count
            flag = {"data": f"-P {value}", "zero": "-z", "unmap": "-zu", "compressed": f"-c -P {value}"}[kind]
            commands.append(f"write {flag} {at} {count}")
        if commands:
            qemu_io(self.paths[0], self.formats[0], *commands)
        return bytes(disk)

    @property
    def top(self) -> tuple[str, Any]:
        """The top, as the engine wants it named."""
        return str(self.paths[0]), self.formats[0]


def read_by_qemu(qemu_img: Any, path: Path, image_format: str, scratch: Path) -> bytes:
    """What a guest reads from an image and all below it."""
    qemu_img("convert", "-f", image_format, "-O", "raw", path, scratch)
    content = scratch.read_bytes()
    scratch.unlink()
    return content
