# SPDX-License-Identifier: Apache-2.0
"""The daemon's log: one event a line on stderr, as `key=value` for people or as JSON for machines.

Owns: the two formatters and where they are put. A caller logs a fixed text and passes what varies as
`extra={"fields": {…}}`. Invariants: one record is one line whatever its values hold, so nobody can forge a line by a
name with a line break in it; the text is constant and so can be searched for.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TextIO

LOG_FORMATS = ("text", "json")
ROOT_LOGGER = "virtblock"

# What would end the word, or be read as something else.
_NEEDS_QUOTES = re.compile(r"[\s\"'=\\]")


class TextFormatter(logging.Formatter):
    """`time level=… logger=… msg="…" key=value …`; values that would not read as one word are quoted as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        entries = {"level": record.levelname.lower(), "logger": record.name, "msg": record.getMessage()}
        return " ".join([_time(record), *(f"{key}={_word(value)}" for key, value in _all(entries, record).items())])


class JsonFormatter(logging.Formatter):
    """One JSON object; the fields stand beside `time`, `level`, `logger` and `msg`."""

    def format(self, record: logging.LogRecord) -> str:
        entries = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        return json.dumps(_all(entries, record), default=str)


def configure(log_format: str, stream: TextIO | None = None) -> None:
    """Send everything that the server logs, from INFO on, to `stream` (None: stderr), and nothing of it elsewhere."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger(ROOT_LOGGER)
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False


def _all(entries: dict[str, str], record: logging.LogRecord) -> dict[str, object]:
    """The fixed entries, the record's fields, and the traceback if there is one."""
    fields = getattr(record, "fields", {})
    merged: dict[str, object] = {**entries, **{key: value for key, value in fields.items() if key not in entries}}
    if record.exc_info:
        merged["traceback"] = logging.Formatter().formatException(record.exc_info)
    return merged


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    is_bare = text != "" and text.isprintable() and not _NEEDS_QUOTES.search(text)
    return text if is_bare else json.dumps(text)
