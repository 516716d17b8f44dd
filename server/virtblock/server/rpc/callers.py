# SPDX-License-Identifier: Apache-2.0
"""Who calls: decided by the listener that the call came in by.

Owns: the making of `Caller` for each call. Invariants: read-only is a property of the listener, never of anything the
peer says; a principal is named only from what the transport has verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc

from virtblock.server.core.model import Caller

# What grpc names the properties of a verified client certificate.
_SPIFFE_KEY = "peer_spiffe_id"
_COMMON_NAME_KEY = "x509_common_name"
_ALTERNATIVE_NAME_KEY = "x509_subject_alternative_name"
_URI_KEY = "peer_uri"


class Transport(Enum):
    """How a listener's peers arrive."""

    UNIX = "unix"
    TCP = "tcp"
    TLS = "tls"


@dataclass(frozen=True)
class CallerRule:
    """What every call of one listener has in common."""

    transport: Transport = Transport.UNIX
    read_only: bool = False

    def caller_of(self, context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
        """The caller of one call: `unix`, `tcp`, `tls:spiffe://…`, `tls:URI=…`, `tls:CN=…`, `tls:SAN=…` or, without
        certificate or name, `tls`.
        """
        if self.transport is not Transport.TLS:
            return Caller(read_only=self.read_only, principal=self.transport.value)
        return Caller(read_only=self.read_only, principal=tls_principal(context.auth_context()))


def tls_principal(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """The name of a TLS peer from its verified certificate, the strongest form that it has."""
    for key, prefix in (
        (_SPIFFE_KEY, ""),
        (_URI_KEY, "URI="),
        (_COMMON_NAME_KEY, "CN="),
        (_ALTERNATIVE_NAME_KEY, "SAN="),
    ):
        # A certificate without a common name has an empty one for grpc.
        for value in filter(None, auth_context.get(key, ())):
            return f"{Transport.TLS.value}:{prefix}{value.decode('utf-8', 'replace')}"
    return Transport.TLS.value
