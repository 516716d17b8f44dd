# SPDX-License-Identifier: Apache-2.0
"""The progress of a block job on standard error: a bar on a terminal, virsh's line elsewhere.

Owns: what is drawn while a wait goes on. Invariants: 100 is shown only when cur equals end, or when the job is done;
nothing is drawn twice; the bar fits into one line of the terminal.
"""

from __future__ import annotations

import os
import time
from typing import Protocol, TextIO

from virtblock.cli.output import width_of, write_aside
from virtblock.cli.sizes import pretty_capacity

BAR_CELLS_MAX = 40
BAR_CELLS_MIN = 8
RATE_WINDOW_S = 5.0
ERASE_TO_END = "\x1b[K"
# Eighths of a cell, from one on.
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"


class Display(Protocol):
    """Shows readings of one job.

    `counts_data`: readings are bytes of data, moved and all, where the server tells them; else libvirt's cur and end,
    in which a sparse disk's holes are work done at once.
    """

    counts_data: bool

    def show(self, cur: int, end: int, rate_bytes_per_s: int, eta_s: int) -> None:
        """A reading. Rate 0: not told; time left -1: not known."""

    def finish(self) -> None:
        """The job got where it was to get."""

    def leave(self) -> None:
        """End the line, for what follows does not."""


def percent_of(cur: int, end: int) -> int:
    """Whole per cent as virsh counts: rounded down, 100 only when nothing is left; 0 while the work is not known."""
    if end == 0:
        return 0
    if cur >= end:
        return 100
    return min(int(100 * cur / end), 99)


def percent_line(label: str, percent: int) -> str:
    """virsh's reading, which begins by going back to the line's begin."""
    return f"\r{label}: [{percent:3d} %]"


class PercentLine:
    """virsh's own form, for logs and programs that read it."""

    counts_data = False

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream = stream
        self._label = label
        self._shown = ""

    def show(self, cur: int, end: int, rate_bytes_per_s: int, eta_s: int) -> None:
        """Write the per cent when they changed."""
        self._write(percent_line(self._label, percent_of(cur, end)))

    def finish(self) -> None:
        """Write 100."""
        self._write(percent_line(self._label, 100))

    def leave(self) -> None:
        """End the line, which virsh leaves open for a text that begins with a line end."""
        if self._shown:
            write_aside(self._stream, "\n")

    def _write(self, line: str) -> None:
        if line == self._shown:
            return
        self._shown = line
        write_aside(self._stream, line)


class Bar:
    """One line that redraws itself: `Block Copy: [███████▌    ] 61 %  412 MiB/s  ETA 0:12`."""

    counts_data = True

    def __init__(self, stream: TextIO, label: str, *, columns: int | None = None) -> None:
        self._stream = stream
        self._label = label
        self._columns = columns
        self._readings: list[tuple[float, int]] = []
        self._shown = ""
        can_draw = can_encode(stream, _FULL + _EIGHTHS)
        self._full, self._eighths = (_FULL, _EIGHTHS) if can_draw else ("#", " ")

    def show(self, cur: int, end: int, rate_bytes_per_s: int, eta_s: int) -> None:
        """Draw a reading. A rate that was not told is measured."""
        rate = float(rate_bytes_per_s) or self._measured_rate(cur)
        if eta_s < 0 and rate > 0 and end > cur:
            eta_s = round((end - cur) / rate)
        notes = [f"{percent_of(cur, end):3d} %"]
        if rate > 0:
            notes.append(f"{rate_text(rate)}/s")
        if eta_s >= 0 and cur < end:
            notes.append(f"ETA {duration_text(eta_s)}")
        self._draw(cur / end if end else 0.0, "  ".join(notes))

    def finish(self) -> None:
        """Draw a full bar."""
        self._draw(1.0, "100 %")

    def leave(self) -> None:
        """Go to the next line."""
        if self._shown:
            write_aside(self._stream, "\n")

    def _measured_rate(self, cur: int) -> float:
        now_s = time.monotonic()
        self._readings.append((now_s, cur))
        while len(self._readings) > 2 and now_s - self._readings[1][0] >= RATE_WINDOW_S:
            del self._readings[0]
        (first_s, first_cur), (last_s, last_cur) = self._readings[0], self._readings[-1]
        return (last_cur - first_cur) / (last_s - first_s) if last_s > first_s else 0.0

    def _draw(self, share: float, notes: str) -> None:
        columns = self._columns or columns_of(self._stream)
        # The last column stays free: a terminal may wrap when it is written.
        cells = min(columns - 1 - width_of(f"{self._label}: [] {notes}"), BAR_CELLS_MAX)
        if cells >= BAR_CELLS_MIN:
            line = f"{self._label}: [{self._cells(share, cells)}] {notes}"
        else:
            line = f"{self._label}: {notes}"[: max(columns - 1, 1)]
        if line == self._shown:
            return
        self._shown = line
        write_aside(self._stream, f"\r{line}{ERASE_TO_END}")

    def _cells(self, share: float, cells: int) -> str:
        steps = len(self._eighths)
        full, part = divmod(int(min(share, 1.0) * cells * steps), steps)
        drawn = self._full * full + (self._eighths[part] if part else "")
        return drawn.ljust(cells)


def rate_text(rate_bytes_per_s: float) -> str:
    """`412 MiB`, `1.25 GiB`: three digits, for more only flicker."""
    value, unit = pretty_capacity(int(rate_bytes_per_s))
    digits = 0 if value >= 100 or unit == "B" else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def duration_text(duration_s: int) -> str:
    """`0:07`, `12:34`, `3:01:09`."""
    minutes, seconds = divmod(duration_s, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def can_encode(stream: TextIO, text: str) -> bool:
    """Whether the stream can show all of the text."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def columns_of(stream: TextIO) -> int:
    """The width of the terminal behind the stream; 80 where it is not known."""
    try:
        # A terminal that nobody sized says 0.
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def make_display(stream: TextIO, label: str) -> Display:
    """A bar on a terminal that can move its cursor, virsh's line anywhere else."""
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Bar(stream, label)
    return PercentLine(stream, label)
