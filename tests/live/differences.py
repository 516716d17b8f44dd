# SPDX-License-Identifier: Apache-2.0
"""The table of docs/libvirt-differences.md: where our server is meant to answer otherwise than libvirt.

Owns: reading it. Invariant: a row whose first cell is a case in backticks is an exception of the differential suite,
and the suite fails as well when the answers are not the two that the row names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from live.outcome import Outcome

FILE = Path(__file__).parents[2] / "docs" / "libvirt-differences.md"
_ROW = re.compile(r"\| `(?P<case>[^`]+)` \| [^|]*`(?P<libvirt>[^`]+)` \| [^|]*`(?P<virtblock>[^`]+)` \| [^|]+ \|")


@dataclass(frozen=True)
class Difference:
    """What the first step answers that differs: "ok" or "error 55"."""

    libvirt: str
    virtblock: str

    @classmethod
    def between(cls, theirs: Outcome, ours: Outcome) -> Self | None:
        """None where no step differs."""
        for step, other in zip(theirs.steps, ours.steps, strict=True):
            if step != other:
                return cls(_answer(step), _answer(other))
        return None


def listed_differences() -> dict[str, Difference]:
    """By the case's name."""
    rows = _ROW.finditer(FILE.read_text())
    return {row["case"]: Difference(row["libvirt"], row["virtblock"]) for row in rows}


def _answer(step: Any) -> str:
    return f"error {step[1][0]}" if step[0] == "error" else "ok"
