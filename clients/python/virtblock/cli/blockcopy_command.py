# SPDX-License-Identifier: Apache-2.0
"""`blockcopy`: start a copy, and see it through.

Owns: the choice between virDomainBlockRebase and virDomainBlockCopy, which is virsh's, and what follows the wait:
pivot, finish, or nothing. Invariants: nothing is started before every option was checked; a wait that does not
succeed ends with exit code 1 and without a job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from virtblock.cli.block_job_wait import BlockJobWait, Outcome, failure_of
from virtblock.cli.domain_xml import destination_xml
from virtblock.cli.failures import CommandError
from virtblock.cli.files import read_text
from virtblock.cli.grammar import UINT32_MAX, UINT64_MAX, Invocation
from virtblock.cli.output import Output
from virtblock.cli.progress import Display, make_display, percent_of
from virtblock.cli.records import plain
from virtblock.cli.sizes import MIB, bandwidth_option
from virtblock.client import VirError
from virtblock.client.flags import BlockCopyFlags, BlockJobAbortFlags, BlockRebaseFlags

if TYPE_CHECKING:
    from virtblock.cli.session import Session
    from virtblock.client import BlockJob, Domain

_LABEL = "Block Copy"
_REBASE_FLAGS = {
    "shallow": BlockRebaseFlags.SHALLOW,
    "reuse-external": BlockRebaseFlags.REUSE_EXT,
    "blockdev": BlockRebaseFlags.COPY_DEV,
    "bytes": BlockRebaseFlags.BANDWIDTH_BYTES,
}
_COPY_FLAGS = {
    "shallow": BlockCopyFlags.SHALLOW,
    "reuse-external": BlockCopyFlags.REUSE_EXT,
    "transient-job": BlockCopyFlags.TRANSIENT_JOB,
    "synchronous-writes": BlockCopyFlags.SYNCHRONOUS_WRITES,
    "dest-is-zero": BlockCopyFlags.TARGET_ZEROED,
}
# What virDomainBlockRebase cannot say.
_COPY_ONLY = ("xml", "transient-job", "synchronous-writes", "dest-is-zero", "print-xml")
_WAITING = ("wait", "timeout", "pivot", "finish")


@dataclass(frozen=True)
class _Request:
    """A checked command line."""

    path: str
    dest: str | None
    xml_file: str | None
    image_format: str | None
    bandwidth: int
    granularity: int
    buf_size: int
    timeout_s: float | None


def run_blockcopy(session: Session, invocation: Invocation) -> None:
    """Start a copy; with `--wait` and its kin wait until it is mirrored, and then pivot or finish."""
    request = _read_request(invocation)
    domain = session.domain(invocation)
    dest_xml = _dest_xml(invocation, request) if _needs_block_copy(invocation, request) else None
    if dest_xml is not None and invocation.has("print-xml"):
        session.output.result({"xml": dest_xml}, dest_xml)
        return
    start = partial(_start, session, domain, invocation, request, dest_xml)
    if any(invocation.has(name) for name in _WAITING):
        _see_through(session, domain, invocation, request, start)
    else:
        # virsh ends the line by the empty line after the command.
        session.output.result({"result": "started", "job": plain(start())}, extra="Block Copy started")


def _read_request(invocation: Invocation) -> _Request:
    """Check the options, in virsh's order."""
    path, dest = invocation.required("path"), invocation.text("dest")
    xml_file, image_format = invocation.text("xml"), invocation.text("format")
    bandwidth = bandwidth_option(invocation, in_bytes=invocation.has("bytes"))
    granularity = invocation.whole_number("granularity", UINT32_MAX) or 0
    buf_size = invocation.whole_number("buf-size", UINT64_MAX) or 0
    timeout_s = invocation.timeout_s()
    for first, second in (("dest", "xml"), ("format", "xml"), ("blockdev", "xml"), ("pivot", "finish")):
        invocation.exclude(first, second)
    if dest is None and xml_file is None:
        raise CommandError("need either --dest or --xml")
    for name in ("verbose", "async"):
        if invocation.has(name) and not any(invocation.has(waiting) for waiting in _WAITING):
            raise CommandError(f"--{name} requires at least one of --timeout, --wait, --pivot, or --finish")
    return _Request(path, dest, xml_file, image_format, bandwidth, granularity, buf_size, timeout_s)


def _needs_block_copy(invocation: Invocation, request: _Request) -> bool:
    has_format = request.image_format not in (None, "raw")
    return bool(
        request.granularity or request.buf_size or has_format or any(invocation.has(name) for name in _COPY_ONLY)
    )


def _dest_xml(invocation: Invocation, request: _Request) -> str:
    if request.xml_file is not None:
        return read_text(request.xml_file)
    assert request.dest is not None, "one of --dest and --xml was required"
    return destination_xml(request.dest, request.image_format, is_device=invocation.has("blockdev"))


def _start(
    session: Session, domain: Domain, invocation: Invocation, request: _Request, dest_xml: str | None
) -> BlockJob:
    """The started job."""
    if dest_xml is not None:
        return _block_copy(session, domain, invocation, request, dest_xml)
    flags = BlockRebaseFlags.COPY | invocation.flags_of(_REBASE_FLAGS)
    if request.image_format == "raw":
        flags |= BlockRebaseFlags.COPY_RAW
    return session.client.block_rebase(domain, request.path, request.dest, request.bandwidth, flags)


def _block_copy(session: Session, domain: Domain, invocation: Invocation, request: _Request, dest_xml: str) -> BlockJob:
    bandwidth = request.bandwidth
    if not invocation.has("bytes"):
        # This call knows bytes alone.
        if bandwidth > UINT64_MAX // MIB:
            raise CommandError(f"bandwidth must be less than {UINT64_MAX // MIB}")
        bandwidth *= MIB
    given = {"bandwidth": bandwidth, "granularity": request.granularity, "buf-size": request.buf_size}
    params = {name: value for name, value in given.items() if value}
    return session.client.block_copy(domain, request.path, dest_xml, params, invocation.flags_of(_COPY_FLAGS))


def _see_through(
    session: Session, domain: Domain, invocation: Invocation, request: _Request, start: Callable[[], BlockJob]
) -> None:
    """Wait, then pivot, finish or leave the job mirroring. The texts begin with a line end, which ends the progress."""
    display = _display(session.output) if invocation.has("verbose") else None
    abort_async = invocation.has("async")
    wait = BlockJobWait(session, request.path, display, timeout_s=request.timeout_s, abort_async=abort_async)
    try:
        outcome, job = wait.until_mirrored(start)
    except (CommandError, VirError):
        _leave(display)
        raise
    if session.output.quiet and session.output.err.isatty():
        _leave(display)
    if outcome is Outcome.CANCELED:
        _tell(session.output, "aborted", "Copy aborted", job)
        raise CommandError
    if outcome is Outcome.FAILED:
        _tell(session.output, "failed", "Copy failed", job)
        raise failure_of(job)
    flags = BlockJobAbortFlags.ASYNC if abort_async else BlockJobAbortFlags.NONE
    if invocation.has("pivot"):
        ended = _end(session, domain, request, flags | BlockJobAbortFlags.PIVOT, display)
        _tell(session.output, "pivoted", "Successfully pivoted", ended or job)
    elif invocation.has("finish"):
        ended = _end(session, domain, request, flags, display)
        _tell(session.output, "copied", "Successfully copied", ended or job)
    else:
        _tell(session.output, "mirroring", "Now in mirroring phase", job)


def _end(
    session: Session, domain: Domain, request: _Request, flags: BlockJobAbortFlags, display: Display | None
) -> BlockJob | None:
    """The ended job, where the server keeps a record of it."""
    verb = "pivot" if flags & BlockJobAbortFlags.PIVOT else "finish"
    try:
        return session.client.block_job_abort(domain, request.path, flags)
    except VirError as error:
        _leave(display)
        raise CommandError(f"failed to {verb} job for disk {request.path}") from error


def _leave(display: Display | None) -> None:
    if display is not None:
        display.leave()


def _tell(output: Output, result: str, text: str, job: BlockJob) -> None:
    output.result({"result": result, "job": plain(job)}, extra=f"\n{text}")


def _display(output: Output) -> Display:
    return _JsonProgress(output) if output.as_json else make_display(output.err, _LABEL)


class _JsonProgress:
    """Progress for a program: one JSON value a line on standard output."""

    counts_data = False

    def __init__(self, output: Output) -> None:
        self._output = output
        self._shown: tuple[int, int] | None = None

    def show(self, cur: int, end: int, rate_bytes_per_s: int, eta_s: int) -> None:
        """Write a reading that differs from the last one."""
        if (cur, end) == self._shown:
            return
        self._shown = (cur, end)
        figures = {"cur": cur, "end": end, "percent": percent_of(cur, end)}
        rates = {"rate_bytes_per_s": rate_bytes_per_s, "eta_s": eta_s}
        self._output.result({"progress": {**figures, **rates}})

    def finish(self) -> None:
        """The line with the result follows."""

    def leave(self) -> None:
        """Every line is complete."""
