# SPDX-License-Identifier: Apache-2.0
"""The benchmark itself works: every row is measured, compared and written down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench.chart import ratio_chart

SCRIPT = Path(__file__).with_name("run.py")


@pytest.mark.slow
def test_a_small_run(tmp_path: Path) -> None:
    """On disks of 16 MiB the figures mean nothing, but each row is there and the picture is whole."""
    options = ["--size", "0.015625", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--place", tmp_path, "--output", tmp_path / "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(rows) == 8
    for row in rows:
        assert row["ratio"] > 0
        assert row["ours"]["cpu_s"] > 0
        assert row["ours"]["peak_bytes"] > 1024 * 1024
    assert (tmp_path / "out" / "results.txt").read_text().count("\n") == 10
    ElementTree.fromstring((tmp_path / "out" / "ratios.svg").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_chart_marks_what_is_slower() -> None:
    """A bar for each row, and names that hold markup do no harm."""
    chart = ElementTree.fromstring(ratio_chart("a < b", "note & more", [("fast", 1.5), ("slow <x>", 0.5)]))
    bars = [node for node in chart if node.tag.endswith("rect")][1:]
    assert len(bars) == 2
    assert bars[0].get("fill") != bars[1].get("fill")
    assert float(bars[0].get("width", 0)) == pytest.approx(3 * float(bars[1].get("width", 0)), rel=0.01)
