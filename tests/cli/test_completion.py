# SPDX-License-Identifier: Apache-2.0
"""The completion scripts in real shells: what is offered, from the grammar and from a server that answers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.command_line import Virtblock

from virtblock.cli.command_tables import COMMANDS
from virtblock.cli.completion import script

SERVER = """#!/bin/sh
[ "$1" = --server ] && { [ "$2" = unix:/s ] || exit 1; shift 2; }
case "$*" in
    "--quiet list --all --name") printf 'guest\\ntwo words\\n' ;;
    "--quiet domblklist guest") printf ' vda   /a\\n vdb   /b\\n' ;;
    "--quiet jobs --all --id") printf 'vb-1\\nvb-2\\n' ;;
esac
"""
Complete = Callable[..., list[str]]


@pytest.fixture(params=["bash", "zsh"])
def complete(request: pytest.FixtureRequest, tmp_path: Path) -> Complete:
    """What the shell offers for a command line, whose last word is being typed."""
    server = tmp_path / "bin" / "virtblock"
    server.parent.mkdir()
    server.write_text(SERVER)
    server.chmod(0o755)
    shell = request.param
    (tmp_path / "completion").write_text(script(shell))
    begin = "autoload -U compinit && compinit -D -u\n" if shell == "zsh" else ""
    ask = (
        f"{begin}. '{tmp_path}/completion'\nask() {{\n"
        + ("emulate -L sh\nsetopt kshglob noshglob braceexpand\n" if shell == "zsh" else "")
        + 'COMP_WORDS=(virtblock "$@"); COMP_CWORD=$#; _virtblock; printf "%s\\n" "${COMPREPLY[@]}"\n}\nask "$@"\n'
    )
    (tmp_path / "ask").write_text(ask)

    def run(*words: str) -> list[str]:
        options = ["-f"] if shell == "zsh" else ["--norc"]
        done = subprocess.run(
            [shell, *options, str(tmp_path / "ask"), *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={"PATH": f"{server.parent}:/usr/bin:/bin", "HOME": str(tmp_path)},
            cwd=tmp_path,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [line for line in done.stdout.splitlines() if line]

    return run


def test_commands_and_options(complete: Complete) -> None:
    assert complete("blockc") == ["blockcommit", "blockcopy"]
    assert {"--server", "-c", *COMMANDS} <= set(complete(""))
    assert complete("blockcopy", "--gran") == ["--granularity"]
    options = {f"--{option.name}" for option in COMMANDS["blockcommit"].options} | {"--help", "--json"}
    assert set(complete("blockcommit", "--")) == options
    assert complete("nocmd", "") == []


def test_domains_disks_and_jobs_of_the_server(complete: Complete) -> None:
    assert complete("blockjob", "") == ["guest", "two\\ words"]
    assert complete("blockjob", "guest", "vd") == ["vda", "vdb"]
    assert complete("blockjob", "--path", "vda", "--domain", "g") == ["guest"]
    assert complete("blockjob", "--domain", "guest", "--path", "") == ["vda", "vdb"]
    assert complete("blockcopy", "--wait", "guest", "v") == ["vda", "vdb"]
    assert complete("map", "vb") == ["vb-1", "vb-2"]
    assert complete("attach", "") == ["vb-1", "vb-2"]
    assert complete("help", "domblk") == ["domblkinfo", "domblklist", "domblkstat"]


def test_global_options_go_along(complete: Complete) -> None:
    assert complete("--server", "unix:/s", "map", "") == ["vb-1", "vb-2"]
    assert complete("--server", "unix:/away", "map", "") == []


def test_files(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "domain.xml").touch()
    assert complete("define", "dom") == ["domain.xml"]


def test_the_command_prints_it(virtblock: Virtblock) -> None:
    assert virtblock("-q", "completion", "bash").out == script("bash")
    assert virtblock("-q", "completion", "zsh").out == script("zsh")
    ran = virtblock("completion", "fish")
    assert ran.exit_code == 1
    assert ran.err == "error: no completion for shell 'fish'; there is one for bash and one for zsh\n"
