# SPDX-License-Identifier: Apache-2.0
"""The life of one job that the engine does: run, READY where it is a mirror, and one of the ends.

Owns: the thread of a job, its open images and the engine's work on them, and with them the image locks. What a copy, a
pull and a commit do differently is in the classes below this one. Invariants: a state is durable before anybody sees
it; `_lock` makes "look at the state, then change it" one step against the thread; once an end was asked for (`_wish`)
no other can be; the locks on all images are kept until the job has ended; a parked job changes nothing durable but
its journal, which goes when READY or the end is durable. A state that cannot be recorded now (a full disk under the
store) is recorded as soon as it can be; the job has not ended before.
Whoever needs the domain's lock takes it before `_lock`.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from virtblock.engine import CELL_DONE, EngineError
from virtblock.server.core.errors import ErrorNumber, PassingError, StateUnwritable, VirError, report
from virtblock.server.core.jobs import job_error, libvirt_progress
from virtblock.server.core.model import BlockJob, BlockJobStatus, Domain, JobProgress, JobState
from virtblock.server.drivers.offline.context import Context, EngineWork, OpenChain
from virtblock.server.drivers.offline.engine_errors import opening_error, vir_error

RATE_WINDOW_S = 3.0
PASSING_RETRY_S = 0.5

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Wish(Enum):
    """The end that is to come: FINISH is the pivot of a mirror, and the end of any other work that is done."""

    ABORT = "abort"
    FINISH = "finish"
    PARK = "park"


class EngineJob(ABC):
    """One job, from its record (NEW) to its end. Thread-safe."""

    noun: str  # what a caller calls it: "copy"

    def __init__(self, context: Context, job: BlockJob, finish: Callable[[Any], None]) -> None:
        """`finish` gets this job at its end: it makes the domain's definition and COMPLETED durable together."""
        self.context = context
        self.job_id = job.job_id
        self.domain = Domain(job.connection_uri, job.domain_name, job.domain_uuid)
        self.target = job.disk
        self.source_path = job.source_path
        self._finish = finish
        self._lock = threading.Condition(threading.RLock())
        self._wish: Wish | None = None
        self._cancel_reason = ""
        self._is_parking = threading.Event()
        self._chain: OpenChain | None = None
        self._guard_chain: OpenChain | None = None  # a lock on images whose work an earlier process did
        self._work: EngineWork | None = None
        self._is_running = False
        self._samples: deque[tuple[float, int]] = deque()
        self._thread: threading.Thread | None = None
        self.ended = threading.Event()

    @property
    def job(self) -> BlockJob:
        """The record as it is now."""
        return self.context.jobs.get(self.job_id)

    @abstractmethod
    def open_images(self, bandwidth_bytes_per_s: int, *, resume: bool = False) -> None:
        """Opens and locks every image of the job, and sets the work. VirError.

        `resume`: the work goes on from the job's journal, if there is one that is whole.
        """

    @abstractmethod
    def _details(self) -> dict[str, Any]:
        """What a restart needs: what is to be done, and which files these are."""

    @abstractmethod
    def _ready_details(self) -> dict[str, Any]:
        """The same for a mirror whose work is done."""

    @abstractmethod
    def _open_guards(self) -> None:
        """Locks the images of a mirror whose work is done against writers. VirError."""

    @abstractmethod
    def _require_pivotable(self) -> None:
        """What a READY mirror pivots to is still there. VirError."""

    @property
    @abstractmethod
    def final_path(self) -> str:
        """The disk's source once the job is COMPLETED."""

    @property
    @abstractmethod
    def _counts_whole_disk(self) -> bool:
        """Whether holes count as work, as in libvirt's figures of all jobs but those on a top image alone."""

    @property
    def _size_bytes(self) -> int:
        """The disk's length; the images are open."""
        assert self._chain is not None
        return self._chain.size_bytes

    def start(self, *, is_restarted: bool = False) -> None:
        """RUNNING, and the thread goes. When an abort came while the images were opened: CANCELED and 78."""
        with self._lock:
            self._require_no_wish()
            changes: dict[str, Any] = {"details": self._details(), "size_bytes": self._size_bytes}
            reason = ""
            if is_restarted:
                goes_on = self._goes_on
                how = "goes on" if goes_on else "began anew"
                reason = f"the server was restarted and the {self.noun} {how}"
                changes |= {"is_restarted": self.job.is_restarted or not goes_on, "progress": JobProgress()}
            job = self.context.jobs.transition(self.job_id, JobState.RUNNING, reason=reason, **changes)
            if job.paused and self._work is not None:
                self._work.pause()
            self._is_running = True
            self._go(self._run)

    @property
    def _goes_on(self) -> bool:
        """Whether the work that was opened after a restart does not begin anew."""
        return self._work is None or self._work.is_resumed

    @property
    def _digest(self) -> str:
        """Of the disk as the work that is done read it; "" if none was made."""
        return ""

    def _journal_options(self, *, resume: bool) -> dict[str, Any]:
        """For the engine: it leaves the journal at a good end, until that is recorded here."""
        if self.context.journals is None:
            return {}
        path = self.context.journals.path_of(self.job_id)
        return {"journal_path": path, "resume": resume, "journal_stays": True}

    def _forget_journal(self) -> None:
        if self.context.journals is not None:
            self.context.journals.remove(self.job_id)

    def resume_ready(self, *, is_new: bool = False) -> None:
        """Takes up a mirror whose work an earlier process did. `is_new`: it did not come to say so. VirError.

        The caller knows that all images are still what they were; they are locked against writers from here on.
        """
        self._open_guards()
        with self._lock:
            if is_new:
                self._announce_ready()
            self._go(self._wait_for_end)

    def resume_pivot(self) -> None:
        """Finishes a pivot that an earlier process began. VirError.

        The images are locked until the definition is changed: nobody runs on the source meanwhile.
        """
        self._open_guards()
        try:
            self._finish(self)
        finally:
            with self._lock:
                self._close_images()

    def fail(self, error: VirError, *, status: BlockJobStatus | None = None) -> None:
        """FAILED with this reason; an abort that came first makes it CANCELED, and an end that was recorded stays.

        `status`: libvirt's event, if any.
        """
        with self._lock:
            if self.ended.is_set():
                return
            try:
                self._fail_now(error, status)
            except StateUnwritable:
                if self._thread is not None:  # which comes here again
                    raise
                self._go(lambda: self._patiently(lambda: self._fail_now(error, status), None))

    def request_abort(self, check: Callable[[BlockJob], object]) -> None:
        """ABORTING, once `check` has let the present state pass. Wakes or cancels the work.

        Of work that is done and only to be recorded nothing can be taken back: it completes, as libvirt lets it.
        """
        with self._lock:
            check(self.job)
            if self._wish is Wish.FINISH:
                return
            self._require_not_parked()
            self.context.jobs.transition(self.job_id, JobState.ABORTING)
            self._wish = Wish.ABORT
            if self._is_running and self._work is not None:
                self._work.cancel()
            self._lock.notify_all()

    def cancel(self, reason: str) -> None:
        """CANCELED with this reason, unless an end was asked for before: what the job is for is gone."""
        with self._lock:
            if self.ended.is_set() or self._wish is not None:
                return
            self._cancel_reason = reason
            self.request_abort(lambda _job: None)

    def request_pivot(self, check: Callable[[BlockJob], object]) -> None:
        """PIVOTING, once `check` has let the present state pass and what it pivots to is there."""
        with self._lock:
            check(self.job)
            self._require_pivotable()
            self._require_not_parked()
            self.context.jobs.transition(self.job_id, JobState.PIVOTING)
            self._wish = Wish.FINISH
            self._lock.notify_all()

    def park(self) -> None:
        """Ends the thread and lets go of the images; the durable state stays, so that a restart goes on with it."""
        self._is_parking.set()
        with self._lock:
            if self._wish is None:
                self._wish = Wish.PARK
                if self._is_running and self._work is not None:
                    self._work.keep_unfinished(True)
                    self._work.cancel()
                self._lock.notify_all()
        if self._thread is not None:
            self._thread.join()

    def pause(self) -> None:
        """Holds the work; 55 when it does not run."""
        self._steer(True)

    def resume(self) -> None:
        """Lets held work go on; 55 when it does not run."""
        self._steer(False)

    def set_bandwidth(self, bytes_per_s: int) -> None:
        """Changes the limit, durably and at once; 0: none."""
        with self._lock:
            self.context.jobs.change_bandwidth(self.job_id, bytes_per_s)
            if self._work is not None:
                self._work.set_bandwidth(bytes_per_s)

    def map(self, cell_count: int) -> bytes:
        """The engine's picture of the disk in cells; what an earlier process completed is all done."""
        with self._lock:
            if self._work is not None:
                return self._work.map(cell_count)
            if self._guard_chain is not None:
                return bytes([CELL_DONE]) * cell_count
        raise report(ErrorNumber.OPERATION_INVALID, f"block job '{self.job_id}' has not started copying")

    def publish_progress(self) -> None:
        """Puts the running work's figures into the record (in memory)."""
        with self._lock:
            if self._is_running and self._work is not None:
                self.context.jobs.set_progress(self.job_id, self._figures(is_done=False))

    def wait_for_end(self) -> None:
        """Returns when the job has ended, was parked, or a pivot failed and the job is READY again."""
        with self._lock:
            self._lock.wait_for(lambda: self.ended.is_set() or self._wish is None)

    def complete(self, domain_xml: str | None, reason: str = "", **changes: Any) -> None:
        """COMPLETED, with the definition that goes with it in the same transaction. For the `finish` callback.

        The images are let go before, so that whoever hears of the end can open them. `changes`: other fields of the
        job.
        """
        with self._lock:
            self._close_images()
        self._end(
            JobState.COMPLETED,
            status=BlockJobStatus.COMPLETED,
            event_path=self.final_path,
            domain_xml=domain_xml,
            reason=reason,
            **changes,
        )

    def _require_not_parked(self) -> None:
        """The thread is gone: an end that is asked for now would come at the next start, after this call has failed."""
        if self._is_parking.is_set() and self.ended.is_set():
            raise report(ErrorNumber.OPERATION_ABORTED, "the server is stopping")

    def _require_no_wish(self) -> None:
        """An abort or the server's end may come while the images are opened; the starting call tells."""
        if self._wish is Wish.ABORT:
            self._finish_canceled()
            raise report(ErrorNumber.OPERATION_ABORTED, f"block {self.noun} of disk '{self.target}' was aborted")
        if self._wish is Wish.PARK:
            self._let_go()
            raise report(ErrorNumber.OPERATION_ABORTED, "the server is stopping")

    def _open_locked(
        self, layers: tuple[tuple[str, str], ...], *, is_terminated: bool, data_files: Mapping[str, str]
    ) -> OpenChain:
        """A chain that nobody can write to; VirError."""
        try:
            return self.context.open_chain(layers, is_terminated=is_terminated, lock=True, data_files=data_files)
        except EngineError as error:
            raise opening_error(error, layers[0][0], self.context.policy) from None

    def _go(self, main: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                main()
            except Exception as error:
                self._record_broken(error)

        name = f"{self.noun}-{self.target}-{self.job_id}"
        self._thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._thread.start()

    def _patiently(self, step: Callable[[], T], parked: T) -> T:
        """The result of a step that records something and may be repeated, once the state can be written.

        `parked`: the result where the job is parked before that; it is let go of then, and its record stays.
        """
        is_told = False
        while True:
            try:
                return step()
            except StateUnwritable as error:
                if not is_told:
                    logger.error("job %s waits until it can be recorded: %s", self.job_id, error.message)
                is_told = True
            if self._is_parking.wait(PASSING_RETRY_S):
                with self._lock:
                    self._let_go()
                return parked

    def _run(self) -> None:
        """The thread of a job with work to do."""
        failure: VirError | None = None
        try:
            if self._work is not None:
                self._work.run()
        except EngineError as error:
            failure = vir_error(error)
        except Exception as error:
            logger.exception("the %s of job %s broke", self.noun, self.job_id)
            failure = report(ErrorNumber.INTERNAL_ERROR, f"{self.noun} of disk '{self.target}' broke: {error}")
        if self._patiently(lambda: self._after_run(failure), parked=False):
            self._wait_for_end()

    def _after_run(self, failure: VirError | None) -> bool:
        """What the end of the work means, by what was wished meanwhile: whether the job is READY now."""
        with self._lock:
            self._is_running = False
            if self._wish is Wish.PARK:
                self._let_go()
                return False
            if self._wish is Wish.ABORT:
                self._finish_canceled()
                return False
            if failure is not None:
                self.fail(failure, status=BlockJobStatus.FAILED)
                return False
            self._announce_ready()
            return True

    def _announce_ready(self) -> None:
        progress = self._figures(is_done=True) if self._work is not None else self._unknown_figures()
        self.context.jobs.transition(
            self.job_id,
            JobState.READY,
            status=BlockJobStatus.READY,
            domain=self.domain,
            event_path=self.source_path,
            progress=progress,
            details=self._ready_details(),
            paused=False,
            digest=self._digest,
        )
        self._forget_journal()

    def _wait_for_end(self) -> None:
        """The thread of a READY job: sleeps until an end is asked for."""
        while True:
            with self._lock:
                while self._wish is None:
                    self._lock.wait()
                wish = self._wish
                if wish is Wish.PARK:
                    self._let_go()
                    return
            if wish is Wish.ABORT:
                self._patiently(self._finish_canceled, None)
                return
            if self._try_pivot():
                return

    def _try_pivot(self) -> bool:
        """Finishes a pivot; False when it could not be made durable and the job is READY again."""
        try:
            self._finish_patiently()
        except Exception as error:
            logger.exception("the pivot of job %s failed", self.job_id)
            cause = error
            return not self._patiently(lambda: self._back_to_ready(cause), parked=False)
        with self._lock:
            self._let_go()
        return True

    def _finish_patiently(self) -> None:
        """The end with the definition, as soon as that can be had. A job that is parked meanwhile stays as it is."""
        while True:
            try:
                self._finish(self)
                return
            except PassingError as error:
                logger.info("job %s waits for its domain's definition: %s", self.job_id, error)
                if self._is_parking.wait(PASSING_RETRY_S):
                    return

    def _back_to_ready(self, cause: Exception) -> bool:
        """After a pivot that failed: READY with the images locked again, else FAILED (and False)."""
        with self._lock:
            try:
                self._close_images()
                self._open_guards()
            except VirError as error:
                self.fail(error, status=BlockJobStatus.FAILED)
                return False
            self.context.jobs.transition(self.job_id, JobState.READY, reason=f"pivot failed: {cause}")
            self._wish = None
            self._lock.notify_all()
        return True

    def _fail_now(self, error: VirError, status: BlockJobStatus | None) -> None:
        with self._lock:
            if self._wish is Wish.ABORT:
                self._finish_canceled()
                return
            self._close_images()
            self._end_failed(error, status)

    def _finish_canceled(self) -> None:
        with self._lock:
            self._close_images()
            self._end(
                JobState.CANCELED,
                status=BlockJobStatus.CANCELED,
                event_path=self.source_path,
                reason=self._cancel_reason,
            )

    def _end_failed(self, error: VirError, status: BlockJobStatus | None, domain_xml: str | None = None) -> None:
        self._end(
            JobState.FAILED,
            status=status,
            event_path=self.source_path,
            error=job_error(error),
            reason=error.message,
            domain_xml=domain_xml,
        )

    def _end(self, state: JobState, *, status: BlockJobStatus | None, event_path: str, **more: Any) -> None:
        with self._lock:
            self.context.jobs.transition(
                self.job_id, state, status=status, domain=self.domain, event_path=event_path, paused=False, **more
            )
            self._forget_journal()
            if state is not JobState.COMPLETED:  # the thread says so itself, when it is done
                self.ended.set()
            self._lock.notify_all()

    def _let_go(self) -> None:
        """Closes everything and says that the thread is done with the job."""
        self._close_images()
        self.ended.set()
        self._lock.notify_all()

    def _close_images(self) -> None:
        """The work first: it uses the chain."""
        for opened in (self._work, self._guard_chain, self._chain):
            if opened is not None:
                opened.close()
        self._work = self._guard_chain = self._chain = None

    def _record_broken(self, error: Exception) -> None:
        """The last resort of the thread: the state cannot be recorded. The next start takes the job up."""
        logger.error("job %s ends without a record: %s", self.job_id, error, exc_info=error)
        with self._lock:
            try:
                self._close_images()
            except EngineError:
                logger.exception("the images of job %s could not be closed", self.job_id)
            self.ended.set()
            self._lock.notify_all()

    def _steer(self, is_paused: bool) -> None:
        with self._lock:
            if not self._is_running or self._work is None or self._wish is not None:
                raise report(ErrorNumber.OPERATION_INVALID, f"block job '{self.job_id}' is not copying")
            if is_paused:
                self._work.pause()
            else:
                self._work.resume()
            self.context.jobs.set_paused(self.job_id, is_paused)

    def _figures(self, *, is_done: bool) -> JobProgress:
        assert self._work is not None
        figures = self._work.progress()
        remaining_bytes = max(figures.total_bytes - figures.moved_bytes, 0)
        is_whole_disk = self._counts_whole_disk and (is_done or figures.total_bytes > 0)
        work_bytes = figures.size_bytes if is_whole_disk else figures.total_bytes
        cur, end = libvirt_progress(work_bytes, remaining_bytes, is_ready=is_done)
        rate_bytes_per_s = 0 if is_done else self._rate(figures.moved_bytes)
        is_known = rate_bytes_per_s > 0 and figures.total_bytes > 0
        return JobProgress(
            cur=end if is_done else cur,
            end=end,
            total_bytes=figures.total_bytes,
            copied_bytes=min(figures.written_bytes + figures.resumed_bytes, figures.total_bytes),
            zero_bytes=figures.zero_bytes,
            remaining_bytes=0 if is_done else remaining_bytes,
            rate_bytes_per_s=rate_bytes_per_s,
            eta_s=0 if is_done else -(-remaining_bytes // rate_bytes_per_s) if is_known else -1,
        )

    def _unknown_figures(self) -> JobProgress:
        """Of work that an earlier process finished without saying so."""
        work_bytes = self._size_bytes if self._counts_whole_disk else 0
        cur, end = libvirt_progress(work_bytes, 0, is_ready=True)
        return JobProgress(cur=cur, end=end, eta_s=0)

    def _rate(self, moved_bytes: int) -> int:
        """Bytes per second over the last seconds."""
        now_s = time.monotonic()
        self._samples.append((now_s, moved_bytes))
        while now_s - self._samples[0][0] > RATE_WINDOW_S:
            self._samples.popleft()
        first_s, first_bytes = self._samples[0]
        return int((moved_bytes - first_bytes) / (now_s - first_s)) if now_s > first_s else 0
