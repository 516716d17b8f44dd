# SPDX-License-Identifier: Apache-2.0
"""The guide names what there is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from virtblock.cli.command_tables import COMMANDS
from virtblock.cli.global_options import HELP

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def test_every_command_is_in_the_guide() -> None:
    table = GUIDE.partition("## Commands")[2].partition("###")[0]
    documented = set(re.findall(r"^\| `([a-z-]+)[ `]", table, re.MULTILINE))
    assert documented == set(COMMANDS) - {"help"}


def test_every_global_option_is_in_the_guide() -> None:
    options = set(re.findall(r"--[a-z][a-z-]+", HELP))
    assert options == set(re.findall(r"--[a-z][a-z-]+", GUIDE.partition("## Grammar")[0].partition("| option")[2]))


def test_every_option_in_the_guide_exists() -> None:
    """The ones that it says are refused aside."""
    commands = GUIDE.partition("## Commands")[2].partition("## Errors")[0]
    refused = {"--storage", "--title", "--managed-save", "--xpath", "--wrap", "--mode", "--console", "--autodestroy"}
    refused |= {"--pass-fds", "--verbose", "--strict-libvirt"}
    known = {f"--{option.name}" for command in COMMANDS.values() for option in command.options}
    assert set(re.findall(r"--[a-z][a-z-]+", commands)) - known == refused - known


def test_every_answer_in_json_is_in_the_guide() -> None:
    table = GUIDE.partition("## JSON")[2].partition("An error is one line")[0]
    named = {name for row in re.findall(r"^\|(.*?)\|", table, re.MULTILINE) for name in re.findall(r"`([a-z-]+)`", row)}
    changing = {"create", "start", "suspend", "resume", "shutdown", "destroy", "save", "managedsave"}
    assert set(COMMANDS) - named <= changing
