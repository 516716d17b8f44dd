# SPDX-License-Identifier: Apache-2.0
"""From what a caller gives to the contract's messages.

Owns: how a domain, a filter and typed parameters are named on the wire. Invariants: pure functions but for
`new_request_id`; what libvirt judges is left to the server, so that every client gets the same error; what protobuf
cannot carry raises TypeError or ValueError.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping
from typing import cast

from virtblock.client.enums import TypedParameterType
from virtblock.client.model import BlockJobFilter, Domain, DomainLike, DomainSelector, TypedParameter
from virtblock.v1 import block_job_pb2, block_job_service_pb2, common_pb2, libvirt_enums_pb2

ParameterValue = int | float | bool | str
Parameters = Mapping[str, ParameterValue] | Iterable[TypedParameter]

MS_PER_S = 1000

_SELECTOR_KEYS = ("name", "uuid", "id")

# The parameters that virDomainBlockCopy documents; libvirt knows them by these types alone. Ours go by their values.
_KNOWN_TYPES = {
    "bandwidth": TypedParameterType.ULLONG,
    "granularity": TypedParameterType.UINT,
    "buf-size": TypedParameterType.ULLONG,
}
_FIELDS = {
    TypedParameterType.INT: "int_value",
    TypedParameterType.UINT: "uint_value",
    TypedParameterType.LLONG: "llong_value",
    TypedParameterType.ULLONG: "ullong_value",
    TypedParameterType.DOUBLE: "double_value",
    TypedParameterType.BOOLEAN: "boolean_value",
    TypedParameterType.STRING: "string_value",
}


def selector(connection_uri: str, domain: DomainLike) -> common_pb2.DomainSelector:
    """How a request names the domain. A `Domain` stays on its own connection, whatever the client's is."""
    if isinstance(domain, str):
        return common_pb2.DomainSelector(connection_uri=connection_uri, name=domain)
    if isinstance(domain, Domain):
        return common_pb2.DomainSelector(connection_uri=domain.connection_uri, uuid=domain.uuid)
    if not isinstance(domain, DomainSelector):
        raise TypeError(f"a domain is named by a str, a Domain or a DomainSelector, not by {type(domain).__name__}")
    message = common_pb2.DomainSelector(connection_uri=domain.connection_uri or connection_uri)
    given = {key: getattr(domain, key) for key in _SELECTOR_KEYS if getattr(domain, key) is not None}
    if len(given) > 1:
        raise ValueError(f"a selector names a domain by one of {', '.join(_SELECTOR_KEYS)}, not by several: {domain}")
    for key, value in given.items():
        setattr(message, key, value)
    return message


def typed_parameters(parameters: Parameters | None) -> list[common_pb2.TypedParameter]:
    """The parameters; in a mapping, a name that libvirt documents has its type, any other that of its value."""
    if parameters is None:
        return []
    if isinstance(parameters, Mapping):
        parameters = [_with_type(name, value) for name, value in parameters.items()]
    return [_typed_parameter(parameter) for parameter in parameters]


def _with_type(name: str, value: ParameterValue) -> TypedParameter:
    return TypedParameter(name, value, _KNOWN_TYPES.get(name) or _type_of(name, value))


def _type_of(name: str, value: ParameterValue) -> TypedParameterType:
    if isinstance(value, bool):
        return TypedParameterType.BOOLEAN
    if isinstance(value, int):
        return TypedParameterType.LLONG if value < 1 << 63 else TypedParameterType.ULLONG
    if isinstance(value, float):
        return TypedParameterType.DOUBLE
    if isinstance(value, str):
        return TypedParameterType.STRING
    raise TypeError(f"parameter {name} is an int, float, bool or str, not {type(value).__name__}")


def _typed_parameter(parameter: TypedParameter) -> common_pb2.TypedParameter:
    message = common_pb2.TypedParameter(field=parameter.field)
    setattr(message, _FIELDS[parameter.type], parameter.value)
    return message


def block_job_filter(given: BlockJobFilter | None) -> block_job_service_pb2.BlockJobFilter | None:
    """The filter, or nothing for all jobs."""
    if given is None:
        return None
    return block_job_service_pb2.BlockJobFilter(
        connection_uri=given.connection_uri,
        domain_uuid=given.domain_uuid,
        disk=given.disk,
        states=states(given.states),
    )


def states(given: Iterable[int]) -> list[block_job_pb2.BlockJobState.ValueType]:
    """The states as the wire has them: any number, also one that this client has no name for."""
    return [cast("block_job_pb2.BlockJobState.ValueType", int(state)) for state in given]


def milliseconds(seconds: float | None) -> int:
    """Whole milliseconds, rounded up; None is 0, which means without end, so no time at all is 1."""
    if seconds is None:
        return 0
    return math.ceil(seconds * MS_PER_S) or 1


def new_request_id() -> str:
    """A request_id that no other call has."""
    return str(uuid.uuid4())


def event_ids(given: Iterable[int]) -> list[libvirt_enums_pb2.DomainEventId.ValueType]:
    """The kinds of events as the wire has them."""
    return [cast("libvirt_enums_pb2.DomainEventId.ValueType", int(each)) for each in given]
