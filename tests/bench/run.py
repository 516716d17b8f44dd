# SPDX-License-Identifier: Apache-2.0
"""virtblock-copy beside the programs that do the same: whole processes, in turns, on the same images.

The rules. Sources are in the page cache (read once before), or, in a row that says cold, out of it before each run.
Destinations are removed before each run, outside its time. Ours is durable when it ends; so that a peer is too, its
result is synced inside its time, which on tmpfs costs nothing. The best peer is the one with the lowest median; one
that its first run shows to be half as slow again as the best goes no further. Both results are compared with the source
by qemu-img, and what they occupy is printed, for a copy that keeps zeros would be another copy. Before each run memory
is taken and given back, or the host of a virtual machine would charge the first touch of it to whoever runs next.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# Run as a script, this folder is on the path; its parent makes `bench` importable as everywhere else.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.chart import Bar, ratio_chart
from bench.growth import Growth, measure_growth
from bench.images import Disks
from bench.limits import Limits, measure_limits
from bench.measure import adopt_orphans
from bench.peers import our_script
from bench.places import PLACES, Unavailable, file_system_of
from bench.rows import WORKS, Work
from bench.table import HEADER, Row, line_of, measure_row

from virtblock.engine.units import GIB, MIB

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "bench"
GROWTH_KEY = "growth"
LIMITS_KEY = "limits"


class Report:
    """Prints as it goes, and keeps everything for the files."""

    def __init__(self, note: str) -> None:
        self._lines: list[str] = []
        self.rows: list[Row] = []
        self.growth: list[Growth] = []
        self.limits: list[Limits] = []
        self._note = note
        self.say(f"{note}\n{HEADER}")

    def say(self, text: str) -> None:
        """To standard output and to results.txt."""
        self._lines.append(text)
        print(text, flush=True)

    def add_row(self, row: Row) -> None:
        """A row of the table, and which of its peers are not installed."""
        self.rows.append(row)
        self.say(line_of(row))
        for program in row.missing:
            self.say(f"{'':<11} not measured, because it is not installed: {program}")
        if row.unlike:
            self.say(f"{'':<11} out of the contest, because the result is not as sparse: {', '.join(row.unlike)}")

    def add_growth(self, growth: Growth) -> None:
        """A point of how the cost grows."""
        if not self.growth:
            self.say(
                f"\n{'growth':<20} {'':>5} {'wall s':>7} {'CPU s':>6} {'peak MiB':>8} {'data GiB':>8} {'wall/GiB':>8}"
            )
        self.growth.append(growth)
        run, data_gib = growth.run, growth.data_bytes / GIB
        self.say(
            f"{growth.line:<20} {growth.amount:5} {run.wall_s:7.3f} {run.cpu_s:6.2f} {run.peak_bytes / MIB:8.0f} "
            f"{data_gib:8.2f} {run.wall_s / data_gib:8.3f}"
        )

    def add_limits(self, limits: Limits) -> None:
        """The floors of a place."""
        self.limits.append(limits)
        self.say(
            f"\nlimits on {limits.place}, seconds per GiB in one thread: read {limits.read_s:.3f}, write over "
            f"{limits.overwrite_s:.3f}, write new {limits.write_s:.3f}, read and write {limits.read_write_s:.3f}, "
            f"copy_file_range {limits.copy_file_range_s:.3f}"
        )

    def write(self, folder: Path) -> None:
        """The table, the figures and the picture."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.txt").write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        figures = {
            "note": self._note,
            "rows": [_row_fields(row) for row in self.rows],
            "growth": [{**growth._asdict(), "run": growth.run._asdict()} for growth in self.growth],
            "limits": [limits._asdict() for limits in self.limits],
        }
        (folder / "results.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        bars = [Bar(f"{row.place}: {row.work.name}", row.ratio, row.work.goal) for row in self.rows]
        chart = ratio_chart("virtblock-copy beside the best peer", self._note, bars)
        (folder / "ratios.svg").write_text(chart, encoding="utf-8")


def _row_fields(row: Row) -> dict[str, object]:
    return {
        "key": row.work.key,
        "name": row.work.name,
        "place": row.place,
        "goal": row.work.goal,
        "ratio": row.ratio,
        "not_reached": row.faults(),
        "ours": row.ours._asdict(),
        "best_peer": row.peer_name,
        "peers": {name: run._asdict() for name, run in row.peers.items()},
        "our_bytes": row.our_bytes,
        "peer_bytes": row.peer_bytes,
        "not_installed": list(row.missing),
        "not_as_sparse": list(row.unlike),
    }


def _supported(work: Work) -> bool:
    """Whether this version has the options that the row needs."""
    text = subprocess.run([our_script(), "--help"], capture_output=True, text=True, check=True).stdout
    return all(option.split("=")[0] in text for option in work.options if option.startswith("--"))


def _measure_works(works: Sequence[Work], disks: Disks, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    place = file_system_of(folder)
    for number, work in enumerate(works):
        name = f"{work.disk}:{int(options.size * work.size_share * GIB)}" if work.size_share != 1 else work.disk
        disk = disks.get(name)
        subprocess.run(["sync", "-f", folder], check=True)
        yield measure_row(work, disk, folder, place, options.rounds)
        if all(later.disk != work.disk for later in works[number + 1 :]):
            disks.drop(name)


def _measure_place(place: str, options: argparse.Namespace, report: Report) -> None:
    works = [work for work in WORKS if work.place == place and _is_chosen(work.key, options)]
    lacking = [work for work in works if not _supported(work)]
    for work in lacking:
        report.say(f"{place:<11} {work.name:<26} this version has no {' '.join(work.options)}")
    works = [work for work in works if work not in lacking]
    has_growth = place == "tmpfs" and _is_chosen(GROWTH_KEY, options)
    has_limits = place != "xfs" and _is_chosen(LIMITS_KEY, options)
    if not (works or has_growth or has_limits):
        return
    with PLACES[place](ROOT / "build") as folder:
        disks = Disks(folder, int(options.size * GIB))
        for row in _measure_works(works, disks, folder, options):
            report.add_row(row)
        if has_limits:
            report.add_limits(measure_limits(file_system_of(folder), folder))
        if has_growth:
            sizes_gib = (1, 2) if options.fast else (1, 2, 4, 8)
            for growth in measure_growth(disks, folder, options.rounds, sizes_gib):
                report.add_growth(growth)


def _is_chosen(key: str, options: argparse.Namespace) -> bool:
    return not options.rows or key in options.rows


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with its defaults filled in."""
    keys = [*(work.key for work in WORKS), GROWTH_KEY, LIMITS_KEY]
    parser = argparse.ArgumentParser(description="Copying speed beside other programs'.")
    parser.add_argument("--rows", default="", metavar="KEY,…", help=f"only these: {', '.join(keys)}")
    parser.add_argument("--fast", action="store_true", help="small disks and few rounds: shows that it works, no more")
    parser.add_argument("--size", type=float, metavar="GiB", help="size of a usual disk (default 2)")
    parser.add_argument("--rounds", type=int, help="runs of each program in each row (default 5)")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR", help="for the table and the picture")
    options = parser.parse_args(arguments)
    options.size = options.size or (0.25 if options.fast else 2)
    options.rounds = options.rounds or (2 if options.fast else 5)
    options.rows = [key for key in options.rows.replace(" ", ",").split(",") if key]
    for key in options.rows:
        if key not in keys:
            parser.error(f"no row '{key}'; there are {', '.join(keys)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the results; 1 if the program to compare with is missing."""
    options = _parse(arguments)
    if shutil.which("qemu-img") is None:
        print("The benchmark needs qemu-img (on Debian: apt install qemu-utils).", file=sys.stderr)
        return 1
    adopt_orphans()
    (ROOT / "build").mkdir(exist_ok=True)
    version = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout
    report = Report(
        f"{options.size:g} GiB disks with 40 % data, both durable at the end, medians of {options.rounds} rounds; "
        f"{version.split('(')[0].strip()}; ratio over 1: ours is faster"
    )
    for place in PLACES:
        try:
            _measure_place(place, options, report)
        except Unavailable as reason:
            report.say(f"{place:<11} not measured: {reason}")
    report.write(options.output)
    print(f"Written to {options.output}: results.txt, results.json, ratios.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
