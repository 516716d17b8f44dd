# SPDX-License-Identifier: Apache-2.0
"""What came of a case, in a form that is compared and kept.

Owns: `Outcome` and its JSON. Invariants: two outcomes are equal when everything that a caller could see is; XML of the
guest is told as what differs from the guest's XML before the case, so that a record of it holds on another host, whose
emulator and CPU are its own.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Outcome:
    """All that came of a case: of each step ["answer", value] or ["error", fields] or the result of a wait."""

    steps: list[Any] = field(default_factory=list)
    xml: list[str] = field(default_factory=list)
    events: list[list[Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For a file of records."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Outcome:
        """What `as_json` gave."""
        return cls(**value)


def changed_lines(before: str, after: str) -> list[str]:
    """The lines that went ("-") and came ("+"), in order."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines(), None, None)
    return [line for line in lines if line[:2] in ("- ", "+ ")]
