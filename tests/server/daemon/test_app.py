# SPDX-License-Identifier: Apache-2.0
"""`Daemon` inside another program: what it opens and closes, in which order, and that a failed start leaves nothing."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from virtblock.server.app import Daemon, DriverParts
from virtblock.server.config import Config, ConfigInvalid
from virtblock.server.core.errors import ErrorNumber, report
from virtblock.server.core.model import Domain
from virtblock.server.listeners import StartRefused
from virtblock.v1 import connect_service_pb2, connect_service_pb2_grpc

CALL_TIMEOUT_S = 60


class RecordingDriver:
    """Writes down what becomes of it. A look-up waits until it is closed, as a call on a stuck hypervisor would."""

    def __init__(self, parts: DriverParts, happened: list[str], open_error: Exception | None = None) -> None:
        self.uri = parts.uri
        self._happened = happened
        self._open_error = open_error
        self._socket = Path(parts.config.listen[0].removeprefix("unix:"))
        self._closed = threading.Event()

    def open(self) -> None:
        self._happened.append("open")
        assert not self._socket.exists(), "nobody can call before the jobs are taken up"
        if self._open_error is not None:
            raise self._open_error

    def close(self) -> None:
        self._happened.append("close")
        self._closed.set()

    def get_type(self) -> str:
        return "Recording"

    def domain_lookup_by_name(self, name: str, *, is_brief: bool = False) -> Domain:
        self._happened.append("lookup")
        assert self._closed.wait(CALL_TIMEOUT_S)
        return Domain(self.uri, name, "0a0b0c0d-0000-4000-8000-000000000001")


def config_in(folder: Path, **changes: Any) -> Config:
    options: dict[str, Any] = {"listen": (f"unix:{folder}/sock",), "state_dir": folder / "state", "stop_grace_s": 60.0}
    options |= changes
    return Config(**options)


def daemon_with(config: Config, happened: list[str], open_error: Exception | None = None) -> Daemon:
    return Daemon(config, driver_factories={"embedded": lambda parts: RecordingDriver(parts, happened, open_error)})


async def test_a_daemon_serves_inside_a_program(tmp_path: Path) -> None:
    happened: list[str] = []
    async with daemon_with(config_in(tmp_path), happened) as daemon:
        assert daemon.addresses == (f"unix:{tmp_path}/sock", f"unix:{tmp_path}/sock-ro")
        async with grpc.aio.insecure_channel(daemon.addresses[0]) as channel:
            stub: Any = connect_service_pb2_grpc.ConnectServiceStub(channel)
            assert (await stub.GetType(connect_service_pb2.GetTypeRequest())).type == "Recording"
    assert happened == ["open", "close"]
    async with daemon_with(config_in(tmp_path), happened):
        pass
    assert happened == ["open", "close"] * 2


async def test_a_stop_parks_jobs_while_calls_still_run(tmp_path: Path) -> None:
    happened: list[str] = []
    daemon = daemon_with(config_in(tmp_path), happened)
    await daemon.start()
    async with grpc.aio.insecure_channel(daemon.addresses[0]) as channel:
        stub: Any = connect_service_pb2_grpc.ConnectServiceStub(channel)
        call = asyncio.ensure_future(
            stub.DomainLookupByName(connect_service_pb2.DomainLookupByNameRequest(name="guest"))
        )
        while "lookup" not in happened:  # noqa: ASYNC110 - it happens in a worker
            await asyncio.sleep(0.01)
        await daemon.stop()
        assert (await call).domain.name == "guest", "a call that the closing let go on ends within the grace"
    assert happened == ["open", "lookup", "close"]
    assert not daemon.has_stuck_calls
    await daemon.stop()


@pytest.mark.parametrize(
    "open_error", [report(ErrorNumber.INTERNAL_ERROR, "the disk is on fire"), OSError(5, "the disk is on fire")]
)
async def test_a_driver_that_does_not_open_refuses_the_start(tmp_path: Path, open_error: Exception) -> None:
    happened: list[str] = []
    with pytest.raises(StartRefused, match="the disk is on fire"):
        await daemon_with(config_in(tmp_path), happened, open_error).start()
    assert happened == ["open"], "what was never open is not closed"
    async with daemon_with(config_in(tmp_path), happened):
        pass


async def test_a_failed_start_lets_go_of_everything(tmp_path: Path) -> None:
    happened: list[str] = []
    images = tmp_path / "images"
    images.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        config = config_in(tmp_path, listen=(f"unix:{tmp_path}/sock", taken), allow_path=(images,), insecure=True)
        with pytest.raises(StartRefused, match=f"cannot listen on {taken}"):
            await daemon_with(config, happened).start()
    assert happened == ["open", "close"]
    assert not (tmp_path / "sock").exists()
    async with daemon_with(config_in(tmp_path), happened):
        pass


async def test_a_start_that_is_cancelled_closes_what_it_was_opening(tmp_path: Path) -> None:
    happened: list[str] = []
    may_open = threading.Event()

    class SlowDriver(RecordingDriver):
        def open(self) -> None:
            happened.append("opening")
            assert may_open.wait(CALL_TIMEOUT_S)
            super().open()

    daemon = Daemon(config_in(tmp_path), driver_factories={"embedded": lambda parts: SlowDriver(parts, happened)})
    starting = asyncio.ensure_future(daemon.start())
    async with asyncio.timeout(CALL_TIMEOUT_S):
        while not happened:  # noqa: ASYNC110 - a thread says it
            await asyncio.sleep(0.005)
    starting.cancel()
    asyncio.get_running_loop().call_later(0.05, may_open.set)
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert happened == ["opening", "open", "close"]
    async with daemon_with(config_in(tmp_path), happened):
        pass


async def test_a_daemon_is_started_once(tmp_path: Path) -> None:
    happened: list[str] = []
    async with daemon_with(config_in(tmp_path), happened) as daemon:
        with pytest.raises(StartRefused, match="started once"):
            await daemon.start()
        assert (tmp_path / "sock").exists()
        assert happened == ["open"], "the refusal leaves what runs alone"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"listen": ("127.0.0.1:0",)}, "without TLS"),
        ({"connection": ("xen:///system",)}, "'xen:///system' is refused"),
    ],
)
async def test_what_the_command_refuses_is_refused_here_too(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigInvalid, match=told):
        await daemon_with(config_in(tmp_path, **changes), []).start()
    assert not (tmp_path / "state").exists()


async def test_another_driver_is_offered_by_its_scheme(tmp_path: Path) -> None:
    happened: list[str] = []
    config = config_in(tmp_path, connection=("mine:///",))
    async with Daemon(config, driver_factories={"mine": lambda parts: RecordingDriver(parts, happened)}):
        assert happened == ["open"]
