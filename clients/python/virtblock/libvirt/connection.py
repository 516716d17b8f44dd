# SPDX-License-Identifier: Apache-2.0
"""virConnect, and how one is opened."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from virtblock.client import Client, Domain
from virtblock.libvirt import arguments, events
from virtblock.libvirt.connection_events import ConnectionEvents
from virtblock.libvirt.domain import virDomain
from virtblock.libvirt.errors import (
    RawError,
    Rewording,
    argument_error,
    invalid_connection,
    libvirtError,
    not_made_here,
    not_supported,
)
from virtblock.libvirt.gen.constants import (
    VIR_CONNECT_LIST_DOMAINS_ACTIVE,
    VIR_CONNECT_LIST_DOMAINS_INACTIVE,
    VIR_CONNECT_NO_ALIASES,
    VIR_CONNECT_RO,
)
from virtblock.libvirt.gen.not_offered import virConnectNotOffered
from virtblock.libvirt.keepalive import Keepalive
from virtblock.libvirt.link import DomainHandle, Link

T = TypeVar("T")

LIBVIR_VERSION_NUMBER = 9_000_000
_UUID_BYTES = 16
_DEFINE_REWORDED = (("virDomainDefineXMLFlags", "virDomainDefineXML"),)


def open(name: str | None = None) -> virConnect:
    """Connect to a hypervisor through virtblockd.

    `virtblock+unix:///PATH?connect=URI` and `virtblock+tls://HOST:PORT/?connect=URI` name the server; any other URI
    goes to the server of $VIRTBLOCK_SERVER. Raises libvirtError.
    """
    return virConnect(_obj=Link.open(arguments.text("virConnectOpen", 1, name), is_read_only=False))


def openReadOnly(name: str | None = None) -> virConnect:
    """As `open`; what would change anything is refused."""
    return virConnect(_obj=Link.open(arguments.text("virConnectOpenReadOnly", 1, name), is_read_only=True))


def openAuth(uri: str | None, auth: Any, flags: int = 0) -> virConnect:
    """As `open`, or with VIR_CONNECT_RO as `openReadOnly`. The server asks for no credentials: `auth` is not called."""
    name, bits = arguments.text("virConnectOpenAuth", 1, uri), arguments.flags(flags)
    unknown = bits & ~(VIR_CONNECT_RO | VIR_CONNECT_NO_ALIASES)
    if unknown:
        text = f"unsupported flags (0x{unknown:x}) in function virConnectOpenAuth"
        raise argument_error("virConnectOpenAuth", "flags", text, 0)
    return virConnect(_obj=Link.open(name, is_read_only=bool(bits & VIR_CONNECT_RO)))


@overload
def getVersion(name: None = None) -> int: ...
@overload
def getVersion(name: str) -> tuple[int, int]: ...
def getVersion(name: str | None = None) -> int | tuple[int, int]:
    """The libvirt release whose interface this is; with a driver's name that of the driver too, which is the same."""
    if name is None:
        return LIBVIR_VERSION_NUMBER
    if not isinstance(name, str):
        raise TypeError(f"virGetVersion() argument 1 must be str, not {type(name).__name__}")
    return LIBVIR_VERSION_NUMBER, LIBVIR_VERSION_NUMBER


def virInitialize() -> int:
    """Nothing is left to do: 0."""
    return 0


class virConnect(ConnectionEvents, virConnectNotOffered):
    """A connection to a hypervisor, through virtblockd. Made by `open`, `openReadOnly` and `openAuth`."""

    def __init__(self, _obj: Any = None) -> None:
        if not isinstance(_obj, Link):
            self._o = None
            raise not_made_here(_obj)
        self._o: Link | None = _obj
        self._keepalive: Keepalive | None = None
        self._prepare_events()

    def __del__(self) -> None:
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> int:
        """Close it; domains that are held go on to work. Returns 1 while somebody uses the connection, else 0."""
        self._link("virConnectClose", 0)
        return self._end()

    def c_pointer(self) -> int:
        """A number that no other connection has."""
        return id(self._o)

    def getVersion(self) -> int:
        """The hypervisor's version, major * 1000000 + minor * 1000 + release."""
        return self._ask("virConnectGetVersion", lambda client: client.get_version(timeout_s=None))

    def getLibVersion(self) -> int:
        """libvirt's version on the server, in the same form."""
        return self._ask("virConnectGetLibVersion", lambda client: client.get_lib_version(timeout_s=None))

    def getType(self) -> str:
        """The driver's name, as "QEMU"."""
        return self._ask("virConnectGetType", lambda client: client.get_type(timeout_s=None))

    def getURI(self) -> str:
        """The connection's URI on the server."""
        return self._ask("virConnectGetURI", lambda client: client.get_uri(timeout_s=None))

    def getHostname(self) -> str:
        """The name of the hypervisor's host."""
        return self._ask("virConnectGetHostname", lambda client: client.get_hostname(timeout_s=None))

    def getCapabilities(self) -> str:
        """The hypervisor's capabilities as XML."""
        found = self._ask("virConnectGetCapabilities", lambda client: client.get_capabilities(timeout_s=None))
        return found.capabilities_xml

    def isAlive(self) -> int:
        """1 while server and hypervisor are there, else 0."""
        return int(self._link("virConnectIsAlive").is_alive())

    def isSecure(self) -> int:
        """1 when nobody can listen between the server and the hypervisor, else 0."""
        return int(self._ask("virConnectIsSecure", lambda client: client.is_secure(timeout_s=None)))

    def isEncrypted(self) -> int:
        """1 when the link between the server and the hypervisor is encrypted, else 0."""
        return int(self._ask("virConnectIsEncrypted", lambda client: client.is_encrypted(timeout_s=None)))

    def setKeepAlive(self, interval: int, count: int) -> int:
        """Ask the server every `interval` seconds; lost when it is silent `count` times. 0 or less: do not ask."""
        interval_s, silent_count = arguments.signed_int(interval), operator.index(count) & 0xFFFFFFFF
        link = self._link("virConnectSetKeepAlive")
        if not events.is_registered():
            raise not_supported("virConnectSetKeepAlive")
        if self._keepalive is not None:
            self._keepalive.stop()
        self._keepalive = Keepalive(link, interval_s, silent_count) if interval_s > 0 else None
        return 0

    def lookupByName(self, name: str) -> virDomain:
        """The domain of that name."""
        function = "virDomainLookupByName"
        link = self._link(function)
        wanted = arguments.required_text(function, 2, "name", name)
        return self._domain(link, link.ask(lambda client: client.domain_lookup_by_name(wanted, timeout_s=None)))

    def lookupByUUIDString(self, uuidstr: str) -> virDomain:
        """The domain of that UUID, with or without dashes."""
        function = "virDomainLookupByUUIDString"
        link = self._link(function)
        wanted = arguments.required_text(function, 2, "uuidstr", uuidstr)
        return self._domain(link, link.ask(lambda client: client.domain_lookup_by_uuid(wanted, timeout_s=None)))

    def lookupByUUID(self, uuid: bytes) -> virDomain:
        """The domain of that UUID, as 16 bytes."""
        link = self._link("virDomainLookupByUUID")
        if not isinstance(uuid, bytes) or len(uuid) != _UUID_BYTES:
            raise libvirtError("virDomainLookupByUUID() failed")
        wanted = _uuid_text(uuid)
        return self._domain(link, link.ask(lambda client: client.domain_lookup_by_uuid(wanted, timeout_s=None)))

    def lookupByID(self, id: int) -> virDomain:
        """The active domain of that id."""
        wanted = arguments.signed_int(id)
        link = self._link("virDomainLookupByID")
        return self._domain(link, link.ask(lambda client: client.domain_lookup_by_id(wanted, timeout_s=None)))

    def listAllDomains(self, flags: int = 0) -> list[virDomain]:
        """The domains; flags are those of virConnectListAllDomains."""
        bits = arguments.flags(flags)
        link = self._link("virConnectListAllDomains")
        return [
            self._domain(link, each) for each in link.ask(lambda client: client.list_all_domains(bits, timeout_s=None))
        ]

    def listDomainsID(self) -> list[int]:
        """The ids of the active domains."""
        return [each.id for each in self._listed("virConnectListDomains", VIR_CONNECT_LIST_DOMAINS_ACTIVE)]

    def numOfDomains(self) -> int:
        """How many domains are active."""
        return len(self._listed("virConnectNumOfDomains", VIR_CONNECT_LIST_DOMAINS_ACTIVE))

    def listDefinedDomains(self) -> list[str]:
        """The names of the domains that are shut off."""
        found = self._listed("virConnectListDefinedDomains", VIR_CONNECT_LIST_DOMAINS_INACTIVE)
        return [each.name for each in found]

    def numOfDefinedDomains(self) -> int:
        """How many domains are shut off."""
        return len(self._listed("virConnectNumOfDefinedDomains", VIR_CONNECT_LIST_DOMAINS_INACTIVE))

    def defineXML(self, xml: str) -> virDomain:
        """Define a persistent domain, or change the definition of one."""
        return self._define("virDomainDefineXML", xml, 0, _DEFINE_REWORDED)

    def defineXMLFlags(self, xml: str, flags: int = 0) -> virDomain:
        """As `defineXML`, with flags."""
        return self._define("virDomainDefineXMLFlags", xml, arguments.flags(flags), ())

    def createXML(self, xmlDesc: str, flags: int = 0) -> virDomain:
        """Start a transient domain."""
        function, bits = "virDomainCreateXML", arguments.flags(flags)
        link = self._link(function)
        xml = arguments.required_text(function, 2, "xmlDesc", xmlDesc)
        return self._domain(
            link, link.change(function, lambda client: client.domain_create_xml(xml, bits, timeout_s=None))
        )

    def virConnGetLastError(self) -> RawError | None:
        """The last error on this connection, or None."""
        return self._link("virConnGetLastError").last_error

    def virConnResetLastError(self) -> None:
        """Forget it."""
        self._link("virConnResetLastError").last_error = None

    def _define(self, function: str, xml: str, flags: int, reworded: Rewording) -> virDomain:
        link = self._link(function)
        link.refuse_change(function)
        given = arguments.required_text(function, 2, "xml", xml)
        return self._domain(
            link, link.ask(lambda client: client.domain_define_xml(given, flags, timeout_s=None), reworded)
        )

    def _listed(self, function: str, flags: int) -> list[Domain]:
        return self._ask(function, lambda client: client.list_all_domains(flags, timeout_s=None))

    def _ask(self, function: str, call: Callable[[Client], T]) -> T:
        return self._link(function).ask(call)

    def _domain(self, link: Link, answered: Domain) -> virDomain:
        return virDomain(self, _obj=DomainHandle.of(link, answered))

    def _link(self, function: str, domain: int = 20) -> Link:
        """What the calls go through; libvirtError INVALID_CONN when it is closed."""
        if self._o is None:
            raise invalid_connection(function, domain)
        return self._o

    def _end(self) -> int:
        link, self._o = self._o, None
        if link is None:
            return 0
        if self._keepalive is not None:
            self._keepalive.stop()
        return link.release()


def _uuid_text(value: bytes) -> str:
    return str(uuid.UUID(bytes=value))
