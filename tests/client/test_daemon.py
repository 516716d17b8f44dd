# SPDX-License-Identifier: Apache-2.0
"""The client against the real daemon: a copy from definition to pivot, a watch over a restart, and the examples."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from client.daemon import Daemon
from client.front_ends import FrontEnd

from virtblock.client import (
    AsyncClient,
    BlockJobFilter,
    BlockJobState,
    BlockJobStatus,
    BlockJobType,
    Client,
    DomainEventId,
    DomainEventType,
    ErrorNumber,
    VirError,
    errors,
)
from virtblock.client.flags import BlockJobAbortFlags, BlockRebaseFlags, BlockResizeFlags

EXAMPLES = Path(__file__).resolve().parents[2] / "clients" / "python" / "examples"
ENDED = [BlockJobState.COMPLETED, BlockJobState.CANCELED, BlockJobState.FAILED]


def test_copy_and_pivot(daemon: Daemon, guest: Any, front_end: FrontEnd, tmp_path: Path, qemu_img: Any) -> None:
    def call(method: str, *args: Any, **kwargs: Any) -> Any:
        return front_end.call(daemon.target, method, *args, **kwargs)

    copy = tmp_path / "copy.qcow2"
    [domain] = call("list_all_domains")
    assert domain == call("domain_lookup_by_name", "guest") == call("domain_lookup_by_uuid", domain.uuid)
    [disk] = call("list_disks", domain)
    assert [disk.source_path, *(image.path for image in disk.backing_chain)] == [
        str(image) for image in reversed(guest.files)
    ]
    assert call("get_block_info", domain, "vda").capacity_bytes == guest.size_bytes
    job = call("block_rebase", domain, "vda", str(copy), flags=BlockRebaseFlags.COPY, request_id="one")
    assert (job.type, job.disk, job.domain.uuid, job.request_id) == (BlockJobType.COPY, "vda", domain.uuid, "one")
    assert call("block_rebase", domain, "vda", str(copy), flags=8, request_id="one").job_id == job.job_id
    waited = call("wait_block_job", job.job_id, [BlockJobState.READY], timeout_s=60)
    assert waited.reached
    info = call("get_block_job_info", domain, "vda")
    assert info.cur == info.end > 0
    assert "<mirror" in call("get_xml_desc", domain)
    with pytest.raises(VirError) as caught:
        call("block_rebase", domain, "vda", str(tmp_path / "other"), flags=BlockRebaseFlags.COPY)
    assert caught.value.number == ErrorNumber.BLOCK_COPY_ACTIVE
    ended = call("block_job_abort", domain, "vda", BlockJobAbortFlags.PIVOT)
    assert ended.state is BlockJobState.COMPLETED
    assert ended.start_time <= ended.ready_time <= ended.end_time
    assert call("get_block_job", job.job_id) == ended
    assert call("get_block_job_info", domain, "vda") is None
    assert str(copy) in call("get_xml_desc", domain)
    assert qemu_img.is_same(guest.top, "qcow2", copy, "qcow2")
    assert call("list_block_jobs").jobs == ()
    assert call("list_block_jobs", BlockJobFilter(disk="vda"), include_ended=True).jobs == (ended,)


def test_errors_are_libvirts(daemon: Daemon, guest: Any, front_end: FrontEnd, tmp_path: Path) -> None:
    def refused(method: str, *args: Any, target: str = daemon.target, **kwargs: Any) -> VirError:
        with pytest.raises(VirError) as caught:
            front_end.call(target, method, *args, **kwargs)
        return caught.value

    missing = refused("domain_lookup_by_name", "nobody")
    assert (missing.number, missing.code) == (ErrorNumber.NO_DOMAIN, grpc.StatusCode.NOT_FOUND)
    assert missing.message == "Domain not found: no domain with matching name 'nobody'"
    assert missing.reason == "VIR_ERR_NO_DOMAIN"
    null = refused("block_copy", "guest", "vda", None)
    assert (null.number, null.int1) == (ErrorNumber.INVALID_ARG, 0)
    assert errors.is_(refused("get_block_job", "no-such-job"), errors.BLOCK_JOB_NOT_FOUND)
    shallow = refused("block_rebase", "guest", "vda", None, flags=BlockRebaseFlags.SHALLOW)
    assert shallow.number == ErrorNumber.INVALID_ARG
    read_only = refused("block_rebase", "guest", "vda", str(tmp_path / "x"), flags=8, target=daemon.target + "-ro")
    assert read_only.number == ErrorNumber.OPERATION_DENIED
    assert refused("suspend", "guest", target="unix:/none").number == ErrorNumber.SYSTEM_ERROR
    no_connection = refused("get_type", connection_uri="foo:///x")
    assert (no_connection.number, no_connection.code) == (ErrorNumber.NO_CONNECT, grpc.StatusCode.UNAVAILABLE)


def test_request_id_of_another_call_is_refused(daemon: Daemon, guest: Any, tmp_path: Path) -> None:
    with Client(daemon.target) as client:
        client.block_rebase("guest", "vda", str(tmp_path / "a"), flags=BlockRebaseFlags.COPY, request_id="same")
        with pytest.raises(VirError) as caught:
            client.block_rebase("guest", "vda", str(tmp_path / "b"), flags=BlockRebaseFlags.COPY, request_id="same")
    assert errors.is_(caught.value, errors.REQUEST_ID_REUSED)


def _copy_twice(target: str, folder: Path) -> list[str]:
    """Two copies from begin to abort; answers the jobs' ids."""
    ids = []
    with Client(target) as client:
        for number in range(2):
            job = client.block_rebase("guest", "vda", str(folder / f"copy{number}"), flags=BlockRebaseFlags.COPY)
            client.wait_block_job(job.job_id, [BlockJobState.READY], timeout_s=60)
            client.block_job_abort("guest", "vda")
            ids.append(job.job_id)
    return ids


def _lives(events: list[Any]) -> dict[str, list[str]]:
    """The states of each job, in the order of the events."""
    lives: dict[str, list[str]] = {}
    for event in events:
        if event.job is not None:
            lives.setdefault(event.job.job_id, []).append(event.job.state.name)
    return lives


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_watch_misses_nothing_over_a_restart(
    daemon: Daemon, guest: Any, tmp_path: Path, signal_number: signal.Signals
) -> None:
    """Two watches over two copies and a restart between them see each state of each job once."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    seen: list[Any] = []
    seen_async: list[Any] = []
    ids: list[str] = []

    def follow() -> None:
        for event in watcher:
            seen.append(event)

    async def follow_async() -> None:
        async with AsyncClient(daemon.target) as client, client.watch_block_jobs() as async_watcher:
            entered.set()
            async for event in async_watcher:
                seen_async.append(event)
                if len({each.job.job_id for each in seen_async if each.job.state in ENDED}) == 4:
                    return

    entered = threading.Event()
    with Client(daemon.target) as client, client.watch_block_jobs() as watcher:
        threads = [threading.Thread(target=follow), threading.Thread(target=asyncio.run, args=(follow_async(),))]
        for thread in threads:
            thread.start()
        assert entered.wait(60)
        ids += _copy_twice(daemon.target, first)
        daemon.stop(signal_number)
        time.sleep(0.5)
        daemon.start()
        ids += _copy_twice(daemon.target, second)
        threads[1].join(60)
        deadline_s = time.monotonic() + 60
        while len(seen) < len(seen_async) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        watcher.close()
        threads[0].join(60)
    assert [thread.is_alive() for thread in threads] == [False, False]
    lives = _lives(seen)
    assert _lives(seen_async) == lives
    assert list(lives) == ids
    for states in lives.values():
        assert len(set(states)) == len(states)
        assert states[0] == "NEW"
        assert states[-1] == "CANCELED"
        assert "READY" in states
    sequences = [event.sequence for event in seen]
    assert sequences == sorted(set(sequences))


def test_stored_token_goes_on(daemon: Daemon, guest: Any, front_end: FrontEnd, tmp_path: Path) -> None:
    _, token = front_end.take(daemon.target, "watch_block_jobs", 0)
    ids = _copy_twice(daemon.target, tmp_path)
    events, later = front_end.take(daemon.target, "watch_block_jobs", 3, resume_token=token)
    assert list(_lives(events)) == ids[:1]
    rest, _ = front_end.take(daemon.target, "watch_block_jobs", 3, resume_token=later)
    assert rest[0].sequence > events[-1].sequence
    with pytest.raises(VirError) as caught:
        front_end.take(daemon.target, "watch_block_jobs", 1, resume_token="e999999")
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_snapshot_shows_the_jobs_there_are(daemon: Daemon, guest: Any, front_end: FrontEnd, tmp_path: Path) -> None:
    with Client(daemon.target) as client:
        job = client.block_rebase("guest", "vda", str(tmp_path / "copy"), flags=BlockRebaseFlags.COPY)
        client.wait_block_job(job.job_id, [BlockJobState.READY], timeout_s=60)
    [event], token = front_end.take(daemon.target, "watch_block_jobs", 1, include_snapshot=True)
    assert (event.job.job_id, event.job.state, event.is_snapshot) == (job.job_id, BlockJobState.READY, True)
    assert event.resume_token == ""
    assert token


def test_domain_events_are_libvirts(daemon: Daemon, guest: Any, tmp_path: Path) -> None:
    kinds = [DomainEventId.BLOCK_JOB, DomainEventId.BLOCK_JOB_2, DomainEventId.LIFECYCLE]
    with Client(daemon.target) as client, client.domain_events(kinds, timeout_s=60) as stream:
        _copy_twice(daemon.target, tmp_path)
        client.undefine("guest")
        jobs: list[tuple[str, BlockJobStatus]] = []
        for event in stream:
            if event.lifecycle is not None:
                assert event.lifecycle.event is DomainEventType.UNDEFINED
                break
            assert event.block_job is not None
            jobs.append((event.block_job.disk, event.block_job.status))
    statuses = [BlockJobStatus.READY, BlockJobStatus.CANCELED]
    for disk in ("vda", str(guest.top)):
        assert [status for name, status in jobs if name == disk] == statuses * 2


def test_map_ends_with_the_job(daemon: Daemon, guest: Any, front_end: FrontEnd, tmp_path: Path) -> None:
    with Client(daemon.target) as client:
        job = client.block_rebase("guest", "vda", str(tmp_path / "copy"), flags=BlockRebaseFlags.COPY)
        client.wait_block_job(job.job_id, [BlockJobState.READY], timeout_s=60)
        first, _ = front_end.take(daemon.target, "watch_block_map", 1, job.job_id, cell_count=16, timeout_s=60)
        with client.watch_block_map(job.job_id, cell_count=16, interval_s=0.1, timeout_s=60) as stream:
            pictures = [*first, next(iter(stream))]
            client.block_job_abort("guest", "vda", BlockJobAbortFlags.PIVOT)
            pictures += stream
    assert pictures[0].job_state is BlockJobState.READY
    assert pictures[-1].job_state is BlockJobState.COMPLETED
    for picture in pictures:
        assert sum(run.cell_count for run in picture.runs) == -(-picture.size_bytes // picture.cell_bytes) <= 16


def test_resize(daemon: Daemon, guest: Any, front_end: FrontEnd) -> None:
    larger = guest.size_bytes * 2
    front_end.call(daemon.target, "block_resize", "guest", "vda", larger, BlockResizeFlags.BYTES)
    assert front_end.call(daemon.target, "get_block_info", "guest", "vda").capacity_bytes == larger


def _example(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_examples(daemon: Daemon, guest: Any, tmp_path: Path, qemu_img: Any) -> None:
    token_file = tmp_path / "token"
    watching = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "watch_and_resume.py"), daemon.target, str(token_file), "3"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stdout.readline() == f"watching {daemon.target}\n"
    copy = tmp_path / "copy.qcow2"
    copied = _example("copy_and_pivot.py", daemon.target, "guest", "vda", copy)
    assert (copied.returncode, copied.stderr) == (0, "")
    assert copied.stdout.splitlines()[-1] == f"COMPLETED: guest now uses {copy}"
    assert qemu_img.is_same(guest.top, "qcow2", copy, "qcow2")
    seen = watching.communicate(timeout=120)[0].splitlines()
    assert [line.split(": ", 1)[1] for line in seen] == [
        "guest vda changed to NEW",
        "guest vda changed to RUNNING",
        "guest vda changed to READY",
    ]
    rest = _example("watch_and_resume.py", daemon.target, token_file, "2")
    assert [line.split(" ")[-1] for line in rest.stdout.splitlines()[1:]] == ["PIVOTING", "COMPLETED"]
    listed = _example("connect_and_list.py", daemon.target)
    assert (listed.returncode, listed.stderr) == (0, "")
    [line] = [line for line in listed.stdout.splitlines() if line.startswith("  vda  qcow2  ")]
    assert line.endswith(f"  {copy}")
    again = _example("copy_and_pivot.py", daemon.target, "guest", "vda", copy)
    assert again.returncode == 1
    assert again.stderr.startswith("error ")
    for name, arguments in (("connect_and_list.py", []), ("watch_and_resume.py", [tmp_path / "none"])):
        failed = _example(name, "unix:/none", *arguments)
        assert failed.returncode == 1
        assert "is it running?" in failed.stderr


def test_the_incremental_example_copies_what_was_written(
    daemon: Daemon, guest: Any, tmp_path: Path, qemu_img: Any
) -> None:
    copy = tmp_path / "copy <&'>.qcow2"
    whole = _example("incremental_copy.py", daemon.target, "guest", "vda", "nightly", copy)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.endswith(" bytes, the whole disk\n")
    assert qemu_img.is_same(guest.top, "qcow2", copy, "qcow2")
    for write in ("write -P 0x77 1M 64k", "write -P 0x78 2M 64k"):
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, str(guest.top)], check=True, stdout=subprocess.DEVNULL)
        later = _example("incremental_copy.py", daemon.target, "guest", "vda", "nightly", copy)
        assert (later.returncode, later.stderr, later.stdout) == (0, "", "copied 65536 bytes\n")
        assert qemu_img.is_same(guest.top, "qcow2", copy, "qcow2")
    idle = _example("incremental_copy.py", daemon.target, "guest", "vda", "nightly", copy)
    assert (idle.returncode, idle.stderr, idle.stdout) == (0, "", "copied 0 bytes\n")
    with Client(daemon.target) as client:
        assert str(guest.top) in client.get_xml_desc("guest")
    failed = _example("incremental_copy.py", daemon.target, "guest", "vdz", "nightly", copy)
    assert (failed.returncode, failed.stderr[:8]) == (1, "error 8:")


def test_example_gives_up_on_ctrl_c(daemon: Daemon, guest: Any, tmp_path: Path) -> None:
    """The copy is slowed down to a crawl, so that Ctrl-C surely comes while it runs."""
    copying = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "copy_and_pivot.py"), daemon.target, "guest", "vda", str(tmp_path / "copy")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert copying.stdout is not None
    with Client(daemon.target) as client, client.watch_block_jobs(include_snapshot=True, timeout_s=60) as watcher:
        for event in watcher:
            if event.job is not None and event.job.state in (BlockJobState.RUNNING, BlockJobState.READY):
                copying.send_signal(signal.SIGINT)
                break
        copying.communicate(timeout=120)
        jobs = client.list_block_jobs(include_ended=True).jobs
    assert [job.state for job in jobs] in ([BlockJobState.CANCELED], [BlockJobState.COMPLETED])
    assert copying.returncode == (130 if jobs[0].state is BlockJobState.CANCELED else 0)
