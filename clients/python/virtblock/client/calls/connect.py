# SPDX-License-Identifier: Apache-2.0
"""The calls of `ConnectService`. `default_uri` is the client's connection; `connection_uri` names another one for one
call.
"""

from __future__ import annotations

from collections.abc import Iterable

from virtblock.client import decode, encode
from virtblock.client.calls.call import CONNECT_SERVICE, DEFAULT_TIMEOUT_S, Call, StreamCall, answer
from virtblock.client.enums import DomainEventId
from virtblock.client.flags import DomainCreateFlags, DomainDefineFlags, DomainListFlags
from virtblock.client.model import Capabilities, Connection, Domain, DomainEvent, DomainLike
from virtblock.v1 import connect_service_pb2 as pb

SERVICE = CONNECT_SERVICE


def get_version(
    default_uri: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[int]:
    """Returns major * 1000000 + minor * 1000 + release; 0: the hypervisor has none, as the embedded one."""
    request = pb.GetVersionRequest(connection_uri=connection_uri or default_uri)
    return Call(SERVICE, "GetVersion", request, answer(pb.GetVersionResponse, lambda r: r.version), timeout_s)


def get_lib_version(
    default_uri: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[int]:
    """Returns major * 1000000 + minor * 1000 + release; for the embedded hypervisor the version whose behaviour it
    follows.
    """
    request = pb.GetLibVersionRequest(connection_uri=connection_uri or default_uri)
    return Call(SERVICE, "GetLibVersion", request, answer(pb.GetLibVersionResponse, lambda r: r.lib_version), timeout_s)


def get_type(default_uri: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[str]:
    """Returns for example "QEMU" or "Embedded"."""
    request = pb.GetTypeRequest(connection_uri=connection_uri or default_uri)
    return Call(SERVICE, "GetType", request, answer(pb.GetTypeResponse, lambda r: r.type), timeout_s)


def get_hostname(
    default_uri: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[str]:
    """Returns the host name."""
    request = pb.GetHostnameRequest(connection_uri=connection_uri or default_uri)
    return Call(SERVICE, "GetHostname", request, answer(pb.GetHostnameResponse, lambda r: r.hostname), timeout_s)


def get_uri(default_uri: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[str]:
    """Returns the URI, never empty: also that of the server's default connection."""
    request = pb.GetURIRequest(connection_uri=connection_uri or default_uri)
    return Call(SERVICE, "GetURI", request, answer(pb.GetURIResponse, lambda r: r.uri), timeout_s)


def get_capabilities(
    default_uri: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[Capabilities]:
    """Returns the server's versions, the hypervisor's capabilities as XML, and what works."""
    request = pb.GetCapabilitiesRequest(connection_uri=connection_uri or default_uri)
    parse = answer(pb.GetCapabilitiesResponse, decode.capabilities)
    return Call(SERVICE, "GetCapabilities", request, parse, timeout_s)


def is_alive(default_uri: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[bool]:
    """Returns True while it is. Whether the server itself is alive shows in that the call returns."""
    request = pb.IsAliveRequest(connection_uri=connection_uri or default_uri)
    return Call(SERVICE, "IsAlive", request, answer(pb.IsAliveResponse, lambda r: r.alive), timeout_s)


def is_secure(default_uri: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[bool]:
    """Returns True for a local socket, for an encrypted link, and inside one process."""
    request = pb.IsSecureRequest(connection_uri=connection_uri or default_uri)
    return Call(SERVICE, "IsSecure", request, answer(pb.IsSecureResponse, lambda r: r.secure), timeout_s)


def is_encrypted(
    default_uri: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[bool]:
    """Returns True for an encrypted link."""
    request = pb.IsEncryptedRequest(connection_uri=connection_uri or default_uri)
    return Call(SERVICE, "IsEncrypted", request, answer(pb.IsEncryptedResponse, lambda r: r.encrypted), timeout_s)


def list_connections(default_uri: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[list[Connection]]:
    """Returns the connections, the default one first."""
    parse = answer(pb.ListConnectionsResponse, lambda r: [decode.connection(each) for each in r.connections])
    return Call(SERVICE, "ListConnections", pb.ListConnectionsRequest(), parse, timeout_s)


def domain_lookup_by_name(
    default_uri: str, name: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[Domain]:
    """Returns the domain."""
    request = pb.DomainLookupByNameRequest(connection_uri=connection_uri or default_uri, name=name)
    parse = answer(pb.DomainLookupByNameResponse, lambda r: decode.domain(r.domain))
    return Call(SERVICE, "DomainLookupByName", request, parse, timeout_s)


def domain_lookup_by_uuid(
    default_uri: str, uuid: str, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[Domain]:
    """Takes the UUID with or without dashes; returns the domain."""
    request = pb.DomainLookupByUUIDRequest(connection_uri=connection_uri or default_uri, uuid=uuid)
    parse = answer(pb.DomainLookupByUUIDResponse, lambda r: decode.domain(r.domain))
    return Call(SERVICE, "DomainLookupByUUID", request, parse, timeout_s)


def domain_lookup_by_id(
    default_uri: str, id: int, *, connection_uri: str = "", timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[Domain]:
    """Returns the domain."""
    request = pb.DomainLookupByIDRequest(connection_uri=connection_uri or default_uri, id=id)
    parse = answer(pb.DomainLookupByIDResponse, lambda r: decode.domain(r.domain))
    return Call(SERVICE, "DomainLookupByID", request, parse, timeout_s)


def list_all_domains(
    default_uri: str,
    flags: DomainListFlags | int = 0,
    *,
    connection_uri: str = "",
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[list[Domain]]:
    """Returns the domains by name; without flags all of them."""
    request = pb.ListAllDomainsRequest(connection_uri=connection_uri or default_uri, flags=flags)
    parse = answer(pb.ListAllDomainsResponse, lambda r: [decode.domain(each) for each in r.domains])
    return Call(SERVICE, "ListAllDomains", request, parse, timeout_s)


def domain_define_xml(
    default_uri: str,
    xml: str,
    flags: DomainDefineFlags | int = 0,
    *,
    connection_uri: str = "",
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[Domain]:
    """Takes the domain's XML; returns the domain."""
    request = pb.DomainDefineXMLRequest(connection_uri=connection_uri or default_uri, xml=xml, flags=flags)
    parse = answer(pb.DomainDefineXMLResponse, lambda r: decode.domain(r.domain))
    return Call(SERVICE, "DomainDefineXML", request, parse, timeout_s)


def domain_create_xml(
    default_uri: str,
    xml: str,
    flags: DomainCreateFlags | int = 0,
    *,
    connection_uri: str = "",
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[Domain]:
    """Takes the domain's XML; returns the domain."""
    request = pb.DomainCreateXMLRequest(connection_uri=connection_uri or default_uri, xml=xml, flags=flags)
    parse = answer(pb.DomainCreateXMLResponse, lambda r: decode.domain(r.domain))
    return Call(SERVICE, "DomainCreateXML", request, parse, timeout_s)


def domain_events(
    default_uri: str,
    event_ids: Iterable[DomainEventId | int] = (DomainEventId.LIFECYCLE,),
    domain: DomainLike | None = None,
    *,
    connection_uri: str = "",
    timeout_s: float | None = None,
) -> StreamCall[DomainEvent]:
    """Iterates events of these kinds, of one domain or of all. Entering the stream by `with` waits until it is
    registered: whatever happens after that is on it. It is not resumed when the connection breaks; VirError says so.

    `timeout_s` ends the stream with VirError OPERATION_TIMEOUT.
    """
    uri = connection_uri or default_uri
    request = pb.DomainEventRegisterAnyRequest(
        connection_uri=uri,
        domain=None if domain is None else encode.selector(uri, domain),
        event_ids=encode.event_ids(event_ids),
    )
    parse = answer(pb.DomainEventRegisterAnyResponse, decode.domain_event)
    return StreamCall(SERVICE, "DomainEventRegisterAny", request, parse, timeout_s)
