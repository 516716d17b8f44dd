# SPDX-License-Identifier: Apache-2.0
"""What a virConnect, its domains and its event callbacks share: one client of one server's connection.

Owns: the client, the count of those who use it, and whether the server is lost. Invariants: a failed call becomes
libvirtError here and nowhere else; once the server was lost the connection stays dead, as libvirt's do, because events
in between would be missing; the client is closed when nobody uses it any more.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from virtblock.client import Client, Domain, DomainSelector, ErrorDomain, ErrorNumber, VirError
from virtblock.client.target import Target
from virtblock.libvirt.errors import (
    RawError,
    Rewording,
    internal_error,
    libvirtError,
    raw_of,
    read_only_refused,
    tell,
    virGetLastError,
    virResetLastError,
)
from virtblock.libvirt.feed import EventFeed
from virtblock.libvirt.gen.constants import VIR_CONNECT_CLOSE_REASON_EOF, VIR_FROM_RPC
from virtblock.libvirt.uri import Address

T = TypeVar("T")

_links: weakref.WeakSet[Link] = weakref.WeakSet()


class Link:
    """One opened connection. `uri` is the connection's own on the server, never empty."""

    def __init__(self, client: Client, uri: str, *, refuses_changes: bool) -> None:
        self.client = client
        self.uri = uri
        self.feed: EventFeed | None = None
        self.last_error: RawError | None = None
        self._refuses_changes = refuses_changes
        # Handles that are collected release themselves from wherever the collector runs, also within these calls.
        self._lock = threading.RLock()
        self._user_count = 1
        self._lost_reason: int | None = None
        _links.add(self)

    @classmethod
    def open(cls, name: str | None, *, is_read_only: bool) -> Link:
        """Connect, and ask the server for the connection's URI, so that what is not there is told now."""
        address = Address.of(name)
        # A server behind TLS has no read-only socket: there we refuse what would change anything.
        is_socket = address.tls is None and not address.is_insecure and not _names_host(address.server)
        try:
            client = Client(
                address.server,
                connection_uri=address.connection_uri,
                read_only=is_read_only and is_socket,
                tls=address.tls,
                insecure=address.is_insecure,
            )
        except VirError as error:
            raise tell(raw_of(error)) from error
        try:
            uri = client.get_uri(timeout_s=None)
        except VirError as error:
            client.close()
            raise tell(raw_of(error)) from error
        return cls(client, uri, refuses_changes=is_read_only and not is_socket)

    def ask(self, call: Callable[[Client], T], reworded: Rewording = ()) -> T:
        """The answer of one call. `reworded`: what the server's errors say, and what libvirt's would."""
        virResetLastError()
        if self._lost_reason is not None:
            raise internal_error("client socket is closed", VIR_FROM_RPC)
        try:
            return call(self.client)
        except VirError as error:
            if is_loss(error):
                self.lose(VIR_CONNECT_CLOSE_REASON_EOF)
            failure = tell(raw_of(error, reworded))
            self.last_error = virGetLastError()
            raise failure from error

    def change(
        self,
        function: str,
        call: Callable[[Client], T],
        *,
        domain: int = 20,
        reworded: Rewording = (),
    ) -> T:
        """As `ask`, for a call that a connection opened for reading refuses. `domain`: that of this error."""
        self.refuse_change(function, domain)
        return self.ask(call, reworded)

    def refuse_change(self, function: str, domain: int = 20) -> None:
        """libvirtError OPERATION_DENIED where the server itself cannot tell that we only read."""
        if self._refuses_changes:
            raise read_only_refused(function, domain)

    def is_alive(self) -> bool:
        """Whether server and hypervisor are there; a server that is not, is no error."""
        try:
            return not self.is_lost and self.ask(lambda client: client.is_alive(timeout_s=None))
        except libvirtError:
            if self.is_lost:
                return False
            raise

    @property
    def is_lost(self) -> bool:
        """Whether the server went away."""
        return self._lost_reason is not None

    def lose(self, reason: int) -> None:
        """The server is gone, by a VIR_CONNECT_CLOSE_REASON_ constant. The first reason counts."""
        with self._lock:
            if self._lost_reason is not None:
                return
            self._lost_reason = reason
        if self.feed is not None:
            self.feed.lose(reason)

    def hold(self) -> None:
        """One more uses the client."""
        with self._lock:
            self._user_count += 1

    def release(self) -> int:
        """One less does; returns 1 while another one does, else 0. The last one closes the client."""
        with self._lock:
            self._user_count -= 1
            left_count = self._user_count
        if left_count == 0:
            self.end()
        return int(left_count > 0)

    def end(self) -> None:
        """Close the client, whoever uses it."""
        if self.feed is not None:
            self.feed.close()
        self.client.close()


@dataclass
class DomainHandle:
    """What a virDomain holds: the domain as it was looked up; only the id follows our own calls."""

    link: Link
    name: str
    uuid: str
    id: int

    def __post_init__(self) -> None:
        self.link.hold()

    def __del__(self) -> None:
        self.link.release()

    @classmethod
    def of(cls, link: Link, domain: Domain) -> DomainHandle:
        """The handle of an answered domain."""
        return cls(link, domain.name, domain.uuid, domain.id)

    @property
    def named(self) -> Rewording:
        """libvirt's errors have the name beside the UUID: the server was given the UUID alone."""
        unnamed = f"no domain with matching uuid '{self.uuid}'"
        return ((unnamed, f"{unnamed} ({self.name})"),)

    @property
    def selector(self) -> DomainSelector:
        """How a call names it."""
        return DomainSelector(uuid=self.uuid, connection_uri=self.link.uri)


def is_loss(error: VirError) -> bool:
    """Whether the client, not the server, says that nobody is there."""
    return error.number == ErrorNumber.SYSTEM_ERROR and error.domain == ErrorDomain.RPC and not error.reason


def _names_host(server: str | None) -> bool:
    """Whether a server's name, or what the environment has in its place, is HOST:PORT."""
    try:
        return not Target.parse(server).is_unix
    except VirError:
        return False


@atexit.register
def _end_all() -> None:
    """No stream outlives the interpreter. The program's event loop may be gone by now, so it is left alone."""
    for link in list(_links):
        link.client.close()
