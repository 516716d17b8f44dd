# SPDX-License-Identifier: Apache-2.0
"""`blockpull` and `blockcommit`: start one, and see it through.

Owns: which call is made (virDomainBlockRebase where a pull has a base or keeps references relative, as virsh chooses)
and the flags. Invariants: nothing is started before every option was checked.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from virtblock.cli.block_job_course import Course, Watched, see_through
from virtblock.cli.failures import CommandError
from virtblock.cli.grammar import Invocation
from virtblock.cli.records import plain
from virtblock.cli.sizes import bandwidth_option
from virtblock.client.flags import BlockCommitFlags, BlockPullFlags, BlockRebaseFlags

if TYPE_CHECKING:
    from virtblock.cli.session import Session

_PULL = Course("Block Pull", "Pull")
_COMMIT = Course("Block commit", "Commit")
_ACTIVE_COMMIT = Course(
    "Block commit",
    "Commit",
    ("synchronized", "Now in synchronized phase"),
    "keep-overlay",
    ("kept", "Commit complete, overlay image kept"),
)
_COMMIT_FLAGS = {
    "shallow": BlockCommitFlags.SHALLOW,
    "delete": BlockCommitFlags.DELETE,
    "active": BlockCommitFlags.ACTIVE,
    "pivot": BlockCommitFlags.ACTIVE,
    "keep-overlay": BlockCommitFlags.ACTIVE,
    "keep-relative": BlockCommitFlags.RELATIVE,
    "bytes": BlockCommitFlags.BANDWIDTH_BYTES,
}
_COMMIT_WAITING = ("wait", "timeout", "pivot", "keep-overlay")


def run_blockpull(session: Session, invocation: Invocation) -> None:
    """Start a pull; with `--wait` wait until it is done."""
    for name in ("verbose", "async"):
        if invocation.has(name) and not invocation.has("wait"):
            raise CommandError(f"Option --wait is required by option --{name}")
    path, base = invocation.required("path"), invocation.text("base")
    bandwidth = bandwidth_option(invocation, in_bytes=invocation.has("bytes"))
    timeout_s = invocation.timeout_s()
    domain = session.domain(invocation)
    if base is not None or invocation.has("keep-relative"):
        flags = invocation.flags_of(
            {"bytes": BlockRebaseFlags.BANDWIDTH_BYTES, "keep-relative": BlockRebaseFlags.RELATIVE}
        )
        start = partial(session.client.block_rebase, domain, path, base, bandwidth, flags)
    else:
        flags = invocation.flags_of({"bytes": BlockPullFlags.BANDWIDTH_BYTES})
        start = partial(session.client.block_pull, domain, path, bandwidth, flags)
    if invocation.has("wait"):
        see_through(session, domain, invocation, Watched(path, timeout_s, _PULL), start)
    else:
        session.output.result({"result": "started", "job": plain(start())}, extra="Block Pull started")


def run_blockcommit(session: Session, invocation: Invocation) -> None:
    """Start a commit; with `--wait` and its kin wait until it is done, or synchronized to be pivoted or ended."""
    invocation.exclude("pivot", "keep-overlay")
    path = invocation.required("path")
    base, top = invocation.text("base"), invocation.text("top")
    bandwidth = bandwidth_option(invocation, in_bytes=invocation.has("bytes"))
    timeout_s = invocation.timeout_s()
    is_waiting = any(invocation.has(name) for name in _COMMIT_WAITING)
    for name in ("verbose", "async"):
        if invocation.has(name) and not is_waiting:
            raise CommandError(f"--{name} requires at least one of --timeout, --wait, --pivot, or --keep-overlay")
    domain = session.domain(invocation)
    flags = invocation.flags_of(_COMMIT_FLAGS)
    start = partial(session.client.block_commit, domain, path, base, top, bandwidth, flags)
    is_active = bool(flags & BlockCommitFlags.ACTIVE)
    if is_waiting:
        course = _ACTIVE_COMMIT if is_active else _COMMIT
        see_through(session, domain, invocation, Watched(path, timeout_s, course), start)
    else:
        text = "Active Block Commit started" if is_active else "Block Commit started"
        session.output.result({"result": "started", "job": plain(start())}, extra=text)
