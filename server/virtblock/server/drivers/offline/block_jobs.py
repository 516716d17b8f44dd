# SPDX-License-Identifier: Apache-2.0
"""The block-job calls on shut-off domains: starting a copy, and what one does with a job of any type.

Owns: libvirt's order of checks for these calls. Invariants: a job is begun under the domain's lock, after every check
that libvirt makes before it hands over to QEMU; what the engine finds wrong with the images after that is kept in the
job's record (FAILED) and is the call's error as well; no lock is held while images are opened or data moves.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from virtblock.engine import EngineError
from virtblock.server.core import checks
from virtblock.server.core.driver import JobOrigin
from virtblock.server.core.errors import ErrorNumber, VirError, report, unsupported_flags
from virtblock.server.core.flags import (
    BlockCopyFlags,
    BlockJobAbortFlags,
    BlockJobInfoFlags,
    BlockJobSetSpeedFlags,
    BlockRebaseFlags,
)
from virtblock.server.core.model import (
    BlockJob,
    BlockJobInfo,
    BlockJobType,
    Domain,
    JobState,
    TypedParameter,
)
from virtblock.server.drivers.offline import destination as targets
from virtblock.server.drivers.offline import disks, job_checks
from virtblock.server.drivers.offline.context import Context, OpenChain
from virtblock.server.drivers.offline.copy_job import CopyJob
from virtblock.server.drivers.offline.copy_spec import CopySpec
from virtblock.server.drivers.offline.definitions import Definitions
from virtblock.server.drivers.offline.destination import Destination
from virtblock.server.drivers.offline.disk_xml import DiskDefinition
from virtblock.server.drivers.offline.domain_xml import Definition
from virtblock.server.drivers.offline.engine_errors import vir_error
from virtblock.server.drivers.offline.engine_job import EngineJob
from virtblock.server.drivers.offline.file_identity import file_identity, is_same_file
from virtblock.server.drivers.offline.merge_calls import MergeCalls, MergeRequest
from virtblock.server.drivers.offline.merge_spec import MERGE_TYPES, merge_spec_of
from virtblock.server.drivers.offline.mirror_xml import source_index
from virtblock.server.drivers.offline.pivot import finish_pivot
from virtblock.server.drivers.offline.running_jobs import RunningJobs

REBASE_FLAGS = int(sum(BlockRebaseFlags))
COPY_FLAGS = int(sum(BlockCopyFlags)) & ~int(BlockCopyFlags.TARGET_ZEROED)
ABORT_FLAGS = int(sum(BlockJobAbortFlags))
INFO_FLAGS = int(sum(BlockJobInfoFlags))
SPEED_FLAGS = int(sum(BlockJobSetSpeedFlags))

GRANULE_BYTES_MIN = 4096  # the engine's


@dataclass(frozen=True)
class CopyRequest:
    """A copy as asked for, in the form that Rebase and BlockCopy share."""

    disk: str
    destination: Destination
    is_shallow: bool
    bandwidth_bytes_per_s: int
    flags: int
    origin: JobOrigin
    parameters: checks.CopyParameters
    is_pivoting: bool = False


class BlockJobs:
    """The block-job calls of one connection."""

    def __init__(self, context: Context, definitions: Definitions, running: RunningJobs) -> None:
        self._merges = MergeCalls(context, definitions, running)
        self._context = context
        self._definitions = definitions
        self._running = running
        self._reserving = threading.Lock()  # held while a destination is compared with those of other jobs, and begun

    def rebase(self, domain: Domain, disk: str, base: str | None, bandwidth: int, flags: int, origin: JobOrigin) -> str:
        """virDomainBlockRebase. Without COPY it is a pull."""
        if flags & ~REBASE_FLAGS:
            raise unsupported_flags(flags, REBASE_FLAGS, "qemuDomainBlockRebase")
        if not flags & BlockRebaseFlags.COPY:
            return self._merges.rebase(domain, MergeRequest(disk, base, None, bandwidth, flags, origin))
        is_bytes = bool(flags & BlockRebaseFlags.BANDWIDTH_BYTES)
        bytes_per_s = checks.bandwidth_bytes_per_s(bandwidth, is_bytes=is_bytes)
        if flags & BlockRebaseFlags.RELATIVE:
            raise report(ErrorNumber.ARGUMENT_UNSUPPORTED, "Relative backing during copy not supported yet")
        wanted = Destination(
            path=base or "",
            type="block" if flags & BlockRebaseFlags.COPY_DEV else "file",
            format="raw" if flags & BlockRebaseFlags.COPY_RAW else None,
            is_reused=bool(flags & BlockRebaseFlags.REUSE_EXT),
        )
        is_shallow = bool(flags & BlockRebaseFlags.SHALLOW)
        request = CopyRequest(disk, wanted, is_shallow, bytes_per_s, flags, origin, checks.CopyParameters())
        return self._copy(domain, request)

    def pull(self, domain: Domain, disk: str, bandwidth: int, flags: int, origin: JobOrigin) -> str:
        """virDomainBlockPull."""
        return self._merges.pull(domain, disk, bandwidth, flags, origin)

    def commit(self, domain: Domain, request: MergeRequest) -> str:
        """virDomainBlockCommit."""
        return self._merges.commit(domain, request)

    def copy(
        self,
        domain: Domain,
        disk: str,
        destination_xml: str,
        parameters: Sequence[TypedParameter],
        flags: int,
        origin: JobOrigin,
        *,
        is_pivoting: bool = False,
    ) -> str:
        """virDomainBlockCopy. `is_pivoting`: by itself, when it is READY."""
        if flags & ~COPY_FLAGS:
            raise unsupported_flags(flags, COPY_FLAGS, "qemuDomainBlockCopy")
        values = checks.copy_parameters(parameters)
        checks.check_copy_bitmap(values.bitmap, flags)
        wanted = targets.parse_destination(destination_xml, is_reused=bool(flags & BlockCopyFlags.REUSE_EXT))
        is_shallow = bool(flags & BlockCopyFlags.SHALLOW)
        request = CopyRequest(
            disk, wanted, is_shallow, values.bandwidth_bytes_per_s, flags, origin, values, is_pivoting
        )
        return self._copy(domain, request)

    def abort(self, domain: Domain, disk: str, flags: int) -> None:
        """virDomainBlockJobAbort, with PIVOT and ASYNC."""
        if flags & ~ABORT_FLAGS:
            raise unsupported_flags(flags, ABORT_FLAGS, "qemuDomainBlockJobAbort")
        definition, target = job_checks.job_target(self._context, self._definitions, domain, disk)
        running = self._find_job(domain, target)

        def check(job: BlockJob | None) -> BlockJob:
            active = None if job is None or job.state.is_final else job
            active = checks.check_abort(active, target, flags & ~BlockJobAbortFlags.PIVOT)
            if flags & BlockJobAbortFlags.PIVOT and active.state is not JobState.READY:
                detail = f"block job '{_job_name(definition, active)}' not ready for pivot yet"
                raise report(ErrorNumber.BLOCK_COPY_ACTIVE, detail)
            return active

        if running is None:
            job = check(self._context.jobs.find_active(self._context.uri, domain.uuid, target))
            raise report(ErrorNumber.OPERATION_INVALID, f"No active block job '{_job_name(definition, job)}'")
        if flags & BlockJobAbortFlags.PIVOT:
            running.request_pivot(check)
        else:
            running.request_abort(check)
        if flags & BlockJobAbortFlags.ASYNC:
            return
        running.wait_for_end()
        if flags & BlockJobAbortFlags.PIVOT:
            _require_pivoted(definition, running.job)

    def info(self, domain: Domain, disk: str, flags: int) -> BlockJobInfo | None:
        """virDomainGetBlockJobInfo; None without a job."""
        if flags & ~INFO_FLAGS:
            raise unsupported_flags(flags, INFO_FLAGS, "qemuDomainGetBlockJobInfo")
        _, target = job_checks.job_target(self._context, self._definitions, domain, disk)
        running = self._find_job(domain, target)
        if running is not None:
            running.publish_progress()
        job = self._context.jobs.find_active(self._context.uri, domain.uuid, target)
        if job is None:
            return None
        is_bytes = bool(flags & BlockJobInfoFlags.BANDWIDTH_BYTES)
        bandwidth = checks.reported_bandwidth(job.bandwidth_bytes_per_s, is_bytes=is_bytes)
        # Before the copy knows how much there is to do, libvirt's answer is 0 of 1.
        return BlockJobInfo(int(job.type), bandwidth, job.progress.cur, job.progress.end or 1)

    def set_speed(self, domain: Domain, disk: str, bandwidth: int, flags: int) -> None:
        """virDomainBlockJobSetSpeed; legal in any state, and 0 takes the limit away."""
        if flags & ~SPEED_FLAGS:
            raise unsupported_flags(flags, SPEED_FLAGS, "qemuDomainBlockJobSetSpeed")
        is_bytes = bool(flags & BlockJobSetSpeedFlags.BANDWIDTH_BYTES)
        bytes_per_s = checks.bandwidth_bytes_per_s(bandwidth, is_bytes=is_bytes)
        _, target = job_checks.job_target(self._context, self._definitions, domain, disk)
        active = self._context.jobs.find_active(self._context.uri, domain.uuid, target)
        job = checks.check_has_job(active, target)
        checks.check_speed_bandwidth(bytes_per_s)
        running = self._running.find(job.job_id)
        if running is not None:
            running.set_bandwidth(bytes_per_s)

    def pause(self, job_id: str) -> None:
        """Holds a copy; 55 when it is not copying."""
        self._require_job(job_id).pause()

    def resume(self, job_id: str) -> None:
        """Lets a held copy go on; 55 when it is not copying."""
        self._require_job(job_id).resume()

    def map(self, job_id: str, cell_count: int) -> bytes:
        """The engine's picture of a copy that has not ended; 55 for one that has."""
        return self._require_job(job_id).map(cell_count)

    def _copy(self, domain: Domain, request: CopyRequest) -> str:
        """The common copy code. The letters are the steps of libvirt's order, as the tests name them."""
        targets.require_absolute(request.destination)
        checks.check_copy_bandwidth(request.bandwidth_bytes_per_s)
        with self._context.locks.hold(domain.uuid):
            definition, disk = job_checks.running_disk(self._context, self._definitions, domain, request.disk)
            spec = self._decide(definition, disk, request)
            copy_job = self._begin(definition, disk, spec, request)

        def open_images() -> None:
            copy_job.open_images(request.bandwidth_bytes_per_s, lambda chain: self._check_space(spec, disk, chain))

        return job_checks.set_going(copy_job, open_images)

    def _decide(self, definition: Definition, disk: DiskDefinition, request: CopyRequest) -> CopySpec:
        """All checks that need no open image, in libvirt's order; what they leave is fully decided."""
        context, wanted = self._context, request.destination
        job_checks.require_idle(context, definition, disk)
        disks.require_supported(disk)
        targets.require_allowed(context, wanted)
        targets.require_fit_for_lun(disk, wanted)
        is_shallow = request.is_shallow and disk.source is not None and disks.has_backing(context, disk)
        targets.require_sense_of_backing(wanted, is_shallow=is_shallow)
        targets.require_overlay_format(disk, wanted, is_shallow=is_shallow)
        wanted = targets.check_existence(disk, wanted)
        if disk.source is None:
            detail = f"failed to update capacity data for disk '{disk.target}': it has no source"
            raise report(ErrorNumber.INTERNAL_ERROR, detail)
        wanted = targets.choose_format(context, disk, wanted)
        targets.require_fitting_options(disk, wanted)
        targets.require_shareable(disk, wanted)
        checks.check_copy_sizes(request.parameters)
        job_checks.require_unshared(context, definition, disk, [wanted.path])
        return self._spec(disk, wanted, request, is_shallow=is_shallow)

    def _spec(self, disk: DiskDefinition, wanted: Destination, request: CopyRequest, *, is_shallow: bool) -> CopySpec:
        shown = wanted.backing if is_shallow else ()
        if is_shallow and wanted.is_reused:
            # With a chain in the XML the images may still come into being until the pivot; else they must be there now.
            found = () if wanted.format == "raw" else wanted.backing
            named = disks.data_files(disk)
            shown = targets.find_reused_backing(self._context, wanted, named) if found is None else found
        given = wanted.backing or ()
        return CopySpec(
            layers=disks.layers_of(disk),
            is_terminated=disk.is_terminated,
            destination=wanted.source,
            mode="top" if is_shallow else "full",
            is_reused=wanted.is_reused,
            overlay_base=(given[0].path or "", given[0].format) if given and not wanted.is_reused else None,
            shown_backing=shown,
            given_backing=given,
            granule_bytes=_granule_bytes(request.parameters.granularity_bytes),
            options=wanted.options,
            data_files=tuple(disks.data_files(disk).items()),
            bitmap=request.parameters.bitmap,
            is_pivoting=request.is_pivoting,
        )

    def _begin(self, definition: Definition, disk: DiskDefinition, spec: CopySpec, request: CopyRequest) -> CopyJob:
        """Records the job, so that the disk and the destination are taken."""
        assert disk.source is not None
        assert disk.source.path is not None
        job = BlockJob(
            job_id="",
            connection_uri=self._context.uri,
            domain_uuid=definition.uuid,
            domain_name=definition.name,
            disk=disk.target,
            type=BlockJobType.COPY,
            state=JobState.NEW,
            source_path=disk.source.path,
            destination_path=spec.destination_path,
            destination_format=spec.destination.format,
            flags=request.flags,
            bandwidth_bytes_per_s=request.bandwidth_bytes_per_s,
            details=spec.to_details(),
        )
        with self._reserving:
            self._require_free_destination(spec)
            job = self._context.jobs.begin(job, job_checks.origin_of(request.origin))
            copy_job = CopyJob(self._context, job, spec, self._finish_pivot)
        try:
            self._running.add(copy_job)
        except VirError as error:
            copy_job.fail(error)
            raise
        return copy_job

    def _finish_pivot(self, copy_job: CopyJob) -> None:
        finish_pivot(self._context, self._definitions, copy_job)

    def _check_space(self, spec: CopySpec, disk: DiskDefinition, chain: OpenChain) -> None:
        """Before anything is made or formatted. A reused file has its blocks, or fails while copying."""
        if spec.is_reused or spec.options.compression != "none":
            return  # how much compressed data takes shows while it is written
        try:
            required_bytes = chain.required_bytes(
                "raw" if spec.destination.format == "raw" else "qcow2",
                spec.mode,
                spec.options.cluster_size_bytes,
                extended_l2=spec.options.extended_l2,
                preallocation=spec.options.preallocation,
            )
            targets.require_space(self._context, disk, Destination(spec.destination_path), required_bytes)
        except EngineError as error:
            raise vir_error(error) from None

    def _require_free_destination(self, spec: CopySpec) -> None:
        """83 when another job writes to the same file, by any name."""
        mine = file_identity(spec.destination_path)
        for job in self._context.jobs.list_active():
            is_same = job.destination_path == spec.destination_path
            if is_same or is_same_file(mine, file_identity(job.destination_path)):
                detail = (
                    f"destination '{spec.destination_path}' is in use by the block job on disk '{job.disk}'"
                    f" of domain '{job.domain_name}'"
                )
                raise report(ErrorNumber.BLOCK_COPY_ACTIVE, detail)

    def _find_job(self, domain: Domain, target: str) -> EngineJob | None:
        with self._context.locks.hold(domain.uuid):
            job = self._context.jobs.find_active(self._context.uri, domain.uuid, target)
            return None if job is None else self._running.find(job.job_id)

    def _require_job(self, job_id: str) -> EngineJob:
        running = self._running.find(job_id)
        if running is None or running.ended.is_set():
            self._context.jobs.get(job_id)
            raise report(ErrorNumber.OPERATION_INVALID, f"block job '{job_id}' is not active")
        return running


def _granule_bytes(granularity_bytes: int) -> int:
    """libvirt takes granularities that are finer than the engine's; coarser is never wrong, only less exact."""
    return max(granularity_bytes, GRANULE_BYTES_MIN) if granularity_bytes else 0


def _job_name(definition: Definition, job: BlockJob) -> str:
    """libvirt's name of a job, by its type and by the index of the image that it reads from."""
    prefix = {BlockJobType.COPY: "copy", BlockJobType.PULL: "pull"}.get(job.type, "commit")
    index = merge_spec_of(job).node_index if job.type in MERGE_TYPES else source_index(definition, job.disk)
    return f"{prefix}-{job.disk}-libvirt-{index}-format"


def _require_pivoted(definition: Definition, job: BlockJob) -> None:
    if job.state is not JobState.COMPLETED:
        detail = f"block job '{_job_name(definition, job)}' failed while pivoting: {job.reason or job.state.value}"
        raise report(ErrorNumber.OPERATION_FAILED, detail)
