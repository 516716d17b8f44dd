# SPDX-License-Identifier: Apache-2.0
"""virDomain* but the block jobs: what libvirt's public layer does before the driver. Signatures first; bodies follow."""

from __future__ import annotations

from virtblock.server.core.connections import Connections
from virtblock.server.core.model import BlockInfo, Caller, Disk, Domain, DomainSelector


class DomainApi:
    def __init__(self, connections: Connections) -> None: ...
    def get_xml_desc(self, caller: Caller, selector: DomainSelector, flags: int) -> str:
        raise NotImplementedError

    def get_state(self, caller: Caller, selector: DomainSelector, flags: int) -> tuple[int, int]:
        raise NotImplementedError

    def get_info(self, caller: Caller, selector: DomainSelector) -> tuple[int, int, int, int, int]:
        raise NotImplementedError

    def is_active(self, caller: Caller, selector: DomainSelector) -> bool:
        raise NotImplementedError

    def is_persistent(self, caller: Caller, selector: DomainSelector) -> bool:
        raise NotImplementedError

    def create(self, caller: Caller, selector: DomainSelector, flags: int) -> Domain:
        raise NotImplementedError

    def destroy(self, caller: Caller, selector: DomainSelector, flags: int) -> None: ...
    def shutdown(self, caller: Caller, selector: DomainSelector) -> None: ...
    def undefine(self, caller: Caller, selector: DomainSelector, flags: int) -> None: ...
    def suspend(self, caller: Caller, selector: DomainSelector) -> None: ...
    def resume(self, caller: Caller, selector: DomainSelector) -> None: ...
    def list_disks(self, caller: Caller, selector: DomainSelector) -> list[Disk]:
        raise NotImplementedError

    def get_block_info(self, caller: Caller, selector: DomainSelector, disk: str | None, flags: int) -> BlockInfo:
        raise NotImplementedError

    def block_stats(self, caller: Caller, selector: DomainSelector, disk: str | None) -> tuple[int, int, int, int, int]:
        raise NotImplementedError

    def block_resize(
        self, caller: Caller, selector: DomainSelector, disk: str | None, size: int, flags: int
    ) -> None: ...
    def save(self, caller: Caller, selector: DomainSelector, to: str | None) -> None: ...
    def save_flags(
        self, caller: Caller, selector: DomainSelector, to: str | None, dxml: str | None, flags: int
    ) -> None: ...
    def managed_save(self, caller: Caller, selector: DomainSelector, flags: int) -> None: ...
    def snapshot_create_xml(
        self, caller: Caller, selector: DomainSelector, xml: str | None, flags: int
    ) -> tuple[str, str]:
        raise NotImplementedError

    def revert_to_snapshot(
        self, caller: Caller, selector: DomainSelector, snapshot_name: str | None, flags: int
    ) -> None: ...
    def detach_device(self, caller: Caller, selector: DomainSelector, xml: str | None) -> None: ...
    def detach_device_flags(self, caller: Caller, selector: DomainSelector, xml: str | None, flags: int) -> None: ...
