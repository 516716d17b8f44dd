# SPDX-License-Identifier: Apache-2.0
"""Taking up, after a restart, the pulls and commits that had not ended.

Owns: what becomes of such a job in each state. Invariants: those of `recovery`. A chain whose backing reference is
the final one belongs to work that is done, whatever the record says: the engine changes the reference last, when
everything else is durable; so the definition follows it, and nothing is moved twice. A file that is not the one that
the job knew, or that says another thing of itself, fails the job with that reason. The image that is written, and the
one above a commit's top, may have been written since; no other may.

RUNNING: done, or gone on with, or begun again (what is in place already is not harmed by that). READY: READY.
ABORTING: done, or CANCELED. PIVOTING: the pivot is finished.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from virtblock.engine import EngineError, ImageInfo, inspect
from virtblock.server.core.errors import ErrorNumber, PassingError, VirError, report
from virtblock.server.core.model import BlockJob, BlockJobStatus, BlockJobType, Domain, JobState
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.definitions import Definitions
from virtblock.server.drivers.offline.engine_errors import opening_error
from virtblock.server.drivers.offline.file_identity import file_identity, is_same_file
from virtblock.server.drivers.offline.merge_end import finish_merge
from virtblock.server.drivers.offline.merge_job import MergeJob, has_final_reference
from virtblock.server.drivers.offline.merge_spec import MergeSpec, merge_spec_of
from virtblock.server.drivers.offline.pivot import is_pivoted
from virtblock.server.drivers.offline.running_jobs import RunningJobs


class MergeRecovery:
    """Recovers the pulls and commits of one connection."""

    def __init__(self, context: Context, definitions: Definitions, running: RunningJobs) -> None:
        self._context = context
        self._definitions = definitions
        self._running = running
        self._by_state: dict[JobState, Callable[[MergeJob, BlockJob], None]] = {
            JobState.NEW: self._fail_new,
            JobState.RUNNING: self._restart,
            JobState.READY: self._resume_ready,
            JobState.ABORTING: self._cancel,
            JobState.PIVOTING: self._pivot,
        }

    def take_up(self, job: BlockJob) -> None:
        """Goes on with a job; VirError when it must fail, KeyError and the like when its record cannot be read."""
        merge_job = MergeJob(self._context, job, merge_spec_of(job), self._finish)
        self._by_state[job.state](merge_job, job)

    def _finish(self, merge_job: MergeJob) -> None:
        finish_merge(self._context, self._definitions, merge_job)

    def _fail_new(self, merge_job: MergeJob, job: BlockJob) -> None:
        detail = f"the server stopped before the {merge_job.noun} began"
        raise report(ErrorNumber.OPERATION_FAILED, detail)

    def _restart(self, merge_job: MergeJob, job: BlockJob) -> None:
        if self._is_done(merge_job, job):
            self._finish(merge_job)
            return
        self._require_known_files(merge_job.spec, job)
        try:
            merge_job.open_images(job.bandwidth_bytes_per_s, resume=self._context.journals is not None)
            merge_job.start(is_restarted=True)
        except PassingError:
            raise
        except VirError as error:
            merge_job.fail(error, status=BlockJobStatus.FAILED)
            return
        self._running.add(merge_job)

    def _resume_ready(self, merge_job: MergeJob, job: BlockJob) -> None:
        _require_untouched(merge_job.spec, job)
        merge_job.resume_ready()
        self._running.add(merge_job)

    def _pivot(self, merge_job: MergeJob, job: BlockJob) -> None:
        if is_pivoted(self._definitions, merge_job):
            self._finish(merge_job)
            return
        _require_untouched(merge_job.spec, job)
        merge_job.resume_pivot()

    def _cancel(self, merge_job: MergeJob, job: BlockJob) -> None:
        if self._is_done(merge_job, job):
            self._finish(merge_job)
            return
        self._context.jobs.transition(
            job.job_id,
            JobState.CANCELED,
            status=BlockJobStatus.CANCELED,
            domain=Domain(job.connection_uri, job.domain_name, job.domain_uuid),
            event_path=job.source_path,
            paused=False,
        )
        if self._context.journals is not None:
            self._context.journals.remove(job.job_id)

    def _is_done(self, merge_job: MergeJob, job: BlockJob) -> bool:
        """Whether the chain on disk is already the final one, in the very files that the job knew."""
        spec = merge_job.spec
        files = job.details.get("files")
        if files is None or spec.holder_index is None or not has_final_reference(self._context, spec):
            return False
        holder = spec.holder_index
        return is_same_file(files[holder]["identity"], file_identity(spec.images[holder].path or ""))

    def _require_known_files(self, spec: MergeSpec, job: BlockJob) -> None:
        """9 with the image and the reason when one is not as the job left it."""
        written = {spec.holder_index, 0 if spec.type is BlockJobType.PULL else spec.base_index}
        for position, known in enumerate(job.details["files"]):
            path = spec.images[position].path or ""
            if position not in written:
                _require_same_state(position, path, known)
                continue
            if not is_same_file(known["identity"], file_identity(path)):
                raise _other_file(position, path)
            info = self._inspect(spec, position)
            sizes = {known["virtual_size_bytes"]}
            if position == spec.base_index and spec.type is not BlockJobType.PULL:
                sizes.add(job.details["files"][spec.top_index]["virtual_size_bytes"])  # it grows to the top's size
            if info.virtual_size_bytes not in sizes or info.backing_path != known["reference"]:
                raise _changed(position, path)

    def _inspect(self, spec: MergeSpec, position: int) -> ImageInfo:
        path, image_format = spec.layers[position]
        try:
            return inspect(path, "raw" if image_format == "raw" else "qcow2", self._context.policy)
        except EngineError as error:
            raise opening_error(error, path, self._context.policy) from None


def _require_untouched(spec: MergeSpec, job: BlockJob) -> None:
    """Of a commit that was READY every image is as it was then."""
    for position, known in enumerate(job.details["files"]):
        _require_same_state(position, spec.images[position].path or "", known)


def _require_same_state(position: int, path: str, known: dict[str, Any]) -> None:
    found = file_identity(path)
    if not is_same_file(known["identity"], found):
        raise _other_file(position, path)
    if found != known["identity"]:
        raise _changed(position, path)


def _place(position: int, path: str) -> str:
    return f"the source '{path}'" if position == 0 else f"backing image {position} of the source '{path}'"


def _other_file(position: int, path: str) -> VirError:
    detail = f"{_place(position, path)} is not the file that it was before the server stopped"
    return report(ErrorNumber.OPERATION_FAILED, detail)


def _changed(position: int, path: str) -> VirError:
    detail = f"{_place(position, path)} was changed while the server was down"
    return report(ErrorNumber.OPERATION_FAILED, detail)
