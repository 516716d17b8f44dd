# SPDX-License-Identifier: Apache-2.0
"""The bar and the line: what is drawn for which reading."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtblock.cli.output import Output, table_text, width_of
from virtblock.cli.progress import Bar, PercentLine, make_display, percent_of

MIB = 1024 * 1024


class Terminal(io.StringIO):
    """Says that it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    def isatty(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def drawn(stream: io.StringIO) -> list[str]:
    """The lines in the order in which they replaced each other."""
    return [line.replace("\x1b[K", "") for line in stream.getvalue().split("\r")[1:]]


def test_the_bar_has_per_cent_rate_and_time_left() -> None:
    stream = Terminal()
    bar = Bar(stream, "Block Copy", columns=60)
    bar.show(61 * MIB, 100 * MIB, 412 * MIB, 12)
    bar.show(61 * MIB, 100 * MIB, 412 * MIB, 12)
    bar.finish()
    bar.leave()
    first, last = drawn(stream)
    # 18 cells are left of 60 columns: 61 per cent of them are 10 and 7/8.
    assert first == f"Block Copy: [{'█' * 10}▉{' ' * 7}]  61 %  412 MiB/s  ETA 0:12"
    assert width_of(first) == 59
    assert last == f"Block Copy: [{'█' * 39}] 100 %\n"


@pytest.mark.parametrize(
    ("rate", "eta_s", "text"),
    [
        (412 * MIB, 12, " 50 %  412 MiB/s  ETA 0:12"),
        (5 * MIB // 4, 3661, " 50 %  1.25 MiB/s  ETA 1:01:01"),
        (2000, 0, " 50 %  1.95 KiB/s  ETA 0:00"),
        (10 * MIB, -1, " 50 %  10.0 MiB/s  ETA 0:05"),
        (0, -1, " 50 %"),
    ],
)
def test_rate_and_time_left(rate: int, eta_s: int, text: str) -> None:
    """A time left that is not known is reckoned from the rate; without a rate there is neither."""
    stream = Terminal()
    Bar(stream, "Block Copy", columns=80).show(50 * MIB, 100 * MIB, rate, eta_s)
    assert drawn(stream)[0].split("]")[1] == f" {text}"


@given(
    st.integers(20, 200),
    st.lists(st.tuples(st.integers(0, 2**50), st.integers(0, 2**50)), max_size=5),
    st.integers(0, 2**60),
    st.integers(-1, 10**9),
)
def test_the_bar_always_fits_its_terminal(columns: int, readings: list[tuple[int, int]], rate: int, eta_s: int) -> None:
    stream = Terminal()
    bar = Bar(stream, "Block Copy", columns=columns)
    for cur, end in readings:
        bar.show(min(cur, end), end, rate, eta_s)
    bar.finish()
    assert all(width_of(line) < columns for line in drawn(stream))


@given(st.integers(0, 2**64), st.integers(0, 2**64))
def test_100_is_never_shown_too_early(cur: int, end: int) -> None:
    assert (percent_of(min(cur, end), end) == 100) == (cur >= end > 0)


def test_a_terminal_without_blocks_gets_hashes() -> None:
    stream = Terminal("ascii")
    Bar(stream, "Block Copy", columns=60).show(1, 2, 0, -1)
    assert "####" in drawn(stream)[0]
    assert drawn(stream)[0].isascii()


def test_the_display_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_display(Terminal(), "x"), Bar)
    assert isinstance(make_display(io.StringIO(), "x"), PercentLine)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(Terminal(), "x"), PercentLine)


def test_on_a_terminal_an_error_has_a_line_of_its_own() -> None:
    """Where virsh leaves a line open, and over a pipe as virsh does."""
    for out, expected in ((Terminal(), "\nCopy failed\n\n"), (io.StringIO(), "\nCopy failed\n")):
        output = Output(out, io.StringIO())
        output.result(None, extra="\nCopy failed")
        output.error(["no space"], None)
        output.end_command()
        assert out.getvalue() == expected


def test_a_name_cannot_draw_on_the_terminal() -> None:
    """Control characters are escaped, and wide ones counted as what they take."""
    assert table_text(["A", "B"], [["x\x1b[2J", "1"], ["磁盘", "2"]]) == (
        " A          B\n---------------\n x\\x1b[2J   1\n 磁盘       2\n"
    )
