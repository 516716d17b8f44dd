# SPDX-License-Identifier: Apache-2.0
"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "engine" / "virtblock" / "engine" / "core"
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "proto/*.md", "clients/*.md", "clients/*/README.md", "tests/*/*.md")
    for path in ROOT.glob(pattern)
)


def _anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        linked = document.parent / name if name else document
        if "://" not in target and not (linked.exists() and (not anchor or anchor in _anchors(linked))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_is_named_is_there(document: Path) -> None:
    named = re.findall(r"`((?:tests|server|engine|clients|proto|docs)/[\w./-]+)`", document.read_text("utf-8"))
    assert [name for name in named if not ((ROOT / name).exists() or (document.parent / name).exists())] == []


def test_the_map_has_every_file_of_the_core() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("| role | files |")[2].partition("\n\n")[0]
    rows = [line.split("|")[2] for line in table.splitlines()[2:]]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {path.stem for path in CORE.glob("*.c")} - named == set()
    assert named - {path.stem for path in CORE.glob("*.[ch]")} == set()


def test_every_package_tells_its_types() -> None:
    """Without the marker a checker says of `from virtblock import libvirt` that there is no such module."""
    roots = ("proto/gen/python", "engine", "server", "clients/python")
    packages = [path.parent for root in roots for path in (ROOT / root / "virtblock").glob("*/__init__.py")]
    assert len(packages) > len(roots)
    assert [path.name for path in packages if not (path / "py.typed").exists()] == []
