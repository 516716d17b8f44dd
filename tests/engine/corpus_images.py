# SPDX-License-Identifier: Apache-2.0
"""Makes what the corpus' rows name: the chain below a disk, the disk itself, and images to be reused, all by qemu.

Owns: how each value of `corpus_space` becomes bytes. Chains below are made once and shared; all else is a row's own.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from engine.covering import Row
from engine.sources import KIB, MIB, noisy_raw

from engine import corpus_space as space

SECTOR = 512
CORRUPT_BYTE, CORRUPT_BIT = 79, 0x02
DEEP_CLUSTER_SIZES = ("64k", "512", "2M", "4096", "16k", "1M", "1024")


class Layer(NamedTuple):
    """One image of a chain below a disk."""

    options: tuple[str, ...]
    size_bytes: int
    writes: tuple[str, ...]
    state: str = "clean"


class Disk(NamedTuple):
    """An image, its external data file, and the image below it."""

    path: Path
    format: str
    data: Path | None = None
    below: Disk | None = None

    def chain(self) -> list[Disk]:
        """This image and all below."""
        return [self, *(self.below.chain() if self.below else [])]

    def files(self) -> list[Path]:
        """Every file of the chain."""
        return [file for disk in self.chain() for file in (disk.path, disk.data) if file]

    def data_files(self) -> dict[str, str]:
        """What a policy must name."""
        return {str(disk.path): str(disk.data) for disk in self.chain() if disk.data}

    def as_backing(self) -> dict[str, Any]:
        """As `qemu_img.create` wants the image below to be named."""
        return {"backing": self.below.path, "backing_format": self.below.format} if self.below else {}


def writes_of(size_bytes: int, seed: int, *, compressed: bool) -> list[str]:
    """Data from one sector on, zeros, discards, and first a compressed piece, cut to the disk's size."""
    pieces = [
        ("write -c -P {value}", 2 * MIB, 1 * MIB),
        ("write -P {value}", seed * SECTOR, SECTOR),
        ("write -P {value}", 100 * KIB + seed * 4096, 300 * KIB),
        ("write -P 0", 420 * KIB, 10 * KIB),
        ("write -z", 150 * KIB + seed * 4096, 12 * KIB),
        ("write -zu", 200 * KIB, 70 * KIB),
        ("write -z", 900 * KIB, 300 * KIB),
        ("discard", 300 * KIB, 64 * KIB),
        ("write -P {value}", size_bytes - 3 * KIB, 3 * KIB),
        ("write -P {value}", 0, SECTOR),
    ]
    commands = []
    for number, (command, start, length) in enumerate(pieces):
        end = min(start + length, size_bytes) // SECTOR * SECTOR
        is_packed = " -c " in command
        if start < 0 or end <= start or (is_packed and (not compressed or end % MIB)):
            continue
        commands.append(f"{command.format(value=(seed + number) % 255 + 1)} {start} {end - start}")
    return commands


def _deep() -> list[Layer]:
    """64 images with the disk on top: clusters, versions, compressions and lengths that differ."""
    layers = []
    for number in range(63):
        size_bytes = 4 * MIB + (number * 37 % 11 - 5) * 24 * KIB
        options = [f"cluster_size={DEEP_CLUSTER_SIZES[number % len(DEEP_CLUSTER_SIZES)]}"]
        if number % 5 == 0:
            options.append("compat=0.10")
        elif number % 7 == 0:  # of 64 KiB
            options.append("extended_l2=on")
        elif number % 3 == 0:
            options.append("compression_type=zstd")
        at = number * 61 * KIB
        kind = "-z" if number % 6 == 1 else f"-P {number + 1}"
        layers.append(Layer(tuple(options), size_bytes, (f"write {kind} {at} {70 * KIB}", f"write -P 99 {at} 512")))
    return layers


def _written(size_bytes: int, seed: int, *, compressed: bool = False) -> tuple[str, ...]:
    return tuple(writes_of(size_bytes, seed, compressed=compressed))


LAYERS: dict[str, list[Layer]] = {
    "v2 with snapshots": [Layer(("compat=0.10", "cluster_size=512"), 4 * MIB, _written(4 * MIB, 11), "snapshots")],
    "longer, zstd": [
        Layer(("cluster_size=2M", "compression_type=zstd"), 6 * MIB, ("write -c -P 5 2M 4M", *_written(6 * MIB, 12)))
    ],
    "extended": [
        Layer(("extended_l2=on", "cluster_size=128k"), 4 * MIB, _written(4 * MIB, 13, compressed=True), "bitmap in use")
    ],
    "data file": [Layer(("data_file=DATA",), 4 * MIB, _written(4 * MIB, 14))],
    "dirty and corrupt": [
        Layer(("lazy_refcounts=on", "refcount_bits=64"), 4 * MIB, _written(4 * MIB, 15), "dirty and corrupt")
    ],
    "3 deep": [
        Layer(("cluster_size=4k",), 3 * MIB + SECTOR, _written(3 * MIB + SECTOR, 16, compressed=True)),
        Layer(("extended_l2=on",), 5 * MIB, _written(5 * MIB, 17), "bitmaps"),
        Layer(("compat=0.10", "cluster_size=2M"), 3 * MIB, _written(3 * MIB, 18)),
    ],
    "64 deep": _deep(),
}
# The options of an image that is reused, where they are not the source's own.
REUSED_OPTIONS: dict[str, tuple[str, ...]] = {
    "v2 of 512": ("compat=0.10", "cluster_size=512"),
    "2M": ("cluster_size=2M",),
    "extended": ("extended_l2=on", "cluster_size=128k"),
    "refcount 1": ("refcount_bits=1",),
    "refcount 64": ("refcount_bits=64", "cluster_size=1024"),
    "lazy": ("lazy_refcounts=on", "cluster_size=4k"),
    "zlib": (),
    "zstd": ("compression_type=zstd", "cluster_size=4k"),
    "metadata": ("preallocation=metadata",),
    "full": ("preallocation=full", "extended_l2=on"),
    "snapshots": (),
    "bitmaps": ("cluster_size=16k",),
}


def options_of(row: Row) -> list[str]:
    """The row's options as `-o` wants them; what is qemu's own default is left out."""
    return [
        f"{name}={row[name]}" for name in space.OPTIONS if name != "data_file" and row[name] != space.OPTIONS[name][0]
    ]


def _is_narrow(row: Row) -> bool:
    """Whether snapshots would count more users of a cluster that compressed pieces share than a refcount holds."""
    return row["state"] == "snapshots" and int(row["refcount_bits"]) < 16


def without_preallocation(options: list[str]) -> list[str]:
    """qemu preallocates images over a backing file only with extended L2 entries."""
    return [option for option in options if "extended_l2=on" in options or not option.startswith("preallocation=")]


class CorpusImages:
    """The maker; `folder` keeps what rows share."""

    def __init__(self, folder: Path, qemu_img: Any, qemu_io: Callable[..., str]) -> None:
        self._folder = folder
        self._qemu_img = qemu_img
        self._qemu_io = qemu_io
        self._chains: dict[str, Disk] = {}

    def below(self, kind: str) -> Disk | None:
        """The top of the chain below a disk; its images are shared by all rows."""
        if kind == space.NONE:
            return None
        if kind not in self._chains:
            folder = self._folder / kind.replace(" ", "-").replace(",", "")
            folder.mkdir()
            self._chains[kind] = self._make_chain(folder, kind)
        return self._chains[kind]

    def _make_chain(self, folder: Path, kind: str) -> Disk:
        if kind in ("raw", "short raw"):
            size_bytes = 4 * MIB if kind == "raw" else MIB + 777
            pieces = [(0, 250 * KIB), (700 * KIB, 330 * KIB), (size_bytes - 4000, 4000)]
            return Disk(noisy_raw(folder / "base.raw", size_bytes, pieces), "raw")
        disk: Disk | None = None
        for number, layer in enumerate(LAYERS[kind]):
            path = folder / f"{number}.qcow2"
            data = folder / f"{number}.data" if "data_file=DATA" in layer.options else None
            options = [option.replace("DATA", str(data)) for option in layer.options]
            disk = Disk(path, "qcow2", data, disk)
            self._create(disk, layer.size_bytes, options)
            self._qemu_io(path, "qcow2", *layer.writes)
            self.set_state(path, layer.state, layer.size_bytes)
        assert disk is not None
        return disk

    def source(self, folder: Path, row: Row) -> Disk:
        """The row's disk, in a folder of its own."""
        below = self.below(row["below"])
        data = folder / "disk.data" if row["data_file"] != space.NONE else None
        options = options_of(row)
        if data:
            options += [f"data_file={data}", *(["data_file_raw=on"] if "raw" in row["data_file"] else [])]
        disk = Disk(folder / "disk.qcow2", "qcow2", data, below)
        size_bytes = int(row["size"])
        if row["content"] in space.CONVERTED:
            self._convert(disk, size_bytes, options, row["content"])
        else:
            self._create(disk, size_bytes, options)
        if row["content"] == space.WRITTEN:
            is_packed = data is None and row["preallocation"] == space.OFF and not _is_narrow(row)
            self._write(disk.path, writes_of(size_bytes // SECTOR * SECTOR, 40, compressed=is_packed))
        self.set_state(disk.path, row["state"], size_bytes)
        return disk

    def _create(self, disk: Disk, size_bytes: int, options: list[str]) -> None:
        self._qemu_img.create(disk.path, "qcow2", size_bytes, options=options, **disk.as_backing())

    def _write(self, path: Path, commands: list[str]) -> None:
        if commands:
            self._qemu_io(path, "qcow2", *commands)

    def _convert(self, disk: Disk, size_bytes: int, options: list[str], content: str) -> None:
        """Content is written to an image over the same backing file and converted, that file's part left out (-B)."""
        original = disk._replace(path=disk.path.with_name("original.qcow2"))
        commands = writes_of(size_bytes // SECTOR * SECTOR, 70, compressed=True)
        self._create(original, size_bytes, [])
        self._write(original.path, commands)
        if content == "convert -l":
            self._qemu_img("snapshot", "-c", "old", original.path)
            self._write(original.path, writes_of(size_bytes // SECTOR * SECTOR, 90, compressed=False))
        elif content == "convert --bitmaps":
            self._qemu_img("bitmap", "--add", original.path, "kept")
            self._write(original.path, commands[-1:])
        arguments: list[str | Path] = [*space.CONVERTED[content], "-f", "qcow2", "-O", "qcow2"]
        if disk.below:
            arguments += ["-B", disk.below.path, "-F", disk.below.format]
        if "-n" in arguments:
            self._create(disk, size_bytes, options)
        else:
            arguments += [argument for option in options for argument in ("-o", option)]
        self._qemu_img("convert", *arguments, original.path, disk.path)
        original.path.unlink()

    def set_state(self, path: Path, state: str, size_bytes: int) -> None:
        """What an image has besides its disk, or what became of it."""
        last = [f"write -P 77 0 {SECTOR}"] if size_bytes >= SECTOR else []
        if state == "snapshots":
            self._qemu_img("snapshot", "-c", "one", path)
            self._write(path, last)
            self._qemu_img("snapshot", "-c", "two", path)
            self._write(path, last)
        if state.startswith("bitmap"):
            self._qemu_img("bitmap", "--add", "-g", "4k", path, "enabled")
            self._qemu_img("bitmap", "--add", "--disable", path, "disabled")
            self._write(path, last)
        if state == "bitmap in use" or state.startswith("dirty"):
            self._kill_while_open(path, [*last, "flush"])
        if state.endswith("corrupt"):
            with path.open("r+b") as file:
                file.seek(CORRUPT_BYTE)
                bits = file.read(1)[0]
                file.seek(CORRUPT_BYTE)
                file.write(bytes([bits | CORRUPT_BIT]))

    @staticmethod
    def _kill_while_open(path: Path, commands: list[str]) -> None:
        """What a guest's writes leave when its process dies: lazy refcounts are not written, bitmaps stay in use."""
        arguments = ["qemu-io", "-f", "qcow2"]
        for command in (*commands, f"sigraise {int(signal.SIGKILL)}"):
            arguments += ["-c", command]
        done = subprocess.run([*arguments, str(path)], capture_output=True, check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL, done

    def reused(self, path: Path, row: Row, size_bytes: int, disk: Disk) -> Path:
        """An image full of something else; for a shallow copy, one that reads as what the source lies over."""
        kind = row["reused"]
        options = options_of(row) if kind == "same" else list(REUSED_OPTIONS[kind])
        if row["way"] == space.REUSE_SHALLOW and disk.below:
            self._create(Disk(path, "qcow2", None, disk.below), size_bytes, without_preallocation(options))
            return path
        self._create(Disk(path, "qcow2"), size_bytes, options)
        old = 0 if row["way"] == space.REUSE_SHALLOW else 238
        if size_bytes >= MIB:
            if kind in ("zlib", "zstd"):
                self._write(path, [f"write -c -P {old} 0 {size_bytes // MIB}M"])
            self._write(path, [f"write -P {old} 0 {size_bytes // 2 // SECTOR * SECTOR}"])
        if kind in ("snapshots", "bitmaps"):
            self.set_state(path, kind, 0 if old == 0 else size_bytes)
        return path
