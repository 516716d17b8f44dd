# SPDX-License-Identifier: Apache-2.0
"""What is refused while a copy runs, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import House, disk_xml, domain_xml

from virtblock.server.core.errors import VirError
from virtblock.server.core.model import Domain

MIB = 1024 * 1024
BUSY = (83, 10, "block copy still active: domain has active block copy job")
SNAPSHOT = "<domainsnapshot><name>s</name><disks>{}</disks></domainsnapshot>"
DISK_ONLY, NO_METADATA = 16, 4


@pytest.fixture
def other(make_image: Callable[..., Path], tmp_path: Path) -> Any:
    return make_image(tmp_path / "other.qcow2", "qcow2", MIB)


@pytest.fixture
def domain(house: House, make_chain: Any, other: Any, tmp_path: Path) -> Any:
    """vda is being copied, vdb is idle."""
    domain = house.define(disk_xml(make_chain().top), disk_xml(other, target="vdb"))
    house.rebase(domain, tmp_path / "copy.qcow2", is_held=True)
    return domain


def redefinition(house: House, domain: Domain, old: Any, new: Any) -> Any:
    return house.xml(domain, 2).replace(old, new)


def answer(call: Any, *arguments: Any) -> Any:
    """What a call says; nothing when it works."""
    try:
        call(*arguments)
    except VirError as error:
        return error.message
    return ""


REFUSED = {
    "create": lambda house, domain: house.driver.domain_create(domain, 0),
    "undefine": lambda house, domain: house.driver.domain_undefine(domain, 0),
    "save": lambda house, domain: house.driver.domain_save(domain, "/s", None, 0),
    "managed save": lambda house, domain: house.driver.domain_managed_save(domain, 0),
    "revert": lambda house, domain: house.driver.domain_revert_to_snapshot(domain, "s", 0),
    "detach": lambda house, domain: house.driver.domain_detach_device(domain, disk_xml("/x"), 2),
    "resize": lambda house, domain: house.driver.domain_block_resize(domain, "vda", 64 * MIB, 1),
    "snapshot of all": lambda house, domain: house.driver.domain_snapshot_create_xml(
        domain, "<domainsnapshot/>", DISK_ONLY
    ),
    "snapshot of it": lambda house, domain: house.driver.domain_snapshot_create_xml(
        domain, SNAPSHOT.format("<disk name='vda'/><disk name='vdb' snapshot='no'/>"), DISK_ONLY
    ),
    "other source": lambda house, domain: house.driver.domain_define_xml(
        redefinition(house, domain, "snap2.qcow2", "snap1.qcow2"), 0
    ),
    "other format": lambda house, domain: house.driver.domain_define_xml(
        redefinition(house, domain, "type='qcow2'", "type='raw'"), 0
    ),
    "disk dropped": lambda house, domain: house.driver.domain_define_xml(domain_xml(), 0),
}


@pytest.mark.parametrize("operation", REFUSED)
@pytest.mark.parametrize("phase", ["running", "ready"])
def test_refused_while_the_copy_is_there_and_allowed_after_it(
    house: House, domain: Domain, refused: Callable[..., VirError], operation: Any, phase: Any, tmp_path: Path
) -> None:
    if phase == "ready":
        house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
        house.wait_ready(house.jobs.list_active()[0].job_id)
    xml, files = house.xml(domain, 2), sorted(tmp_path.rglob("*.*"))
    refused(BUSY, REFUSED[operation], house, domain)
    assert house.xml(domain, 2) == xml
    assert sorted(tmp_path.rglob("*.*")) == files
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert "active block copy job" not in answer(REFUSED[operation], house, domain)


MERGES = {
    "pull": lambda house, domain: house.pull(domain, is_held=True),
    "commit": lambda house, domain: house.commit(domain, None, snap1_of(house, domain), is_held=True),
    "active commit": lambda house, domain: house.commit(domain, None, None, 4, is_held=True),
}


def snap1_of(house: House, domain: Domain) -> Any:
    return house.disk(domain).find("backingStore").find("source").get("file")


@pytest.mark.parametrize("operation", REFUSED)
@pytest.mark.parametrize("kind", MERGES)
def test_refused_while_a_pull_or_commit_runs_and_allowed_after_it(
    house: House,
    make_chain: Any,
    other: Any,
    refused: Callable[..., VirError],
    operation: Any,
    kind: Any,
    tmp_path: Path,
) -> None:
    domain = house.define(disk_xml(make_chain().top), disk_xml(other, target="vdb"))
    MERGES[kind](house, domain)
    xml, files = house.xml(domain, 2), sorted(tmp_path.rglob("*.*"))
    refused(BUSY, REFUSED[operation], house, domain)
    assert house.xml(domain, 2) == xml
    assert sorted(tmp_path.rglob("*.*")) == files
    house.driver.domain_block_job_abort(domain, "vda", 0)
    assert "active block copy job" not in answer(REFUSED[operation], house, domain)


def test_the_rest_of_the_domain_may_change(house: House, domain: Domain, other: Any) -> None:
    driver = house.driver
    driver.domain_define_xml(redefinition(house, domain, "<vcpu>2<", "<vcpu>4<"), 0)
    assert driver.domain_get_info(domain)[3] == 4
    driver.domain_block_resize(domain, "vdb", 2 * MIB, 1)
    assert driver.domain_get_block_info(domain, "vdb", 0).capacity_bytes == 2 * MIB
    driver.domain_snapshot_create_xml(domain, SNAPSHOT.format("<disk name='vda' snapshot='no'/>"), DISK_ONLY)
    driver.domain_detach_device(domain, disk_xml("/x", target="vdb"), 0)
    assert [disk.target for disk in driver.domain_list_disks(domain)] == ["vda"]
    assert house.disk(domain).find("mirror") is not None


@pytest.fixture
def siblings(house: House, make_chain: Any, make_image: Callable[..., Path], tmp_path: Path) -> Any:
    """A domain whose vda and vdb stand on one image: (domain, the chain of vda, vdb's image by another name)."""
    chain = make_chain()
    image = make_image(tmp_path / "vdb.qcow2", "qcow2", backing=chain.base, backing_format="qcow2")
    link = tmp_path / "link.qcow2"
    link.symlink_to(image)
    return house.define(disk_xml(chain.top), disk_xml(link, target="vdb")), chain, image


@pytest.mark.parametrize("call", ["copy onto it", "active commit", "commit"])
def test_what_another_disk_of_the_domain_uses_is_not_written(
    house: House, siblings: Any, sha256_of: Callable[[Path], str], call: str
) -> None:
    """On a running domain QEMU's own locks on vdb refuse it."""
    domain, chain, image = siblings
    path = image if call == "copy onto it" else chain.base
    before = [sha256_of(file) for file in (image, *chain.files)]
    calls = {
        "copy onto it": lambda: house.rebase(domain, image, 8 | 2),
        "active commit": lambda: house.commit(domain, flags=4),
        "commit": lambda: house.commit(domain, top=chain.snap1),
    }
    with pytest.raises(VirError) as caught:
        calls[call]()
    detail = f"internal error: Failed to get \"write\" lock: disk 'vdb' of the domain uses the image: '{path}'"
    assert (caught.value.number, caught.value.domain, caught.value.message) == (1, 10, detail)
    assert [sha256_of(file) for file in (image, *chain.files)] == before
    assert house.info(domain) is None
    house.pull(domain)  # which writes vda's own image alone
