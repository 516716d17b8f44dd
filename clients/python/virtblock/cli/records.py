# SPDX-License-Identifier: Apache-2.0
"""The client's records as plain values of JSON."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from virtblock.cli.output import Json

if TYPE_CHECKING:
    from virtblock.client import VirError


def plain(value: object) -> Json:
    """Records become objects with the same names, enumerations their names, times ISO 8601 in UTC; None stays null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list | frozenset):
        return [plain(each) for each in value]
    return value


def error_data(error: VirError, context: str) -> Json:
    """A libvirt error with its number as number and as name."""
    record = plain(error.record)
    return {**record, "number": int(error.number), "name": f"VIR_ERR_{error.number.name}", "context": context}


def own_error_data(message: str) -> Json:
    """An error of the command line itself, in the same form: it has no number."""
    return {"number": None, "name": None, "domain": None, "level": "ERROR", "message": message, "context": ""}
