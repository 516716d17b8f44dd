# SPDX-License-Identifier: Apache-2.0
"""The two sides of the differential suite: libvirt itself, and libvirt behind our server.

Owns: `Side`, one face for both; each call gives a plain value or raises `Told` with the whole error. Invariants: a side
talks to its own guests only; what libvirt-python and our client give in different Python types (a list, a tuple, a
record) is made one plain form here, and nothing else is changed.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import libvirt

from virtblock.client import Client, VirError
from virtblock.server.drivers.libvirt.binding import ensure_event_loop

BLOCK_JOB, BLOCK_JOB_2, LIFECYCLE = 8, 16, 0


class Told(Exception):
    """The error of a call: libvirt's nine fields."""

    def __init__(self, fields: tuple[Any, ...]) -> None:
        super().__init__(fields[2])
        self.fields = fields


class Side(ABC):
    """Calls on domains by name, and the events of all domains as they came."""

    name: str

    def __init__(self) -> None:
        self._events: list[tuple[str, tuple[Any, ...]]] = []
        self._lock = threading.Lock()

    @abstractmethod
    def call(self, domain: str, method: str, *arguments: Any) -> Any: ...
    @abstractmethod
    def close(self) -> None: ...

    def events(self, domain: str) -> list[tuple[Any, ...]]:
        """The block-job and lifecycle events of a domain, in order."""
        with self._lock:
            return [values for name, values in self._events if name == domain]

    def _take(self, domain: str, values: tuple[Any, ...]) -> None:
        with self._lock:
            self._events.append((domain, values))


class LibvirtSide(Side):
    """libvirt-python."""

    name = "libvirt"

    def __init__(self, uri: str) -> None:
        super().__init__()
        ensure_event_loop()
        self._connection = libvirt.open(uri)
        self._read_only = libvirt.openReadOnly(uri)
        for event_id in (BLOCK_JOB, BLOCK_JOB_2):
            self._connection.domainEventRegisterAny(None, event_id, self._block_job, event_id)
        self._connection.domainEventRegisterAny(None, LIFECYCLE, self._lifecycle, None)

    def call(self, domain: str, method: str, *arguments: Any) -> Any:
        """One call, by the names of `METHODS`."""
        connection = self._connection
        if method.endswith("@ro"):
            connection, method = self._read_only, method.removesuffix("@ro")
        try:
            return _plain(_LIBVIRT[method](connection.lookupByName(domain), *arguments))
        except libvirt.libvirtError as error:
            number, part, message, level, str1, str2, str3, int1, int2 = error.err
            raise Told((number, part, message, level, str1 or "", str2 or "", str3 or "", int1, int2)) from None

    def close(self) -> None:
        """Closes both connections."""
        self._read_only.close()
        self._connection.close()

    def _block_job(self, _connection: Any, domain: Any, disk: str, kind: int, status: int, event_id: int) -> None:
        self._take(domain.name(), (event_id, disk, kind, status))

    def _lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        self._take(domain.name(), (LIFECYCLE, event, detail))


class ServerSide(Side):
    """Our client and a daemon that has the same libvirt as its connection."""

    name = "virtblock"

    def __init__(self, target: str) -> None:
        super().__init__()
        self._client = Client(target)
        self._read_only = Client(target, read_only=True)
        self._stream = self._client.domain_events((LIFECYCLE, BLOCK_JOB, BLOCK_JOB_2))
        self._stream.__enter__()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def call(self, domain: str, method: str, *arguments: Any) -> Any:
        """One call, by the names of `METHODS`."""
        client = self._client
        if method.endswith("@ro"):
            client, method = self._read_only, method.removesuffix("@ro")
        try:
            return _plain(_SERVER[method](client, domain, *arguments))
        except VirError as error:
            raise Told((
                int(error.number), int(error.domain), error.message, int(error.level),
                error.str1 or "", error.str2 or "", error.str3 or "", error.record.int1, error.record.int2,
            )) from None  # fmt: skip

    def close(self) -> None:
        """Ends the stream and both clients."""
        self._stream.__exit__(None, None, None)
        self._thread.join(5)
        self._read_only.close()
        self._client.close()

    def _follow(self) -> None:
        try:
            for event in self._stream:
                if event.lifecycle is not None:
                    self._take(event.domain.name, (LIFECYCLE, int(event.lifecycle.event), int(event.lifecycle.detail)))
                elif event.block_job is not None:
                    job = event.block_job
                    self._take(event.domain.name, (int(event.event_id), job.disk, int(job.type), int(job.status)))
        except VirError:
            return  # the stream was closed


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _info(info: Any) -> Any:
    """{} and None both mean that there is no job. How much a mirror counts in all is chance: "all" stands for it."""
    if not info:
        return None
    keys = ("type", "bandwidth", "cur", "end")
    found = info if isinstance(info, dict) else {key: getattr(info, key) for key in keys}
    plain = {key: int(found[key]) for key in keys}
    return {**plain, "cur": "all", "end": "all"} if plain["cur"] == plain["end"] > 0 else plain


def _limit(info: Any) -> Any:
    """Type and bandwidth: how far a job is that runs is chance."""
    return None if not info else {key: _info(info)[key] for key in ("type", "bandwidth")}


def _signed(value: int) -> int:
    """libvirt-python takes C's unsigned numbers of 64 bits as signed ones: the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _none(call: Callable[..., Any]) -> Callable[..., None]:
    """Starting calls answer 0 there and a record here: that they returned is what counts."""

    def without_value(*arguments: Any) -> None:
        call(*arguments)

    return without_value


_LIBVIRT: dict[str, Callable[..., Any]] = {
    "rebase": _none(
        lambda domain, disk, base, bandwidth, flags: domain.blockRebase(disk, base, _signed(bandwidth), flags)
    ),
    "copy": _none(lambda domain, disk, xml, parameters, flags: domain.blockCopy(disk, xml, parameters, flags)),
    "pull": _none(lambda domain, disk, bandwidth, flags: domain.blockPull(disk, _signed(bandwidth), flags)),
    "commit": _none(
        lambda domain, disk, base, top, rate, flags: domain.blockCommit(disk, base, top, _signed(rate), flags)
    ),
    "abort": _none(lambda domain, disk, flags: domain.blockJobAbort(disk, flags)),
    "info": lambda domain, disk, flags: _info(domain.blockJobInfo(disk, flags)),
    "limit": lambda domain, disk, flags: _limit(domain.blockJobInfo(disk, flags)),
    "speed": _none(lambda domain, disk, bandwidth, flags: domain.blockJobSetSpeed(disk, _signed(bandwidth), flags)),
    "resize": _none(lambda domain, disk, size, flags: domain.blockResize(disk, _signed(size), flags)),
    "block_info": lambda domain, disk, flags: domain.blockInfo(disk, flags)[:1],
    "stats": lambda domain, disk: len(domain.blockStats(disk)),
    "xml": lambda domain, flags: domain.XMLDesc(flags),
    "state": lambda domain, flags: domain.state(flags),
    "is_active": lambda domain: bool(domain.isActive()),
    "is_persistent": lambda domain: bool(domain.isPersistent()),
    "suspend": _none(lambda domain: domain.suspend()),
    "resume": _none(lambda domain: domain.resume()),
    "destroy": _none(lambda domain, flags: domain.destroyFlags(flags)),
    "create": _none(lambda domain, flags: domain.createWithFlags(flags)),
    "undefine": _none(lambda domain, flags: domain.undefineFlags(flags)),
    "define": _none(lambda domain, xml, flags: domain.connect().defineXMLFlags(xml, flags)),
    "save": _none(lambda domain, path: domain.save(path)),
    "save_flags": _none(lambda domain, path, xml, flags: domain.saveFlags(path, xml, flags)),
    "managed_save": _none(lambda domain, flags: domain.managedSave(flags)),
    "snapshot": _none(lambda domain, xml, flags: domain.snapshotCreateXML(xml, flags)),
    "revert": _none(lambda domain, name, flags: domain.revertToSnapshot(domain.snapshotLookupByName(name), flags)),
    "detach": _none(lambda domain, xml, flags: domain.detachDeviceFlags(xml, flags)),
}
_SERVER: dict[str, Callable[..., Any]] = {
    "rebase": _none(lambda client, *arguments: client.block_rebase(*arguments)),
    "copy": _none(lambda client, *arguments: client.block_copy(*arguments)),
    "pull": _none(lambda client, *arguments: client.block_pull(*arguments)),
    "commit": _none(lambda client, *arguments: client.block_commit(*arguments)),
    "abort": _none(lambda client, *arguments: client.block_job_abort(*arguments)),
    "info": lambda client, *arguments: _info(client.get_block_job_info(*arguments)),
    "limit": lambda client, *arguments: _limit(client.get_block_job_info(*arguments)),
    "speed": _none(lambda client, *arguments: client.block_job_set_speed(*arguments)),
    "resize": _none(lambda client, *arguments: client.block_resize(*arguments)),
    "block_info": lambda client, *arguments: [client.get_block_info(*arguments).capacity_bytes],
    "stats": lambda client, *arguments: len(astuple(client.block_stats(*arguments))),
    "xml": lambda client, *arguments: client.get_xml_desc(*arguments),
    "state": lambda client, domain, flags: [int(value) for value in astuple(client.get_state(domain, flags))],
    "is_active": lambda client, domain: client.is_active(domain),
    "is_persistent": lambda client, domain: client.is_persistent(domain),
    "suspend": _none(lambda client, *arguments: client.suspend(*arguments)),
    "resume": _none(lambda client, *arguments: client.resume(*arguments)),
    "destroy": _none(lambda client, *arguments: client.destroy(*arguments)),
    "create": _none(lambda client, *arguments: client.create(*arguments)),
    "undefine": _none(lambda client, *arguments: client.undefine(*arguments)),
    "define": _none(lambda client, domain, xml, flags: client.domain_define_xml(xml, flags)),
    "save": _none(lambda client, *arguments: client.save(*arguments)),
    "save_flags": _none(lambda client, *arguments: client.save_flags(*arguments)),
    "managed_save": _none(lambda client, *arguments: client.managed_save(*arguments)),
    "snapshot": _none(lambda client, *arguments: client.snapshot_create_xml(*arguments)),
    "revert": _none(lambda client, *arguments: client.revert_to_snapshot(*arguments)),
    "detach": _none(lambda client, *arguments: client.detach_device_flags(*arguments)),
}
METHODS = frozenset(_LIBVIRT)
assert _SERVER.keys() == METHODS
