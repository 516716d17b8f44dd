# SPDX-License-Identifier: Apache-2.0
"""Where the daemon listens: the meaning of `unix:PATH` and `HOST:PORT`.

Owns: the grammar of a listen address. Invariants: a unix path is absolute and short enough for the kernel, the
read-only socket's name included; a TCP address always has a port.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

READ_ONLY_SUFFIX = "-ro"
# sockaddr_un.sun_path has 108 bytes, one of which ends the name.
SOCKET_PATH_BYTES_MAX = 107
_PORT_MAX = 65535


class AddressInvalid(ValueError):
    """Not an address that the daemon can listen on; the text says why."""


@dataclass(frozen=True)
class UnixAddress:
    """A pair of sockets: read-write at `path`, read-only beside it."""

    path: Path

    @property
    def read_only_path(self) -> Path:
        """`virtblock-sock` has `virtblock-sock-ro` beside it, as libvirt-sock has."""
        return self.path.with_name(self.path.name + READ_ONLY_SUFFIX)


@dataclass(frozen=True)
class TcpAddress:
    """A host, by name or number, and a port; port 0 lets the kernel choose."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """`unix:PATH`, `HOST:PORT` or `[IPV6]:PORT`. Raises AddressInvalid."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > _PORT_MAX:
        raise AddressInvalid(f"listen address '{text}' is neither unix:PATH nor HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressInvalid(f"listen address '{text}': write an IPv6 address in brackets, as in [::1]:16514")
    return TcpAddress(host, int(port))


def _parse_unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    # unix:///run/x and unix:/run/x are the same, as grpc's clients have it.
    path = path[2:] if path.startswith("//") else path
    if not path.startswith("/") or path.endswith("/"):
        raise AddressInvalid(f"listen address '{text}': the path must be absolute, as in unix:/run/virtblock/sock")
    address = UnixAddress(Path(path))
    length_bytes = len(str(address.read_only_path).encode())
    if length_bytes > SOCKET_PATH_BYTES_MAX:
        raise AddressInvalid(
            f"listen address '{text}': with '{READ_ONLY_SUFFIX}' the path has {length_bytes} bytes, "
            f"and a socket's name at most {SOCKET_PATH_BYTES_MAX}"
        )
    return address
