# SPDX-License-Identifier: Apache-2.0
"""ConnectService: virConnect*. Each method decodes, makes one call of the core, and encodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from virtblock.server.rpc.capabilities import capabilities_message, connections_message
from virtblock.server.rpc.convert import domain_event_message, domain_message, selector_of
from virtblock.server.rpc.servicing import Context, Servicing
from virtblock.v1 import connect_service_pb2 as messages
from virtblock.v1 import connect_service_pb2_grpc


class ConnectServicer(Servicing, connect_service_pb2_grpc.ConnectServiceServicer):
    """virConnect*, by libvirt's names without `virConnect`."""

    async def GetVersion(self, request: messages.GetVersionRequest, context: Context) -> messages.GetVersionResponse:
        api, caller = self._floor.connect, self._caller(context)
        version = await self._cheap(api.get_version, caller, request.connection_uri)
        return messages.GetVersionResponse(version=version)

    async def GetLibVersion(
        self, request: messages.GetLibVersionRequest, context: Context
    ) -> messages.GetLibVersionResponse:
        api, caller = self._floor.connect, self._caller(context)
        lib_version = await self._cheap(api.get_lib_version, caller, request.connection_uri)
        return messages.GetLibVersionResponse(lib_version=lib_version)

    async def GetType(self, request: messages.GetTypeRequest, context: Context) -> messages.GetTypeResponse:
        api, caller = self._floor.connect, self._caller(context)
        return messages.GetTypeResponse(type=await self._cheap(api.get_type, caller, request.connection_uri))

    async def GetHostname(self, request: messages.GetHostnameRequest, context: Context) -> messages.GetHostnameResponse:
        api, caller = self._floor.connect, self._caller(context)
        hostname = await self._cheap(api.get_hostname, caller, request.connection_uri)
        return messages.GetHostnameResponse(hostname=hostname)

    async def GetURI(self, request: messages.GetURIRequest, context: Context) -> messages.GetURIResponse:
        api, caller = self._floor.connect, self._caller(context)
        return messages.GetURIResponse(uri=await self._cheap(api.get_uri, caller, request.connection_uri))

    async def GetCapabilities(
        self, request: messages.GetCapabilitiesRequest, context: Context
    ) -> messages.GetCapabilitiesResponse:
        return await self._cheap(
            capabilities_message,
            self._floor.connect,
            self._caller(context),
            request.connection_uri,
            self._floor.server_version,
        )

    async def IsAlive(self, request: messages.IsAliveRequest, context: Context) -> messages.IsAliveResponse:
        api, caller = self._floor.connect, self._caller(context)
        return messages.IsAliveResponse(alive=await self._cheap(api.is_alive, caller, request.connection_uri))

    async def IsSecure(self, request: messages.IsSecureRequest, context: Context) -> messages.IsSecureResponse:
        api, caller = self._floor.connect, self._caller(context)
        return messages.IsSecureResponse(secure=await self._cheap(api.is_secure, caller, request.connection_uri))

    async def IsEncrypted(self, request: messages.IsEncryptedRequest, context: Context) -> messages.IsEncryptedResponse:
        api, caller = self._floor.connect, self._caller(context)
        encrypted = await self._cheap(api.is_encrypted, caller, request.connection_uri)
        return messages.IsEncryptedResponse(encrypted=encrypted)

    async def ListConnections(
        self, request: messages.ListConnectionsRequest, context: Context
    ) -> messages.ListConnectionsResponse:
        return await self._cheap(connections_message, self._floor.connect, self._caller(context))

    async def DomainLookupByName(
        self, request: messages.DomainLookupByNameRequest, context: Context
    ) -> messages.DomainLookupByNameResponse:
        api, caller = self._floor.connect, self._caller(context)
        domain = await self._cheap(api.domain_lookup_by_name, caller, request.connection_uri, request.name)
        return messages.DomainLookupByNameResponse(domain=domain_message(domain))

    async def DomainLookupByUUID(
        self, request: messages.DomainLookupByUUIDRequest, context: Context
    ) -> messages.DomainLookupByUUIDResponse:
        api, caller = self._floor.connect, self._caller(context)
        domain = await self._cheap(api.domain_lookup_by_uuid, caller, request.connection_uri, request.uuid)
        return messages.DomainLookupByUUIDResponse(domain=domain_message(domain))

    async def DomainLookupByID(
        self, request: messages.DomainLookupByIDRequest, context: Context
    ) -> messages.DomainLookupByIDResponse:
        api, caller = self._floor.connect, self._caller(context)
        domain = await self._cheap(api.domain_lookup_by_id, caller, request.connection_uri, request.id)
        return messages.DomainLookupByIDResponse(domain=domain_message(domain))

    async def ListAllDomains(
        self, request: messages.ListAllDomainsRequest, context: Context
    ) -> messages.ListAllDomainsResponse:
        api, caller = self._floor.connect, self._caller(context)
        domains = await self._cheap(api.list_all_domains, caller, request.connection_uri, request.flags)
        return messages.ListAllDomainsResponse(domains=map(domain_message, domains))

    async def DomainDefineXML(
        self, request: messages.DomainDefineXMLRequest, context: Context
    ) -> messages.DomainDefineXMLResponse:
        api, caller = self._floor.connect, self._caller(context)
        domain = await self._blocking(api.domain_define_xml, caller, request.connection_uri, request.xml, request.flags)
        return messages.DomainDefineXMLResponse(domain=domain_message(domain))

    async def DomainCreateXML(
        self, request: messages.DomainCreateXMLRequest, context: Context
    ) -> messages.DomainCreateXMLResponse:
        api, caller = self._floor.connect, self._caller(context)
        domain = await self._blocking(api.domain_create_xml, caller, request.connection_uri, request.xml, request.flags)
        return messages.DomainCreateXMLResponse(domain=domain_message(domain))

    async def DomainEventRegisterAny(
        self, request: messages.DomainEventRegisterAnyRequest, context: Context
    ) -> AsyncGenerator[messages.DomainEventRegisterAnyResponse, None]:
        selector = selector_of(request.domain) if request.HasField("domain") else None
        items = self._floor.jobs.watch_domain_events(
            self._caller(context), request.connection_uri, selector, request.event_ids
        )
        async for item in self._until_stopped(items):
            yield domain_event_message(item)
