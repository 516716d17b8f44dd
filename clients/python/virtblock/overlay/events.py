# SPDX-License-Identifier: Apache-2.0
"""Block-job events of a server in libvirt-python's own event loop.

Owns: which callbacks of libvirt's connections are ours. Invariants: our numbers begin far above libvirt's; the other
kinds of events stay libvirt's; a callback gets libvirt's own objects.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import libvirt

from virtblock.client import DomainEvent
from virtblock.libvirt.connection_events import said_by
from virtblock.libvirt.events import call_safely
from virtblock.libvirt.feed import EventFeed
from virtblock.overlay.server import Server

OUR_EVENT_IDS = (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2)
FIRST_NUMBER = 1 << 24

_LOGGER = logging.getLogger("virtblock.overlay")


class _LibvirtLoop:
    """The event loop that the program registered with libvirt."""

    add_handle = staticmethod(libvirt.virEventAddHandle)
    remove_handle = staticmethod(libvirt.virEventRemoveHandle)


def register_any(server: Server, original: Callable[..., Any]) -> Callable[..., Any]:
    """domainEventRegisterAny that takes block-job events from the server."""

    @functools.wraps(original)
    def register(self: Any, dom: Any, eventID: int, cb: Callable[..., Any], opaque: Any) -> int:
        if eventID not in OUR_EVENT_IDS:
            return int(original(self, dom, eventID, cb, opaque))
        feed = server.feeds.get(self)
        if feed is None:
            on_loss = functools.partial(_say_lost, server, self)
            feed = server.feeds[self] = server.ask(self, lambda client: EventFeed(client, _LibvirtLoop(), on_loss))
        uuid = None if dom is None else dom.UUIDString()
        number = feed.register(int(eventID), uuid, functools.partial(_deliver, self, cb, opaque))
        return FIRST_NUMBER + int(number)

    return register


def deregister_any(server: Server, original: Callable[..., Any]) -> Callable[..., Any]:
    """domainEventDeregisterAny that knows our callbacks."""

    @functools.wraps(original)
    def deregister(self: Any, callbackID: int) -> None:
        feed = server.feeds.get(self)
        if callbackID < FIRST_NUMBER or feed is None or not feed.deregister(callbackID - FIRST_NUMBER):
            original(self, callbackID)

    return deregister


def _deliver(connection: Any, cb: Callable[..., Any], opaque: Any, event: DomainEvent) -> None:
    try:
        domain = connection.lookupByUUIDString(event.domain.uuid)
    except libvirt.libvirtError as error:
        _LOGGER.warning("an event of domain %s comes too late for libvirt: %s", event.domain.name, error)
        return
    call_safely(cb, connection, domain, *said_by(event), opaque)


def _say_lost(server: Server, connection: Any, reason: int) -> None:
    """libvirt's connection lives on without our events: the next registration opens a new stream."""
    feed = server.feeds.pop(connection, None)
    if feed is not None:
        feed.close()
    _LOGGER.error("the server of block jobs is lost (reason %d); its callbacks have to be registered again", reason)
