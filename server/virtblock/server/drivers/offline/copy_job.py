# SPDX-License-Identifier: Apache-2.0
"""A copy: the engine reads a chain and writes one destination.

Owns: what of a job's life is a copy's own: its two ends, and what must still be there when it pivots. Invariants:
those of `engine_job`; source and destination stay locked from the start to the end, over READY.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from virtblock.engine import EngineError
from virtblock.server.core.errors import ErrorNumber, StateUnwritable, VirError, report, system_error
from virtblock.server.core.model import BlockJob
from virtblock.server.drivers.offline.context import Context, OpenChain, OpenCopy
from virtblock.server.drivers.offline.copy_spec import PARTIAL_SUFFIX, CopySpec
from virtblock.server.drivers.offline.destination import Destination, find_reused_backing
from virtblock.server.drivers.offline.disks import names_of
from virtblock.server.drivers.offline.engine_errors import creating_error
from virtblock.server.drivers.offline.engine_job import EngineJob
from virtblock.server.drivers.offline.file_identity import file_identity, is_same_file
from virtblock.server.drivers.offline.ownership import take_over

logger = logging.getLogger(__name__)


class CopyJob(EngineJob):
    """One copy job."""

    noun = "copy"

    def __init__(self, context: Context, job: BlockJob, spec: CopySpec, finish: Callable[[CopyJob], None]) -> None:
        super().__init__(context, job, finish)
        self.spec = spec
        self._copy: OpenCopy | None = None

    @property
    def final_path(self) -> str:
        """The destination."""
        return self.spec.destination_path

    def open_images(
        self,
        bandwidth_bytes_per_s: int,
        before_copy: Callable[[OpenChain], None] | None = None,
        *,
        resume: bool = False,
    ) -> None:
        """Opens and locks source and destination. VirError.

        `before_copy` sees the open chain before the destination is touched, and may refuse. `resume` as in `EngineJob`.
        """
        self._chain = self._open_source()
        self._complete_overlay_base(self._chain)
        if before_copy is not None:
            before_copy(self._chain)
        base = None if self.spec.is_reused else self.spec.overlay_base
        try:
            self._work = self._copy = self.context.doors.open_copy(
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
                bitmap=self.spec.bitmap,
                digest=True,
                digest_shared=False,
                **self._journal_options(resume=resume),
                **self.spec.options.for_engine(),
            )
        except EngineError as error:
            raise creating_error(error, self.target, self.spec.destination_path) from None
        self._own_new_file()

    def _wait_for_end(self) -> None:
        if self.spec.is_pivoting:
            self._patiently(self._pivot_now, None)
        super()._wait_for_end()

    def _pivot_now(self) -> None:
        """As if somebody had asked; when it fails the job stays READY, and whoever started it sees why."""
        with self._lock:
            if self._wish is not None:
                return
            try:
                self.request_pivot(lambda _job: None)
            except StateUnwritable:
                raise
            except VirError as error:
                logger.warning("job %s cannot be pivoted: %s", self.job_id, error.message)

    def _own_new_file(self) -> None:
        """The new file belongs to whom the source belongs, also when an earlier process began it."""
        if self.spec.is_reused or self.spec.destination.type == "block":
            return
        path = self.spec.destination_path + PARTIAL_SUFFIX
        try:
            take_over(self.source_path, path)
        except FileNotFoundError:
            return  # the destination is a block device, whatever its type says
        except OSError as error:
            raise system_error(error.errno or errno.EIO, f"cannot set owner and mode of '{path}'") from None

    def reopen_images(self, bandwidth_bytes_per_s: int) -> None:
        """After a restart: goes on from the journal, or begins anew where there is none. VirError.

        A flat copy by a bitmap then begins as a whole one: nobody watched the bitmap meanwhile. A shallow one keeps it,
        and is refused if it had begun to write: what the top gave up is in no whole copy of it.
        """
        if self.context.journals is None or not self.context.journals.has(self.job_id):
            self._forget_bitmap()
        self.open_images(bandwidth_bytes_per_s, resume=self.context.journals is not None)
        if self.spec.bitmap is not None and self.spec.mode == "full" and not self._goes_on:
            self._close_images()
            self._forget_bitmap()
            self.open_images(bandwidth_bytes_per_s)

    def _forget_bitmap(self) -> None:
        if self.spec.mode == "full":
            self.spec = replace(self.spec, bitmap=None)

    @property
    def _counts_whole_disk(self) -> bool:
        return self.spec.mode == "full" and self.spec.bitmap is None

    @property
    def _digest(self) -> str:
        return "" if self._copy is None else self._copy.digest

    def _open_guards(self) -> None:
        """Locks source and finished destination against writers."""
        self._chain = self._open_source()
        destination = ((self.spec.destination_path, self.spec.destination.format),)
        self._guard_chain = self._open_locked(destination, is_terminated=True, data_files={})

    def _open_source(self) -> OpenChain:
        spec = self.spec
        return self._open_locked(spec.layers, is_terminated=spec.is_terminated, data_files=dict(spec.data_files))

    def _require_pivotable(self) -> None:
        """The finished destination is still where it was put, and so is the chain of a reused one.

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
        if self.spec.reuses_chain and self.spec.destination.format != "raw":
            find_reused_backing(self.context, self._destination(), dict(self.spec.data_files))

    def _complete_overlay_base(self, chain: OpenChain) -> None:
        """A new overlay records the image right below the source, by its absolute path and with its format."""
        if self.spec.mode == "top" and not self.spec.reuses_chain and self.spec.overlay_base is None:
            name = names_of(self.spec.layers, chain.layers)[1]
            self.spec = replace(self.spec, overlay_base=(name, chain.layers[1].format))

    def _details(self) -> dict[str, Any]:
        assert self._chain is not None
        layers = self._chain.layers
        paths = [layer.path for layer in layers] + [layer.data_file for layer in layers if layer.data_file]
        return {
            **self.spec.to_details(),
            "source_paths": paths,
            "sources": [file_identity(path) for path in paths],
            "new_file": None if self.spec.is_reused else file_identity(self.spec.destination_path + PARTIAL_SUFFIX),
        }

    def _ready_details(self) -> dict[str, Any]:
        return {**self._details(), "destination_file": file_identity(self.spec.destination_path)}

    def _destination(self) -> Destination:
        spec = self.spec
        destination = spec.destination
        return Destination(
            spec.destination_path, destination.type, destination.format, spec.given_backing or None, spec.is_reused
        )
