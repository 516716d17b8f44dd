# SPDX-License-Identifier: Apache-2.0
"""Our daemon and libvirtd killed at random moments of a job: no event is lost, no record is wrong."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from live.daemon import LiveDaemon
from live.guests import Guest
from live.hypervisor import PrivateLibvirtd
from live.stack import until

from virtblock.client import BlockJob, BlockJobFilter, BlockJobState, Client, ErrorNumber, VirError
from virtblock.client.flags import BlockJobAbortFlags, BlockRebaseFlags

FEW, MANY = 2, 30
# How long a job lives here: from its start to its end some hundred milliseconds.
DELAY_MAX_S = 0.6
FINAL = (BlockJobState.COMPLETED, BlockJobState.CANCELED, BlockJobState.FAILED)
ORDER = [
    BlockJobState.NEW,
    BlockJobState.RUNNING,
    BlockJobState.READY,
    BlockJobState.ABORTING,
    BlockJobState.PIVOTING,
    *FINAL,
]
PATIENCE_S = 20.0
GOING = (ErrorNumber.INVALID_ARG, ErrorNumber.OPERATION_INVALID, ErrorNumber.NO_DOMAIN)
# What a caller hears while one of the two daemons is away.
AWAY = (
    ErrorNumber.INTERNAL_ERROR,
    ErrorNumber.SYSTEM_ERROR,
    ErrorNumber.RPC,
    ErrorNumber.NO_CONNECT,
    ErrorNumber.CONFIG_UNSUPPORTED,
)


class Watcher:
    """What one who watches all jobs from the beginning is told, over every interruption."""

    def __init__(self, client: Client) -> None:
        self._stream = client.watch_block_jobs()
        self._told: list[tuple[int, BlockJob]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(VirError), self._stream as stream:
            for event in stream:
                if event.job is not None:
                    self._told.append((event.sequence, event.job))

    def story(self, domain: str) -> list[BlockJob]:
        """The records of a domain's jobs, in order; each sequence once."""
        sequences = [sequence for sequence, _ in self._told]
        assert sequences == sorted(set(sequences)), "an event came twice or out of order"
        return [job for _, job in self._told if job.domain.name == domain]


@pytest.fixture
def daemon(libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[LiveDaemon]:
    """Ours, on the test's libvirtd."""
    made = LiveDaemon(libvirtd.uri, tmp_path)
    yield made
    made.close()


def kill_ours(daemon: LiveDaemon, libvirtd: PrivateLibvirtd) -> None:
    """`kill -9` of our daemon, and its restart."""
    daemon.kill()
    daemon.start()


def kill_theirs(daemon: LiveDaemon, libvirtd: PrivateLibvirtd) -> None:
    """`kill -9` of libvirtd, and its restart; the guests go on."""
    libvirtd.stop(signal.SIGKILL)
    libvirtd.start()


def patiently(call: Callable[[], object], *done: int) -> int:
    """A caller that tries again while a server is away, until the call succeeds (0) or fails with one of `done`."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            call()
            return 0
        except VirError as error:
            if error.number in done:
                return int(error.number)
            if error.number not in (*AWAY, ErrorNumber.BLOCK_COPY_ACTIVE) or time.monotonic() > deadline_s:
                raise
        time.sleep(0.05)


def jobs_of(client: Client, guest: Guest) -> list[BlockJob]:
    """The guest's jobs, ended ones too."""
    page = client.list_block_jobs(BlockJobFilter(domain_uuid=guest.uuid), include_ended=True)
    return list(page.jobs)


def ends_of(client: Client, guest: Guest) -> set[BlockJobState]:
    """How the guest's jobs ended, once all have."""

    def have_ended() -> bool:
        with contextlib.suppress(VirError):
            return all(job.state in FINAL for job in jobs_of(client, guest))
        return False

    until(have_ended, f"the end of the jobs of {guest.name}")
    return {job.state for job in jobs_of(client, guest)}


def end_of(client: Client, guest: Guest) -> BlockJob:
    """The record of the guest's one job, once it has ended."""
    ends_of(client, guest)
    [job] = jobs_of(client, guest)
    return job


def live_through(client: Client, guest: Guest, path: str, flags: int) -> bool:
    """A copy from its start to the end that is asked for, whatever dies meanwhile.

    False when libvirtd died after it had taken the disk and before it told QEMU: the disk stays taken, with no job.
    """

    def start() -> None:
        try:
            client.block_rebase(guest.name, "vda", path, flags=BlockRebaseFlags.COPY)
        except VirError as error:
            if error.number == ErrorNumber.CONFIG_UNSUPPORTED:  # libvirtd died after it had made the file
                Path(path).unlink()
            raise

    # 83: an earlier try had reached libvirt before its answer was lost.
    if (
        patiently(start, ErrorNumber.BLOCK_COPY_ACTIVE, ErrorNumber.OPERATION_UNSUPPORTED)
        == ErrorNumber.OPERATION_UNSUPPORTED
    ):
        return False
    # 8 and 55: likewise, the job is gone or going. 42: libvirtd gave up a guest that it could not take up again.
    patiently(lambda: client.block_job_abort(guest.name, "vda", flags), *GOING)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("run_count", [FEW, pytest.param(MANY, marks=pytest.mark.oracle)], ids=["few", "many"])
@pytest.mark.parametrize("kill", [kill_ours, kill_theirs], ids=["our daemon", "libvirtd"])
def test_records_and_events_survive_kills(
    libvirtd: PrivateLibvirtd,
    daemon: LiveDaemon,
    make_guest: Callable[..., Guest],
    kill: Callable[[LiveDaemon, PrivateLibvirtd], None],
    run_count: int,
) -> None:
    chance = random.Random(20)
    with Client(daemon.target) as client:
        watcher = Watcher(client)
        for run in range(run_count):
            guest = make_guest()
            path = str(guest.images[0].parent / f"{guest.name}-copy.qcow2")
            killer = threading.Timer(chance.uniform(0, DELAY_MAX_S), kill, (daemon, libvirtd))
            killer.start()
            has_job = live_through(client, guest, path, int(BlockJobAbortFlags.PIVOT) if run % 2 else 0)
            killer.join()
            if not has_job:
                # For a moment after its start libvirtd may show such a job, and we record what it shows.
                assert ends_of(client, guest).isdisjoint({BlockJobState.COMPLETED}), "a job that there is not"
                continue
            job = end_of(client, guest)
            check(libvirtd, guest, job, path)
            story = [told.state for told in watcher_story(watcher, guest, job)]
            assert story == sorted(story, key=ORDER.index), f"run {run}: {story}"
            assert len(story) == len(set(story)), f"run {run}: {story}"
            assert story[0] is BlockJobState.NEW, f"run {run}: {story}"


def watcher_story(watcher: Watcher, guest: Guest, job: BlockJob) -> list[BlockJob]:
    """The watcher's story, once it has heard of the end."""
    until(lambda: any(told.state is job.state for told in watcher.story(guest.name)), "the watcher hears of the end")
    return watcher.story(guest.name)


def check(libvirtd: PrivateLibvirtd, guest: Guest, job: BlockJob, path: str) -> None:
    """The record says what libvirt's XML says."""
    connection = libvirt.open(libvirtd.uri)
    try:
        xml = connection.lookupByName(guest.name).XMLDesc()
    except libvirt.libvirtError:
        # libvirt lost it, with its job or after it had told of the job's end, which then needs no reason.
        assert job.state is BlockJobState.FAILED or not job.reason
        return
    finally:
        connection.close()
    if "libvirt lost the job" in job.reason:
        return  # and shows the mirror for ever
    assert "<mirror" not in xml
    assert (job.state is BlockJobState.COMPLETED) == (f"<source file='{path}'" in xml), (job.state, job.reason)
