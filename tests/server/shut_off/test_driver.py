# SPDX-License-Identifier: Apache-2.0
"""Shut-off domains of libvirt through the driver, over libvirt's own driver for tests, which needs no daemon."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest
from live.stack import CALLER, Stack, selector, until

from virtblock.engine import PathPolicy, create_image
from virtblock.server.core.connect_api import ConnectApi
from virtblock.server.core.connections import Connections
from virtblock.server.core.errors import VirError
from virtblock.server.core.events import EventLog
from virtblock.server.core.flags import BlockJobAbortFlags, BlockRebaseFlags
from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.model import JobState
from virtblock.server.core.store import Store
from virtblock.server.drivers.libvirt import LibvirtDriver
from virtblock.server.drivers.libvirt.shut_off import is_local
from virtblock.server.drivers.offline.copy_job import CopyJob

URI = "test:///default"
MIB = 1 << 20
NO_SUPPORT, INVALID_ARG, BLOCK_COPY_ACTIVE, OPERATION_FAILED = 3, 8, 83, 9
PIVOT = int(BlockJobAbortFlags.PIVOT)
INACTIVE, SECURE = 2, 1
_numbers = itertools.count(1)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """The core over the driver on `test:///default`, whose domains are this process's."""
    made = Stack(URI, tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def domain(tmp_path: Path) -> Iterator[libvirt.virDomain]:
    """A domain that is shut off, with a disk full of data."""
    name = f"shut-off-{next(_numbers)}"
    (tmp_path / "source.img").write_bytes(os.urandom(4 * MIB))
    made = libvirt.open(URI).defineXML(f"""<domain type='test'>
      <name>{name}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>
      <devices>
        <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{tmp_path}/source.img'/>
          <target dev='vda' bus='virtio'/></disk>
        <graphics type='vnc' passwd='secret'/>
      </devices></domain>""")
    yield made
    for end in (made.destroy, made.undefine):
        with suppress(libvirt.libvirtError):  # it may be shut off, and undefined by the test
            end()


def copy(stack: Stack, domain: libvirt.virDomain, path: Path, *, bytes_per_s: int = 0) -> str:
    """Begins a copy; the job's id."""
    flags = int(BlockRebaseFlags.COPY | BlockRebaseFlags.BANDWIDTH_BYTES)
    uuid = domain.UUIDString()
    return stack.blocks.block_rebase(CALLER, selector(uuid), "vda", str(path), bytes_per_s, flags).job_id


def definition(domain: libvirt.virDomain) -> str:
    """With what is secret in it."""
    return str(domain.XMLDesc(INACTIVE | SECURE))


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("qemu:///system", True),
        ("qemu+unix:///session?socket=/run/user/1/libvirt-sock", True),
        ("test:///default", True),
        ("qemu+ssh://root@host/system", False),
        ("qemu+tls://192.0.2.1/system", False),
        ("qemu+tls://[2001:db8::1]:16514/system?no_verify=1&x=///", False),
    ],
)
def test_only_a_hypervisor_on_this_host_has_its_images_here(uri: str, expected: bool) -> None:
    assert is_local(uri) is expected


def test_a_pivot_changes_the_source_and_nothing_else(stack: Stack, domain: libvirt.virDomain, tmp_path: Path) -> None:
    before = definition(domain)
    assert "passwd='secret'" in before
    job_id = copy(stack, domain, tmp_path / "copy.img")
    stack.wait_for(job_id, JobState.READY)
    uuid = domain.UUIDString()
    assert "ready='yes'" in stack.domains.get_xml_desc(CALLER, selector(uuid), 0)
    assert stack.domains.get_xml_desc(CALLER, selector(uuid), INACTIVE | SECURE) == before
    stack.blocks.block_job_abort(CALLER, selector(uuid), "vda", PIVOT)
    changed = before.replace("source.img", "copy.img")
    assert definition(domain).replace("      <backingStore/>\n", "") == changed
    assert stack.jobs.get(job_id).state is JobState.COMPLETED


def test_a_running_domain_is_libvirts(stack: Stack, domain: libvirt.virDomain, tmp_path: Path) -> None:
    domain.create()
    with pytest.raises(VirError) as caught:
        copy(stack, domain, tmp_path / "copy.img")
    assert caught.value.number == NO_SUPPORT  # the test driver has no block jobs
    assert not (tmp_path / "copy.img").exists()
    assert stack.states(domain.UUIDString()) == []


def test_a_domain_that_is_started_keeps_its_disk(stack: Stack, domain: libvirt.virDomain, tmp_path: Path) -> None:
    """The test driver starts nothing that would meet a lock."""
    job_id = copy(stack, domain, tmp_path / "copy.img")
    stack.wait_for(job_id, JobState.READY)
    before = definition(domain)
    domain.create()
    uuid = domain.UUIDString()
    with pytest.raises(VirError) as caught:
        stack.blocks.block_job_abort(CALLER, selector(uuid), "vda", PIVOT)
    assert caught.value.number == OPERATION_FAILED
    assert "domain is running" in caught.value.message
    assert definition(domain) == before
    info = stack.blocks.get_block_job_info(CALLER, selector(uuid), "vda", 0)
    assert info is not None
    assert info.cur == info.end
    stack.blocks.block_job_abort(CALLER, selector(uuid), "vda", 0)
    assert stack.jobs.get(job_id).state is JobState.CANCELED


def test_a_domain_that_goes_on_from_a_saved_state_is_left_alone(
    stack: Stack, domain: libvirt.virDomain, tmp_path: Path
) -> None:
    domain.create()
    domain.managedSave(0)
    with pytest.raises(VirError) as caught:
        copy(stack, domain, tmp_path / "copy.img")
    assert (caught.value.number, "managed save" in caught.value.message) == (55, True)
    domain.managedSaveRemove(0)


def test_a_domain_that_is_gone_takes_its_jobs_along(stack: Stack, domain: libvirt.virDomain, tmp_path: Path) -> None:
    job_id = copy(stack, domain, tmp_path / "copy.img", bytes_per_s=1)
    domain.undefine()
    stack.wait_for(job_id, JobState.CANCELED)
    assert stack.jobs.get(job_id).reason == "the domain was undefined"


def test_a_disk_that_is_gone_from_the_definition_can_still_be_aborted(
    stack: Stack, domain: libvirt.virDomain, tmp_path: Path
) -> None:
    job_id = copy(stack, domain, tmp_path / "copy.img", bytes_per_s=1)
    libvirt.open(URI).defineXML(definition(domain).replace("dev='vda'", "dev='vdb'"))
    uuid = domain.UUIDString()
    stack.blocks.block_job_abort(CALLER, selector(uuid), "vda", 0)
    assert stack.jobs.get(job_id).state is JobState.CANCELED
    with pytest.raises(VirError) as caught:
        stack.blocks.block_job_abort(CALLER, selector(uuid), "vda", 0)
    assert caught.value.number == INVALID_ARG


def test_what_the_engine_does_can_be_paused(stack: Stack, domain: libvirt.virDomain, tmp_path: Path) -> None:
    job_id = copy(stack, domain, tmp_path / "copy.img", bytes_per_s=1)
    stack.driver.block_job_pause(job_id)
    assert stack.jobs.get(job_id).paused
    stack.driver.block_job_resume(job_id)
    assert len(stack.driver.block_job_map(job_id, 4)) == 4
    with pytest.raises(VirError) as caught:
        stack.driver.block_job_pause("vb-00000000000000000000000000")
    assert caught.value.number == NO_SUPPORT


def test_a_domain_that_went_while_the_server_was_down_takes_its_jobs_along(
    domain: libvirt.virDomain, tmp_path: Path
) -> None:
    first = Stack(URI, tmp_path / "state")
    job_id = copy(first, domain, tmp_path / "copy.img", bytes_per_s=1)
    first.close()
    domain.undefine()
    second = Stack(URI, tmp_path / "state")
    second.wait_for(job_id, JobState.CANCELED)
    second.close()


def test_a_job_that_cannot_be_taken_up_fails_alone(
    domain: libvirt.virDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Stack(URI, tmp_path / "state")
    job_id = copy(first, domain, tmp_path / "copy.img", bytes_per_s=1)
    first.close()
    with monkeypatch.context() as patched:
        patched.setattr(CopyJob, "start", None)
        second = Stack(URI, tmp_path / "state")
    assert second.jobs.get(job_id).state is JobState.FAILED
    assert second.driver.is_alive()
    second.close()


def test_bitmaps_of_a_domain_that_nobody_runs(stack: Stack, domain: libvirt.virDomain, tmp_path: Path) -> None:
    create_image(str(tmp_path / "source.qcow2"), "qcow2", MIB, PathPolicy())
    libvirt.open(URI).defineXML(
        definition(domain).replace("source.img", "source.qcow2").replace("type='raw'", "type='qcow2'")
    )
    found = stack.driver.domain_lookup_by_uuid(domain.UUIDString())
    stack.driver.add_block_bitmap(found, "vda", "daily", 65536, True)
    assert [bitmap.name for bitmap in stack.driver.list_block_bitmaps(found, "vda")] == ["daily"]
    stack.driver.clear_block_bitmap(found, "vda", "daily")
    domain.create()
    running = stack.driver.domain_lookup_by_uuid(domain.UUIDString())
    with pytest.raises(VirError) as caught:
        stack.driver.remove_block_bitmap(running, "vda", "daily")
    assert (caught.value.number, "domain is running" in caught.value.message) == (55, True)
    domain.destroy()
    stack.driver.remove_block_bitmap(found, "vda", "daily")
    assert stack.driver.list_block_bitmaps(found, "vda") == []


def test_a_hypervisor_elsewhere_is_asked_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "virtblock.db")
    events = EventLog(store)
    driver = LibvirtDriver("qemu+ssh://host.invalid/system", store, JobRegistry(store, events), events)
    offered = ConnectApi(Connections([driver])).describe_connection("")
    assert "offline-copy" not in offered.features
    assert not {"block_job_pause", "block_job_map", "add_block_bitmap"} & set(offered.methods)
    store.close()


def test_undefining_through_the_server_waits_for_the_jobs(
    stack: Stack, domain: libvirt.virDomain, tmp_path: Path
) -> None:
    job_id = copy(stack, domain, tmp_path / "copy.img", bytes_per_s=1)
    uuid = domain.UUIDString()
    with pytest.raises(VirError) as caught:
        stack.domains.undefine(CALLER, selector(uuid), 0)
    assert caught.value.number == BLOCK_COPY_ACTIVE
    stack.blocks.block_job_abort(CALLER, selector(uuid), "vda", 0)
    until(lambda: stack.jobs.get(job_id).state.is_final, "the job has ended")
    stack.domains.undefine(CALLER, selector(uuid), 0)
