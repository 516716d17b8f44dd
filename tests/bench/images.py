# SPDX-License-Identifier: Apache-2.0
"""The disks that the benchmark copies: the same bytes on every run, not compressible to zeros, with holes between.

Made through the engine's own writer, because that is quick, and those with compressed clusters or bitmaps by qemu-img;
what is judged is copying, and every copy is compared by qemu-img afterwards. Each disk is made when a row first asks
for it.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from virtblock.engine import ImageFormat, ImageWriter, PathPolicy, create_image
from virtblock.engine.units import GIB, KIB, MIB, TIB

ANY_PATH = PathPolicy()
CLUSTER_BYTES = 64 * KIB
SMALL_CLUSTER_BYTES = 4 * KIB
DATA_SHARE = 0.4
OVERLAY_SHARE = 0.1
WIDE_CLUSTER_COUNT = 1000
DIRTY_SHARE = 0.01
DIRTY_DISK_FACTOR = 5  # a disk of 2 GiB makes one of 10 GiB
BITMAP = "since-copy"
NOISE_BYTES = 8 * MIB

Pieces = list[tuple[int, int]]


class Disk(NamedTuple):
    """One image with what lies below it, the top first."""

    path: Path
    format: ImageFormat
    layers: tuple[Path, ...]
    size_bytes: int
    cluster_bytes: int = CLUSTER_BYTES

    @property
    def below(self) -> Path:
        """The backing file."""
        return self.layers[1]


class Disks:
    """The disks of one place. No file belongs to two of them, so that each can go when it is done with."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._folder = folder
        self._size_bytes = size_bytes
        self._made: dict[str, Disk] = {}

    def get(self, name: str) -> Disk:
        """The disk of that name: one of MAKERS, alone or with an argument of its own: `qcow2:BYTES`, `layers:COUNT`."""
        if name not in self._made:
            folder = self._folder / name.replace(":", "-")
            folder.mkdir()
            kind, _, argument = name.partition(":")
            self._made[name] = MAKERS[kind](folder, int(argument) if argument else self._size_bytes)
        return self._made[name]

    def drop(self, name: str) -> None:
        """Remove a disk's files."""
        if name in self._made:
            del self._made[name]
            shutil.rmtree(self._folder / name.replace(":", "-"))


def _raw(folder: Path, size_bytes: int) -> Disk:
    return _make(folder / "disk.raw", "raw", size_bytes, long_pieces(size_bytes))


def _qcow2(folder: Path, size_bytes: int) -> Disk:
    return _make(folder / "disk.qcow2", "qcow2", size_bytes, long_pieces(size_bytes))


def _chain(folder: Path, size_bytes: int) -> Disk:
    """`base <- snap1 <- snap2`."""
    disk = _make(folder / "base.qcow2", "qcow2", size_bytes, long_pieces(size_bytes))
    for number in (1, 2):
        pieces = scattered(size_bytes, CLUSTER_BYTES, OVERLAY_SHARE, number)
        disk = _make(folder / f"snap{number}.qcow2", "qcow2", size_bytes, pieces, disk)
    return disk


def _small_clusters(folder: Path, size_bytes: int) -> Disk:
    """A chain of two whose clusters of 4 KiB lie in the files in no order, as guests write them."""
    disk = None
    for number, share in enumerate((DATA_SHARE, OVERLAY_SHARE)):
        pieces = scattered(size_bytes, SMALL_CLUSTER_BYTES, share, number)
        disk = _make(
            folder / f"layer{number}.qcow2", "qcow2", size_bytes, pieces, disk, cluster_bytes=SMALL_CLUSTER_BYTES
        )
    assert disk is not None
    return disk


def _text_raw(folder: Path, size_bytes: int) -> Disk:
    return _make(folder / "text.raw", "raw", size_bytes, long_pieces(size_bytes), content=_text(NOISE_BYTES))


def _compressed(kind: str) -> Callable[[Path, int], Disk]:
    """What `qemu-img convert -c` makes of a disk: clusters one behind the other, in the guest's order."""

    def make(folder: Path, size_bytes: int) -> Disk:
        text = _text_raw(folder, size_bytes)
        path = folder / f"{kind}.qcow2"
        options = ["-c", "-m", "16", "-o", f"compression_type={kind}"]
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, text.path, path], check=True)
        text.path.unlink()
        return Disk(path, "qcow2", (path,), size_bytes)

    return make


def _wide(folder: Path, _: int) -> Disk:
    """16 TiB with a thousand clusters anywhere."""
    chance = random.Random(5)
    clusters = chance.sample(range(16 * TIB // CLUSTER_BYTES), WIDE_CLUSTER_COUNT)
    return _make(
        folder / "wide.qcow2", "qcow2", 16 * TIB, [(cluster * CLUSTER_BYTES, CLUSTER_BYTES) for cluster in clusters]
    )


def _dirty(folder: Path, size_bytes: int) -> Disk:
    """A disk with a bitmap that marks a hundredth of it; beside it, as `earlier.qcow2`, the copy from before that."""
    size_bytes *= DIRTY_DISK_FACTOR
    disk = _qcow2(folder, size_bytes)
    options = ["-f", "qcow2", "-O", "qcow2", "-W"]
    subprocess.run(["qemu-img", "convert", *options, disk.path, folder / "earlier.qcow2"], check=True)
    subprocess.run(["qemu-img", "bitmap", "--add", disk.path, BITMAP], check=True)
    pieces = scattered(size_bytes, CLUSTER_BYTES, DIRTY_SHARE, 9)
    writes = "".join(f"write -q -P {number % 255 + 1} {at} {length}\n" for number, (at, length) in enumerate(pieces))
    subprocess.run(
        ["qemu-io", "-f", "qcow2", disk.path], input=writes, text=True, stdout=subprocess.DEVNULL, check=True
    )
    return disk


def _layers(folder: Path, count: int) -> Disk:
    """One GiB as so many layers see it: the same data, and a tenth of it spread over the overlays."""
    disk = _make(folder / "layer0.qcow2", "qcow2", GIB, long_pieces(GIB))
    spread = scattered(GIB, CLUSTER_BYTES, OVERLAY_SHARE, 3)
    for number in range(1, count):
        disk = _make(folder / f"layer{number}.qcow2", "qcow2", GIB, spread[number - 1 :: count - 1], disk)
    return disk


MAKERS: dict[str, Callable[[Path, int], Disk]] = {
    "raw": _raw,
    "qcow2": _qcow2,
    "chain": _chain,
    "small": _small_clusters,
    "text": _text_raw,
    "zlib": _compressed("zlib"),
    "zstd": _compressed("zstd"),
    "wide": _wide,
    "dirty": _dirty,
    "layers": _layers,
}


def _make(
    path: Path,
    image_format: ImageFormat,
    size_bytes: int,
    pieces: Pieces,
    below: Disk | None = None,
    *,
    content: bytes | None = None,
    cluster_bytes: int = CLUSTER_BYTES,
) -> Disk:
    backing = (str(below.path), "qcow2") if below else (None, None)
    create_image(
        str(path),
        image_format,
        size_bytes,
        ANY_PATH,
        backing_path=backing[0],
        backing_format=backing[1],
        cluster_size_bytes=cluster_bytes,
    )
    noise = content or random.Random(path.name).randbytes(NOISE_BYTES)
    with ImageWriter(str(path), image_format, ANY_PATH) as writer:
        for number, (start, length) in enumerate(pieces):
            # Another part of the noise each time: no two pieces are alike, and none holds zeros.
            shift = number * 4097 % (len(noise) - length)
            writer.write(start, noise[shift : shift + length])
    return Disk(path, image_format, (path, *(below.layers if below else ())), size_bytes, cluster_bytes)


def _text(length_bytes: int) -> bytes:
    """Words, some much more frequent than others, and numbers between them: zlib makes a third of it."""
    chance = random.Random(7)
    words = ["".join(chance.choices("etaoinshrdlucmfw", k=chance.randint(2, 9))) for _ in range(4000)]
    text = bytearray()
    while len(text) < length_bytes:
        is_word = chance.random() < 0.85
        word = words[int(chance.paretovariate(0.8)) % len(words)] if is_word else f"{chance.getrandbits(40):x}"
        text += f"{word} ".encode()
    return bytes(text[:length_bytes])


def long_pieces(size_bytes: int) -> Pieces:
    """Two fifths of the disk in pieces of 64 KiB to 4 MiB, as files lie on a disk in use."""
    chance = random.Random(1)
    pieces, at = [], 0
    while at < size_bytes:
        length = min(chance.randint(1, 64) * CLUSTER_BYTES, size_bytes - at)
        if chance.random() < DATA_SHARE:
            pieces.append((at, length))
        at += length
    return pieces


def scattered(size_bytes: int, cluster_bytes: int, share: float, seed: int) -> Pieces:
    """A share of the clusters, each alone and in no order, as guests write."""
    count = size_bytes // cluster_bytes
    clusters = random.Random(seed).sample(range(count), int(count * share))
    return [(cluster * cluster_bytes, cluster_bytes) for cluster in clusters]
