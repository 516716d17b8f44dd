# SPDX-License-Identifier: Apache-2.0
"""The dirty bitmap against its plain twin, under any sequence of calls, and under threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from engine.sources import KIB, MIB
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from reference.bitmap import BitmapTwin

from virtblock.engine import Bitmap, EngineError

SHARE = st.floats(0, 1, allow_nan=False)


class BitmapMachine(RuleBasedStateMachine):
    """Both bitmaps get the same calls; after each they must agree on everything that can be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[tuple[int, int]] = []
        self.cursor = 0

    @initialize(
        granule=st.sampled_from([4 * KIB, 64 * KIB, 1 * MIB]),
        granule_count=st.one_of(st.integers(1, 130), st.integers(4000, 4200)),
        tail=st.integers(1, 4096),
    )
    def start(self, granule: int, granule_count: int, tail: int) -> None:
        """Sizes around the words of both levels, with a last granule that is cut."""
        self.size = (granule_count - 1) * granule + tail
        self.granule = granule
        self.real, self.twin = Bitmap(self.size, granule), BitmapTwin(self.size, granule)

    def _range(self, start: float, length: float) -> tuple[int, int]:
        first = int(start * self.size)
        return first, int(length * (self.size - first))

    @rule(start=SHARE, length=SHARE)
    def set(self, start: float, length: float) -> None:
        """Any range, aligned or not."""
        for bitmap in (self.real, self.twin):
            bitmap.set(*self._range(start, length))

    @rule(offset=SHARE)
    def set_one(self, offset: float) -> None:
        """One byte dirties one granule."""
        for bitmap in (self.real, self.twin):
            bitmap.set(min(int(offset * self.size), self.size - 1), 1)

    @rule(start=SHARE, length=SHARE)
    def clear(self, start: float, length: float) -> None:
        """Only whole granules go."""
        for bitmap in (self.real, self.twin):
            bitmap.clear(*self._range(start, length))

    @rule(offset=SHARE)
    def get(self, offset: float) -> None:
        """Asked at any byte."""
        at = min(int(offset * self.size), self.size - 1)
        assert self.real.get(at) == self.twin.get(at)

    @rule(limit=st.integers(1, 200), align=st.sampled_from([1, 2, 16, 64, 1000]))
    def claim(self, limit: int, align: int) -> None:
        """A run of claimable granules that keeps every promise, and the first one at or after the cursor."""
        claimable = self.twin.claimable()
        claimed = self.real.claim(self.cursor, limit * self.granule, align * self.granule)
        assert (claimed is None) == (not claimable)
        if claimed is None:
            return
        start, length, self.cursor = claimed
        granules = self.twin.granules(start, length)
        assert start % self.granule == 0
        assert granules <= claimable
        assert 1 <= len(granules) <= limit
        assert min(granules) // align == max(granules) // align
        assert length % self.granule == 0 or start + length == self.size
        self.twin.take(start, length)
        self.runs.append((start, length))

    @precondition(lambda self: self.runs)
    @rule(pick=st.integers(0, 10**6), moved=st.booleans())
    def release(self, pick: int, moved: bool) -> None:
        """Runs come back in any order."""
        start, length = self.runs.pop(pick % len(self.runs))
        for bitmap in (self.real, self.twin):
            bitmap.release(start, length, moved)

    @rule()
    def through_bytes(self) -> None:
        """What is serialized in one bitmap is dirty in another."""
        data = self.real.serialize()
        assert data == self.twin.serialize()
        other = Bitmap(self.size, self.granule)
        other.deserialize(data)
        assert other.serialize() == data
        assert other.in_flight_bytes == 0

    @invariant()
    def agree(self) -> None:
        """The sums are the twin's."""
        if hasattr(self, "real"):
            assert self.real.dirty_bytes == self.twin.dirty_bytes
            assert self.real.in_flight_bytes == self.twin.in_flight_bytes


BitmapMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBitmap = BitmapMachine.TestCase


def test_claims_go_round() -> None:
    """From the cursor to the end, then once from the start; what is in flight is never claimed again."""
    bitmap = Bitmap(10 * 64 * KIB)
    bitmap.set(0, 10 * 64 * KIB)
    cursor, seen = 5 * 64 * KIB, []
    while (claimed := bitmap.claim(cursor, 64 * KIB, 64 * KIB)) is not None:
        seen.append(claimed[0] // (64 * KIB))
        cursor = claimed[2]
    assert seen == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    assert bitmap.dirty_bytes == 0
    assert bitmap.in_flight_bytes == 10 * 64 * KIB


def test_write_while_in_flight_is_claimed_after_release() -> None:
    """The protocol that loses no write: set while in flight, claimable only when the flight has ended."""
    bitmap = Bitmap(64 * KIB)
    bitmap.set(0, 1)
    assert bitmap.claim(0, 64 * KIB, 64 * KIB) is not None
    bitmap.set(100, 1)
    assert bitmap.claim(0, 64 * KIB, 64 * KIB) is None
    bitmap.release(0, 64 * KIB, True)
    assert bitmap.claim(0, 64 * KIB, 64 * KIB) == (0, 64 * KIB, 64 * KIB) or bitmap.in_flight_bytes == 64 * KIB


def test_lanes_never_share_a_granule() -> None:
    """Threads that claim, release and dirty at once: each granule is with one lane at a time, and none is lost."""
    granule_count, lane_count = 500, 6
    bitmap = Bitmap(granule_count * 4 * KIB, 4 * KIB)
    bitmap.set(0, granule_count * 4 * KIB)
    holders = [0] * granule_count
    moved = [0] * granule_count
    clashes: list[int] = []

    def lane(number: int) -> None:
        cursor = number * 4 * KIB
        while (claimed := bitmap.claim(cursor, 7 * 4 * KIB, 64 * 4 * KIB)) is not None:
            start, length, cursor = claimed
            granules = range(start // (4 * KIB), (start + length) // (4 * KIB))
            for granule in granules:
                holders[granule] += 1
                if holders[granule] != 1:
                    clashes.append(granule)
            for granule in granules:
                moved[granule] += 1
                holders[granule] -= 1
            # Every granule's first move fails.
            bitmap.release(start, length, all(moved[granule] > 1 for granule in granules))

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lane_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert clashes == []
    # A lane that found nothing claimable ends while others still hold runs; what those give back is left dirty.
    lane(0)
    assert bitmap.dirty_bytes == bitmap.in_flight_bytes == 0
    assert min(moved) >= 2


@pytest.mark.parametrize("granule", [0, 1, 512, 2048, 5000, 128 * MIB])
def test_bad_granules(granule: int) -> None:
    """A power of two from 4 KiB to 64 MiB."""
    with pytest.raises(EngineError) as caught:
        Bitmap(1 * MIB, granule)
    assert caught.value.kind == "invalid"


@pytest.mark.parametrize(
    "call",
    [
        lambda bitmap: bitmap.set(0, MIB + 1),
        lambda bitmap: bitmap.set(MIB + 1, 0),
        lambda bitmap: bitmap.set(-1, 1),
        lambda bitmap: bitmap.clear(2**63, 1),
        lambda bitmap: bitmap.get(MIB),
        lambda bitmap: bitmap.claim(0, 0, 65536),
        lambda bitmap: bitmap.claim(0, 65536, 0),
        lambda bitmap: bitmap.claim(0, 65537, 65536),
        lambda bitmap: bitmap.release(0, 2**64, True),
        lambda bitmap: bitmap.deserialize(b""),
        lambda bitmap: bitmap.deserialize(b"\0" * 3),
    ],
)
def test_bad_arguments(call: Any) -> None:
    """Ranges beyond the disk are refused, and nothing changes."""
    bitmap = Bitmap(1 * MIB)
    with pytest.raises(EngineError) as caught:
        call(bitmap)
    assert caught.value.kind == "invalid"
    assert bitmap.dirty_bytes == bitmap.in_flight_bytes == 0


def test_a_disk_of_16_tib_takes_little_memory() -> None:
    """Granules of 64 KiB: 32 MiB of bits, and the sums are right at the far end."""
    size = 16 * 1024 * 1024 * MIB
    bitmap = Bitmap(size)
    bitmap.set(size - 1, 1)
    claimed = bitmap.claim(0, 1 * MIB, 1 * MIB)
    assert claimed is not None
    assert claimed[:2] == (size - 64 * KIB, 64 * KIB)
