# SPDX-License-Identifier: Apache-2.0
"""virConnect*: what libvirt's public layer does before the driver. Signatures first; the bodies follow."""

from __future__ import annotations

from dataclasses import dataclass

from virtblock.server.core.connections import Connections
from virtblock.server.core.model import Caller, Domain


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
    def __init__(self, connections: Connections) -> None: ...
    def get_version(self, caller: Caller, uri: str) -> int:
        raise NotImplementedError

    def get_lib_version(self, caller: Caller, uri: str) -> int:
        raise NotImplementedError

    def get_type(self, caller: Caller, uri: str) -> str:
        raise NotImplementedError

    def get_hostname(self, caller: Caller, uri: str) -> str:
        raise NotImplementedError

    def get_uri(self, caller: Caller, uri: str) -> str:
        raise NotImplementedError

    def get_capabilities(self, caller: Caller, uri: str) -> str:
        raise NotImplementedError

    def is_alive(self, caller: Caller, uri: str) -> bool:
        raise NotImplementedError

    def is_secure(self, caller: Caller, uri: str) -> bool:
        raise NotImplementedError

    def is_encrypted(self, caller: Caller, uri: str) -> bool:
        raise NotImplementedError

    def describe(self) -> ServerDescription:
        raise NotImplementedError

    def describe_connection(self, uri: str) -> ConnectionDescription:
        raise NotImplementedError

    def domain_lookup_by_name(self, caller: Caller, uri: str, name: str | None) -> Domain:
        raise NotImplementedError

    def domain_lookup_by_uuid(self, caller: Caller, uri: str, uuid: str | None) -> Domain:
        raise NotImplementedError

    def domain_lookup_by_id(self, caller: Caller, uri: str, domain_id: int) -> Domain:
        raise NotImplementedError

    def list_all_domains(self, caller: Caller, uri: str, flags: int) -> list[Domain]:
        raise NotImplementedError

    def domain_define_xml(self, caller: Caller, uri: str, xml: str | None, flags: int) -> Domain:
        raise NotImplementedError

    def domain_create_xml(self, caller: Caller, uri: str, xml: str | None, flags: int) -> Domain:
        raise NotImplementedError
