# SPDX-License-Identifier: Apache-2.0
"""Checks of block-job arguments that every driver with an engine of its own makes in libvirt's words.

Owns: bandwidth in its two units, the typed parameters of BlockCopy, and what a job on the disk forbids. Invariants:
pure functions that raise `VirError` or return; numbers, domains and texts are those of libvirt 9.0's QEMU driver,
whose checks these are; the order in which a driver makes them is the driver's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.core.flags import BlockCopyFlags, BlockJobAbortFlags
from virtblock.server.core.model import (
    BlockJob,
    BlockJobType,
    JobState,
    ParameterType,
    TypedParameter,
)

LLONG_MAX = (1 << 63) - 1
MIB = 1 << 20
MIB_PER_S_MAX = LLONG_MAX >> 20
GRANULARITY_BYTES_MIN = 512
GRANULARITY_BYTES_MAX = 64 * MIB

OWN_NAMESPACE = "urn:virtblock:1"  # of what libvirt's XML has no words for

PARAMETER_BANDWIDTH = "bandwidth"
PARAMETER_GRANULARITY = "granularity"
PARAMETER_BUFFER_BYTES = "buf-size"
PARAMETER_BITMAP = "virtblock.bitmap"
COPY_PARAMETERS: dict[str, ParameterType] = {
    PARAMETER_BANDWIDTH: ParameterType.ULLONG,
    PARAMETER_GRANULARITY: ParameterType.UINT,
    PARAMETER_BUFFER_BYTES: ParameterType.ULLONG,
}
# What this server's engines take beside libvirt's own.
NATIVE_COPY_PARAMETERS: dict[str, ParameterType] = {PARAMETER_BITMAP: ParameterType.STRING}

# Jobs with a <mirror>, which libvirt tells apart by number from those without.
_MIRROR_TYPES = frozenset({BlockJobType.COPY, BlockJobType.ACTIVE_COMMIT})


@dataclass(frozen=True)
class CopyParameters:
    """The typed parameters of BlockCopy; 0 means the default, for `bandwidth_bytes_per_s` no limit.

    `bitmap`: the persistent bitmap of the source by which an earlier copy is brought up to date; None: a whole copy.
    """

    bandwidth_bytes_per_s: int = 0
    granularity_bytes: int = 0
    buffer_bytes: int = 0
    bitmap: str | None = None


def bandwidth_bytes_per_s(bandwidth: int, *, is_bytes: bool) -> int:
    """A caller's bandwidth in bytes/s. Without `is_bytes` it is MiB/s: above 8796093022207 it raises OVERFLOW (82)."""
    if is_bytes:
        return bandwidth
    if bandwidth > MIB_PER_S_MAX:
        raise report(ErrorNumber.OVERFLOW, f"bandwidth must be less than {MIB_PER_S_MAX}")
    return bandwidth * MIB


def check_copy_bandwidth(bytes_per_s: int) -> None:
    """Common to Rebase with COPY and BlockCopy: above LLONG_MAX bytes/s is INVALID_ARG (8)."""
    if bytes_per_s > LLONG_MAX:
        detail = f"bandwidth must be less than '{LLONG_MAX}' bytes/s ({MIB_PER_S_MAX} MiB/s)"
        raise report(ErrorNumber.INVALID_ARG, detail)


def check_speed_bandwidth(bytes_per_s: int) -> None:
    """BlockJobSetSpeed and pull: above LLONG_MAX bytes/s the QEMU driver cannot build its command (1, domain 0)."""
    if bytes_per_s > LLONG_MAX:
        detail = "argument key 'speed' must not be negative"
        raise report(ErrorNumber.INTERNAL_ERROR, detail, domain=ErrorDomain.NONE)


def reported_bandwidth(bytes_per_s: int, *, is_bytes: bool) -> int:
    """What GetBlockJobInfo answers for a limit: bytes/s, or MiB/s rounded up."""
    return bytes_per_s if is_bytes else -(-bytes_per_s // MIB)


def copy_parameters(parameters: Sequence[TypedParameter]) -> CopyParameters:
    """The typed parameters of BlockCopy, checked as libvirt does before it looks at the domain.

    By name: unknown ARGUMENT_UNSUPPORTED (74); twice, or of another type, INVALID_ARG (8, domain 0). A granularity
    that is no power of two: INVALID_ARG. Sizes that only the copy's start judges: `check_copy_sizes`.
    """
    check_parameter_types(parameters, COPY_PARAMETERS | NATIVE_COPY_PARAMETERS)
    given = {parameter.name: parameter.value for parameter in parameters}
    bitmap = given.pop(PARAMETER_BITMAP, None)
    values = {name: int(value) for name, value in given.items()}
    granularity_bytes = values.get(PARAMETER_GRANULARITY, 0)
    if granularity_bytes & (granularity_bytes - 1):
        raise report(ErrorNumber.INVALID_ARG, "granularity must be power of 2")
    return CopyParameters(
        values.get(PARAMETER_BANDWIDTH, 0),
        granularity_bytes,
        values.get(PARAMETER_BUFFER_BYTES, 0),
        None if bitmap is None else str(bitmap),
    )


def check_copy_bitmap(bitmap: str | None, flags: int) -> None:
    """A bitmap brings an earlier copy up to date: 8 without REUSE_EXT, and for an empty name."""
    if bitmap is None:
        return
    if not bitmap:
        raise report(ErrorNumber.INVALID_ARG, f"parameter '{PARAMETER_BITMAP}' is empty")
    if not flags & BlockCopyFlags.REUSE_EXT:
        detail = (
            f"parameter '{PARAMETER_BITMAP}' needs VIR_DOMAIN_BLOCK_COPY_REUSE_EXT: a bitmap brings an earlier copy up"
            " to date"
        )
        raise report(ErrorNumber.INVALID_ARG, detail)


def check_parameter_types(
    parameters: Sequence[TypedParameter], known: Mapping[str, ParameterType] = COPY_PARAMETERS
) -> None:
    """The part of `copy_parameters` that libvirt makes of names and types alone, before the driver's own checks."""
    previous = ""
    # libvirt sorts by name first: of two mistakes the one with the smaller name is told.
    for parameter in sorted(parameters, key=lambda parameter: parameter.name.encode()):
        _check_parameter(parameter, known.get(parameter.name), is_repeated=parameter.name == previous)
        previous = parameter.name


def _check_parameter(parameter: TypedParameter, expected: ParameterType | None, *, is_repeated: bool) -> None:
    name = parameter.name
    if expected is None:
        raise report(ErrorNumber.ARGUMENT_UNSUPPORTED, f"parameter '{name}' not supported", domain=ErrorDomain.NONE)
    if is_repeated:
        raise report(ErrorNumber.INVALID_ARG, f"parameter '{name}' occurs multiple times", domain=ErrorDomain.NONE)
    if parameter.type is not expected:
        types = (
            f"invalid type '{parameter.type.name.lower()}' for parameter '{name}', expected '{expected.name.lower()}'"
        )
        raise report(ErrorNumber.INVALID_ARG, types, domain=ErrorDomain.NONE)


def check_copy_sizes(parameters: CopyParameters) -> None:
    """What QEMU refuses when the copy starts (1): a granularity outside 512 B..64 MiB, a buffer above LLONG_MAX."""
    granularity_bytes = parameters.granularity_bytes
    if granularity_bytes and not GRANULARITY_BYTES_MIN <= granularity_bytes <= GRANULARITY_BYTES_MAX:
        raise _mirror_refused("Parameter 'granularity' expects a value in range [512B, 64MB]")
    if parameters.buffer_bytes > LLONG_MAX:
        raise _mirror_refused(f"Invalid parameter '{PARAMETER_BUFFER_BYTES}'")


def _mirror_refused(detail: str) -> VirError:
    return report(ErrorNumber.INTERNAL_ERROR, f"unable to execute QEMU command 'blockdev-mirror': {detail}")


def disk_busy(active: BlockJob) -> VirError:
    """The answer to a new block job, a snapshot or a detach of a disk that has a job.

    BLOCK_COPY_ACTIVE (83) for a job with a mirror, OPERATION_UNSUPPORTED (84) for any other.
    """
    has_mirror = active.type in _MIRROR_TYPES
    number = ErrorNumber.BLOCK_COPY_ACTIVE if has_mirror else ErrorNumber.OPERATION_UNSUPPORTED
    return report(number, f"disk '{active.disk}' already in active block job")


def domain_busy() -> VirError:
    """The answer to what would harm a job of our engine on a shut-off domain: start, undefine, redefine, resize (83).

    libvirt has no such case; number and text are those that it gave in 2012 when a copy ran.
    """
    return report(ErrorNumber.BLOCK_COPY_ACTIVE, "domain has active block copy job")


def check_has_job(active: BlockJob | None, disk: str) -> BlockJob:
    """The disk's job for BlockJobAbort and BlockJobSetSpeed; INVALID_ARG (8) without one."""
    if active is None:
        raise report(ErrorNumber.INVALID_ARG, f"disk {disk} does not have an active block job")
    return active


def check_abort(active: BlockJob | None, disk: str, flags: int) -> BlockJob:
    """The job that BlockJobAbort is to end, in libvirt's order of checks.

    No job: 8. Already being ended: OPERATION_INVALID (55). PIVOT before READY, on a job of any type:
    BLOCK_COPY_ACTIVE (83).
    """
    job = check_has_job(active, disk)
    if job.state in (JobState.ABORTING, JobState.PIVOTING):
        raise report(ErrorNumber.OPERATION_INVALID, f"block job on disk '{job.disk}' is still being ended")
    if flags & BlockJobAbortFlags.PIVOT and job.state is not JobState.READY:
        raise report(ErrorNumber.BLOCK_COPY_ACTIVE, f"block job '{job.job_id}' not ready for pivot yet")
    return job
