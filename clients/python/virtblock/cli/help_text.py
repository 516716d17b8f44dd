# SPDX-License-Identifier: Apache-2.0
"""What `help`, `help COMMAND` and `help GROUP` print, in virsh's form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from virtblock.cli.grammar import Command, Kind, Option


@dataclass(frozen=True)
class Group:
    """Commands that belong together."""

    title: str
    keyword: str
    commands: tuple[Command, ...]


def command_help(command: Command) -> str:
    """NAME, SYNOPSIS, DESCRIPTION and OPTIONS, those of them that there are."""
    shown = [option for option in command.options if option.stands_for is None]
    synopsis = " ".join([command.name, *map(_in_synopsis, shown)])
    text = f"  NAME\n    {command.name} - {command.help}\n\n  SYNOPSIS\n    {synopsis}\n\n"
    if command.description:
        description = "\n".join(f"    {line}" for line in command.description.splitlines())
        text += f"  DESCRIPTION\n{description}\n\n"
    if shown:
        text += "  OPTIONS\n" + "".join(f"    {_in_options(option):<15}  {option.help}\n" for option in shown) + "\n"
    return text


def _in_synopsis(option: Option) -> str:
    if option.kind is Kind.FLAG:
        return f"[--{option.name}]"
    if option.kind is Kind.LIST:
        return f"[[--{option.name}] <string>]..."
    if option.required:
        return f"<{option.name}>"
    return f"[--{option.name} {option.value_name}]"


def _in_options(option: Option) -> str:
    if option.kind is Kind.FLAG:
        return f"--{option.name}"
    if option.required or option.kind is Kind.LIST:
        return f"[--{option.name}] {option.value_name}"
    return f"--{option.name} {option.value_name}"


def group_help(group: Group) -> str:
    """The commands of one group."""
    return f" {group.title} (help keyword '{group.keyword}'):\n{_command_lines(group)}"


def all_help(groups: Iterable[Group]) -> str:
    """The commands of every group."""
    return "Grouped commands:\n\n" + "".join(f"{group_help(group)}\n" for group in groups)


def _command_lines(group: Group) -> str:
    return "".join(f"    {command.name:<30} {command.help}\n" for command in group.commands)
