# SPDX-License-Identifier: Apache-2.0
"""Writes the headers that are checked in: libvirt's numbers, a method for each call, and what gRPC repeats.

Usage: .venv/bin/python clients/cpp/generate.py [OUTPUT], from the contract in proto/virtblock/v1.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from virtblock.client.channel import service_config
from virtblock.v1 import common_pb2, errors_pb2

HERE = Path(__file__).resolve().parent
CONTRACT = HERE.parents[1] / "proto" / "virtblock" / "v1"
# A service's file, and the field of Client that has its calls.
SERVICES = {"connect_service": "connect", "domain_service": "domain", "block_job_service": "jobs"}
OPTIONS = "const CallOptions& options"
HEADER = """\
// SPDX-License-Identifier: Apache-2.0
// Made by clients/cpp/generate.py from proto/virtblock/v1. Do not edit.
"""


def _constants() -> Iterator[str]:
    yield "#include <cstdint>\n"
    yield '#include "virtblock/v1/libvirt_enums.pb.h"\n'
    yield "namespace virtblock {\n"
    module = importlib.import_module("virtblock.v1.libvirt_enums_pb2")
    comments = _comments((CONTRACT / "libvirt_enums.proto").read_text(encoding="utf-8"))
    for descriptor in module.DESCRIPTOR.enum_types_by_name.values():
        are_flags = descriptor.name.endswith("Flags") or descriptor.name == "DomainModificationImpact"
        yield from (f"/// {line}" for line in comments[descriptor.name])
        yield f"using v1::{descriptor.name};"
        for each in descriptor.values:
            yield from (f"/// {line}" for line in comments[each.name])
            yield (
                f"inline constexpr std::uint32_t {each.name} = {each.number};"
                if are_flags
                else f"using v1::{each.name};"
            )
        yield ""
    yield from _reasons()
    yield "}  // namespace virtblock"


def _reasons() -> Iterator[str]:
    """The reasons of failures that libvirt cannot have, as an ErrorInfo words them."""
    comments = _comments((CONTRACT / "errors.proto").read_text(encoding="utf-8"))
    yield "/// Failures that libvirt cannot have, as Error::reason() tells them."
    yield "namespace reason {"
    for each in errors_pb2.NativeErrorReason.DESCRIPTOR.values[1:]:
        yield from (f"/// {line}" for line in comments[each.name])
        name = each.name.removeprefix("NATIVE_ERROR_REASON_")
        yield f'inline constexpr char {name}[] = "{name}";'
    yield "}  // namespace reason\n"


def _comments(source: str) -> dict[str, list[str]]:
    """The contract's comments by the names of what they are on. Names of fields are not unique."""
    found: dict[str, list[str]] = {}
    comment: list[str] = []
    for line in source.splitlines():
        text = line.strip()
        declared = re.match(r"(?:rpc|service|message|enum) (\w+)|(?:\w+ )?(\w+) = \d+;", text)
        if text.startswith("//"):
            comment.append(text.removeprefix("//").strip())
            continue
        if declared:
            found[declared[1] or declared[2]] = comment
        comment = []
    return found


def _service(descriptor: Any, comments: dict[str, list[str]]) -> Iterator[str]:
    name = descriptor.name
    yield from (f"/// {line}" for line in comments[name])
    yield f"class {name} {{"
    yield " public:"
    yield f"  explicit {name}(std::shared_ptr<const Connection> connection);"
    yield "  const Connection& connection() const { return *connection_; }"
    for method in descriptor.methods:
        yield from (f"  /// {line}" for line in comments[method.name])
        yield f"  {_answer(method)} {method.name}(v1::{method.input_type.name} request = {{}}, {OPTIONS} = {{}}) const;"
    yield "\n private:"
    yield "  struct Stub;"
    yield "  std::shared_ptr<const Connection> connection_;"
    yield "  std::shared_ptr<Stub> stub_;"
    yield "};\n"


def _answer(method: Any) -> str:
    name = f"v1::{method.output_type.name}"
    return f"Stream<{name}>" if method.server_streaming else name


def _bodies(descriptor: Any) -> Iterator[str]:
    name = descriptor.name
    # Users' files are not to read the stubs' headers, which take longer than all else of theirs.
    yield f"struct {name}::Stub {{"
    yield f"  std::unique_ptr<v1::{name}::Stub> calls;"
    yield "};\n"
    yield f"{name}::{name}(std::shared_ptr<const Connection> connection)"
    yield "    : connection_(std::move(connection)),"
    yield f"      stub_(std::make_shared<Stub>(Stub{{v1::{name}::NewStub(connection_->channel())}})) {{}}\n"
    for method in descriptor.methods:
        yield from _body(name, method)


def _body(service: str, method: Any) -> Iterator[str]:
    yield f"{_answer(method)} {service}::{method.name}(v1::{method.input_type.name} request, {OPTIONS}) const {{"
    yield from (f"  {line}" for line in _completion(method.input_type))
    if method.server_streaming:
        yield f'  auto call = std::make_unique<Call>(*connection_, "{method.name}", options);'
        yield f"  auto reader = stub_->calls->{method.name}(&call->context, request);"
        yield "  return {std::move(call), std::move(reader)};"
    else:
        yield f'  Call call(*connection_, "{method.name}", options);'
        yield f"  v1::{method.output_type.name} answer;"
        yield f"  call.check(stub_->calls->{method.name}(&call.context, request, &answer));"
        yield "  return answer;"
    yield "}\n"


def _completion(request: Any) -> Iterator[str]:
    """What the caller left to the client: the connection, and the request_id of a call that starts a job."""
    fields = {field.name: field.message_type for field in request.fields}
    if "request_id" in fields:
        yield "if (request.request_id().empty()) request.set_request_id(new_request_id());"
    if "connection_uri" in fields:
        yield "if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());"
    for name, kind in fields.items():
        if kind is not None and "connection_uri" in kind.fields_by_name and name in ("domain", "filter"):
            yield f"if (request.has_{name}() && request.{name}().connection_uri().empty()) {{"
            yield f"  request.mutable_{name}()->set_connection_uri(connection_->connection_uri());"
            yield "}"


def _selectors() -> Iterator[str]:
    descriptor = common_pb2.DomainSelector.DESCRIPTOR
    source = (CONTRACT / "common.proto").read_text(encoding="utf-8")
    comments = _comments(source.partition(f"message {descriptor.name} {{")[2].partition("\n}")[0])
    for field in descriptor.oneofs_by_name["domain"].fields:
        kind = "const std::string&" if field.type == field.TYPE_STRING else "std::int32_t"
        yield f"/// Selects a domain. {' '.join(comments[field.name])}"
        yield f"inline v1::{descriptor.name} by_{field.name}({kind} {field.name}) {{"
        yield f"  v1::{descriptor.name} selector;"
        yield f"  selector.set_{field.name}({field.name});"
        yield "  return selector;"
        yield "}\n"


def _descriptors() -> Iterator[tuple[str, Any]]:
    """Each service, with its file's name."""
    for file in SERVICES:
        module = importlib.import_module(f"virtblock.v1.{file}_pb2")
        yield from ((file, descriptor) for descriptor in module.DESCRIPTOR.services_by_name.values())


def _services() -> Iterator[str]:
    yield "#include <memory>\n"
    yield '#include "virtblock/connection.hpp"'
    yield from (f'#include "virtblock/v1/{each}.pb.h"' for each in SERVICES)
    yield "\nnamespace virtblock {\n"
    yield from _selectors()
    for file, descriptor in _descriptors():
        yield from _service(descriptor, _comments((CONTRACT / f"{file}.proto").read_text(encoding="utf-8")))
    yield "}  // namespace virtblock"


def _service_bodies() -> Iterator[str]:
    yield '#include "virtblock/gen/services.hpp"\n'
    yield from (f'#include "virtblock/v1/{each}.grpc.pb.h"' for each in SERVICES)
    yield "\nnamespace virtblock {\n"
    for _, descriptor in _descriptors():
        yield from _bodies(descriptor)
    yield "}  // namespace virtblock"


def _grpc() -> Iterator[str]:
    yield "#include <string>\n"
    yield "namespace virtblock {\n"
    yield "// Repeated is only what does no thing twice: reads, and calls that start a job under a request_id."
    yield f'inline constexpr char SERVICE_CONFIG[] = R"({service_config()})";\n'
    yield "// gRPC's name of a code."
    yield "inline std::string code_name(int code) {"
    yield "  switch (code) {"
    yield from (f'    case {each.value[0]}: return "{each.name}";' for each in grpc.StatusCode)
    yield "    default: return std::to_string(code);"
    yield "  }"
    yield "}\n"
    yield "}  // namespace virtblock"


def _methods() -> Iterator[str]:
    yield "// Every call: UNARY or STREAM with the service, the field of Client that has it, and its name."
    for file, descriptor in _descriptors():
        for method in descriptor.methods:
            kind = "STREAM" if method.server_streaming else "UNARY"
            yield f"{kind}({descriptor.name}, {SERVICES[file]}, {method.name})"


def main() -> None:
    """Write all of them."""
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, lines in (
        ("include/virtblock/gen/constants.hpp", _constants()),
        ("include/virtblock/gen/services.hpp", _services()),
        ("src/gen/services.cpp", _service_bodies()),
        ("src/gen/grpc.hpp", _grpc()),
        ("probe/gen/methods.inc", _methods()),
    ):
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = "#pragma once\n\n" if name.endswith(".hpp") else ""
        path.write_text(HEADER + guard + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
