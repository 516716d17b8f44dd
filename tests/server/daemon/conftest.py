# SPDX-License-Identifier: Apache-2.0
"""Real daemons in processes of their own, on sockets and ports of this machine, and certificates made for each test."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from certificates import Authority

from virtblock.v1 import block_job_service_pb2_grpc, connect_service_pb2_grpc, domain_service_pb2_grpc

READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 120


class DaemonProcess:
    """One `virtblockd`. Its stderr goes to a file, so that nothing blocks when nobody reads it."""

    def __init__(self, arguments: list[str], log: Path, environ: Mapping[str, str]) -> None:
        self.log_path = log
        ready_read, ready_write = os.pipe()
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "virtblock.server.cli", *arguments, "--ready-fd", str(ready_write)],
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                pass_fds=(ready_write,),
                env={**os.environ, **environ},
            )
        os.close(ready_write)
        try:
            readable, _, _ = select.select([ready_read], [], [], READY_TIMEOUT_S)
            self.is_ready = bool(readable) and os.read(ready_read, 64) == b"READY=1\n"
        finally:
            os.close(ready_read)

    @property
    def log(self) -> str:
        """All that it said so far."""
        return self.log_path.read_text()

    @property
    def addresses(self) -> list[str]:
        """Where its ready line says that it listens."""
        [line] = [line for line in self.log.splitlines() if line.startswith("virtblockd ready on ")]
        return line.removeprefix("virtblockd ready on ").split()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.send_signal(signal.SIGKILL)
        self.wait()


StartDaemon = Callable[..., DaemonProcess]


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """`start_daemon("--listen", …)` gives a ready daemon, or with `ready=False` one that is to refuse.

    Without `--state-dir` among the arguments it is `tmp_path/state`. What still runs at the end is killed.
    """
    started: list[DaemonProcess] = []

    def start(*arguments: str | Path, ready: bool = True, environ: Mapping[str, str] | None = None) -> DaemonProcess:
        words = [str(argument) for argument in arguments]
        if "--state-dir" not in words:
            words += ["--state-dir", str(tmp_path / "state")]
        daemon = DaemonProcess(words, tmp_path / f"daemon-{len(started)}.log", environ or {})
        started.append(daemon)
        assert daemon.is_ready == ready, daemon.log
        return daemon

    yield start
    for daemon in started:
        if daemon.process.poll() is None:
            daemon.kill()


@dataclass(frozen=True)
class Client:
    """The three services on one channel."""

    channel: grpc.Channel

    @property
    def connect(self) -> connect_service_pb2_grpc.ConnectServiceStub:
        return connect_service_pb2_grpc.ConnectServiceStub(self.channel)

    @property
    def domain(self) -> domain_service_pb2_grpc.DomainServiceStub:
        return domain_service_pb2_grpc.DomainServiceStub(self.channel)

    @property
    def block_job(self) -> block_job_service_pb2_grpc.BlockJobServiceStub:
        return block_job_service_pb2_grpc.BlockJobServiceStub(self.channel)


Dial = Callable[..., Client]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """`dial("unix:/…")`, or with credentials for TLS; closed at the end."""
    channels: list[grpc.Channel] = []

    def open_channel(target: str, credentials: grpc.ChannelCredentials | None = None) -> Client:
        # Channels do not share connections: a new daemon behind an old address is a new connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        if credentials is None:
            channels.append(grpc.insecure_channel(target, options))
        else:
            channels.append(grpc.secure_channel(target, credentials, options))
        return Client(channels[-1])

    yield open_channel
    for channel in channels:
        channel.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that the daemon trusts."""
    return Authority(tmp_path / "authority", "test authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that the daemon does not know."""
    return Authority(tmp_path / "stranger", "another authority")
