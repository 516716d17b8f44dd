# SPDX-License-Identifier: Apache-2.0
"""What a target may be, where the default one is found, and that no link leaves the machine without encryption."""

from __future__ import annotations

import datetime
import ipaddress
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from client.fake_server import FakeServer
from client.front_ends import FrontEnd
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from virtblock.client import Client, ErrorNumber, Target, TlsOptions, VirError
from virtblock.client import target as target_module
from virtblock.v1 import connect_service_pb2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/run/x/sock", Target(path="/run/x/sock")),
        ("unix:///run/x/sock", Target(path="/run/x/sock")),
        ("/run/x/sock", Target(path="/run/x/sock")),
        ("unix:/run/with space/100%#?", Target(path="/run/with space/100%#?")),
        ("localhost:16514", Target(host="localhost", port=16514)),
        ("[::1]:65535", Target(host="::1", port=65535)),
        ("host.example.org:1", Target(host="host.example.org", port=1)),
    ],
)
def test_target_is_read(text: str, expected: Target) -> None:
    assert Target.parse(text) == expected
    assert Target.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("unix:relative", "absolute"),
        ("unix:", "absolute"),
        ("unix://host/path", "absolute"),
        ("host", "neither"),
        (":1", "neither"),
        ("http://host:1", "neither"),
        ("::1:5", "brackets"),
        ("host:", "1 to 65535"),
        ("host:0", "1 to 65535"),
        ("host:65536", "1 to 65535"),
        ("host:-1", "1 to 65535"),
        ("host:٣", "1 to 65535"),
        ("/" + "x" * 107, "at most 107"),
        ("/a\0b", "at most 107"),
    ],
)
def test_what_is_no_target_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(VirError, match=complaint) as caught:
        Target.parse(text)
    assert caught.value.number == ErrorNumber.INVALID_ARG
    assert caught.value.code is None


def test_longest_path_fits() -> None:
    assert len(Target.parse("/" + "x" * 106).path) == 107
    with pytest.raises(VirError, match="110 bytes"):
        Target.parse("/" + "x" * 106, read_only=True)


def test_read_only_is_the_socket_beside() -> None:
    assert Target.parse("/run/sock", read_only=True).path == "/run/sock-ro"
    assert Target.parse("/run/sock-ro", read_only=True).path == "/run/sock-ro"
    with pytest.raises(VirError, match="only a unix socket"):
        Target.parse("localhost:1", read_only=True)


def test_default_is_the_environment_then_the_system_then_the_users_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    system = tmp_path / "system-sock"
    own = tmp_path / "virtblock" / "virtblock-sock"
    own.parent.mkdir()
    monkeypatch.setattr(target_module, "SYSTEM_SOCKET", str(system))
    monkeypatch.delenv("VIRTBLOCK_SERVER", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert Target.parse().path == str(system)
    own.touch()
    assert Target.parse().path == str(own)
    system.touch()
    assert Target.parse().path == str(system)
    monkeypatch.setenv("VIRTBLOCK_SERVER", "localhost:5")
    assert Target.parse() == Target(host="localhost", port=5)
    assert Target.parse("/given").path == "/given"


@pytest.mark.parametrize("folder", ["with space", "100%25", "a#b?c", "schön"])
def test_any_path_can_be_dialled(socket_dir: Path, front_end: FrontEnd, folder: str) -> None:
    server = FakeServer(socket_dir / "sock")
    server.start()
    server.handlers["GetURI"] = lambda request, context: connect_service_pb2.GetURIResponse(uri="embedded:///")
    try:
        odd = socket_dir / folder
        odd.mkdir()
        (odd / "sock").symlink_to(server.socket)
        assert front_end.call(f"unix:{odd}/sock", "get_uri") == "embedded:///"
    finally:
        server.close()


@pytest.mark.parametrize(
    "text", ["example.org:1", "192.0.2.1:1", "[2001:db8::1]:1", "localhost.evil.org:1", "0.0.0.0:1"]
)
def test_insecure_is_for_this_machine_alone(text: str) -> None:
    with pytest.raises(VirError, match="this machine alone"):
        Client(text, insecure=True)


@pytest.mark.parametrize("text", ["localhost:1", "127.0.0.1:1", "127.8.9.10:1", "[::1]:1"])
def test_insecure_to_this_machine(text: str) -> None:
    with Client(text, insecure=True) as client:
        assert client.target.is_loopback


def test_tls_options_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(VirError, match="both or not at all"):
        Client("localhost:1", tls=TlsOptions(cert="x"))
    with pytest.raises(VirError, match="has no TLS"):
        Client("unix:/x", tls=TlsOptions())
    with pytest.raises(VirError, match="not both"):
        Client("localhost:1", tls=TlsOptions(), insecure=True)
    with pytest.raises(VirError, match=r"TLS file '.*none.pem': No such file or directory"):
        Client("localhost:1", tls=TlsOptions(ca=tmp_path / "none.pem"))


class _Uri(grpc.GenericRpcHandler):
    """Answers GetURI with the name in the caller's certificate."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        assert details.method == "/virtblock.v1.ConnectService/GetURI"
        return grpc.unary_unary_rpc_method_handler(
            self._answer, response_serializer=connect_service_pb2.GetURIResponse.SerializeToString
        )

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> connect_service_pb2.GetURIResponse:
        [peer] = context.auth_context()["x509_common_name"]
        return connect_service_pb2.GetURIResponse(uri=f"embedded:///{bytes(peer).decode()}")


def _certificate(folder: Path, name: str, issuer: tuple[x509.Certificate, Any] | None) -> tuple[x509.Certificate, Any]:
    """A certificate for localhost; without an issuer its own authority. Written beside its key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, key


def test_mutual_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS both sides show who they are; a client without certificate, and a server nobody vouches for, are
    refused.
    """
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    authority = _certificate(tmp_path, "ca", None)
    _certificate(tmp_path, "server", authority)
    _certificate(tmp_path, "client", authority)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_Uri(),))
    pair = ((tmp_path / "server.key").read_bytes(), (tmp_path / "server.pem").read_bytes())
    trusted = (tmp_path / "ca.pem").read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair], trusted, True))
    server.start()
    try:
        full = TlsOptions(ca=tmp_path / "ca.pem", cert=tmp_path / "client.pem", key=tmp_path / "client.key")
        with Client(f"127.0.0.1:{port}", tls=full) as client:
            assert client.get_uri() == "embedded:///client"
        for less in (TlsOptions(ca=tmp_path / "ca.pem"), TlsOptions(cert=full.cert, key=full.key), None):
            with Client(f"localhost:{port}", tls=less) as client, pytest.raises(VirError) as caught:
                client.get_uri(timeout_s=60)
            assert (caught.value.number, caught.value.domain) == (38, 7)
    finally:
        server.stop(None).wait()


def test_file_names_may_be_bytes_of_any_kind(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(VirError):
        Client("localhost:1", tls=TlsOptions(ca=path))
