# SPDX-License-Identifier: Apache-2.0
"""What answers and events hold: frozen records of the client's own.

Owns: the nouns, with the contract's names, units and meanings. Invariants: no protobuf and no connection in here, so a
record can be kept, compared, pickled and handed to another thread; an enumeration takes numbers that this client does
not know; times are aware datetimes in UTC, or None where the contract leaves them out; -1 stands for "not known" where
a field says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from virtblock.client.enums import (
    BlockBitmapState,
    BlockJobState,
    BlockJobStatus,
    BlockJobType,
    BlockMapCellState,
    DomainEventId,
    DomainEventType,
    DomainState,
    TypedParameterType,
)
from virtblock.client.error_numbers import ErrorDomain, ErrorLevel, ErrorNumber

FINAL_STATES = frozenset({BlockJobState.COMPLETED, BlockJobState.CANCELED, BlockJobState.FAILED})
"""The states that a job never leaves."""


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """A libvirt error (struct _virError) as data: why a job failed. `VirError(record)` can be raised."""

    number: ErrorNumber
    """What went wrong. Programs decide by this."""
    message: str
    """The whole text for people."""
    domain: ErrorDomain = ErrorDomain.NONE
    """Which part found the error."""
    level: ErrorLevel = ErrorLevel.ERROR
    """How grave it is."""
    str1: str | None = None
    """As a rule the message's template."""
    str2: str | None = None
    """As a rule the detail that filled the template."""
    str3: str | None = None
    """More text, as a rule None."""
    int1: int = -1
    """errno for SYSTEM_ERROR, else -1, or 0 for an argument check."""
    int2: int = -1
    """-1, or 0 for an argument check."""


@dataclass(frozen=True, slots=True)
class DomainSelector:
    """Names a domain by exactly one of name, UUID (with or without dashes) and id (of an active domain).

    `connection_uri` empty: the client's connection. Where a call takes a domain, a plain str is the domain's name.
    """

    name: str | None = None
    uuid: str | None = None
    id: int | None = None
    connection_uri: str = ""


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain as it was when the answer was made (virDomain)."""

    connection_uri: str
    """The connection it lives on, never empty."""
    name: str
    uuid: str
    """In the form with dashes, lower case. The one name that never changes."""
    id: int
    """-1 while shut off."""
    persistent: bool
    """Whether it has a definition that outlives its run."""
    active: bool
    """Whether it has a running or paused instance."""
    state: DomainState


DomainLike = str | Domain | DomainSelector
"""How a call names a domain: its name, a domain of an earlier answer (taken by UUID, on its own connection), a
selector.
"""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection of the server to a hypervisor."""

    uri: str
    type: str
    """The driver's name, for example "QEMU"."""
    is_default: bool
    """Whether calls that name no connection use it."""
    alive: bool
    """Whether it is usable now."""


@dataclass(frozen=True, slots=True)
class ConnectionCapabilities:
    """What works on one connection. What is not listed does not work."""

    uri: str
    hypervisor_version: int
    """major * 1000000 + minor * 1000 + release; 0: the hypervisor has none."""
    lib_version: int
    """libvirt's version in the same form."""
    rpcs: frozenset[str]
    """Full names, as "virtblock.v1.DomainService/BlockRebase". Any other answers NO_SUPPORT."""
    flags: dict[str, int]
    """The accepted bits of each RPC in `rpcs` that takes flags, by its full name. Any other bit answers INVALID_ARG."""
    features: frozenset[str]
    """What else works: "format:qcow2", "event:16", "offline-copy"."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The answer of `get_capabilities`."""

    capabilities_xml: str
    """The connection's capabilities in libvirt's form."""
    server_version: str
    api_version: str
    """The contract's version, "v1"."""
    connection: ConnectionCapabilities


@dataclass(frozen=True, slots=True)
class DomainStateReason:
    """A domain's state and the reason for it (virDomainGetState)."""

    state: DomainState
    reason: int
    """By libvirt's numbers for that state. 0: not known."""


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """State, memory and processors (virDomainInfo)."""

    state: DomainState
    max_memory_kib: int
    memory_kib: int
    vcpu_count: int
    cpu_time_ns: int
    """Processor time used. 0 while shut off."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that was taken (virDomainSnapshot)."""

    name: str
    xml: str


@dataclass(frozen=True, slots=True)
class ChainImage:
    """An image of a backing chain."""

    path: str
    format: str
    """Empty: not recorded."""
    index: int
    """Its number in the chain, as in "vda[2]": 1 is right below the top."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a domain."""

    target: str
    """Its name in the domain, for example "vda"."""
    source_path: str
    """Path of its top image. Empty: no medium is in it."""
    format: str
    """Format of its top image, for example "qcow2"."""
    source_type: str
    """The kind of source, as in the XML: "file", "block", "network"."""
    readonly: bool
    """Whether the guest can only read it."""
    device: str
    """What it is to the guest: "disk", "cdrom", "floppy" or "lun"."""
    bus: str
    """The bus it hangs on, for example "virtio"."""
    capacity_bytes: int
    """Length that the guest sees. -1: not known."""
    backing_chain: tuple[ChainImage, ...] = ()
    """The images below the top one, from the nearest to the bottom."""
    chain_error: ErrorRecord | None = None
    """Why the chain could not be read to its end. None: it was."""


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """The sizes of a disk (virDomainBlockInfo)."""

    capacity_bytes: int
    """Length that the guest sees."""
    allocation_bytes: int
    """Space that its top image takes on the host."""
    physical_bytes: int
    """Length of the top image as a file or device."""


@dataclass(frozen=True, slots=True)
class BlockStats:
    """How much the guest read and wrote (virDomainBlockStats). -1: the hypervisor does not say."""

    read_request_count: int
    read_bytes: int
    write_request_count: int
    write_bytes: int
    error_count: int


@dataclass(frozen=True, slots=True)
class BlockJobInfo:
    """What a disk's job is doing (virDomainBlockJobInfo)."""

    type: BlockJobType
    bandwidth: int
    """Speed limit in MiB/s rounded up, or in bytes/s with BANDWIDTH_BYTES. 0: no limit."""
    cur: int
    """Work done, in bytes. Equals `end` only when the job is READY."""
    end: int
    """All work as it is now known, in bytes."""


@dataclass(frozen=True, slots=True)
class TypedParameter:
    """A parameter by name with libvirt's type (virTypedParameter)."""

    field: str
    value: int | float | bool | str
    type: TypedParameterType


@dataclass(frozen=True, slots=True)
class BlockJob:
    """The record of a block job, kept after its end. A final state never changes."""

    job_id: str
    """Opaque, unique for ever."""
    state: BlockJobState
    type: BlockJobType
    disk: str
    """The disk's target name, for example "vda"."""
    domain: Domain
    """The domain as it was when the job's last state was recorded."""
    connection_uri: str
    paused: bool
    """Whether it is paused by `pause_block_job`; a paused job keeps its state."""
    cur: int
    """Work done as libvirt counts it, in bytes. Below `end` until the job is READY."""
    end: int
    """All work as libvirt counts it, in bytes. May grow while the guest writes."""
    error: ErrorRecord | None
    """Why the job is FAILED. None in every other state."""
    reason: str
    """One line for people on why the job is in this state. May be empty."""
    bandwidth_bytes_per_s: int
    """Speed limit. 0: no limit."""
    source_path: str
    """The image that is read: for a copy the disk's top image when the job began."""
    destination_path: str
    """The image that is written. Empty for a job without a destination of its own."""
    destination_format: str
    flags: int
    """The flags of the call that started it."""
    total_bytes: int
    """Bytes that the plan holds, data and zeroes. -1: not known (a hypervisor's job), as for the next three."""
    copied_bytes: int
    zero_bytes: int
    """Bytes settled as zeroes, without moving data, so far."""
    remaining_bytes: int
    """Bytes still to do: dirty and in flight."""
    rate_bytes_per_s: int
    """Speed over the last seconds. 0 when idle or ended."""
    eta_s: int
    """Seconds until READY at the present rate. -1: not known."""
    fallback: bool
    """Whether a running domain's disk is copied in passes because the hypervisor cannot mirror it."""
    restarted: bool
    """Whether the job had to begin anew after a restart of the server; not if it went on from its journal."""
    request_id: str
    """The request_id of the call that started it, or empty."""
    principal: str
    """Who started it. Empty: not known."""
    create_time: datetime | None
    """When the job was accepted."""
    start_time: datetime | None
    """When the first byte was about to move."""
    ready_time: datetime | None
    """When the job first became READY."""
    end_time: datetime | None
    """When the job reached its final state."""
    digest: str
    """Digest of the disk as a copy read it, as "algorithm-hexadecimal", or empty."""

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class BlockJobPage:
    """A page of jobs, newest first."""

    jobs: tuple[BlockJob, ...]
    next_page_token: str
    """Give it to `list_block_jobs` for the next page. Empty: this was the last."""


@dataclass(frozen=True, slots=True)
class BlockJobWait:
    """How a wait ended."""

    job: BlockJob
    """The job as it is now."""
    reached: bool
    """True: the job is in a wanted state, or in any final one where none was named. False: the time passed, or the job
    ended in another final state.
    """


@dataclass(frozen=True, slots=True)
class BlockJobFilter:
    """Which jobs are meant. What is empty matches everything; what is set must all match."""

    connection_uri: str = ""
    domain_uuid: str = ""
    disk: str = ""
    """The disk's target name."""
    states: tuple[BlockJobState, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockJobProgress:
    """Figures of a job that goes on; see the fields of `BlockJob` with the same names."""

    job_id: str
    cur: int
    end: int
    copied_bytes: int
    zero_bytes: int
    remaining_bytes: int
    rate_bytes_per_s: int
    eta_s: int


@dataclass(frozen=True, slots=True)
class BlockJobBookmark:
    """Nothing happened; the reader has everything up to the event's sequence."""

    snapshot_end: bool
    """True in the one that ends a snapshot: all that follows is new."""


@dataclass(frozen=True, slots=True)
class BlockJobEvent:
    """One event of `watch_block_jobs`. Exactly one of `job`, `progress` and `bookmark` is set."""

    sequence: int
    """Grows with every change of state on this server, over restarts. Progress and bookmarks carry the last one before
    them.
    """
    resume_token: str
    """Go on after this event with it. Empty within a snapshot, which can only be had as a whole."""
    create_time: datetime | None
    job: BlockJob | None = None
    """A job changed its state, or was paused or resumed: the whole job after the change."""
    progress: BlockJobProgress | None = None
    bookmark: BlockJobBookmark | None = None
    is_snapshot: bool = False
    """Whether it belongs to a snapshot: the job as it is, not a change."""


@dataclass(frozen=True, slots=True)
class BlockMapRun:
    """Neighbouring cells of a block map in the same state."""

    state: BlockMapCellState
    cell_count: int


@dataclass(frozen=True, slots=True)
class BlockBitmap:
    """One persistent bitmap of a disk's active image."""

    name: str
    granularity_bytes: int
    """How many bytes of the disk one bit stands for."""
    enabled: bool
    """Whether those who open the image for writing record their writes in it."""
    state: BlockBitmapState
    dirty_bytes: int
    """What it marks as written; -1: not known, because the bitmap is not USABLE."""


@dataclass(frozen=True, slots=True)
class BlockMap:
    """A picture of a job's progress over the disk, in cells of equal size."""

    job_id: str
    size_bytes: int
    """The disk's length. The last cell may be cut by it."""
    cell_bytes: int
    runs: tuple[BlockMapRun, ...]
    """All cells in the order of their offsets."""
    job_state: BlockJobState
    """The job's state when the picture was taken."""

    def cells(self) -> Iterator[BlockMapCellState]:
        """The state of each cell in the order of the offsets."""
        for run in self.runs:
            for _ in range(run.cell_count):
                yield run.state


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """A change in a domain's life (virConnectDomainEventCallback)."""

    event: DomainEventType
    detail: int
    """How it came about: a value of the `DomainEvent...DetailType` that belongs to `event`."""


@dataclass(frozen=True, slots=True)
class BlockJobStatusEvent:
    """A change of a block job as libvirt tells it (virConnectDomainEventBlockJobCallback)."""

    disk: str
    """For BLOCK_JOB the path of the disk's source, which a pivot changes; for BLOCK_JOB_2 its target, as "vda"."""
    type: BlockJobType
    status: BlockJobStatus


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """An event of a domain as libvirt has it. At most one of `lifecycle` and `block_job` is set."""

    event_id: DomainEventId
    domain: Domain
    lifecycle: LifecycleEvent | None = None
    block_job: BlockJobStatusEvent | None = None
