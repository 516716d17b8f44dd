# SPDX-License-Identifier: Apache-2.0
"""Which server and which hypervisor connection a URI means.

Owns: the grammar of `virtblock+unix:`, `virtblock+tls:` and `virtblock+tcp:`. Invariants: any other URI is given to the
server of $VIRTBLOCK_SERVER as it stands, so that a program keeps its URI; nothing is dialled here.
"""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from virtblock.client import TlsOptions
from virtblock.libvirt.errors import plain_error
from virtblock.libvirt.gen.constants import VIR_ERR_INVALID_ARG, VIR_FROM_NONE

DEFAULT_URI_VARIABLE = "LIBVIRT_DEFAULT_URI"
_UNIX, _TLS, _TCP = "virtblock+unix", "virtblock+tls", "virtblock+tcp"
_PARAMETERS = {
    _UNIX: {"connect"},
    _TLS: {"connect", "pkipath", "ca", "cert", "key", "name"},
    _TCP: {"connect"},
}
# The files of a folder of libvirt's own pkipath.
_PKI_FILES = {"ca": "cacert.pem", "cert": "clientcert.pem", "key": "clientkey.pem"}


@dataclass(frozen=True)
class Address:
    """A server, and the connection of it that is meant; `server` None and `connection_uri` empty: the default."""

    server: str | None
    connection_uri: str
    tls: TlsOptions | None = None
    is_insecure: bool = False

    @classmethod
    def of(cls, name: str | None) -> Address:
        """What a name given to `open` means. libvirtError INVALID_ARG for what cannot be read."""
        name = name or os.environ.get(DEFAULT_URI_VARIABLE) or ""
        scheme = name.partition(":")[0].lower()
        if scheme not in _PARAMETERS:
            return cls(None, name)
        parts = urllib.parse.urlsplit(name)
        given = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(given.keys() - _PARAMETERS[scheme])
        if unknown or parts.fragment:
            raise _invalid(f"URI '{name}': {scheme} has no parameter {', '.join(unknown) or '#' + parts.fragment}")
        connection_uri = given.pop("connect", "")
        if scheme == _UNIX:
            if parts.netloc:
                raise _invalid(f"URI '{name}': a socket is of this machine, as in {_UNIX}:///PATH?connect=URI")
            return cls(f"unix:{urllib.parse.unquote(parts.path)}", connection_uri)
        if parts.path not in ("", "/") or parts.username is not None:
            raise _invalid(f"URI '{name}': write {scheme}://HOST:PORT/?connect=URI")
        return cls(parts.netloc, connection_uri, _tls(given) if scheme == _TLS else None, scheme == _TCP)


def _tls(given: dict[str, str]) -> TlsOptions:
    folder = given.get("pkipath")
    files = {key: given.get(key) for key in _PKI_FILES}
    if folder is not None:
        for key, name in _PKI_FILES.items():
            path = Path(folder) / name
            files[key] = files[key] or (str(path) if path.exists() or key == "ca" else None)
    return TlsOptions(ca=files["ca"], cert=files["cert"], key=files["key"], server_name=given.get("name"))


def _invalid(detail: str) -> Exception:
    return plain_error(VIR_ERR_INVALID_ARG, VIR_FROM_NONE, "invalid argument: %s", detail)
