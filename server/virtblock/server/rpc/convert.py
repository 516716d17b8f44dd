# SPDX-License-Identifier: Apache-2.0
"""Protobuf to the core's records and back.

Owns: pure functions, one per message, and the form of the resume token. Invariants: nothing is checked here but what
has no meaning at all in the core (a token that this server never gave); absent and empty are told apart where libvirt
tells NULL from empty; a text that is not UTF-8 is escaped, never refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from virtblock.server.core import model
from virtblock.server.core.block_job_api import Bookmark, JobChanged, JobProgressed, MapPicture, WatchItem
from virtblock.server.core.errors import ERROR_LEVEL_ERROR, ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.core.jobs import JobFilter
from virtblock.server.core.model import JobState, ParameterType
from virtblock.server.rpc.status import vir_error
from virtblock.server.rpc.text import wire_text
from virtblock.v1 import (
    block_bitmap_pb2,
    block_job_pb2,
    block_job_service_pb2,
    common_pb2,
    connect_service_pb2,
    domain_block_pb2,
    errors_pb2,
)
from virtblock.v1 import libvirt_enums_pb2 as enums

DEFAULT_MAP_CELL_COUNT = 1024
DEFAULT_MAP_INTERVAL_MS = 1000

_NANOSECONDS_PER_S = 1_000_000_000
_RESUME_TOKEN = re.compile(r"e([0-9]{1,19})\Z")
_STATE_PREFIX = "BLOCK_JOB_STATE_"
_BITMAP_STATES = {
    "usable": block_bitmap_pb2.BLOCK_BITMAP_STATE_USABLE,
    "in-use": block_bitmap_pb2.BLOCK_BITMAP_STATE_IN_USE,
    "inconsistent": block_bitmap_pb2.BLOCK_BITMAP_STATE_INCONSISTENT,
    "wrong-size": block_bitmap_pb2.BLOCK_BITMAP_STATE_WRONG_SIZE,
}
_PARAMETER_FIELDS: dict[str, ParameterType] = {
    "int_value": ParameterType.INT,
    "uint_value": ParameterType.UINT,
    "llong_value": ParameterType.LLONG,
    "ullong_value": ParameterType.ULLONG,
    "double_value": ParameterType.DOUBLE,
    "boolean_value": ParameterType.BOOLEAN,
    "string_value": ParameterType.STRING,
}


# Requests
# ---------------------------------------------------------------------------------------------------------------


def selector_of(selector: common_pb2.DomainSelector) -> model.DomainSelector:
    """How a request names a domain. A request without one gives a selector that names nothing, which the core
    refuses.
    """
    chosen = selector.WhichOneof("domain")
    return model.DomainSelector(
        connection_uri=selector.connection_uri,
        name=selector.name if chosen == "name" else None,
        uuid=selector.uuid if chosen == "uuid" else None,
        id=selector.id if chosen == "id" else None,
    )


def parameters_of(parameters: Sequence[common_pb2.TypedParameter]) -> list[model.TypedParameter]:
    """All typed parameters of a request, in their order."""
    return [parameter_of(parameter) for parameter in parameters]


def parameter_of(parameter: common_pb2.TypedParameter) -> model.TypedParameter:
    """One typed parameter. Raises VirError INVALID_ARG when it has no value."""
    chosen = parameter.WhichOneof("value")
    if chosen is None:
        raise report(ErrorNumber.INVALID_ARG, f"parameter '{parameter.field}' has no value", domain=ErrorDomain.DOMAIN)
    return model.TypedParameter(parameter.field, _PARAMETER_FIELDS[chosen], getattr(parameter, chosen))


def or_null(request: Message, field: str) -> str | None:
    """An optional string of a request; absent is libvirt's NULL."""
    return str(getattr(request, field)) if request.HasField(field) else None


def filter_of(filters: block_job_service_pb2.BlockJobFilter) -> JobFilter:
    """Which jobs are meant. Raises VirError INVALID_ARG for a state that the contract does not have."""
    return JobFilter(
        connection_uri=filters.connection_uri,
        domain_uuid=filters.domain_uuid,
        disk=filters.disk,
        states=states_of(filters.states),
    )


def states_of(states: Iterable[block_job_pb2.BlockJobState.ValueType]) -> frozenset[JobState]:
    """States by their numbers. Raises VirError INVALID_ARG for one that the contract does not have, 0 included."""
    known = {_state_number(state): state for state in JobState}
    wanted = set(states)
    for number in sorted(wanted - known.keys()):
        raise report(ErrorNumber.INVALID_ARG, f"unknown block job state {number}", domain=ErrorDomain.DOMAIN)
    return frozenset(known[number] for number in wanted)


def seconds_of(milliseconds: int) -> float:
    """Milliseconds as the core's seconds."""
    return milliseconds / 1000


def wait_timeout_s(request: block_job_service_pb2.WaitBlockJobRequest) -> float | None:
    """How long to wait; None: as long as the call lasts."""
    return seconds_of(request.timeout_ms) if request.timeout_ms != 0 else None


def resume_sequence(token: str) -> int | None:
    """The sequence that a resume token stands for, None for no token. Raises VirError INVALID_ARG for one we never
    gave.
    """
    if not token:
        return None
    match = _RESUME_TOKEN.match(token)
    if match is None:
        raise report(ErrorNumber.INVALID_ARG, "resume_token was not given by this server", domain=ErrorDomain.DOMAIN)
    return int(match[1])


def resume_token(sequence: int) -> str:
    """The token that goes on after `sequence`."""
    return f"e{sequence}"


# Answers ------------------------------------------------------------------------------------------


def domain_message(domain: model.Domain) -> common_pb2.Domain:
    """A domain."""
    return common_pb2.Domain(
        connection_uri=domain.connection_uri,
        name=wire_text(domain.name),
        uuid=domain.uuid,
        id=domain.id,
        persistent=domain.is_persistent,
        active=domain.is_active,
        state=enums.DomainState.ValueType(domain.state),
    )


def bitmap_message(bitmap: model.BlockBitmap) -> block_bitmap_pb2.BlockBitmap:
    """A persistent bitmap."""
    return block_bitmap_pb2.BlockBitmap(
        name=wire_text(bitmap.name),
        granularity_bytes=bitmap.granularity_bytes,
        enabled=bitmap.is_enabled,
        state=_BITMAP_STATES[bitmap.state],
        dirty_bytes=-1 if bitmap.dirty_bytes is None else bitmap.dirty_bytes,
    )


def disk_message(disk: model.Disk) -> domain_block_pb2.Disk:
    """A disk with its backing chain."""
    top = disk.chain[0] if disk.chain else model.DiskImage("", "")
    return domain_block_pb2.Disk(
        target=disk.target,
        source_path=wire_text(top.path),
        format=top.format,
        source_type=disk.source_type,
        readonly=disk.is_read_only,
        device=disk.device,
        bus=disk.bus,
        capacity_bytes=disk.capacity_bytes,
        backing_chain=[
            domain_block_pb2.ChainImage(path=wire_text(image.path), format=image.format, index=index)
            for index, image in enumerate(disk.chain[1:], start=1)
        ],
        chain_error=job_error_message(disk.chain_error) if disk.chain_error is not None else None,
    )


def block_job_info_message(info: model.BlockJobInfo | None) -> domain_block_pb2.GetBlockJobInfoResponse:
    """What the disk's job is doing, or that it has none."""
    if info is None:
        return domain_block_pb2.GetBlockJobInfoResponse(found=False)
    message = domain_block_pb2.BlockJobInfo(
        type=enums.BlockJobType.ValueType(info.type), bandwidth=info.bandwidth, cur=info.cur, end=info.end
    )
    return domain_block_pb2.GetBlockJobInfoResponse(found=True, info=message)


def job_message(job: model.BlockJob) -> block_job_pb2.BlockJob:
    """A job's whole record."""
    progress = job.progress
    return block_job_pb2.BlockJob(
        job_id=job.job_id,
        state=_state_number(job.state),
        type=enums.BlockJobType.ValueType(job.type),
        disk=job.disk,
        domain=_job_domain(job),
        connection_uri=job.connection_uri,
        paused=job.paused,
        cur=progress.cur,
        end=progress.end,
        error=job_error_message(job.error) if job.error is not None else None,
        reason=wire_text(job.reason),
        bandwidth_bytes_per_s=job.bandwidth_bytes_per_s,
        source_path=wire_text(job.source_path),
        destination_path=wire_text(job.destination_path),
        destination_format=job.destination_format,
        flags=job.flags,
        total_bytes=progress.total_bytes,
        copied_bytes=progress.copied_bytes,
        zero_bytes=progress.zero_bytes,
        remaining_bytes=progress.remaining_bytes,
        rate_bytes_per_s=progress.rate_bytes_per_s,
        eta_s=progress.eta_s,
        fallback=job.is_fallback,
        restarted=job.is_restarted,
        request_id=job.request_id,
        principal=job.principal,
        create_time=_timestamp(job.create_time_s),
        start_time=_timestamp(job.start_time_s),
        ready_time=_timestamp(job.ready_time_s),
        end_time=_timestamp(job.end_time_s),
        digest=job.digest,
    )


def job_error_message(error: model.JobError) -> errors_pb2.VirError:
    """Why a job failed, in the form of a failed call's detail."""
    return vir_error(
        VirError(
            error.number,
            error.message,
            domain=error.domain,
            level=ERROR_LEVEL_ERROR,
            str1=error.str1,
            str2=error.str2,
            str3=error.str3,
            int1=error.int1,
            int2=error.int2,
        )
    )


def is_reached(job: model.BlockJob, wanted: frozenset[JobState]) -> bool:
    """Whether a wait for `wanted` (empty: any final state) ended with what it waited for."""
    return job.state in wanted if wanted else job.state.is_final


def watch_message(item: WatchItem, token: str) -> block_job_service_pb2.WatchBlockJobsResponse:
    """One event of the stream, with the token that goes on after it."""
    event = block_job_service_pb2.BlockJobEvent(
        sequence=item.sequence, resume_token=token, create_time=_timestamp(item.time_s)
    )
    match item:
        case JobChanged(job=job):
            event.job.CopyFrom(job_message(job))
        case JobProgressed():
            event.progress.CopyFrom(_progress_message(item))
        case Bookmark(is_snapshot_end=is_snapshot_end):
            event.bookmark.CopyFrom(block_job_service_pb2.BlockJobBookmark(snapshot_end=is_snapshot_end))
    return block_job_service_pb2.WatchBlockJobsResponse(event=event)


def map_message(picture: MapPicture) -> block_job_service_pb2.WatchBlockMapResponse:
    """A picture of a job's progress; the engine's cell states are the contract's."""
    return block_job_service_pb2.WatchBlockMapResponse(
        map=block_job_service_pb2.BlockMap(
            job_id=picture.job.job_id,
            size_bytes=picture.size_bytes,
            cell_bytes=picture.cell_bytes,
            runs=_runs(picture.cells),
            job_state=_state_number(picture.job.state),
        )
    )


def domain_event_message(
    item: model.LifecycleEvent | model.BlockJobEvent | None,
) -> connect_service_pb2.DomainEventRegisterAnyResponse:
    """An event as libvirt has it; None is the stream's first message, which has no event."""
    if item is None:
        return connect_service_pb2.DomainEventRegisterAnyResponse()
    event = connect_service_pb2.DomainEvent(domain=domain_message(item.domain))
    if isinstance(item, model.LifecycleEvent):
        event.event_id = enums.DOMAIN_EVENT_ID_LIFECYCLE
        event.lifecycle.event = enums.DomainEventType.ValueType(item.event)
        event.lifecycle.detail = item.detail
    else:
        event.event_id = enums.DomainEventId.ValueType(item.event_id)
        event.block_job.disk = wire_text(item.disk)
        event.block_job.type = enums.BlockJobType.ValueType(item.type)
        event.block_job.status = enums.BlockJobStatus.ValueType(item.status)
    return connect_service_pb2.DomainEventRegisterAnyResponse(event=event)


def _runs(cells: bytes) -> Iterator[block_job_service_pb2.BlockMapRun]:
    for state, run in groupby(cells):
        yield block_job_service_pb2.BlockMapRun(
            state=block_job_service_pb2.BlockMapCellState.ValueType(state), cell_count=sum(1 for _ in run)
        )


def _progress_message(item: JobProgressed) -> block_job_service_pb2.BlockJobProgress:
    progress = item.progress
    return block_job_service_pb2.BlockJobProgress(
        job_id=item.job_id,
        cur=progress.cur,
        end=progress.end,
        copied_bytes=progress.copied_bytes,
        zero_bytes=progress.zero_bytes,
        remaining_bytes=progress.remaining_bytes,
        rate_bytes_per_s=progress.rate_bytes_per_s,
        eta_s=progress.eta_s,
    )


def _job_domain(job: model.BlockJob) -> common_pb2.Domain:
    return common_pb2.Domain(
        connection_uri=job.connection_uri,
        name=wire_text(job.domain_name),
        uuid=job.domain_uuid,
        id=job.domain_id,
        persistent=job.is_domain_persistent,
        active=job.is_domain_active,
        state=enums.DomainState.ValueType(job.domain_state),
    )


def _state_number(state: JobState) -> block_job_pb2.BlockJobState.ValueType:
    return block_job_pb2.BlockJobState.Value(_STATE_PREFIX + state.name)


def _timestamp(time_s: float) -> Timestamp | None:
    if time_s == 0.0:
        return None
    stamp = Timestamp()
    stamp.FromNanoseconds(round(time_s * _NANOSECONDS_PER_S))
    return stamp
