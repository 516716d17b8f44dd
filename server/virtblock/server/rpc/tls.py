# SPDX-License-Identifier: Apache-2.0
"""TLS for TCP listeners: certificate, key and the authority of the clients, from files that may be renewed in place.

Owns: reading the files and grpc's credentials. Invariants: unusable files stop the start with a message that names
them; a renewal that is unusable keeps what is in use and is logged; with a client authority every client must show a
certificate.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

logger = logging.getLogger("virtblock.tls")


class TlsUnusable(Exception):
    """A certificate, a key or an authority that cannot be used; the text names the file and the reason."""


@dataclass(frozen=True)
class TlsFiles:
    """Where the PEM files are. Without `client_ca` clients are not asked for a certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class ServerTls:
    """Credentials of every TLS listener. `reload` is for the event loop, the rest is asked from grpc's threads."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._current = _read(files)

    def reload(self) -> None:
        """Read the files anew; connections that come from now on get what they hold."""
        try:
            self._current = _read(self._files)
        except TlsUnusable as error:
            logger.error("certificates not renewed, the old ones stay in use", extra={"fields": {"reason": str(error)}})
            return
        logger.info("certificates renewed", extra={"fields": {"certificate": str(self._files.certificate)}})

    def credentials(self) -> grpc.ServerCredentials:
        """For one `add_secure_port`."""
        return grpc.dynamic_ssl_server_credentials(
            self._current, lambda: self._current, require_client_authentication=self._files.client_ca is not None
        )


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """The files' contents, proven to fit together by OpenSSL, because grpc tells only of a handshake that failed."""
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        trial.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ValueError) as error:
        text = f"certificate '{files.certificate}' with key '{files.key}' cannot be used: {error}"
        raise TlsUnusable(text) from error
    try:
        if files.client_ca is not None:
            trial.load_verify_locations(files.client_ca)
        authority = files.client_ca.read_bytes() if files.client_ca is not None else None
        chain = [(files.key.read_bytes(), files.certificate.read_bytes())]
    except OSError as error:
        raise TlsUnusable(f"client authority '{files.client_ca}' cannot be used: {error}") from error
    return grpc.ssl_server_certificate_configuration(chain, root_certificates=authority)


def _no_password() -> str:
    raise ValueError("the key is encrypted, and a daemon has nobody to ask for its password")
