# SPDX-License-Identifier: Apache-2.0
"""The contract keeps its own rules: what buf cannot know, because it is libvirt's habit or ours.

Read from two sides: the descriptors of the generated code for structure, the .proto text for comments. What the
comments promise on errors is compared with the one table in proto/README.md.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from virtblock.v1 import errors_pb2, libvirt_enums_pb2

ROOT = Path(__file__).parents[2]
PROTO_FOLDER = ROOT / "proto" / "virtblock" / "v1"
GENERATED_FOLDER = ROOT / "proto" / "gen" / "python"
PROTO_FILES = sorted(PROTO_FOLDER.glob("*.proto"))
FILES = [importlib.import_module(f"virtblock.v1.{path.stem}_pb2").DESCRIPTOR for path in PROTO_FILES]
SERVICES = {name: service for file in FILES for name, service in file.services_by_name.items()}
METHODS = [method for service in SERVICES.values() for method in service.methods]
MESSAGES = [message for file in FILES for message in file.message_types_by_name.values()]

STARTING_CALLS = {"BlockRebase", "BlockCopy", "BlockPull", "BlockCommit"}
INTEGERS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
}
UNSIGNED = {FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64}
UNITS = ("_bytes", "_bytes_per_s", "_kib", "_s", "_ms", "_ns", "_count")
# Quantities whose unit libvirt's flags decide, or whose names are libvirt's.
LIBVIRT_QUANTITIES = {"bandwidth", "cur", "end", "size"}
# Numbers that count nothing.
LABELS = {
    "detail", "flags", "hypervisor_version", "id", "index", "int1", "int2", "lib_version", "page_size", "reason",
    "sequence", "version",
}  # fmt: skip
# The fields that are unsigned because libvirt's are.
LIBVIRT_UNSIGNED = LIBVIRT_QUANTITIES | {
    "allocation_bytes", "bandwidth_bytes_per_s", "capacity_bytes", "cpu_time_ns", "flags", "hypervisor_version",
    "lib_version", "max_memory_kib", "memory_kib", "physical_bytes", "vcpu_count", "version",
}  # fmt: skip
# Where libvirt tells NULL from empty.
NULLABLE = {"base", "top", "dest_xml", "dxml", "to"}
# An entry of an error list: the names, the code, and whether a reason of our own decides the code.
ERROR_ENTRY = re.compile(
    r"((?:[A-Z][A-Z_]+, )*[A-Z][A-Z_]+) -> (by errno|[A-Z_]+)( with the ErrorInfo reason [A-Z_]+)?"
)
# What a comment says of its model in libvirt.
LIBVIRT_CALL = re.compile(r"Mirrors vir\w+\.|Nearest libvirt call: vir\w+\.|No libvirt call\.|libvirt has no such call")
ERROR_NUMBERS = set(libvirt_enums_pb2.ErrorNumber.keys())
NATIVE_REASONS = set(errors_pb2.NativeErrorReason.keys())


def _fields() -> Iterator[FieldDescriptor]:
    for message in MESSAGES:
        yield from message.fields


def _is_oneof_scalar(field: FieldDescriptor) -> bool:
    return field.containing_type is not None and field.containing_type.name == "TypedParameter"


def _type_name(field: FieldDescriptor) -> str:
    """Full name of a message field's type; empty for a scalar."""
    return str(field.message_type.full_name) if field.message_type is not None else ""


def _joined_comment(lines: list[str]) -> str:
    return " ".join(line.strip().removeprefix("//").strip() for line in lines)


def _method_comments() -> dict[str, str]:
    """Service/RPC -> its comment as one line."""
    comments: dict[str, str] = {}
    for path in PROTO_FOLDER.glob("*_service.proto"):
        service = ""
        pending: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"service (\w+) \{", line):
                service = match[1]
                comments[service] = _joined_comment(pending)
            if match := re.match(r"  rpc (\w+)\(", line):
                comments[f"{service}/{match[1]}"] = _joined_comment(pending)
            pending = [*pending, line] if line.lstrip().startswith("//") else []
    return comments


def _documented_codes() -> dict[str, str]:
    """VIR_ERR name -> gRPC code, from the table of proto/README.md; SYSTEM_ERROR is 'by errno'."""
    table: dict[str, str] = {}
    text = (PROTO_FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    rows = text.split("| `VIR_ERR_` | gRPC code |")[1].split("\n\n")[0].splitlines()[2:]
    for row in rows:
        names, codes = (cell.strip() for cell in row.strip("|").split("|"))
        found = re.findall(r"`(\w+)`", codes)
        for name in re.findall(r"`([A-Z_]+)`", names):
            table[name] = found[0] if len(found) == 1 else "by errno"
    return table


def _code_of(name: str) -> str:
    return _documented_codes().get(name, "INTERNAL")


METHOD_COMMENTS = _method_comments()


def _method_id(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}/{method.name}"


every_method = pytest.mark.parametrize("method", METHODS, ids=_method_id)


def test_the_contract_is_these_three_services() -> None:
    assert set(SERVICES) == {"ConnectService", "DomainService", "BlockJobService"}
    assert {file.package for file in FILES} == {"virtblock.v1"}


@every_method
def test_every_rpc_has_a_request_and_a_response_of_its_own(method: MethodDescriptor) -> None:
    assert method.input_type.name == f"{method.name}Request"
    assert method.output_type.name == f"{method.name}Response"
    users = [other for other in METHODS if method.input_type.full_name == other.input_type.full_name]
    assert users == [method]


@every_method
def test_every_comment_names_the_libvirt_call_and_the_errors(method: MethodDescriptor) -> None:
    comment = METHOD_COMMENTS[_method_id(method)]
    assert "Errors:" in comment
    assert LIBVIRT_CALL.search(comment)


@every_method
def test_every_rpc_is_named_after_the_call_it_mirrors(method: MethodDescriptor) -> None:
    match = re.search(r"Mirrors vir(\w+)\.", METHOD_COMMENTS[_method_id(method)])
    if match is None:
        return
    call = match[1].removeprefix(method.containing_service.name.removesuffix("Service"))
    # libvirt's second, wider form of a call, where both are one RPC here.
    assert call in {method.name + suffix for suffix in ("", "Flags", "WithFlags", "String")}


@pytest.mark.parametrize("place", sorted(METHOD_COMMENTS))
def test_every_documented_error_is_libvirts_and_has_the_tables_code(place: str) -> None:
    for names, code, native_reason in ERROR_ENTRY.findall(METHOD_COMMENTS[place]):
        for name in names.split(", "):
            assert f"ERR_{name}" in ERROR_NUMBERS, f"{place}: {name} is no libvirt error"
            if native_reason:
                reason = native_reason.rsplit(" ", 1)[1]
                assert f"NATIVE_ERROR_REASON_{reason}" in NATIVE_REASONS
                assert code in grpc.StatusCode.__members__
            else:
                assert code == _code_of(name), f"{place}: {name}"


def test_the_error_lists_are_really_read() -> None:
    entries = ERROR_ENTRY.findall(METHOD_COMMENTS["DomainService/BlockRebase"])
    assert ("BLOCK_COPY_ACTIVE, OPERATION_UNSUPPORTED", "FAILED_PRECONDITION", "") in entries
    assert "NO_DOMAIN -> NOT_FOUND" in METHOD_COMMENTS["DomainService"]


def test_the_error_table_names_libvirts_errors_and_grpcs_codes() -> None:
    table = _documented_codes()
    assert table["SYSTEM_ERROR"] == "by errno"
    assert {f"ERR_{name}" for name in table} <= ERROR_NUMBERS
    assert set(table.values()) - {"by errno"} <= set(grpc.StatusCode.__members__)


@pytest.mark.parametrize("method", list(SERVICES["DomainService"].methods), ids=_method_id)
def test_every_domain_call_names_the_domain_first(method: MethodDescriptor) -> None:
    field = method.input_type.fields_by_number[1]
    assert field.name == "domain"
    assert _type_name(field) == "virtblock.v1.DomainSelector"


@pytest.mark.parametrize("method", list(SERVICES["ConnectService"].methods), ids=_method_id)
def test_every_connect_call_names_the_connection_first(method: MethodDescriptor) -> None:
    if method.name == "ListConnections":
        assert not method.input_type.fields
    else:
        assert method.input_type.fields_by_number[1].name == "connection_uri"


@every_method
def test_only_starting_calls_take_a_request_id_and_answer_the_started_job(method: MethodDescriptor) -> None:
    starts = method.name in STARTING_CALLS
    assert ("request_id" in method.input_type.fields_by_name) == starts
    if starts:
        assert _type_name(method.output_type.fields_by_name["job"]) == "virtblock.v1.BlockJob"


def test_the_native_option_of_block_copy_is_there() -> None:
    request = SERVICES["DomainService"].methods_by_name["BlockCopy"].input_type
    assert request.fields_by_name["pivot_persistent"].type == FieldDescriptor.TYPE_BOOL


@every_method
def test_null_and_empty_stay_apart_where_libvirt_tells_them_apart(method: MethodDescriptor) -> None:
    for field in method.input_type.fields:
        is_disk = field.name == "disk" and method.containing_service.name == "DomainService"
        if field.name in NULLABLE or is_disk:
            assert field.has_presence, field.full_name


def test_flags_are_libvirts_unsigned_int() -> None:
    flags = [field for field in _fields() if field.name == "flags" and not field.message_type]
    assert len(flags) > 15
    assert {field.type for field in flags} == {FieldDescriptor.TYPE_UINT32}


def test_bandwidth_and_progress_are_libvirts_unsigned_long() -> None:
    fields = [field for field in _fields() if field.name in {"bandwidth", "cur", "end"}]
    assert {field.type for field in fields} == {FieldDescriptor.TYPE_UINT64}


def test_every_quantity_says_its_unit() -> None:
    for field in _fields():
        if field.type in INTEGERS and not _is_oneof_scalar(field):
            assert field.name.endswith(UNITS) or field.name in LIBVIRT_QUANTITIES | LABELS, field.full_name


def test_only_libvirts_own_unsigned_quantities_are_unsigned() -> None:
    for field in _fields():
        if field.type in UNSIGNED and not _is_oneof_scalar(field):
            assert field.name in LIBVIRT_UNSIGNED, field.full_name


def _message(name: str) -> Descriptor:
    return descriptor_pool.Default().FindMessageTypeByName(f"virtblock.v1.{name}")


def test_progress_has_the_jobs_own_fields() -> None:
    job = _message("BlockJob").fields_by_name
    for field in _message("BlockJobProgress").fields:
        assert job[field.name].type == field.type, field.name


def test_times_are_timestamps() -> None:
    times = [field for field in _fields() if field.name.endswith("_time")]
    assert {field.name for field in times} >= {"create_time", "start_time", "ready_time", "end_time"}
    assert {_type_name(field) for field in times} == {timestamp_pb2.Timestamp.DESCRIPTOR.full_name}


def test_what_is_read_most_has_one_byte_tags() -> None:
    job = _message("BlockJob").fields_by_name
    hot = {"job_id", "state", "type", "disk", "cur", "end", "error"}
    assert {name for name, field in job.items() if field.number <= 15} >= hot


def test_streams_are_those_that_watch() -> None:
    streams = {_method_id(method) for method in METHODS if method.server_streaming}
    assert streams == {
        "ConnectService/DomainEventRegisterAny",
        "BlockJobService/WatchBlockJobs",
        "BlockJobService/WatchBlockMap",
    }
    assert not any(method.client_streaming for method in METHODS)


def test_every_proto_file_has_its_generated_modules_and_no_others() -> None:
    package = GENERATED_FOLDER / "virtblock" / "v1"
    assert {path.name for path in package.glob("*_pb2.py")} == {f"{path.stem}_pb2.py" for path in PROTO_FILES}
    stubs = {path.name for path in package.glob("*_pb2_grpc.py")}
    assert stubs == {f"{path.stem}_pb2_grpc.py" for path in PROTO_FOLDER.glob("*_service.proto")}


def test_the_namespace_package_stays_open() -> None:
    assert not (GENERATED_FOLDER / "virtblock" / "__init__.py").exists()


def test_the_messages_import_without_grpc() -> None:
    modules = ", ".join(f"virtblock.v1.{path.stem}_pb2" for path in PROTO_FILES)
    script = f"import sys, {modules}; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


def test_an_error_number_of_a_newer_libvirt_survives() -> None:
    error = errors_pb2.VirError.FromString(errors_pb2.VirError(number=9999).SerializeToString())  # type: ignore[arg-type]
    assert error.number == 9999
