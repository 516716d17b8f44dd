# SPDX-License-Identifier: Apache-2.0
"""virDomain* but the block jobs: what libvirt's public layer does before a driver sees the call.

Owns: the order of those checks, call by call (measured on libvirt 9.0): the look-up, which in libvirt is an earlier
call of its own, read-only, NULL, flags that exclude each other, and then whether the driver has the call at all.
Invariants: unknown flag bits pass through, for they are the driver's to judge. Methods block; they are called from
worker threads.
"""

from __future__ import annotations

from virtblock.server.core.connections import Connections, require
from virtblock.server.core.driver import Driver
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, argument_check, report
from virtblock.server.core.flags import (
    DomainModificationImpact,
    DomainSaveFlags,
    DomainXmlFlags,
    SnapshotCreateFlags,
)
from virtblock.server.core.lookup import (
    DomainLookup,
    check_unsigned,
    given,
    mutually_exclusive,
    refuse_read_only,
)
from virtblock.server.core.model import BlockInfo, Caller, Disk, Domain, DomainSelector

_SNAPSHOT = ErrorDomain.DOMAIN_SNAPSHOT


class DomainApi:
    """The calls of DomainService that do not start, follow or end block jobs (those: `BlockApi`)."""

    def __init__(self, connections: Connections) -> None:
        self._lookup = DomainLookup(connections)

    def get_xml_desc(self, caller: Caller, selector: DomainSelector, flags: int) -> str:
        """virDomainGetXMLDesc. A read-only caller gets neither secrets nor the migratable form, which has them too."""
        function = "virDomainGetXMLDesc"
        driver, domain = self._lookup.select(selector, function)
        if caller.read_only and flags & (DomainXmlFlags.SECURE | DomainXmlFlags.MIGRATABLE):
            detail = "virDomainGetXMLDesc with secure flag"
            raise report(ErrorNumber.OPERATION_DENIED, detail, domain=ErrorDomain.DOMAIN)
        self._ready(driver, "domain_get_xml_desc", function, flags)
        return driver.domain_get_xml_desc(domain, flags)

    def get_state(self, caller: Caller, selector: DomainSelector, flags: int) -> tuple[int, int]:
        """virDomainGetState: (virDomainState, reason)."""
        function = "virDomainGetState"
        driver, domain = self._lookup.select(selector, function)
        self._ready(driver, "domain_get_state", function, flags)
        return driver.domain_get_state(domain, flags)

    def get_info(self, caller: Caller, selector: DomainSelector) -> tuple[int, int, int, int, int]:
        """virDomainGetInfo: state, max memory and memory in KiB, virtual processors, processor time in ns."""
        function = "virDomainGetInfo"
        driver, domain = self._lookup.select(selector, function)
        require(driver, "domain_get_info", function)
        return driver.domain_get_info(domain)

    def is_active(self, caller: Caller, selector: DomainSelector) -> bool:
        """virDomainIsActive; the look-up knows it."""
        return self._lookup.select(selector, "virDomainIsActive")[1].is_active

    def is_persistent(self, caller: Caller, selector: DomainSelector) -> bool:
        """virDomainIsPersistent; the look-up knows it."""
        return self._lookup.select(selector, "virDomainIsPersistent", is_brief=False)[1].is_persistent

    def create(self, caller: Caller, selector: DomainSelector, flags: int) -> Domain:
        """virDomainCreateWithFlags; returns the domain as it is afterwards."""
        driver, domain = self._to_change(caller, selector, "domain_create", "virDomainCreateWithFlags", flags)
        driver.domain_create(domain, flags)
        return self._lookup.by_uuid(driver.uri, domain.uuid)

    def destroy(self, caller: Caller, selector: DomainSelector, flags: int) -> None:
        """virDomainDestroyFlags."""
        driver, domain = self._to_change(caller, selector, "domain_destroy", "virDomainDestroyFlags", flags)
        driver.domain_destroy(domain, flags)

    def shutdown(self, caller: Caller, selector: DomainSelector) -> None:
        """virDomainShutdown."""
        driver, domain = self._to_change(caller, selector, "domain_shutdown", "virDomainShutdown")
        driver.domain_shutdown(domain, 0)

    def undefine(self, caller: Caller, selector: DomainSelector, flags: int) -> None:
        """virDomainUndefineFlags."""
        driver, domain = self._to_change(caller, selector, "domain_undefine", "virDomainUndefineFlags", flags)
        driver.domain_undefine(domain, flags)

    def suspend(self, caller: Caller, selector: DomainSelector) -> None:
        """virDomainSuspend."""
        driver, domain = self._to_change(caller, selector, "domain_suspend", "virDomainSuspend")
        driver.domain_suspend(domain)

    def resume(self, caller: Caller, selector: DomainSelector) -> None:
        """virDomainResume."""
        driver, domain = self._to_change(caller, selector, "domain_resume", "virDomainResume")
        driver.domain_resume(domain)

    def list_disks(self, caller: Caller, selector: DomainSelector) -> list[Disk]:
        """The disks with their chains, in the order of the XML. No libvirt call."""
        driver, domain = self._lookup.select(selector, "ListDisks")
        require(driver, "domain_list_disks", "ListDisks")
        return driver.domain_list_disks(domain)

    def get_block_info(self, caller: Caller, selector: DomainSelector, disk: str | None, flags: int) -> BlockInfo:
        """virDomainGetBlockInfo: here, and in no other block call, an empty disk is refused before the driver."""
        function = "virDomainGetBlockInfo"
        driver, domain = self._lookup.select(selector, function)
        disk = given(disk, "disk", function)
        if not disk:
            raise argument_check(function, "disk", f"string disk in {function} must not be empty")
        self._ready(driver, "domain_get_block_info", function, flags)
        return driver.domain_get_block_info(domain, disk, flags)

    def block_stats(self, caller: Caller, selector: DomainSelector, disk: str | None) -> tuple[int, int, int, int, int]:
        """virDomainBlockStats: reads, bytes read, writes, bytes written, errors; -1 for what is not known."""
        function = "virDomainBlockStats"
        driver, domain = self._lookup.select(selector, function)
        disk = given(disk, "disk", function)
        require(driver, "domain_block_stats", function)
        return driver.domain_block_stats(domain, disk)

    def block_resize(self, caller: Caller, selector: DomainSelector, disk: str | None, size: int, flags: int) -> None:
        """virDomainBlockResize; `size` in KiB, or in bytes with BYTES."""
        function = "virDomainBlockResize"
        driver, domain = self._lookup.select(selector, function)
        refuse_read_only(caller, function)
        disk = given(disk, "disk", function)
        check_unsigned(size, "size", bit_count=64)
        self._ready(driver, "domain_block_resize", function, flags)
        driver.domain_block_resize(domain, disk, size, flags)

    def save(self, caller: Caller, selector: DomainSelector, to: str | None) -> None:
        """virDomainSave."""
        self._save(caller, selector, to, None, 0, "virDomainSave")

    def save_flags(
        self, caller: Caller, selector: DomainSelector, to: str | None, dxml: str | None, flags: int
    ) -> None:
        """virDomainSaveFlags; `dxml` None: the domain's own XML."""
        self._save(caller, selector, to, dxml, flags, "virDomainSaveFlags")

    def managed_save(self, caller: Caller, selector: DomainSelector, flags: int) -> None:
        """virDomainManagedSave."""
        function = "virDomainManagedSave"
        driver, domain = self._lookup.select(selector, function)
        refuse_read_only(caller, function)
        _check_save_flags(flags, function)
        self._ready(driver, "domain_managed_save", function, flags)
        driver.domain_managed_save(domain, flags)

    def snapshot_create_xml(
        self, caller: Caller, selector: DomainSelector, xml: str | None, flags: int
    ) -> tuple[str, str]:
        """virDomainSnapshotCreateXML: (name, XML). NULL before read-only."""
        function = "virDomainSnapshotCreateXML"
        driver, domain = self._lookup.select(selector, function)
        xml = given(xml, "xmlDesc", function, domain=_SNAPSHOT)
        refuse_read_only(caller, function, domain=_SNAPSHOT)
        _check_snapshot_create_flags(flags, function)
        self._ready(driver, "domain_snapshot_create_xml", function, flags, domain=_SNAPSHOT)
        return driver.domain_snapshot_create_xml(domain, xml, flags)

    def revert_to_snapshot(
        self, caller: Caller, selector: DomainSelector, snapshot_name: str | None, flags: int
    ) -> None:
        """virDomainRevertToSnapshot. The name is looked up by the driver, in libvirt by a call of its own before: only
        then are flags that exclude each other of interest."""
        function = "virDomainRevertToSnapshot"
        driver, domain = self._lookup.select(selector, function)
        name = given(snapshot_name, "name", "virDomainSnapshotLookupByName", domain=_SNAPSHOT)
        refuse_read_only(caller, function, domain=_SNAPSHOT)
        self._ready(driver, "domain_revert_to_snapshot", function, flags, domain=_SNAPSHOT)
        driver.domain_revert_to_snapshot(domain, name, flags)

    def detach_device(self, caller: Caller, selector: DomainSelector, xml: str | None) -> None:
        """virDomainDetachDevice: from the running domain."""
        flags = int(DomainModificationImpact.LIVE)
        self._detach(caller, selector, xml, flags, "virDomainDetachDevice")

    def detach_device_flags(self, caller: Caller, selector: DomainSelector, xml: str | None, flags: int) -> None:
        """virDomainDetachDeviceFlags."""
        self._detach(caller, selector, xml, flags, "virDomainDetachDeviceFlags")

    def _save(
        self, caller: Caller, selector: DomainSelector, to: str | None, dxml: str | None, flags: int, function: str
    ) -> None:
        driver, domain = self._lookup.select(selector, function)
        refuse_read_only(caller, function)
        to = given(to, "to", function)
        _check_save_flags(flags, function)
        self._ready(driver, "domain_save", function, flags)
        driver.domain_save(domain, to, dxml, flags)

    def _detach(self, caller: Caller, selector: DomainSelector, xml: str | None, flags: int, function: str) -> None:
        driver, domain = self._lookup.select(selector, function)
        xml = given(xml, "xml", function)
        refuse_read_only(caller, function)
        self._ready(driver, "domain_detach_device", function, flags)
        driver.domain_detach_device(domain, xml, flags)

    def _to_change(
        self, caller: Caller, selector: DomainSelector, method: str, function: str, flags: int = 0
    ) -> tuple[Driver, Domain]:
        """What a changing call without further arguments needs."""
        driver, domain = self._lookup.select(selector, function)
        refuse_read_only(caller, function)
        self._ready(driver, method, function, flags)
        return driver, domain

    @staticmethod
    def _ready(driver: Driver, method: str, function: str, flags: int, *, domain: int = ErrorDomain.DOMAIN) -> None:
        check_unsigned(flags, "flags", bit_count=32)
        require(driver, method, function, domain=domain)


def _check_save_flags(flags: int, function: str) -> None:
    if flags & DomainSaveFlags.RUNNING and flags & DomainSaveFlags.PAUSED:
        raise mutually_exclusive("VIR_DOMAIN_SAVE_RUNNING", "VIR_DOMAIN_SAVE_PAUSED", function)


def _check_snapshot_create_flags(flags: int, function: str) -> None:
    prefix = "VIR_DOMAIN_SNAPSHOT_CREATE_"
    if flags & SnapshotCreateFlags.CURRENT and not flags & SnapshotCreateFlags.REDEFINE:
        text = f"Flag '{prefix}REDEFINE' is required by flag '{prefix}CURRENT'"
        raise argument_check(function, "ctl", text, domain=_SNAPSHOT)
    for other in (SnapshotCreateFlags.NO_METADATA, SnapshotCreateFlags.HALT):
        if flags & SnapshotCreateFlags.REDEFINE and flags & other:
            raise mutually_exclusive(f"{prefix}REDEFINE", f"{prefix}{other.name}", function, domain=_SNAPSHOT)
