# SPDX-License-Identifier: Apache-2.0
"""Every RPC of the contract is served: answered by the core or refused with a VirError, never by gRPC's UNIMPLEMENTED.

The RPCs are walked by their descriptors, so one that is added to the contract and to no servicer fails here.
"""

from __future__ import annotations

import inspect
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from virtblock.server.core.errors import ErrorNumber
from virtblock.server.core.jobs import Origin
from virtblock.server.core.model import BlockJob, BlockJobType, JobState
from virtblock.server.rpc.block_job_servicer import BlockJobServicer
from virtblock.server.rpc.capabilities import DRIVER_METHOD_BY_RPC
from virtblock.server.rpc.connect_servicer import ConnectServicer
from virtblock.server.rpc.domain_servicer import DomainServicer
from virtblock.v1 import block_job_service_pb2, connect_service_pb2, domain_service_pb2

SERVICERS = {
    "virtblock.v1.ConnectService": ConnectServicer,
    "virtblock.v1.DomainService": DomainServicer,
    "virtblock.v1.BlockJobService": BlockJobServicer,
}
METHODS: list[MethodDescriptor] = [
    method
    for file in (connect_service_pb2, domain_service_pb2, block_job_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
# What a read-only connection may call; everything else changes something.
READING = {
    "GetVersion", "GetLibVersion", "GetType", "GetHostname", "GetURI", "GetCapabilities", "IsAlive", "IsSecure",
    "IsEncrypted", "ListConnections", "DomainLookupByName", "DomainLookupByUUID", "DomainLookupByID", "ListAllDomains",
    "DomainEventRegisterAny", "GetXMLDesc", "GetState", "GetInfo", "IsActive", "IsPersistent", "GetBlockJobInfo",
    "GetBlockInfo", "BlockStats", "ListDisks", "GetBlockJob", "ListBlockJobs", "WaitBlockJob", "WatchBlockJobs",
    "WatchBlockMap",
    "ListBlockBitmaps",
}  # fmt: skip
SERVICER_LINES_MAX = 12
TIMEOUT_S = 60


def full_name(method: MethodDescriptor) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


def sensible_request(method: MethodDescriptor, job_id: str) -> Any:
    """A request in which everything that is required is given, with plausible values."""
    request: Any = message_factory.GetMessageClass(method.input_type)()
    for field in method.input_type.fields:
        if field.name == "domain":
            request.domain.name = "guest"
        elif field.name == "job_id":
            request.job_id = job_id
        elif field.name == "timeout_ms":
            request.timeout_ms = 1
        elif field.name in {"disk", "base", "dest_xml", "to", "xml", "name", "uuid", "snapshot_name"}:
            texts = {"uuid": "0a0b0c0d-0000-4000-8000-000000000001", "name": "guest", "disk": "vda", "base": "/new"}
            setattr(request, field.name, texts.get(field.name, "<x/>"))
    return request


async def call(channel: grpc.aio.Channel, method: MethodDescriptor, request: Any) -> Any:
    """The answer, or a stream's first one."""
    path = f"/{full_name(method)}"
    decode = message_factory.GetMessageClass(method.output_type).FromString
    kind: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    stub = kind(path, request_serializer=type(request).SerializeToString, response_deserializer=decode)
    answer = stub(request, timeout=TIMEOUT_S)
    if not method.server_streaming:
        return await answer
    first = await answer.read()
    answer.cancel()
    return first


@pytest.fixture
def job_id(stack: Any) -> str:
    """A running job of the fake connection."""
    job = BlockJob(
        job_id="",
        connection_uri="fake:///",
        domain_uuid="0a0b0c0d-0000-4000-8000-000000000001",
        domain_name="guest",
        disk="vdb",
        type=BlockJobType.COPY,
        state=JobState.NEW,
        source_path="/source",
        destination_path="/destination",
        destination_format="raw",
        flags=0,
        bandwidth_bytes_per_s=0,
    )
    return str(stack.jobs.begin(job, Origin()).job_id)


def test_the_walk_sees_the_whole_contract() -> None:
    assert len(METHODS) >= 53
    assert {method.name for method in METHODS} >= READING


@pytest.mark.parametrize("method", METHODS, ids=full_name)
def test_a_servicer_has_the_method_and_it_is_short(method: MethodDescriptor) -> None:
    servicer = SERVICERS[method.containing_service.full_name]
    assert method.name in vars(servicer), "inherited from the generated class, which answers UNIMPLEMENTED"
    body = inspect.getsource(vars(servicer)[method.name]).split(":\n", 1)[1]
    assert len(body.strip().splitlines()) <= SERVICER_LINES_MAX


@pytest.mark.parametrize("method", METHODS, ids=full_name)
async def test_every_rpc_is_answered_by_the_core(method: MethodDescriptor, stubs: Any, job_id: str, told: Any) -> None:
    try:
        await call(stubs.channel, method, sensible_request(method, job_id))
    except grpc.aio.AioRpcError as failure:
        error = told(failure).error
        assert error.number in {ErrorNumber.NO_SUPPORT, ErrorNumber.INVALID_ARG, ErrorNumber.XML_ERROR}, error
        assert error.message


@pytest.mark.parametrize("method", METHODS, ids=full_name)
async def test_an_empty_request_is_answered_or_told_what_it_lacks(
    method: MethodDescriptor, stubs: Any, told: Any
) -> None:
    try:
        await call(stubs.channel, method, message_factory.GetMessageClass(method.input_type)())
    except grpc.aio.AioRpcError as failure:
        number = told(failure).error.number
        expected = {
            ErrorNumber.NO_SUPPORT,
            ErrorNumber.INVALID_ARG,
            ErrorNumber.INVALID_DOMAIN,
            ErrorNumber.NO_DOMAIN,
            ErrorNumber.XML_ERROR,
        }
        assert number in expected


@pytest.mark.parametrize("method", [method for method in METHODS if method.name not in READING], ids=full_name)
async def test_what_changes_something_is_denied_on_the_read_only_socket(
    method: MethodDescriptor, read_only_stubs: Any, job_id: str, told: Any
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(read_only_stubs.channel, method, sensible_request(method, job_id))
    seen = told(failure.value)
    assert (seen.code, seen.error.number) == (grpc.StatusCode.PERMISSION_DENIED, ErrorNumber.OPERATION_DENIED)
    assert seen.info.reason == "VIR_ERR_OPERATION_DENIED"
    assert seen.error.message.startswith("operation forbidden: read only access prevents ")


@pytest.mark.parametrize("method", [method for method in METHODS if method.name in READING], ids=full_name)
async def test_what_only_looks_is_not_denied_there(
    method: MethodDescriptor, read_only_stubs: Any, job_id: str, told: Any
) -> None:
    try:
        await call(read_only_stubs.channel, method, sensible_request(method, job_id))
    except grpc.aio.AioRpcError as failure:
        number = told(failure).error.number
        assert number != ErrorNumber.OPERATION_DENIED


def test_the_table_of_capabilities_names_every_rpc() -> None:
    assert DRIVER_METHOD_BY_RPC.keys() == {full_name(method) for method in METHODS}


async def test_capabilities_tell_what_the_driver_has(stubs: Any) -> None:
    answer = await stubs.connect.GetCapabilities(connect_service_pb2.GetCapabilitiesRequest())
    connection = answer.connection
    assert (connection.uri, answer.api_version, answer.server_version) == ("fake:///", "v1", "0.0.test")
    assert "virtblock.v1.DomainService/GetXMLDesc" in connection.rpcs
    assert "virtblock.v1.DomainService/BlockRebase" not in connection.rpcs
    assert {entry.rpc: entry.flags for entry in connection.flags}["virtblock.v1.DomainService/GetXMLDesc"] == 7


@pytest.mark.parametrize("method", METHODS, ids=full_name)
async def test_what_capabilities_list_is_supported_and_nothing_else_is(
    method: MethodDescriptor, stubs: Any, job_id: str, told: Any
) -> None:
    listed = (await stubs.connect.GetCapabilities(connect_service_pb2.GetCapabilitiesRequest())).connection.rpcs
    number = None
    try:
        await call(stubs.channel, method, sensible_request(method, job_id))
    except grpc.aio.AioRpcError as failure:
        number = told(failure).error.number
    assert (number == ErrorNumber.NO_SUPPORT) == (full_name(method) not in listed)
