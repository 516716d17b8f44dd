# SPDX-License-Identifier: Apache-2.0
"""virDomain's block calls on a server: those of `virtblock.libvirt`, made with libvirt-python's own objects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from virtblock.client import Client, DomainSelector
from virtblock.libvirt.domain_block import DomainBlockCalls
from virtblock.overlay.server import Server

BLOCK_CALLS = (
    "blockRebase",
    "blockCopy",
    "blockPull",
    "blockCommit",
    "blockJobAbort",
    "blockJobInfo",
    "blockJobSetSpeed",
)


class _OnServer(DomainBlockCalls):
    """The calls on one of libvirt's domains."""

    def __init__(self, server: Server, domain: Any) -> None:
        self._server = server
        self._domain = domain

    def _ask(self, call: Callable[[Client, DomainSelector], Any]) -> Any:
        connection = self._domain.connect()
        selector = DomainSelector(uuid=self._domain.UUIDString(), connection_uri=self._server.uri(connection))
        return self._server.ask(connection, lambda client: call(client, selector))

    def _change(
        self,
        function: str,
        call: Callable[[Client, DomainSelector], Any],
        *,
        error_domain: int = 20,
        renamed: tuple[str, str] | None = None,
    ) -> Any:
        return self._ask(call)


def block_call(server: Server, name: str) -> Callable[..., Any]:
    """The method that takes the place of libvirt's."""
    method = getattr(DomainBlockCalls, name)

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        return method(_OnServer(server, self), *arguments, **named)

    return call
