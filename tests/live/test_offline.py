# SPDX-License-Identifier: Apache-2.0
"""Block jobs on libvirt's domains that are shut off: the engine does them, and libvirt starts what they leave."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest
from live.daemon import LiveDaemon
from live.guests import Guest
from live.hypervisor import PrivateLibvirtd, content
from live.stack import CALLER, Stack, selector, until

from virtblock.client import BlockJobState, Client
from virtblock.server.core.connect_api import ConnectApi
from virtblock.server.core.connections import Connections
from virtblock.server.core.errors import ConnectionLost, ErrorNumber, VirError
from virtblock.server.core.flags import (
    BlockCommitFlags,
    BlockCopyFlags,
    BlockJobAbortFlags,
    BlockJobSetSpeedFlags,
    BlockRebaseFlags,
)
from virtblock.server.core.model import JobState, ParameterType, TypedParameter
from virtblock.server.drivers.offline.copy_job import CopyJob

MakeGuest = Callable[..., Guest]

COPY = int(BlockRebaseFlags.COPY)
SHALLOW = int(BlockRebaseFlags.SHALLOW)
BANDWIDTH_BYTES = int(BlockRebaseFlags.BANDWIDTH_BYTES)
PIVOT = int(BlockJobAbortFlags.PIVOT)
INACTIVE, SECURE = libvirt.VIR_DOMAIN_XML_INACTIVE, libvirt.VIR_DOMAIN_XML_SECURE
# What a caller writes into a definition that must be there afterwards as it was.
GRAPHICS = "<graphics type='vnc' port='-1' autoport='yes' passwd='secret'/>"
METADATA = "<metadata><app:note xmlns:app='urn:app' text='a &lt; b'>It&apos;s &amp; it was</app:note></metadata>"


@pytest.fixture
def guest(make_guest: MakeGuest) -> Iterator[Guest]:
    """A guest with a chain of two images, which is shut off."""
    made = make_guest(depth=2, is_running=False)
    yield made
    stop(made)


def stop(guest: Guest) -> None:
    """Pulls its plug if it has one."""
    with suppress(libvirt.libvirtError):
        guest.domain.destroy()


def path_of(guest: Guest, name: str = "copy") -> Path:
    """A file beside its images."""
    return guest.images[0].parent / f"{guest.name}-{name}.qcow2"


def definition(guest: Guest) -> str:
    """What libvirt has, passwords included."""
    return str(guest.domain.XMLDesc(INACTIVE | SECURE))


def redefine(guest: Guest, change: Callable[[str], str]) -> None:
    """Somebody else changes the definition, behind our back."""
    guest.domain.connect().defineXML(change(definition(guest)))


def begin_copy(stack: Stack, guest: Guest, flags: int = 0, *, bytes_per_s: int = 0) -> str:
    """Starts a copy; the job's id."""
    flags |= COPY | BANDWIDTH_BYTES
    path = str(path_of(guest))
    return stack.blocks.block_rebase(CALLER, selector(guest.uuid), "vda", path, bytes_per_s, flags).job_id


def copy_until_ready(stack: Stack, guest: Guest, flags: int = 0) -> str:
    """A copy that can be pivoted."""
    job_id = begin_copy(stack, guest, flags)
    stack.wait_for(job_id, JobState.READY)
    return job_id


def held_copy(stack: Stack, guest: Guest) -> str:
    """A copy that cannot end by itself."""
    job_id = begin_copy(stack, guest, bytes_per_s=1)
    stack.wait_for(job_id, JobState.RUNNING)
    return job_id


def release(stack: Stack, guest: Guest, job_id: str) -> None:
    """Lets a held copy go on to READY."""
    flags = int(BlockJobSetSpeedFlags.BANDWIDTH_BYTES)
    stack.blocks.block_job_set_speed(CALLER, selector(guest.uuid), "vda", 0, flags)
    stack.wait_for(job_id, JobState.READY)


def end(stack: Stack, guest: Guest, flags: int = 0) -> None:
    """BlockJobAbort."""
    stack.blocks.block_job_abort(CALLER, selector(guest.uuid), "vda", flags)


def refused(call: Callable[[], object]) -> VirError:
    """The error of a call that must fail."""
    with pytest.raises(VirError) as caught:
        call()
    return caught.value


def image_info(path: Path) -> dict[str, str]:
    """What qemu-img says of an image."""
    output = subprocess.run(["qemu-img", "info", "-U", "--output=json", str(path)], check=True, capture_output=True)
    found: dict[str, str] = json.loads(output.stdout)
    return found


def add_details(guest: Guest) -> None:
    """Fills the definition with what a rewriting could lose."""
    redefine(
        guest,
        lambda xml: (
            xml.replace("</devices>", f"{GRAPHICS}</devices>")
            .replace("<memory ", f"{METADATA}<memory ", 1)
            .replace("type='qcow2'/>", "type='qcow2' cache='none' discard='unmap'/>", 1)
            .replace("<target dev=", "<serial>WD-WMAP9A966149</serial><boot order='1'/><target dev=", 1)
            .replace("<boot dev='hd'/>", "")
        ),
    )


def test_a_copy_is_pivoted_and_the_domain_starts_on_it(stack: Stack, guest: Guest) -> None:
    add_details(guest)
    guest.images[0].chmod(0o640)
    before, data, source = definition(guest), content(guest.images[0]), guest.images[0].stat()
    copy_until_ready(stack, guest)
    assert definition(guest) == before
    end(stack, guest, PIVOT)
    path = path_of(guest)
    assert "passwd='secret'" in before
    old = f"<source file='{guest.images[0]}'/>"
    assert before.count(old) == 1
    assert definition(guest).replace("      <backingStore/>\n", "") == before.replace(old, f"<source file='{path}'/>")
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode) == (source.st_uid, source.st_gid, source.st_mode)
    assert stack.libvirt_events(guest.uuid) == [
        (8, str(guest.images[0]), 2, 3),
        (16, "vda", 2, 3),
        (8, str(path), 2, 0),
        (16, "vda", 2, 0),
    ]
    guest.domain.create()
    assert content(path) == data
    assert guest.images[0].exists()


def test_another_format_and_a_shallow_copy_keep_their_chains(stack: Stack, guest: Guest) -> None:
    copy_until_ready(stack, guest, SHALLOW)
    end(stack, guest, PIVOT)
    assert image_info(path_of(guest))["full-backing-filename"] == str(guest.images[1])
    xml = f"<disk type='file'><driver type='raw'/><source file='{path_of(guest, 'raw')}'/></disk>"
    job = stack.blocks.block_copy(CALLER, selector(guest.uuid), "vda", xml, [], 0, pivot_persistent=True)
    stack.wait_for(job.job_id, JobState.COMPLETED)
    assert "<driver name='qemu' type='raw'/>" in definition(guest)
    data = content(guest.images[0])
    assert path_of(guest, "raw").read_bytes() == data
    guest.domain.create()


def test_a_recorded_chain_is_what_is_copied_and_follows(stack: Stack, guest: Guest) -> None:
    """The format of the image below stands in the definition alone."""
    top, base = guest.images
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", str(base), "-F", "raw", str(top)], check=True)
    chain = f"<backingStore type='file'><format type='qcow2'/><source file='{base}'/><backingStore/></backingStore>"
    redefine(guest, lambda xml: xml.replace("<target dev=", f"{chain}<target dev=", 1))
    copy_until_ready(stack, guest)
    end(stack, guest, PIVOT)
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(top)], check=True)
    assert content(path_of(guest)) == content(top)
    assert str(base) not in definition(guest)


def test_an_abort_leaves_everything_as_it_was(stack: Stack, guest: Guest) -> None:
    before = definition(guest)
    job_id = held_copy(stack, guest)
    info = stack.blocks.get_block_job_info(CALLER, selector(guest.uuid), "vda", 1)
    assert info is not None
    assert (info.type, info.bandwidth) == (2, 1)
    assert info.cur < info.end
    assert refused(lambda: end(stack, guest, PIVOT)).number == 83
    end(stack, guest)
    assert stack.jobs.get(job_id).state is JobState.CANCELED
    assert definition(guest) == before
    assert not path_of(guest).exists() or path_of(guest).stat().st_size == 0
    assert stack.blocks.get_block_job_info(CALLER, selector(guest.uuid), "vda", 0) is None
    guest.domain.create()


def test_a_pull_and_the_commits(stack: Stack, make_guest: MakeGuest) -> None:
    pulled = make_guest(depth=3, is_running=False)
    data = content(pulled.images[0])
    job = stack.blocks.block_pull(CALLER, selector(pulled.uuid), "vda", 0, 0)
    stack.wait_for(job.job_id, JobState.COMPLETED)
    assert "full-backing-filename" not in image_info(pulled.images[0])
    assert content(pulled.images[0]) == data
    assert stack.libvirt_events(pulled.uuid) == [(8, str(pulled.images[0]), 1, 0), (16, "vda", 1, 0)]

    committed = make_guest(depth=3, is_running=False)
    top, middle, base = committed.images
    data = content(top)
    images = (("qcow2", middle), ("qcow2", base))
    opened = [f"<backingStore type='file'><format type='{kind}'/><source file='{path}'/>" for kind, path in images]
    chain = "".join(opened) + "<backingStore/>" + "</backingStore>" * len(images)
    redefine(committed, lambda xml: xml.replace("<target dev=", f"{chain}<target dev=", 1))
    flags = int(BlockCommitFlags.DELETE)
    job = stack.blocks.block_commit(CALLER, selector(committed.uuid), "vda", None, str(middle), 0, flags)
    stack.wait_for(job.job_id, JobState.COMPLETED)
    assert str(middle) not in definition(committed)
    assert str(base) in definition(committed)
    until(lambda: not middle.exists(), "the committed image is removed")
    assert content(top) == data

    flags = int(BlockCommitFlags.ACTIVE)
    job = stack.blocks.block_commit(CALLER, selector(committed.uuid), "vda", None, None, 0, flags)
    stack.wait_for(job.job_id, JobState.READY)
    end(stack, committed, PIVOT)
    assert f"<source file='{base}'/>" in definition(committed)
    assert str(top) not in definition(committed)
    assert content(base) == data
    committed.domain.create()
    stop(committed)


GUARDED: dict[str, Callable[[Stack, Guest], object]] = {
    "create": lambda stack, guest: stack.domains.create(CALLER, selector(guest.uuid), 0),
    "create again": lambda stack, guest: api(stack).domain_create_xml(CALLER, "", definition(guest), 0),
    "undefine": lambda stack, guest: stack.domains.undefine(CALLER, selector(guest.uuid), 0),
    "save": lambda stack, guest: stack.domains.save(CALLER, selector(guest.uuid), "/nowhere"),
    "managed save": lambda stack, guest: stack.domains.managed_save(CALLER, selector(guest.uuid), 0),
    "resize": lambda stack, guest: stack.domains.block_resize(CALLER, selector(guest.uuid), "vda", 1 << 20, 0),
    "snapshot": lambda stack, guest: stack.domains.snapshot_create_xml(
        CALLER, selector(guest.uuid), "<domainsnapshot/>", 16
    ),
    "revert": lambda stack, guest: stack.domains.revert_to_snapshot(CALLER, selector(guest.uuid), "before", 0),
    "detach": lambda stack, guest: stack.domains.detach_device_flags(
        CALLER,
        selector(guest.uuid),
        f"<disk type='file'><source file='{guest.images[0]}'/><target dev='vda'/></disk>",
        2,
    ),
    "define with another disk": lambda stack, guest: api(stack).domain_define_xml(
        CALLER, "", definition(guest).replace(str(guest.images[0]), str(guest.images[1])), 0
    ),
    "define without the disk": lambda stack, guest: api(stack).domain_define_xml(
        CALLER, "", definition(guest).replace("dev='vda'", "dev='vdb'"), 0
    ),
}


def api(stack: Stack) -> ConnectApi:
    """The calls of virConnect."""
    return ConnectApi(Connections([stack.driver]))


def test_what_would_harm_a_job_is_refused(stack: Stack, guest: Guest) -> None:
    before = definition(guest)
    job_id = held_copy(stack, guest)
    for name, call in GUARDED.items():
        error = refused(lambda call=call: call(stack, guest))  # type: ignore[misc]
        assert (name, error.number, error.message) == (
            name,
            83,
            "block copy still active: domain has active block copy job",
        )
    error = refused(lambda: begin_copy(stack, guest))
    assert (error.number, error.message) == (83, "block copy still active: disk 'vda' already in active block job")
    assert definition(guest) == before
    # What leaves the disk alone is libvirt's.
    titled = before.replace("<memory ", "<title>kept</title><memory ", 1)
    api(stack).domain_define_xml(CALLER, "", titled, 0)
    assert stack.jobs.get(job_id).state is JobState.RUNNING
    end(stack, guest)
    stack.domains.undefine(CALLER, selector(guest.uuid), 0)


def test_whoever_starts_the_domain_meets_the_lock(stack: Stack, guest: Guest, libvirtd: PrivateLibvirtd) -> None:
    data = content(guest.images[0])
    job_id = held_copy(stack, guest)
    with pytest.raises(libvirt.libvirtError):
        guest.domain.create()
    said = (libvirtd.folder / f"cache/libvirt/qemu/log/{guest.name}.log").read_text(errors="replace")
    assert "lock" in said
    assert not guest.domain.isActive()
    release(stack, guest, job_id)
    with pytest.raises(libvirt.libvirtError):
        guest.domain.create()
    end(stack, guest, PIVOT)
    assert content(path_of(guest)) == data
    guest.domain.create()


def test_a_pivot_keeps_what_somebody_changed_meanwhile(stack: Stack, guest: Guest) -> None:
    copy_until_ready(stack, guest)
    redefine(guest, lambda xml: xml.replace("<memory ", "<title>new</title><memory ", 1))
    end(stack, guest, PIVOT)
    assert "<title>new</title>" in definition(guest)
    assert str(path_of(guest)) in definition(guest)


def test_a_disk_that_names_another_image_is_left_alone(stack: Stack, guest: Guest) -> None:
    job_id = copy_until_ready(stack, guest)
    here, there = str(guest.images[0]), str(guest.images[1])
    redefine(guest, lambda xml: xml.replace(here, there))
    changed = definition(guest)
    error = refused(lambda: end(stack, guest, PIVOT))
    assert error.number == 9
    assert f"names '{there}' for disk 'vda' and not '{here}'" in error.message
    assert definition(guest) == changed
    assert stack.jobs.get(job_id).state is JobState.READY
    redefine(guest, lambda xml: xml.replace(there, here))
    end(stack, guest, PIVOT)
    assert stack.jobs.get(job_id).state is JobState.COMPLETED


def test_a_domain_that_is_undefined_takes_its_jobs_along(stack: Stack, guest: Guest) -> None:
    job_id = held_copy(stack, guest)
    guest.domain.undefine()
    stack.wait_for(job_id, JobState.CANCELED)
    assert stack.jobs.get(job_id).reason == "the domain was undefined"


def test_a_read_only_disk_of_a_domain_that_runs_is_not_pivoted(stack: Stack, guest: Guest) -> None:
    """Nothing stops a start: two may read. The running domain would go on with the old image."""
    redefine(guest, lambda xml: xml.replace("<target dev=", "<readonly/><target dev=", 1))
    job_id = copy_until_ready(stack, guest)
    guest.domain.create()
    error = refused(lambda: end(stack, guest, PIVOT))
    assert (error.number, "domain is running" in error.message) == (9, True)
    stop(guest)
    end(stack, guest, PIVOT)
    assert stack.jobs.get(job_id).state is JobState.COMPLETED


def test_a_copy_begins_as_soon_as_the_domain_is_stopped(stack: Stack, guest: Guest) -> None:
    """The hypervisor's own job is gone with it, though nobody may have told yet."""
    guest.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    xml = f"<disk type='file'><source file='{path_of(guest, 'live')}'/></disk>"
    slow = [TypedParameter("bandwidth", ParameterType.ULLONG, 1)]
    flags = int(BlockCopyFlags.TRANSIENT_JOB)
    live = stack.blocks.block_copy(CALLER, selector(guest.uuid), "vda", xml, slow, flags)
    guest.domain.destroy()
    copy_until_ready(stack, guest)
    assert stack.jobs.get(live.job_id).reason == "the domain was destroyed"
    end(stack, guest)


def test_jobs_are_parked_and_go_on(guest: Guest, libvirtd: PrivateLibvirtd, tmp_path: Path) -> None:
    first = Stack(libvirtd.uri, tmp_path / "state")
    job_id = held_copy(first, guest)
    first.close()
    second = Stack(libvirtd.uri, tmp_path / "state")
    release(second, guest, job_id)
    second.close()
    third = Stack(libvirtd.uri, tmp_path / "state")
    end(third, guest, PIVOT)
    third.close()
    assert content(path_of(guest)) == content(guest.images[0])
    assert str(path_of(guest)) in definition(guest)


def test_a_pivot_is_finished_once_by_the_next_process(
    guest: Guest, libvirtd: PrivateLibvirtd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first dies between the definition and its own record; then the domain writes to its new disk."""
    first = Stack(libvirtd.uri, tmp_path / "state")
    job_id = copy_until_ready(first, guest)
    with monkeypatch.context() as patched:
        patched.setattr(CopyJob, "complete", die)
        end(first, guest, PIVOT | int(BlockJobAbortFlags.ASYNC))
        until(lambda: str(path_of(guest)) in definition(guest), "the definition names the copy")
        assert first.jobs.get(job_id).state is JobState.PIVOTING
        first.close()
    guest.domain.create()
    second = Stack(libvirtd.uri, tmp_path / "state")
    assert second.jobs.get(job_id).state is JobState.COMPLETED
    second.close()


def die(_job: CopyJob, _domain_xml: str | None) -> None:
    """Nothing is recorded any more."""
    raise ConnectionLost(ErrorNumber.RPC, "the process ends here")


def test_a_job_survives_libvirts_daemon(stack: Stack, guest: Guest, libvirtd: PrivateLibvirtd) -> None:
    job_id = held_copy(stack, guest)
    libvirtd.stop()
    libvirtd.start()
    guest.domain = libvirt.open(libvirtd.uri).lookupByUUIDString(guest.uuid)
    until(lambda: can_be_asked(stack, guest), "the connection is open again")
    release(stack, guest, job_id)
    end(stack, guest, PIVOT)
    assert str(path_of(guest)) in definition(guest)


def can_be_asked(stack: Stack, guest: Guest) -> bool:
    """Whether the driver has noticed that its old connection is gone, and has a new one."""
    with suppress(VirError):
        stack.domains.get_state(CALLER, selector(guest.uuid), 0)
        return True
    return False


def test_a_killed_daemon_goes_on(guest: Guest, libvirtd: PrivateLibvirtd, tmp_path: Path) -> None:
    data = content(guest.images[0])
    daemon = LiveDaemon(libvirtd.uri, tmp_path, "--allow-path", str(libvirtd.images))
    try:
        with Client(daemon.target) as client:
            flags = COPY | BANDWIDTH_BYTES
            job_id = client.block_rebase(guest.name, "vda", str(path_of(guest)), 1, flags).job_id
        daemon.kill()
        daemon.start()
        with Client(daemon.target) as client:
            assert client.get_block_job(job_id).state is BlockJobState.RUNNING
            client.block_job_set_speed(guest.name, "vda", 0)
            until(lambda: client.get_block_job(job_id).state is BlockJobState.READY, "READY after kill -9")
        daemon.kill()
        daemon.start()
        with Client(daemon.target) as client:
            client.block_job_abort(guest.name, "vda", PIVOT)
            assert client.get_block_job(job_id).state is BlockJobState.COMPLETED
            assert "offline-copy" in client.get_capabilities().connection.features
    finally:
        daemon.close()
    assert str(path_of(guest)) in definition(guest)
    assert content(path_of(guest)) == data
    assert path_of(guest).stat().st_uid == guest.images[0].stat().st_uid
    guest.domain.create()


def test_strict_is_libvirts_own_answer(guest: Guest, libvirtd: PrivateLibvirtd, tmp_path: Path) -> None:
    stack = Stack(libvirtd.uri, tmp_path / "state", strict_libvirt=True)
    calls: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: begin_copy(stack, guest), lambda: guest.domain.blockRebase("vda", "/x", 0, COPY)),
        (
            lambda: stack.blocks.block_pull(CALLER, selector(guest.uuid), "vda", 0, 0),
            lambda: guest.domain.blockPull("vda", 0, 0),
        ),
        (
            lambda: stack.blocks.block_commit(CALLER, selector(guest.uuid), "vda", None, None, 0, 4),
            lambda: guest.domain.blockCommit("vda", None, None, 0, 4),
        ),
        (lambda: end(stack, guest), lambda: guest.domain.blockJobAbort("vda", 0)),
        (
            lambda: stack.blocks.get_block_job_info(CALLER, selector(guest.uuid), "vda", 0),
            lambda: guest.domain.blockJobInfo("vda", 0),
        ),
    ]
    for ours, theirs in calls:
        error = refused(ours)
        with pytest.raises(libvirt.libvirtError) as raised:
            theirs()
        assert (error.number, error.domain, error.message) == raised.value.err[:3]
    assert "offline-copy" not in stack.driver.engine_features()
    assert "block_job_pause" not in api(stack).describe_connection("").methods
    stack.close()


def test_only_allowed_folders_are_touched(guest: Guest, libvirtd: PrivateLibvirtd, tmp_path: Path) -> None:
    stack = Stack(libvirtd.uri, tmp_path / "state", allow_path=[libvirtd.images])
    outside = tmp_path / "outside.qcow2"
    call = lambda: stack.blocks.block_rebase(CALLER, selector(guest.uuid), "vda", str(outside), 0, COPY)  # noqa: E731
    assert refused(call).number == 88
    assert not outside.exists()
    copy_until_ready(stack, guest)
    end(stack, guest)
    stack.close()
    elsewhere = Stack(libvirtd.uri, tmp_path / "other", allow_path=[tmp_path])
    assert refused(lambda: begin_copy(elsewhere, guest)).number == 88
    elsewhere.close()


def test_what_only_a_hypervisor_can_read_is_refused(stack: Stack, guest: Guest) -> None:
    secret = (
        "<encryption format='luks'><secret type='passphrase' uuid='3d13ad12-bfbf-4ed0-a86f-b3ac79a3f533'/></encryption>"
    )
    redefine(guest, lambda xml: xml.replace(f"{guest.images[0]}'/>", f"{guest.images[0]}'>{secret}</source>"))
    error = refused(lambda: begin_copy(stack, guest))
    assert (error.number, "<encryption>" in error.message) == (84, True)
    assert not path_of(guest).exists()
