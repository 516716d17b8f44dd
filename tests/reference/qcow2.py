# SPDX-License-Identifier: Apache-2.0
"""The fields of a qcow2 header and its tables, by their places in the format's specification: to read and spoil images.

Written from the specification alone, so that the engine is judged by a second reading of it.
"""

from __future__ import annotations

import struct
from pathlib import Path

MAGIC = 0x514649FB
VERSION_OFFSET = 4
BACKING_OFFSET_OFFSET = 8
BACKING_LENGTH_OFFSET = 16
CLUSTER_BITS_OFFSET = 20
SIZE_OFFSET = 24
CRYPT_METHOD_OFFSET = 32
L1_ENTRIES_OFFSET = 36
L1_OFFSET_OFFSET = 40
REFCOUNT_TABLE_OFFSET_OFFSET = 48
REFCOUNT_TABLE_CLUSTERS_OFFSET = 56
SNAPSHOT_COUNT_OFFSET = 60
INCOMPATIBLE_OFFSET = 72
REFCOUNT_ORDER_OFFSET = 96
HEADER_LENGTH_OFFSET = 100
ENTRY_OFFSET_MASK = 0x00FFFFFFFFFFFE00


def read_u32(path: Path, offset_bytes: int) -> int:
    """A big-endian field."""
    with path.open("rb") as file:
        file.seek(offset_bytes)
        return int(struct.unpack(">I", file.read(4))[0])


def read_u64(path: Path, offset_bytes: int) -> int:
    """A big-endian field."""
    with path.open("rb") as file:
        file.seek(offset_bytes)
        return int(struct.unpack(">Q", file.read(8))[0])


def write_u32(path: Path, offset_bytes: int, value: int) -> None:
    """A big-endian field."""
    overwrite(path, offset_bytes, struct.pack(">I", value))


def write_u64(path: Path, offset_bytes: int, value: int) -> None:
    """A big-endian field."""
    overwrite(path, offset_bytes, struct.pack(">Q", value))


def overwrite(path: Path, offset_bytes: int, data: bytes) -> None:
    """Bytes in place, the length kept."""
    with path.open("r+b") as file:
        file.seek(offset_bytes)
        file.write(data)


def l1_offset(path: Path) -> int:
    """Where the active L1 table begins."""
    return read_u64(path, L1_OFFSET_OFFSET)


def l2_offset(path: Path, index: int = 0) -> int:
    """Where the L2 table begins that L1 entry `index` names; 0 if there is none."""
    return read_u64(path, l1_offset(path) + 8 * index) & ENTRY_OFFSET_MASK
