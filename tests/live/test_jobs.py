# SPDX-License-Identifier: Apache-2.0
"""Block jobs of running domains: what libvirt does, and what our records say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import libvirt
import pytest
from live.guests import Guest
from live.hypervisor import PrivateLibvirtd
from live.stack import CALLER, Stack, selector, until

from virtblock.server.core.errors import VirError
from virtblock.server.core.events import EventLog
from virtblock.server.core.flags import BlockCommitFlags, BlockJobAbortFlags, BlockRebaseFlags
from virtblock.server.core.jobs import JobRegistry, Origin
from virtblock.server.core.model import BlockJobType, Domain, JobState
from virtblock.server.core.store import Store
from virtblock.server.drivers.libvirt.disk_xml import LiveDisk
from virtblock.server.drivers.libvirt.starting import JobRequest, new_record

MakeGuest = Callable[..., Guest]
COPY = int(BlockRebaseFlags.COPY)
PIVOT = int(BlockJobAbortFlags.PIVOT)


def begin_copy(stack: Stack, guest: Guest, flags: int = COPY) -> tuple[str, str]:
    """Starts a copy; (job id, destination)."""
    path = str(guest.images[0].parent / f"{guest.name}-copy.qcow2")
    return stack.blocks.block_rebase(CALLER, selector(guest.uuid), "vda", path, 0, flags).job_id, path


def test_a_copy_is_followed_to_its_pivot(stack: Stack, make_guest: MakeGuest) -> None:
    guest = make_guest(depth=2)
    job_id, path = begin_copy(stack, guest)
    stack.wait_for(job_id, JobState.READY)
    done = stack.blocks.block_job_abort(CALLER, selector(guest.uuid), "vda", PIVOT)
    assert done is not None
    assert (done.state, done.destination_path) == (JobState.COMPLETED, path)
    assert f"<source file='{path}'" in guest.domain.XMLDesc()
    assert stack.libvirt_events(guest.uuid) == [
        (8, str(guest.images[0]), 2, 3),
        (16, "vda", 2, 3),
        (8, path, 2, 0),
        (16, "vda", 2, 0),
    ]
    assert stack.states(guest.uuid)[:2] == [JobState.NEW, JobState.RUNNING]


def test_the_information_on_a_job_is_libvirts(stack: Stack, make_guest: MakeGuest) -> None:
    guest = make_guest()
    job_id, _ = begin_copy(stack, guest)
    stack.wait_for(job_id, JobState.READY)
    info = stack.blocks.get_block_job_info(CALLER, selector(guest.uuid), "vda", 0)
    assert info is not None
    assert asdict(info) == guest.domain.blockJobInfo("vda", 0)


def test_an_abort_is_canceled(stack: Stack, make_guest: MakeGuest) -> None:
    guest = make_guest()
    job_id, _ = begin_copy(stack, guest)
    stack.wait_for(job_id, JobState.READY)
    done = stack.blocks.block_job_abort(CALLER, selector(guest.uuid), "vda", 0)
    assert done is not None
    assert done.state is JobState.CANCELED
    assert stack.libvirt_events(guest.uuid)[-1] == (16, "vda", 2, 2)


def test_a_pull_and_a_commit_complete(stack: Stack, make_guest: MakeGuest) -> None:
    guest = make_guest(depth=3)
    pull = stack.blocks.block_pull(CALLER, selector(guest.uuid), "vda", 0, 0)
    stack.wait_for(pull.job_id, JobState.COMPLETED)
    assert stack.libvirt_events(guest.uuid) == [(8, str(guest.images[0]), 1, 0), (16, "vda", 1, 0)]
    other = make_guest(depth=2)
    flags = int(BlockCommitFlags.ACTIVE)
    commit = stack.blocks.block_commit(CALLER, selector(other.uuid), "vda", None, None, 0, flags)
    stack.wait_for(commit.job_id, JobState.READY)
    stack.blocks.block_job_abort(CALLER, selector(other.uuid), "vda", PIVOT)
    assert stack.jobs.get(commit.job_id).state is JobState.COMPLETED


def test_a_job_that_libvirt_refuses_leaves_no_record(stack: Stack, make_guest: MakeGuest) -> None:
    guest = make_guest()
    with pytest.raises(VirError) as ours:
        begin_copy(stack, guest, COPY | int(BlockRebaseFlags.RELATIVE))
    with pytest.raises(libvirt.libvirtError) as theirs:
        guest.domain.blockRebase("vda", str(guest.images[0].parent / "x"), 0, COPY | int(BlockRebaseFlags.RELATIVE))
    error = ours.value
    assert (
        error.number, error.domain, error.message, error.level,
        error.str1, error.str2, error.str3, error.int1, error.int2,
    ) == tuple(value if value is not None else "" for value in theirs.value.err)  # fmt: skip
    assert stack.states(guest.uuid) == []


def test_a_job_that_somebody_else_started_is_taken_up(stack: Stack, make_guest: MakeGuest) -> None:
    guest = make_guest()
    path = str(guest.images[0].parent / f"{guest.name}-virsh.qcow2")
    guest.domain.blockRebase("vda", path, 0, COPY)
    until(lambda: JobState.READY in stack.states(guest.uuid), "READY of a job that we did not start")
    guest.domain.blockJobAbort("vda", 0)
    until(lambda: stack.states(guest.uuid)[-1] is JobState.CANCELED, "its end")


@pytest.mark.parametrize("has_begun", [True, False], ids=["begun", "not begun"])
def test_a_start_whose_answer_was_lost_with_our_process(
    libvirtd: PrivateLibvirtd, make_guest: MakeGuest, tmp_path: Path, has_begun: bool
) -> None:
    """What libvirt has begun goes on as its caller knows it; of what it has not the record says so."""
    guest = make_guest()
    path = str(guest.images[0].parent / f"{guest.name}-copy.qcow2")
    job_id = prepared(tmp_path, libvirtd.uri, guest, path)
    if has_begun:
        guest.domain.blockRebase("vda", path, 0, COPY)
    stack = Stack(libvirtd.uri, tmp_path)
    try:
        if has_begun:
            stack.wait_for(job_id, JobState.READY)
            assert stack.blocks.block_job_abort(CALLER, selector(guest.uuid), "vda", 0) == stack.jobs.get(job_id)
            assert stack.jobs.get(job_id).state is JobState.CANCELED
        else:
            stack.wait_for(job_id, JobState.FAILED)
            assert "libvirt has no such job" in stack.jobs.get(job_id).reason
        assert (stack.jobs.get(job_id).principal, stack.jobs.get(job_id).request_id) == ("unix", "request-1")
    finally:
        stack.close()


def prepared(folder: Path, uri: str, guest: Guest, path: str) -> str:
    """What a process leaves that dies while libvirt works on a copy; the job's id."""
    store = Store(folder / "virtblock.db")
    domain = Domain(uri, guest.name, guest.uuid, guest.domain.ID(), is_active=True, state=1)
    disk = LiveDisk("vda", str(guest.images[0]), (str(guest.images[0]),), None, "qcow2")
    request = JobRequest(BlockJobType.COPY, COPY, 0, False, path, "qcow2")
    start = JobRegistry(store, EventLog(store)).prepare(
        new_record(domain, disk, request), Origin("unix", "request-1", "digest")
    )
    store.close()
    return start.job.job_id


def test_a_destroyed_domain_ends_its_jobs_in_our_view_only(stack: Stack, make_guest: MakeGuest) -> None:
    guest = make_guest()
    job_id, _ = begin_copy(stack, guest)
    stack.wait_for(job_id, JobState.READY)
    guest.domain.destroy()
    stack.wait_for(job_id, JobState.FAILED)
    assert stack.jobs.get(job_id).reason == "the domain was destroyed"
    assert [event[3] for event in stack.libvirt_events(guest.uuid)] == [3, 3]


def test_a_persistent_domain_is_taken_through_the_whole_dance(stack: Stack, make_guest: MakeGuest) -> None:
    guest = make_guest(is_persistent=True)
    path = str(guest.images[0].parent / f"{guest.name}-copy.qcow2")
    xml = f"<disk type='file'><driver type='qcow2'/><source file='{path}'/></disk>"
    job = stack.blocks.block_copy(CALLER, selector(guest.uuid), "vda", xml, [], 0, pivot_persistent=True)
    stack.wait_for(job.job_id, JobState.COMPLETED)
    assert stack.jobs.get(job.job_id).reason == ""
    for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
        assert f"<source file='{path}'" in guest.domain.XMLDesc(flags)


def test_a_definition_that_names_another_source_is_told(stack: Stack, make_guest: MakeGuest) -> None:
    guest = make_guest(is_persistent=True)
    folder = guest.images[0].parent
    xml = f"<disk type='file'><driver type='qcow2'/><source file='{folder}/{guest.name}-copy.qcow2'/></disk>"
    other = guest.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).replace(str(guest.images[0]), f"{folder}/other.qcow2")
    guest.domain.connect().defineXML(other)
    job = stack.blocks.block_copy(CALLER, selector(guest.uuid), "vda", xml, [], 0, pivot_persistent=True)
    stack.wait_for(job.job_id, JobState.COMPLETED)
    assert "names another source" in stack.jobs.get(job.job_id).reason


def test_a_snapshot_without_metadata_has_a_name_and_no_xml(stack: Stack, make_guest: MakeGuest) -> None:
    """libvirt keeps nothing of such a snapshot, and forgets even its XML."""
    guest = make_guest()
    xml = "<domainsnapshot><name>kept</name></domainsnapshot>"
    disk_only, no_metadata = (
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA,
    )
    made = stack.domains.snapshot_create_xml(CALLER, selector(guest.uuid), xml, disk_only | no_metadata)
    assert made == ("kept", "")
    assert f"{guest.images[0].with_suffix('')}.kept" in guest.domain.XMLDesc(0)
