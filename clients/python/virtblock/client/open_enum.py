# SPDX-License-Identifier: Apache-2.0
"""An enumeration that can grow: a newer server may answer a number that this client has no name for."""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class OpenIntEnum(IntEnum):
    """An IntEnum that takes any number. One without a name is called `UNKNOWN_<number>` and equals that number."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int):
            return None
        # Not kept among the members: what a server sends must not make the class grow.
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member
