# SPDX-License-Identifier: Apache-2.0
"""Which file is which, over restarts.

Owns: what tells one file, and one state of a file, from another. Invariants: JSON values only; a file is known by
device and inode, not by name alone, and its state by size and time of last change as well; a block device's by the
kernel's count of what was written to it, by anybody on this host. What cannot be known of a state is never the same.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

_DEVICES = Path("/sys/dev/block")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WRITTEN_SECTORS, _DISCARDED_SECTORS = 6, 13  # places in a device's `stat`; discards are not told by every kernel


def file_identity(path: str) -> dict[str, int] | None:
    """What tells one state of a file from another; None when it cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if stat.S_ISBLK(status.st_mode):
        written = _device_state(status.st_rdev)
        return {"device": status.st_rdev, "inode": 0, "size_bytes": 0, "changed_ns": 0, "written": written}
    return {
        "device": status.st_dev,
        "inode": status.st_ino,
        "size_bytes": status.st_size,
        "changed_ns": status.st_mtime_ns,
    }


def is_same_file(one: Mapping[str, int] | None, other: Mapping[str, int] | None) -> bool:
    """Whether both name the same file, whatever is in it."""
    if one is None or other is None:
        return False
    return (one["device"], one["inode"]) == (other["device"], other["inode"])


def is_device(identity: Mapping[str, int] | None) -> bool:
    """Whether this is a block device's."""
    return identity is not None and "written" in identity


def _device_state(device: int) -> int:
    """A number that is another one after any write or discard, for another device under the number, and after a boot.

    Where the kernel counts nothing it is new each time, so that a device's content is never taken for unchanged.
    """
    folder = _DEVICES / f"{os.major(device)}:{os.minor(device)}"
    disk = folder if (folder / "queue").exists() else folder / ".."  # a partition lies in its disk's folder
    try:
        figures = (folder / "stat").read_text().split()
        if (disk / "queue/iostats").read_text().strip() == "0":
            return time.time_ns()
        marks = [_BOOT_ID.read_text(), (disk / "diskseq").read_text(), figures[_WRITTEN_SECTORS]]
        marks += figures[_DISCARDED_SECTORS : _DISCARDED_SECTORS + 1]
    except (OSError, IndexError):
        return time.time_ns()
    return int.from_bytes(hashlib.sha256(" ".join(marks).encode()).digest()[:8], "big")
