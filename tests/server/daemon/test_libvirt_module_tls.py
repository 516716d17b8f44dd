# SPDX-License-Identifier: Apache-2.0
"""`virtblock.libvirt` over TLS: who is let in, and that a connection opened for reading changes nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from virtblock import libvirt

REFUSED_TO_READERS = (
    ("blockRebase", ("vda", "/x", 0, 8)),
    ("blockJobAbort", ("vda",)),
    ("undefine", ()),
    ("save", ("/x",)),
    ("XMLDesc", (libvirt.VIR_DOMAIN_XML_SECURE,)),
)
XML = (
    "<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
    "<os><type arch='x86_64'>hvm</type></os></domain>"
)


@pytest.fixture
def port(start_daemon: Any, authority: Any, tmp_path: Path) -> Iterator[str]:
    """The TLS port of a daemon that wants to see certificates."""
    server = authority.issue("server")
    images = tmp_path / "images"
    images.mkdir()
    daemon = start_daemon(
        "--listen", "127.0.0.1:0", "--allow-path", str(images), "--tls-cert", str(server.certificate_path),
        "--tls-key", str(server.key_path), "--tls-client-ca", str(authority.certificate_path),
    )  # fmt: skip
    libvirt.registerErrorHandler(lambda context, error: None, None)
    yield daemon.addresses[0].rpartition(":")[2]
    libvirt.registerErrorHandler(None, None)


def test_tls_by_libvirts_file_names_and_by_single_files(port: str, authority: Any, tmp_path: Path) -> None:
    client = authority.issue("client")
    folder = tmp_path / "pki"
    folder.mkdir()
    (folder / "cacert.pem").write_bytes(authority.certificate)
    (folder / "clientcert.pem").write_bytes(client.certificate)
    (folder / "clientkey.pem").write_bytes(client.key)
    files = f"ca={authority.certificate_path}&cert={client.certificate_path}&key={client.key_path}"
    for query in (f"pkipath={folder}", files):
        with libvirt.open(f"virtblock+tls://localhost:{port}/?connect=embedded:///&{query}") as connection:
            assert connection.getURI() == "embedded:///"
            assert connection.defineXML(XML).undefine() == 0


def test_a_reader_over_tls_changes_nothing(port: str, authority: Any) -> None:
    client = authority.issue("client")
    files = f"ca={authority.certificate_path}&cert={client.certificate_path}&key={client.key_path}"
    uri = f"virtblock+tls://localhost:{port}/?{files}"
    libvirt.open(uri).defineXML(XML)
    reader = libvirt.openReadOnly(uri)
    domain = reader.lookupByName("guest")
    for name, arguments in REFUSED_TO_READERS:
        with pytest.raises(libvirt.libvirtError) as caught:
            getattr(domain, name)(*arguments)
        assert caught.value.get_error_code() == libvirt.VIR_ERR_OPERATION_DENIED, name
    for call in (reader.defineXML, reader.createXML):
        with pytest.raises(libvirt.libvirtError, match="operation forbidden: read only access prevents virDomain"):
            call(XML)
    assert domain.isPersistent() == 1


def test_nobody_else_is_let_in(port: str, authority: Any, stranger: Any) -> None:
    pair = stranger.issue("client")
    for query in ("", f"ca={authority.certificate_path}&cert={pair.certificate_path}&key={pair.key_path}"):
        with pytest.raises(libvirt.libvirtError) as caught:
            libvirt.open(f"virtblock+tls://localhost:{port}/?{query}")
        assert (caught.value.get_error_code(), caught.value.get_error_domain()) == (
            libvirt.VIR_ERR_SYSTEM_ERROR,
            libvirt.VIR_FROM_RPC,
        )
