# SPDX-License-Identifier: Apache-2.0
"""virConnect*: what libvirt's public layer does before a driver sees the call.

Owns: the checks of connections, look-ups and definitions, and the description of what works. Invariants: checks run
in libvirt's order; nothing is described that a driver's class does not define. Methods block; they are called from
worker threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from virtblock.server.core.connections import Connections, offers, require
from virtblock.server.core.driver import BlockJobOps, ConnectOps, DomainOps, Driver
from virtblock.server.core.errors import ErrorDomain
from virtblock.server.core.lookup import DomainLookup, check_unsigned, given, refuse_read_only
from virtblock.server.core.model import Caller, Domain

# Methods of ConnectOps that serve the server itself; no caller can ask for them.
_INTERNAL_METHODS = frozenset({"open", "close", "engine_features"})


def _driver_methods() -> tuple[str, ...]:
    """The names of all calls that a driver may offer, read from the Protocols."""
    names = [name for protocol in (ConnectOps, DomainOps, BlockJobOps) for name in vars(protocol)]
    return tuple(name for name in names if not name.startswith("_") and name not in _INTERNAL_METHODS)


@dataclass(frozen=True)
class ConnectionDescription:
    """What works on one connection. `methods` are driver method names; `flag_masks` has the accepted flags of those."""

    uri: str
    is_default: bool
    methods: tuple[str, ...]
    flag_masks: dict[str, int]
    features: tuple[str, ...]


@dataclass(frozen=True)
class ServerDescription:
    """The truth about every connection, the default one first."""

    connections: tuple[ConnectionDescription, ...]


class ConnectApi:
    """The calls of ConnectService, without the event stream (`BlockJobApi.watch_domain_events`)."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lookup = DomainLookup(connections)

    def get_version(self, caller: Caller, uri: str) -> int:
        """virConnectGetVersion: major * 1000000 + minor * 1000 + release."""
        return self._host_call(uri, "get_version", "virConnectGetVersion").get_version()

    def get_lib_version(self, caller: Caller, uri: str) -> int:
        """virConnectGetLibVersion, in the form of `get_version`."""
        return self._host_call(uri, "get_lib_version", "virConnectGetLibVersion").get_lib_version()

    def get_type(self, caller: Caller, uri: str) -> str:
        """virConnectGetType."""
        return self._host_call(uri, "get_type", "virConnectGetType").get_type()

    def get_hostname(self, caller: Caller, uri: str) -> str:
        """virConnectGetHostname."""
        return self._host_call(uri, "get_hostname", "virConnectGetHostname").get_hostname()

    def get_uri(self, caller: Caller, uri: str) -> str:
        """virConnectGetURI."""
        return self._connections.resolve(uri).uri

    def get_capabilities(self, caller: Caller, uri: str) -> str:
        """virConnectGetCapabilities: XML. For what works, see `describe_connection`."""
        return self._host_call(uri, "get_capabilities", "virConnectGetCapabilities").get_capabilities()

    def is_alive(self, caller: Caller, uri: str) -> bool:
        """virConnectIsAlive."""
        return self._host_call(uri, "is_alive", "virConnectIsAlive").is_alive()

    def is_secure(self, caller: Caller, uri: str) -> bool:
        """virConnectIsSecure."""
        return self._host_call(uri, "is_secure", "virConnectIsSecure").is_secure()

    def is_encrypted(self, caller: Caller, uri: str) -> bool:
        """virConnectIsEncrypted."""
        return self._host_call(uri, "is_encrypted", "virConnectIsEncrypted").is_encrypted()

    def describe(self) -> ServerDescription:
        """What works on every connection."""
        return ServerDescription(tuple(self.describe_connection(uri) for uri in self._connections.uris))

    def describe_connection(self, uri: str) -> ConnectionDescription:
        """What works on one connection, read from its driver's class."""
        driver = self._connections.resolve(uri)
        refusals: frozenset[str] = getattr(driver, "refusals", frozenset())
        methods = tuple(name for name in _driver_methods() if offers(driver, name) and name not in refusals)
        masks: dict[str, int] = getattr(driver, "flag_masks", {})
        return ConnectionDescription(
            uri=driver.uri,
            is_default=driver.uri == self._connections.default_uri,
            methods=methods,
            flag_masks={name: int(mask) for name, mask in masks.items() if name in methods},
            features=tuple(driver.engine_features()) if offers(driver, "engine_features") else (),
        )

    def domain_lookup_by_name(self, caller: Caller, uri: str, name: str | None) -> Domain:
        """virDomainLookupByName."""
        return self._lookup.by_name(uri, name)

    def domain_lookup_by_uuid(self, caller: Caller, uri: str, uuid: str | None) -> Domain:
        """virDomainLookupByUUIDString; with or without dashes."""
        return self._lookup.by_uuid(uri, uuid)

    def domain_lookup_by_id(self, caller: Caller, uri: str, domain_id: int) -> Domain:
        """virDomainLookupByID."""
        return self._lookup.by_id(uri, domain_id)

    def list_all_domains(self, caller: Caller, uri: str, flags: int) -> list[Domain]:
        """virConnectListAllDomains."""
        driver = self._connections.resolve(uri)
        check_unsigned(flags, "flags", bit_count=32)
        require(driver, "list_all_domains", "virConnectListAllDomains")
        return driver.list_all_domains(flags)

    def domain_define_xml(self, caller: Caller, uri: str, xml: str | None, flags: int) -> Domain:
        """virDomainDefineXMLFlags: read-only before NULL."""
        driver = self._connections.resolve(uri)
        function = "virDomainDefineXMLFlags"
        refuse_read_only(caller, function)
        xml = given(xml, "xml", function)
        check_unsigned(flags, "flags", bit_count=32)
        require(driver, "domain_define_xml", function)
        return driver.domain_define_xml(xml, flags)

    def domain_create_xml(self, caller: Caller, uri: str, xml: str | None, flags: int) -> Domain:
        """virDomainCreateXML: NULL before read-only."""
        driver = self._connections.resolve(uri)
        function = "virDomainCreateXML"
        xml = given(xml, "xmlDesc", function)
        refuse_read_only(caller, function)
        check_unsigned(flags, "flags", bit_count=32)
        require(driver, "domain_create_xml", function)
        return driver.domain_create_xml(xml, flags)

    def _host_call(self, uri: str, method: str, function: str) -> Driver:
        """The driver, when it offers a call of libvirt-host.c, whose errors have no domain."""
        driver = self._connections.resolve(uri)
        require(driver, method, function, domain=ErrorDomain.NONE)
        return driver
