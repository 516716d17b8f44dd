# SPDX-License-Identifier: Apache-2.0
"""virtblock-copy beside `qemu-img convert`, whole process against whole process, in turns on the same images.

The rules. Sources are in the page cache (read once before). Destinations are removed before each run, outside its
time. Ours is durable when it ends; so that the peer is too, `sync FILE` runs after it inside its time, which on tmpfs
costs nothing. The peer is the best, by its median, of three: plain, `-W -m 16`, and `-C`. Medians over all rounds. Both
results are compared with the source by qemu-img once per row, and what they occupy is printed, for a copy that keeps
zeros would be another copy.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# Run as a script, this folder is on the path; its parent makes `bench` importable as everywhere else.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.chart import ratio_chart
from bench.images import Disk, make_disks
from bench.measure import Run, run

from virtblock.engine.units import GIB, MIB

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "bench"
PEERS = {"plain": [], "-W -m 16": ["-W", "-m", "16"], "-C": ["-C"]}
OURS = "virtblock-copy"


class Case(NamedTuple):
    """One row: what is copied, and how both programs are asked for it."""

    name: str
    disk: str
    options: tuple[str, ...]
    destination_format: str
    is_shallow: bool = False


CASES = (
    Case("raw → raw", "raw", (), "raw"),
    Case("qcow2 → qcow2", "qcow2", (), "qcow2"),
    Case("qcow2 → raw", "qcow2", ("--raw",), "raw"),
    Case("chain of 3 → qcow2", "chain", (), "qcow2"),
    Case("chain of 3 → raw", "chain", ("--raw",), "raw"),
    Case("zlib → qcow2", "zlib", (), "qcow2"),
    Case("zstd → qcow2", "zstd", (), "qcow2"),
    Case("chain of 3, shallow", "chain", ("--shallow",), "qcow2", is_shallow=True),
)


class Row(NamedTuple):
    """The medians of one case in one place."""

    place: str
    case: str
    ours: Run
    peer: Run
    peer_name: str
    our_bytes: int
    peer_bytes: int

    @property
    def ratio(self) -> float:
        """How many times as fast as the best peer."""
        return self.peer.wall_s / self.ours.wall_s


def our_command(case: Case, disk: Disk, destination: Path) -> list[str]:
    """The console script of this environment."""
    script = Path(sys.executable).with_name(OURS)
    return [str(script), "--source-format", disk.format, *case.options, str(disk.path), str(destination)]


def peer_command(case: Case, disk: Disk, destination: Path, options: Sequence[str]) -> list[str]:
    """The same copy by qemu-img; shallow is its -B, which leaves out what the backing file holds."""
    backing = ["-B", str(disk.path.with_name("snap1.qcow2")), "-F", "qcow2"] if case.is_shallow else []
    formats = ["-f", disk.format, "-O", case.destination_format]
    return ["qemu-img", "convert", *formats, *options, *backing, str(disk.path), str(destination)]


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


def measure_case(case: Case, disk: Disk, folder: Path, place: str, round_count: int) -> Row:
    """All programs in turns, so that a slow moment of the machine strikes each of them."""
    destination = folder / "destination"
    runs: dict[str, list[Run]] = {name: [] for name in (OURS, *PEERS)}
    occupied: dict[str, int] = {}
    for round_number in range(round_count):
        for name in runs:
            destination.unlink(missing_ok=True)
            if name == OURS:
                runs[name].append(run(our_command(case, disk, destination)))
            else:
                converted = run(peer_command(case, disk, destination, PEERS[name]))
                runs[name].append(converted + run(["sync", str(destination)]))
            if round_number == 0:
                check_same(disk, destination, case.destination_format)
                occupied[name] = occupied_bytes(destination)
    destination.unlink()
    medians = {name: median(several) for name, several in runs.items()}
    peer_name = min(PEERS, key=lambda name: medians[name].wall_s)
    return Row(place, case.name, medians[OURS], medians[peer_name], peer_name, occupied[OURS], occupied[peer_name])


def median(runs: Sequence[Run]) -> Run:
    """Of each figure by itself; of the peaks the highest, for a peak is a promise."""
    return Run(
        statistics.median(one.wall_s for one in runs),
        statistics.median(one.cpu_s for one in runs),
        max(one.peak_bytes for one in runs),
    )


@contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """A folder of our own in a place, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="virtblock-bench-", dir=place) as folder:
        yield Path(folder)


def measure_place(place: Path, size_bytes: int, round_count: int) -> Iterator[Row]:
    """Every case in one place."""
    with scratch(place) as folder:
        disks = make_disks(folder, size_bytes)
        for disk in disks.values():
            # Into the page cache, as the rules say; and on the disk, so that no writing back disturbs the first run.
            check_same(disk, disk.path, disk.format)
        subprocess.run(["sync"], check=True)
        for case in CASES:
            yield measure_case(case, disks[case.disk], folder, str(place), round_count)


HEADER = (
    f"{'place':<14} {'copy':<20} {'ours s':>7} {'peer s':>7} {'best peer':<9} {'ratio':>6} "
    f"{'CPU s':>6} {'peer':>6} {'peak MiB':>8} {'peer':>5} {'du MiB':>7} {'peer':>6}"
)


def line_of(row: Row) -> str:
    """One row of the table."""
    ours, peer = row.ours, row.peer
    return (
        f"{row.place:<14.14} {row.case:<20} {ours.wall_s:7.3f} {peer.wall_s:7.3f} {row.peer_name:<9} {row.ratio:6.2f} "
        f"{ours.cpu_s:6.2f} {peer.cpu_s:6.2f} {ours.peak_bytes / MIB:8.0f} {peer.peak_bytes / MIB:5.0f} "
        f"{row.our_bytes / MIB:7.0f} {row.peer_bytes / MIB:6.0f}"
    )


def write_results(folder: Path, rows: Sequence[Row], note: str) -> None:
    """The table, the figures and the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    table = "\n".join([note, HEADER, *map(line_of, rows)])
    (folder / "results.txt").write_text(table + "\n", encoding="utf-8")
    figures = [
        {**row._asdict(), "ours": row.ours._asdict(), "peer": row.peer._asdict(), "ratio": row.ratio} for row in rows
    ]
    (folder / "results.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    bars = [(f"{row.place}: {row.case}", row.ratio) for row in rows]
    chart = ratio_chart("virtblock-copy beside the best qemu-img convert", note, bars)
    (folder / "ratios.svg").write_text(chart, encoding="utf-8")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with its defaults filled in."""
    parser = argparse.ArgumentParser(description="Copying speed beside qemu-img's.")
    parser.add_argument("--size", type=float, metavar="GiB", help="size of each disk (default 2)")
    parser.add_argument("--rounds", type=int, help="runs of each program in each row (default 5)")
    parser.add_argument(
        "--quick", action="store_true", help="a small disk and few rounds: shows that it works, no more"
    )
    parser.add_argument(
        "--place", type=Path, action="append", metavar="DIR", help="where to copy (default /dev/shm and build/)"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR", help="for the table and the picture")
    options = parser.parse_args(arguments)
    options.size = options.size or (0.25 if options.quick else 2)
    options.rounds = options.rounds or (3 if options.quick else 5)
    if options.place is None:
        (ROOT / "build").mkdir(exist_ok=True)
        options.place = [Path("/dev/shm"), ROOT / "build"]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the results; 1 if a program is missing."""
    options = parse(arguments)
    if shutil.which("qemu-img") is None:
        print("The benchmark needs qemu-img (on Debian: apt install qemu-utils).", file=sys.stderr)
        return 1
    version = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout
    note = (
        f"{options.size:g} GiB disks, hot cache, both durable at the end, medians of {options.rounds} rounds; "
        f"{version.split('(')[0].strip()}; ratio over 1: ours is faster"
    )
    print(f"{note}\n{HEADER}", flush=True)
    rows = []
    for place in options.place:
        for row in measure_place(place, int(options.size * GIB), options.rounds):
            rows.append(row)
            print(line_of(row), flush=True)
    write_results(options.output, rows, note)
    print(f"Written to {options.output}: results.txt, results.json, ratios.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
