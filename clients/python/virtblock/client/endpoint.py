# SPDX-License-Identifier: Apache-2.0
"""What both clients are made with, and how they read answers and failures.

Owns: the arguments of a client. Invariants: they are checked when the client is made; nothing is dialled before the
first call.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError

from virtblock.client.calls.call import Call
from virtblock.client.channel import channel_options, credentials
from virtblock.client.error_numbers import ErrorDomain, ErrorNumber
from virtblock.client.errors import FailedCall, VirError, from_rpc_error
from virtblock.client.model import ErrorRecord
from virtblock.client.target import Target, TlsOptions

T = TypeVar("T")


class Endpoint:
    """One server, and the connection of it that calls are about unless they name another one."""

    def __init__(
        self,
        target: Target | str | None = None,
        *,
        connection_uri: str = "",
        read_only: bool = False,
        tls: TlsOptions | None = None,
        insecure: bool = False,
    ) -> None:
        """Take the server's address and how to trust it; see the client classes. Raises VirError INVALID_ARG."""
        self._target = target if isinstance(target, Target) else Target.parse(target, read_only=read_only)
        self._connection_uri = connection_uri
        self._credentials = credentials(self._target, tls, insecure=insecure)
        self._options = channel_options(self._target, tls)

    @property
    def target(self) -> Target:
        """Where the server is."""
        return self._target

    @property
    def connection_uri(self) -> str:
        """The hypervisor connection that calls are about unless they name another one. Empty: the server's default."""
        return self._connection_uri

    def _read(self, call: Call[T], data: bytes) -> T:
        try:
            return call.parse(data)
        except DecodeError as error:
            message = f"{call.rpc}: the answer of virtblockd at {self._target} cannot be read: {error}"
            raise VirError(ErrorRecord(ErrorNumber.RPC, message, ErrorDomain.RPC, str1="%s", str2=message)) from error

    def _failure(self, call: Call[T], error: FailedCall, timeout_s: float | None) -> VirError:
        return from_rpc_error(error, server=str(self._target), rpc=call.rpc, timeout_s=timeout_s)
