# SPDX-License-Identifier: Apache-2.0
"""The commands on a disk that do not start a job: `blockjob`, `blockresize`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from virtblock.cli.event_texts import job_type_text
from virtblock.cli.grammar import Invocation
from virtblock.cli.output import write_aside
from virtblock.cli.progress import percent_line, percent_of
from virtblock.cli.records import plain
from virtblock.cli.sizes import KIB, bandwidth_option, pretty_capacity, scaled_option
from virtblock.client.flags import BlockJobAbortFlags, BlockJobInfoFlags, BlockJobSetSpeedFlags, BlockResizeFlags

if TYPE_CHECKING:
    from virtblock.cli.session import Session
    from virtblock.client import BlockJobInfo, Domain

_TELLING = ("raw", "info", "bytes")
_ENDING = ("abort", "pivot", "async")
_EXCLUSIVE = [*itertools.product(_TELLING, _ENDING), ("raw", "bandwidth"), ("info", "bandwidth")]


def run_blockjob(session: Session, invocation: Invocation) -> None:
    """End a disk's job, change its speed limit, or tell what it does."""
    for first, second in _EXCLUSIVE:
        invocation.exclude(first, second)
    if invocation.has("bandwidth"):
        _set_speed(session, invocation)
    elif any(invocation.has(name) for name in _ENDING):
        _end(session, invocation)
    else:
        _tell(session, invocation)


def _end(session: Session, invocation: Invocation) -> None:
    domain, path = session.domain(invocation), invocation.required("path")
    flags = invocation.flags_of({"async": BlockJobAbortFlags.ASYNC, "pivot": BlockJobAbortFlags.PIVOT})
    job = session.client.block_job_abort(domain, path, flags)
    session.output.result({"domain": domain.name, "disk": path, "job": plain(job)})


def _set_speed(session: Session, invocation: Invocation) -> None:
    domain, path = session.domain(invocation), invocation.required("path")
    in_bytes = invocation.has("bytes")
    bandwidth = bandwidth_option(invocation, in_bytes=in_bytes)
    flags = BlockJobSetSpeedFlags.BANDWIDTH_BYTES if in_bytes else BlockJobSetSpeedFlags.NONE
    session.client.block_job_set_speed(domain, path, bandwidth, flags)
    session.output.result(
        {"domain": domain.name, "disk": path, "bandwidth": bandwidth, "unit": "bytes/s" if in_bytes else "MiB/s"}
    )


def _tell(session: Session, invocation: Invocation) -> None:
    domain, path = session.domain(invocation), invocation.required("path")
    # Raw figures are MiB/s unless bytes are asked for; people are told bytes, which hide nothing.
    in_bytes = invocation.has("bytes") or not invocation.has("raw") or session.output.as_json
    flags = BlockJobInfoFlags.BANDWIDTH_BYTES if in_bytes else BlockJobInfoFlags.NONE
    info = session.client.get_block_job_info(domain, path, flags)
    if session.output.as_json:
        session.output.result(_info_data(domain, path, info))
    elif info is None:
        # virsh ends the line by the empty line after the command.
        session.output.result(None, extra="" if invocation.has("raw") else f"No current block job for {path}")
    elif invocation.has("raw"):
        figures = (("type", job_type_text(info.type)), ("bandwidth", info.bandwidth), ("cur", info.cur))
        lines = [f" {name}={value}\n" for name, value in (*figures, ("end", info.end))]
        session.output.text("".join(lines))
    else:
        write_aside(session.output.err, percent_line(job_type_text(info.type), percent_of(info.cur, info.end)))
        session.output.text(f"{_limit_text(info.bandwidth)}\n")


def _limit_text(bandwidth_bytes_per_s: int) -> str:
    if bandwidth_bytes_per_s == 0:
        return ""
    value, unit = pretty_capacity(bandwidth_bytes_per_s)
    return f"    Bandwidth limit: {bandwidth_bytes_per_s} bytes/s ({value:.3f} {unit}/s)"


def _info_data(domain: Domain, path: str, info: BlockJobInfo | None) -> dict[str, object]:
    job = None
    if info is not None:
        job = {
            "type": job_type_text(info.type),
            "bandwidth_bytes_per_s": info.bandwidth,
            "cur": info.cur,
            "end": info.end,
            "percent": percent_of(info.cur, info.end),
        }
    return {"domain": domain.name, "disk": path, "job": job}


def run_blockresize(session: Session, invocation: Invocation) -> None:
    """Change the length of a disk. The size is in KiB unless it says otherwise."""
    path = invocation.required("path")
    size_bytes = scaled_option(invocation, "size", KIB)
    flags = BlockResizeFlags.NONE
    size = size_bytes // KIB
    if size_bytes % KIB:
        flags, size = BlockResizeFlags.BYTES, size_bytes
    domain = session.domain(invocation)
    with session.explain(f"Failed to resize block device '{path}'"):
        session.client.block_resize(domain, path, size, flags)
    # virsh ends the line by the empty line after the command.
    session.output.result(
        {"domain": domain.name, "disk": path, "size_bytes": size_bytes}, extra=f"Block device '{path}' is resized"
    )
