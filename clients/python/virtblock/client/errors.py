# SPDX-License-Identifier: Apache-2.0
"""The one exception of the client, and how it is made of what gRPC reports.

Owns: `VirError` and its reading from a failed call. Invariants: every failed call raises VirError, with the RpcError as
its cause; a server's VirError is passed on field for field; where none came, because the server was not reached or
knows nothing of libvirt's errors, number and domain are those that libvirt's own remote client would give, and the
message says what to do.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from virtblock.client import decode
from virtblock.client.error_numbers import ErrorDomain, ErrorLevel, ErrorNumber
from virtblock.client.model import ErrorRecord
from virtblock.v1 import errors_pb2

BLOCK_JOB_NOT_FOUND = "BLOCK_JOB_NOT_FOUND"
"""`VirError.reason`: the server holds no job of this id."""
COMPACTED = "COMPACTED"
"""`VirError.reason`: the server no longer keeps all events since the resume token."""
REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
"""`VirError.reason`: the request_id was used before, with other arguments."""
SLOW_READER = "SLOW_READER"
"""`VirError.reason`: the reader of a stream fell too far behind."""

_STATUS_KEY = "grpc-status-details-bin"
# What the kernel says of a socket that nobody serves; gRPC passes it on in words alone.
_CONNECT_ERRNOS = (errno.ENOENT, errno.ECONNREFUSED, errno.EACCES, errno.ETIMEDOUT, errno.EHOSTUNREACH)


class VirError(Exception):
    """A call failed. The fields are those of libvirt's error; `str(error)` is its message.

    Decide by `number` (or `is_`), and for the few failures that libvirt cannot have by `reason`. `code` is gRPC's code,
    or None when nothing was called. `__cause__` is the grpc.RpcError.
    """

    def __init__(self, record: ErrorRecord, *, reason: str = "", code: grpc.StatusCode | None = None) -> None:
        super().__init__(record.message)
        self.record = record
        self.reason = reason
        """The ErrorInfo's reason: "VIR_ERR_NO_DOMAIN", or one of the constants of this module. Empty: none came."""
        self.code = code

    @property
    def number(self) -> ErrorNumber:
        """What went wrong (virErrorNumber)."""
        return self.record.number

    @property
    def domain(self) -> ErrorDomain:
        """Which part found the error (virErrorDomain)."""
        return self.record.domain

    @property
    def level(self) -> ErrorLevel:
        """How grave it is."""
        return self.record.level

    @property
    def message(self) -> str:
        """The whole text for people."""
        return self.record.message

    @property
    def str1(self) -> str | None:
        """As a rule the message's template."""
        return self.record.str1

    @property
    def str2(self) -> str | None:
        """As a rule the detail that filled the template."""
        return self.record.str2

    @property
    def str3(self) -> str | None:
        """More text, as a rule None."""
        return self.record.str3

    @property
    def int1(self) -> int:
        """errno for SYSTEM_ERROR, else -1, or 0 for an argument check."""
        return self.record.int1

    @property
    def int2(self) -> int:
        """-1, or 0 for an argument check."""
        return self.record.int2

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.record, self.reason, self.code)

    def __repr__(self) -> str:
        return f"VirError({self.number!r}, {self.message!r}, domain={self.domain!r}, reason={self.reason!r})"


def _restore(record: ErrorRecord, reason: str, code: grpc.StatusCode | None) -> VirError:
    return VirError(record, reason=reason, code=code)


def is_(error: BaseException, *what: int | str) -> bool:
    """Whether it is a VirError with one of these numbers, or with one of these reasons where `what` is a str."""
    return isinstance(error, VirError) and (error.number in what or error.reason in what)


class FailedCall(Protocol):
    """What the errors of both front ends of grpc have in common."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Any: ...


def from_rpc_error(error: FailedCall, *, server: str, rpc: str, timeout_s: float | None) -> VirError:
    """The exception for a failed call to `server`, a target; `timeout_s` is the deadline that the call had."""
    sent = _sent_by_server(error)
    return sent if sent is not None else _without_detail(error, server=server, rpc=rpc, timeout_s=timeout_s)


def _sent_by_server(error: FailedCall) -> VirError | None:
    """The VirError in the google.rpc.Status of the trailing metadata, or None without a readable one."""
    record: ErrorRecord | None = None
    reason = ""
    try:
        for key, value in error.trailing_metadata() or ():
            if key != _STATUS_KEY:
                continue
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Is(errors_pb2.VirError.DESCRIPTOR):
                    record = decode.error_record(errors_pb2.VirError.FromString(detail.value))
                elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                    reason = error_details_pb2.ErrorInfo.FromString(detail.value).reason
    except DecodeError:
        return None
    return None if record is None else VirError(record, reason=reason, code=error.code())


def _without_detail(error: FailedCall, *, server: str, rpc: str, timeout_s: float | None) -> VirError:
    code, details = error.code(), error.details() or "no further detail"
    int1 = -1
    if code is grpc.StatusCode.UNAVAILABLE:
        number = ErrorNumber.SYSTEM_ERROR
        int1 = next((each for each in _CONNECT_ERRNOS if os.strerror(each) in details), -1)
        cause = details if int1 == -1 else os.strerror(int1)
        advice = f"is it running? start it with: virtblockd --listen {server.removesuffix('-ro')}"
        if int1 == errno.EACCES:
            advice = "the socket is for root and the daemon's group, the read-only one beside it for everybody"
        message = f"cannot connect to virtblockd at {server}: {cause}; {advice}"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        number = ErrorNumber.OPERATION_TIMEOUT
        time = "in time" if timeout_s is None else f"within {timeout_s:g} s"
        message = f"{rpc}: virtblockd at {server} did not answer {time}; what it was asked to do may go on"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        number = ErrorNumber.NO_SUPPORT
        message = f"virtblockd at {server} does not know the call {rpc}: {details}; it is older than this client"
    elif code is grpc.StatusCode.CANCELLED:
        number = ErrorNumber.OPERATION_ABORTED
        message = f"{rpc}: the call to virtblockd at {server} was cancelled: {details}"
    else:
        number = ErrorNumber.RPC
        message = f"{rpc}: the call to virtblockd at {server} failed with {code.name}: {details}"
    record = ErrorRecord(number, message, ErrorDomain.RPC, str1="%s", str2=message, int1=int1)
    return VirError(record, code=code)


def timed_out(rpc: str, timeout_s: float) -> VirError:
    """The exception for a wait that the client itself ends."""
    message = f"{rpc}: the {timeout_s:g} s that were asked for are over"
    record = ErrorRecord(ErrorNumber.OPERATION_TIMEOUT, message, ErrorDomain.RPC, str1="%s", str2=message)
    return VirError(record, code=grpc.StatusCode.DEADLINE_EXCEEDED)
