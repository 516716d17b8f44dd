# SPDX-License-Identifier: Apache-2.0
"""The grammar by itself: positions and names mean the same, and every mistake has its text."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtblock.cli.command_tables import COMMANDS
from virtblock.cli.failures import UsageError
from virtblock.cli.global_options import parse_global_options
from virtblock.cli.grammar import Kind, parse, split_commands


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("list --all", [["list", "--all"]]),
        ("list; dumpxml t1", [["list"], ["dumpxml", "t1"]]),
        (" ;; list ;\nlist --name # not this; nor this\nlist", [["list"], ["list", "--name"], ["list"]]),
        ("define '/a b.xml'", [["define", "/a b.xml"]]),
        ('define "/a \\"b\\".xml"', [["define", '/a "b".xml']]),
        ("define /a\\ b", [["define", "/a b"]]),
        ("dumpxml a'b'\"c;d\"", [["dumpxml", "abc;d"]]),
        ("dumpxml a#b ''", [["dumpxml", "a#b", ""]]),
        ("", []),
    ],
)
def test_a_command_string_is_cut_as_virsh_cuts_it(text: str, commands: list[list[str]]) -> None:
    assert split_commands(text) == commands


@pytest.mark.parametrize("text", ['list "', "list 'x", 'a "b\\"'])
def test_an_open_quote_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="missing"):
        split_commands(text)


_VALUE = st.text(alphabet="ab/=-,", min_size=1).filter(lambda text: not text.startswith("--"))


@given(st.data())
def test_an_option_means_the_same_by_name_and_by_position(data: st.DataObject) -> None:
    """Any leading positions of any command, each given bare, as `--name value` or as `--name=value`, in any mix."""
    command = COMMANDS[data.draw(st.sampled_from(sorted(COMMANDS)))]
    takers = [option for option in command.options if option.kind in (Kind.TEXT, Kind.NUMBER)]
    takers = [option for option in takers if not option.by_name_only]
    required = sum(option.required for option in takers)
    values = data.draw(st.lists(_VALUE, min_size=required, max_size=len(takers)))
    words: list[str] = []
    for option, value in zip(takers, values, strict=False):
        forms = [[value], [f"--{option.name}", value], [f"--{option.name}={value}"]]
        words += data.draw(st.sampled_from(forms))
    flags = [option for option in command.options if option.kind is Kind.FLAG and option.stands_for is None]
    given_flags = data.draw(st.lists(st.sampled_from(flags), unique=True)) if flags else []
    words += [f"--{option.name}" for option in given_flags]
    invocation = parse([command.name, *words], COMMANDS)
    assert invocation.texts == dict(zip([option.name for option in takers], values, strict=False))
    assert invocation.flags == {option.name for option in given_flags}


def test_every_command_has_what_runs_it() -> None:
    for command in COMMANDS.values():
        if command.run:
            module, _, function = command.run.partition(":")
            assert callable(getattr(importlib.import_module(f"virtblock.cli.{module}"), function))


def test_global_options_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTBLOCK_SERVER", "unix:/env")
    assert parse_global_options(["list"]).server == "unix:/env"
    options = parse_global_options(["-qr", "-cembedded:///", "--server=unix:/x", "--tls-ca", "/ca", "list", "--all"])
    assert (options.quiet, options.read_only, options.connection_uri) == (True, True, "embedded:///")
    assert (options.server, options.tls_ca, options.words) == ("unix:/x", "/ca", ["list", "--all"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--bogus"], "unsupported option '--bogus'. See --help."),
        (["-x"], "unsupported option '-x'. See --help."),
        (["-c"], "option '-c'/'--connect' requires an argument"),
        (["--tls-ca"], "option '--tls-ca' requires an argument"),
        (["--quiet=1", "list"], "unsupported option '--quiet=1'. See --help."),
    ],
)
def test_global_mistakes(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_global_options(words)
    assert caught.value.lines == (text,)
