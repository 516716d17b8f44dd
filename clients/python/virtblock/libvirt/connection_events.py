# SPDX-License-Identifier: Apache-2.0
"""The part of virConnect that calls back: events of domains, and the end of the connection.

Owns: which callbacks of a connection there are. Invariants: each keeps the connection open; they are called from the
program's event loop, with libvirt-python's arguments in its order; an event that the server does not have is refused
when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from virtblock.client import Domain, DomainEvent, VirError
from virtblock.libvirt import arguments, events
from virtblock.libvirt.domain import virDomain
from virtblock.libvirt.errors import (
    argument_error,
    internal_error,
    libvirtError,
    not_supported,
    plain_error,
    raw_of,
    tell,
)
from virtblock.libvirt.feed import EventFeed
from virtblock.libvirt.gen.constants import (
    VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    VIR_ERR_INVALID_ARG,
    VIR_ERR_OPERATION_INVALID,
    VIR_FROM_REMOTE,
)
from virtblock.libvirt.link import Link

# One more than the largest id that libvirt 9.0 has.
_EVENT_ID_END = 26


class _Loop:
    """The registered event loop, as the feed uses it."""

    add_handle = staticmethod(events.virEventAddHandle)
    remove_handle = staticmethod(events.virEventRemoveHandle)


class ConnectionEvents:
    """Calls on callbacks."""

    _o: Link | None

    def _prepare_events(self) -> None:
        self.domainEventCallbacks: dict[Callable[..., Any], Any] = {}
        self.domainEventCallbackID: dict[int, Any] = {}
        self._legacy_id: int | None = None
        self._tracked: dict[int, tuple[int, str | None]] = {}
        self._close_callback: tuple[Callable[..., Any], Any] | None = None

    def domainEventRegisterAny(self, dom: virDomain | None, eventID: int, cb: Callable[..., Any], opaque: Any) -> int:
        """Call `cb` for each event of this kind, of one domain or of all; returns the callback's number.

        Of the kinds the server has VIR_DOMAIN_EVENT_ID_LIFECYCLE, `cb(conn, dom, event, detail, opaque)`, and
        VIR_DOMAIN_EVENT_ID_BLOCK_JOB and _BLOCK_JOB_2, `cb(conn, dom, disk, type, status, opaque)`.
        """
        event_id = arguments.signed_int(eventID)
        uuid = None if dom is None else dom._o.uuid
        link = self._link("virConnectDomainEventRegisterAny")
        if not 0 <= event_id < _EVENT_ID_END:
            raise libvirtError("virConnectDomainEventRegisterAny() failed")
        feed = self._feed(link)
        if event_id not in feed.event_ids:
            raise not_supported("virConnectDomainEventRegisterAny")
        if (event_id, uuid) in self._tracked.values():
            raise plain_error(VIR_ERR_INVALID_ARG, 0, "invalid argument: %s", "event callback already tracked")
        number = feed.register(event_id, uuid, self._deliverer(link, cb, opaque))
        self._tracked[number] = (event_id, uuid)
        self.domainEventCallbackID[number] = opaque
        link.hold()
        return number

    def domainEventDeregisterAny(self, callbackID: int) -> None:
        """Call that callback no more."""
        number = arguments.signed_int(callbackID)
        function = "virConnectDomainEventDeregisterAny"
        link = self._link(function)
        if number < 0:
            raise argument_error(function, "callbackID", f"callbackID in {function} must be zero or greater")
        if link.feed is None or self._tracked.pop(number, None) is None:
            detail = f"event callback id {number} not registered"
            raise plain_error(VIR_ERR_INVALID_ARG, 0, "invalid argument: %s", detail)
        link.feed.deregister(number)
        self.domainEventCallbackID.pop(number, None)
        link.release()

    def domainEventRegister(self, cb: Callable[..., Any], opaque: Any) -> None:
        """Call `cb(conn, dom, event, detail, opaque)` for the lifecycle of all domains."""
        link = self._link("virConnectDomainEventRegister")
        feed = self._feed(link)
        self.domainEventCallbacks[cb] = opaque
        if self._legacy_id is None:
            link.hold()
            self._legacy_id = feed.register(
                VIR_DOMAIN_EVENT_ID_LIFECYCLE, None, lambda event: self._deliver_to_all(link, event)
            )

    def domainEventDeregister(self, cb: Callable[..., Any]) -> None:
        """Call it no more."""
        link = self._link("virConnectDomainEventDeregister")
        del self.domainEventCallbacks[cb]
        if not self.domainEventCallbacks and link.feed is not None and self._legacy_id is not None:
            link.feed.deregister(self._legacy_id)
            self._legacy_id = None
            link.release()

    def registerCloseCallback(self, cb: Callable[..., Any], opaque: Any) -> int:
        """Call `cb(conn, reason, opaque)` once when the connection is lost. Returns 0."""
        link = self._link("virConnectRegisterCloseCallback")
        if self._close_callback is not None:
            raise _wrong_state("A close callback is already registered")
        if events.is_registered():
            self._feed(link)
        self._close_callback = (cb, opaque)
        return 0

    def unregisterCloseCallback(self) -> None:
        """Call it no more."""
        self._link("virConnectUnregisterCloseCallback")
        if self._close_callback is None:
            raise _wrong_state("A different callback was requested")
        self._close_callback = None

    def _feed(self, link: Link) -> EventFeed:
        """The connection's stream of events, opened when the first callback needs it."""
        if not events.is_registered():
            raise internal_error("could not initialize domain event timer")
        if link.feed is None:
            try:
                link.feed = link.ask(lambda client: EventFeed(client, _Loop(), self._tell_close))
            except VirError as error:
                raise tell(raw_of(error)) from error
        return link.feed

    def _deliverer(self, link: Link, cb: Callable[..., Any], opaque: Any) -> Callable[[DomainEvent], None]:
        return lambda event: events.call_safely(cb, self, self._domain(link, event.domain), *said_by(event), opaque)

    def _deliver_to_all(self, link: Link, event: DomainEvent) -> None:
        for cb, opaque in list(self.domainEventCallbacks.items()):
            events.call_safely(cb, self, self._domain(link, event.domain), *said_by(event), opaque)

    def _tell_close(self, reason: int) -> None:
        if self._o is not None:
            self._o.lose(reason)
        found, self._close_callback = self._close_callback, None
        if found is not None:
            events.call_safely(found[0], self, reason, found[1])

    def _link(self, function: str, domain: int = 20) -> Link:
        raise NotImplementedError

    def _domain(self, link: Link, answered: Domain) -> virDomain:
        raise NotImplementedError


def _wrong_state(detail: str) -> libvirtError:
    return plain_error(VIR_ERR_OPERATION_INVALID, VIR_FROM_REMOTE, "Requested operation is not valid: %s", detail)


def said_by(event: DomainEvent) -> tuple[Any, ...]:
    """What libvirt's callbacks are told of an event beside connection and domain."""
    if event.lifecycle is not None:
        return int(event.lifecycle.event), int(event.lifecycle.detail)
    assert event.block_job is not None  # the feed asks for these kinds alone
    job = event.block_job
    return job.disk, int(job.type), int(job.status)
