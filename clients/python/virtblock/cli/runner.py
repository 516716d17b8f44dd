# SPDX-License-Identifier: Apache-2.0
"""Runs commands that were understood, and tells what went wrong.

Owns: the exit code, and the order of what is printed. Invariants: every failure is told on standard error and makes the
command's exit code 1; the exit code of several commands is that of the last; without a connection none runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from virtblock.cli.failures import CommandError
from virtblock.cli.global_options import GlobalOptions
from virtblock.cli.grammar import Invocation
from virtblock.cli.output import Output
from virtblock.cli.records import error_data, own_error_data
from virtblock.cli.session import Session
from virtblock.client import Client, TlsOptions, VirError

EXIT_DONE = 0
EXIT_FAILED = 1


def run_all(
    invocations: Sequence[Invocation], options: GlobalOptions, output: Output, run_help: Callable[[Invocation], None]
) -> int:
    """Run the commands in order; the exit code."""
    session = Session(output, lambda: open_client(options))
    try:
        return _run_in(session, invocations, run_help)
    finally:
        session.close()


def _run_in(session: Session, invocations: Sequence[Invocation], run_help: Callable[[Invocation], None]) -> int:
    exit_code = EXIT_DONE
    for invocation in invocations:
        needs_server = bool(invocation.command.run) and not invocation.has("help")
        if needs_server:
            try:
                session.connect()
            except CommandError as error:
                report(session.output, error)
                return EXIT_FAILED
        run = _handler(session, invocation) if needs_server else run_help
        exit_code = run_one(session.output, invocation, run)
    return exit_code


def run_one(output: Output, invocation: Invocation, run: Callable[[Invocation], None]) -> int:
    """Run one command; the exit code."""
    try:
        run(invocation)
    except (CommandError, VirError) as error:
        report(output, error)
        return EXIT_FAILED
    finally:
        output.end_command()
    return EXIT_DONE


def _handler(session: Session, invocation: Invocation) -> Callable[[Invocation], None]:
    module_name, _, function_name = invocation.command.run.partition(":")
    function = getattr(importlib.import_module(f"virtblock.cli.{module_name}"), function_name)
    return lambda given: function(session, given)


def open_client(options: GlobalOptions) -> Client:
    """The client that the global options ask for. VirError for options that make no sense."""
    wants_tls = options.tls_ca or options.tls_cert or options.tls_key
    tls = TlsOptions(ca=options.tls_ca, cert=options.tls_cert, key=options.tls_key) if wants_tls else None
    return Client(
        options.server,
        connection_uri=options.connection_uri,
        read_only=options.read_only,
        tls=tls,
        insecure=options.insecure,
    )


def report(output: Output, error: CommandError | VirError) -> None:
    """Tell a failure, virsh's own line first and libvirt's after it."""
    if isinstance(error, VirError):
        output.error([error.message], error_data(error, ""))
        return
    lines = [line for line in (error.context, *error.more) if line]
    cause = error.__cause__
    if isinstance(cause, VirError):
        output.error([*lines, cause.message], error_data(cause, error.context))
    elif lines:
        output.error(lines, own_error_data("; ".join(lines)))
