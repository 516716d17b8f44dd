# SPDX-License-Identifier: Apache-2.0
"""The calls of `DomainService` on disks and their jobs.

Everywhere `disk` is the disk's target, as "vda", or, when it begins with "/", the path of its present source; None is
libvirt's NULL, which the server refuses in libvirt's words. `bandwidth` is in MiB/s, or in bytes/s with
BANDWIDTH_BYTES; 0: no limit.
"""

from __future__ import annotations

from virtblock.client import decode, encode
from virtblock.client.calls.call import DEFAULT_TIMEOUT_S, DOMAIN_SERVICE, Call, answer, nothing
from virtblock.client.encode import Parameters
from virtblock.client.flags import (
    BlockCommitFlags,
    BlockCopyFlags,
    BlockJobAbortFlags,
    BlockJobInfoFlags,
    BlockJobSetSpeedFlags,
    BlockPullFlags,
    BlockRebaseFlags,
    BlockResizeFlags,
)
from virtblock.client.model import BlockInfo, BlockJob, BlockJobInfo, BlockStats, Disk, DomainLike
from virtblock.v1 import domain_block_pb2 as pb

SERVICE = DOMAIN_SERVICE


def block_rebase(
    default_uri: str,
    domain: DomainLike,
    disk: str | None,
    base: str | None,
    bandwidth: int = 0,
    flags: BlockRebaseFlags | int = 0,
    *,
    request_id: str | None = None,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[BlockJob]:
    """Takes the disk's target or source path, and as `base` with COPY the absolute path of the destination, without it
    the backing image to keep (None: pull everything). `bandwidth` is in MiB/s, or in bytes/s with BANDWIDTH_BYTES; 0:
    no limit.

    Returns the job. With the same `request_id` and arguments a repeat answers the same job; None: the client makes one,
    so that it can itself repeat the call when the connection breaks.
    """
    request = pb.BlockRebaseRequest(
        domain=encode.selector(default_uri, domain),
        disk=disk,
        base=base,
        bandwidth=bandwidth,
        flags=flags,
        request_id=request_id or encode.new_request_id(),
    )
    parse = answer(pb.BlockRebaseResponse, lambda r: decode.block_job(r.job))
    return Call(SERVICE, "BlockRebase", request, parse, timeout_s)


def block_copy(
    default_uri: str,
    domain: DomainLike,
    disk: str | None,
    dest_xml: str | None,
    params: Parameters | None = None,
    flags: BlockCopyFlags | int = 0,
    *,
    pivot_persistent: bool = False,
    request_id: str | None = None,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[BlockJob]:
    """Takes the disk's target or source path, a `<disk>` element whose source and driver describe the destination, and
    `params` such as `{"bandwidth": 50_000_000, "granularity": 65536, "buf-size": 0}`, in bytes per second and in bytes.

    Returns the job. With the same `request_id` and arguments a repeat answers the same job; None: the client makes one,
    so that it can itself repeat the call when the connection breaks.
    """
    request = pb.BlockCopyRequest(
        domain=encode.selector(default_uri, domain),
        disk=disk,
        dest_xml=dest_xml,
        params=encode.typed_parameters(params),
        flags=flags,
        request_id=request_id or encode.new_request_id(),
        pivot_persistent=pivot_persistent,
    )
    parse = answer(pb.BlockCopyResponse, lambda r: decode.block_job(r.job))
    return Call(SERVICE, "BlockCopy", request, parse, timeout_s)


def block_pull(
    default_uri: str,
    domain: DomainLike,
    disk: str | None,
    bandwidth: int = 0,
    flags: BlockPullFlags | int = 0,
    *,
    request_id: str | None = None,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[BlockJob]:
    """Takes the disk's target or source path, and `bandwidth` in MiB/s, or in bytes/s with BANDWIDTH_BYTES; 0: no
    limit.

    Returns the job. With the same `request_id` and arguments a repeat answers the same job; None: the client makes one,
    so that it can itself repeat the call when the connection breaks.
    """
    request = pb.BlockPullRequest(
        domain=encode.selector(default_uri, domain),
        disk=disk,
        bandwidth=bandwidth,
        flags=flags,
        request_id=request_id or encode.new_request_id(),
    )
    parse = answer(pb.BlockPullResponse, lambda r: decode.block_job(r.job))
    return Call(SERVICE, "BlockPull", request, parse, timeout_s)


def block_commit(
    default_uri: str,
    domain: DomainLike,
    disk: str | None,
    base: str | None,
    top: str | None,
    bandwidth: int = 0,
    flags: BlockCommitFlags | int = 0,
    *,
    request_id: str | None = None,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[BlockJob]:
    """Takes the disk's target or source path; `base` and `top` as paths or as "vda[2]", where None means the bottom of
    the chain and the active image; `bandwidth` in MiB/s, or in bytes/s with BANDWIDTH_BYTES; 0: no limit.

    Returns the job. With the same `request_id` and arguments a repeat answers the same job; None: the client makes one,
    so that it can itself repeat the call when the connection breaks.
    """
    request = pb.BlockCommitRequest(
        domain=encode.selector(default_uri, domain),
        disk=disk,
        base=base,
        top=top,
        bandwidth=bandwidth,
        flags=flags,
        request_id=request_id or encode.new_request_id(),
    )
    parse = answer(pb.BlockCommitResponse, lambda r: decode.block_job(r.job))
    return Call(SERVICE, "BlockCommit", request, parse, timeout_s)


def block_job_abort(
    default_uri: str,
    domain: DomainLike,
    disk: str | None,
    flags: BlockJobAbortFlags | int = 0,
    *,
    timeout_s: float | None = None,
) -> Call[BlockJob | None]:
    """Takes the disk's target or source path. Returns the ended, or with ASYNC the ending, job; None: the server holds
    no record of it. Without a deadline by default, since it waits for the job's end.
    """
    request = pb.BlockJobAbortRequest(domain=encode.selector(default_uri, domain), disk=disk, flags=flags)
    parse = answer(pb.BlockJobAbortResponse, lambda r: decode.block_job(r.job) if r.HasField("job") else None)
    return Call(SERVICE, "BlockJobAbort", request, parse, timeout_s)


def get_block_job_info(
    default_uri: str,
    domain: DomainLike,
    disk: str | None,
    flags: BlockJobInfoFlags | int = 0,
    *,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[BlockJobInfo | None]:
    """Takes the disk's target or source path. Returns None when the disk has no job; libvirt returns 0 then."""
    request = pb.GetBlockJobInfoRequest(domain=encode.selector(default_uri, domain), disk=disk, flags=flags)
    parse = answer(pb.GetBlockJobInfoResponse, decode.block_job_info)
    return Call(SERVICE, "GetBlockJobInfo", request, parse, timeout_s)


def block_job_set_speed(
    default_uri: str,
    domain: DomainLike,
    disk: str | None,
    bandwidth: int,
    flags: BlockJobSetSpeedFlags | int = 0,
    *,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[None]:
    """Takes the disk's target or source path, and `bandwidth` in MiB/s, or in bytes/s with BANDWIDTH_BYTES; 0: no
    limit.
    """
    request = pb.BlockJobSetSpeedRequest(
        domain=encode.selector(default_uri, domain), disk=disk, bandwidth=bandwidth, flags=flags
    )
    return Call(SERVICE, "BlockJobSetSpeed", request, nothing(pb.BlockJobSetSpeedResponse), timeout_s)


def block_resize(
    default_uri: str,
    domain: DomainLike,
    disk: str | None,
    size: int,
    flags: BlockResizeFlags | int = 0,
    *,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[None]:
    """Takes the disk's target or source path, and `size` in KiB, or in bytes with BYTES."""
    request = pb.BlockResizeRequest(domain=encode.selector(default_uri, domain), disk=disk, size=size, flags=flags)
    return Call(SERVICE, "BlockResize", request, nothing(pb.BlockResizeResponse), timeout_s)


def get_block_info(
    default_uri: str,
    domain: DomainLike,
    disk: str | None,
    flags: int = 0,
    *,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[BlockInfo]:
    """Takes the disk's target or source path; `flags` is unused, 0. Returns bytes."""
    request = pb.GetBlockInfoRequest(domain=encode.selector(default_uri, domain), disk=disk, flags=flags)
    return Call(SERVICE, "GetBlockInfo", request, answer(pb.GetBlockInfoResponse, decode.block_info), timeout_s)


def block_stats(
    default_uri: str, domain: DomainLike, disk: str | None, *, timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[BlockStats]:
    """Takes the disk's target or source path. Returns counts and bytes; -1: the hypervisor does not say."""
    request = pb.BlockStatsRequest(domain=encode.selector(default_uri, domain), disk=disk)
    return Call(SERVICE, "BlockStats", request, answer(pb.BlockStatsResponse, decode.block_stats), timeout_s)


def list_disks(
    default_uri: str, domain: DomainLike, *, timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[list[Disk]]:
    """Returns the disks in the order of the XML. A chain that cannot be read is no failure: see `Disk.chain_error`."""
    request = pb.ListDisksRequest(domain=encode.selector(default_uri, domain))
    parse = answer(pb.ListDisksResponse, lambda r: [decode.disk(each) for each in r.disks])
    return Call(SERVICE, "ListDisks", request, parse, timeout_s)
