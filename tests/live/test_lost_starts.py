# SPDX-License-Identifier: Apache-2.0
"""A job that libvirt begins while nobody can be told: the connection is lost, or just being opened."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live.guests import Guest
from live.hypervisor import PrivateLibvirtd
from live.stack import CALLER, Stack, selector, until

from virtblock.server.core.errors import ConnectionLost, ErrorNumber, VirError
from virtblock.server.core.flags import BlockRebaseFlags
from virtblock.server.core.jobs import JobFilter, Origin
from virtblock.server.core.model import BlockJob, BlockJobType, JobState
from virtblock.server.drivers.libvirt import binding, following
from virtblock.server.drivers.libvirt.starting import JobRequest

COPY = int(BlockRebaseFlags.COPY)


@contextmanager
def stopped_qemu(libvirtd: PrivateLibvirtd, guest: Guest) -> Iterator[None]:
    """What libvirt asks of this guest's QEMU waits."""
    pid = libvirtd.qemu_pid(guest.name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def copy_path(guest: Guest) -> Path:
    """The destination; libvirt makes the file before it asks QEMU."""
    return guest.images[0].parent / f"{guest.name}-copy.qcow2"


def jobs_of(stack: Stack, guest: Guest) -> list[BlockJob]:
    """The guest's records."""
    return stack.jobs.list_jobs(JobFilter(domain_uuid=guest.uuid))[0]


@pytest.mark.slow
def test_a_start_whose_answer_was_lost_with_the_connection(
    libvirtd: PrivateLibvirtd,
    make_guest: Callable[..., Guest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libvirt goes on with it: the record is that of its caller, and the call that comes again gets the job."""
    monkeypatch.setattr(binding, "KEEP_ALIVE_INTERVAL_S", 1)
    monkeypatch.setattr(binding, "KEEP_ALIVE_COUNT", 2)
    guest = make_guest()
    stack = Stack(libvirtd.uri, tmp_path)
    failures: list[VirError] = []

    def start() -> BlockJob:
        path = str(copy_path(guest))
        return stack.blocks.block_rebase(CALLER, selector(guest.uuid), "vda", path, 0, COPY, "request-1")

    def start_and_fail() -> None:
        try:
            start()
        except VirError as error:
            failures.append(error)

    try:
        with stopped_qemu(libvirtd, guest):
            caller = threading.Thread(target=start_and_fail)
            caller.start()
            until(copy_path(guest).exists, "libvirt works on the copy")
            libvirtd.send(signal.SIGSTOP)
            caller.join()
            libvirtd.send(signal.SIGCONT)
        assert isinstance(failures[0], ConnectionLost)
        until(lambda: bool(jobs_of(stack, guest)), "the record of the job")
        [job] = jobs_of(stack, guest)
        assert (job.request_id, job.destination_path) == ("request-1", str(copy_path(guest)))
        stack.wait_for(job.job_id, JobState.READY)
        assert start().job_id == job.job_id
        assert stack.states(guest.uuid)[0] is JobState.NEW
    finally:
        stack.close()


@pytest.mark.parametrize("is_repeated", [True, False], ids=["repeated", "looked for"])
def test_a_start_that_libvirt_did_not_begin_is_nobodys_job(
    stack: Stack, make_guest: Callable[..., Guest], is_repeated: bool
) -> None:
    """Neither once the same request has begun another job, nor once libvirt was asked for the jobs that it has."""
    guest = make_guest()
    path = str(copy_path(guest))
    follower, domain = stack.driver._follower, stack.driver.domain_lookup_by_uuid(guest.uuid)
    request = JobRequest(BlockJobType.COPY, COPY, 0, False, path, "qcow2")

    def begin(call: Callable[[Any], object]) -> str:
        return follower.begin(domain, "vda", request, Origin("unix", "request-1", "digest"), call)

    def lose(found: Any) -> None:
        raise ConnectionLost(ErrorNumber.INTERNAL_ERROR, "client socket is closed")

    with pytest.raises(ConnectionLost):
        begin(lose)
    if is_repeated:
        job_id = begin(lambda found: found.blockRebase("vda", path, 0, COPY))
        stack.wait_for(job_id, JobState.READY)
        stack.blocks.block_job_abort(CALLER, selector(guest.uuid), "vda", 0)
    else:
        follower.take_up()
    copy_path(guest).unlink(missing_ok=True)
    guest.domain.blockRebase("vda", path, 0, COPY)
    until(lambda: any(job.state is JobState.READY for job in jobs_of(stack, guest)), "READY of somebody else's job")
    job = jobs_of(stack, guest)[0]
    assert (job.request_id, job.destination_path) == ("", path)


def test_a_start_that_was_never_asked_for_leaves_no_record(
    libvirtd: PrivateLibvirtd, make_guest: Callable[..., Guest], tmp_path: Path
) -> None:
    guest = make_guest()
    stack = Stack(libvirtd.uri, tmp_path)
    try:
        driver = stack.driver
        domain = driver.domain_lookup_by_uuid(guest.uuid)
        libvirtd.stop(signal.SIGKILL)
        until(lambda: not driver.is_alive(), "the loss is noticed")
        with pytest.raises(ConnectionLost):
            driver.domain_block_rebase(domain, "vda", str(copy_path(guest)), 0, COPY, Origin())
        libvirtd.start()
        until(driver.is_alive, "a new connection")
        assert jobs_of(stack, guest) == []
    finally:
        stack.close()


def test_a_job_that_is_being_begun_is_taken_up_with_its_destination(
    libvirtd: PrivateLibvirtd, make_guest: Callable[..., Guest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt's XML has no mirror until QEMU has the job."""
    monkeypatch.setattr(following, "TAKE_UP_WAIT_S", 0.5)
    guest = make_guest()
    with stopped_qemu(libvirtd, guest):
        somebody = threading.Thread(target=guest.domain.blockRebase, args=("vda", str(copy_path(guest)), 0, COPY))
        somebody.start()
        until(copy_path(guest).exists, "libvirt works on the copy")
        stack = Stack(libvirtd.uri, tmp_path)
    try:
        somebody.join()
        until(lambda: JobState.READY in stack.states(guest.uuid), "READY of a job that we did not start")
        [job] = jobs_of(stack, guest)
        assert job.destination_path == str(copy_path(guest))
    finally:
        stack.close()
