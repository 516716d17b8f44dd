# SPDX-License-Identifier: Apache-2.0
"""The clients' READMEs, pasted line by line into a shell in the root of a fresh clone.

`make test` takes those of what is quickly built, `make readmes` all. The clone has the tracked files alone. What
`make setup` would make is given to it, `.venv`, so that it finds nothing to do; nothing else is replaced.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.probes import CLIENTS, ROOT
from conformance.shell_blocks import Shell, blocks, shell_lines

READMES = ("python", "go", "typescript")
# Building these takes minutes: `make readmes`.
LONG_READMES = ("java", "cpp", "rust")
# What the examples of every client print, in this order.
PRINTED = ("guest", "COMPLETED", "copied", "watching")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tracked files as they are now, and `.venv`."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE, check=True
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    _lend_venv(folder)
    yield folder
    shutil.rmtree(folder)


def _lend_venv(folder: Path) -> None:
    """Ours, by hard links where one can, with the stamps that the bootstrap would have left in that folder."""
    how = "-al" if ROOT.stat().st_dev == folder.stat().st_dev else "-a"
    subprocess.run(["cp", how, ROOT / ".venv", folder / ".venv"], check=True)
    for stamp in (folder / ".venv").glob(".stamp-*"):
        text = stamp.read_text()
        stamp.unlink()
        stamp.write_text(text.replace(f"{ROOT} ", f"{folder} ", 1) if stamp.name == ".stamp-venv" else text)


@pytest.fixture
def shell(clone: Path) -> Iterator[Shell]:
    """In the clone's root, with a Go and a Rust that are new enough, as the bootstrap has left them."""
    environ = {name: value for name, value in os.environ.items() if name not in ("VIRTBLOCK_SERVER", "TRY")}
    toolchain = ["sh", str(clone / "clients/rust/toolchain.sh")]
    path = subprocess.run(toolchain, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    go = clone / ".venv/bin/go"
    environ["PATH"] = f"{go.parent}:{path}" if go.exists() else path
    made = Shell(clone, environ)
    yield made
    if "TRY" in made.environ:
        program = str(clone / "server/packaging/try_server.py")
        subprocess.run([str(clone / ".venv/bin/python"), program, "--stop", made.environ["TRY"]], check=True)


def _parameters() -> Iterator[object]:
    yield from READMES
    for client in LONG_READMES:
        yield pytest.param(client, marks=pytest.mark.oracle)


@pytest.mark.parametrize("client", list(_parameters()))
def test_every_line_works_as_it_is_pasted(client: str, shell: Shell) -> None:
    printed = [shell.run(line) for line in shell_lines((CLIENTS / client / "README.md").read_text("utf-8"))]
    left = iter(printed)
    for text in PRINTED:
        assert any(text in each for each in left), f"{text} was not printed:\n{printed}"


def test_the_walk_of_the_project_works_as_it_is_pasted(shell: Shell) -> None:
    walk = (ROOT / "README.md").read_text("utf-8").partition("\n## A walk\n")[2].partition("\n## ")[0]
    printed = "".join(shell.run(line) for line in shell_lines(walk))
    assert "Now in mirroring phase" in printed
    assert "ready='yes'" in printed


def test_every_python_block_is_python() -> None:
    found = blocks((CLIENTS / "python/README.md").read_text("utf-8"), "python")
    assert found
    for block in found:
        compile(block, "README.md", "exec")


def test_every_client_is_listed() -> None:
    assert {*READMES, *LONG_READMES} == {path.parent.name for path in CLIENTS.glob("*/README.md")}
