# SPDX-License-Identifier: Apache-2.0
"""The console script `virtblock`.

Owns: reading the command line, `help`, and the process's way out. Invariants: exit code 0 for success and 1 for every
failure, as virsh; 130 when interrupted outside a wait that knows how to end; nothing is run unless all of the line
was understood. The client is loaded only when a command needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import TextIO

from virtblock.cli.command_tables import COMMANDS, COMPLETION, GROUPS
from virtblock.cli.completion import run_completion
from virtblock.cli.failures import CommandError, UsageError
from virtblock.cli.global_options import HELP, HELP_END, GlobalOptions, parse_global_options
from virtblock.cli.grammar import Invocation, parse, split_commands
from virtblock.cli.help_text import all_help, command_help, group_help
from virtblock.cli.output import Output, OutputLost, write_aside, write_result
from virtblock.cli.records import own_error_data

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    _replace_closed_streams()
    _survive_any_text(sys.stdout)
    _survive_any_text(sys.stderr)
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _main(words, sys.stdout, sys.stderr)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OutputLost as lost:
        # Who closed the pipe has seen enough.
        if not isinstance(lost.__cause__, BrokenPipeError):
            write_aside(sys.stderr, f"error: cannot write to standard output: {lost.__cause__}\n")
        return EXIT_FAILED


def _replace_closed_streams() -> None:
    """A connection must not be opened under the number of a stream that was closed, and get its messages."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  # as long as the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _survive_any_text(stream: TextIO) -> None:
    """Have what the terminal's encoding lacks written as an escape instead of failing."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _main(words: list[str], out: TextIO, err: TextIO) -> int:
    options = GlobalOptions(as_json="--json" in words)
    try:
        _refuse_unencodable(words)
        options = parse_global_options(words)
        if options.shows_help:
            write_result(out, _global_help())
            return EXIT_DONE
        if options.shows_version:
            write_result(out, f"{metadata.version('virtblock')}\n")
            return EXIT_DONE
        invocations = _read_commands(options)
    except UsageError as error:
        _tell_usage_error(error, Output(out, err, as_json=options.as_json or "--json" in words))
        return EXIT_FAILED
    as_json = options.as_json or any(invocation.has("json") for invocation in invocations)
    output = Output(out, err, quiet=options.quiet, as_json=as_json)
    if all(_is_help(invocation) for invocation in invocations):
        return max((_answer_help(invocation, output) for invocation in invocations), default=EXIT_DONE)
    # Loads gRPC, which takes longer than all of help.
    from virtblock.cli.runner import run_all  # noqa: PLC0415

    return run_all(invocations, options, output, lambda invocation: run_help(output, invocation))


def _refuse_unencodable(words: Sequence[str]) -> None:
    for word in words:
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"argument {word!r} is not UTF-8") from None


def _read_commands(options: GlobalOptions) -> list[Invocation]:
    """A single word is a command string, as for virsh; more are one command."""
    if not options.words:
        raise UsageError("no command was given. See --help.")
    commands = split_commands(options.words[0]) if len(options.words) == 1 else [options.words]
    return [parse(words, COMMANDS) for words in commands]


def _tell_usage_error(error: UsageError, output: Output) -> None:
    output.error(error.lines, own_error_data("; ".join(error.lines)))


def _is_help(invocation: Invocation) -> bool:
    return invocation.has("help") or not invocation.command.run


def _answer_help(invocation: Invocation, output: Output) -> int:
    try:
        run_help(output, invocation)
    except CommandError as error:
        _tell_usage_error(UsageError(error.context), output)
        return EXIT_FAILED
    finally:
        output.end_command()
    return EXIT_DONE


def run_help(output: Output, invocation: Invocation) -> None:
    """What needs no server: `help`, `help COMMAND`, `help GROUP`, `COMMAND --help`, and `completion`."""
    if invocation.command is COMPLETION and not invocation.has("help"):
        run_completion(output, invocation)
        return
    name = invocation.command.name if invocation.has("help") else invocation.text("command")
    text = _help_for(name)
    output.result({"help": text}, text)


def _help_for(name: str | None) -> str:
    if name is None:
        return all_help(GROUPS)
    if name in COMMANDS:
        return command_help(COMMANDS[name])
    for group in GROUPS:
        if group.keyword == name:
            return group_help(group)
    raise CommandError(f"command or command group '{name}' doesn't exist")


def _global_help() -> str:
    return HELP + "\n".join(group_help(group) for group in GROUPS) + HELP_END


if __name__ == "__main__":
    sys.exit(main())
