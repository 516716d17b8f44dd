# SPDX-License-Identifier: Apache-2.0
"""A block map for people and for programs: lines of a terminal, an SVG picture, a map file of GNU ddrescue.

Owns: which mark, colour and status a cell's state has. Invariant: a cell is drawn as what the server said of it; what
this program does not know is drawn as work that is still to do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from virtblock.client.enums import BlockMapCellState

if TYPE_CHECKING:
    from virtblock.client.model import BlockMap

# State: what it is called, its mark, the mark where only ASCII can be shown, SGR colour, SVG colour.
_LOOKS = {
    BlockMapCellState.DONE: ("done", "█", "#", "32", "#3f9142"),
    BlockMapCellState.COPYING: ("copying", "▓", "@", "36", "#2f7ed8"),
    BlockMapCellState.TODO: ("to do", "░", ".", "37", "#d9d9d9"),
    BlockMapCellState.ZERO: ("zero", "·", "0", "90", "#f5f5f5"),
    BlockMapCellState.DIRTY_AGAIN: ("dirty again", "▒", "%", "33", "#e0a100"),
    BlockMapCellState.FAILED: ("failed", "✗", "X", "31", "#c0392b"),
}
_FINISHED = (BlockMapCellState.DONE, BlockMapCellState.ZERO)
_DDRESCUE = dict.fromkeys(_FINISHED, "+") | {BlockMapCellState.FAILED: "-"}
_NOT_TRIED = "?"
SVG_COLUMNS = 64
_SVG_CELL = 12
MARKS = "".join(look[1] for look in _LOOKS.values())


def _known(state: BlockMapCellState) -> BlockMapCellState:
    return state if state in _LOOKS else BlockMapCellState.TODO


def _cells(block_map: BlockMap) -> list[BlockMapCellState]:
    return [_known(run.state) for run in block_map.runs for _ in range(run.cell_count)]


def cell_counts(block_map: BlockMap) -> dict[str, int]:
    """How many cells are in each state, by its name."""
    counts = {look[0]: 0 for look in _LOOKS.values()}
    for run in block_map.runs:
        counts[_LOOKS[_known(run.state)][0]] += run.cell_count
    return counts


def map_lines(block_map: BlockMap, columns: int, *, is_unicode: bool, is_coloured: bool) -> list[str]:
    """The cells, `columns` in a line, and a legend with what each mark means and how much of the disk it is."""
    cells = _cells(block_map)
    lines = [_marks(cells[begin : begin + columns], is_unicode, is_coloured) for begin in range(0, len(cells), columns)]
    counts = cell_counts(block_map)
    legend = [
        f"{_marks([state], is_unicode, is_coloured)} {look[0]} {counts[look[0]] * 100 // max(len(cells), 1)} %"
        for state, look in _LOOKS.items()
        if counts[look[0]]
    ]
    return [*lines, "  ".join(legend)]


def _marks(cells: list[BlockMapCellState], is_unicode: bool, is_coloured: bool) -> str:
    drawn = ""
    for state, same in itertools.groupby(cells):
        _, mark, ascii_mark, colour, _ = _LOOKS[state]
        text = (mark if is_unicode else ascii_mark) * len(list(same))
        drawn += f"\x1b[{colour}m{text}\x1b[0m" if is_coloured else text
    return drawn


def svg_text(block_map: BlockMap, title: str) -> str:
    """A picture of its own, with a legend; equal neighbours in a row are one rectangle."""
    cells = _cells(block_map)
    row_count = -(-len(cells) // SVG_COLUMNS)
    width, height = SVG_COLUMNS * _SVG_CELL, (row_count + 4) * _SVG_CELL
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<title>{escape(title)}</title>",
    ]
    for row in range(row_count):
        column = 0
        for state, same in itertools.groupby(cells[row * SVG_COLUMNS : (row + 1) * SVG_COLUMNS]):
            length = len(list(same))
            parts.append(_rectangle(column, row, length, _LOOKS[state][4]))
            column += length
    counts = cell_counts(block_map)
    for position, (name, _, _, _, colour) in enumerate(_LOOKS.values()):
        column = position * (SVG_COLUMNS // len(_LOOKS))
        parts.append(_rectangle(column, row_count + 1, 1, colour))
        x, y = (column + 1.5) * _SVG_CELL, (row_count + 1.85) * _SVG_CELL
        parts.append(f'<text x="{x}" y="{y}" font-family="sans-serif" font-size="11">{name}: {counts[name]}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _rectangle(column: int, row: int, length: int, colour: str) -> str:
    place = f'x="{column * _SVG_CELL}" y="{row * _SVG_CELL}" width="{length * _SVG_CELL}" height="{_SVG_CELL}"'
    return f'<rect {place} fill="{colour}" stroke="#ffffff"/>'


def ddrescue_text(block_map: BlockMap) -> str:
    """A map file as GNU ddrescue's manual describes it: `+` is on the destination, `?` is to do, `-` failed."""
    blocks = list(_ddrescue_blocks(block_map))
    current_bytes, status = next(((begin, "?") for begin, _, mark in blocks if mark == _NOT_TRIED), (0, "+"))
    lines = ["# Mapfile. Created by virtblock", "# current_pos  current_status  current_pass"]
    lines += [f"0x{current_bytes:08X}     {status}               1", "#      pos        size  status"]
    lines += [f"0x{begin:08X}  0x{length:08X}  {mark}" for begin, length, mark in blocks]
    return "\n".join([*lines, ""])


def _ddrescue_blocks(block_map: BlockMap) -> Iterator[tuple[int, int, str]]:
    """(offset, length, status) without a gap, neighbours of one status as one; the last ends with the disk."""
    position = 0
    for mark, runs in itertools.groupby(block_map.runs, key=lambda run: _DDRESCUE.get(run.state, _NOT_TRIED)):
        length = sum(run.cell_count for run in runs) * block_map.cell_bytes
        length = min(length, block_map.size_bytes - position)
        if length > 0:
            yield position, length, mark
        position += length
