# SPDX-License-Identifier: Apache-2.0
"""virDomainSnapshot, as far as the server has snapshots: one that was just taken, to be reverted to by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from virtblock.libvirt import arguments
from virtblock.libvirt.errors import not_made_here, plain_error
from virtblock.libvirt.gen.constants import VIR_ERR_NO_DOMAIN_SNAPSHOT, VIR_FROM_QEMU
from virtblock.libvirt.gen.not_offered import virDomainSnapshotNotOffered

if TYPE_CHECKING:
    from virtblock.libvirt.connection import virConnect
    from virtblock.libvirt.domain import virDomain


@dataclass(frozen=True)
class SnapshotHandle:
    """What a virDomainSnapshot holds."""

    name: str
    xml: str


class virDomainSnapshot(virDomainSnapshotNotOffered):
    """A snapshot of a domain. Made by virDomain."""

    def __init__(self, dom: virDomain, _obj: Any = None) -> None:
        if not isinstance(_obj, SnapshotHandle):
            raise not_made_here(_obj)
        self._dom = dom
        self._conn = dom.connect()
        self._o: SnapshotHandle = _obj

    def c_pointer(self) -> int:
        """A number that no other handle has."""
        return id(self._o)

    def getName(self) -> str:
        """Its name."""
        return self._o.name

    def getXMLDesc(self, flags: int = 0) -> str:
        """Its XML when it was taken. libvirtError NO_DOMAIN_SNAPSHOT for one that was taken with NO_METADATA."""
        arguments.flags(flags)
        if not self._o.xml:
            detail = f"no domain snapshot with matching name '{self._o.name}'"
            raise plain_error(VIR_ERR_NO_DOMAIN_SNAPSHOT, VIR_FROM_QEMU, "Domain snapshot not found: %s", detail)
        return self._o.xml

    def getConnect(self) -> virConnect:
        """The connection of its domain."""
        return self._conn

    def connect(self) -> virConnect:
        """The connection of its domain."""
        return self._conn

    def getDomain(self) -> virDomain:
        """Its domain."""
        return self._dom

    def domain(self) -> virDomain:
        """Its domain."""
        return self._dom
