# SPDX-License-Identifier: Apache-2.0
"""The engine's failures in libvirt's numbers: the table is total, and path and reason are in every message."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from virtblock.engine import EngineError, PathPolicy
from virtblock.server.drivers.offline.engine_errors import creating_error, opening_error, vir_error

NUMBERS = {
    "system": 38,
    "invalid": 8,
    "format": 1,
    "unsupported": 67,
    "denied": 88,
    "locked": 1,
    "backing": 1,
    "backing-format": 55,
    "size": 67,
    "space": 38,
    "cancelled": 78,
    "memory": 2,
    "exists": 67,
    "same-file": 1,
    "internal": 1,
    "no-bitmap": 103,
    "bitmap": 109,
    "changed": 9,
}
IDS = f"(as uid:{os.geteuid()}, gid:{os.getegid()})"


@pytest.mark.parametrize("kind", NUMBERS)
def test_every_kind_has_a_number_and_tells_place_and_reason(kind: Any) -> None:
    error = vir_error(EngineError(kind, "the reason", errno=errno.EIO if kind == "system" else 0, path="/p"))
    assert error.number == NUMBERS[kind]
    assert "the reason" in error.message
    assert "/p" in error.message


def test_system_errors_carry_errno() -> None:
    error = vir_error(EngineError("system", "Cannot open image", errno=errno.EACCES, path="/p"))
    assert (error.message, error.int1) == ("Cannot open image: '/p': Permission denied", errno.EACCES)
    assert vir_error(EngineError("space", "too small", path="/p")).int1 == errno.ENOSPC


def test_missing_images_in_libvirts_words() -> None:
    policy = PathPolicy()
    missing = opening_error(EngineError("system", "cannot open", errno=errno.ENOENT, path="/a"), "/a", policy)
    assert (missing.number, missing.domain) == (38, 18)
    assert missing.message == f"Cannot access storage file '/a' {IDS}: No such file or directory"
    backing = opening_error(EngineError("backing", "cannot open", errno=errno.ENOENT, path="/b"), "/a", policy)
    assert (backing.number, backing.domain, backing.int1) == (38, 18, errno.ENOENT)
    assert backing.message == f"Cannot access backing file '/b' of storage file '/a' {IDS}: No such file or directory"


def test_destination_that_cannot_be_made() -> None:
    denied = creating_error(EngineError("system", "cannot create", errno=errno.EACCES, path="/d/x"), "vda", "/d/x")
    assert (denied.number, denied.message) == (38, "failed to create copy target '/d/x': Permission denied")
    exists = creating_error(EngineError("exists", "not empty", path="/d/x"), "vda", "/d/x")
    detail = "external destination file for disk vda already exists and is not a block device: /d/x"
    assert exists.message == f"unsupported configuration: {detail}"
