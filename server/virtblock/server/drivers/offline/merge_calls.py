# SPDX-License-Identifier: Apache-2.0
"""BlockPull, BlockRebase without COPY, and BlockCommit on shut-off domains.

Owns: libvirt's order of checks for these calls. Invariants: a job is begun under the domain's lock, after every check
that libvirt makes before it hands over to QEMU; what the engine finds wrong with the images after that is kept in the
job's record (FAILED) and is the call's error as well; no lock is held while images are locked or data moves.
"""

from __future__ import annotations

from dataclasses import dataclass

from virtblock.server.core import checks
from virtblock.server.core.driver import JobOrigin
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report, unsupported_flags
from virtblock.server.core.flags import BlockCommitFlags, BlockPullFlags, BlockRebaseFlags
from virtblock.server.core.model import BlockJob, BlockJobType, Domain, JobState
from virtblock.server.drivers.offline import disks, job_checks
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.definitions import Definitions
from virtblock.server.drivers.offline.disk_chain import DiskChain
from virtblock.server.drivers.offline.disk_xml import DiskDefinition
from virtblock.server.drivers.offline.domain_xml import Definition
from virtblock.server.drivers.offline.live_chains import disk_chain
from virtblock.server.drivers.offline.merge_end import finish_merge
from virtblock.server.drivers.offline.merge_job import MergeJob
from virtblock.server.drivers.offline.merge_spec import MergeSpec
from virtblock.server.drivers.offline.running_jobs import RunningJobs

PULL_FLAGS = int(sum(BlockPullFlags))
COMMIT_FLAGS = int(sum(BlockCommitFlags))


@dataclass(frozen=True)
class MergeRequest:
    """A pull or commit as asked for."""

    disk: str
    base: str | None
    top: str | None
    bandwidth: int
    flags: int
    origin: JobOrigin


class MergeCalls:
    """The calls of one connection that start a pull or a commit."""

    def __init__(self, context: Context, definitions: Definitions, running: RunningJobs) -> None:
        self._context = context
        self._definitions = definitions
        self._running = running

    def pull(self, domain: Domain, disk: str, bandwidth: int, flags: int, origin: JobOrigin) -> str:
        """virDomainBlockPull."""
        if flags & ~PULL_FLAGS:
            raise unsupported_flags(flags, PULL_FLAGS, "qemuDomainBlockPull")
        return self.rebase(domain, MergeRequest(disk, None, None, bandwidth, flags, origin))

    def rebase(self, domain: Domain, request: MergeRequest) -> str:
        """virDomainBlockRebase without COPY; its flags were checked."""
        is_relative = bool(request.flags & BlockRebaseFlags.RELATIVE)
        if is_relative and request.base is None:
            detail = "flag VIR_DOMAIN_BLOCK_REBASE_RELATIVE is valid only with non-null base"
            raise report(ErrorNumber.INVALID_ARG, detail)
        with self._context.locks.hold(domain.uuid):
            definition, disk = job_checks.running_disk(self._context, self._definitions, domain, request.disk)
            job_checks.require_idle(self._context, definition, disk)
            disks.require_supported(disk)
            chain = disk_chain(self._context, definition, disk)
            base = None if request.base is None else chain.find_below(request.base, 0)
            reference = _relative_reference(chain, 0, base) if is_relative else None
            is_bytes = bool(request.flags & BlockRebaseFlags.BANDWIDTH_BYTES)
            bytes_per_s = checks.bandwidth_bytes_per_s(request.bandwidth, is_bytes=is_bytes)
            if disk.source is None:
                raise _empty_drive()
            checks.check_speed_bandwidth(bytes_per_s)
            spec = MergeSpec(BlockJobType.PULL, chain.images, 0, base, reference, chain.indexes[0])
            job = self._begin(definition, disk, spec, request, bytes_per_s)
        return job_checks.set_going(job, lambda: job.open_images(bytes_per_s))

    def commit(self, domain: Domain, request: MergeRequest) -> str:
        """virDomainBlockCommit."""
        flags = request.flags
        if flags & ~COMMIT_FLAGS:
            raise unsupported_flags(flags, COMMIT_FLAGS, "qemuDomainBlockCommit")
        is_bytes = bool(flags & BlockCommitFlags.BANDWIDTH_BYTES)
        bytes_per_s = checks.bandwidth_bytes_per_s(request.bandwidth, is_bytes=is_bytes)
        with self._context.locks.hold(domain.uuid):
            definition = self._definitions.load(domain)
            disk = disks.find_job_disk(definition, request.disk)
            chain = disk_chain(self._context, definition, disk)
            top = chain.find_top(request.top)
            base = _commit_base(chain, top, request)
            self._require_committable(definition, disk)
            _require_order(chain, top, base, flags)
            is_relative = bool(flags & BlockCommitFlags.RELATIVE) and top > 0
            reference = _relative_reference(chain, top - 1, base) if is_relative else None
            checks.check_speed_bandwidth(bytes_per_s)
            kind = BlockJobType.COMMIT if top > 0 else BlockJobType.ACTIVE_COMMIT
            is_deleting = bool(flags & BlockCommitFlags.DELETE)
            spec = MergeSpec(kind, chain.images, top, base, reference, chain.indexes[top], is_deleting)
            job = self._begin(definition, disk, spec, request, bytes_per_s)
        return job_checks.set_going(job, lambda: job.open_images(bytes_per_s))

    def _require_committable(self, definition: Definition, disk: DiskDefinition) -> None:
        """What libvirt looks at only after it has found base and top."""
        if self._context.strict_libvirt:
            raise job_checks.domain_not_running()
        disks.require_supported(disk)
        if disk.source is None:
            detail = f"disk {disk.target} has no source file to be committed"
            raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail)
        job_checks.require_idle(self._context, definition, disk)

    def _begin(
        self, definition: Definition, disk: DiskDefinition, spec: MergeSpec, request: MergeRequest, bytes_per_s: int
    ) -> MergeJob:
        """Records the job, so that the disk is taken."""
        assert disk.source is not None
        assert disk.source.path is not None
        job_checks.require_unshared(self._context, definition, disk, spec.written_paths)
        job = BlockJob(
            job_id="",
            connection_uri=self._context.uri,
            domain_uuid=definition.uuid,
            domain_name=definition.name,
            disk=disk.target,
            type=spec.type,
            state=JobState.NEW,
            source_path=disk.source.path,
            destination_path=spec.written.path or "",
            destination_format=spec.written.format,
            flags=request.flags,
            bandwidth_bytes_per_s=bytes_per_s,
            details=spec.to_details(),
        )
        job = self._context.jobs.begin(job, job_checks.origin_of(request.origin))
        merge_job = MergeJob(self._context, job, spec, self._finish)
        try:
            self._running.add(merge_job)
        except VirError as error:
            merge_job.fail(error)
            raise
        return merge_job

    def _finish(self, merge_job: MergeJob) -> None:
        finish_merge(self._context, self._definitions, merge_job)


def _commit_base(chain: DiskChain, top: int, request: MergeRequest) -> int:
    """The base's position. With SHALLOW and no name it is right below the top, or nowhere when the top is the last."""
    if request.base is None and request.flags & BlockCommitFlags.SHALLOW:
        return top + 1
    return chain.find_below(request.base, top)


def _require_order(chain: DiskChain, top: int, base: int, flags: int) -> None:
    """Top and base fit the flags and each other (8)."""
    is_active = bool(flags & BlockCommitFlags.ACTIVE)
    detail = ""
    if top == 0 and not is_active:
        detail = f"commit of '{chain.target}' active layer requires active flag"
    elif top > 0 and is_active:
        detail = f"active commit requested but '{chain.path(top)}' is not active"
    elif top + 1 >= len(chain.images):
        detail = f"top '{chain.path(top)}' in chain for '{chain.path(0)}' has no backing file"
    elif flags & BlockCommitFlags.SHALLOW and base != top + 1:
        place = f"'{chain.path(top)}' in chain for '{chain.path(0)}'"
        detail = f"base '{chain.path(base)}' is not immediately below {place}"
    if detail:
        raise report(ErrorNumber.INVALID_ARG, detail)


def _relative_reference(chain: DiskChain, holder: int, base: int | None) -> str:
    reference = None if base is None else chain.relative_reference(holder, base)
    if reference is None:
        raise report(ErrorNumber.OPERATION_INVALID, "can't keep relative backing relationship")
    return reference


def _empty_drive() -> VirError:
    """A pull of an empty drive, of which QEMU's command cannot even be built."""
    detail = "argument key 'device' must not have null value"
    return report(ErrorNumber.INTERNAL_ERROR, detail, domain=ErrorDomain.NONE)
