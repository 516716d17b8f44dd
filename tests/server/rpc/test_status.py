# SPDX-License-Identifier: Apache-2.0
"""What a failed call tells: both details, whole where they fit, and always within the bound of the header block."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from virtblock.server.core.errors import ErrorNumber, VirError, report
from virtblock.server.core.events import EventsCompacted
from virtblock.server.core.jobs import BlockJobNotFound, RequestIdReused
from virtblock.server.core.watching import SlowReader
from virtblock.server.rpc import limits
from virtblock.server.rpc.status import reason_of, status_of, unforeseen
from virtblock.server.rpc.text import cut_to, wire_text
from virtblock.v1 import errors_pb2

# Python paths hold bytes that are not UTF-8 as lone surrogates.
ANY_TEXT = st.text(st.characters(), max_size=6000)


def unpack(status: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo, errors_pb2.VirError]:
    info, error = error_details_pb2.ErrorInfo(), errors_pb2.VirError()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(error)
    return info, error


def header_bytes(status: status_pb2.Status) -> int:
    """What the status takes in the trailers: percent-encoded text, and the whole in base64."""
    return len(quote(status.message, safe="")) + len(base64.b64encode(status.SerializeToString()))


def test_an_error_arrives_field_for_field() -> None:
    sent = VirError(42, "whole", domain=10, level=2, str1="a %s", str2="b", str3="c", int1=7, int2=-9)
    info, error = unpack(status_of(sent))
    assert (info.reason, info.domain, info.metadata["number"]) == ("VIR_ERR_NO_DOMAIN", "libvirt.org", "42")
    assert (error.number, error.domain, error.level, error.message) == (42, 10, 2, "whole")
    assert (error.str1, error.str2, error.str3, error.int1, error.int2) == ("a %s", "b", "c", 7, -9)


def test_what_libvirt_leaves_null_is_absent() -> None:
    _, error = unpack(status_of(report(ErrorNumber.OPERATION_INVALID, "x")))
    assert error.HasField("str1")
    assert not error.HasField("str3")


def test_an_unknown_number_is_kept() -> None:
    info, error = unpack(status_of(VirError(4711, "from a newer libvirt", domain=99)))
    assert (error.number, error.domain, info.reason) == (4711, 99, "VIR_ERR_4711")


def test_reasons_are_libvirts_names() -> None:
    assert reason_of(29) == "VIR_ERR_OPERATION_DENIED"
    assert reason_of(41) == "VIR_WAR_NO_NETWORK"


@given(message=ANY_TEXT, str1=ANY_TEXT, str2=ANY_TEXT, str3=ANY_TEXT)
def test_a_status_is_never_too_large(message: str, str1: str, str2: str, str3: str) -> None:
    status = status_of(VirError(38, message, str1=str1, str2=str2, str3=str3, int1=28))
    assert status.ByteSize() < limits.STATUS_BYTES_MAX
    assert header_bytes(status) < limits.METADATA_BYTES_SOFT
    _, error = unpack(status)
    assert (error.number, error.int1) == (38, 28)


@pytest.mark.parametrize("char", ["a", "ä", "盘", "\n", "\udcff"])
def test_a_huge_path_keeps_its_begin_and_its_end(char: str) -> None:
    path = f"/images/{char * 4090}/guest.qcow2"
    status = status_of(report(ErrorNumber.OPERATION_FAILED, f"cannot open '{path}' for reading"))
    assert status.ByteSize() < limits.STATUS_BYTES_MAX
    assert header_bytes(status) < limits.METADATA_BYTES_SOFT
    _, error = unpack(status)
    assert error.message.startswith("operation failed: cannot open '/images/")
    assert error.message.endswith("/guest.qcow2' for reading")
    assert "…" in error.message


def test_a_text_that_fits_is_whole() -> None:
    message = "m" * 900
    status = status_of(VirError(1, message, str2=message))
    _, error = unpack(status)
    assert status.message == error.message == error.str2 == message


@given(text=st.text(max_size=200), bytes_max=st.integers(3, 300))
def test_cutting_keeps_the_bound_and_short_texts(text: str, bytes_max: int) -> None:
    cut = cut_to(text, bytes_max)
    assert len(cut.encode()) <= bytes_max
    if len(text.encode()) <= bytes_max:
        assert cut == text


@given(text=st.text(st.characters()))
def test_any_text_can_be_sent(text: str) -> None:
    assert errors_pb2.VirError(message=wire_text(text)).SerializeToString() is not None


@pytest.mark.parametrize(
    ("error", "code", "reason", "metadata"),
    [
        (EventsCompacted(17), 11, "COMPACTED", {"number": "82", "oldest": "17"}),
        (BlockJobNotFound("j1"), 5, "BLOCK_JOB_NOT_FOUND", {"number": "8"}),
        (SlowReader(), 8, "SLOW_READER", {"number": "87"}),
        (RequestIdReused("r1"), 6, "REQUEST_ID_REUSED", {"number": "8"}),
    ],
)
def test_failures_that_libvirt_cannot_have_have_their_own_reason(
    error: VirError, code: int, reason: str, metadata: dict[str, str]
) -> None:
    status = status_of(error)
    info, vir_error = unpack(status)
    assert (status.code, info.reason, info.domain) == (code, reason, "virtblock.org")
    assert dict(info.metadata) == metadata
    assert vir_error.number == error.number


def test_an_unforeseen_failure_names_its_incident_only() -> None:
    info, error = unpack(unforeseen("1a2b3c4d"))
    assert int(error.number) == ErrorNumber.INTERNAL_ERROR
    assert error.message.endswith("incident 1a2b3c4d")
    assert info.metadata["incident"] == "1a2b3c4d"
