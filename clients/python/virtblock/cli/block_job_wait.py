# SPDX-License-Identifier: Apache-2.0
"""Waiting until a job is READY, or over.

Owns: following one job by the server's events, and by asking when events cannot be had. Invariants: the job is told
by its id, so the end of an earlier job on the disk is never taken for this one's; a time limit or Ctrl-C aborts the
job; the wait ends with what the server has recorded.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from virtblock.cli.failures import CommandError
from virtblock.cli.interrupts import Inbox, Woken, caught_interrupt
from virtblock.client import (
    BlockJob,
    BlockJobFilter,
    BlockJobProgress,
    BlockJobState,
    VirError,
)
from virtblock.client.flags import BlockJobAbortFlags

if TYPE_CHECKING:
    from virtblock.cli.progress import Display
    from virtblock.cli.session import Session

POLL_INTERVAL_S = 0.5
# A watch bears the restart of a server in silence. Who waits longer than this is told when the server stays away.
SILENCE_MAX_S = 10.0


class Outcome(enum.Enum):
    """How a wait ended."""

    READY = "ready"
    COMPLETED = "completed"
    CANCELED = "canceled"
    FAILED = "failed"


_OUTCOMES = {
    BlockJobState.READY: Outcome.READY,
    BlockJobState.COMPLETED: Outcome.COMPLETED,
    BlockJobState.CANCELED: Outcome.CANCELED,
    BlockJobState.FAILED: Outcome.FAILED,
}


class BlockJobWait:
    """Starts one job and waits for it."""

    def __init__(
        self, session: Session, path: str, display: Display | None, *, timeout_s: float | None, abort_async: bool
    ) -> None:
        self._session = session
        self._path = path
        self._display = display
        self._abort_flags = BlockJobAbortFlags.ASYNC if abort_async else BlockJobAbortFlags.NONE
        self._inbox: Inbox[BlockJob | BlockJobProgress] = Inbox(timeout_s)
        self._is_polling = False

    def until_settled(self, start: Callable[[], BlockJob]) -> tuple[Outcome, BlockJob]:
        """How it ended, and the job as it was last seen. CommandError when it can be neither followed nor aborted.

        Ctrl-C is noted while `start` runs already, so that it never leaves a job behind that nobody waits for.
        """
        with caught_interrupt(self._inbox.interrupt):
            job = start()
            self._inbox.feed(lambda: self._news_of(job))
            return self._follow(job)

    def _news_of(self, job: BlockJob) -> Iterator[BlockJob | BlockJobProgress]:
        """What becomes of the job, from its present state on."""
        client = self._session.client
        wanted = BlockJobFilter(connection_uri=job.connection_uri, domain_uuid=job.domain.uuid, disk=job.disk)
        with client.watch_block_jobs(wanted, progress_interval_s=POLL_INTERVAL_S) as events:
            # What happened before the watch was there.
            yield client.get_block_job(job.job_id)
            for event in events:
                if event.job is not None and event.job.job_id == job.job_id:
                    yield event.job
                elif event.progress is not None and event.progress.job_id == job.job_id:
                    yield event.progress

    def _follow(self, job: BlockJob) -> tuple[Outcome, BlockJob]:
        while (outcome := _OUTCOMES.get(job.state)) is None:
            self._show(job)
            news = self._next_news(job)
            while isinstance(news, BlockJobProgress):
                self._show(news)
                news = self._next_news(job)
            if isinstance(news, Woken):
                return Outcome.CANCELED, self._abort(job)
            job = news or job
        if self._display is not None and outcome in (Outcome.READY, Outcome.COMPLETED):
            self._display.finish()
        return outcome, job

    def _next_news(self, job: BlockJob) -> BlockJob | BlockJobProgress | Woken | None:
        try:
            news = self._inbox.get(at_most_s=POLL_INTERVAL_S if self._is_polling else SILENCE_MAX_S)
        except VirError:
            # Events cannot be had, as from a server that has no room for one more stream: ask from now on.
            self._is_polling = True
            return job
        if news is not None:
            return news
        with self._session.explain(f"failed to query job for disk {self._path}"):
            return self._session.client.get_block_job(job.job_id)

    def _abort(self, job: BlockJob) -> BlockJob:
        with self._session.explain(f"failed to abort job for disk {self._path}"):
            ended = self._session.client.block_job_abort(job.domain, self._path, self._abort_flags)
        return ended or job

    def _show(self, reading: BlockJob | BlockJobProgress) -> None:
        if self._display is None:
            return
        cur, end = reading.cur, reading.end
        if self._display.counts_data and reading.remaining_bytes > 0 and reading.copied_bytes >= 0:
            cur, end = reading.copied_bytes, reading.copied_bytes + reading.remaining_bytes
        self._display.show(cur, end, reading.rate_bytes_per_s, reading.eta_s)


def failure_of(job: BlockJob) -> CommandError:
    """The error of a job that ended as FAILED: virsh says no more than that; the server knows why."""
    problem = CommandError()
    if job.error is not None:
        problem.__cause__ = VirError(job.error)
    return problem
