# SPDX-License-Identifier: Apache-2.0
"""Ends of jobs that meet each other, or meet the end of a daemon: the record says what libvirt's XML says, always."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from live.daemon import LiveDaemon
from live.guests import Guest
from live.hypervisor import PrivateLibvirtd
from live.monitor import Monitor
from live.stack import CALLER, Stack, selector, until

from virtblock.client import BlockJob, BlockJobFilter, BlockJobState, Client, VirError
from virtblock.client.flags import BlockJobAbortFlags, BlockRebaseFlags
from virtblock.server.core.errors import VirError as CoreError
from virtblock.server.core.model import JobState
from virtblock.server.drivers.libvirt import following

MakeGuest = Callable[..., Guest]
COPY, BANDWIDTH_BYTES = int(BlockRebaseFlags.COPY), int(BlockRebaseFlags.BANDWIDTH_BYTES)
PIVOT, ASYNC = int(BlockJobAbortFlags.PIVOT), int(BlockJobAbortFlags.ASYNC)
FINAL = (BlockJobState.COMPLETED, BlockJobState.CANCELED, BlockJobState.FAILED)
# Where a job is when something dies, and the call that took it there from READY.
PHASES = {"running": None, "ready": None, "aborting": ASYNC, "pivoting": PIVOT | ASYNC}
MEETING_COUNT = 3


def copy_path(guest: Guest) -> str:
    """The destination of the guest's copy."""
    return str(guest.images[0].parent / f"{guest.name}-copy.qcow2")


def together(*calls: Callable[[], object]) -> list[Exception | None]:
    """The calls at the same moment; what each raised."""
    raised: list[Exception | None] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(number: int) -> None:
        gate.wait(60)
        try:
            calls[number]()
        except (CoreError, VirError, libvirt.libvirtError) as error:
            raised[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def ready_copy(stack: Stack, guest: Guest) -> str:
    """A copy in READY; its id."""
    job = stack.blocks.block_rebase(CALLER, selector(guest.uuid), "vda", copy_path(guest), 0, COPY)
    stack.wait_for(job.job_id, JobState.READY)
    return job.job_id


def final_state(stack: Stack, job_id: str) -> JobState:
    """How the job ended, once it has."""
    until(lambda: stack.jobs.get(job_id).state.is_final, f"the end of {job_id}")
    return stack.jobs.get(job_id).state


def test_of_two_pivots_one_is_done(stack: Stack, make_guest: MakeGuest) -> None:
    for _ in range(MEETING_COUNT):
        guest = make_guest()
        job_id = ready_copy(stack, guest)

        def pivot(uuid: str = guest.uuid) -> object:
            return stack.blocks.block_job_abort(CALLER, selector(uuid), "vda", PIVOT)

        assert None in together(pivot, pivot)
        assert final_state(stack, job_id) is JobState.COMPLETED
        assert f"<source file='{copy_path(guest)}'" in guest.domain.XMLDesc()
        assert len([state for state in stack.states(guest.uuid) if state.is_final]) == 1


def test_a_pivot_and_an_abort_agree_on_one_end(stack: Stack, make_guest: MakeGuest) -> None:
    for _ in range(MEETING_COUNT):
        guest = make_guest()
        job_id = ready_copy(stack, guest)
        together(
            lambda uuid=guest.uuid: stack.blocks.block_job_abort(CALLER, selector(uuid), "vda", PIVOT),  # type: ignore[misc]
            lambda uuid=guest.uuid: stack.blocks.block_job_abort(CALLER, selector(uuid), "vda", 0),  # type: ignore[misc]
        )
        is_pivoted = final_state(stack, job_id) is JobState.COMPLETED
        assert (f"<source file='{copy_path(guest)}'" in guest.domain.XMLDesc()) == is_pivoted


def test_a_pivot_meets_the_end_of_its_domain(stack: Stack, make_guest: MakeGuest) -> None:
    for _ in range(MEETING_COUNT):
        guest = make_guest()
        job_id = ready_copy(stack, guest)
        pivoted, _ = together(
            lambda uuid=guest.uuid: stack.blocks.block_job_abort(CALLER, selector(uuid), "vda", PIVOT),  # type: ignore[misc]
            guest.domain.destroy,
        )
        state = final_state(stack, job_id)
        assert state in (JobState.COMPLETED, JobState.FAILED)
        assert pivoted is not None or state is JobState.COMPLETED, "a pivot that was granted is recorded"


def test_an_abort_meets_ready(stack: Stack, make_guest: MakeGuest) -> None:
    """However they meet: one record, one end, and of libvirt's events every one."""
    for _ in range(MEETING_COUNT):
        guest = make_guest()
        told: list[int] = []
        connection = guest.domain.connect()

        def take(_connection: object, _domain: object, _disk: str, _type: int, status: int, heard: list[int]) -> None:
            heard.append(status)

        number = connection.domainEventRegisterAny(guest.domain, 16, take, told)
        job = stack.blocks.block_rebase(CALLER, selector(guest.uuid), "vda", copy_path(guest), 0, COPY)
        stack.blocks.block_job_abort(CALLER, selector(guest.uuid), "vda", 0)
        assert final_state(stack, job.job_id) is JobState.CANCELED
        until(lambda heard=told: libvirt.VIR_DOMAIN_BLOCK_JOB_CANCELED in heard, "libvirt's event of the end")  # type: ignore[misc]
        connection.domainEventDeregisterAny(number)
        assert [event[3] for event in stack.libvirt_events(guest.uuid) if event[0] == 16] == told
        assert len([state for state in stack.states(guest.uuid) if state.is_final]) == 1


@pytest.mark.parametrize(
    ("command", "state", "reason"),
    [("block-job-complete", JobState.COMPLETED, "new disk"), ("block-job-cancel", JobState.FAILED, "old disk")],
    ids=["pivoted", "not pivoted"],
)
def test_a_pivot_that_libvirt_lost_ends_as_qemu_tells(
    stack: Stack,
    libvirtd: PrivateLibvirtd,
    make_guest: MakeGuest,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    state: JobState,
    reason: str,
) -> None:
    """libvirtd dies when QEMU's job is over and its own notes still have it: it shows the mirror from then on."""
    monkeypatch.setattr(following, "LOST_S", 0.5)
    guest = make_guest()
    job_id = ready_copy(stack, guest)
    stack.jobs.transition(job_id, JobState.PIVOTING)
    libvirtd.stop(signal.SIGKILL)
    notes = libvirtd.status_path(guest.name)
    notes.write_text(notes.read_text().replace("ready='yes'", "ready='pivot'"))
    with Monitor(libvirtd.monitor_path(guest.name)) as monitor:
        [name] = monitor.job_states()
        monitor.run(command, device=name)
        until(lambda: monitor.job_states()[name] == "concluded", "the end of QEMU's job")
        monitor.run("job-dismiss", id=name)
    libvirtd.start()
    assert final_state(stack, job_id) is state
    assert reason in stack.jobs.get(job_id).reason
    connection = libvirt.open(libvirtd.uri)
    domain = connection.lookupByName(guest.name)
    assert "ready='pivot'" in domain.XMLDesc(), "libvirt has lost the job"
    assert not domain.blockJobInfo("vda")
    connection.close()


@pytest.fixture
def daemon(libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[LiveDaemon]:
    """Ours, on the test's libvirtd."""
    made = LiveDaemon(libvirtd.uri, tmp_path)
    yield made
    made.close()


def restart_ours(daemon: LiveDaemon, libvirtd: PrivateLibvirtd) -> None:
    """`kill -9` of our daemon, and its restart."""
    daemon.kill()
    daemon.start()


def restart_theirs(daemon: LiveDaemon, libvirtd: PrivateLibvirtd) -> None:
    """`kill -9` of libvirtd, and its restart; the guests go on."""
    libvirtd.stop(signal.SIGKILL)
    libvirtd.start()


def record_of(client: Client, guest: Guest) -> BlockJob | None:
    """The guest's one record; None while the server cannot be asked."""
    with contextlib.suppress(VirError):
        [job] = client.list_block_jobs(BlockJobFilter(domain_uuid=guest.uuid), include_ended=True).jobs
        return job
    return None


@pytest.mark.oracle
@pytest.mark.parametrize("restart", [restart_ours, restart_theirs], ids=["our daemon", "libvirtd"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_daemon_dies_in_each_phase(
    libvirtd: PrivateLibvirtd,
    daemon: LiveDaemon,
    make_guest: MakeGuest,
    restart: Callable[[LiveDaemon, PrivateLibvirtd], None],
    phase: str,
) -> None:
    guest = make_guest()
    path, flags = copy_path(guest), PHASES[phase]
    with Client(daemon.target) as client:

        def is_in(*states: BlockJobState) -> bool:
            job = record_of(client, guest)
            return job is not None and job.state in states

        is_slow = phase == "running"
        bandwidth, slow = (1, BANDWIDTH_BYTES) if is_slow else (0, 0)
        client.block_rebase(guest.name, "vda", path, bandwidth, COPY | slow)
        until(lambda: is_in(BlockJobState.RUNNING if is_slow else BlockJobState.READY), phase)
        if flags is not None:
            client.block_job_abort(guest.name, "vda", flags)
        restart(daemon, libvirtd)
        if flags is None:

            def end() -> bool:
                with contextlib.suppress(VirError):
                    client.block_job_abort(guest.name, "vda", 0 if is_slow else PIVOT)
                return is_in(*FINAL)

            until(end, "an end after the restart")
        until(lambda: is_in(*FINAL), "the end is recorded")
        job = record_of(client, guest)
        assert job is not None
        if "libvirt lost the job" in job.reason:
            assert restart is restart_theirs
            return
        connection = libvirt.open(libvirtd.uri)
        names = [domain.name() for domain in connection.listAllDomains()]
        xml = connection.lookupByName(guest.name).XMLDesc() if guest.name in names else ""
        connection.close()
        if not xml:
            # Killed amid an end, libvirt 9.0 may lose the domain when it comes back.
            assert restart is restart_theirs
            return
        assert "<mirror" not in xml
        assert (job.state is BlockJobState.COMPLETED) == (f"<source file='{path}'" in xml), (job.state, job.reason)
        assert job.state is not BlockJobState.FAILED, job.reason
