# SPDX-License-Identifier: Apache-2.0
"""Overlay mode: libvirt-python stays, and block jobs go to virtblockd.

    from virtblock import overlay
    overlay.install()

From then on the block calls of `libvirt.virDomain` and the two block-job events are the server's, so that they work on
shut-off domains too and every job has a record; all other calls stay libvirt's own. Needs libvirt-python.
"""

from __future__ import annotations

from typing import Any

import libvirt

from virtblock.overlay.calls import BLOCK_CALLS, block_call
from virtblock.overlay.events import deregister_any, register_any
from virtblock.overlay.server import Server

__all__ = ["install", "uninstall"]

_originals: dict[tuple[Any, str], Any] = {}
_server: Server | None = None


def install(server: str | None = None, *, connection_uri: str | None = None) -> None:
    """Send block jobs to a server; installing twice changes nothing. Call it before connections are opened.

    `server`: unix:PATH or HOST:PORT; None: that of $VIRTBLOCK_SERVER, else the system's. `connection_uri`: the server's
    connection to the same hypervisor; None: the one whose URI libvirt's connection has. Raises VirError of
    `virtblock.client` for a server that cannot be one.
    """
    global _server
    if _server is not None:
        return
    made = _server = Server(server, connection_uri)
    for name in BLOCK_CALLS:
        _replace(libvirt.virDomain, name, block_call(made, name))
    _replace(libvirt.virConnect, "domainEventRegisterAny", register_any(made, _of_connect("domainEventRegisterAny")))
    _replace(
        libvirt.virConnect, "domainEventDeregisterAny", deregister_any(made, _of_connect("domainEventDeregisterAny"))
    )
    for name in ("openReadOnly", "openAuth"):
        _replace(libvirt, name, made.marking(getattr(libvirt, name)))


def uninstall() -> None:
    """Give libvirt its own calls back; callbacks that were registered here are not called any more."""
    global _server
    if _server is None:
        return
    for (owner, name), original in _originals.items():
        setattr(owner, name, original)
    _originals.clear()
    _server.close()
    _server = None


def _of_connect(name: str) -> Any:
    return getattr(libvirt.virConnect, name)


def _replace(owner: Any, name: str, replacement: Any) -> None:
    _originals[owner, name] = getattr(owner, name)
    setattr(owner, name, replacement)
