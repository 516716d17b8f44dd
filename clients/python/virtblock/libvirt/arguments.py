# SPDX-License-Identifier: Apache-2.0
"""How Python values become arguments: what libvirt-python takes, with the errors that Python itself gives for the rest.

Owns: the conversions of C's types. Invariants: a wrong type is a TypeError, a number that does not fit
an OverflowError, never a libvirtError; flags lose the bits above the 32nd silently, as they do there.
"""

from __future__ import annotations

import operator
import os
from typing import Any

from virtblock.client.enums import TypedParameterType
from virtblock.client.model import TypedParameter
from virtblock.libvirt.errors import null_argument

_UINT_MASK = (1 << 32) - 1
_ULONG_MASK = (1 << 64) - 1
_INT_MAX = (1 << 31) - 1
_LONG_MAX = (1 << 63) - 1

_BLOCK_COPY_TYPES = {
    "bandwidth": TypedParameterType.ULLONG,
    "granularity": TypedParameterType.UINT,
    "buf-size": TypedParameterType.ULLONG,
}


def text(function: str, position: int, value: Any) -> str | None:
    """A string or NULL. `position` counts from the object itself, which is 1."""
    if value is None:
        return None
    if not isinstance(value, str):
        name = type(value).__name__
        raise TypeError(f"{function}() argument {position} must be str or None, not {name}")
    if "\0" in value:
        raise ValueError("embedded null character")
    return value


def absolute_path(function: str, position: int, value: Any) -> str | None:
    """A file's name or NULL. A relative one is taken from the program's current folder, not from the server's."""
    given = text(function, position, value)
    return given if given is None or given.startswith("/") else f"{os.getcwd()}/{given}"


def required_text(function: str, position: int, argument: str, value: Any, domain: int = 20) -> str:
    """A string that must not be NULL; libvirtError when it is."""
    given = text(function, position, value)
    if given is None:
        raise null_argument(function, argument, domain)
    return given


def flags(value: Any) -> int:
    """An unsigned int."""
    return operator.index(value) & _UINT_MASK


def signed_int(value: Any) -> int:
    """An int."""
    number = operator.index(value)
    if number > _INT_MAX:
        raise OverflowError("signed integer is greater than maximum")
    if number < -_INT_MAX - 1:
        raise OverflowError("signed integer is less than minimum")
    return number


def unsigned_long(value: Any) -> int:
    """An unsigned long, which libvirt-python takes as a signed one: -1 is the largest."""
    number = operator.index(value)
    if not -_LONG_MAX - 1 <= number <= _LONG_MAX:
        raise OverflowError("Python int too large to convert to C long")
    return number & _ULONG_MASK


def unsigned_long_long(value: Any) -> int:
    """An unsigned long long, which libvirt-python takes as a signed one."""
    number = operator.index(value)
    if not -_LONG_MAX - 1 <= number <= _LONG_MAX:
        raise OverflowError("int too big to convert")
    return number & _ULONG_MASK


def block_copy_parameters(params: Any) -> list[TypedParameter]:
    """The dictionary of blockCopy as typed parameters; a name that libvirt does not know has the type of its value."""
    if params is None:
        return []
    if not isinstance(params, dict):
        raise TypeError("block params must be a dictionary")
    return [_parameter(name, value) for name, value in params.items()]


def _parameter(name: Any, value: Any) -> TypedParameter:
    if not isinstance(name, str):
        raise TypeError("bad argument type for built-in operation")
    kind = _BLOCK_COPY_TYPES.get(name) or _type_of(name, value)
    if kind is TypedParameterType.UINT:
        return TypedParameter(name, _fitting_uint(value), kind)
    if kind is TypedParameterType.ULLONG:
        return TypedParameter(name, _fitting_ullong(value), kind)
    return TypedParameter(name, value, kind)


def _type_of(name: str, value: Any) -> TypedParameterType:
    if isinstance(value, bool):
        return TypedParameterType.BOOLEAN
    if isinstance(value, int):
        return TypedParameterType.LLONG if value <= _LONG_MAX else TypedParameterType.ULLONG
    if isinstance(value, float):
        return TypedParameterType.DOUBLE
    if isinstance(value, str):
        return TypedParameterType.STRING
    raise TypeError(f'Unknown type of "{name}" field')


def _fitting_uint(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError("an integer is required")
    if value < 0:
        raise OverflowError("can't convert negative value to unsigned int")
    if value > _UINT_MASK:
        raise OverflowError("Python int too large to convert to C unsigned int")
    return int(value)


def _fitting_ullong(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError("an integer is required")
    if value < 0:
        raise OverflowError("can't convert negative int to unsigned")
    if value > _ULONG_MASK:
        raise OverflowError("int too big to convert")
    return int(value)
