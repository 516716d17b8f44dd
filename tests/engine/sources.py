# SPDX-License-Identifier: Apache-2.0
"""Disks of every kind that the engine reads, made by qemu, and the ways in which the tests run the engine.

The images are made once per session and never written again; each judgement holds their digests against the first.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from virtblock.engine import Chain, Copy, PathPolicy

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB
DISK_BYTES = 8 * MIB
ANY_PATH = PathPolicy()


class Source(NamedTuple):
    """A disk made by qemu: its top image, what lies below, and digests of every file."""

    path: Path
    format: str
    size_bytes: int
    backing: Path | None
    backing_format: str | None
    digests: dict[Path, str]


def noise(length_bytes: int, seed: int) -> bytes:
    """Bytes that hold no zeros to be found and do not compress."""
    return random.Random(seed).randbytes(length_bytes)


def noisy_raw(path: Path, size_bytes: int, pieces: list[tuple[int, int]]) -> Path:
    """A sparse raw file with noise at `pieces` (offset, length)."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for seed, (offset, length) in enumerate(pieces):
            file.seek(offset)
            file.write(noise(length, seed))
    return path


PIECES = [
    (0, 300 * KIB),
    (1 * MIB + 512, 70 * KIB + 512),
    (3 * MIB, 64 * KIB),
    (5 * MIB, 2 * MIB),
    (8 * MIB - 3 * KIB, 3 * KIB),
]
KINDS = (
    "raw",
    "raw-odd",
    "qcow2-v2",
    "qcow2-v3",
    "qcow2-512",
    "qcow2-4k",
    "qcow2-2m",
    "zero-clusters",
    "zlib",
    "zstd",
    "empty",
    "chain",
    "raw-backing",
    "subclusters",
    "subclusters-below",
)


class SourceMaker:
    """Makes a source of each of `KINDS` in a folder of its own, once."""

    def __init__(self, folder: Path, qemu_img: Any, make_image: Any, sha256_of: Callable[[Path], str]) -> None:
        self._folder = folder
        self._qemu_img = qemu_img
        self._make_image = make_image
        self._sha256_of = sha256_of
        self._made: dict[str, Source] = {}

    def __call__(self, kind: str) -> Source:
        """The source of that kind."""
        if kind not in self._made:
            place = self._folder / kind
            place.mkdir()
            self._made[kind] = getattr(self, "_" + kind.partition("-")[0])(place, kind)
        return self._made[kind]

    def _source(self, path: Path, image_format: str, *below: Path, backing_format: str | None = None) -> Source:
        size_bytes = self._qemu_img.info(path, image_format=image_format)["virtual-size"]
        if image_format == "raw":
            size_bytes = path.stat().st_size
        digests = {file: self._sha256_of(file) for file in (path, *below)}
        return Source(path, image_format, size_bytes, below[0] if below else None, backing_format, digests)

    def _raw(self, place: Path, kind: str) -> Source:
        if kind == "raw-backing":
            return self._raw_backing(place)
        size_bytes = DISK_BYTES + 777 if kind == "raw-odd" else DISK_BYTES
        path = noisy_raw(place / "disk.raw", size_bytes, PIECES)
        if kind == "raw-odd":
            with path.open("r+b") as file:
                file.seek(size_bytes - 5)
                file.write(b"tail!")
        return self._source(path, "raw")

    def _raw_backing(self, place: Path) -> Source:
        base = noisy_raw(place / "base.raw", DISK_BYTES // 2, [(0, 200 * KIB), (4 * MIB - 4 * KIB, 4 * KIB)])
        writes = [(100 * KIB, 20 * KIB, 0x41), (2 * MIB, 64 * KIB, 0x42), (6 * MIB, 1 * MIB, 0x43)]
        path = self._make_image(
            place / "top.qcow2", "qcow2", DISK_BYTES, backing=base, backing_format="raw", writes=writes
        )
        return self._source(path, "qcow2", base, backing_format="raw")

    def _qcow2(self, place: Path, kind: str) -> Source:
        options = {
            "qcow2-v2": ["-o", "compat=0.10"],
            "qcow2-v3": [],
            "qcow2-512": ["-o", "cluster_size=512"],
            "qcow2-4k": ["-o", "cluster_size=4096"],
            "qcow2-2m": ["-o", "cluster_size=2M"],
            "zlib": ["-c", "-o", "compression_type=zlib"],
            "zstd": ["-c", "-o", "compression_type=zstd"],
        }[kind]
        raw = noisy_raw(place / "content.raw", DISK_BYTES, PIECES)
        if "-c" in options:
            with raw.open("r+b") as file:  # noise alone would stay uncompressed
                file.seek(2 * MIB)
                file.write(b"virtblock " * (150 * KIB))
        path = place / "disk.qcow2"
        self._qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, raw, path)
        raw.unlink()
        return self._source(path, "qcow2")

    _zlib = _zstd = _qcow2

    def _zero(self, place: Path, kind: str) -> Source:
        base = noisy_raw(place / "base.raw", DISK_BYTES, [(0, DISK_BYTES)])
        middle = place / "middle.qcow2"
        self._qemu_img("convert", "-f", "raw", "-O", "qcow2", base, middle)
        base.unlink()
        path = place / "top.qcow2"
        self._qemu_img.create(path, "qcow2", backing=middle, backing_format="qcow2")
        # -z alone leaves no cluster, -z after data keeps a preallocated one, -zu gives it back.
        commands = [
            "write -z 1M 1M",
            "write -P 9 3M 512k",
            "write -z 3M 256k",
            "write -zu 3328k 128k",
            "write -z 7M 1M",
        ]
        flags = [argument for command in commands for argument in ("-c", command)]
        subprocess.run(["qemu-io", "-f", "qcow2", *flags, path], check=True, capture_output=True)
        return self._source(path, "qcow2", middle, backing_format="qcow2")

    def _empty(self, place: Path, kind: str) -> Source:
        return self._source(self._make_image(place / "disk.qcow2", "qcow2", DISK_BYTES), "qcow2")

    def _subclusters(self, place: Path, kind: str) -> Source:
        """Extended L2 entries of every state; `subclusters-below` lies below an image without."""
        path = place / "disk.qcow2"
        self._qemu_img.create(path, "qcow2", DISK_BYTES, options=["extended_l2=on", "cluster_size=128k"])
        commands = [
            "write -c -P 21 1M 256k",
            "write -P 22 512 4k",
            "write -P 23 300k 1M",
            "write -z 340k 20k",
            "write -zu 512k 128k",
            "write -z 5M 4k",
            "write -P 24 6M 4k",
            "discard 6M 4k",
            "write -P 25 8184k 8k",
        ]
        flags = [argument for command in commands for argument in ("-c", command)]
        subprocess.run(["qemu-io", "-f", "qcow2", "-d", "unmap", *flags, path], check=True, capture_output=True)
        if kind == "subclusters":
            return self._source(path, "qcow2")
        top = place / "top.qcow2"
        writes = [(2048, 512, 0x61), (1 * MIB + 64 * KIB, 20 * KIB, 0x62), (7 * MIB, 4096, 0x63)]
        self._overlay(top, DISK_BYTES, path.name, cluster_size="4096", writes=writes)
        return self._source(top, "qcow2", path, backing_format="qcow2")

    def _chain(self, place: Path, kind: str) -> Source:
        """Three layers whose sizes and clusters all differ, with writes that are not whole clusters."""
        base, middle, top = (place / f"{name}.qcow2" for name in ("base", "middle", "top"))
        writes = [(0, 1 * MIB, 0x11), (3 * MIB + 4096, 12 * KIB, 0x12), (5 * MIB, 512, 0x13)]
        self._make_image(base, "qcow2", 5 * MIB + 512, options=["cluster_size=4096"], writes=writes)
        writes = [(512, 512, 0x21), (4 * MIB + 512, 100 * KIB, 0x22), (8 * MIB, 1 * MIB, 0x23)]
        self._overlay(middle, 9 * MIB, base.name, cluster_size="2M", writes=writes)
        writes = [(2048, 512, 0x31), (6 * MIB, 64 * KIB, 0x32), (8 * MIB, 1024, 0x33)]
        self._overlay(top, 8 * MIB + 1024, middle.name, cluster_size="16384", writes=writes)
        return self._source(top, "qcow2", middle, base, backing_format="qcow2")

    def _overlay(self, path: Path, size_bytes: int, backing: str, *, cluster_size: str, writes: list[Any]) -> None:
        options = [f"cluster_size={cluster_size}"]
        self._make_image(
            path, "qcow2", size_bytes, backing=backing, backing_format="qcow2", options=options, writes=writes
        )


def copy_image(path: Path, image_format: Any, destination: Path, destination_format: Any, **options: Any) -> None:
    """Copy a chain to a path by the engine and close everything."""
    with (
        Chain([(str(path), image_format)], ANY_PATH) as chain,
        Copy(chain, str(destination), destination_format, ANY_PATH, **options) as copy,
    ):
        copy.run()


def command_line(*arguments: str | Path) -> list[str]:
    """`virtblock-copy`, started as the environment's own Python would."""
    return [sys.executable, "-m", "virtblock.engine.cli", *map(str, arguments)]


def set_length(path: Path, size_bytes: int) -> None:
    """Cut or grow a file; qemu-img rounds sizes up to sectors, this does not."""
    with path.open("r+b") as file:
        file.truncate(size_bytes)


def reads_same(qemu_img: Any, one: Path, one_format: str, other: Path, other_format: str) -> bool:
    """Whether qemu reads the same from both; how they store it may differ (which `compare -s` would not accept)."""
    done = qemu_img("compare", "-q", "-f", one_format, "-F", other_format, one, other, check=False)
    if done.returncode not in (0, 1):
        raise AssertionError(f"qemu-img compare {one} {other}: {done.stderr or done.stdout}")
    return bool(done.returncode == 0)


def own_bytes(qemu_img: Any, path: Path) -> int:
    """What a qcow2 image itself, not its backing files, says of the disk."""
    extents = qemu_img.map(path, "qcow2")
    return sum(extent["length"] for extent in extents if extent["depth"] == 0 and extent["present"])
