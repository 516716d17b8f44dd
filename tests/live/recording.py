# SPDX-License-Identifier: Apache-2.0
"""libvirt's own outcomes of the cases, kept in a file with the versions that gave them.

Owns: the file's form: the versions, and one line for each case. Invariant: outcomes count only where the versions are
those that run here; what has no outcome, or one of another version, is asked of libvirt anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import libvirt
from live.outcome import Outcome

FILE = Path(__file__).parent / "recorded" / "outcomes.json"


def versions(connection: libvirt.virConnect) -> dict[str, int]:
    """What the outcomes depend on."""
    return {"libvirt": connection.getLibVersion(), "qemu": connection.getVersion()}


def load(connection: libvirt.virConnect) -> dict[str, Outcome]:
    """The outcomes by the case's name; none where another version runs."""
    kept = json.loads(FILE.read_text())
    if kept["versions"] != versions(connection):
        return {}
    return {name: Outcome.from_json(outcome) for name, outcome in kept["outcomes"].items()}


def names() -> set[str]:
    """The cases that are recorded, for whatever version."""
    return set(json.loads(FILE.read_text())["outcomes"])


def save(connection: libvirt.virConnect, outcomes: Mapping[str, Outcome]) -> None:
    """Writes the file anew; one case is one line, so that a change of libvirt's reads well in a diff."""
    lines = [
        f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(outcome.as_json(), ensure_ascii=False)}"
        for name, outcome in sorted(outcomes.items())
    ]
    head = f'{{"versions": {json.dumps(versions(connection))}, "outcomes": {{\n'
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(head + ",\n".join(lines) + "\n}}\n")
