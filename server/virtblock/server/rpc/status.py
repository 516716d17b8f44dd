# SPDX-License-Identifier: Apache-2.0
"""From an error to the google.rpc.Status that a caller receives.

Owns: the two details that every failed call carries (ErrorInfo, then VirError), and their size. Invariants: the
serialized status is below `limits.STATUS_BYTES_MAX` whatever a path's length is, and the number, the domain and the
int fields are never lost to that; nothing of an unforeseen exception reaches the caller but the id under which the
log has it.
"""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.core.events import EventsCompacted
from virtblock.server.core.jobs import BlockJobNotFound, RequestIdReused
from virtblock.server.core.watching import SlowReader
from virtblock.server.rpc import limits
from virtblock.server.rpc.status_table import code_of
from virtblock.server.rpc.text import cut_to, cut_to_encoded, wire_text
from virtblock.v1 import errors_pb2
from virtblock.v1 import libvirt_enums_pb2 as enums

LIBVIRT_ERROR_DOMAIN = "libvirt.org"
NATIVE_ERROR_DOMAIN = "virtblock.org"

# The failures that libvirt cannot have: their own code and reason. The VirError in the details says the rest.
_NATIVE: dict[type[VirError], tuple[grpc.StatusCode, errors_pb2.NativeErrorReason.ValueType]] = {
    EventsCompacted: (grpc.StatusCode.OUT_OF_RANGE, errors_pb2.NATIVE_ERROR_REASON_COMPACTED),
    BlockJobNotFound: (grpc.StatusCode.NOT_FOUND, errors_pb2.NATIVE_ERROR_REASON_BLOCK_JOB_NOT_FOUND),
    SlowReader: (grpc.StatusCode.RESOURCE_EXHAUSTED, errors_pb2.NATIVE_ERROR_REASON_SLOW_READER),
    RequestIdReused: (grpc.StatusCode.ALREADY_EXISTS, errors_pb2.NATIVE_ERROR_REASON_REQUEST_ID_REUSED),
}
_NATIVE_PREFIX = "NATIVE_ERROR_REASON_"
# Tried in turn until the whole fits: how long each text of the details may be.
_TEXT_BYTES_STEPS = (limits.STATUS_BYTES_MAX, 1024, 512, 256, 128, 64)


def status_of(error: VirError, metadata: dict[str, str] | None = None) -> status_pb2.Status:
    """The status for an error; `metadata` is added to the ErrorInfo's."""
    code, info = _classify(error)
    for key, value in (metadata or {}).items():
        info.metadata[key] = cut_to(wire_text(value), limits.STATUS_METADATA_VALUE_BYTES_MAX)
    text = cut_to_encoded(wire_text(error.message), limits.STATUS_TEXT_BYTES_MAX)
    status = status_pb2.Status()
    for text_bytes_max in _TEXT_BYTES_STEPS:
        status = status_pb2.Status(code=code.value[0], message=cut_to(text, text_bytes_max))
        status.details.add().Pack(info)
        status.details.add().Pack(vir_error(error, text_bytes_max))
        if status.ByteSize() < limits.STATUS_BYTES_MAX:
            break
    return status


def unforeseen(incident: str) -> status_pb2.Status:
    """The status for an exception that nobody foresaw; `incident` is the id under which the log has its traceback."""
    detail = f"the server failed in a way that was not foreseen; its log tells more under incident {incident}"
    return status_of(report(ErrorNumber.INTERNAL_ERROR, detail, domain=ErrorDomain.RPC), {"incident": incident})


def server_stops() -> VirError:
    """What calls are told that would outlive the server: UNAVAILABLE, so that clients come again."""
    return report(ErrorNumber.RPC, "the server is stopping", domain=ErrorDomain.RPC)


def vir_error(error: VirError, text_bytes_max: int = limits.STATUS_BYTES_MAX) -> errors_pb2.VirError:
    """The error as the contract has it, no text above `text_bytes_max`; an empty string is libvirt's NULL."""
    message = errors_pb2.VirError(
        number=enums.ErrorNumber.ValueType(error.number),
        domain=enums.ErrorDomain.ValueType(error.domain),
        level=enums.ErrorLevel.ValueType(error.level),
        message=cut_to(wire_text(error.message), text_bytes_max),
        int1=error.int1,
        int2=error.int2,
    )
    for field in ("str1", "str2", "str3"):
        text = getattr(error, field)
        if text:
            setattr(message, field, cut_to(wire_text(text), text_bytes_max))
    return message


def _classify(error: VirError) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]:
    native = _NATIVE.get(type(error))
    if native is None:
        code = code_of(error)
        info = error_details_pb2.ErrorInfo(reason=reason_of(error.number), domain=LIBVIRT_ERROR_DOMAIN)
    else:
        code, reason = native
        name = errors_pb2.NativeErrorReason.Name(reason).removeprefix(_NATIVE_PREFIX)
        info = error_details_pb2.ErrorInfo(reason=name, domain=NATIVE_ERROR_DOMAIN)
    info.metadata["number"] = str(error.number)
    if isinstance(error, EventsCompacted):
        info.metadata["oldest"] = str(error.oldest_sequence)
    return code, info


def reason_of(number: int) -> str:
    """libvirt's name of the number, e.g. `VIR_ERR_NO_DOMAIN`; one that this version does not know keeps its digits."""
    if number in enums.ErrorNumber.values():
        return "VIR_" + enums.ErrorNumber.Name(enums.ErrorNumber.ValueType(number))
    return f"VIR_ERR_{number}"
