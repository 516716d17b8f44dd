# SPDX-License-Identifier: Apache-2.0
"""The dirty bitmap in plain Python: what core/bitmap.h promises, as sets of granule numbers, slow and obvious.

Owns nothing of the product; tests hold the C bitmap against it.
"""

from __future__ import annotations

Granules = set[int]


class BitmapTwin:
    """The same calls as `virtblock.engine.Bitmap`."""

    def __init__(self, size_bytes: int, granule_bytes: int = 65536) -> None:
        self.size_bytes = size_bytes
        self.granule_bytes = granule_bytes
        self.granule_count = -(-size_bytes // granule_bytes)
        self.dirty: Granules = set()
        self.in_flight: Granules = set()

    def _length_of(self, granule: int) -> int:
        return min(self.granule_bytes, self.size_bytes - granule * self.granule_bytes)

    @property
    def dirty_bytes(self) -> int:
        """Sum over the dirty granules, the last one cut at the end of the disk."""
        return sum(map(self._length_of, self.dirty))

    @property
    def in_flight_bytes(self) -> int:
        """Sum over the claimed granules."""
        return sum(map(self._length_of, self.in_flight))

    def set(self, start_bytes: int, length_bytes: int) -> None:
        """Every granule that the range touches."""
        if length_bytes:
            last = (start_bytes + length_bytes - 1) // self.granule_bytes
            self.dirty.update(range(start_bytes // self.granule_bytes, last + 1))

    def clear(self, start_bytes: int, length_bytes: int) -> None:
        """Only granules that lie wholly in the range; the end of the disk counts as the end of the last one."""
        end = start_bytes + length_bytes
        for granule in list(self.dirty):
            first = granule * self.granule_bytes
            if start_bytes <= first and first + self._length_of(granule) <= end:
                self.dirty.discard(granule)

    def get(self, offset_bytes: int) -> bool:
        """Whether the granule of that offset is dirty."""
        return offset_bytes // self.granule_bytes in self.dirty

    def claimable(self) -> Granules:
        """What a claim may return: dirty, and not in flight already."""
        return self.dirty - self.in_flight

    def take(self, start_bytes: int, length_bytes: int) -> None:
        """Book a claim that the C bitmap made."""
        granules = self.granules(start_bytes, length_bytes)
        self.dirty -= granules
        self.in_flight |= granules

    def release(self, start_bytes: int, length_bytes: int, moved: bool) -> None:
        """End a flight; not moved makes dirty again."""
        granules = self.granules(start_bytes, length_bytes)
        self.in_flight -= granules
        if not moved:
            self.dirty |= granules

    def granules(self, start_bytes: int, length_bytes: int) -> Granules:
        """The granules of a run that begins at one and ends at one or at the end of the disk."""
        return set(range(start_bytes // self.granule_bytes, -(-(start_bytes + length_bytes) // self.granule_bytes)))

    def serialize(self) -> bytes:
        """Bit i of byte i/8, in flight counted as dirty."""
        stream = bytearray(-(-self.granule_count // 8))
        for granule in self.dirty | self.in_flight:
            stream[granule // 8] |= 1 << granule % 8
        return bytes(stream)
