# SPDX-License-Identifier: Apache-2.0
"""Every RPC of the contract is a method of both clients, sends what it was given and shows what came back."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import IntEnum, IntFlag
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from client.fake_server import METHODS, FakeServer
from client.front_ends import FrontEnd
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from virtblock.client import (
    AsyncClient,
    BlockJobFilter,
    BlockJobState,
    BlockMapCellState,
    Client,
    Domain,
    DomainSelector,
    DomainState,
    TypedParameter,
    TypedParameterType,
    enums,
    error_numbers,
    flags,
)
from virtblock.client.channel import REPEATABLE_RPCS
from virtblock.v1 import (
    block_job_pb2,
    block_job_service_pb2,
    connect_service_pb2,
    domain_block_pb2,
    errors_pb2,
    libvirt_enums_pb2,
)

ROOT = Path(__file__).resolve().parents[2]
RPCS = {path.rsplit("/", 1)[1]: method for path, method in METHODS.items()}
UUID = "1f2e3d4c-0000-4000-8000-00000000000a"

# What each parameter is given, by its name; every value is told apart from every other and from the default.
GIVEN: dict[str, Any] = {
    "domain": "guest",
    "disk": "vda",
    "base": "/images/base",
    "top": "vda[1]",
    "dest_xml": "<disk/>",
    "xml": "<domain/>",
    "dxml": "<other/>",
    "to": "/save",
    "name": "guest-name",
    "uuid": UUID,
    "id": 7,
    "snapshot_name": "snap",
    "job_id": "job-1",
    "bandwidth": 11,
    "size": 12,
    "flags": 3,
    "page_size": 13,
    "page_token": "page",
    "cell_count": 14,
    "include_ended": True,
    "pivot_persistent": True,
    "granularity_bytes": 4096,
    "disabled": True,
    "request_id": "request-1",
    "resume_token": "token",
    "include_snapshot": True,
    "connection_uri": "test:///other",
}


def _generator(name: str) -> ModuleType:
    """One of the client's generators, which are scripts."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "clients" / "python" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


CALLS = _generator("generate_calls")
ENUMS = _generator("generate_enums")


def _signature(client: type, method: str) -> str:
    """The signature as written, with the asyncio client's own types under the blocking one's names."""
    return str(inspect.signature(getattr(client, method))).replace("Async", "")


@pytest.mark.parametrize("rpc", RPCS)
def test_both_clients_have_every_rpc_alike(rpc: str) -> None:
    name = CALLS.python_name(rpc)
    assert _signature(AsyncClient, name) == _signature(Client, name)
    is_stream = RPCS[rpc].server_streaming
    assert inspect.iscoroutinefunction(getattr(AsyncClient, name)) is not is_stream
    assert getattr(AsyncClient, name).__doc__ == getattr(Client, name).__doc__
    assert len(getattr(Client, name).__doc__) > 80


def test_clients_have_nothing_but_the_rpcs() -> None:
    expected = {CALLS.python_name(rpc) for rpc in RPCS} | {"close", "closed", "connection_uri", "target"}
    for client in (AsyncClient, Client):
        assert {name for name in dir(client) if not name.startswith("_")} == expected


@pytest.mark.parametrize("front_end", CALLS.FRONT_ENDS, ids=lambda each: each.name)
def test_methods_are_those_of_the_calls(front_end: Any) -> None:
    """`clients/python/generate_calls.py` would write what is there."""
    assert CALLS.render(front_end) == front_end.path.read_text(encoding="utf-8")


def test_enumerations_are_those_of_the_contract() -> None:
    """`clients/python/generate_enums.py` would write what is there."""
    for path, text in ENUMS.render().items():
        assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [libvirt_enums_pb2, block_job_pb2, block_job_service_pb2], ids=lambda m: m.__name__)
def test_every_enumeration_has_the_contracts_numbers(module: Any) -> None:
    for name, descriptor in module.DESCRIPTOR.enum_types_by_name.items():
        homes = [home for home in (enums, error_numbers, flags) if hasattr(home, name)]
        assert len(homes) == 1, name
        members = getattr(homes[0], name).__members__
        assert {value.number for value in descriptor.values} == {int(member) for member in members.values()}
        for value in descriptor.values:
            assert any(value.name.endswith(member) and number == value.number for member, number in members.items())


def test_unknown_numbers_of_a_newer_server_are_kept() -> None:
    state = BlockJobState(99)
    assert (state, state.name, repr(state)) == (99, "UNKNOWN_99", "<BlockJobState.UNKNOWN_99: 99>")
    assert state == BlockJobState(99)
    assert hash(state) == hash(99)
    assert 99 not in {int(each) for each in BlockJobState}
    assert flags.BlockRebaseFlags(8 | 1 << 20) & flags.BlockRebaseFlags.COPY
    assert int(flags.BlockRebaseFlags(8 | 1 << 20)) == 8 | 1 << 20
    with pytest.raises(ValueError, match="'x'"):
        BlockJobState("x")  # type: ignore[arg-type]


def test_repeated_calls_are_reads_or_carry_a_request_id() -> None:
    for service, names in REPEATABLE_RPCS.items():
        for name in names:
            method = METHODS[f"/{service}/{name}"]
            is_read = name.startswith(("Get", "Is", "List", "DomainLookup", "WaitBlockJob", "BlockStats"))
            assert is_read or "request_id" in method.input_type.fields_by_name
            assert not method.server_streaming


def _arguments(method: str) -> dict[str, Any]:
    """A value for every parameter that is on the wire under its own name."""
    parameters = inspect.signature(getattr(Client, method)).parameters
    return {name: GIVEN[name] for name in parameters if name in GIVEN}


@pytest.mark.parametrize("rpc", [name for name, method in RPCS.items() if not method.server_streaming])
def test_arguments_arrive(server: FakeServer, front_end: FrontEnd, rpc: str) -> None:
    response_type = message_factory.GetMessageClass(RPCS[rpc].output_type)
    server.handlers[rpc] = lambda request, context: response_type()
    method = CALLS.python_name(rpc)
    arguments = _arguments(method)
    front_end.call(server.target, method, **arguments)
    [(called, request)] = server.requests
    assert called == rpc
    unsent = set(arguments)
    for field in request.DESCRIPTOR.fields:
        if field.name == "domain":
            assert request.domain.name == "guest"
        elif field.name in arguments:
            assert getattr(request, field.name) == arguments[field.name]
        unsent.discard(field.name)
    assert unsent == set()


def test_every_request_field_can_be_given() -> None:
    """A field that the contract gains must become a parameter."""
    other_names = {
        "BlockCopy": {"params"},
        "ListBlockJobs": {"filter"},
        "WaitBlockJob": {"states", "timeout_ms"},
        "WatchBlockJobs": {"filter", "progress_interval_ms"},
        "WatchBlockMap": {"interval_ms"},
        "DomainEventRegisterAny": {"event_ids"},
    }
    for rpc, method in RPCS.items():
        fields = {field.name for field in method.input_type.fields}
        given = set(_arguments(CALLS.python_name(rpc)))
        assert fields - given == other_names.get(rpc, set()), rpc


class _Filler:
    """Fills messages with values that are told apart, so that a field read from the wrong place shows."""

    def __init__(self) -> None:
        self._count = 40

    def fill(self, message: Message) -> Message:
        for field in message.DESCRIPTOR.fields:
            if field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name) is not None:
                continue
            target = getattr(message, field.name)
            if field.message_type is not None:
                self.fill(target.add() if hasattr(target, "add") else target)
            elif hasattr(target, "append"):
                target.append(self._value(field))
            else:
                setattr(message, field.name, self._value(field))
        return message

    def _value(self, field: Any) -> Any:
        self._count += 1
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return True
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return f"{field.name}-{self._count}"
        return self._count


def _differences(record: Any, message: Any, place: str) -> Iterator[str]:
    """Where a record does not show what the message holds under the same name."""
    if dataclasses.is_dataclass(record):
        for field in dataclasses.fields(record):
            if not hasattr(message, field.name):
                yield f"{place}.{field.name} is not in the message"
            else:
                yield from _differences(
                    getattr(record, field.name), getattr(message, field.name), f"{place}.{field.name}"
                )
    elif isinstance(record, datetime):
        shown = record.timestamp()
        if abs(shown - (message.seconds + message.nanos / 1e9)) > 1e-5 or record.tzinfo is not UTC:
            yield f"{place}: {record}"
    elif isinstance(record, tuple):
        for number, (one, other) in enumerate(zip(record, message, strict=True)):
            yield from _differences(one, other, f"{place}[{number}]")
    elif isinstance(record, IntEnum):
        if int(record) != message:
            yield f"{place}: {record!r} for {message}"
    elif isinstance(record, frozenset):
        if record != frozenset(message):
            yield f"{place}: {record}"
    elif record != message and not isinstance(record, dict):
        yield f"{place}: {record!r} for {message!r}"


@pytest.mark.parametrize(
    ("rpc", "field"),
    [
        ("GetCapabilities", ""),
        ("ListConnections", "connections"),
        ("DomainLookupByName", "domain"),
        ("ListAllDomains", "domains"),
        ("GetState", ""),
        ("GetInfo", ""),
        ("SnapshotCreateXML", ""),
        ("ListDisks", "disks"),
        ("GetBlockInfo", ""),
        ("BlockStats", ""),
        ("GetBlockJobInfo", "info"),
        ("BlockRebase", "job"),
        ("BlockJobAbort", "job"),
        ("GetBlockJob", "job"),
        ("ListBlockJobs", ""),
        ("WaitBlockJob", ""),
    ],
)
def test_answers_are_shown_field_by_field(server: FakeServer, front_end: FrontEnd, rpc: str, field: str) -> None:
    response = _Filler().fill(message_factory.GetMessageClass(RPCS[rpc].output_type)())
    server.handlers[rpc] = lambda request, context: response
    method = CALLS.python_name(rpc)
    shown = front_end.call(server.target, method, **_arguments(method))
    expected = getattr(response, field) if field else response
    shown = tuple(shown) if isinstance(shown, list) else shown
    assert list(_differences(shown, expected, rpc)) == []


def test_capabilities_tell_the_flags_of_each_rpc(server: FakeServer, front_end: FrontEnd) -> None:
    response = connect_service_pb2.GetCapabilitiesResponse()
    response.connection.flags.add(rpc="a/B", flags=9)
    response.connection.flags.add(rpc="a/C", flags=0)
    server.handlers["GetCapabilities"] = lambda request, context: response
    assert front_end.call(server.target, "get_capabilities").connection.flags == {"a/B": 9, "a/C": 0}


def test_absent_messages_are_none(server: FakeServer, front_end: FrontEnd) -> None:
    server.handlers["BlockJobAbort"] = lambda request, context: domain_block_pb2.BlockJobAbortResponse()
    server.handlers["GetBlockJobInfo"] = lambda request, context: domain_block_pb2.GetBlockJobInfoResponse()
    server.handlers["GetBlockJob"] = lambda request, context: block_job_service_pb2.GetBlockJobResponse()
    assert front_end.call(server.target, "block_job_abort", "guest", "vda") is None
    assert front_end.call(server.target, "get_block_job_info", "guest", "vda") is None
    job = front_end.call(server.target, "get_block_job", "j")
    assert (job.error, job.create_time, job.start_time, job.ready_time, job.end_time) == (None,) * 5


def test_error_strings_that_libvirt_has_not_are_none(server: FakeServer, front_end: FrontEnd) -> None:
    failed = block_job_pb2.BlockJob(error=errors_pb2.VirError(message="x", str1=""))
    server.handlers["GetBlockJob"] = lambda request, context: block_job_service_pb2.GetBlockJobResponse(job=failed)
    error = front_end.call(server.target, "get_block_job", "j").error
    assert (error.str1, error.str2) == ("", None)


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("guest", {"name": "guest", "connection_uri": "mine:///"}),
        (DomainSelector(uuid=UUID), {"uuid": UUID, "connection_uri": "mine:///"}),
        (DomainSelector(id=0), {"id": 0, "connection_uri": "mine:///"}),
        (DomainSelector(), {"connection_uri": "mine:///"}),
        (DomainSelector("g", connection_uri="other:///"), {"name": "g", "connection_uri": "other:///"}),
        (
            Domain("other:///", "guest", UUID, -1, True, False, DomainState.SHUTOFF),
            {"uuid": UUID, "connection_uri": "other:///"},
        ),
    ],
)
def test_a_domain_is_named_in_three_ways(server: FakeServer, domain: Any, expected: dict[str, Any]) -> None:
    server.handlers["Suspend"] = lambda request, context: message_factory.GetMessageClass(RPCS["Suspend"].output_type)()
    with Client(server.target, connection_uri="mine:///") as client:
        client.suspend(domain)
    [(_, request)] = server.requests
    assert {field.name: value for field, value in request.domain.ListFields()} == expected | (
        {"id": 0} if expected.get("id") == 0 else {}
    )


def test_a_domain_named_twice_is_refused() -> None:
    with Client("unix:/none") as client:
        with pytest.raises(ValueError, match="by one of name, uuid, id"):
            client.suspend(DomainSelector("guest", UUID))
        with pytest.raises(TypeError, match="not by int"):
            client.suspend(7)  # type: ignore[arg-type]


def test_null_is_told_from_empty(server: FakeServer, front_end: FrontEnd) -> None:
    server.handlers["BlockCommit"] = lambda request, context: domain_block_pb2.BlockCommitResponse()
    front_end.call(server.target, "block_commit", "guest", None, None, "")
    [(_, request)] = server.requests
    assert [request.HasField(name) for name in ("disk", "base", "top")] == [False, False, True]


def test_typed_parameters_have_libvirts_types(server: FakeServer, front_end: FrontEnd) -> None:
    server.handlers["BlockCopy"] = lambda request, context: domain_block_pb2.BlockCopyResponse()
    mapping = {"bandwidth": 5, "granularity": 65536, "buf-size": 0, "a": -1, "b": True, "c": 1.5, "d": "x"}
    front_end.call(server.target, "block_copy", "guest", "vda", "<disk/>", mapping | {"e": 1 << 63})
    given = [TypedParameter("bandwidth", 5, TypedParameterType.INT)]
    front_end.call(server.target, "block_copy", "guest", "vda", "<disk/>", given)
    first, second = [{each.field: each.WhichOneof("value") for each in got.params} for _, got in server.requests]
    assert first == {
        "bandwidth": "ullong_value",
        "granularity": "uint_value",
        "buf-size": "ullong_value",
        "a": "llong_value",
        "b": "boolean_value",
        "c": "double_value",
        "d": "string_value",
        "e": "ullong_value",
    }
    assert second == {"bandwidth": "int_value"}


@pytest.mark.parametrize(("mapping", "error"), [({"bandwidth": "x"}, TypeError), ({"a": None}, TypeError)])
def test_parameters_of_another_type_are_refused(mapping: Any, error: type[Exception]) -> None:
    with Client("unix:/none") as client, pytest.raises(error):
        client.block_copy("guest", "vda", "<disk/>", mapping)


@pytest.mark.parametrize(
    ("timeout_s", "timeout_ms", "deadline_s"), [(None, 0, None), (0, 1, 30), (0.0001, 1, 30), (1.5, 1500, 31.5)]
)
def test_wait_ends_at_the_server(
    server: FakeServer, front_end: FrontEnd, timeout_s: float | None, timeout_ms: int, deadline_s: float | None
) -> None:
    left: list[float | None] = []

    def handler(request: Any, context: Any) -> Any:
        left.append(context.time_remaining())
        return block_job_service_pb2.WaitBlockJobResponse()

    server.handlers["WaitBlockJob"] = handler
    states = [BlockJobState.READY, 77]
    waited = front_end.call(server.target, "wait_block_job", "j", states, timeout_s=timeout_s)
    assert waited.reached is False
    [(_, request)] = server.requests
    assert (request.timeout_ms, list(request.states)) == (timeout_ms, [3, 77])
    assert left == [deadline_s] if deadline_s is None else left[0] == pytest.approx(deadline_s, abs=3)


def test_filter_arrives(server: FakeServer, front_end: FrontEnd) -> None:
    server.handlers["ListBlockJobs"] = lambda request, context: block_job_service_pb2.ListBlockJobsResponse()
    wanted = BlockJobFilter("embedded:///", UUID, "vda", (BlockJobState.READY,))
    front_end.call(server.target, "list_block_jobs", wanted)
    front_end.call(server.target, "list_block_jobs")
    (_, first), (_, second) = server.requests
    assert first.filter == block_job_service_pb2.BlockJobFilter(
        connection_uri="embedded:///", domain_uuid=UUID, disk="vda", states=[block_job_pb2.BLOCK_JOB_STATE_READY]
    )
    assert not second.HasField("filter")


def test_map_is_iterated_to_its_end(server: FakeServer, front_end: FrontEnd) -> None:
    picture = block_job_service_pb2.BlockMap(job_id="j", size_bytes=100, cell_bytes=40)
    picture.runs.add(state=block_job_service_pb2.BLOCK_MAP_CELL_STATE_DONE, cell_count=2)
    picture.runs.add(state=block_job_service_pb2.BLOCK_MAP_CELL_STATE_TODO, cell_count=1)

    async def handler(request: Any, context: Any) -> Any:
        assert (request.job_id, request.cell_count, request.interval_ms) == ("j", 3, 500)
        for _ in range(3):
            yield block_job_service_pb2.WatchBlockMapResponse(map=picture)

    server.handlers["WatchBlockMap"] = handler
    pictures, _ = front_end.take(server.target, "watch_block_map", None, "j", cell_count=3, interval_s=0.5)
    assert len(pictures) == 3
    done, todo = BlockMapCellState.DONE, BlockMapCellState.TODO
    assert list(pictures[0].cells()) == [done, done, todo]


def test_flags_are_ints_too() -> None:
    assert issubclass(flags.BlockRebaseFlags, IntFlag)
    assert flags.BlockRebaseFlags.COPY | flags.BlockRebaseFlags.SHALLOW == 9


def test_import_is_quick() -> None:
    """A command that only lists must not feel slow. Processor time, because the machine is shared."""
    program = "import time; t = time.process_time(); import virtblock.client; print(time.process_time() - t)"
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, check=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.3
