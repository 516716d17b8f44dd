# SPDX-License-Identifier: Apache-2.0
"""The programs that do the same work, each with the flags that may be its best.

Owns: how a row of the table becomes command lines, ours among them. Invariants: what a peer leaves to the page cache is
synced inside its time, as ours is durable when it ends; a destination has the source's cluster size, as ours has; where
a peer needs a destination to exist, making it is part of its time.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from bench.images import CLUSTER_BYTES, Disk
from bench.measure import Run, run, sync_file
from bench.mirror import mirror
from bench.rows import Work

OURS = "virtblock-copy"
INSTALLED = Path(__file__).resolve().parents[2] / "build" / "bench" / "installed" / "bin" / OURS
PROGRAMS = {"convert": "qemu-img", "cp": "cp", "nbdcopy": "nbdcopy", "mirror": "qemu-storage-daemon"}
PACKAGES = {"qemu-img": "qemu-utils", "nbdcopy": "libnbd-bin", "qemu-storage-daemon": "qemu-system-common"}

Peer = Callable[[Work, Disk, Path], Run]


def our_script() -> Path:
    """What `make bench` installed as users do, else what this environment has."""
    return INSTALLED if INSTALLED.exists() else Path(sys.executable).with_name(OURS)


def run_ours(work: Work, disk: Disk, destination: Path) -> Run:
    """One copy by the console script."""
    return run([str(our_script()), "--source-format", disk.format, *work.options, str(disk.path), str(destination)])


def _format_options(work: Work, disk: Disk) -> list[str]:
    if work.format == "raw" or disk.cluster_bytes == CLUSTER_BYTES:
        return []
    return ["-o", f"cluster_size={disk.cluster_bytes}"]


def _convert(*flags: str) -> Peer:
    def copy(work: Work, disk: Disk, destination: Path) -> Run:
        backing = ["-B", str(disk.below), "-F", "qcow2"] if work.is_shallow else []
        options = ["-f", disk.format, "-O", work.format, *_format_options(work, disk), *flags, *backing]
        return run(["qemu-img", "convert", *options, str(disk.path), str(destination)]) + sync_file(destination)

    return copy


def _cp(flag: str) -> Peer:
    def copy(_work: Work, disk: Disk, destination: Path) -> Run:
        return run(["cp", flag, str(disk.path), str(destination)]) + sync_file(destination)

    return copy


def _create(work: Work, disk: Disk, destination: Path) -> Run:
    backing = ["-b", str(disk.below), "-F", "qcow2"] if work.is_shallow else []
    options = ["-f", work.format, *_format_options(work, disk), *backing]
    return run(["qemu-img", "create", "-q", *options, str(destination), str(disk.size_bytes)])


def _nbdcopy(work: Work, disk: Disk, destination: Path) -> Run:
    """Raw files directly, as nbdcopy can; qcow2 through a qemu-nbd that it starts."""
    source = [str(disk.path)] if disk.format == "raw" else ["[", "qemu-nbd", "-r", "-f", "qcow2", str(disk.path), "]"]
    if work.format == "raw":
        return run(["nbdcopy", "--", *source, str(destination)]) + sync_file(destination)
    created = _create(work, disk, destination)
    target = ["[", "qemu-nbd", "-f", "qcow2", str(destination), "]"]
    return created + run(["nbdcopy", "--target-is-zero", "--", *source, *target]) + sync_file(destination)


def _mirror(work: Work, disk: Disk, destination: Path) -> Run:
    created = _create(work, disk, destination)
    sync = "top" if work.is_shallow else "full"
    mirrored = mirror((disk.format, disk.path), (work.format, destination), sync, destination.parent)
    return created + mirrored + sync_file(destination)


PEERS: dict[str, Peer] = {
    "convert": _convert(),
    "convert -W": _convert("-W", "-m", "16"),
    "convert -C": _convert("-C"),
    "convert -c": _convert("-c", "-o", "compression_type=zlib"),
    "convert -c -m 16": _convert("-c", "-m", "16", "-o", "compression_type=zlib"),
    "cp always": _cp("--sparse=always"),
    "cp auto": _cp("--sparse=auto"),
    "cp reflink": _cp("--reflink=always"),
    "nbdcopy": _nbdcopy,
    "mirror": _mirror,
}


def missing_program(peer: str) -> str | None:
    """What must be installed before this peer can run; None if nothing."""
    program = PROGRAMS[peer.split()[0]]
    if shutil.which(program) is not None:
        return None
    return f"{program} (on Debian: apt install {PACKAGES.get(program, program)})"
