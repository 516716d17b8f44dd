# SPDX-License-Identifier: Apache-2.0
"""The two sides of the drop-in's differential run: libvirt-python, and `virtblock.libvirt`, by the very same code.

Owns: `ModuleSide`, which makes each call on whichever of the two modules it is given. Invariants: nothing is made alike
here: answers keep their values and types, errors all nine fields as they are, events the arguments of the callback in
its order. Only how far a job is that runs, and a guest's own figures, are chance and reduced to their types; and a
snapshot to revert to is looked up by the server, because snapshotLookupByName is not offered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from live.sides import BLOCK_JOB, BLOCK_JOB_2, LIFECYCLE, Side, Told

from virtblock.libvirt import virDomain, virDomainSnapshot
from virtblock.libvirt.snapshot import SnapshotHandle

_PROCESS_WIDE: set[str] = set()


class ModuleSide(Side):
    """One of the two modules on one URI."""

    def __init__(self, name: str, module: ModuleType, uri: str) -> None:
        super().__init__()
        self.name = name
        self._module: Any = module
        self._run_loop()
        self._module.registerErrorHandler(lambda context, error: None, None)
        self._connection = self._module.open(uri)
        self._read_only = self._module.openReadOnly(uri)
        self._numbers = [
            self._connection.domainEventRegisterAny(None, event_id, self._block_job, event_id)
            for event_id in (BLOCK_JOB, BLOCK_JOB_2)
        ]
        self._numbers.append(self._connection.domainEventRegisterAny(None, LIFECYCLE, self._lifecycle, LIFECYCLE))

    def call(self, domain: str, method: str, *arguments: Any) -> Any:
        """One call, by the names of the cases; the answer with its type."""
        connection = self._connection
        if method.endswith("@ro"):
            connection, method = self._read_only, method.removesuffix("@ro")
        try:
            return _shown(CALLS[method](connection.lookupByName(domain), *arguments))
        except self._module.libvirtError as error:
            self._look_at(error)
            raise Told(error.err) from None
        except (TypeError, ValueError, OverflowError) as error:
            return [type(error).__name__, str(error)]

    def close(self) -> None:
        """Closes both connections."""
        for number in self._numbers:
            self._connection.domainEventDeregisterAny(number)
        self._read_only.close()
        self._connection.close()

    def _look_at(self, error: Any) -> None:
        """The ways to ask an error agree with one another."""
        assert error.err == self._module.virGetLastError()
        assert (str(error), error.args) == (error.err[2], (error.err[2],))
        asked = (error.get_error_code(), error.get_error_domain(), error.get_error_message(), error.get_error_level())
        assert (*asked, error.get_str1(), error.get_int1()) == (*error.err[:5], error.err[7])

    def _run_loop(self) -> None:
        if self._module.__name__ in _PROCESS_WIDE:
            return
        _PROCESS_WIDE.add(self._module.__name__)
        self._module.virEventRegisterDefaultImpl()
        threading.Thread(target=self._loop, name=f"{self._module.__name__}-loop", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._module.virEventRunDefaultImpl()

    def _block_job(self, *arguments: Any) -> None:
        connection, domain, *rest, opaque = arguments
        assert connection is self._connection
        self._take(domain.name(), (opaque, *rest, len(arguments)))

    _lifecycle = _block_job


def _shown(value: Any) -> list[Any]:
    """An answer as its type and value; its parts likewise where it has some."""
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(_shown(each) for each in value)]
    if isinstance(value, dict):
        return ["dict", *([key, *_shown(each)] for key, each in value.items())]
    return [type(value).__name__, value]


def _limit(info: Any) -> Any:
    """A job's type and limit, and of the rest only that they are there: how far it is, is chance."""
    return {key: value if key in ("type", "bandwidth") else type(value).__name__ for key, value in info.items()}


def _types(values: Any) -> Any:
    return type(values)(type(each).__name__ for each in values)


def _signed(value: int) -> int:
    """The same 64 bits as a signed number, which is what libvirt-python takes."""
    return value - (1 << 64) if 1 << 63 <= value < 1 << 64 else value


def _snapshot(domain: Any, name: str) -> Any:
    if isinstance(domain, virDomain):
        return virDomainSnapshot(domain, _obj=SnapshotHandle(name, ""))
    return domain.snapshotLookupByName(name)


def _defined_name(domain: Any, xml: str, flags: int) -> Any:
    return domain.connect().defineXMLFlags(xml, flags).name()


CALLS: dict[str, Callable[..., Any]] = {
    "rebase": lambda domain, disk, base, rate, flags: domain.blockRebase(disk, base, _signed(rate), flags),
    "copy": lambda domain, disk, xml, parameters, flags: domain.blockCopy(disk, xml, parameters, flags),
    "pull": lambda domain, disk, rate, flags: domain.blockPull(disk, _signed(rate), flags),
    "commit": lambda domain, disk, base, top, rate, flags: domain.blockCommit(disk, base, top, _signed(rate), flags),
    "abort": lambda domain, disk, flags: domain.blockJobAbort(disk, flags),
    "info": lambda domain, disk, flags: domain.blockJobInfo(disk, flags),
    "limit": lambda domain, disk, flags: _limit(domain.blockJobInfo(disk, flags)),
    "speed": lambda domain, disk, rate, flags: domain.blockJobSetSpeed(disk, _signed(rate), flags),
    "resize": lambda domain, disk, size, flags: domain.blockResize(disk, _signed(size), flags),
    "block_info": lambda domain, disk, flags: [*domain.blockInfo(disk, flags)[:1], *_types(domain.blockInfo(disk)[1:])],
    "stats": lambda domain, disk: _types(domain.blockStats(disk)),
    "xml": lambda domain, flags: domain.XMLDesc(flags),
    "state": lambda domain, flags: domain.state(flags),
    "is_active": lambda domain: domain.isActive(),
    "is_persistent": lambda domain: domain.isPersistent(),
    "suspend": lambda domain: domain.suspend(),
    "resume": lambda domain: domain.resume(),
    "destroy": lambda domain, flags: [domain.destroyFlags(flags), domain.ID() == -1],
    "create": lambda domain, flags: [domain.createWithFlags(flags), domain.ID() > 0],
    "undefine": lambda domain, flags: domain.undefineFlags(flags),
    "define": _defined_name,
    "save": lambda domain, path: [domain.save(path), domain.ID() == -1],
    "save_flags": lambda domain, path, xml, flags: [domain.saveFlags(path, xml, flags), domain.ID() == -1],
    "managed_save": lambda domain, flags: [domain.managedSave(flags), domain.ID() == -1],
    "snapshot": lambda domain, xml, flags: type(domain.snapshotCreateXML(xml, flags)).__name__,
    "revert": lambda domain, name, flags: domain.revertToSnapshot(_snapshot(domain, name), flags),
    "detach": lambda domain, xml, flags: domain.detachDeviceFlags(xml, flags),
}
