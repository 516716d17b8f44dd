# SPDX-License-Identifier: Apache-2.0
"""The one table from libvirt's numbers to gRPC codes is total, and is the one that the contract's README promises."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import grpc
import pytest

from virtblock.server.core import errors
from virtblock.server.rpc.status_table import CODE_BY_ERRNO, CODE_BY_NUMBER, code_of
from virtblock.v1 import libvirt_enums_pb2 as enums

README = Path(__file__).parents[3] / "proto" / "README.md"


def promised_codes() -> dict[str, str]:
    """`VIR_ERR_` name -> code, from the README's table, without the row that goes by errno and the last one."""
    rows = re.findall(r"^\| (`[A-Z_`, ]+) \| `([A-Z_]+)` \|$", README.read_text(), re.MULTILINE)
    return {name: code for names, code in rows for name in re.findall(r"`([A-Z_]+)`", names)}


def test_every_number_of_the_contract_is_in_the_table() -> None:
    assert set(enums.ErrorNumber.values()) <= CODE_BY_NUMBER.keys()
    assert len(enums.ErrorNumber.values()) > 100


def test_the_table_is_the_one_that_is_promised() -> None:
    promised = promised_codes()
    assert len(promised) >= 25
    named = {name.removeprefix("ERR_"): CODE_BY_NUMBER[number].name for name, number in enums.ErrorNumber.items()}
    assert {name: named[name] for name in promised} == promised
    others = {name: code for name, code in named.items() if name not in promised}
    assert set(others.values()) == {"INTERNAL"}


def test_the_core_and_the_contract_give_the_same_names_the_same_numbers() -> None:
    for number in errors.ErrorNumber:
        assert int(enums.ErrorNumber.Value(f"ERR_{number.name}")) == number
    for domain in errors.ErrorDomain:
        assert int(enums.ErrorDomain.Value(f"FROM_{domain.name}")) == domain


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, grpc.StatusCode.NOT_FOUND),
        (errno.EACCES, grpc.StatusCode.PERMISSION_DENIED),
        (errno.EPERM, grpc.StatusCode.PERMISSION_DENIED),
        (errno.EEXIST, grpc.StatusCode.ALREADY_EXISTS),
        (errno.ENOSPC, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errno.EDQUOT, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errno.EIO, grpc.StatusCode.INTERNAL),
        (-1, grpc.StatusCode.INTERNAL),
    ],
)
def test_a_system_error_goes_by_errno(number: int, code: grpc.StatusCode) -> None:
    assert code_of(errors.VirError(errors.ErrorNumber.SYSTEM_ERROR, "x", int1=number)) is code


def test_errno_counts_for_system_errors_alone() -> None:
    error = errors.VirError(errors.ErrorNumber.OPERATION_FAILED, "x", int1=errno.ENOENT)
    assert code_of(error) is grpc.StatusCode.INTERNAL
    assert errno.ENOENT in CODE_BY_ERRNO


def test_a_number_of_a_newer_libvirt_is_internal() -> None:
    assert code_of(errors.VirError(4711, "x")) is grpc.StatusCode.INTERNAL
