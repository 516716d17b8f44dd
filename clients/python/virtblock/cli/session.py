# SPDX-License-Identifier: Apache-2.0
"""What a command works with: the client, connected, and where its answers go.

Owns: the connection, made once before the first command that needs it, and the look-up of a domain by what was typed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from virtblock.cli.failures import CommandError
from virtblock.cli.grammar import INT32_MAX, Invocation
from virtblock.cli.output import Output
from virtblock.client import Client, Domain, ErrorNumber, VirError

_NOT_FOUND = (ErrorNumber.NO_DOMAIN, ErrorNumber.INVALID_ARG)


class Session:
    """One run of the command line against one server."""

    def __init__(self, output: Output, open_client: Callable[[], Client]) -> None:
        self.output = output
        self._open_client = open_client
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The connected client."""
        assert self._client is not None, "a command runs after connect()"
        return self._client

    def connect(self) -> None:
        """Reach the server and its hypervisor, as virsh does before a command. CommandError with virsh's text."""
        if self._client is not None:
            return
        with self.explain("failed to connect to the hypervisor"):
            client = self._open_client()
            try:
                client.get_uri()
            except VirError:
                client.close()
                raise
        self._client = client

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextmanager
    def explain(self, context: str) -> Iterator[None]:
        """Put virsh's own line before a libvirt error."""
        try:
            yield
        except VirError as error:
            raise CommandError(context) from error

    def domain(self, invocation: Invocation, by: Collection[str] = ("id", "uuid", "name")) -> Domain:
        """The domain of the option `domain`: by id, UUID or name, those that are allowed, in virsh's order."""
        wanted = invocation.required("domain")
        for look_up in self._look_ups(wanted, by):
            try:
                return look_up()
            except VirError as error:
                if error.number not in _NOT_FOUND:
                    raise CommandError(f"failed to get domain '{wanted}'") from error
        raise CommandError(f"failed to get domain '{wanted}'")

    def _look_ups(self, wanted: str, by: Collection[str]) -> list[Callable[[], Domain]]:
        look_ups: list[Callable[[], Domain]] = []
        if "id" in by and wanted.isascii() and wanted.isdecimal() and int(wanted) <= INT32_MAX:
            look_ups.append(lambda: self.client.domain_lookup_by_id(int(wanted)))
        if "uuid" in by and len(wanted.replace("-", "")) == 32:
            look_ups.append(lambda: self.client.domain_lookup_by_uuid(wanted))
        if "name" in by:
            look_ups.append(lambda: self.client.domain_lookup_by_name(wanted))
        return look_ups
