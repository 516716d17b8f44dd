# SPDX-License-Identifier: Apache-2.0
"""libvirt's errors, as the core raises them.

Owns: `VirError`, the field-for-field twin of libvirt's `struct _virError`, the message templates of the numbers the
core raises, and the three shapes in which libvirt fills the record (`libvirt-domain.c`, `virerror.c`):

* a report: the template filled with a detail; str1 is the template, str2 the detail, int1 = int2 = -1;
* an argument check of the public API: the bare text, str1 the function, str2 the argument, int1 = int2 = 0;
* a system error: text, colon, strerror; int1 is errno.

Invariants: no gRPC here; a number is translated to a gRPC status in `rpc` only. Every template is libvirt's own text.
"""

from __future__ import annotations

import os
from enum import IntEnum
from typing import Self


class ErrorNumber(IntEnum):
    """virErrorNumber, as far as this server raises it itself. Other drivers may pass any other number through."""

    INTERNAL_ERROR = 1
    NO_MEMORY = 2
    NO_SUPPORT = 3
    NO_CONNECT = 5
    INVALID_CONN = 6
    INVALID_DOMAIN = 7
    INVALID_ARG = 8
    OPERATION_FAILED = 9
    NO_SOURCE = 19
    DOM_EXIST = 28
    XML_ERROR = 27
    OPERATION_DENIED = 29
    XML_DETAIL = 35
    SYSTEM_ERROR = 38
    RPC = 39
    NO_DOMAIN = 42
    OPERATION_INVALID = 55
    CONFIG_UNSUPPORTED = 67
    OPERATION_TIMEOUT = 68
    NO_DOMAIN_SNAPSHOT = 72
    ARGUMENT_UNSUPPORTED = 74
    OPERATION_ABORTED = 78
    OVERFLOW = 82
    BLOCK_COPY_ACTIVE = 83
    OPERATION_UNSUPPORTED = 84
    RESOURCE_BUSY = 87
    ACCESS_DENIED = 88
    DEVICE_MISSING = 99
    NO_DOMAIN_CHECKPOINT = 103
    CHECKPOINT_INCONSISTENT = 109


class ErrorDomain(IntEnum):
    """virErrorDomain: which part of libvirt speaks. Ours speak with the number of the part whose answer they give."""

    NONE = 0
    XML = 5
    DOM = 6
    RPC = 7
    QEMU = 10
    STORAGE = 18
    DOMAIN = 20
    DOMAIN_SNAPSHOT = 35
    ACCESS = 55
    DOMAIN_CHECKPOINT = 69


ERROR_LEVEL_ERROR = 2

TEMPLATES: dict[ErrorNumber, tuple[str, str]] = {
    ErrorNumber.INTERNAL_ERROR: ("internal error", "internal error: %s"),
    ErrorNumber.NO_MEMORY: ("out of memory", "out of memory: %s"),
    ErrorNumber.NO_SUPPORT: (
        "this function is not supported by the connection driver",
        "this function is not supported by the connection driver: %s",
    ),
    ErrorNumber.NO_CONNECT: ("no connection driver available", "no connection driver available for %s"),
    ErrorNumber.INVALID_CONN: ("invalid connection pointer in", "invalid connection pointer in %s"),
    ErrorNumber.INVALID_DOMAIN: ("invalid domain pointer in", "invalid domain pointer in %s"),
    ErrorNumber.INVALID_ARG: ("invalid argument", "invalid argument: %s"),
    ErrorNumber.OPERATION_FAILED: ("operation failed", "operation failed: %s"),
    ErrorNumber.NO_SOURCE: (
        "missing source information for device",
        "missing source information for device %s",
    ),
    ErrorNumber.DOM_EXIST: ("this domain exists already", "domain %s exists already"),
    ErrorNumber.XML_ERROR: ("XML description is invalid or not well formed", "XML error: %s"),
    ErrorNumber.OPERATION_DENIED: ("operation forbidden for read only access", "operation forbidden: %s"),
    ErrorNumber.XML_DETAIL: ("parser error", "%s"),
    ErrorNumber.SYSTEM_ERROR: ("system call error", "%s"),
    ErrorNumber.RPC: ("An error occurred, but the cause is unknown", "%s"),
    ErrorNumber.NO_DOMAIN: ("Domain not found", "Domain not found: %s"),
    ErrorNumber.OPERATION_INVALID: (
        "Requested operation is not valid",
        "Requested operation is not valid: %s",
    ),
    ErrorNumber.CONFIG_UNSUPPORTED: ("unsupported configuration", "unsupported configuration: %s"),
    ErrorNumber.OPERATION_TIMEOUT: ("Timed out during operation", "Timed out during operation: %s"),
    ErrorNumber.NO_DOMAIN_SNAPSHOT: ("Domain snapshot not found", "Domain snapshot not found: %s"),
    ErrorNumber.ARGUMENT_UNSUPPORTED: ("argument unsupported", "argument unsupported: %s"),
    ErrorNumber.OPERATION_ABORTED: ("operation aborted", "operation aborted: %s"),
    ErrorNumber.OVERFLOW: ("numerical overflow", "numerical overflow: %s"),
    ErrorNumber.BLOCK_COPY_ACTIVE: ("block copy still active", "block copy still active: %s"),
    ErrorNumber.OPERATION_UNSUPPORTED: ("Operation not supported", "Operation not supported: %s"),
    ErrorNumber.RESOURCE_BUSY: ("resource busy", "resource busy: %s"),
    ErrorNumber.ACCESS_DENIED: ("access denied", "access denied: %s"),
    ErrorNumber.DEVICE_MISSING: ("device not found", "device not found: %s"),
    ErrorNumber.NO_DOMAIN_CHECKPOINT: ("Domain checkpoint not found", "Domain checkpoint not found: %s"),
    ErrorNumber.CHECKPOINT_INCONSISTENT: ("checkpoint inconsistent", "checkpoint inconsistent: %s"),
}


class VirError(Exception):
    """One libvirt error. Fields are those of `struct _virError`; `str(error)` is the message."""

    def __init__(
        self,
        number: int,
        message: str,
        *,
        domain: int = ErrorDomain.QEMU,
        level: int = ERROR_LEVEL_ERROR,
        str1: str = "",
        str2: str = "",
        str3: str = "",
        int1: int = -1,
        int2: int = -1,
    ) -> None:
        super().__init__(message)
        self.number = int(number)
        self.domain = int(domain)
        self.level = level
        self.message = message
        self.str1 = str1
        self.str2 = str2
        self.str3 = str3
        self.int1 = int1
        self.int2 = int2

    def __repr__(self) -> str:
        return f"VirError({self.number}, {self.message!r}, domain={self.domain})"


class PassingError(VirError):
    """It comes from the surroundings and may be over the next time: a job that meets it waits rather than fails."""

    @classmethod
    def of(cls, error: VirError) -> Self:
        """With every field of the error."""
        return cls(
            error.number,
            error.message,
            domain=error.domain,
            level=error.level,
            str1=error.str1,
            str2=error.str2,
            str3=error.str3,
            int1=error.int1,
            int2=error.int2,
        )


class ConnectionLost(PassingError):
    """The hypervisor cannot be reached: whether what was asked for was done is not known."""


class StateUnwritable(PassingError):
    """The state could not be read or written now, and nothing of it changed: the disk under it is full, or ails."""


def report(number: ErrorNumber, detail: str | None = None, *, domain: int = ErrorDomain.QEMU) -> VirError:
    """The error as `virReportError` makes it; `detail` None gives the template without one."""
    bare, template = TEMPLATES[number]
    if detail is None:
        return VirError(number, bare, domain=domain, str1=bare)
    return VirError(number, template % detail, domain=domain, str1=template, str2=detail)


def argument_check(
    function: str, argument: str, text: str, *, domain: int = ErrorDomain.DOMAIN, number: int = ErrorNumber.INVALID_ARG
) -> VirError:
    """The error of libvirt's argument-check macros: the bare text, without "invalid argument: "."""
    return VirError(number, text, domain=domain, str1=function, str2=argument, int1=0, int2=0)


def must_not_be_null(argument: str, function: str, *, domain: int = ErrorDomain.DOMAIN) -> VirError:
    """`virCheckNonNullArgGoto` of the public API, e.g. `disk in virDomainBlockCopy must not be NULL`."""
    return argument_check(function, argument, f"{argument} in {function} must not be NULL", domain=domain)


def unsupported_flags(flags: int, supported: int, driver_function: str) -> VirError:
    """`virCheckFlags` of a driver: names only the bits that are not supported, in hexadecimal."""
    text = f"unsupported flags (0x{flags & ~supported:x}) in function {driver_function}"
    return argument_check(driver_function, "flags", text, domain=ErrorDomain.QEMU)


def read_only(function: str, *, domain: int = ErrorDomain.DOMAIN) -> VirError:
    """A changing call on a read-only connection (29)."""
    detail = f"read only access prevents {function}"
    return report(ErrorNumber.OPERATION_DENIED, detail, domain=domain)


def no_support(function: str, *, domain: int = ErrorDomain.DOMAIN) -> VirError:
    """The driver lacks the call (3); `function` is libvirt's public name."""
    return report(ErrorNumber.NO_SUPPORT, function, domain=domain)


def system_error(system_errno: int, detail: str, *, domain: int = ErrorDomain.QEMU) -> VirError:
    """`virReportSystemError`: the detail, a colon and strerror; int1 is errno."""
    message = f"{detail}: {os.strerror(system_errno)}"
    return VirError(ErrorNumber.SYSTEM_ERROR, message, domain=domain, str1="%s", str2=message, int1=system_errno)
