# SPDX-License-Identifier: Apache-2.0
"""From the contract's messages to the client's records.

Owns: reading protobuf. Invariants: pure functions; nothing is refused here: a number without a name, a field of a newer
server or an absent message gives a record with what is known.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from virtblock.client import model
from virtblock.client.enums import (
    BlockBitmapState,
    BlockJobState,
    BlockJobStatus,
    BlockJobType,
    BlockMapCellState,
    DomainEventId,
    DomainEventType,
    DomainState,
)
from virtblock.client.error_numbers import ErrorDomain, ErrorLevel, ErrorNumber
from virtblock.v1 import (
    block_bitmap_pb2,
    block_job_pb2,
    block_job_service_pb2,
    common_pb2,
    connect_service_pb2,
    domain_block_pb2,
    domain_service_pb2,
    errors_pb2,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(timestamp: Timestamp) -> datetime:
    """The time in UTC, cut to microseconds."""
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def error_record(error: errors_pb2.VirError) -> model.ErrorRecord:
    """The error; a string that is absent is libvirt's NULL, None here."""
    return model.ErrorRecord(
        number=ErrorNumber(error.number),
        message=error.message,
        domain=ErrorDomain(error.domain),
        level=ErrorLevel(error.level),
        str1=error.str1 if error.HasField("str1") else None,
        str2=error.str2 if error.HasField("str2") else None,
        str3=error.str3 if error.HasField("str3") else None,
        int1=error.int1,
        int2=error.int2,
    )


def domain(message: common_pb2.Domain) -> model.Domain:
    """A domain."""
    return model.Domain(
        connection_uri=message.connection_uri,
        name=message.name,
        uuid=message.uuid,
        id=message.id,
        persistent=message.persistent,
        active=message.active,
        state=DomainState(message.state),
    )


def connection(message: connect_service_pb2.Connection) -> model.Connection:
    """A connection of the server."""
    return model.Connection(message.uri, message.type, message.is_default, message.alive)


def capabilities(message: connect_service_pb2.GetCapabilitiesResponse) -> model.Capabilities:
    """What works, and the versions."""
    offered = message.connection
    return model.Capabilities(
        capabilities_xml=message.capabilities_xml,
        server_version=message.server_version,
        api_version=message.api_version,
        connection=model.ConnectionCapabilities(
            uri=offered.uri,
            hypervisor_version=offered.hypervisor_version,
            lib_version=offered.lib_version,
            rpcs=frozenset(offered.rpcs),
            flags={entry.rpc: entry.flags for entry in offered.flags},
            features=frozenset(offered.features),
        ),
    )


def domain_state(message: domain_service_pb2.GetStateResponse) -> model.DomainStateReason:
    """State and reason."""
    return model.DomainStateReason(DomainState(message.state), message.reason)


def domain_info(message: domain_service_pb2.GetInfoResponse) -> model.DomainInfo:
    """State, memory and processors."""
    return model.DomainInfo(
        state=DomainState(message.state),
        max_memory_kib=message.max_memory_kib,
        memory_kib=message.memory_kib,
        vcpu_count=message.vcpu_count,
        cpu_time_ns=message.cpu_time_ns,
    )


def snapshot(message: domain_service_pb2.SnapshotCreateXMLResponse) -> model.Snapshot:
    """A snapshot."""
    return model.Snapshot(message.name, message.xml)


def disk(message: domain_block_pb2.Disk) -> model.Disk:
    """A disk and its chain."""
    return model.Disk(
        target=message.target,
        source_path=message.source_path,
        format=message.format,
        source_type=message.source_type,
        readonly=message.readonly,
        device=message.device,
        bus=message.bus,
        capacity_bytes=message.capacity_bytes,
        backing_chain=tuple(model.ChainImage(image.path, image.format, image.index) for image in message.backing_chain),
        chain_error=error_record(message.chain_error) if message.HasField("chain_error") else None,
    )


def block_info(message: domain_block_pb2.GetBlockInfoResponse) -> model.BlockInfo:
    """The sizes of a disk."""
    return model.BlockInfo(message.capacity_bytes, message.allocation_bytes, message.physical_bytes)


def block_stats(message: domain_block_pb2.BlockStatsResponse) -> model.BlockStats:
    """What the guest read and wrote."""
    return model.BlockStats(
        read_request_count=message.read_request_count,
        read_bytes=message.read_bytes,
        write_request_count=message.write_request_count,
        write_bytes=message.write_bytes,
        error_count=message.error_count,
    )


def block_job_info(message: domain_block_pb2.GetBlockJobInfoResponse) -> model.BlockJobInfo | None:
    """libvirt's view of the job, or None without one."""
    if not message.found:
        return None
    info = message.info
    return model.BlockJobInfo(BlockJobType(info.type), info.bandwidth, info.cur, info.end)


def block_job(message: block_job_pb2.BlockJob) -> model.BlockJob:
    """A job's record."""
    return model.BlockJob(
        job_id=message.job_id,
        state=BlockJobState(message.state),
        type=BlockJobType(message.type),
        disk=message.disk,
        domain=domain(message.domain),
        connection_uri=message.connection_uri,
        paused=message.paused,
        cur=message.cur,
        end=message.end,
        error=error_record(message.error) if message.HasField("error") else None,
        reason=message.reason,
        bandwidth_bytes_per_s=message.bandwidth_bytes_per_s,
        source_path=message.source_path,
        destination_path=message.destination_path,
        destination_format=message.destination_format,
        flags=message.flags,
        total_bytes=message.total_bytes,
        copied_bytes=message.copied_bytes,
        zero_bytes=message.zero_bytes,
        remaining_bytes=message.remaining_bytes,
        rate_bytes_per_s=message.rate_bytes_per_s,
        eta_s=message.eta_s,
        fallback=message.fallback,
        restarted=message.restarted,
        request_id=message.request_id,
        principal=message.principal,
        create_time=time_of(message.create_time) if message.HasField("create_time") else None,
        start_time=time_of(message.start_time) if message.HasField("start_time") else None,
        ready_time=time_of(message.ready_time) if message.HasField("ready_time") else None,
        end_time=time_of(message.end_time) if message.HasField("end_time") else None,
        digest=message.digest,
    )


def block_job_page(message: block_job_service_pb2.ListBlockJobsResponse) -> model.BlockJobPage:
    """A page of jobs."""
    return model.BlockJobPage(tuple(block_job(job) for job in message.jobs), message.next_page_token)


def block_job_wait(message: block_job_service_pb2.WaitBlockJobResponse) -> model.BlockJobWait:
    """How a wait ended."""
    return model.BlockJobWait(block_job(message.job), message.reached)


def block_job_progress(message: block_job_service_pb2.BlockJobProgress) -> model.BlockJobProgress:
    """Figures of a job."""
    return model.BlockJobProgress(
        job_id=message.job_id,
        cur=message.cur,
        end=message.end,
        copied_bytes=message.copied_bytes,
        zero_bytes=message.zero_bytes,
        remaining_bytes=message.remaining_bytes,
        rate_bytes_per_s=message.rate_bytes_per_s,
        eta_s=message.eta_s,
    )


def block_job_event(message: block_job_service_pb2.WatchBlockJobsResponse) -> model.BlockJobEvent:
    """One event. A payload that this client does not know leaves all three None."""
    event = message.event
    kind = event.WhichOneof("payload")
    return model.BlockJobEvent(
        sequence=event.sequence,
        resume_token=event.resume_token,
        create_time=time_of(event.create_time) if event.HasField("create_time") else None,
        job=block_job(event.job) if kind == "job" else None,
        progress=block_job_progress(event.progress) if kind == "progress" else None,
        bookmark=model.BlockJobBookmark(event.bookmark.snapshot_end) if kind == "bookmark" else None,
    )


def block_bitmap(message: block_bitmap_pb2.BlockBitmap) -> model.BlockBitmap:
    """A persistent bitmap."""
    return model.BlockBitmap(
        name=message.name,
        granularity_bytes=message.granularity_bytes,
        enabled=message.enabled,
        state=BlockBitmapState(message.state),
        dirty_bytes=message.dirty_bytes,
    )


def block_bitmaps(response: block_bitmap_pb2.ListBlockBitmapsResponse) -> tuple[model.BlockBitmap, ...]:
    """All bitmaps of an image."""
    return tuple(block_bitmap(message) for message in response.bitmaps)


def block_map(message: block_job_service_pb2.WatchBlockMapResponse) -> model.BlockMap:
    """A picture of a job."""
    picture = message.map
    return model.BlockMap(
        job_id=picture.job_id,
        size_bytes=picture.size_bytes,
        cell_bytes=picture.cell_bytes,
        runs=tuple(model.BlockMapRun(BlockMapCellState(run.state), run.cell_count) for run in picture.runs),
        job_state=BlockJobState(picture.job_state),
    )


def domain_event(message: connect_service_pb2.DomainEventRegisterAnyResponse) -> model.DomainEvent | None:
    """An event of a domain; None for the first message, which says that events are now registered."""
    if not message.HasField("event"):
        return None
    event = message.event
    kind = event.WhichOneof("payload")
    lifecycle, job = event.lifecycle, event.block_job
    return model.DomainEvent(
        event_id=DomainEventId(event.event_id),
        domain=domain(event.domain),
        lifecycle=model.LifecycleEvent(DomainEventType(lifecycle.event), lifecycle.detail)
        if kind == "lifecycle"
        else None,
        block_job=model.BlockJobStatusEvent(job.disk, BlockJobType(job.type), BlockJobStatus(job.status))
        if kind == "block_job"
        else None,
    )
