# SPDX-License-Identifier: Apache-2.0
"""Reads the conformance cases, which are data: `cases/*.toml`.

A file is a list of `[[case]]` with `name`, optional `server` ("daemon", the default, or "scripted"), optional `guest`
(the disk it has: "chain", "raw", or "none"), and `steps`. A step is a table with one verb:

    dial = NAME        with the keys of the probe's `dial`
    call = METHOD      with `request`, `timeout_ms`, `cancel_after_ms`
    open = STREAM      with `method` and `request`
    watch = STREAM     with `request`
    next = STREAM      `until = true`: messages that do not match are passed over
    close_stream = STREAM, close = CLIENT
    kill = true        the daemon is killed and started again
    script = METHOD    the scripted server's next answer: `response`, a list `stream`, `fail` or `silent = true`
    expect_request = METHOD  what the scripted server was last asked

and what must come of it: `response` (fields that are named must match), `absent` (fields that must not be set),
`error`, `end = true`, `expect_target`; without any of these only that it does not fail. `save` keeps fields of the
answer as variables, `save_token` a watch's token. `${variable}` stands for its value in every text. A text that begins
with `~` is a regular expression for the whole value.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CASES_DIR = Path(__file__).parent / "cases"
VERBS = ("dial", "call", "open", "watch", "next", "close_stream", "close", "kill", "script", "expect_request")


@dataclass(frozen=True)
class Case:
    """One case; `name` is unique over all files and begins with its file's."""

    name: str
    server: str
    guest: str
    steps: tuple[dict[str, Any], ...]


def load_cases() -> list[Case]:
    """Every case of every file. Raises ValueError for one that says nothing, or says it twice."""
    cases: list[Case] = []
    for path in sorted(CASES_DIR.glob("*.toml")):
        with path.open("rb") as file:
            content = tomllib.load(file)
        for table in content["case"]:
            cases.append(_case(path.stem, table))
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise ValueError(f"names used twice: {sorted({name for name in names if names.count(name) > 1})}")
    return cases


def _case(stem: str, table: dict[str, Any]) -> Case:
    name = f"{stem}/{table['name']}"
    unknown = set(table) - {"name", "server", "guest", "steps"}
    if unknown or not table["steps"]:
        raise ValueError(f"{name}: {unknown or 'no steps'}")
    for step in table["steps"]:
        if len([verb for verb in VERBS if verb in step]) != 1:
            raise ValueError(f"{name}: a step has one verb: {step}")
    return Case(name, table.get("server", "daemon"), table.get("guest", "none"), tuple(table["steps"]))
