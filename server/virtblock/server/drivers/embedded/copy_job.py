# SPDX-License-Identifier: Apache-2.0
"""The life of one copy job: open, run, READY, and one of the ends.

Owns: the thread of a job, its chain and its engine copy, and with them the image locks. Invariants: a state is
durable before anybody sees it; `_lock` makes "look at the state, then change it" one step against the thread; once an
end was asked for (`_wish`) no other can be; locks on source and destination are kept until the job has ended; a
parked job changes nothing durable. Whoever needs the domain's lock takes it before `_lock`.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

from virtblock.engine import CELL_DONE, EngineError
from virtblock.server.core.errors import ErrorNumber, VirError, report, system_error
from virtblock.server.core.jobs import job_error, libvirt_progress
from virtblock.server.core.model import BlockJob, BlockJobStatus, Domain, JobProgress, JobState
from virtblock.server.drivers.embedded.context import Context, OpenChain, OpenCopy
from virtblock.server.drivers.embedded.copy_spec import PARTIAL_SUFFIX, CopySpec, file_identity, is_same_file
from virtblock.server.drivers.embedded.destination import Destination, find_reused_backing
from virtblock.server.drivers.embedded.engine_errors import creating_error, opening_error, vir_error

RATE_WINDOW_S = 3.0
RESTARTED_REASON = "the server was restarted and the copy began anew"

logger = logging.getLogger(__name__)


class Wish(Enum):
    """The end that was asked for."""

    ABORT = "abort"
    PIVOT = "pivot"
    PARK = "park"


class CopyJob:
    """One job, from its record (NEW) to its end. Thread-safe."""

    def __init__(self, context: Context, job: BlockJob, spec: CopySpec, pivot: Callable[[CopyJob], None]) -> None:
        """`pivot` finishes a pivot: it makes the new definition and the COMPLETED job durable together."""
        self.context = context
        self.job_id = job.job_id
        self.domain = Domain(job.connection_uri, job.domain_name, job.domain_uuid)
        self.target = job.disk
        self.source_path = job.source_path
        self.spec = spec
        self._pivot = pivot
        self._lock = threading.Condition(threading.RLock())
        self._wish: Wish | None = None
        self._chain: OpenChain | None = None
        self._guard_chain: OpenChain | None = None  # a lock on a destination that this process did not write
        self._copy: OpenCopy | None = None
        self._is_running = False
        self._samples: deque[tuple[float, int]] = deque()
        self._thread: threading.Thread | None = None
        self.ended = threading.Event()

    @property
    def job(self) -> BlockJob:
        """The record as it is now."""
        return self.context.jobs.get(self.job_id)

    def open_images(self, bandwidth_bytes_per_s: int, before_copy: Callable[[OpenChain], None] | None = None) -> None:
        """Opens and locks source and destination. VirError.

        `before_copy` sees the open chain before the destination is touched, and may refuse.
        """
        self._open_chain()
        assert self._chain is not None
        self._complete_overlay_base(self._chain)
        if before_copy is not None:
            before_copy(self._chain)
        base = None if self.spec.is_reused else self.spec.overlay_base
        try:
            self._copy = self.context.doors.open_copy(
                self._chain,
                self.spec.destination_path,
                self.spec.destination.format,
                self.context.policy,
                mode=self.spec.mode,
                reuse=self.spec.is_reused,
                backing_path=base[0] if base else None,
                backing_format=base[1] if base else None,
                bandwidth_bytes_per_s=bandwidth_bytes_per_s,
                granule_bytes=self.spec.granule_bytes,
            )
        except EngineError as error:
            raise creating_error(error, self.target, self.spec.destination_path) from None

    def start(self, *, is_restarted: bool = False) -> None:
        """RUNNING, and the thread goes. When an abort came while the images were opened: CANCELED and 78."""
        with self._lock:
            self._require_no_wish()
            assert self._chain is not None
            changes: dict[str, Any] = {"details": self._details(), "size_bytes": self._chain.size_bytes}
            if is_restarted:
                changes |= {"is_restarted": True, "progress": JobProgress()}
            reason = RESTARTED_REASON if is_restarted else ""
            job = self.context.jobs.transition(self.job_id, JobState.RUNNING, reason=reason, **changes)
            if job.paused and self._copy is not None:
                self._copy.pause()
            self._is_running = True
            self._go(self._run)

    def resume_ready(self, *, is_new: bool = False) -> None:
        """Takes up a copy that an earlier process completed. `is_new`: it did not come to say so. VirError.

        The caller knows that source and destination are still what they were; both are locked against writers from
        here on.
        """
        self._open_guards()
        with self._lock:
            if is_new:
                self._announce_ready()
            self._go(self._wait_for_end)

    def fail(self, error: VirError, *, status: BlockJobStatus | None = None) -> None:
        """FAILED with this reason; an abort that came first makes it CANCELED, and an end that was recorded stays.

        `status`: libvirt's event, if any.
        """
        with self._lock:
            if self.ended.is_set():
                return
            if self._wish is Wish.ABORT:
                self._finish_canceled()
                return
            self._close_images()
            self._end(
                JobState.FAILED,
                status=status,
                event_path=self.source_path,
                error=job_error(error),
                reason=error.message,
            )

    def request_abort(self, check: Callable[[BlockJob], None]) -> None:
        """ABORTING, once `check` has let the present state pass. Wakes or cancels the copy."""
        with self._lock:
            check(self.job)
            self.context.jobs.transition(self.job_id, JobState.ABORTING)
            self._wish = Wish.ABORT
            if self._is_running and self._copy is not None:
                self._copy.cancel()
            self._lock.notify_all()

    def request_pivot(self, check: Callable[[BlockJob], None]) -> None:
        """PIVOTING, once `check` has let the present state pass and the destination's own chain is there."""
        with self._lock:
            check(self.job)
            self._require_destination()
            if self.spec.reuses_chain and self.spec.destination.format != "raw":
                find_reused_backing(self.context, self._destination())
            self.context.jobs.transition(self.job_id, JobState.PIVOTING)
            self._wish = Wish.PIVOT
            self._lock.notify_all()

    def park(self) -> None:
        """Ends the thread and lets go of the images; the durable state stays, so that a restart goes on with it."""
        with self._lock:
            if self._wish is None:
                self._wish = Wish.PARK
                if self._is_running and self._copy is not None:
                    self._copy.cancel()
                self._lock.notify_all()
        if self._thread is not None:
            self._thread.join()

    def pause(self) -> None:
        """Holds the copy; 55 when it does not run."""
        self._steer(True)

    def resume(self) -> None:
        """Lets a held copy go on; 55 when it does not run."""
        self._steer(False)

    def set_bandwidth(self, bytes_per_s: int) -> None:
        """Changes the limit, durably and at once; 0: none."""
        with self._lock:
            self.context.jobs.change_bandwidth(self.job_id, bytes_per_s)
            if self._copy is not None:
                self._copy.set_bandwidth(bytes_per_s)

    def map(self, cell_count: int) -> bytes:
        """The engine's picture of the disk in cells; a copy that an earlier process completed is all done."""
        with self._lock:
            if self._copy is not None:
                return self._copy.map(cell_count)
            if self._guard_chain is not None:
                return bytes([CELL_DONE]) * cell_count
        raise report(ErrorNumber.OPERATION_INVALID, f"block job '{self.job_id}' has not started copying")

    def publish_progress(self) -> None:
        """Puts the running copy's figures into the record (in memory)."""
        with self._lock:
            if self._is_running and self._copy is not None:
                self.context.jobs.set_progress(self.job_id, self._figures(is_ready=False))

    def complete_pivot(self, domain_xml: str | None, reason: str) -> None:
        """COMPLETED, with the definition that goes with it in the same transaction. For the `pivot` callback."""
        self._end(
            JobState.COMPLETED,
            status=BlockJobStatus.COMPLETED,
            event_path=self.spec.destination_path,
            domain_xml=domain_xml,
            reason=reason,
        )

    def _open_chain(self) -> None:
        top_path = self.spec.layers[0][0]
        try:
            self._chain = self.context.open_chain(self.spec.layers, is_terminated=self.spec.is_terminated, lock=True)
        except EngineError as error:
            raise opening_error(error, top_path, self.context.policy) from None

    def _open_guards(self) -> None:
        """Locks source and finished destination against writers."""
        self._open_chain()
        destination = [(self.spec.destination_path, self.spec.destination.format)]
        try:
            self._guard_chain = self.context.open_chain(destination, is_terminated=True, lock=True)
        except EngineError as error:
            raise opening_error(error, self.spec.destination_path, self.context.policy) from None

    def _require_no_wish(self) -> None:
        """An abort or the server's end may come while the images are opened; the starting call tells."""
        if self._wish is Wish.ABORT:
            self._finish_canceled()
            raise report(ErrorNumber.OPERATION_ABORTED, f"block copy of disk '{self.target}' was aborted")
        if self._wish is Wish.PARK:
            self._let_go()
            raise report(ErrorNumber.OPERATION_ABORTED, "the server is stopping")

    def _require_destination(self) -> None:
        """The finished destination is still where it was put.

        38 when it is gone, 9 when another file took its place.
        """
        path = self.spec.destination_path
        found = file_identity(path)
        if found is None:
            detail = f"missing destination file for disk {self.target}: {path}"
            raise system_error(errno.ENOENT, detail)
        if not is_same_file(found, self.job.details["destination_file"]):
            detail = f"destination file for disk {self.target} was replaced by another: {path}"
            raise report(ErrorNumber.OPERATION_FAILED, detail)

    def _complete_overlay_base(self, chain: OpenChain) -> None:
        """A new overlay records the image right below the source, by its absolute path and with its format."""
        if self.spec.mode == "top" and not self.spec.reuses_chain and self.spec.overlay_base is None:
            below = chain.layers[1]
            self.spec = replace(self.spec, overlay_base=(below.path, below.format))

    def _details(self) -> dict[str, Any]:
        """What a restart needs: the spec, and which files these are."""
        assert self._chain is not None
        paths = [layer.path for layer in self._chain.layers]
        return {
            **self.spec.to_details(),
            "source_paths": paths,
            "sources": [file_identity(path) for path in paths],
            "new_file": None if self.spec.is_reused else file_identity(self.spec.destination_path + PARTIAL_SUFFIX),
        }

    def _go(self, main: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=main, name=f"copy-{self.target}-{self.job_id}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """The thread of a job that copies."""
        assert self._copy is not None
        failure: VirError | None = None
        try:
            self._copy.run()
        except EngineError as error:
            failure = vir_error(error)
        except Exception as error:
            logger.exception("the copy of job %s broke", self.job_id)
            failure = report(ErrorNumber.INTERNAL_ERROR, f"copy of disk '{self.target}' broke: {error}")
        try:
            if self._after_run(failure):
                self._wait_for_end()
        except Exception as error:
            self._record_broken(error)

    def _after_run(self, failure: VirError | None) -> bool:
        """What the end of the copying means, by what was wished meanwhile; True when the job is READY."""
        with self._lock:
            self._is_running = False
            if self._wish is Wish.PARK:
                self._let_go()
            elif self._wish is Wish.ABORT:
                self._finish_canceled()
            elif failure is not None:
                self.fail(failure, status=BlockJobStatus.FAILED)
            else:
                self._announce_ready()
                return True
        return False

    def _announce_ready(self) -> None:
        details = {**self._details(), "destination_file": file_identity(self.spec.destination_path)}
        progress = self._figures(is_ready=True) if self._copy is not None else self._unknown_figures()
        self.context.jobs.transition(
            self.job_id,
            JobState.READY,
            status=BlockJobStatus.READY,
            domain=self.domain,
            event_path=self.source_path,
            progress=progress,
            details=details,
            paused=False,
        )

    def _wait_for_end(self) -> None:
        """The thread of a READY job: sleeps until an end is asked for."""
        while True:
            with self._lock:
                while self._wish is None:
                    self._lock.wait()
                if self._wish is Wish.PARK:
                    self._let_go()
                    return
                if self._wish is Wish.ABORT:
                    self._finish_canceled()
                    return
            if self._try_pivot():
                return

    def _try_pivot(self) -> bool:
        """Finishes a pivot; False when it could not be made durable and the job is READY again.

        The images are let go before, so that whoever hears of the end can open them.
        """
        with self._lock:
            self._close_images()
        try:
            self._pivot(self)
        except Exception as error:
            logger.exception("the pivot of job %s failed", self.job_id)
            return not self._back_to_ready(error)
        with self._lock:
            self._let_go()
        return True

    def _back_to_ready(self, cause: Exception) -> bool:
        """After a pivot that failed: READY with the images locked again, else FAILED (and False)."""
        with self._lock:
            self._wish = None
            try:
                self._open_guards()
            except VirError as error:
                self.fail(error, status=BlockJobStatus.FAILED)
                return False
            self.context.jobs.transition(self.job_id, JobState.READY, reason=f"pivot failed: {cause}")
            self._lock.notify_all()
        return True

    def wait_for_end(self) -> None:
        """Returns when the job has ended, was parked, or a pivot failed and the job is READY again."""
        with self._lock:
            self._lock.wait_for(lambda: self.ended.is_set() or self._wish is None)

    def _finish_canceled(self) -> None:
        self._close_images()
        self._end(JobState.CANCELED, status=BlockJobStatus.CANCELED, event_path=self.source_path)

    def _end(self, state: JobState, *, status: BlockJobStatus | None, event_path: str, **more: Any) -> None:
        with self._lock:
            self.context.jobs.transition(
                self.job_id, state, status=status, domain=self.domain, event_path=event_path, paused=False, **more
            )
            if state is not JobState.COMPLETED:  # a pivot's thread says so itself, when it is done
                self.ended.set()
            self._lock.notify_all()

    def _let_go(self) -> None:
        """Closes everything and says that the thread is done with the job."""
        self._close_images()
        self.ended.set()
        self._lock.notify_all()

    def _close_images(self) -> None:
        """The copy first: it uses the chain."""
        for opened in (self._copy, self._guard_chain, self._chain):
            if opened is not None:
                opened.close()
        self._copy = self._guard_chain = self._chain = None

    def _record_broken(self, error: Exception) -> None:
        """The last resort of the thread: the state could not be recorded (a full disk under the store)."""
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
            if not self._is_running or self._copy is None or self._wish is not None:
                raise report(ErrorNumber.OPERATION_INVALID, f"block job '{self.job_id}' is not copying")
            if is_paused:
                self._copy.pause()
            else:
                self._copy.resume()
            self.context.jobs.set_paused(self.job_id, is_paused)

    def _destination(self) -> Destination:
        spec = self.spec
        destination = spec.destination
        return Destination(
            spec.destination_path, destination.type, destination.format, spec.given_backing or None, spec.is_reused
        )

    def _figures(self, *, is_ready: bool) -> JobProgress:
        assert self._copy is not None
        figures = self._copy.progress()
        remaining_bytes = max(figures.total_bytes - figures.moved_bytes, 0)
        # libvirt counts holes as work of a full copy; of a shallow one, what the top image holds.
        is_whole_disk = self.spec.mode == "full" and (is_ready or figures.total_bytes > 0)
        work_bytes = figures.size_bytes if is_whole_disk else figures.total_bytes
        cur, end = libvirt_progress(work_bytes, remaining_bytes, is_ready=is_ready)
        rate_bytes_per_s = 0 if is_ready else self._rate(figures.moved_bytes)
        is_known = rate_bytes_per_s > 0 and figures.total_bytes > 0
        return JobProgress(
            cur=end if is_ready else cur,
            end=end,
            total_bytes=figures.total_bytes,
            copied_bytes=figures.written_bytes,
            zero_bytes=figures.zero_bytes,
            remaining_bytes=0 if is_ready else remaining_bytes,
            rate_bytes_per_s=rate_bytes_per_s,
            eta_s=0 if is_ready else -(-remaining_bytes // rate_bytes_per_s) if is_known else -1,
        )

    def _unknown_figures(self) -> JobProgress:
        """Of a copy that an earlier process finished without saying so."""
        assert self._chain is not None
        work_bytes = self._chain.size_bytes if self.spec.mode == "full" else 0
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
