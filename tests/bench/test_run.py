# SPDX-License-Identifier: Apache-2.0
"""The benchmark itself works: rows are measured, compared and written down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench.chart import Bar, ratio_chart
from bench.peers import PEERS
from bench.places import PLACES
from bench.rows import WORKS

SCRIPT = Path(__file__).with_name("run.py")
KEYS = ["raw", "chain", "small", "shallow"]


@pytest.mark.slow
def test_a_small_run(tmp_path: Path) -> None:
    """On disks of 16 MiB the figures mean nothing, but each row is there and the picture is whole."""
    options = ["--size", "0.015625", "--rounds", "1", "--rows", ",".join(KEYS)]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--output", tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["key"] for row in results["rows"]] == [work.key for work in WORKS if work.key in KEYS]
    for row in results["rows"]:
        assert row["ratio"] > 0
        assert row["best_peer"] in row["peers"]
        assert row["peers"]
        assert row["ours"]["cpu_s"] > 0
        assert row["ours"]["peak_bytes"] > 1024 * 1024
    assert (tmp_path / "out" / "results.txt").read_text().count("\n") >= 2 + len(KEYS)
    ElementTree.fromstring((tmp_path / "out" / "ratios.svg").read_text())


def test_rows_name_what_exists() -> None:
    """Every row's key is its own, and its peers and place are known."""
    assert len({work.key for work in WORKS}) == len(WORKS)
    for work in WORKS:
        assert set(work.peers) <= set(PEERS)
        assert work.place in PLACES


ORPHAN = """
import shlex
import sys
from bench.measure import adopt_orphans, run
adopt_orphans()
burn = "x = bytearray(40_000_000)\\nfor _ in range(2_000_000): pass"
alone = run([sys.executable, "-c", burn])
left = run(["sh", "-c", f"{shlex.quote(sys.executable)} -c '{burn}' &"])
print(alone.peak_bytes, left.cpu_s)
"""


def test_a_run_counts_what_it_leaves_behind() -> None:
    """CPU time of what outlives the command counts; tried in a process of its own, for it reaps all children."""
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    peak_bytes, cpu_s = map(float, done.stdout.split())
    assert peak_bytes > 40_000_000
    assert cpu_s > 0.01  # the shell alone takes a tenth of that


def test_chart_marks_what_is_slower() -> None:
    """A bar for each row, and names that hold markup do no harm."""
    bars = [Bar("a < b", 2, 1.5), Bar("slow <x>", 0.5)]
    chart = ElementTree.fromstring(ratio_chart("a < b", "note & more", bars))
    drawn = [node for node in chart if node.tag.endswith("rect")][1:]
    assert len(drawn) == 2
    assert drawn[0].get("fill") != drawn[1].get("fill")
    assert float(drawn[0].get("width", 0)) == pytest.approx(float(drawn[1].get("width", 0)), rel=0.01)
