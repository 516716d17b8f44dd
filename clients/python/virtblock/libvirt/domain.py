# SPDX-License-Identifier: Apache-2.0
"""virDomain.

Owns: the calls on a domain. Invariants: a handle names its domain by UUID for ever; its id is that of the look-up and
of the calls made through it, as libvirt's is; answers have libvirt-python's types.
"""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from virtblock.client import Client, DomainSelector
from virtblock.libvirt import arguments
from virtblock.libvirt.domain_block import DomainBlockCalls
from virtblock.libvirt.errors import not_made_here, not_supported, plain_error
from virtblock.libvirt.gen.constants import VIR_ERR_INVALID_DOMAIN_SNAPSHOT
from virtblock.libvirt.gen.not_offered import virDomainNotOffered
from virtblock.libvirt.link import DomainHandle
from virtblock.libvirt.snapshot import SnapshotHandle, virDomainSnapshot

if TYPE_CHECKING:
    from virtblock.libvirt.connection import virConnect

_SNAPSHOT = 35
_CREATE = ("virDomainCreateWithFlags", "virDomainCreate")
_DESTROY = ("virDomainDestroyFlags", "virDomainDestroy")
_UNDEFINE = ("virDomainUndefineFlags", "virDomainUndefine")


class virDomain(DomainBlockCalls, virDomainNotOffered):
    """A domain. Made by the look-ups of virConnect; it keeps the connection open."""

    def __init__(self, conn: virConnect, _obj: Any = None) -> None:
        self._conn = conn
        if not isinstance(_obj, DomainHandle):
            raise not_made_here(_obj)
        self._o: DomainHandle = _obj

    def __del__(self) -> None:
        """Programs call it to give the handle back early."""
        self.__dict__.pop("_o", None)

    def connect(self) -> virConnect:
        """The connection it was looked up on."""
        return self._conn

    def c_pointer(self) -> int:
        """A number that no other handle has."""
        return id(self._o)

    def name(self) -> str:
        """Its name."""
        return self._o.name

    def ID(self) -> int:
        """Its id when it was looked up or started by this handle; -1: none, or this handle stopped it."""
        return self._o.id

    def UUID(self) -> bytes:
        """Its UUID as 16 bytes."""
        return uuid.UUID(self._o.uuid).bytes

    def UUIDString(self) -> str:
        """Its UUID with dashes."""
        return self._o.uuid

    def OSType(self) -> str:
        """The kind of guest, as "hvm"."""
        text = self._ask(lambda client, domain: client.get_xml_desc(domain, 0, timeout_s=None))
        return ElementTree.fromstring(text).findtext("os/type") or ""  # noqa: S314 - the server's own

    def XMLDesc(self, flags: int = 0) -> str:
        """Its XML."""
        bits = arguments.flags(flags)
        self._refuse_secure(bits)
        return str(self._ask(lambda client, domain: client.get_xml_desc(domain, bits, timeout_s=None)))

    def state(self, flags: int = 0) -> list[int]:
        """[state, reason]."""
        bits = arguments.flags(flags)
        found = self._ask(lambda client, domain: client.get_state(domain, bits, timeout_s=None))
        return [int(found.state), int(found.reason)]

    def info(self) -> list[int]:
        """[state, most memory in KiB, memory in KiB, virtual processors, processor time in ns]."""
        found = self._ask(lambda client, domain: client.get_info(domain, timeout_s=None))
        return [int(found.state), found.max_memory_kib, found.memory_kib, found.vcpu_count, found.cpu_time_ns]

    def maxMemory(self) -> int:
        """Most memory it may have, in KiB."""
        return self.info()[1]

    def isActive(self) -> int:
        """1 while it runs or is paused, else 0."""
        return int(self._ask(lambda client, domain: client.is_active(domain, timeout_s=None)))

    def isPersistent(self) -> int:
        """1 when it has a definition that outlives its run, else 0."""
        return int(self._ask(lambda client, domain: client.is_persistent(domain, timeout_s=None)))

    def create(self) -> int:
        """Start it."""
        return self._start("virDomainCreate", 0, _CREATE)

    def createWithFlags(self, flags: int = 0) -> int:
        """Start it, with flags."""
        return self._start("virDomainCreateWithFlags", arguments.flags(flags), None)

    def destroy(self) -> int:
        """Stop it at once."""
        self._stop("virDomainDestroy", 0, _DESTROY)
        self._o.id = -1
        return 0

    def destroyFlags(self, flags: int = 0) -> int:
        """Stop it at once, with flags. Its id stays in this handle, as libvirt's does."""
        self._stop("virDomainDestroyFlags", arguments.flags(flags), None)
        return 0

    def shutdown(self) -> int:
        """Ask the guest to shut down."""
        self._change("virDomainShutdown", lambda client, domain: client.shutdown(domain, timeout_s=None))
        return 0

    def shutdownFlags(self, flags: int = 0) -> int:
        """As `shutdown`; ways of asking are not offered."""
        if arguments.flags(flags):
            raise not_supported("virDomainShutdownFlags")
        return self.shutdown()

    def suspend(self) -> int:
        """Pause it."""
        self._change("virDomainSuspend", lambda client, domain: client.suspend(domain, timeout_s=None))
        return 0

    def resume(self) -> int:
        """Let it go on."""
        self._change("virDomainResume", lambda client, domain: client.resume(domain, timeout_s=None))
        return 0

    def undefine(self) -> int:
        """Remove its definition."""
        return self._undefine("virDomainUndefine", 0, _UNDEFINE)

    def undefineFlags(self, flags: int = 0) -> int:
        """Remove its definition, with flags."""
        return self._undefine("virDomainUndefineFlags", arguments.flags(flags), None)

    def save(self, to: str) -> int:
        """Write its memory to a file and stop it."""
        path = arguments.absolute_path("virDomainSave", 2, to)
        self._change("virDomainSave", lambda client, domain: client.save(domain, path, timeout_s=None))
        self._o.id = -1
        return 0

    def saveFlags(self, to: str, dxml: str | None = None, flags: int = 0) -> int:
        """As `save`, with other XML for the restore and flags."""
        function, bits = "virDomainSaveFlags", arguments.flags(flags)
        path, xml = arguments.absolute_path(function, 2, to), arguments.text(function, 3, dxml)
        self._change(function, lambda client, domain: client.save_flags(domain, path, xml, bits, timeout_s=None))
        return 0

    def managedSave(self, flags: int = 0) -> int:
        """Write its memory where libvirt keeps it, and stop it."""
        bits = arguments.flags(flags)
        self._change("virDomainManagedSave", lambda client, domain: client.managed_save(domain, bits, timeout_s=None))
        self._o.id = -1
        return 0

    def snapshotCreateXML(self, xmlDesc: str, flags: int = 0) -> virDomainSnapshot:
        """Take a snapshot."""
        function, bits = "virDomainSnapshotCreateXML", arguments.flags(flags)
        xml = arguments.required_text(function, 2, "xmlDesc", xmlDesc, _SNAPSHOT)
        made = self._change(
            function,
            lambda client, domain: client.snapshot_create_xml(domain, xml, bits, timeout_s=None),
            error_domain=_SNAPSHOT,
        )
        return virDomainSnapshot(self, _obj=SnapshotHandle(made.name, made.xml))

    def revertToSnapshot(self, snap: virDomainSnapshot | None, flags: int = 0) -> int:
        """Take it back to a snapshot."""
        function, bits = "virDomainRevertToSnapshot", arguments.flags(flags)
        if snap is None:
            raise plain_error(VIR_ERR_INVALID_DOMAIN_SNAPSHOT, _SNAPSHOT, "Invalid domain snapshot: %s", function)
        name = snap._o.name
        self._change(
            function,
            lambda client, domain: client.revert_to_snapshot(domain, name, bits, timeout_s=None),
            error_domain=_SNAPSHOT,
        )
        return 0

    def detachDevice(self, xml: str) -> int:
        """Take a device from the running domain."""
        function = "virDomainDetachDevice"
        given = arguments.required_text(function, 2, "xml", xml)
        self._change(function, lambda client, domain: client.detach_device(domain, given, timeout_s=None))
        return 0

    def detachDeviceFlags(self, xml: str, flags: int = 0) -> int:
        """Take a device from the running domain, its definition, or both."""
        function, bits = "virDomainDetachDeviceFlags", arguments.flags(flags)
        given = arguments.required_text(function, 2, "xml", xml)
        self._change(function, lambda client, domain: client.detach_device_flags(domain, given, bits, timeout_s=None))
        return 0

    def _start(self, function: str, flags: int, renamed: tuple[str, str] | None) -> int:
        self._o.id = self._change(
            function, lambda client, domain: client.create(domain, flags, timeout_s=None), renamed=renamed
        ).id
        return 0

    def _stop(self, function: str, flags: int, renamed: tuple[str, str] | None) -> None:
        self._change(function, lambda client, domain: client.destroy(domain, flags, timeout_s=None), renamed=renamed)

    def _undefine(self, function: str, flags: int, renamed: tuple[str, str] | None) -> int:
        self._change(function, lambda client, domain: client.undefine(domain, flags, timeout_s=None), renamed=renamed)
        return 0

    def _refuse_secure(self, flags: int) -> None:
        if flags & (1 | 8):
            self._o.link.refuse_change("virDomainGetXMLDesc with secure flag")

    def _ask(self, call: Callable[[Client, DomainSelector], Any]) -> Any:
        handle = self._o
        return handle.link.ask(lambda client: call(client, handle.selector), handle.named)

    def _change(
        self,
        function: str,
        call: Callable[[Client, DomainSelector], Any],
        *,
        error_domain: int = 20,
        renamed: tuple[str, str] | None = None,
    ) -> Any:
        handle = self._o
        reworded = handle.named if renamed is None else (*handle.named, renamed)
        return handle.link.change(
            function, lambda client: call(client, handle.selector), domain=error_domain, reworded=reworded
        )
