# SPDX-License-Identifier: Apache-2.0
"""`blockcopy`: which call is made with what, and how every wait ends.

The expected texts of a wait were taken from virsh 9.0 on a running guest; virsh's test driver knows no block jobs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from cli.command_line import Ran, Virtblock
from cli.fake_client import MIB, T1, FakeClient, FakeStream, job_record, vir_error

from virtblock.cli import block_job_wait
from virtblock.client import BlockJob, BlockJobEvent, BlockJobProgress, BlockJobState, ErrorNumber, ErrorRecord

READY = job_record(BlockJobState.READY, cur=100 * MIB)
RUNNING = job_record(BlockJobState.RUNNING)
FAILED = job_record(BlockJobState.FAILED, error=ErrorRecord(ErrorNumber.SYSTEM_ERROR, "cannot write: No space left"))
CANCELED = job_record(BlockJobState.CANCELED)


def state_event(job: BlockJob) -> BlockJobEvent:
    """A change of state."""
    return BlockJobEvent(1, "token", None, job=job)


def progress_event(cur: int, *, job_id: str = "job-1") -> BlockJobEvent:
    """Figures on the way."""
    return BlockJobEvent(1, "", None, progress=BlockJobProgress(job_id, cur, 100 * MIB, cur, 0, 0, 10 * MIB, 5))


@pytest.fixture
def start(virtblock: Virtblock, client: FakeClient) -> Callable[..., Ran]:
    """Runs `blockcopy t1 vda /img/copy WORDS…` on a job that goes through these events."""
    client.answers |= {"block_rebase": RUNNING, "block_copy": RUNNING, "get_block_job": RUNNING}
    client.answers["block_job_abort"] = job_record(BlockJobState.COMPLETED)

    def run(*words: str, events: tuple[Any, ...] = (), before: tuple[str, ...] = ()) -> Ran:
        client.answers["watch_block_jobs"] = FakeStream(*events)
        return virtblock(*before, "blockcopy", "t1", "vda", "/img/copy", *words)

    return run


@pytest.mark.parametrize(
    ("words", "bandwidth", "flags"),
    [
        ("", 0, 8),
        ("--shallow --reuse-external", 0, 8 | 1 | 2),
        ("--raw", 0, 8 | 4),
        ("--format raw --blockdev", 0, 8 | 4 | 32),
        ("--bytes 1000", 1000, 8 | 64),
        ("100", 100, 8),
        ("10M", 10, 8),
        ("2G --bytes", 2**31, 8 | 64),
        ("--bandwidth -1", 2**64 - 1, 8),
        ("--bandwidth 1k", 0, 8),
    ],
)
def test_what_rebase_can_say_goes_by_rebase(
    start: Callable[..., Ran], client: FakeClient, words: str, bandwidth: int, flags: int
) -> None:
    assert start(*words.split()) == Ran(0, "Block Copy started\n", "")
    expected = {"domain": T1, "disk": "vda", "base": "/img/copy", "bandwidth": bandwidth, "flags": flags}
    assert client.called("block_rebase") == [expected]
    assert client.called("block_copy") == []


@pytest.mark.parametrize(
    ("words", "params", "flags"),
    [
        ("--format qcow2", {}, 0),
        ("--granularity 65536", {"granularity": 65536}, 0),
        ("--buf-size 1048576 10", {"bandwidth": 10 * MIB, "buf-size": 1048576}, 0),
        ("--transient-job --bandwidth 12345 --bytes", {"bandwidth": 12345}, 4),
        ("--synchronous-writes --shallow --reuse-external", {}, 8 | 1 | 2),
        ("--dest-is-zero --reuse-external --raw", {}, 16 | 2),
    ],
)
def test_what_rebase_cannot_say_goes_by_copy(
    start: Callable[..., Ran], client: FakeClient, words: str, params: dict[str, int], flags: int
) -> None:
    assert start(*words.split()) == Ran(0, "Block Copy started\n", "")
    (call,) = client.called("block_copy")
    assert (call["params"], call["flags"]) == (params, flags)
    assert "<source file='/img/copy'/>" in call["dest_xml"]
    assert client.called("block_rebase") == []


@pytest.mark.parametrize("words", ["--granularity 0", "--buf-size 0"])
def test_a_zero_asks_for_nothing(start: Callable[..., Ran], client: FakeClient, words: str) -> None:
    """As for virsh, 0 is the default and needs no BlockCopy."""
    start(*words.split())
    assert client.called("block_copy") == []


def test_xml_is_read_from_a_file(virtblock: Virtblock, client: FakeClient, tmp_path: Any) -> None:
    file = tmp_path / "dest.xml"
    file.write_text("<disk type='file'><source file='/é'/></disk>")
    client.answers["block_copy"] = RUNNING
    assert virtblock("blockcopy", "t1", "vda", "--xml", str(file)).exit_code == 0
    assert client.called("block_copy")[0]["dest_xml"] == file.read_text()
    file.write_bytes(b"<disk>\xff")
    ran = virtblock("blockcopy", "t1", "vda", "--xml", str(file))
    assert (ran.exit_code, ran.err) == (1, f"error: Failed to read file '{file}': byte 6 is not UTF-8\n")


@pytest.mark.parametrize(
    ("words", "out", "abort_flags"),
    [
        ("--wait", "\nNow in mirroring phase\n", []),
        ("--pivot", "\nSuccessfully pivoted\n", [2]),
        ("--finish", "\nSuccessfully copied\n", [0]),
        ("--pivot --async", "\nSuccessfully pivoted\n", [3]),
        ("--timeout 60 --wait", "\nNow in mirroring phase\n", []),
    ],
)
def test_a_wait_ends_when_the_copy_is_ready(
    start: Callable[..., Ran], client: FakeClient, words: str, out: str, abort_flags: list[int]
) -> None:
    assert start(*words.split(), events=[state_event(READY)]) == Ran(0, out, "")
    assert [call["flags"] for call in client.called("block_job_abort")] == abort_flags
    assert start(*words.split(), events=[state_event(READY)], before=("-q",)) == Ran(0, "", "")


def test_progress_is_virshs_line_where_there_is_no_terminal(start: Callable[..., Ran]) -> None:
    """Never 100 before the copy is ready, the same reading not twice, and other jobs' figures not at all."""
    cur = [0, 6 * MIB, 6 * MIB, 100 * MIB - 1]
    events = [*map(progress_event, cur), progress_event(50 * MIB, job_id="another"), state_event(READY)]
    ran = start("--wait", "--verbose", "--pivot", events=events)
    assert ran.out == "\nSuccessfully pivoted\n"
    assert ran.err == "".join(f"\rBlock Copy: [{percent:3d} %]" for percent in (0, 6, 99, 100))


def test_a_job_that_was_over_before_the_watch_is_seen(start: Callable[..., Ran], client: FakeClient) -> None:
    client.answers["get_block_job"] = READY
    assert start("--wait", "--verbose") == Ran(
        0, "\nNow in mirroring phase\n", "\rBlock Copy: [  0 %]\rBlock Copy: [100 %]"
    )


def test_a_failed_copy_tells_why(start: Callable[..., Ran], client: FakeClient) -> None:
    """virsh says no more than `Copy failed`; the server knows the reason."""
    ran = start("--pivot", events=[progress_event(5), state_event(FAILED)])
    assert ran == Ran(1, "\nCopy failed\n", "error: cannot write: No space left\n")
    assert client.called("block_job_abort") == []


def test_a_copy_that_somebody_else_aborted(start: Callable[..., Ran], client: FakeClient) -> None:
    ending = dataclasses.replace(RUNNING, state=BlockJobState.ABORTING)
    assert start("--pivot", events=[state_event(ending), state_event(CANCELED)]) == Ran(1, "\nCopy aborted\n", "")
    assert client.called("block_job_abort") == []


@pytest.mark.parametrize(("words", "flags"), [("", 0), ("--async", 1)])
def test_ctrl_c_aborts_the_job(start: Callable[..., Ran], client: FakeClient, words: str, flags: int) -> None:
    handler = signal.getsignal(signal.SIGINT)
    client.answers["block_job_abort"] = CANCELED
    client.answers["get_block_job"] = _running_and_interrupted
    assert start("--wait", *words.split()) == Ran(1, "\nCopy aborted\n", "")
    assert [call["flags"] for call in client.called("block_job_abort")] == [flags]
    assert signal.getsignal(signal.SIGINT) is handler


def _interrupt_soon() -> None:
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()


def _running_and_interrupted(job_id: str) -> BlockJob:
    """Answers the job, with Ctrl-C right behind."""
    _interrupt_soon()
    return RUNNING


def test_a_second_ctrl_c_leaves_at_once(start: Callable[..., Ran], client: FakeClient) -> None:
    """The first one asked for the abort, which here does not come back."""

    def never_comes_back(**_: Any) -> None:
        _interrupt_soon()
        threading.Event().wait(600)

    client.answers["get_block_job"] = _running_and_interrupted
    client.answers["block_job_abort"] = never_comes_back
    assert start("--wait").exit_code == 130


def test_a_time_limit_aborts_the_job(start: Callable[..., Ran], client: FakeClient) -> None:
    client.answers["block_job_abort"] = CANCELED
    assert start("--timeout", "1", "--verbose").out == "\nCopy aborted\n"
    assert [call["flags"] for call in client.called("block_job_abort")] == [0]


def test_an_abort_that_fails_is_told(start: Callable[..., Ran], client: FakeClient) -> None:
    client.answers["block_job_abort"] = vir_error(ErrorNumber.INVALID_ARG, "disk vda does not have an active block job")
    ran = start("--timeout", "1")
    texts = ("failed to abort job for disk vda", "disk vda does not have an active block job")
    assert ran == Ran(1, "\n", "".join(f"error: {text}\n" for text in texts))


def test_a_refused_pivot_is_told(start: Callable[..., Ran], client: FakeClient) -> None:
    client.answers["block_job_abort"] = vir_error(ErrorNumber.BLOCK_COPY_ACTIVE, "not ready for pivot yet")
    ran = start("--pivot", events=[state_event(READY)])
    assert ran == Ran(1, "\n", "error: failed to pivot job for disk vda\nerror: not ready for pivot yet\n")


def test_an_error_does_not_run_on_in_the_line_of_the_progress(start: Callable[..., Ran], client: FakeClient) -> None:
    client.answers["block_job_abort"] = vir_error(ErrorNumber.BLOCK_COPY_ACTIVE, "not ready for pivot yet")
    ran = start("--pivot", "--verbose", events=[state_event(READY)])
    assert ran.err.endswith("[100 %]\nerror: failed to pivot job for disk vda\nerror: not ready for pivot yet\n")
    client.answers["get_block_job"] = vir_error(ErrorNumber.SYSTEM_ERROR, "cannot connect")
    assert start("--wait", "--verbose").err.startswith("\rBlock Copy: [  0 %]\nerror: failed to query job")


def test_without_events_the_server_is_asked(start: Callable[..., Ran], client: FakeClient) -> None:
    """A watch that breaks for good ends in asking, not in an error."""
    readings = iter([RUNNING, RUNNING, READY])
    client.answers["get_block_job"] = lambda job_id: next(readings)
    broken = vir_error(ErrorNumber.RESOURCE_BUSY, "too many streams")
    assert start("--wait", events=[broken]) == Ran(0, "\nNow in mirroring phase\n", "")


def test_a_long_silence_ends_when_the_server_stays_away(
    start: Callable[..., Ran], client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch waits for the server to come back; the person is told after a while."""
    monkeypatch.setattr(block_job_wait, "SILENCE_MAX_S", 0.2)
    readings = iter([RUNNING, RUNNING])

    def read(job_id: str) -> BlockJob:
        reading = next(readings, None)
        if reading is None:
            raise vir_error(ErrorNumber.SYSTEM_ERROR, "cannot connect")
        return reading

    client.answers["get_block_job"] = read
    assert start("--wait").err == "error: failed to query job for disk vda\nerror: cannot connect\n"


def test_ctrl_c_during_the_start_aborts_the_job(start: Callable[..., Ran], client: FakeClient) -> None:
    """The job that the call then answers is not left alone."""

    def slow_start(**_: Any) -> BlockJob:
        os.kill(os.getpid(), signal.SIGINT)
        return RUNNING

    client.answers["block_rebase"] = slow_start
    assert start("--wait") == Ran(1, "\nCopy aborted\n", "")
    assert len(client.called("block_job_abort")) == 1


def test_a_job_that_has_no_plan_yet_is_at_0(start: Callable[..., Ran], client: FakeClient) -> None:
    new = job_record(BlockJobState.NEW, cur=0, end=0)
    client.answers |= {"block_rebase": new, "get_block_job": new}
    assert start("--wait", "--verbose", events=[state_event(READY)]).err.count("[  0 %]") == 1


def test_a_server_that_is_gone_ends_the_wait(start: Callable[..., Ran], client: FakeClient) -> None:
    gone = vir_error(ErrorNumber.SYSTEM_ERROR, "cannot connect")
    client.answers["get_block_job"] = gone
    ran = start("--wait")
    assert ran == Ran(1, "\n", "error: failed to query job for disk vda\nerror: cannot connect\n")


def test_a_copy_that_cannot_start(start: Callable[..., Ran], client: FakeClient) -> None:
    client.answers["block_rebase"] = vir_error(ErrorNumber.INVALID_ARG, "invalid argument: disk 'vdz' not found")
    assert start("--wait") == Ran(1, "\n", "error: invalid argument: disk 'vdz' not found\n")


def test_json_of_a_wait_is_one_value_a_line(start: Callable[..., Ran]) -> None:
    ran = start("--wait", "--verbose", "--pivot", "--json", events=[progress_event(5 * MIB), state_event(READY)])
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["progress"]["percent"] for line in lines[:-1]] == [0, 5]
    assert lines[-1]["result"] == "pivoted"
    assert lines[-1]["job"]["state"] == "COMPLETED"
    assert (ran.exit_code, ran.err) == (0, "")


def test_json_of_a_failed_copy(start: Callable[..., Ran]) -> None:
    ran = start("--wait", before=("--json",), events=[state_event(FAILED)])
    assert json.loads(ran.out)["result"] == "failed"
    error = json.loads(ran.err)["error"]
    assert (error["number"], error["name"]) == (38, "VIR_ERR_SYSTEM_ERROR")
    assert ran.exit_code == 1


def test_json_of_a_start(start: Callable[..., Ran]) -> None:
    answer = json.loads(start("--json").out)
    assert (answer["result"], answer["job"]["job_id"]) == ("started", "job-1")
