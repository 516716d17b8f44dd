# SPDX-License-Identifier: Apache-2.0
"""TCP listeners: who is let in, as whom, and certificates that are renewed while the daemon runs."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from virtblock.v1 import connect_service_pb2

CALL_TIMEOUT_S = 60
REQUEST = connect_service_pb2.GetTypeRequest()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def tls_arguments(pair: Any, images: Path, client_ca: Path | None = None) -> list[str]:
    arguments = ["--listen", "127.0.0.1:0", "--allow-path", str(images)]
    arguments += ["--tls-cert", str(pair.certificate_path), "--tls-key", str(pair.key_path)]
    return arguments + (["--tls-client-ca", str(client_ca)] if client_ca is not None else [])


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + CALL_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def until_logged(daemon: Any, text: str) -> None:
    """A call's line is written after its answer is sent."""
    until(lambda: text in daemon.log)


def localhost(address: str) -> str:
    return "localhost:" + address.rpartition(":")[2]


def test_a_client_of_the_authority_is_let_in_by_name(
    start_daemon: Any, dial: Any, authority: Any, images: Path
) -> None:
    daemon = start_daemon(*tls_arguments(authority.issue("server"), images, authority.certificate_path))
    target = localhost(daemon.addresses[0])
    for client, principal in (
        (authority.issue("control-plane"), "tls:CN=control-plane"),
        (authority.issue("workload", uri="spiffe://example.org/mover"), "tls:spiffe://example.org/mover"),
        (authority.issue("located", uri="https://example.org/mover"), "tls:URI=https://example.org/mover"),
        (authority.issue("nameless", has_common_name=False), "tls:SAN=localhost"),
    ):
        credentials = grpc.ssl_channel_credentials(authority.certificate, client.key, client.certificate)
        answer = dial(target, credentials).connect.GetType(REQUEST, timeout=CALL_TIMEOUT_S)
        assert answer.type
        until_logged(daemon, principal)


@pytest.mark.parametrize("shown", ["none", "stranger"])
def test_everybody_else_is_not(
    start_daemon: Any, dial: Any, authority: Any, stranger: Any, images: Path, shown: str
) -> None:
    daemon = start_daemon(*tls_arguments(authority.issue("server"), images, authority.certificate_path))
    pair = stranger.issue("control-plane")
    shown_pair = (pair.key, pair.certificate) if shown == "stranger" else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate, *shown_pair)
    with pytest.raises(grpc.RpcError) as failure:
        dial(localhost(daemon.addresses[0]), credentials).connect.GetType(REQUEST, timeout=CALL_TIMEOUT_S)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "method=ConnectService/GetType" not in daemon.log


def test_plain_text_is_not_spoken_on_a_tls_port(start_daemon: Any, dial: Any, authority: Any, images: Path) -> None:
    daemon = start_daemon(*tls_arguments(authority.issue("server"), images))
    with pytest.raises(grpc.RpcError) as failure:
        dial(daemon.addresses[0]).connect.GetType(REQUEST, timeout=CALL_TIMEOUT_S)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_without_a_client_authority_says_so(start_daemon: Any, dial: Any, authority: Any, images: Path) -> None:
    daemon = start_daemon(*tls_arguments(authority.issue("server"), images))
    assert "every client that can connect may change things" in daemon.log
    credentials = grpc.ssl_channel_credentials(authority.certificate)
    assert dial(localhost(daemon.addresses[0]), credentials).connect.GetType(REQUEST, timeout=CALL_TIMEOUT_S).type
    until_logged(daemon, "principal=tls ")


def test_reflection_is_not_offered_on_tcp(start_daemon: Any, images: Path) -> None:
    daemon = start_daemon("--listen", "127.0.0.1:0", "--insecure", "--allow-path", images)
    with grpc.insecure_channel(daemon.addresses[0]) as channel:
        info: Any = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as failure:
            next(info(iter([b""]), timeout=CALL_TIMEOUT_S))
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("spoiled", ["certificate", "key", "other key", "authority"])
def test_unusable_files_are_named(
    tmp_path: Path, start_daemon: Any, authority: Any, stranger: Any, images: Path, spoiled: str
) -> None:
    pair, client_ca = authority.issue("server"), tmp_path / "clients.pem"
    client_ca.write_bytes(authority.certificate)
    named = {"certificate": pair.certificate_path, "key": pair.key_path, "authority": client_ca}
    if spoiled == "other key":
        pair.key_path.write_bytes(stranger.issue("server").key)
    else:
        named[spoiled].write_text("-----BEGIN NOTHING-----\n")
    daemon = start_daemon(*tls_arguments(pair, images, client_ca), ready=False)
    assert daemon.wait() == 2
    assert str(named.get(spoiled, pair.key_path)) in daemon.log
    assert "Traceback" not in daemon.log


def served_certificate(port: int, authority_path: Path) -> bytes:
    context = ssl.create_default_context(cafile=str(authority_path))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), CALL_TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        certificate = secure.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


def test_renewed_certificates_are_taken_by_sighup(start_daemon: Any, authority: Any, images: Path) -> None:
    daemon = start_daemon(*tls_arguments(authority.issue("server"), images))
    port = int(daemon.addresses[0].rpartition(":")[2])
    before = served_certificate(port, authority.certificate_path)
    authority.issue("server")
    assert served_certificate(port, authority.certificate_path) == before, "renewed files alone change nothing"
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: served_certificate(port, authority.certificate_path) != before)
    authority.issue("server").key_path.write_text("spoiled")
    daemon.process.send_signal(signal.SIGHUP)
    until_logged(daemon, "certificates not renewed")
    assert served_certificate(port, authority.certificate_path) != before
    assert daemon.stop() == 0


@pytest.mark.slow
def test_a_silent_connection_is_let_go(start_daemon: Any, images: Path) -> None:
    daemon = start_daemon("--listen", "127.0.0.1:0", "--insecure", "--allow-path", images)
    port = int(daemon.addresses[0].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), CALL_TIMEOUT_S) as silent:
        # The server greets with its settings, and then closes.
        while silent.recv(4096):
            pass
