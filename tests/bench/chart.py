# SPDX-License-Identifier: Apache-2.0
"""The benchmark's picture: one bar per row, how many times as fast as the best peer, as an SVG without any library.

The scale is logarithmic, so that twice as fast and half as fast are as far from 1; a short line marks what is promised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

ROW_HEIGHT = 26
LABEL_WIDTH = 300
BAR_AREA_WIDTH = 460
MARGIN = 20
TITLE_HEIGHT = 56
FASTER, SLOWER = "#2a7f62", "#b5482a"


class Bar(NamedTuple):
    """One row: a ratio over 1 means that virtblock-copy is the faster."""

    label: str
    ratio: float
    goal: float | None = None


class _Scale:
    """From a ratio to a place on the page."""

    def __init__(self, bars: Sequence[Bar]) -> None:
        shown = [1.25, 0.9, *(bar.ratio for bar in bars), *(bar.goal or 1 for bar in bars)]
        self._low, self._high = math.log(min(shown)), math.log(max(shown))

    def x(self, ratio: float) -> float:
        return LABEL_WIDTH + MARGIN + (math.log(ratio) - self._low) / (self._high - self._low) * BAR_AREA_WIDTH


def ratio_chart(title: str, note: str, bars: Sequence[Bar]) -> str:
    """An SVG document."""
    scale = _Scale(bars)
    width = LABEL_WIDTH + BAR_AREA_WIDTH + 2 * MARGIN + 60
    height = TITLE_HEIGHT + ROW_HEIGHT * len(bars) + 2 * MARGIN
    one = scale.x(1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"',
        ' font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{MARGIN}" y="26" font-size="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="{MARGIN}" y="46" fill="#555">{escape(note)}</text>',
        *(_bar(number, bar, scale) for number, bar in enumerate(bars)),
        f'<line x1="{one:.1f}" y1="{TITLE_HEIGHT}" x2="{one:.1f}" y2="{height - MARGIN}" stroke="#333"/>',
        f'<text x="{one:.1f}" y="{height - 5}" text-anchor="middle" fill="#333">1 = as fast; dashed = promised</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bar(number: int, bar: Bar, scale: _Scale) -> str:
    top = TITLE_HEIGHT + ROW_HEIGHT * number + 4
    bottom = top + ROW_HEIGHT - 8
    left, right = sorted((scale.x(1), scale.x(bar.ratio)))
    color = FASTER if bar.ratio >= 1 else SLOWER
    goal = ""
    if bar.goal is not None:
        at = scale.x(bar.goal)
        goal = (
            f'<line x1="{at:.1f}" y1="{top - 3}" x2="{at:.1f}" y2="{bottom + 3}" stroke="#333" stroke-dasharray="3 2"/>'
        )
    return (
        f'<text x="{LABEL_WIDTH + MARGIN - 8}" y="{top + 14}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{bottom - top}" fill="{color}"/>'
        f'{goal}<text x="{right + 6:.1f}" y="{top + 14}">{bar.ratio:.2f}</text>'
    )
