# SPDX-License-Identifier: Apache-2.0
"""A pull or a commit: the engine moves data within one chain, in place.

Owns: what of a job's life is their own. Invariants: those of `engine_job`; once the backing reference on disk has
changed the chain is another one, so whatever else happens, the definition follows it in the transaction that ends the
job; images are deleted only after that transaction. An active commit is a mirror, as a copy is; the others end by
themselves.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from typing import Any

from virtblock.engine import EngineError, ImageInfo, inspect
from virtblock.server.core.errors import ErrorNumber, VirError, report, system_error
from virtblock.server.core.model import BlockJob, BlockJobStatus, BlockJobType, JobProgress
from virtblock.server.drivers.offline.context import Context, OpenMerge
from virtblock.server.drivers.offline.disk_xml import data_files_of
from virtblock.server.drivers.offline.engine_errors import opening_error
from virtblock.server.drivers.offline.engine_job import EngineJob, Wish
from virtblock.server.drivers.offline.file_identity import file_identity, is_same_file
from virtblock.server.drivers.offline.merge_spec import MergeSpec
from virtblock.server.drivers.offline.removing import remove_image

logger = logging.getLogger(__name__)


class MergeJob(EngineJob):
    """One pull or commit job."""

    def __init__(self, context: Context, job: BlockJob, spec: MergeSpec, finish: Callable[[MergeJob], None]) -> None:
        super().__init__(context, job, finish)
        self.spec = spec
        self.noun = "pull" if spec.type is BlockJobType.PULL else "commit"
        self.failure: VirError | None = None  # of work that changed the chain and then failed
        self._length_bytes = job.size_bytes
        self._final_progress: JobProgress | None = None
        self._files: list[dict[str, Any]] = job.details.get("files", [])

    @property
    def final_path(self) -> str:
        """The base after an active commit, else the source that the disk has."""
        if self.spec.type is BlockJobType.ACTIVE_COMMIT:
            return self.spec.written.path or ""
        return self.source_path

    def open_images(self, bandwidth_bytes_per_s: int, *, resume: bool = False) -> None:
        """Opens and locks the whole chain: what is written for nobody else, the rest against writers. VirError."""
        if self.spec.is_idle:
            self._chain = self._open_locked(
                self.spec.layers, is_terminated=True, data_files=data_files_of(self.spec.images)
            )
            infos, self._length_bytes = self._chain.layers, self._chain.size_bytes
        else:
            self._work = merge = self._open_merge(bandwidth_bytes_per_s, resume=resume)
            infos, self._length_bytes = merge.layers, merge.layers[0].virtual_size_bytes
        self._files = [file_record(info) for info in infos]

    def complete(self, domain_xml: str | None, reason: str = "", **changes: Any) -> None:
        """The end, with the definition that goes with it: COMPLETED, or FAILED when it failed after the change."""
        if self.failure is not None:
            with self._lock:
                self._close_images()
            self._end_failed(self.failure, BlockJobStatus.FAILED, domain_xml)
        elif self.spec.type is BlockJobType.ACTIVE_COMMIT:
            super().complete(domain_xml, reason, **changes)
        else:
            progress = self._final_progress or self._unknown_figures()
            super().complete(domain_xml, reason, progress=progress, **changes)

    @property
    def _counts_whole_disk(self) -> bool:
        return self.spec.type is not BlockJobType.ACTIVE_COMMIT

    @property
    def _goes_on(self) -> bool:
        """A pull always does: what the image holds already is not moved again."""
        return self.spec.type is BlockJobType.PULL or super()._goes_on

    @property
    def _size_bytes(self) -> int:
        return self._length_bytes

    def _open_merge(self, bandwidth_bytes_per_s: int, *, resume: bool) -> OpenMerge:
        spec, doors = self.spec, self.context.doors
        places: dict[str, Any] = {"base_index": spec.base_index}
        if spec.type is not BlockJobType.PULL:
            places["top_index"] = spec.top_index
        try:
            return (doors.open_pull if spec.type is BlockJobType.PULL else doors.open_commit)(
                spec.layers,
                self.context.policy_with(data_files_of(spec.images)),
                terminated=True,
                backing_path=spec.final_reference,
                bandwidth_bytes_per_s=bandwidth_bytes_per_s,
                **self._journal_options(resume=resume),
                **places,
            )
        except EngineError as error:
            raise opening_error(error, spec.layers[0][0], self.context.policy) from None

    def _open_guards(self) -> None:
        data_files = data_files_of(self.spec.images)
        self._guard_chain = self._open_locked(self.spec.layers, is_terminated=True, data_files=data_files)

    def _require_pivotable(self) -> None:
        """The base is still where it was; 38 when it is gone, 9 when another file took its place."""
        path = self.final_path
        found = file_identity(path)
        if found is None:
            raise system_error(errno.ENOENT, f"missing base image of disk {self.target}: {path}")
        assert self.spec.base_index is not None  # a commit has one
        if not is_same_file(found, self._files[self.spec.base_index]["identity"]):
            detail = f"base image of disk {self.target} was replaced by another: {path}"
            raise report(ErrorNumber.OPERATION_FAILED, detail)

    def _details(self) -> dict[str, Any]:
        return {**self.spec.to_details(), "files": self._files}

    def _ready_details(self) -> dict[str, Any]:
        """The base was written, so all files are looked at anew: from here on nobody writes them."""
        for image, record in zip(self.spec.images, self._files, strict=True):
            record["identity"] = file_identity(image.path or "")
        return self._details()

    def _after_run(self, failure: VirError | None) -> bool:
        if self.spec.type is BlockJobType.ACTIVE_COMMIT:
            return super()._after_run(failure)
        with self._lock:
            self._is_running = False
            if self._wish is Wish.PARK:
                self._let_go()
                return False
            if failure is not None and not has_final_reference(self.context, self.spec):
                self.fail(failure, status=BlockJobStatus.FAILED)
                return False
            # What is done is done, even where an abort came: libvirt completes such a job as well.
            self._wish, self.failure = Wish.FINISH, failure
            if self._work is not None:
                self._final_progress = self._figures(is_done=True)
        # Locked until the definition has followed: nobody starts the domain on a chain that was.
        self._finish_patiently()
        with self._lock:
            self._let_go()
        return False


def file_record(info: ImageInfo) -> dict[str, Any]:
    """An image of the chain as a restart compares it."""
    return {
        "identity": file_identity(info.path),
        "virtual_size_bytes": info.virtual_size_bytes,
        "reference": info.backing_path,
    }


def has_final_reference(context: Context, spec: MergeSpec) -> bool:
    """Whether the chain on disk is already the one after the job: the engine changes the reference last.

    An image that cannot be read says nothing: False.
    """
    if spec.holder_index is None or spec.is_idle:
        return False
    path, image_format = spec.layers[spec.holder_index]
    try:
        info = inspect(path, "raw" if image_format == "raw" else "qcow2", context.policy)
    except EngineError:
        return False
    return info.backing_path == spec.final_reference


def delete_removed(context: Context, job: BlockJob, spec: MergeSpec, needed: frozenset[str] | None) -> None:
    """Removes the files that a commit with DELETE made superfluous, as far as possible; never another file.

    Called when the end is durable. Block devices stay, and so does what lies outside the allowed folders, and what the
    definition still needs (None: that is not known).
    """
    for position in spec.removed:
        image = spec.images[position]
        known = job.details["files"][position]["identity"]
        path = os.path.realpath(image.path or "")  # the image itself, not a link to it
        if image.type != "file" or not is_same_file(known, file_identity(path)):
            continue
        if needed is None or path in needed:
            logger.warning("the committed image '%s' was not removed: the domain's definition may still need it", path)
            continue
        try:
            remove_image(path, context.policy, known)
        except (EngineError, OSError) as error:
            logger.warning("the committed image '%s' could not be removed: %s", path, error)
