# SPDX-License-Identifier: Apache-2.0
"""A copy's progress for a person: a bar that redraws itself on a terminal, a line every ten per cent elsewhere.

Owns what is written to its stream between the start and the end of one copy. Never shows 100 % before the copy is done,
and never goes back. A stream that takes nothing more ends the drawing, never the copy.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

from virtblock.engine.units import bytes_text, duration_text

if TYPE_CHECKING:
    from virtblock.engine import CopyProgress

REDRAW_INTERVAL_S = 0.1
# The rate is that of the last few seconds: it follows a changed limit, yet does not jump with every chunk.
RATE_WINDOW_S = 5.0
LINE_STEP_PERCENT = 10
BAR_WIDTH_MIN = 10
BAR_WIDTH_MAX = 40
ERASE_LINE = "\r\x1b[K"


class Rate:
    """Bytes per second over the last `RATE_WINDOW_S` seconds."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    def add(self, time_s: float, moved_bytes: int) -> None:
        """Take a reading; older ones than the window's first are forgotten."""
        self._samples.append((time_s, moved_bytes))
        while len(self._samples) > 2 and time_s - self._samples[1][0] >= RATE_WINDOW_S:
            del self._samples[0]

    @property
    def bytes_per_s(self) -> float | None:
        """None until two readings lie apart."""
        if len(self._samples) < 2:
            return None
        (first_s, first_bytes), (last_s, last_bytes) = self._samples[0], self._samples[-1]
        return (last_bytes - first_bytes) / (last_s - first_s) if last_s > first_s else None


class ProgressBar:
    """Draws readings of one copy; `show` as often as one likes, `finish` once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._draws_bar = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._is_broken = False
        self._rate = Rate()
        self._percent = 0.0
        self._printed_percent = 0

    def show(self, progress: CopyProgress) -> None:
        """Draw one reading."""
        self._rate.add(progress.elapsed_ns / 1e9, progress.moved_bytes)
        self._percent = max(self._percent, percent_of(progress))
        if self._draws_bar:
            self._write(ERASE_LINE + self._bar_line(progress))
        elif self._percent >= self._printed_percent + LINE_STEP_PERCENT:
            self._printed_percent = int(self._percent) // LINE_STEP_PERCENT * LINE_STEP_PERCENT
            self._write(f"{self._printed_percent:3d} %  {'  '.join(self._numbers(progress))}\n")

    def finish(self, progress: CopyProgress) -> None:
        """Draw the last reading and leave the line."""
        self.show(progress)
        if self._draws_bar:
            self._write("\n")

    def _bar_line(self, progress: CopyProgress) -> str:
        columns, head, numbers = self._columns(), f"{self._percent:5.1f} % ", self._numbers(progress)
        room = columns - len(head) - len("  ".join(numbers)) - 4
        if room >= BAR_WIDTH_MIN:
            width = min(room, BAR_WIDTH_MAX)
            filled = int(width * self._percent / 100)
            return f"{head}[{'#' * filled}{'.' * (width - filled)}] {'  '.join(numbers)}"
        # What is left is told longest, after how far it is.
        while numbers and len(head) + 1 + len("  ".join(numbers)) >= columns:
            del numbers[0]
        return f"{head} {'  '.join(numbers)}".rstrip()[: max(columns - 1, 1)]

    def _numbers(self, progress: CopyProgress) -> list[str]:
        if progress.total_bytes == 0 and progress.phase in ("new", "planning"):
            return ["planning"]
        parts = [f"{bytes_text(progress.moved_bytes)} of {bytes_text(progress.total_bytes)}"]
        rate = self._rate.bytes_per_s
        if progress.paused:
            parts.append("paused")
        elif rate is not None:
            parts.append(f"{bytes_text(rate)}/s")
        if progress.phase == "flushing":
            parts.append("flushing")
        elif progress.phase == "copying" and rate:
            parts.append(f"{duration_text(progress.remaining_bytes / rate)} left")
        return parts

    def _columns(self) -> int:
        try:
            # A terminal that nobody sized says 0.
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _write(self, text: str) -> None:
        if self._is_broken:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._is_broken = True  # nobody looks any more: a closed pipe, a terminal that hung up, a full disk


def percent_of(progress: CopyProgress) -> float:
    """0 to 100; 100 only when the copy is done, for before that nothing is promised."""
    if progress.phase == "done":
        return 100.0
    if progress.total_bytes == 0:
        return 0.0
    return min(100.0 * progress.moved_bytes / progress.total_bytes, 99.9)
