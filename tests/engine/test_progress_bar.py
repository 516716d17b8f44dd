# SPDX-License-Identifier: Apache-2.0
"""The bar and the lines that tell how far a copy is, and how sizes and rates are written."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from engine.sources import GIB, KIB, MIB, TIB
from hypothesis import given
from hypothesis import strategies as st

from virtblock.engine.progress_bar import ERASE_LINE, ProgressBar, Rate, percent_of
from virtblock.engine.units import bytes_text, duration_text, parse_rate, parse_size


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def reading(
    moved_mib: int, seconds: float, *, phase: str = "copying", total_mib: int = 1000, paused: bool = False
) -> Any:
    """As `Copy.progress()` would give it."""
    return SimpleNamespace(
        phase=phase,
        paused=paused,
        total_bytes=total_mib * MIB,
        moved_bytes=moved_mib * MIB,
        remaining_bytes=(total_mib - moved_mib) * MIB,
        elapsed_ns=int(seconds * 1e9),
    )


def test_lines_every_ten_per_cent() -> None:
    """Elsewhere than on a terminal: a line at each tenth, none twice, 100 % only at the end."""
    stream = io.StringIO()
    bar = ProgressBar(stream)
    for step in range(201):
        bar.show(reading(step * 5, step / 10))
    bar.finish(reading(1000, 20.1, phase="done"))
    lines = stream.getvalue().splitlines()
    assert [int(line.split()[0]) for line in lines] == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert lines[4] == " 50 %  500 MiB of 1000 MiB  50.0 MiB/s  0:10 left"
    assert "\r" not in stream.getvalue()


def test_a_jump_prints_one_line() -> None:
    """A copy that is done at once says so in a single line."""
    stream = io.StringIO()
    bar = ProgressBar(stream)
    bar.show(reading(0, 0, phase="planning", total_mib=0))
    bar.finish(reading(1000, 0.5, phase="done"))
    assert stream.getvalue().splitlines() == ["100 %  1000 MiB of 1000 MiB  1.95 GiB/s"]


def test_terminal_redraws_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar with percent, rate and time left, within the terminal's width, ended by one newline."""
    monkeypatch.setattr(ProgressBar, "_columns", lambda self: 100)
    stream = Terminal()
    bar = ProgressBar(stream)
    for step in range(11):
        bar.show(reading(step * 50, step))
    bar.finish(reading(500, 10.1, phase="failed"))
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    drawings = text.rstrip("\n").split(ERASE_LINE)[1:]
    assert len(drawings) == 12
    assert all(len(drawing) < 100 for drawing in drawings)
    assert drawings[10] == f" 50.0 % [{'#' * 20}{'.' * 20}] 500 MiB of 1000 MiB  50.0 MiB/s  0:10 left"


@pytest.mark.parametrize("columns", [1, 10, 40, 60, 200])
def test_narrow_terminals(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line never wraps, for a wrapped line cannot be erased."""
    monkeypatch.setattr(ProgressBar, "_columns", lambda self: columns)
    stream = Terminal()
    ProgressBar(stream).show(reading(123, 1.0))
    assert len(stream.getvalue().removeprefix(ERASE_LINE)) <= max(columns - 1, 1)


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (50, " 50.0 %  50.0 MiB/s  0:10 left"),
        (20, " 50.0 %  0:10 left"),
        (15, " 50.0 %"),
    ],
)
def test_narrow_terminals_get_whole_words(columns: int, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is left out from the left: the time left matters most."""
    monkeypatch.setattr(ProgressBar, "_columns", lambda self: columns)
    stream = Terminal()
    bar = ProgressBar(stream)
    for step in range(11):
        bar.show(reading(step * 50, step))
    assert stream.getvalue().split(ERASE_LINE)[-1] == line


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot erase."""
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    ProgressBar(stream).show(reading(500, 1))
    assert stream.getvalue() == " 50 %  500 MiB of 1000 MiB\n"


def test_a_rate_that_is_not_known_is_not_shown() -> None:
    """One reading says nothing of the speed, least of all that it is 0."""
    stream = io.StringIO()
    ProgressBar(stream).finish(reading(1000, 0.5, phase="done"))
    assert stream.getvalue() == "100 %  1000 MiB of 1000 MiB\n"


@pytest.mark.parametrize(
    ("now", "word"),
    [
        (reading(0, 0.1, phase="planning", total_mib=0), "planning"),
        (reading(500, 1.0, paused=True), "paused"),
        (reading(1000, 1.0, phase="flushing"), "flushing"),
    ],
)
def test_phases_have_words(now: Any, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the copy does when nothing moves is said."""
    monkeypatch.setattr(ProgressBar, "_columns", lambda self: 100)
    stream = Terminal()
    ProgressBar(stream).show(now)
    assert word in stream.getvalue()


def test_rate_follows_the_last_seconds() -> None:
    """After a changed limit the old speed is forgotten within the window."""
    rate = Rate()
    for tenth in range(100):
        rate.add(tenth / 10, tenth * 100 * MIB)
    for tenth in range(100, 200):
        rate.add(tenth / 10, 99 * 100 * MIB + (tenth - 99) * MIB)
    assert rate.bytes_per_s == pytest.approx(10 * MIB, rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=50))
def test_percent_never_falls_and_never_lies(readings: list[tuple[int, bool]]) -> None:
    """Whatever order readings come in; 100 % belongs to a copy that is done."""
    bar = ProgressBar(io.StringIO())
    shown = [0.0]
    for number, (moved, is_flushing) in enumerate(readings):
        bar.show(reading(moved, number, phase="flushing" if is_flushing else "copying"))
        shown.append(bar._percent)
    assert shown == sorted(shown)
    assert max(shown) < 100
    assert percent_of(reading(0, 0, phase="done", total_mib=0)) == 100


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (64 * KIB, "64.0 KiB"),
        (1536 * KIB, "1.50 MiB"),
        (999 * MIB, "999 MiB"),
        (2 * GIB, "2.00 GiB"),
        (16 * TIB, "16.0 TiB"),
        (4096 * TIB, "4.00 PiB"),
        (2**63 - 512, "8.00 EiB"),
    ],
)
def test_sizes_for_reading(count: int, text: str) -> None:
    """Three digits in the unit that fits."""
    assert bytes_text(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (754, "12:34"), (10869, "3:01:09")])
def test_durations_for_reading(seconds: float, text: str) -> None:
    """Minutes and seconds, hours when there are any."""
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("100", 100 * MIB), ("0", 0), ("0.5", 512 * KIB), ("1.5G", 1536 * MIB), ("500KiB", 500 * KIB),
        ("20MiB/s", 20 * MIB), ("20 M", 20 * MIB), (" 2T ", 2 * TIB),
    ],
)  # fmt: skip
def test_rates_are_read(text: str, bytes_per_s: int) -> None:
    """A bare number is MiB/s, as everywhere in libvirt."""
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1e3", "20MB", "5iB", "1..2", "1,5", "٣", "0.0000001", "9" * 30, "1/s/s"]
)
def test_nonsense_is_no_rate(text: str) -> None:
    """Powers of ten, signs and other digits are refused rather than guessed at."""
    with pytest.raises(ValueError, match="rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("65536", 64 * KIB), ("64K", 64 * KIB), ("64 KiB", 64 * KIB), ("2M", 2 * MIB), ("0", 0)]
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    """A bare number is bytes."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5K", "64KB", "64k", "9" * 30])
def test_nonsense_is_no_size(text: str) -> None:
    """Fractions, signs and powers of ten are refused."""
    with pytest.raises(ValueError, match="size"):
        parse_size(text)
