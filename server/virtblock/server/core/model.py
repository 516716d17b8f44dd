# SPDX-License-Identifier: Apache-2.0
"""The nouns of the core: domains, disks, block jobs, events.

Owns: frozen records only; what changes them is in `jobs`, `store` and the drivers. Invariants: no protobuf, no
libvirt objects; numbers and names are libvirt's; units last; times are seconds since the epoch as float (0.0: not
yet).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Any


class BlockJobType(IntEnum):
    """virDomainBlockJobType."""

    UNKNOWN = 0
    PULL = 1
    COPY = 2
    COMMIT = 3
    ACTIVE_COMMIT = 4
    BACKUP = 5


class BlockJobStatus(IntEnum):
    """virConnectDomainEventBlockJobStatus: what a block-job event says."""

    COMPLETED = 0
    FAILED = 1
    CANCELED = 2
    READY = 3


class DomainEventId(IntEnum):
    """The events of virConnectDomainEventRegisterAny that this server sends."""

    LIFECYCLE = 0
    BLOCK_JOB = 8
    BLOCK_JOB_2 = 16


class JobState(Enum):
    """Where a job is in its life; the values are stored. NEW..PIVOTING are active, the rest is final."""

    NEW = "new"
    RUNNING = "running"
    READY = "ready"
    ABORTING = "aborting"
    PIVOTING = "pivoting"
    COMPLETED = "completed"
    CANCELED = "canceled"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in (JobState.COMPLETED, JobState.CANCELED, JobState.FAILED)


@dataclass(frozen=True)
class Caller:
    """Who calls, as the listener knows it. `principal` is e.g. "unix", "tls:CN=control-plane"."""

    read_only: bool = False
    principal: str = "unix"


@dataclass(frozen=True)
class DomainSelector:
    """How a request names a domain: exactly one of name, uuid, id is set. `connection_uri` empty: the default one."""

    connection_uri: str = ""
    name: str | None = None
    uuid: str | None = None
    id: int | None = None


@dataclass(frozen=True)
class Domain:
    """A domain as a look-up returns it. `id` is -1 when it is shut off; `state` is virDomainState."""

    connection_uri: str
    name: str
    uuid: str
    id: int = -1
    is_persistent: bool = True
    is_active: bool = False
    state: int = 5


@dataclass(frozen=True)
class BlockBitmap:
    """One persistent bitmap of an image.

    `state`: usable, in-use, inconsistent or wrong-size. `dirty_bytes`: what it marks; None unless usable.
    """

    name: str
    granularity_bytes: int
    is_enabled: bool
    state: str
    dirty_bytes: int | None


@dataclass(frozen=True)
class DiskImage:
    """One image of a disk's chain, by path and format ("raw", "qcow2")."""

    path: str
    format: str


@dataclass(frozen=True)
class Disk:
    """One disk of a domain. `chain` starts with the active image; it is empty for an empty drive.

    `capacity_bytes` is the length that a guest sees, -1 when it is not known; `chain_error` says why the chain could
    not be read to its end.
    """

    target: str
    device: str = "disk"
    bus: str = ""
    source_type: str = "file"
    is_read_only: bool = False
    is_shareable: bool = False
    is_transient: bool = False
    chain: tuple[DiskImage, ...] = ()
    capacity_bytes: int = -1
    chain_error: JobError | None = None


@dataclass(frozen=True)
class BlockInfo:
    """virDomainBlockInfo, in bytes."""

    capacity_bytes: int
    allocation_bytes: int
    physical_bytes: int


@dataclass(frozen=True)
class BlockJobInfo:
    """virDomainBlockJobInfo. `bandwidth` is in the unit the flags asked for (MiB/s, or bytes/s)."""

    type: int
    bandwidth: int
    cur: int
    end: int


class ParameterType(IntEnum):
    """virTypedParameterType."""

    INT = 1
    UINT = 2
    LLONG = 3
    ULLONG = 4
    DOUBLE = 5
    BOOLEAN = 6
    STRING = 7


@dataclass(frozen=True)
class TypedParameter:
    """virTypedParameter."""

    name: str
    type: ParameterType
    value: int | float | bool | str


@dataclass(frozen=True)
class JobError:
    """Why a job failed: the VirError that ended it, kept with the job."""

    number: int
    domain: int
    message: str
    str1: str = ""
    str2: str = ""
    str3: str = ""
    int1: int = -1
    int2: int = -1


@dataclass(frozen=True)
class JobProgress:
    """What a running job moved. `cur` and `end` are libvirt's view; cur == end only when the job is READY."""

    cur: int = 0
    end: int = 0
    total_bytes: int = 0
    copied_bytes: int = 0
    zero_bytes: int = 0
    remaining_bytes: int = 0
    rate_bytes_per_s: int = 0
    eta_s: int = -1


@dataclass(frozen=True)
class BlockJob:
    """One block job's record, kept after its end. `details` holds what only the owning driver reads (JSON values).

    `size_bytes` is the disk's length, 0 before it is known. What the record says of its domain is as of the job's last
    state; the defaults are those of a shut-off one.
    """

    job_id: str
    connection_uri: str
    domain_uuid: str
    domain_name: str
    disk: str
    type: BlockJobType
    state: JobState
    source_path: str
    destination_path: str
    destination_format: str
    flags: int
    bandwidth_bytes_per_s: int
    progress: JobProgress = field(default_factory=JobProgress)
    paused: bool = False
    error: JobError | None = None
    reason: str = ""
    is_fallback: bool = False
    is_restarted: bool = False
    request_id: str = ""
    principal: str = ""
    create_time_s: float = 0.0
    start_time_s: float = 0.0
    ready_time_s: float = 0.0
    end_time_s: float = 0.0
    digest: str = ""
    size_bytes: int = 0
    domain_id: int = -1
    is_domain_persistent: bool = True
    is_domain_active: bool = False
    domain_state: int = 5
    details: dict[str, Any] = field(default_factory=dict)

    def with_changes(self, **changes: Any) -> BlockJob:
        """A copy with the named fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class LifecycleEvent:
    """libvirt's lifecycle event: virDomainEventType and its detail."""

    domain: Domain
    event: int
    detail: int


@dataclass(frozen=True)
class BlockJobEvent:
    """libvirt's block-job event. `disk` is the source path for BLOCK_JOB, the target for BLOCK_JOB_2."""

    domain: Domain
    event_id: DomainEventId
    disk: str
    type: BlockJobType
    status: BlockJobStatus


@dataclass(frozen=True)
class LogEntry:
    """One entry of the event log. `sequence` grows by one over all kinds and survives restarts.

    Exactly one payload is set: `job` (our stream: the job after a transition), or `domain_event` (libvirt's view).
    """

    sequence: int
    time_s: float
    job: BlockJob | None = None
    domain_event: LifecycleEvent | BlockJobEvent | None = None
