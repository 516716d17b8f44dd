# SPDX-License-Identifier: Apache-2.0
"""The fields of a qcow2 header and its tables, by their places in the format's specification: to read and spoil images.

Written from the specification alone, so that the engine is judged by a second reading of it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

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
AUTOCLEAR_OFFSET = 88
REFCOUNT_ORDER_OFFSET = 96
HEADER_LENGTH_OFFSET = 100
ENTRY_OFFSET_MASK = 0x00FFFFFFFFFFFE00
BITMAPS_EXTENSION = 0x23852875


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


class Bitmap(NamedTuple):
    """One persistent bitmap of an image."""

    name: str
    flags: int
    granularity_bytes: int
    dirty: list[bool]  # one for each granule, to the end of the disk

    def dirty_bytes(self, size_bytes: int) -> int:
        """What it marks of a disk of that size."""
        return sum(
            min(self.granularity_bytes, size_bytes - index * self.granularity_bytes)
            for index, is_dirty in enumerate(self.dirty)
            if is_dirty
        )


def bitmaps_extension(path: Path) -> int | None:
    """Where the content of the header extension for bitmaps begins; None if there is none."""
    at = read_u32(path, HEADER_LENGTH_OFFSET)
    end = read_u64(path, BACKING_OFFSET_OFFSET) or 1 << read_u32(path, CLUSTER_BITS_OFFSET)
    while at < end:
        kind, length = read_u32(path, at), read_u32(path, at + 4)
        if kind == BITMAPS_EXTENSION:
            return at + 8
        if kind == 0:
            return None
        at += 8 + (length + 7) // 8 * 8
    return None


def read_bitmaps(path: Path) -> dict[str, Bitmap]:
    """Every persistent bitmap of a version 3 image; none unless the autoclear bit says that they are valid."""
    extension = bitmaps_extension(path)
    if extension is None or not read_u64(path, AUTOCLEAR_OFFSET) & 1:
        return {}
    image = path.read_bytes()
    count, _, _, at = struct.unpack_from(">IIQQ", image, extension)
    found = {}
    for _ in range(count):
        table, entries, flags, _, granularity_bits, name_length, extra_length = struct.unpack_from(
            ">QIIBBHI", image, at
        )
        name_at = at + 24 + extra_length
        name = image[name_at : name_at + name_length].decode()
        words = struct.unpack_from(f">{entries}Q", image, table)
        found[name] = Bitmap(name, flags, 1 << granularity_bits, _bits(image, words, granularity_bits))
        at = (name_at + name_length + 7) // 8 * 8
    return found


def _bits(image: bytes, table: tuple[int, ...], granularity_bits: int) -> list[bool]:
    cluster_bytes = 1 << int.from_bytes(image[CLUSTER_BITS_OFFSET : CLUSTER_BITS_OFFSET + 4], "big")
    size_bytes = int.from_bytes(image[SIZE_OFFSET : SIZE_OFFSET + 8], "big")
    stream = b""
    for word in table:
        offset = word & ENTRY_OFFSET_MASK
        stream += image[offset : offset + cluster_bytes] if offset else (b"\xff" if word & 1 else b"\0") * cluster_bytes
    granule_count = -(-size_bytes >> granularity_bits)
    return [bool(stream[index // 8] >> index % 8 & 1) for index in range(granule_count)]
