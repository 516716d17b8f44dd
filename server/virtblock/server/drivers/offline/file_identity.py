# SPDX-License-Identifier: Apache-2.0
"""Which file is which, over restarts.

Owns: what tells one file, and one state of a file, from another. Invariants: JSON values only; a file is known by
device and inode, not by name alone, and its state by size and time of last change as well.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping


def file_identity(path: str) -> dict[str, int] | None:
    """What tells one state of a file from another; None when it cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if stat.S_ISBLK(status.st_mode):
        return {"device": status.st_rdev, "inode": 0, "size_bytes": 0, "changed_ns": 0}
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
