# SPDX-License-Identifier: Apache-2.0
"""The options before the command: which server, which connection, how to answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from virtblock.cli.failures import UsageError

SERVER_VARIABLE = "VIRTBLOCK_SERVER"


@dataclass
class GlobalOptions:
    """What was given before the command."""

    server: str | None = None
    """None: the client's own default, a socket of this machine."""
    connection_uri: str = ""
    read_only: bool = False
    quiet: bool = False
    as_json: bool = False
    insecure: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    shows_help: bool = False
    shows_version: bool = False
    words: list[str] = field(default_factory=list)
    """The command and what follows it."""


# Option, its short form, and the field that it sets; those with a value first.
_VALUES = {
    "--server": "server",
    "--connect": "connection_uri",
    "--tls-ca": "tls_ca",
    "--tls-cert": "tls_cert",
    "--tls-key": "tls_key",
}
_SWITCHES = {
    "--readonly": "read_only",
    "--quiet": "quiet",
    "--json": "as_json",
    "--insecure": "insecure",
    "--help": "shows_help",
    "--version": "shows_version",
}
_SHORT = {
    "-c": "--connect",
    "-s": "--server",
    "-r": "--readonly",
    "-q": "--quiet",
    "-h": "--help",
    "-v": "--version",
}
GLOBAL_WORDS = {word: word in _VALUES for word in (*_VALUES, *_SWITCHES)}
GLOBAL_WORDS |= {short: long in _VALUES for short, long in _SHORT.items()}
"""Every global option, long and short, and whether it takes a value."""
_LONG_TO_SHORT = {long: short for short, long in _SHORT.items()}

HELP = """
virtblock [options]... [<command_string>]
virtblock [options]... <command> [args...]

  options:
    -s | --server=TARGET    unix:PATH or HOST:PORT of virtblockd (default: $VIRTBLOCK_SERVER,
                            else this machine's socket)
    -c | --connect=URI      hypervisor connection of the server (default: its first)
    -h | --help             this help
         --insecure         no TLS to HOST:PORT; this machine only
         --json             answer in JSON, also after the command
    -q | --quiet            quiet mode
    -r | --readonly         connect readonly
         --tls-ca=FILE      authority of the server's certificate, PEM
         --tls-cert=FILE    certificate to show the server, PEM
         --tls-key=FILE     its private key, PEM
    -v | --version          version
  commands:

"""
HELP_END = """
  (specify help <group> for details about the commands in the group)

  (specify help <command> for details about the command)
"""


def parse_global_options(arguments: Sequence[str]) -> GlobalOptions:
    """Read up to the command. UsageError has virsh's text."""
    options = GlobalOptions(server=os.environ.get(SERVER_VARIABLE) or None)
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            _take_long(options, word, rest)
        else:
            _take_short(options, word, rest)
    options.words = rest
    return options


def _take_long(options: GlobalOptions, word: str, rest: list[str]) -> None:
    name, equals, value = word.partition("=")
    if name in _SWITCHES and not equals:
        setattr(options, _SWITCHES[name], True)
    elif name in _VALUES:
        setattr(options, _VALUES[name], value if equals else _next_value(name, rest))
    else:
        raise UsageError(f"unsupported option '{word}'. See --help.")


def _take_short(options: GlobalOptions, word: str, rest: list[str]) -> None:
    """One or more letters; the first with a value takes the rest of the word, or the next one."""
    for position, letter in enumerate(word[1:], start=2):
        name = _SHORT.get(f"-{letter}")
        if name is None:
            raise UsageError(f"unsupported option '-{letter}'. See --help.")
        if name in _VALUES:
            setattr(options, _VALUES[name], word[position:] or _next_value(name, rest))
            return
        setattr(options, _SWITCHES[name], True)


def _next_value(name: str, rest: list[str]) -> str:
    if not rest:
        short = _LONG_TO_SHORT.get(name)
        shown = f"'{short}'/'{name}'" if short else f"'{name}'"
        raise UsageError(f"option {shown} requires an argument")
    return rest.pop(0)
