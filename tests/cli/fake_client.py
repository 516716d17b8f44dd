# SPDX-License-Identifier: Apache-2.0
"""A client without a server: answers what a test says, and holds every call to the real client's signature."""

from __future__ import annotations

import inspect
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from virtblock.client import (
    BlockJob,
    BlockJobState,
    BlockJobType,
    Client,
    Domain,
    DomainState,
    ErrorDomain,
    ErrorNumber,
    ErrorRecord,
    VirError,
)

MIB = 1024 * 1024
T1 = Domain("embedded:///", "t1", "7cc73cc3-e997-4669-ace9-e93f689e55a8", -1, True, False, DomainState.SHUTOFF)
RUNNING = Domain("embedded:///", "test", "6695eb01-f6a4-8304-79aa-97f2502e193f", 1, True, True, DomainState.RUNNING)


def vir_error(number: ErrorNumber, message: str) -> VirError:
    """A libvirt error as the server sends it."""
    return VirError(ErrorRecord(number, message, ErrorDomain.QEMU))


def no_domain(wanted: object) -> VirError:
    """libvirt's answer to a look-up in vain."""
    return vir_error(ErrorNumber.NO_DOMAIN, f"Domain not found: no domain with matching name '{wanted}'")


def job_record(state: BlockJobState, *, cur: int = 0, end: int = 100 * MIB, **more: Any) -> BlockJob:
    """A copy job of t1's vda."""
    values: dict[str, Any] = dict.fromkeys(BlockJob.__dataclass_fields__, "")
    values |= {
        "job_id": "job-1",
        "state": state,
        "type": BlockJobType.COPY,
        "disk": "vda",
        "domain": T1,
        "connection_uri": "embedded:///",
        "cur": cur,
        "end": end,
        "error": None,
        "destination_path": "/img/copy",
    }
    numbers = ("bandwidth_bytes_per_s", "flags", "total_bytes", "copied_bytes", "zero_bytes", "remaining_bytes")
    values |= dict.fromkeys((*numbers, "rate_bytes_per_s"), 0) | {"eta_s": -1}
    values |= dict.fromkeys(("paused", "fallback", "restarted"), False)
    values |= dict.fromkeys(("create_time", "start_time", "ready_time", "end_time"))
    return BlockJob(**values | more)


@dataclass
class FakeClient:
    """Any method of `Client`: `answers` has a value to return, an exception to raise, or a function of the call."""

    answers: dict[str, Any] = field(default_factory=dict)
    domains: list[Domain] = field(default_factory=lambda: [RUNNING, T1])
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        real = getattr(Client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            bound = inspect.signature(real).bind(self, *arguments, **named)
            given = {key: value for key, value in bound.arguments.items() if key != "self"}
            self.calls.append((name, given))
            answer = self.answers[name] if name in self.answers else getattr(self, f"_{name}")
            if isinstance(answer, BaseException):
                raise answer
            return answer(**given) if callable(answer) else answer

        return call

    def close(self) -> None:
        """As the real one."""

    def called(self, name: str) -> list[dict[str, Any]]:
        """The arguments of every call of that method."""
        return [given for called, given in self.calls if called == name]

    def _get_uri(self) -> str:
        return "embedded:///"

    def _find(self, wanted: object, matches: Callable[[Domain], bool]) -> Domain:
        for domain in self.domains:
            if matches(domain):
                return domain
        raise no_domain(wanted)

    def _domain_lookup_by_name(self, name: str) -> Domain:
        return self._find(name, lambda domain: domain.name == name)

    def _domain_lookup_by_uuid(self, uuid: str) -> Domain:
        return self._find(uuid, lambda domain: domain.uuid == uuid)

    def _domain_lookup_by_id(self, id: int) -> Domain:
        return self._find(id, lambda domain: domain.id == id)

    def _list_all_domains(self, flags: int) -> list[Domain]:
        wanted = {True: flags & 1, False: flags & 2}
        chosen = [domain for domain in self.domains if wanted[domain.active]]
        is_running = flags & 16
        return [domain for domain in chosen if not is_running or domain.state is DomainState.RUNNING]


class FakeStream:
    """A stream or watch whose events a test gives one by one; None ends it, an exception breaks it."""

    def __init__(self, *events: Any, ends: bool = False) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        self.is_drained = threading.Event()
        for event in events:
            self.events.put(event)
        if ends:
            self.events.put(None)

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        while (event := self._next()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event

    def _next(self) -> Any:
        if self.events.empty():
            self.is_drained.set()
        return self.events.get()
