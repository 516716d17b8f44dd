# SPDX-License-Identifier: Apache-2.0
"""The disks that the benchmark copies: the same bytes on every run, not compressible to zeros, with holes between.

Made through the engine's own writer, because that is quick, and the compressed ones from there by qemu-img; what is
judged is copying, and every copy is compared by qemu-img afterwards.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import NamedTuple

from virtblock.engine import ImageFormat, ImageWriter, PathPolicy, create_image
from virtblock.engine.units import KIB, MIB

ANY_PATH = PathPolicy()
CLUSTER_BYTES = 64 * KIB
DATA_SHARE = 0.4
OVERLAY_SHARE = 0.1


class Disk(NamedTuple):
    """One image of a benchmark's chain."""

    path: Path
    format: ImageFormat


def make_disks(folder: Path, size_bytes: int) -> dict[str, Disk]:
    """`raw`, `qcow2`, `chain`: the top of `base <- snap1 <- snap2`; `zlib` and `zstd`: text, compressed by cluster."""
    raw = _make(folder / "disk.raw", "raw", size_bytes, _long_pieces(size_bytes))
    qcow2 = _make(folder / "disk.qcow2", "qcow2", size_bytes, _long_pieces(size_bytes))
    base = _make(folder / "base.qcow2", "qcow2", size_bytes, _long_pieces(size_bytes))
    snap1 = _make(folder / "snap1.qcow2", "qcow2", size_bytes, _scattered(size_bytes, 1), base)
    snap2 = _make(folder / "snap2.qcow2", "qcow2", size_bytes, _scattered(size_bytes, 2), snap1)
    text = _make(folder / "text.raw", "raw", size_bytes, _long_pieces(size_bytes), content=_text(8 * MIB))
    compressed = {kind: _compress(text, folder / f"{kind}.qcow2", kind) for kind in ("zlib", "zstd")}
    text.path.unlink()
    return {"raw": raw, "qcow2": qcow2, "chain": snap2, **compressed}


def _make(
    path: Path,
    image_format: ImageFormat,
    size_bytes: int,
    pieces: list[tuple[int, int]],
    below: Disk | None = None,
    content: bytes | None = None,
) -> Disk:
    backing = (str(below.path), "qcow2") if below else (None, None)
    create_image(str(path), image_format, size_bytes, ANY_PATH, backing_path=backing[0], backing_format=backing[1])
    noise = content or random.Random(path.name).randbytes(8 * MIB)
    with ImageWriter(str(path), image_format, ANY_PATH) as writer:
        for number, (start, length) in enumerate(pieces):
            # Another part of the noise each time: no two pieces are alike, and none holds zeros.
            shift = number * 4097 % (len(noise) - length)
            writer.write(start, noise[shift : shift + length])
    return Disk(path, image_format)


def _compress(disk: Disk, path: Path, kind: str) -> Disk:
    """What `qemu-img convert -c` makes of a disk: clusters one behind the other, in the guest's order."""
    options = ["-c", "-m", "16", "-o", f"compression_type={kind}"]
    subprocess.run(["qemu-img", "convert", "-f", disk.format, "-O", "qcow2", *options, disk.path, path], check=True)
    return Disk(path, "qcow2")


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


def _long_pieces(size_bytes: int) -> list[tuple[int, int]]:
    """Two fifths of the disk in pieces of 64 KiB to 4 MiB, as files lie on a disk in use."""
    chance = random.Random(1)
    pieces, at = [], 0
    while at < size_bytes:
        length = min(chance.randint(1, 64) * CLUSTER_BYTES, size_bytes - at)
        if chance.random() < DATA_SHARE:
            pieces.append((at, length))
        at += length
    return pieces


def _scattered(size_bytes: int, seed: int) -> list[tuple[int, int]]:
    """A tenth of the clusters, each alone and in no order, as guests write."""
    chance = random.Random(seed)
    clusters = chance.sample(range(size_bytes // CLUSTER_BYTES), int(size_bytes // CLUSTER_BYTES * OVERLAY_SHARE))
    return [(cluster * CLUSTER_BYTES, CLUSTER_BYTES) for cluster in clusters]
