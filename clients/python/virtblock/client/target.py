# SPDX-License-Identifier: Apache-2.0
"""Where the server is and how to trust it.

Owns: the grammar of a target, the search for the default one, and the TLS files. Invariants: what cannot be a target is
refused here, before anything is dialled, with VirError INVALID_ARG; a link without encryption leaves this machine
never.
"""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from virtblock.client.error_numbers import ErrorDomain, ErrorNumber
from virtblock.client.errors import VirError
from virtblock.client.model import ErrorRecord

SERVER_VARIABLE = "VIRTBLOCK_SERVER"
SYSTEM_SOCKET = "/run/virtblock/virtblock-sock"
READ_ONLY_SUFFIX = "-ro"
# sockaddr_un.sun_path holds 108 bytes, the last one a NUL (unix(7)).
_SOCKET_PATH_BYTES_MAX = 107
_PORT_MAX = 65535


def _invalid(text: str) -> VirError:
    message = f"invalid argument: {text}"
    return VirError(
        ErrorRecord(ErrorNumber.INVALID_ARG, message, ErrorDomain.RPC, str1="invalid argument: %s", str2=text)
    )


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How a HOST:PORT is trusted: paths of PEM files.

    `ca` None: the system's authorities. `cert` and `key`, both or none, are what the client shows of itself (mTLS).
    `server_name`: the name that the server's certificate must have, where it is not the HOST.
    """

    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address: a unix socket by its absolute path, or HOST:PORT."""

    path: str = ""
    """The socket, or empty for HOST:PORT."""
    host: str = ""
    """Without brackets."""
    port: int = 0

    @classmethod
    def parse(cls, text: str | None = None, *, read_only: bool = False) -> Target:
        """The target that a text means: `unix:PATH`, `unix:///PATH`, an absolute path, `HOST:PORT` or `[IPV6]:PORT`.

        None: what $VIRTBLOCK_SERVER says, else the system's socket, else that of the user's own daemon. `read_only` is
        the socket beside, PATH-ro. Raises VirError INVALID_ARG.
        """
        text = text or os.environ.get(SERVER_VARIABLE) or _default_socket()
        if text.startswith(("unix:", "/")):
            return cls(path=_socket_path(text, read_only=read_only))
        if read_only:
            raise _invalid(f"server '{text}': only a unix socket has a read-only one beside it")
        return cls._parse_host_port(text)

    @classmethod
    def _parse_host_port(cls, text: str) -> Target:
        host, colon, port = text.rpartition(":")
        if not colon or not host or "/" in text:
            raise _invalid(f"server '{text}' is neither unix:PATH nor HOST:PORT")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise _invalid(f"server '{text}': write an IPv6 address in brackets, as in [::1]:16514")
        if not (port.isascii() and port.isdigit()) or not 0 < int(port) <= _PORT_MAX:
            raise _invalid(f"server '{text}': the port is a number from 1 to {_PORT_MAX}")
        return cls(host=host, port=int(port))

    @property
    def is_unix(self) -> bool:
        """Whether it is a socket of this machine."""
        return bool(self.path)

    @property
    def is_loopback(self) -> bool:
        """Whether it surely is this machine: a socket, localhost or a loopback address."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def grpc_address(self) -> str:
        """The address in gRPC's grammar, where a path is part of a URI."""
        if self.is_unix:
            return f"unix:{urllib.parse.quote(self.path)}"
        return f"dns:///{self._host_port}"

    @property
    def _host_port(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.is_unix else self._host_port


def read_tls_files(target: Target, tls: TlsOptions | None) -> tuple[bytes | None, bytes | None, bytes | None]:
    """What is in the CA, key and certificate files. Raises VirError INVALID_ARG for files that cannot be used."""
    if tls is None:
        return None, None, None
    if target.is_unix:
        raise _invalid(f"server '{target}': a unix socket has no TLS")
    if (tls.cert is None) != (tls.key is None):
        raise _invalid("a TLS certificate and its key are given both or not at all")
    return _read(tls.ca, "CERTIFICATE"), _read(tls.key, "PRIVATE KEY"), _read(tls.cert, "CERTIFICATE")


def check_insecure(target: Target, tls: TlsOptions | None) -> None:
    """Refuse a link without encryption that leaves the machine, and one that is asked to be both."""
    if tls is not None:
        raise _invalid("a link is either insecure or has TLS options, not both")
    if not target.is_loopback:
        raise _invalid(f"server '{target}': insecure is for this machine alone, as in 127.0.0.1:{target.port}")


def _read(path: str | os.PathLike[str] | None, kind: str) -> bytes | None:
    """gRPC takes a file that lacks what it is for in silence, and then no server is good enough."""
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise _invalid(f"TLS file '{os.fspath(path)}': {error.strerror}") from error
    if re.search(rb"-----BEGIN [A-Z0-9 ]*" + kind.encode(), content) is None:
        raise _invalid(f"TLS file '{os.fspath(path)}' holds no PEM {kind.lower()}")
    return content


def _default_socket() -> str:
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    if runtime_dir and not Path(SYSTEM_SOCKET).exists():
        own = f"{runtime_dir}/virtblock/virtblock-sock"
        # Where neither is there, the error message speaks of the system's.
        if Path(own).exists():
            return own
    return SYSTEM_SOCKET


def _socket_path(text: str, *, read_only: bool) -> str:
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        # unix://HOST/PATH is another host's; three slashes are none's, so this one's.
        path = path[2:]
    if not path.startswith("/"):
        raise _invalid(f"server '{text}': the path must be absolute, as in unix:{SYSTEM_SOCKET}")
    if read_only and not path.endswith(READ_ONLY_SUFFIX):
        path += READ_ONLY_SUFFIX
    length_bytes = len(os.fsencode(path))
    if length_bytes > _SOCKET_PATH_BYTES_MAX or "\0" in path:
        raise _invalid(
            f"server '{text}': the path has {length_bytes} bytes, a socket's at most {_SOCKET_PATH_BYTES_MAX}"
        )
    return path
