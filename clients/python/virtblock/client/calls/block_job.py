# SPDX-License-Identifier: Apache-2.0
"""The calls of `BlockJobService`. Jobs are named by id, unique over all connections; bitmaps by disk and name."""

from __future__ import annotations

from collections.abc import Iterable

from virtblock.client import decode, encode
from virtblock.client.calls.call import (
    BLOCK_JOB_SERVICE,
    DEFAULT_TIMEOUT_S,
    Call,
    OnCompacted,
    StreamCall,
    Watch,
    answer,
    nothing,
)
from virtblock.client.enums import BlockJobState
from virtblock.client.model import (
    BlockBitmap,
    BlockJob,
    BlockJobFilter,
    BlockJobPage,
    BlockJobWait,
    BlockMap,
    DomainLike,
)
from virtblock.v1 import block_bitmap_pb2 as bitmap_pb
from virtblock.v1 import block_job_service_pb2 as pb

SERVICE = BLOCK_JOB_SERVICE

# How much longer than the wait itself the call may take before its server is held to be stuck.
WAIT_GRACE_S = 30.0


def get_block_job(default_uri: str, job_id: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[BlockJob]:
    """Returns the job. `VirError.reason` of an unknown id is BLOCK_JOB_NOT_FOUND."""
    parse = answer(pb.GetBlockJobResponse, lambda r: decode.block_job(r.job))
    return Call(SERVICE, "GetBlockJob", pb.GetBlockJobRequest(job_id=job_id), parse, timeout_s)


def list_block_jobs(
    default_uri: str,
    filter: BlockJobFilter | None = None,
    *,
    include_ended: bool = False,
    page_size: int = 0,
    page_token: str = "",
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[BlockJobPage]:
    """Takes which jobs (None: all, of every connection), whether ended ones as well, and at most how many (0: 100; no
    more than 1000). For the next page give `page_token` the `next_page_token` of the page before, and the rest as it
    was.
    """
    request = pb.ListBlockJobsRequest(
        page_size=page_size,
        page_token=page_token,
        filter=encode.block_job_filter(filter),
        include_ended=include_ended,
    )
    return Call(SERVICE, "ListBlockJobs", request, answer(pb.ListBlockJobsResponse, decode.block_job_page), timeout_s)


def wait_block_job(
    default_uri: str,
    job_id: str,
    states: Iterable[BlockJobState | int] = (),
    *,
    timeout_s: float | None = None,
) -> Call[BlockJobWait]:
    """Takes the states to wait for; a final state always ends the wait, and without states nothing else does.
    `timeout_s` is how long to wait, None: without end. When it passes, this is no error: the answer has `reached`
    False.
    """
    request = pb.WaitBlockJobRequest(
        job_id=job_id, states=encode.states(states), timeout_ms=encode.milliseconds(timeout_s)
    )
    deadline_s = None if timeout_s is None else max(timeout_s, 0) + WAIT_GRACE_S
    return Call(SERVICE, "WaitBlockJob", request, answer(pb.WaitBlockJobResponse, decode.block_job_wait), deadline_s)


def pause_block_job(default_uri: str, job_id: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[BlockJob]:
    """Returns the job after the call."""
    parse = answer(pb.PauseBlockJobResponse, lambda r: decode.block_job(r.job))
    return Call(SERVICE, "PauseBlockJob", pb.PauseBlockJobRequest(job_id=job_id), parse, timeout_s)


def resume_block_job(default_uri: str, job_id: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[BlockJob]:
    """Returns the job after the call."""
    parse = answer(pb.ResumeBlockJobResponse, lambda r: decode.block_job(r.job))
    return Call(SERVICE, "ResumeBlockJob", pb.ResumeBlockJobRequest(job_id=job_id), parse, timeout_s)


def watch_block_jobs(
    default_uri: str,
    filter: BlockJobFilter | None = None,
    *,
    resume_token: str = "",
    include_snapshot: bool = False,
    progress_interval_s: float = 0.0,
    include_bookmarks: bool = False,
    on_compacted: OnCompacted = "raise",
    timeout_s: float | None = None,
) -> Watch:
    """Iterates the events of these jobs (None: of all, on every connection), none missed and none twice: when the
    connection breaks, or the reader was too slow, the watch goes on by itself where it was. Entering it by `with` waits
    until it is established: whatever happens after that is on it. A server that cannot be reached at first is an error
    at once.

    `resume_token` is `watcher.resume_token` of an earlier watch with the same filter: go on there. `include_snapshot`:
    begin with every job that has not ended. `progress_interval_s` above 0: also figures of running jobs, that often at
    most. `on_compacted` says what to do when the server no longer keeps all events since the token: "raise" VirError
    with the reason COMPACTED, or begin anew with a "snapshot", whose end then is always shown as a bookmark; jobs that
    ended meanwhile are found by `list_block_jobs`. `timeout_s` ends the watch with VirError OPERATION_TIMEOUT.
    """
    return Watch(
        filter=filter,
        resume_token=resume_token,
        include_snapshot=include_snapshot,
        progress_interval_s=progress_interval_s,
        include_bookmarks=include_bookmarks,
        on_compacted=on_compacted,
        timeout_s=timeout_s,
    )


def watch_block_map(
    default_uri: str,
    job_id: str,
    *,
    cell_count: int = 0,
    interval_s: float | None = None,
    timeout_s: float | None = None,
) -> StreamCall[BlockMap]:
    """Iterates pictures of the job: in at most `cell_count` cells (1 to 65536; 0: 1024), every `interval_s` seconds
    (0.1 to 60; None: 1). `timeout_s` ends the stream with VirError OPERATION_TIMEOUT.
    """
    request = pb.WatchBlockMapRequest(job_id=job_id, cell_count=cell_count, interval_ms=encode.milliseconds(interval_s))
    parse = answer(pb.WatchBlockMapResponse, decode.block_map)
    return StreamCall(SERVICE, "WatchBlockMap", request, parse, timeout_s)


def list_block_bitmaps(
    default_uri: str, domain: DomainLike, disk: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[tuple[BlockBitmap, ...]]:
    """Takes the disk's target or source path. Returns its bitmaps in the image's order."""
    request = bitmap_pb.ListBlockBitmapsRequest(domain=encode.selector(default_uri, domain), disk=disk)
    parse = answer(bitmap_pb.ListBlockBitmapsResponse, decode.block_bitmaps)
    return Call(SERVICE, "ListBlockBitmaps", request, parse, timeout_s)


def add_block_bitmap(
    default_uri: str,
    domain: DomainLike,
    disk: str,
    name: str,
    *,
    granularity_bytes: int = 0,
    disabled: bool = False,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[BlockBitmap]:
    """Takes the disk's target or source path, the new bitmap's name, and how many bytes one bit stands for: a power of
    two from 512 to 2 GiB; 0: 64 KiB. `disabled`: writes are not recorded in it. Returns the bitmap.
    """
    request = bitmap_pb.AddBlockBitmapRequest(
        domain=encode.selector(default_uri, domain),
        disk=disk,
        name=name,
        granularity_bytes=granularity_bytes,
        disabled=disabled,
    )
    parse = answer(bitmap_pb.AddBlockBitmapResponse, lambda r: decode.block_bitmap(r.bitmap))
    return Call(SERVICE, "AddBlockBitmap", request, parse, timeout_s)


def remove_block_bitmap(
    default_uri: str, domain: DomainLike, disk: str, name: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[None]:
    """Takes the disk's target or source path and the bitmap's name."""
    request = bitmap_pb.RemoveBlockBitmapRequest(domain=encode.selector(default_uri, domain), disk=disk, name=name)
    return Call(SERVICE, "RemoveBlockBitmap", request, nothing(bitmap_pb.RemoveBlockBitmapResponse), timeout_s)


def clear_block_bitmap(
    default_uri: str, domain: DomainLike, disk: str, name: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[None]:
    """Takes the disk's target or source path and the bitmap's name."""
    request = bitmap_pb.ClearBlockBitmapRequest(domain=encode.selector(default_uri, domain), disk=disk, name=name)
    return Call(SERVICE, "ClearBlockBitmap", request, nothing(bitmap_pb.ClearBlockBitmapResponse), timeout_s)
