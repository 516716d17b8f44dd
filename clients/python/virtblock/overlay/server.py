# SPDX-License-Identifier: Apache-2.0
"""The server behind libvirt-python's objects.

Owns: a client for each of libvirt's connections that was used, and libvirtError for its failures. Invariants: a
libvirt connection that was opened for reading gets a client that only reads; an error has all of libvirt's fields.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from virtblock.client import Client, VirError
from virtblock.client.target import Target
from virtblock.libvirt.errors import raw_of

T = TypeVar("T")

_READ_ONLY_MARK = "_virtblock_is_read_only"


class OverlayError(libvirt.libvirtError):  # type: ignore[misc] # libvirt-python has no types for its C side
    """A libvirtError with the server's fields, in place of those that libvirt's own last error has."""

    def __init__(self, error: VirError) -> None:
        Exception.__init__(self, error.message)
        self.err = raw_of(error)


class Server:
    """Clients by connection."""

    def __init__(self, server: str | None, connection_uri: str | None) -> None:
        self._server = str(Target.parse(server))
        self._connection_uri = connection_uri
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, bool], Client] = {}
        self.feeds: dict[Any, Any] = {}

    def uri(self, connection: Any) -> str:
        """The server's name for libvirt's connection."""
        return self._connection_uri if self._connection_uri is not None else str(connection.getURI())

    def client(self, connection: Any) -> Client:
        """The client for one of libvirt's connections."""
        key = (self.uri(connection), bool(getattr(connection, _READ_ONLY_MARK, False)))
        with self._lock:
            if key not in self._clients:
                self._clients[key] = Client(self._server, connection_uri=key[0], read_only=key[1])
            return self._clients[key]

    def ask(self, connection: Any, call: Callable[[Client], T]) -> T:
        """The answer of one call; libvirtError."""
        try:
            return call(self.client(connection))
        except VirError as error:
            raise OverlayError(error) from error

    def marking(self, opening: Callable[..., Any]) -> Callable[..., Any]:
        """libvirt's function that opens, with a note on connections that only read."""

        @functools.wraps(opening)
        def opened(*arguments: Any, **named: Any) -> Any:
            connection = opening(*arguments, **named)
            flags = arguments[2] if len(arguments) > 2 else named.get("flags", 0)
            if opening.__name__ == "openReadOnly" or flags & libvirt.VIR_CONNECT_RO:
                setattr(connection, _READ_ONLY_MARK, True)
            return connection

        return opened

    def close(self) -> None:
        """End all events and clients."""
        for feed in self.feeds.values():
            feed.close()
        self.feeds.clear()
        for client in self._clients.values():
            client.close()
        self._clients.clear()
