# SPDX-License-Identifier: Apache-2.0
"""Where results and errors go, in virsh's layout or as JSON.

Owns: standard output and standard error. Invariants: results on standard output; errors and progress on standard error;
without `--quiet` an empty line ends every command's text; with `--json` standard output holds JSON and nothing else,
one value a line. A result that cannot be written ends the program; errors and progress that cannot be do not, for there
is nobody to tell.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Sequence
from typing import Any, TextIO

# A plain value of JSON: what `json.dumps` takes.
Json = Any

COLUMN_GAP = "   "


class OutputLost(Exception):
    """Standard output takes nothing more; the cause is the OSError."""


class Output:
    """Prints for one command line."""

    def __init__(self, out: TextIO, err: TextIO, *, quiet: bool = False, as_json: bool = False) -> None:
        self.out = out
        self.err = err
        self.quiet = quiet
        self.as_json = as_json
        self._line_is_open = False

    def result(self, data: Json, text: str = "", *, extra: str = "") -> None:
        """A command's answer: `data` as JSON; else `extra` unless quiet, and `text` always, with their line ends."""
        if self.as_json:
            write_result(self.out, _json_line(data))
            return
        self.text((extra if not self.quiet else "") + text)

    def table(self, data: Json, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table with virsh's columns, without its header when quiet; `data` as JSON."""
        if self.as_json:
            write_result(self.out, _json_line(data))
        else:
            self.text(table_text([] if self.quiet else header, rows))

    def text(self, text: str) -> None:
        """Text on standard output, at once."""
        write_result(self.out, text)
        self._line_is_open = not text.endswith("\n") if text else self._line_is_open

    def end_command(self) -> None:
        """Close a command that ran, well or not."""
        if not self.quiet and not self.as_json:
            self.text("\n")

    def error(self, lines: Sequence[str], data: Json) -> None:
        """An error: virsh's lines, or `data` as JSON, on standard error."""
        if self.as_json:
            write_aside(self.err, _json_line({"error": data}))
            return
        if self._line_is_open and self.out.isatty():
            # virsh has texts that the end of the command ends; on a terminal the error would run on in their line.
            self.text("\n")
        write_aside(self.err, "".join(f"error: {line}\n" for line in lines))


def _json_line(data: Json) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(", ", ": ")) + "\n"


def write_result(out: TextIO, text: str) -> None:
    """Write to standard output, at once. OutputLost when it takes nothing more."""
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        _silence(out)
        raise OutputLost from error


def write_aside(err: TextIO, text: str) -> None:
    """Write an error or progress, at once, as long as it is taken."""
    try:
        err.write(text)
        err.flush()
    except OSError:
        _silence(err)


def _silence(stream: TextIO) -> None:
    """What is still buffered, and all that follows, must not fail once more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def table_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as virsh prints it. An empty header: the rows alone."""
    shown = [[printable(cell) for cell in row] for row in ([header] if header else []) + list(rows)]
    if not shown:
        return ""
    widths = [max(width_of(row[column]) for row in shown) for column in range(len(shown[0]))]
    lines = [_table_line(row, widths) for row in shown]
    if header:
        lines.insert(1, "-" * sum(width + len(COLUMN_GAP) for width in widths))
    return "".join(f"{line}\n" for line in lines)


def _table_line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - width_of(cell)) for cell, width in zip(row, widths, strict=True)]
    return " " + COLUMN_GAP.join([*padded[:-1], row[-1]])


def width_of(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def printable(text: str) -> str:
    """The text with what a terminal would act on written as `\\x..`, so that a file's name cannot draw on it."""
    return "".join(
        character
        if character.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
        for character in text
    )
