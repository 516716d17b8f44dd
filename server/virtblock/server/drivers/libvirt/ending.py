# SPDX-License-Identifier: Apache-2.0
"""How a live job ended, judged by what is left of it.

Owns: the reasons that libvirt's lifecycle events give, and the judgement by the disk's chain, or by what QEMU says
where libvirt is known to be wrong. Invariant: COMPLETED only where the disk is made of what the job was to make it of.
"""

from __future__ import annotations

from virtblock.server.core.errors import ErrorNumber, VirError
from virtblock.server.core.model import BlockJob, BlockJobType, JobState
from virtblock.server.drivers.libvirt.disk_xml import LiveDisk

STOPPED_REASONS = {
    0: "the domain was shut down",
    1: "the domain was destroyed",
    2: "the domain crashed",
    3: "the domain was migrated away",
    4: "the domain was saved",
    5: "the hypervisor process of the domain failed",
    6: "the domain was stopped by a revert to a snapshot",
}
CRASHED_REASON = STOPPED_REASONS[2]
STOPPED_REASON = "the domain was stopped"
UNKNOWN_START_REASON = "the server died while libvirt was asked to begin the job, and libvirt has no such job"
# What libvirt says of a domain that there is no more, that does not run, or that has no such disk.
_GONE = frozenset({ErrorNumber.NO_DOMAIN, ErrorNumber.OPERATION_INVALID, ErrorNumber.INVALID_ARG})
_MIRRORING = frozenset({BlockJobType.COPY, BlockJobType.ACTIVE_COMMIT})


def is_gone(error: VirError) -> bool:
    """Whether the error means that the job is gone, and not that nobody can tell."""
    return error.number in _GONE


def has_job(job: BlockJob, disk: LiveDisk) -> bool:
    """Whether libvirt's XML has this very job; of a pull and a commit it never tells."""
    if job.type not in _MIRRORING or disk.mirror is None:
        return False
    return not (job.type is BlockJobType.COPY and job.destination_path not in ("", disk.mirror.path))


def end_by_chain(job: BlockJob, disk: LiveDisk) -> tuple[JobState, str]:
    """How a job ended that libvirt no longer has, by what the disk is made of now."""
    if job.type is BlockJobType.COPY:
        if job.destination_path and disk.source_path == job.destination_path:
            return JobState.COMPLETED, ""
        if job.state is JobState.NEW:
            return JobState.FAILED, UNKNOWN_START_REASON
        if job.state is JobState.ABORTING:
            return JobState.CANCELED, ""
        return JobState.CANCELED, "the job ended while it was not watched; the disk keeps its source"
    if list(disk.chain_paths) != list(job.details.get("chain_paths", [])):
        return JobState.COMPLETED, ""
    if job.state is JobState.NEW:
        return JobState.FAILED, UNKNOWN_START_REASON
    if job.state is JobState.ABORTING:
        return JobState.CANCELED, ""
    return JobState.FAILED, "the job ended while it was not watched; the disk's chain is what it was"


def paths_in_use(block_devices: object) -> frozenset[str]:
    """The images that a QEMU's disks are on, from its answer to `query-block`."""
    found = set()
    for device in block_devices if isinstance(block_devices, list) else ():
        inserted = device.get("inserted") or {}
        found |= {inserted.get("file"), (inserted.get("image") or {}).get("filename")}
    return frozenset(path for path in found if path)


def end_by_qemu(job: BlockJob, paths: frozenset[str]) -> tuple[JobState, str]:
    """How a job ended that libvirt lost and goes on to show, by the images that QEMU is on (none: it was not told)."""
    lost = "libvirt lost the job when its daemon died, and goes on to show it"
    if job.destination_path in paths:
        return JobState.COMPLETED, f"{lost}; QEMU is on the new disk"
    if job.source_path not in paths:
        return JobState.FAILED, f"{lost}; which disk QEMU is on is not known"
    state = JobState.CANCELED if job.state is JobState.ABORTING else JobState.FAILED
    return state, f"{lost}; QEMU is on the old disk"
