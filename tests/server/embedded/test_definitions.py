# SPDX-License-Identifier: Apache-2.0
"""Define, look up, list, undefine, and what a domain says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from server.embedded.house import UUID, House, disk_xml, domain_xml

from virtblock.server.core.connections import offers
from virtblock.server.core.errors import VirError
from virtblock.server.core.model import Domain, LifecycleEvent

OTHER_UUID = "22222222-2222-2222-2222-222222222222"


def test_defined_domain_is_found_every_way(house: House) -> None:
    domain = house.define()
    assert domain == Domain("embedded:///", "vm", UUID)
    driver = house.driver
    assert driver.domain_lookup_by_name("vm") == domain
    assert driver.domain_lookup_by_uuid(UUID.upper()) == domain
    assert driver.list_all_domains(0) == [domain]
    assert driver.domain_get_state(domain, 0) == (5, 0)
    assert driver.domain_get_info(domain) == (5, 65536, 65536, 2, 0)


def test_life_cycle_events(house: House) -> None:
    domain = house.define()
    house.define(disk_xml("/a"))
    house.driver.domain_undefine(domain, 0)
    assert house.domain_events() == [
        LifecycleEvent(domain, 0, 0),
        LifecycleEvent(domain, 0, 1),
        LifecycleEvent(domain, 1, 0),
    ]


def test_domain_survives_a_restart(house: House) -> None:
    domain = house.define(disk_xml("/a"))
    xml = house.xml(domain, 2)
    house.restart()
    assert house.xml(house.driver.domain_lookup_by_name("vm"), 2) == xml


@pytest.mark.parametrize(
    ("name", "uuid", "message"),
    [
        ("vm", OTHER_UUID, f"operation failed: domain 'vm' already exists with uuid {UUID}"),
        ("vm", None, f"operation failed: domain 'vm' already exists with uuid {UUID}"),
        ("other", UUID, f"operation failed: domain 'vm' is already defined with uuid {UUID}"),
    ],
)
def test_name_and_uuid_belong_together(
    house: House, refused: Callable[..., VirError], name: Any, uuid: Any, message: Any
) -> None:
    house.define()
    refused((9, 20, message), house.define, name=name, uuid=uuid)
    assert len(house.driver.list_all_domains(0)) == 1


def test_unknown_domains(house: House, refused: Callable[..., VirError]) -> None:
    driver = house.driver
    gone = Domain("embedded:///", "gone", OTHER_UUID)
    refused((42, 10, "Domain not found: no domain with matching name 'nope'"), driver.domain_lookup_by_name, "nope")
    refused(
        (42, 10, f"Domain not found: no domain with matching uuid '{OTHER_UUID}'"),
        driver.domain_lookup_by_uuid,
        OTHER_UUID,
    )
    refused((8, 20, "Invalid UUID"), driver.domain_lookup_by_uuid, "zz")
    refused((42, 10, "Domain not found: no domain with matching id 77"), driver.domain_lookup_by_id, 77)
    answer = (42, 10, f"Domain not found: no domain with matching uuid '{OTHER_UUID}' (gone)")
    refused(answer, driver.domain_undefine, gone, 0)
    refused(answer, driver.domain_get_xml_desc, gone, 0)
    refused(answer, driver.domain_list_disks, gone)


@pytest.mark.parametrize(
    ("flags", "is_listed"),
    [(1, False), (2, True), (3, True), (4, True), (8, False), (16, False), (64, True), (2 | 8, False), (2048, True)],
)
def test_list_filters(house: House, flags: int, is_listed: Any) -> None:
    house.define()
    assert bool(house.driver.list_all_domains(flags)) is is_listed


FLAG_REFUSALS: dict[str, tuple[Any, int]] = {
    "qemuDomainDefineXMLFlags": (lambda driver, domain: driver.domain_define_xml(domain_xml(), 0x100), 0x100),
    "qemuDomainUndefineFlags": (lambda driver, domain: driver.domain_undefine(domain, 0x1001), 0x1000),
    "qemuConnectListAllDomains": (lambda driver, domain: driver.list_all_domains(0x10000), 0x10000),
    "qemuDomainGetXMLDesc": (lambda driver, domain: driver.domain_get_xml_desc(domain, 0x11), 0x10),
    "qemuDomainGetState": (lambda driver, domain: driver.domain_get_state(domain, 1), 1),
    "qemuDomainCreateWithFlags": (lambda driver, domain: driver.domain_create(domain, 0x1000), 0x1000),
    "qemuDomainDestroyFlags": (lambda driver, domain: driver.domain_destroy(domain, 0x1000), 0x1000),
    "qemuDomainSaveFlags": (lambda driver, domain: driver.domain_save(domain, "/s", None, 0x1000), 0x1000),
    "qemuDomainManagedSave": (lambda driver, domain: driver.domain_managed_save(domain, 0x1000), 0x1000),
    "qemuDomainGetBlockInfo": (lambda driver, domain: driver.domain_get_block_info(domain, "vda", 1), 1),
    "qemuDomainBlockResize": (lambda driver, domain: driver.domain_block_resize(domain, "vda", 1, 2), 2),
    "qemuDomainDetachDeviceLiveAndConfig": (lambda driver, domain: driver.domain_detach_device(domain, "", 4), 4),
    "qemuSnapshotCreateXML": (lambda driver, domain: driver.domain_snapshot_create_xml(domain, "", 0x400), 0x400),
    "qemuDomainBlockRebase": (
        lambda driver, domain: driver.domain_block_rebase(domain, "vda", "/x", 0, 0x88, None),
        0x80,
    ),
    "qemuDomainBlockCopy": (lambda driver, domain: driver.domain_block_copy(domain, "vda", "", [], 16, None), 16),
    "qemuDomainBlockJobAbort": (lambda driver, domain: driver.domain_block_job_abort(domain, "vda", 4), 4),
    "qemuDomainGetBlockJobInfo": (lambda driver, domain: driver.domain_get_block_job_info(domain, "vda", 2), 2),
    "qemuDomainBlockJobSetSpeed": (lambda driver, domain: driver.domain_block_job_set_speed(domain, "vda", 1, 2), 2),
}


@pytest.mark.parametrize("function", FLAG_REFUSALS)
def test_unknown_flags_are_named(house: House, function: Any) -> None:
    call, bit = FLAG_REFUSALS[function]
    domain = house.define()
    with pytest.raises(VirError) as caught:
        call(house.driver, domain)
    error = caught.value
    assert (error.number, error.domain, error.message) == (
        8,
        10,
        f"unsupported flags ({bit:#x}) in function {function}",
    )
    assert (error.str1, error.str2, error.int1, error.int2) == (function, "flags", 0, 0)


def test_calls_that_need_a_running_domain(house: House, refused: Callable[..., VirError]) -> None:
    domain = house.define()
    driver = house.driver
    answer = (55, 20, "Requested operation is not valid: domain is not running")
    refused(answer, driver.domain_destroy, domain, 0)
    refused(answer, driver.domain_shutdown, domain, 0)
    refused(answer, driver.domain_suspend, domain)
    refused(answer, driver.domain_resume, domain)
    refused(answer, driver.domain_save, domain, "/s", None, 0)
    refused(answer, driver.domain_managed_save, domain, 0)
    refused(answer, driver.domain_block_stats, domain, "vda")
    refused(
        (3, 20, "this function is not supported by the connection driver: virDomainCreate"),
        driver.domain_create,
        domain,
        0,
    )
    refused(
        (72, 10, "Domain snapshot not found: no domain snapshot with matching name 's'"),
        driver.domain_revert_to_snapshot,
        domain,
        "s",
        0,
    )


def test_what_is_not_offered_is_not_defined(house: House) -> None:
    assert not offers(house.driver, "domain_create_xml")
    assert offers(house.driver, "domain_block_copy")
    assert offers(house.driver, "domain_block_pull")
    assert offers(house.driver, "domain_block_commit")


def test_the_connection_itself(house: House) -> None:
    driver = house.driver
    assert driver.get_type() == "Embedded"
    assert (driver.is_alive(), driver.is_secure(), driver.is_encrypted()) == (True, True, False)
    assert driver.get_capabilities().startswith("<capabilities>")
    assert (driver.get_version(), driver.get_lib_version()) == (1000, 9_000_000)
    assert driver.get_hostname()
    assert "format:qcow2" in driver.engine_features()
