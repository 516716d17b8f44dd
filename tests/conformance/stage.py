# SPDX-License-Identifier: Apache-2.0
"""What cases are played on: a real daemon on a unix socket and a TLS port, or a server whose answers the case scripts.

Owns: `DaemonStage` and `ScriptedStage`. Invariant: one daemon serves all cases; each case has a domain, a folder and
images of its own, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
from certificates import Authority
from client.fake_server import FakeServer, Refusal
from conformance import case_messages
from google.protobuf import message_factory
from google.protobuf.message import Message

from virtblock.client import Client, DomainSelector, VirError
from virtblock.v1 import errors_pb2

DAEMON_TIMEOUT_S = 60
MIB = 1024 * 1024
SIZE_BYTES = 16 * MIB
# Longer than a socket's path may be, and than one name in a folder.
LONG_NAME = "a" * 300


class DaemonStage:
    """One daemon, from `start` to `close`."""

    def __init__(self) -> None:
        # A unix socket's path holds at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="vb-"))
        self.variables: dict[str, Any] = {}
        self._guests = self.folder / "guests"
        self._guests.mkdir()
        self._images = self.folder / "images"
        self._images.mkdir()
        self._make_images()
        authority = Authority(self.folder / "authority", "test authority")
        stranger = Authority(self.folder / "stranger", "another authority")
        self._server_pair = authority.issue("server")
        self._tls = {
            "ca": authority.certificate_path,
            "cert": (pair := authority.issue("caller")).certificate_path,
            "key": pair.key_path,
            "stranger_ca": stranger.certificate_path,
            "stranger_cert": (strange := stranger.issue("stranger")).certificate_path,
            "stranger_key": strange.key_path,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (self.folder / "daemon.log").open("ab")
        self._start()

    def _make_images(self) -> None:
        """base <- top, and a raw image; copied for each case, so backing names are relative."""
        commands = [
            f"create -q -f qcow2 base.qcow2 {SIZE_BYTES}",
            "create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2",
            f"create -q -f raw disk.raw {SIZE_BYTES}",
        ]
        for command in commands:
            subprocess.run(["qemu-img", *command.split()], cwd=self._images, check=True)
        for file, kind, write in (
            ("base.qcow2", "qcow2", "write -q -P 0x11 0 4M"),
            ("top.qcow2", "qcow2", "write -q -P 0x22 1M 2M"),
            ("disk.raw", "raw", "write -q -P 0x33 1M 3M"),
        ):
            subprocess.run(["qemu-io", "-f", kind, "-c", write, file], cwd=self._images, check=True)

    def _start(self) -> None:
        socket = self.folder / "sock"
        ready_read, ready_write = os.pipe()
        options = ["--listen", f"unix:{socket}", "--listen", "127.0.0.1:0", "--allow-path", self._guests]
        options += ["--tls-cert", self._server_pair.certificate_path, "--tls-key", self._server_pair.key_path]
        options += ["--tls-client-ca", self._tls["ca"], "--state-dir", self.folder / "state", "--ready-fd", ready_write]
        log_start = self._log.tell()
        self._process = subprocess.Popen(
            [Path(sys.executable).with_name("virtblockd"), *map(str, options)],
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            pass_fds=(ready_write,),
        )
        os.close(ready_write)
        readable, _, _ = select.select([ready_read], [], [], DAEMON_TIMEOUT_S)
        is_ready = bool(readable) and os.read(ready_read, 64) == b"READY=1\n"
        os.close(ready_read)
        log = (self.folder / "daemon.log").read_text()
        assert is_ready, log
        [line] = [line for line in log[log_start:].splitlines() if line.startswith("virtblockd ready on ")]
        port = next(word.rpartition(":")[2] for word in line.split() if word.startswith("127.0.0.1:"))
        self.variables |= {"target": f"unix:{socket}", "socket": str(socket), "tls_target": f"localhost:{port}"}
        self.variables |= {"tls_ip_target": f"127.0.0.1:{port}", "long": LONG_NAME}
        self.variables |= {name: str(path) for name, path in self._tls.items()}

    @contextlib.contextmanager
    def case(self, disk: str) -> Iterator[DaemonStage]:
        """A domain with one disk vda ("chain" or "raw"), or none, for the time of a case."""
        name = f"guest-{uuid.uuid4().hex[:12]}"
        folder = self._guests / name
        shutil.copytree(self._images, folder)
        top = folder / ("disk.raw" if disk == "raw" else "top.qcow2")
        self.variables |= {"dir": str(folder), "guest": name, "top": str(top), "base": str(folder / "base.qcow2")}
        with Client(self.variables["target"]) as client:
            if disk != "none":
                domain = client.domain_define_xml(_domain_xml(name, top, "raw" if disk == "raw" else "qcow2"))
                self.variables["uuid"] = domain.uuid
            try:
                yield self
            finally:
                self._clear(client, name)
                shutil.rmtree(folder)

    @staticmethod
    def _clear(client: Client, name: str) -> None:
        """End every job of the domain and forget it; the case may have done either."""
        for _ in range(2):
            with contextlib.suppress(VirError):
                client.block_job_abort(name, "vda")
            with contextlib.suppress(VirError):
                client.undefine(DomainSelector(name=name))

    def kill(self) -> None:
        """`kill -9`, and a new daemon on the same state."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._start()

    def script(self, method: str, step: dict[str, Any]) -> None:
        """A real daemon answers for itself."""
        raise AssertionError("only a scripted server takes a script")

    def last_request(self, method: str) -> Message:
        """A real daemon does not tell."""
        raise AssertionError("only a scripted server tells what it was asked")

    def close(self) -> None:
        """Stop the daemon and remove everything."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(DAEMON_TIMEOUT_S)
        self._log.close()
        log = (self.folder / "daemon.log").read_text()
        shutil.rmtree(self.folder)
        assert code == 0, log


class ScriptedStage:
    """A server that answers what the case says, as a newer or a failing one would."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="vb-"))
        self._server = FakeServer(self._folder / "sock")
        self._scripts: dict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self._requests: dict[str, Message] = {}
        self.variables: dict[str, Any] = {"target": self._server.target, "dir": str(self._folder)}
        odd = self._folder / "a b%20c"
        odd.symlink_to(self._folder / "sock")
        self.variables["odd_target"] = f"unix:{odd}"
        self._server.start()

    def kill(self) -> None:
        """Break every connection, and serve again."""
        self._server.stop()
        self._server.start()

    def script(self, method: str, step: dict[str, Any]) -> None:
        """What comes of the next call; the last script stays for all that follow."""
        self._scripts[method].append(step)
        descriptor = case_messages.method(method)
        answer = message_factory.GetMessageClass(descriptor.output_type)

        def taken(request: Message) -> dict[str, Any]:
            self._requests[method] = request
            scripts = self._scripts[method]
            return scripts.popleft() if len(scripts) > 1 else scripts[0]

        async def unary(request: Message, context: Any) -> Message:
            script = taken(request)
            if script.get("silent"):
                await asyncio.sleep(DAEMON_TIMEOUT_S * 10)
            if "fail" in script:
                raise _refusal(script["fail"])
            return case_messages.message(answer, script.get("response", {}))

        async def stream(request: Message, context: Any) -> AsyncIterator[Message]:
            script = taken(request)
            for table in script.get("stream", []):
                yield case_messages.message(answer, table)
            if script.get("silent"):
                await asyncio.sleep(DAEMON_TIMEOUT_S * 10)
            if "fail" in script:
                raise _refusal(script["fail"])

        self._server.handlers[descriptor.name] = stream if descriptor.server_streaming else unary

    def last_request(self, method: str) -> Message:
        """The request of the last call."""
        return self._requests[method]

    def close(self) -> None:
        """Stop it."""
        self._server.close()
        shutil.rmtree(self._folder)


def _refusal(fail: dict[str, Any]) -> Refusal:
    error = case_messages.message(errors_pb2.VirError, fail["error"]) if "error" in fail else None
    assert error is None or isinstance(error, errors_pb2.VirError)
    return Refusal(grpc.StatusCode[fail["code"]], error, reason=fail.get("reason", ""), text=fail.get("text", ""))


def _domain_xml(name: str, path: Path, image_format: str) -> str:
    return (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>"
        f"<driver name='qemu' type='{image_format}'/><source file='{path}'/><target dev='vda' bus='virtio'/></disk>"
        "</devices></domain>"
    )
