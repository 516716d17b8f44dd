# SPDX-License-Identifier: Apache-2.0
"""How our cost grows: with the data, and with the number of layers over the same data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.images import Disks
from bench.measure import Run, warm_memory
from bench.peers import run_ours
from bench.rows import Work
from bench.table import WARM_BYTES_MAX, check_same, median, occupied_bytes

from virtblock.engine.units import GIB

SIZES_GIB = (1, 2, 4, 8)
LAYER_COUNTS = (1, 4, 16, 64)


class Growth(NamedTuple):
    """One point of a line."""

    line: str
    amount: int
    run: Run
    data_bytes: int


def measure_growth(
    disks: Disks, folder: Path, round_count: int, sizes_gib: Sequence[int] = SIZES_GIB
) -> Iterator[Growth]:
    """Disks of one to eight GiB, and one GiB in up to 64 layers. Ours alone: this is about the line."""
    points = [("qcow2, GiB of disk", size, f"qcow2:{size * GIB}") for size in sizes_gib]
    points += [("layers over 1 GiB", count, f"layers:{count}") for count in LAYER_COUNTS]
    work = Work("growth", "growth", "tmpfs", "qcow2", "qcow2", ())
    for line, amount, name in points:
        disk = disks.get(name)
        destination = folder / "destination"
        runs = []
        for _ in range(round_count):
            destination.unlink(missing_ok=True)
            warm_memory(min(disk.size_bytes, WARM_BYTES_MAX))
            runs.append(run_ours(work, disk, destination))
        check_same(disk, destination, "qcow2")
        yield Growth(line, amount, median(runs), occupied_bytes(destination))
        destination.unlink()
        disks.drop(name)
