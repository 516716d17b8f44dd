# SPDX-License-Identifier: Apache-2.0
"""Seeing a job through: start, wait, and what follows the wait.

Owns: the progress, the texts at the end, and pivot or finish of a mirror. Invariants: a wait that does not succeed
ends with exit code 1 and without a job; texts begin with a line end, which ends the progress.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtblock.cli.block_job_wait import BlockJobWait, Outcome, failure_of
from virtblock.cli.failures import CommandError
from virtblock.cli.output import Output
from virtblock.cli.progress import Display, make_display, percent_of
from virtblock.cli.records import plain
from virtblock.client import VirError
from virtblock.client.flags import BlockJobAbortFlags

if TYPE_CHECKING:
    from virtblock.cli.grammar import Invocation
    from virtblock.cli.session import Session
    from virtblock.client import BlockJob, Domain


@dataclass(frozen=True)
class Course:
    """What virsh calls a kind of job and its ends: `Copy` in `Copy aborted`.

    `ready` and `finished` are a result for programs and a text, for a mirror that is READY and for one that was ended
    by the option `finish_option`. Without `ready` the job is no mirror, and is over when it is done.
    """

    label: str
    noun: str
    ready: tuple[str, str] | None = None
    finish_option: str = ""
    finished: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Watched:
    """The disk whose job is waited for, how long at most, and how."""

    path: str
    timeout_s: float | None
    course: Course


def see_through(
    session: Session, domain: Domain, invocation: Invocation, watched: Watched, start: Callable[[], BlockJob]
) -> None:
    """Start and wait; then pivot, finish, or leave a mirror as it is."""
    output, course = session.output, watched.course
    display = _display(output, course.label) if invocation.has("verbose") else None
    abort_async = invocation.has("async")
    wait = BlockJobWait(session, watched.path, display, timeout_s=watched.timeout_s, abort_async=abort_async)
    try:
        outcome, job = wait.until_settled(start)
    except (CommandError, VirError):
        _leave(display)
        raise
    if output.quiet and output.err.isatty():
        _leave(display)
    if outcome is Outcome.CANCELED:
        _tell(output, "aborted", f"{course.noun} aborted", job)
        raise CommandError
    if outcome is Outcome.FAILED:
        _tell(output, "failed", f"{course.noun} failed", job)
        raise failure_of(job)
    if course.ready is None:
        _tell(output, "completed", f"{course.noun} complete", job)
        return
    flags = BlockJobAbortFlags.ASYNC if abort_async else BlockJobAbortFlags.NONE
    if invocation.has("pivot"):
        ended = _end(session, domain, watched.path, flags | BlockJobAbortFlags.PIVOT, display)
        _tell(output, "pivoted", "Successfully pivoted", ended or job)
    elif invocation.has(course.finish_option):
        ended = _end(session, domain, watched.path, flags, display)
        _tell(output, *course.finished, ended or job)
    else:
        _tell(output, *course.ready, job)


def _end(
    session: Session, domain: Domain, path: str, flags: BlockJobAbortFlags, display: Display | None
) -> BlockJob | None:
    """The ended job, where the server keeps a record of it."""
    verb = "pivot" if flags & BlockJobAbortFlags.PIVOT else "finish"
    try:
        return session.client.block_job_abort(domain, path, flags)
    except VirError as error:
        _leave(display)
        raise CommandError(f"failed to {verb} job for disk {path}") from error


def _leave(display: Display | None) -> None:
    if display is not None:
        display.leave()


def _tell(output: Output, result: str, text: str, job: BlockJob) -> None:
    output.result({"result": result, "job": plain(job)}, extra=f"\n{text}")


def _display(output: Output, label: str) -> Display:
    return _JsonProgress(output) if output.as_json else make_display(output.err, label)


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
