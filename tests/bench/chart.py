# SPDX-License-Identifier: Apache-2.0
"""The benchmark's picture: one bar per row, how many times as fast as the best peer, as an SVG without any library."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

ROW_HEIGHT = 26
LABEL_WIDTH = 260
BAR_AREA_WIDTH = 460
MARGIN = 20
TITLE_HEIGHT = 56
FASTER, SLOWER = "#2a7f62", "#b5482a"


def ratio_chart(title: str, note: str, rows: Sequence[tuple[str, float]]) -> str:
    """An SVG document; a ratio over 1 means that virtblock-copy is the faster."""
    scale = BAR_AREA_WIDTH / max([1.25, *(ratio for _, ratio in rows)])
    width = LABEL_WIDTH + BAR_AREA_WIDTH + 2 * MARGIN + 60
    height = TITLE_HEIGHT + ROW_HEIGHT * len(rows) + 2 * MARGIN
    one = LABEL_WIDTH + MARGIN + scale
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"',
        ' font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{MARGIN}" y="26" font-size="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="{MARGIN}" y="46" fill="#555">{escape(note)}</text>',
        *(_bar(number, label, ratio, scale) for number, (label, ratio) in enumerate(rows)),
        f'<line x1="{one:.1f}" y1="{TITLE_HEIGHT}" x2="{one:.1f}" y2="{height - MARGIN}" stroke="#333"',
        ' stroke-dasharray="4 3"/>',
        f'<text x="{one:.1f}" y="{height - 5}" text-anchor="middle" fill="#333">1 = as fast</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bar(number: int, label: str, ratio: float, scale: float) -> str:
    top = TITLE_HEIGHT + ROW_HEIGHT * number + 4
    left = LABEL_WIDTH + MARGIN
    color = FASTER if ratio >= 1 else SLOWER
    return (
        f'<text x="{left - 8}" y="{top + 14}" text-anchor="end">{escape(label)}</text>'
        f'<rect x="{left}" y="{top}" width="{ratio * scale:.1f}" height="{ROW_HEIGHT - 8}" fill="{color}"/>'
        f'<text x="{left + ratio * scale + 6:.1f}" y="{top + 14}">{ratio:.2f}</text>'
    )
