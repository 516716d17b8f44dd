# SPDX-License-Identifier: Apache-2.0
"""Where the benchmark copies: folders of their own on tmpfs, on the project's file system and on a loop-mounted XFS.

Invariant: whatever ends the benchmark but a kill, nothing stays mounted and no file stays behind.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from virtblock.engine.units import GIB

XFS_BYTES = 16 * GIB  # sparse


class Unavailable(Exception):
    """A place that this machine does not have; says why."""


@contextmanager
def tmpfs(_: Path) -> Iterator[Path]:
    """A folder in /dev/shm."""
    with tempfile.TemporaryDirectory(prefix="virtblock-bench-", dir="/dev/shm") as folder:
        yield Path(folder)


@contextmanager
def ext4(build: Path) -> Iterator[Path]:
    """A folder on the project's own file system, whatever that is; its kind is printed."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as folder:
        yield Path(folder)


@contextmanager
def xfs(build: Path) -> Iterator[Path]:
    """A new XFS in a file on the project's file system."""
    if os.geteuid() != 0:
        raise Unavailable("mounting a loop device needs root")
    with ext4(build) as folder:
        image, mount = folder / "xfs.img", folder / "mount"
        mount.mkdir()
        image.touch()
        os.truncate(image, XFS_BYTES)
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        try:
            yield mount
        finally:
            subprocess.run(["umount", mount], check=True)


PLACES: dict[str, Callable[[Path], AbstractContextManager[Path]]] = {"tmpfs": tmpfs, "ext4": ext4, "xfs": xfs}


def file_system_of(folder: Path) -> str:
    """The kind of file system, as stat names it."""
    done = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True)
    kind = done.stdout.strip()
    return "ext4" if kind == "ext2/ext3" else kind  # one magic number for all three; nobody has the older ones


def evict(paths: Sequence[Path]) -> None:
    """Take files out of the page cache; what is dirty is written first."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
