# SPDX-License-Identifier: Apache-2.0
"""One row of the table: all programs in turns, so that a slow moment of the machine strikes each of them."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.images import Disk
from bench.measure import Run, warm_memory
from bench.peers import OURS, PEERS, missing_program, run_ours
from bench.places import evict
from bench.rows import Work

from virtblock.engine.units import GIB, MIB

# After one run of each, only those go on that may still be the best.
CANDIDATE_FACTOR = 1.5
# A result that occupies so much more or less than ours is other work.
UNLIKE_FACTOR = 1.1


# More than any row of the usual size writes.
WARM_BYTES_MAX = 5 * GIB


class Row(NamedTuple):
    """The medians of one row."""

    work: Work
    place: str
    ours: Run
    peers: Mapping[str, Run]
    peer_name: str
    our_bytes: int
    peer_bytes: int
    missing: Sequence[str]
    unlike: Sequence[str]  # peers out of the contest, for their result is not as sparse as ours, or sparser

    @property
    def peer(self) -> Run:
        """The best peer."""
        return self.peers[self.peer_name]

    @property
    def ratio(self) -> float:
        """How many times as fast as the best peer."""
        return self.peer.wall_s / self.ours.wall_s

    def faults(self) -> list[str]:
        """Which promises the row breaks."""
        broken = []
        if self.work.goal is not None and self.ratio < self.work.goal:
            broken.append("ratio")
        if self.ours.cpu_s >= self.peer.cpu_s:
            broken.append("CPU")
        if self.work.memory_goal_bytes is not None and self.ours.peak_bytes >= self.work.memory_goal_bytes:
            broken.append("memory")
        if self.work.is_compressed and self.our_bytes > self.peer_bytes:
            broken.append("size")
        return broken


def occupied_bytes(path: Path) -> int:
    """What the file takes of its file system."""
    return path.stat().st_blocks * 512


def check_same(disk: Disk, destination: Path, destination_format: str) -> None:
    """Both must read the same, or the row means nothing."""
    formats = ["-f", disk.format, "-F", destination_format]
    done = subprocess.run(
        ["qemu-img", "compare", "-q", *formats, disk.path, destination], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{destination} does not read as {disk.path}: {done.stdout}{done.stderr}")


def median(runs: Sequence[Run]) -> Run:
    """Of each figure by itself; of the peaks the highest, for a peak is a promise."""
    return Run(
        statistics.median(one.wall_s for one in runs),
        statistics.median(one.cpu_s for one in runs),
        max(one.peak_bytes for one in runs),
    )


class _Contest:
    """The runs of one row."""

    def __init__(self, work: Work, disk: Disk, folder: Path) -> None:
        self._work, self._disk = work, disk
        self._destination = folder / "destination"
        self.missing = [text for text in map(missing_program, work.peers) if text is not None]
        self.runs: dict[str, list[Run]] = {OURS: []}
        self.runs |= {name: [] for name in work.peers if missing_program(name) is None}
        self.occupied: dict[str, int] = {}

    def take_turns(self, names: Sequence[str]) -> None:
        """Run each once; the first result of each is compared with the source."""
        for name in names:
            self._prepare(name)
            if name == OURS:
                self.runs[name].append(run_ours(self._work, self._disk, self._destination))
            else:
                self.runs[name].append(PEERS[name](self._work, self._disk, self._destination))
            if name not in self.occupied:
                check_same(self._disk, self._destination, self._work.format)
                self.occupied[name] = occupied_bytes(self._destination)
        self._destination.unlink()

    def _prepare(self, name: str) -> None:
        self._destination.unlink(missing_ok=True)
        if self._work.is_incremental and name == OURS:
            shutil.copyfile(self._disk.path.with_name("earlier.qcow2"), self._destination)
        if self._work.is_cold:
            evict(self._disk.layers)
        warm_memory(min(self._disk.size_bytes, WARM_BYTES_MAX))

    def unlike(self) -> list[str]:
        """Peers that made a file of another sparseness; a compressed one may be of any size."""
        if self._work.is_compressed:
            return []
        ours = max(self.occupied[OURS], 1)
        return [
            name for name, theirs in self.occupied.items()
            if max(theirs, 1) / ours > UNLIKE_FACTOR or ours / max(theirs, 1) > UNLIKE_FACTOR
        ]  # fmt: skip

    def candidates(self) -> list[str]:
        """Ours and the peers that one round has not ruled out."""
        unlike = self.unlike()
        walls_s = {name: runs[0].wall_s for name, runs in self.runs.items() if name not in (OURS, *unlike)}
        limit_s = min(walls_s.values()) * CANDIDATE_FACTOR
        return [OURS, *(name for name, wall_s in walls_s.items() if wall_s <= limit_s)]


def measure_row(work: Work, disk: Disk, folder: Path, place: str, round_count: int) -> Row:
    """Every program once, then those that may be the best, in turns."""
    contest = _Contest(work, disk, folder)
    contest.take_turns(list(contest.runs))
    names = contest.candidates()
    for _ in range(round_count - 1):
        contest.take_turns(names)
    medians = {name: median(several) for name, several in contest.runs.items()}
    ours = medians.pop(OURS)
    peer_name = min((name for name in names if name != OURS), key=lambda name: medians[name].wall_s)
    occupied = contest.occupied
    return Row(
        work, place, ours, medians, peer_name, occupied[OURS], occupied[peer_name], contest.missing, contest.unlike()
    )


HEADER = (
    f"{'place':<11} {'copy':<26} {'ours s':>7} {'peer s':>7} {'best peer':<16} {'ratio':>6} {'goal':>5} "
    f"{'CPU s/GiB':>9} {'peer':>6} {'MiB':>4} {'peer':>5} {'du MiB':>7} {'peer':>6}  not reached"
)


def line_of(row: Row) -> str:
    """One row of the table: CPU per GiB that the result occupies, peak memory, and what the result takes."""
    ours, peer = row.ours, row.peer
    moved_gib = max(row.our_bytes, 1) / GIB
    goal = "" if row.work.goal is None else f"{row.work.goal:g}"
    return (
        f"{row.place:<11.11} {row.work.name:<26} {ours.wall_s:7.3f} {peer.wall_s:7.3f} {row.peer_name:<16} "
        f"{row.ratio:6.2f} {goal:>5} {ours.cpu_s / moved_gib:9.2f} {peer.cpu_s / moved_gib:6.2f} "
        f"{ours.peak_bytes / MIB:4.0f} {peer.peak_bytes / MIB:5.0f} {row.our_bytes / MIB:7.0f} "
        f"{row.peer_bytes / MIB:6.0f}  {', '.join(row.faults())}"
    ).rstrip()
