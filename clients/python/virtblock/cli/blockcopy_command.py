# SPDX-License-Identifier: Apache-2.0
"""`blockcopy`: start a copy, and see it through.

Owns: the choice between virDomainBlockRebase and virDomainBlockCopy, which is virsh's. Invariants: nothing is started
before every option was checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from virtblock.cli.block_job_course import Course, Watched, see_through
from virtblock.cli.domain_xml import destination_xml
from virtblock.cli.failures import CommandError
from virtblock.cli.files import read_text
from virtblock.cli.grammar import UINT32_MAX, UINT64_MAX, Invocation
from virtblock.cli.records import plain
from virtblock.cli.sizes import MIB, bandwidth_option
from virtblock.client.flags import BlockCopyFlags, BlockRebaseFlags

if TYPE_CHECKING:
    from virtblock.cli.session import Session
    from virtblock.client import BlockJob, Domain

_COURSE = Course(
    "Block Copy", "Copy", ("mirroring", "Now in mirroring phase"), "finish", ("copied", "Successfully copied")
)
_REBASE_FLAGS = {
    "shallow": BlockRebaseFlags.SHALLOW,
    "reuse-external": BlockRebaseFlags.REUSE_EXT,
    "blockdev": BlockRebaseFlags.COPY_DEV,
    "bytes": BlockRebaseFlags.BANDWIDTH_BYTES,
}
_COPY_FLAGS = {
    "shallow": BlockCopyFlags.SHALLOW,
    "reuse-external": BlockCopyFlags.REUSE_EXT,
    "transient-job": BlockCopyFlags.TRANSIENT_JOB,
    "synchronous-writes": BlockCopyFlags.SYNCHRONOUS_WRITES,
    "dest-is-zero": BlockCopyFlags.TARGET_ZEROED,
}
# What virDomainBlockRebase cannot say.
_COPY_ONLY = ("xml", "transient-job", "synchronous-writes", "dest-is-zero", "print-xml", "bitmap")
_WAITING = ("wait", "timeout", "pivot", "finish")


@dataclass(frozen=True)
class _Request:
    """A checked command line."""

    path: str
    dest: str | None
    xml_file: str | None
    image_format: str | None
    bandwidth: int
    granularity: int
    buf_size: int
    timeout_s: float | None
    bitmap: str | None


def run_blockcopy(session: Session, invocation: Invocation) -> None:
    """Start a copy; with `--wait` and its kin wait until it is mirrored, and then pivot or finish."""
    request = _read_request(invocation)
    domain = session.domain(invocation)
    dest_xml = _dest_xml(invocation, request) if _needs_block_copy(invocation, request) else None
    if dest_xml is not None and invocation.has("print-xml"):
        session.output.result({"xml": dest_xml}, dest_xml)
        return
    start = partial(_start, session, domain, invocation, request, dest_xml)
    if any(invocation.has(name) for name in _WAITING):
        see_through(session, domain, invocation, Watched(request.path, request.timeout_s, _COURSE), start)
    else:
        # virsh ends the line by the empty line after the command.
        session.output.result({"result": "started", "job": plain(start())}, extra="Block Copy started")


def _read_request(invocation: Invocation) -> _Request:
    """Check the options, in virsh's order."""
    path, dest = invocation.required("path"), invocation.text("dest")
    xml_file, image_format = invocation.text("xml"), invocation.text("format")
    bandwidth = bandwidth_option(invocation, in_bytes=invocation.has("bytes"))
    granularity = invocation.whole_number("granularity", UINT32_MAX) or 0
    buf_size = invocation.whole_number("buf-size", UINT64_MAX) or 0
    timeout_s = invocation.timeout_s()
    for first, second in (("dest", "xml"), ("format", "xml"), ("blockdev", "xml"), ("pivot", "finish")):
        invocation.exclude(first, second)
    if dest is None and xml_file is None:
        raise CommandError("need either --dest or --xml")
    for name in ("verbose", "async"):
        if invocation.has(name) and not any(invocation.has(waiting) for waiting in _WAITING):
            raise CommandError(f"--{name} requires at least one of --timeout, --wait, --pivot, or --finish")
    bitmap = invocation.text("bitmap")
    if bitmap is not None and not invocation.has("reuse-external"):
        raise CommandError("--bitmap updates an earlier copy and needs --reuse-external")
    return _Request(path, dest, xml_file, image_format, bandwidth, granularity, buf_size, timeout_s, bitmap)


def _needs_block_copy(invocation: Invocation, request: _Request) -> bool:
    has_format = request.image_format not in (None, "raw")
    return bool(
        request.granularity or request.buf_size or has_format or any(invocation.has(name) for name in _COPY_ONLY)
    )


def _dest_xml(invocation: Invocation, request: _Request) -> str:
    if request.xml_file is not None:
        return read_text(request.xml_file)
    assert request.dest is not None, "one of --dest and --xml was required"
    return destination_xml(request.dest, request.image_format, is_device=invocation.has("blockdev"))


def _start(
    session: Session, domain: Domain, invocation: Invocation, request: _Request, dest_xml: str | None
) -> BlockJob:
    """The started job."""
    if dest_xml is not None:
        return _block_copy(session, domain, invocation, request, dest_xml)
    flags = BlockRebaseFlags.COPY | invocation.flags_of(_REBASE_FLAGS)
    if request.image_format == "raw":
        flags |= BlockRebaseFlags.COPY_RAW
    return session.client.block_rebase(domain, request.path, request.dest, request.bandwidth, flags)


def _block_copy(session: Session, domain: Domain, invocation: Invocation, request: _Request, dest_xml: str) -> BlockJob:
    bandwidth = request.bandwidth
    if not invocation.has("bytes"):
        # This call knows bytes alone.
        if bandwidth > UINT64_MAX // MIB:
            raise CommandError(f"bandwidth must be less than {UINT64_MAX // MIB}")
        bandwidth *= MIB
    given = {"bandwidth": bandwidth, "granularity": request.granularity, "buf-size": request.buf_size}
    params: dict[str, int | str] = {name: value for name, value in given.items() if value}
    if request.bitmap is not None:
        params["virtblock.bitmap"] = request.bitmap
    return session.client.block_copy(domain, request.path, dest_xml, params, invocation.flags_of(_COPY_FLAGS))
