# SPDX-License-Identifier: Apache-2.0
"""`blockpull` and `blockcommit`: which call is made with what, and how every wait ends.

The expected texts and exit codes were taken from virsh 9.0 on a running guest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cli.command_line import Ran, Virtblock
from cli.fake_client import MIB, T1, FakeClient, FakeStream, job_record, vir_error

from virtblock.client import BlockJobEvent, BlockJobState, BlockJobType, ErrorNumber, ErrorRecord


def record(state: BlockJobState, kind: BlockJobType = BlockJobType.PULL, **more: Any) -> Any:
    """A job of t1's vda."""
    return job_record(state, type=kind, **more)


RUNNING = record(BlockJobState.RUNNING)
ENDS = {
    "running": RUNNING,
    "ready": record(BlockJobState.READY, BlockJobType.ACTIVE_COMMIT, cur=100 * MIB),
    "completed": record(BlockJobState.COMPLETED, cur=100 * MIB),
    "canceled": record(BlockJobState.CANCELED),
    "failed": record(BlockJobState.FAILED, error=ErrorRecord(ErrorNumber.SYSTEM_ERROR, "cannot write: No space left")),
}


@pytest.fixture
def run(virtblock: Virtblock, client: FakeClient) -> Callable[..., Ran]:
    """Runs `COMMAND t1 vda WORDS…` on a job that comes to this end."""
    client.answers |= dict.fromkeys(("block_pull", "block_rebase", "block_commit", "get_block_job"), RUNNING)
    client.answers["block_job_abort"] = ENDS["completed"]

    def call(line: str, end: str = "completed") -> Ran:
        client.answers["watch_block_jobs"] = FakeStream(BlockJobEvent(1, "token", None, job=ENDS[end]))
        command, *words = line.split()
        return virtblock(command, "t1", "vda", *words)

    return call


@pytest.mark.parametrize(
    ("words", "method", "expected"),
    [
        ("", "block_pull", {"bandwidth": 0, "flags": 0}),
        ("10", "block_pull", {"bandwidth": 10, "flags": 0}),
        ("--bandwidth 5000 --bytes", "block_pull", {"bandwidth": 5000, "flags": 64}),
        ("--timeout 5", "block_pull", {"bandwidth": 0, "flags": 0}),  # without --wait it means nothing
        ("--base vda[3]", "block_rebase", {"base": "vda[3]", "bandwidth": 0, "flags": 0}),
        ("1 /b --keep-relative --bytes", "block_rebase", {"base": "/b", "bandwidth": 1, "flags": 16 | 64}),
        ("--keep-relative", "block_rebase", {"base": None, "bandwidth": 0, "flags": 16}),
    ],
)
def test_pull_goes_by_the_call_that_virsh_takes(
    run: Callable[..., Ran], client: FakeClient, words: str, method: str, expected: dict[str, Any]
) -> None:
    assert run(f"blockpull {words}") == Ran(0, "Block Pull started\n", "")
    assert client.called(method) == [{"domain": T1, "disk": "vda"} | expected]
    assert sum(len(client.called(name)) for name in ("block_pull", "block_rebase")) == 1


@pytest.mark.parametrize(
    ("words", "base", "top", "bandwidth", "flags"),
    [
        ("", None, None, 0, 0),
        ("7 /b /t", "/b", "/t", 7, 0),
        ("--shallow --delete --keep-relative --bytes --bandwidth 9", None, None, 9, 1 | 2 | 8 | 16),
    ],
)
def test_flags_of_a_commit(
    run: Callable[..., Ran],
    client: FakeClient,
    words: str,
    base: str | None,
    top: str | None,
    bandwidth: int,
    flags: int,
) -> None:
    assert run(f"blockcommit {words}") == Ran(0, "Block Commit started\n", "")
    expected = {"domain": T1, "disk": "vda", "base": base, "top": top, "bandwidth": bandwidth, "flags": flags}
    assert client.called("block_commit") == [expected]
    assert run(f"blockcommit --active {words}") == Ran(0, "Active Block Commit started\n", "")
    assert client.called("block_commit")[1]["flags"] == flags | 4


WAITS: dict[str, tuple[str, Ran, list[int]]] = {
    "blockpull --wait": ("completed", Ran(0, "\nPull complete\n", ""), []),
    "blockpull --wait --timeout 60": ("canceled", Ran(1, "\nPull aborted\n", ""), []),
    "blockpull --wait --async": ("failed", Ran(1, "\nPull failed\n", "error: cannot write: No space left\n"), []),
    "blockcommit --wait": ("completed", Ran(0, "\nCommit complete\n", ""), []),
    "blockcommit --timeout 60": ("canceled", Ran(1, "\nCommit aborted\n", ""), []),
    "blockcommit --wait --delete": (
        "failed",
        Ran(1, "\nCommit failed\n", "error: cannot write: No space left\n"),
        [],
    ),
    "blockcommit --active --wait": ("ready", Ran(0, "\nNow in synchronized phase\n", ""), []),
    "blockcommit --pivot": ("ready", Ran(0, "\nSuccessfully pivoted\n", ""), [2]),
    "blockcommit --pivot --async": ("ready", Ran(0, "\nSuccessfully pivoted\n", ""), [3]),
    "blockcommit --keep-overlay": ("ready", Ran(0, "\nCommit complete, overlay image kept\n", ""), [0]),
    "blockcommit --keep-overlay --wait": (
        "failed",
        Ran(1, "\nCommit failed\n", "error: cannot write: No space left\n"),
        [],
    ),
}


@pytest.mark.parametrize("line", WAITS)
def test_how_a_wait_ends(run: Callable[..., Ran], client: FakeClient, line: str) -> None:
    end, expected, abort_flags = WAITS[line]
    assert run(line, end) == expected
    assert [call["flags"] for call in client.called("block_job_abort")] == abort_flags
    if "pivot" in line or "keep-overlay" in line:
        assert client.called("block_commit")[0]["flags"] & 4


@pytest.mark.parametrize(
    ("command", "label"), [("blockpull --wait", "Block Pull"), ("blockcommit --wait", "Block commit")]
)
def test_progress_has_virshs_label(run: Callable[..., Ran], command: str, label: str) -> None:
    assert run(f"{command} --verbose").err == f"\r{label}: [  0 %]\r{label}: [100 %]"


@pytest.mark.parametrize("command", ["blockpull --wait", "blockcommit --wait", "blockcommit --pivot"])
def test_a_time_limit_aborts_the_job(run: Callable[..., Ran], client: FakeClient, command: str) -> None:
    client.answers["block_job_abort"] = ENDS["canceled"]
    text = "Pull" if "pull" in command else "Commit"
    assert run(f"{command} --timeout 1", "running") == Ran(1, f"\n{text} aborted\n", "")
    assert [call["flags"] for call in client.called("block_job_abort")] == [0]


@pytest.mark.parametrize("command", ["blockpull", "blockcommit --active"])
def test_a_refused_start_is_told(run: Callable[..., Ran], client: FakeClient, command: str) -> None:
    refusal = vir_error(ErrorNumber.OPERATION_UNSUPPORTED, "disk 'vda' already in active block job")
    client.answers |= dict.fromkeys(("block_pull", "block_commit"), refusal)
    assert run(command) == Ran(1, "\n", "error: disk 'vda' already in active block job\n")


def test_json(run: Callable[..., Ran]) -> None:
    assert json.loads(run("blockpull --json").out)["result"] == "started"
    assert json.loads(run("blockpull --wait --json").out)["result"] == "completed"
    assert json.loads(run("blockcommit --active --wait --json", "ready").out)["result"] == "synchronized"
    assert json.loads(run("blockcommit --pivot --json", "ready").out)["result"] == "pivoted"
    assert json.loads(run("blockcommit --keep-overlay --json", "ready").out)["result"] == "kept"
