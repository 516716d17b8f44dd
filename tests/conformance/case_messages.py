# SPDX-License-Identifier: Apache-2.0
"""Between the tables of a case and the contract's messages.

Owns: finding a method by name, making a message of a table, and comparing a message with what a case names of it.
Invariant: a field that a case does not name is not looked at, one that it names is compared by its own type, with
enumerations by name or number.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from virtblock.v1 import block_job_service_pb2, connect_service_pb2, domain_service_pb2

_SERVICES = {
    service.name: service
    for module in (connect_service_pb2, domain_service_pb2, block_job_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}


def method(name: str) -> MethodDescriptor:
    """The method that "DomainService.BlockRebase" names."""
    service, _, rpc = name.partition(".")
    found: MethodDescriptor = _SERVICES[service].methods_by_name[rpc]
    return found


def request(name: str, table: dict[str, Any]) -> bytes:
    """The bytes of a method's request."""
    return message(message_factory.GetMessageClass(method(name).input_type), table).SerializeToString()


def response(name: str, data: bytes) -> Message:
    """A method's answer from its bytes."""
    return message_factory.GetMessageClass(method(name).output_type).FromString(data)


def message(kind: type[Message], table: dict[str, Any]) -> Message:
    """A message of a table; enumerations by name or number."""
    return json_format.ParseDict(table, kind())


def differences(found: Message, expected: dict[str, Any], where: str = "") -> list[str]:
    """What does not match, a line each."""
    lines: list[str] = []
    for name, value in expected.items():
        field = found.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            lines.append(f"{where}{name}: {found.DESCRIPTOR.name} has no such field")
            continue
        lines.extend(_field_differences(field, getattr(found, name), value, f"{where}{name}"))
    return lines


def _field_differences(field: Any, found: Any, expected: Any, where: str) -> list[str]:
    if isinstance(expected, dict):
        return differences(found, expected, f"{where}.")
    if isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{where}: {len(found)} elements, expected {len(expected)}"]
        pairs = enumerate(zip(found, expected, strict=True))
        return [line for i, (one, other) in pairs for line in _field_differences(field, one, other, f"{where}[{i}]")]
    if field.enum_type is not None and isinstance(expected, str):
        expected = field.enum_type.values_by_name[expected].number
    return [] if is_match(found, expected) else [f"{where}: {found!r}, expected {expected!r}"]


def is_match(found: Any, expected: Any) -> bool:
    """Whether a plain value is what a case expects; "~…" is a regular expression."""
    if isinstance(expected, str) and expected.startswith("~"):
        return isinstance(found, str) and re.fullmatch(expected[1:], found, re.DOTALL) is not None
    return bool(found == expected)


def is_set(found: Message, path: str) -> bool:
    """Whether a field, or one of a field as "job.error", is present."""
    head, _, rest = path.partition(".")
    if not rest:
        return found.HasField(head)
    return found.HasField(head) and is_set(getattr(found, head), rest)


def value_at(found: Message, path: str) -> Any:
    """The field at "job.job_id"; "domains.0.name" for an element."""
    value: Any = found
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value
