# SPDX-License-Identifier: Apache-2.0
"""Taking up, after a restart, the jobs that had not ended.

Owns: what becomes of a copy in each state; of pulls and commits `merge_recovery` says it. Invariants: run before the
first call, so nothing else touches the jobs; every step may be repeated after another crash; a job whose files are no
longer the ones it knew fails with that reason, and is never guessed to be complete.

NEW: FAILED, its call never answered. RUNNING: goes on from its journal; without one it begins anew, unless its
destination was already published. READY: READY. ABORTING: CANCELED. PIVOTING: the pivot is finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from virtblock.engine import EngineError
from virtblock.server.core.errors import ErrorNumber, PassingError, VirError, report
from virtblock.server.core.jobs import job_error
from virtblock.server.core.model import BlockJob, BlockJobStatus, Domain, JobState
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.copy_job import CopyJob
from virtblock.server.drivers.offline.copy_spec import PARTIAL_SUFFIX, CopySpec, spec_of
from virtblock.server.drivers.offline.definitions import Definitions
from virtblock.server.drivers.offline.file_identity import file_identity, is_device, is_same_file
from virtblock.server.drivers.offline.guards import engine_jobs
from virtblock.server.drivers.offline.merge_recovery import MergeRecovery
from virtblock.server.drivers.offline.merge_spec import MERGE_TYPES
from virtblock.server.drivers.offline.pivot import finish_pivot, is_pivoted
from virtblock.server.drivers.offline.removing import remove_image
from virtblock.server.drivers.offline.running_jobs import RunningJobs

logger = logging.getLogger(__name__)


class Recovery:
    """Recovers the jobs of one connection."""

    def __init__(self, context: Context, definitions: Definitions, running: RunningJobs) -> None:
        self._context = context
        self._definitions = definitions
        self._running = running
        self._merges = MergeRecovery(context, definitions, running)
        self._by_state: dict[JobState, Callable[[BlockJob, CopySpec], None]] = {
            JobState.NEW: self._fail_new,
            JobState.RUNNING: self._restart,
            JobState.READY: self._resume_ready,
            JobState.ABORTING: self._cancel,
            JobState.PIVOTING: self._pivot,
        }

    def run(self) -> None:
        """Every job that has not ended and does not run. One that cannot be taken up fails, and stops no other.

        `PassingError` when definitions or the state cannot be had; what was not taken up yet is then left for
        the next run.
        """
        for job in engine_jobs(self._context):
            if self._running.has_live(job.job_id):
                continue
            logger.info("taking up job %s (%s) of disk %s", job.job_id, job.state.value, job.disk)
            try:
                self._take_up(job)
            except PassingError:
                raise
            except VirError as error:
                self._fail(job, error)
            except Exception as error:
                # A bug, but the other jobs and the server are to go on.
                logger.exception("job %s could not be taken up", job.job_id)
                self._fail(job, report(ErrorNumber.INTERNAL_ERROR, f"the job could not be taken up: {error!r}"))

    def _take_up(self, job: BlockJob) -> None:
        try:
            if job.type in MERGE_TYPES:
                self._merges.take_up(job)
                return
            spec = spec_of(job)
        except (KeyError, TypeError, ValueError) as error:
            raise report(ErrorNumber.INTERNAL_ERROR, f"the job's record cannot be read: {error!r}") from None
        try:
            self._by_state[job.state](job, spec)
        except PassingError:
            raise
        except VirError:
            if job.state in (JobState.NEW, JobState.RUNNING):
                _discard_partial(self._context, job, spec)
            raise

    def _fail_new(self, job: BlockJob, spec: CopySpec) -> None:
        raise report(ErrorNumber.OPERATION_FAILED, "the server stopped before the copy began")

    def _restart(self, job: BlockJob, spec: CopySpec) -> None:
        copy_job = self._copy_job(job, spec)
        journals = self._context.journals
        if _was_published(job, spec) and (journals is None or not journals.has(job.job_id)):
            _require_unchanged_sources(job)
            copy_job.resume_ready(is_new=True)
        else:
            try:
                if journals is not None and journals.has(job.job_id):
                    _require_unchanged_devices(job)
                copy_job.reopen_images(job.bandwidth_bytes_per_s)
                copy_job.start(is_restarted=True)
            except PassingError:
                raise
            except VirError as error:
                _discard_partial(self._context, job, spec)
                copy_job.fail(error, status=BlockJobStatus.FAILED)
                return
        self._running.add(copy_job)

    def _resume_ready(self, job: BlockJob, spec: CopySpec) -> None:
        _require_unchanged_destination(job, spec)
        _require_unchanged_sources(job)
        copy_job = self._copy_job(job, spec)
        copy_job.resume_ready()
        self._running.add(copy_job)

    def _cancel(self, job: BlockJob, spec: CopySpec) -> None:
        _discard_partial(self._context, job, spec)
        self._context.jobs.transition(
            job.job_id,
            JobState.CANCELED,
            status=BlockJobStatus.CANCELED,
            domain=_domain_of(job),
            event_path=job.source_path,
            paused=False,
        )
        self._forget_journal(job)

    def _forget_journal(self, job: BlockJob) -> None:
        if self._context.journals is not None:
            self._context.journals.remove(job.job_id)

    def _pivot(self, job: BlockJob, spec: CopySpec) -> None:
        copy_job = self._copy_job(job, spec)
        if is_pivoted(self._definitions, copy_job):  # the disk may be in use by now, and be another than it was
            finish_pivot(self._context, self._definitions, copy_job)
            return
        _require_unchanged_destination(job, spec)
        _require_unchanged_sources(job)
        copy_job.resume_pivot()

    def _copy_job(self, job: BlockJob, spec: CopySpec) -> CopyJob:
        return CopyJob(
            self._context, job, spec, lambda copy_job: finish_pivot(self._context, self._definitions, copy_job)
        )

    def _fail(self, job: BlockJob, error: VirError) -> None:
        is_announced = job.state is not JobState.NEW
        self._context.jobs.transition(
            job.job_id,
            JobState.FAILED,
            status=BlockJobStatus.FAILED if is_announced else None,
            domain=_domain_of(job),
            event_path=job.source_path,
            error=job_error(error),
            reason=error.message,
            paused=False,
        )
        self._forget_journal(job)


def _domain_of(job: BlockJob) -> Domain:
    return Domain(job.connection_uri, job.domain_name, job.domain_uuid)


def _was_published(job: BlockJob, spec: CopySpec) -> bool:
    """Whether the new file that the copy filled got its final name before the server died."""
    new_file = job.details.get("new_file")
    return not spec.is_reused and is_same_file(new_file, file_identity(spec.destination_path))


def _require_unchanged_devices(job: BlockJob) -> None:
    """Of files the engine's journal knows it; of a device it only knows which one it is."""
    _require_unchanged_sources(job, is_of_interest=is_device)


def _require_unchanged_sources(job: BlockJob, is_of_interest: Callable[[Any], bool] = lambda _identity: True) -> None:
    """Otherwise source and destination would no longer agree."""
    files = zip(job.details["source_paths"], job.details["sources"], strict=True)
    for index, (path, identity) in enumerate(files):
        if is_of_interest(identity) and (identity is None or file_identity(path) != identity):
            place = "the source" if index == 0 else f"image or data file {index} below the source"
            detail = f"{place} '{path}' was changed while the server was down"
            raise report(ErrorNumber.OPERATION_FAILED, detail)


def _require_unchanged_destination(job: BlockJob, spec: CopySpec) -> None:
    known, found = job.details["destination_file"], file_identity(spec.destination_path)
    if not is_same_file(known, found) or found is None or found["size_bytes"] != known["size_bytes"]:
        detail = f"the destination '{spec.destination_path}' is not the file that it was before the server stopped"
        raise report(ErrorNumber.OPERATION_FAILED, detail)


def _discard_partial(context: Context, job: BlockJob, spec: CopySpec) -> None:
    """Removes what a killed copy left under the partial name, when it is certain to be that copy's."""
    path = spec.destination_path + PARTIAL_SUFFIX
    new_file = job.details.get("new_file")
    if is_same_file(new_file, file_identity(path)):
        try:
            remove_image(path, context.policy, new_file)
        except (EngineError, OSError) as error:
            logger.warning("the unfinished copy '%s' could not be removed: %s", path, error)
