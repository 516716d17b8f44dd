# SPDX-License-Identifier: Apache-2.0
"""What GetCapabilities and ListConnections answer: the truth about each connection, in the contract's names.

Owns: the one table from a driver's method to the RPCs that need it. Invariants: every RPC of the contract is in the
table (with None: it needs no method of a driver); what is not offered by the driver's own class is not listed.
"""

from __future__ import annotations

from virtblock.server.core.connect_api import ConnectApi, ConnectionDescription
from virtblock.server.core.errors import VirError
from virtblock.server.core.model import Caller
from virtblock.v1 import connect_service_pb2 as messages

API_VERSION = "v1"

_PACKAGE = "virtblock.v1"
_CONNECT = f"{_PACKAGE}.ConnectService"
_DOMAIN = f"{_PACKAGE}.DomainService"
_BLOCK_JOB = f"{_PACKAGE}.BlockJobService"

# RPC -> the driver's method without which it answers NO_SUPPORT.
DRIVER_METHOD_BY_RPC: dict[str, str | None] = {
    f"{_CONNECT}/GetVersion": "get_version",
    f"{_CONNECT}/GetLibVersion": "get_lib_version",
    f"{_CONNECT}/GetType": "get_type",
    f"{_CONNECT}/GetHostname": "get_hostname",
    f"{_CONNECT}/GetURI": None,
    f"{_CONNECT}/GetCapabilities": "get_capabilities",
    f"{_CONNECT}/IsAlive": "is_alive",
    f"{_CONNECT}/IsSecure": "is_secure",
    f"{_CONNECT}/IsEncrypted": "is_encrypted",
    f"{_CONNECT}/ListConnections": None,
    f"{_CONNECT}/DomainLookupByName": "domain_lookup_by_name",
    f"{_CONNECT}/DomainLookupByUUID": "domain_lookup_by_uuid",
    f"{_CONNECT}/DomainLookupByID": "domain_lookup_by_id",
    f"{_CONNECT}/ListAllDomains": "list_all_domains",
    f"{_CONNECT}/DomainDefineXML": "domain_define_xml",
    f"{_CONNECT}/DomainCreateXML": "domain_create_xml",
    f"{_CONNECT}/DomainEventRegisterAny": None,
    f"{_DOMAIN}/GetXMLDesc": "domain_get_xml_desc",
    f"{_DOMAIN}/GetState": "domain_get_state",
    f"{_DOMAIN}/GetInfo": "domain_get_info",
    f"{_DOMAIN}/IsActive": None,
    f"{_DOMAIN}/IsPersistent": None,
    f"{_DOMAIN}/Create": "domain_create",
    f"{_DOMAIN}/Destroy": "domain_destroy",
    f"{_DOMAIN}/Shutdown": "domain_shutdown",
    f"{_DOMAIN}/Undefine": "domain_undefine",
    f"{_DOMAIN}/Suspend": "domain_suspend",
    f"{_DOMAIN}/Resume": "domain_resume",
    f"{_DOMAIN}/BlockRebase": "domain_block_rebase",
    f"{_DOMAIN}/BlockCopy": "domain_block_copy",
    f"{_DOMAIN}/BlockPull": "domain_block_pull",
    f"{_DOMAIN}/BlockCommit": "domain_block_commit",
    f"{_DOMAIN}/BlockJobAbort": "domain_block_job_abort",
    f"{_DOMAIN}/GetBlockJobInfo": "domain_get_block_job_info",
    f"{_DOMAIN}/BlockJobSetSpeed": "domain_block_job_set_speed",
    f"{_DOMAIN}/BlockResize": "domain_block_resize",
    f"{_DOMAIN}/GetBlockInfo": "domain_get_block_info",
    f"{_DOMAIN}/BlockStats": "domain_block_stats",
    f"{_DOMAIN}/Save": "domain_save",
    f"{_DOMAIN}/SaveFlags": "domain_save",
    f"{_DOMAIN}/ManagedSave": "domain_managed_save",
    f"{_DOMAIN}/SnapshotCreateXML": "domain_snapshot_create_xml",
    f"{_DOMAIN}/RevertToSnapshot": "domain_revert_to_snapshot",
    f"{_DOMAIN}/DetachDevice": "domain_detach_device",
    f"{_DOMAIN}/DetachDeviceFlags": "domain_detach_device",
    f"{_DOMAIN}/ListDisks": "domain_list_disks",
    f"{_BLOCK_JOB}/GetBlockJob": None,
    f"{_BLOCK_JOB}/ListBlockJobs": None,
    f"{_BLOCK_JOB}/WaitBlockJob": None,
    f"{_BLOCK_JOB}/PauseBlockJob": "block_job_pause",
    f"{_BLOCK_JOB}/ResumeBlockJob": "block_job_resume",
    f"{_BLOCK_JOB}/WatchBlockJobs": None,
    f"{_BLOCK_JOB}/WatchBlockMap": "block_job_map",
    f"{_BLOCK_JOB}/ListBlockBitmaps": "list_block_bitmaps",
    f"{_BLOCK_JOB}/AddBlockBitmap": "add_block_bitmap",
    f"{_BLOCK_JOB}/RemoveBlockBitmap": "remove_block_bitmap",
    f"{_BLOCK_JOB}/ClearBlockBitmap": "clear_block_bitmap",
}
# RPCs that call a driver's method with flags but take none themselves.
_WITHOUT_FLAGS = {f"{_DOMAIN}/Shutdown", f"{_DOMAIN}/Save", f"{_DOMAIN}/DetachDevice"}


def capabilities_message(
    api: ConnectApi, caller: Caller, uri: str, server_version: str
) -> messages.GetCapabilitiesResponse:
    """The whole answer of GetCapabilities; asks the hypervisor, so it is run in a worker."""
    return messages.GetCapabilitiesResponse(
        capabilities_xml=api.get_capabilities(caller, uri),
        server_version=server_version,
        api_version=API_VERSION,
        connection=_connection_capabilities(api, caller, api.describe_connection(uri)),
    )


def connections_message(api: ConnectApi, caller: Caller) -> messages.ListConnectionsResponse:
    """The whole answer of ListConnections. A connection that does not answer is listed as not alive."""
    response = messages.ListConnectionsResponse()
    for description in api.describe().connections:
        uri = description.uri
        connection = response.connections.add(uri=uri, is_default=description.is_default)
        try:
            connection.type = api.get_type(caller, uri)
            connection.alive = api.is_alive(caller, uri)
        except VirError:
            connection.alive = False
    return response


def _connection_capabilities(
    api: ConnectApi, caller: Caller, description: ConnectionDescription
) -> messages.ConnectionCapabilities:
    offered = set(description.methods)
    rpcs = [rpc for rpc, method in DRIVER_METHOD_BY_RPC.items() if method is None or method in offered]
    return messages.ConnectionCapabilities(
        uri=description.uri,
        hypervisor_version=api.get_version(caller, description.uri) if "get_version" in offered else 0,
        lib_version=api.get_lib_version(caller, description.uri) if "get_lib_version" in offered else 0,
        rpcs=rpcs,
        flags=[
            messages.SupportedFlags(rpc=rpc, flags=description.flag_masks[method])
            for rpc in rpcs
            if (method := DRIVER_METHOD_BY_RPC[rpc]) in description.flag_masks and rpc not in _WITHOUT_FLAGS
        ],
        features=description.features,
    )
