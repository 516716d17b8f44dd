# SPDX-License-Identifier: Apache-2.0
"""libvirt's C library itself, called without a daemon on its `test:///default`, and the error that it leaves behind."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from virtblock.server.core.errors import VirError

_POINTER_FUNCTIONS = (
    "virConnectOpen",
    "virConnectOpenReadOnly",
    "virDomainLookupByName",
    "virDomainLookupByUUIDString",
    "virDomainLookupByID",
    "virDomainGetXMLDesc",
    "virDomainDefineXMLFlags",
    "virDomainCreateXML",
    "virDomainSnapshotCreateXML",
    "virDomainSnapshotLookupByName",
)


class _Error(ctypes.Structure):
    """struct _virError."""

    _fields_ = (
        ("code", ctypes.c_int),
        ("domain", ctypes.c_int),
        ("message", ctypes.c_char_p),
        ("level", ctypes.c_int),
        ("conn", ctypes.c_void_p),
        ("dom", ctypes.c_void_p),
        ("str1", ctypes.c_char_p),
        ("str2", ctypes.c_char_p),
        ("str3", ctypes.c_char_p),
        ("int1", ctypes.c_int),
        ("int2", ctypes.c_int),
        ("net", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Told:
    """What a caller is told by an error, field by field."""

    number: int
    domain: int
    message: str
    str1: str
    str2: str
    int1: int
    int2: int

    @staticmethod
    def of(error: VirError) -> Told:
        return Told(error.number, error.domain, error.message, error.str1, error.str2, error.int1, error.int2)


class Libvirt:
    """The library with one read-write and one read-only connection and the domain `test` on each."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libvirt.so.0")
        for name in _POINTER_FUNCTIONS:
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.virGetLastError.restype = ctypes.POINTER(_Error)
        self._quiet = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(lambda opaque, error: None)
        self._library.virInitialize()
        self._library.virSetErrorFunc(None, self._quiet)
        self.conn = self._pointer("virConnectOpen", b"test:///default")
        self.ro_conn = self._pointer("virConnectOpenReadOnly", b"test:///default")
        self.dom = self._pointer("virDomainLookupByName", self.conn, b"test")
        self.ro_dom = self._pointer("virDomainLookupByName", self.ro_conn, b"test")
        xml = b"<domainsnapshot><name>s1</name></domainsnapshot>"
        self.snap = self._pointer("virDomainSnapshotCreateXML", self.dom, xml, 0)
        self.ro_snap = self._pointer("virDomainSnapshotLookupByName", self.ro_dom, b"s1", 0)
        # Room for any record that a call fills in.
        self.out = ctypes.create_string_buffer(512)

    def told(self, function: str, *arguments: Any) -> Told | None:
        """The error of one call, None when it succeeds."""
        self._library.virResetLastError()
        getattr(self._library, function)(*arguments)
        pointer = self._library.virGetLastError()
        if not pointer or pointer.contents.code == 0:
            return None
        error = pointer.contents
        message, str1, str2 = ((text or b"").decode() for text in (error.message, error.str1, error.str2))
        return Told(error.code, error.domain, message, str1, str2, error.int1, error.int2)

    def _pointer(self, function: str, *arguments: Any) -> ctypes.c_void_p:
        value = getattr(self._library, function)(*arguments)
        assert value, function
        return ctypes.c_void_p(value)
