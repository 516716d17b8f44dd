# SPDX-License-Identifier: Apache-2.0
"""The rpc floor on its own: real gRPC over unix sockets, the real core, and a driver that does what a test tells it.

The driver is a test double for mapping errors and for calls that take long; it copies nothing. Where a test needs
jobs, it puts them into the registry as a driver does.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]

from virtblock.server.core.bitmap_api import BitmapApi
from virtblock.server.core.block_api import BlockApi
from virtblock.server.core.block_job_api import BlockJobApi
from virtblock.server.core.connect_api import ConnectApi
from virtblock.server.core.connections import Connections
from virtblock.server.core.domain_api import DomainApi
from virtblock.server.core.errors import ErrorNumber, report
from virtblock.server.core.events import EventLog
from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.model import Domain
from virtblock.server.core.store import Store
from virtblock.server.rpc.callers import CallerRule, Transport
from virtblock.server.rpc.server import ListenerServer, ListenerSpec
from virtblock.server.rpc.servicing import Floor
from virtblock.v1 import (
    block_job_service_pb2_grpc,
    connect_service_pb2_grpc,
    domain_service_pb2_grpc,
    errors_pb2,
)

DOMAIN = Domain(connection_uri="fake:///", name="guest", uuid="0a0b0c0d-0000-4000-8000-000000000001")
CALL_TIMEOUT_S = 60


class FakeDriver:
    """Knows one domain. `raising` ends the next GetXMLDesc; with `gate` cleared it waits there until it is set."""

    uri = "fake:///"
    flag_masks: ClassVar = {"domain_get_xml_desc": 7}

    def __init__(self) -> None:
        self.raising: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.finished_count = 0

    def get_type(self) -> str:
        return "Fake"

    def is_alive(self) -> bool:
        return True

    def get_capabilities(self) -> str:
        return "<capabilities/>"

    def domain_lookup_by_name(self, name: str, *, is_brief: bool = False) -> Domain:
        if name != DOMAIN.name:
            raise report(ErrorNumber.NO_DOMAIN, f"no domain with matching name '{name}'")
        return DOMAIN

    def domain_lookup_by_uuid(self, uuid: str, *, is_brief: bool = False) -> Domain:
        return DOMAIN

    def list_all_domains(self, flags: int) -> list[Domain]:
        return [DOMAIN]

    def domain_get_xml_desc(self, domain: Domain, flags: int) -> str:
        self.entered.release()
        assert self.gate.wait(CALL_TIMEOUT_S)
        self.finished_count += 1
        if self.raising is not None:
            raise self.raising
        return "<domain/>"


@dataclass
class Stack:
    """Everything of one server, and where its two sockets are."""

    driver: FakeDriver
    jobs: JobRegistry
    floor: Floor
    target: str
    read_only_target: str


class Stubs:
    """The three services over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.connect = connect_service_pb2_grpc.ConnectServiceStub(channel)
        self.domain = domain_service_pb2_grpc.DomainServiceStub(channel)
        self.block_job = block_job_service_pb2_grpc.BlockJobServiceStub(channel)


@dataclass(frozen=True)
class Told:
    """What a failed call told: the code and both details."""

    code: grpc.StatusCode
    status: status_pb2.Status
    info: error_details_pb2.ErrorInfo
    error: errors_pb2.VirError


def read_error(failure: grpc.aio.AioRpcError) -> Told:
    """Unpack a failure; one without our two details in their order is an assertion error."""
    status = rpc_status.from_call(failure)
    assert status is not None, f"no status in {failure!r}"
    info, error = error_details_pb2.ErrorInfo(), errors_pb2.VirError()
    assert [detail.Is(kind.DESCRIPTOR) for detail, kind in zip(status.details, (info, error), strict=True)] == [
        True
    ] * 2
    status.details[0].Unpack(info)
    status.details[1].Unpack(error)
    return Told(failure.code(), status, info, error)


@pytest.fixture
def told() -> Callable[[grpc.aio.AioRpcError], Told]:
    """Unpacks a failed call."""
    return read_error


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    driver = FakeDriver()
    yield driver
    # No worker stays behind, whatever a test did.
    driver.gate.set()


@pytest.fixture
async def stack(tmp_path: Path, driver: FakeDriver) -> AsyncIterator[Stack]:
    """A read-write and a read-only listener over one floor."""
    store = Store(tmp_path / "state.db")
    events = EventLog(store)
    jobs = JobRegistry(store, events)
    connections = Connections([driver])
    floor = Floor(
        connect=ConnectApi(connections),
        domains=DomainApi(connections),
        blocks=BlockApi(connections, jobs),
        jobs=BlockJobApi(connections, jobs, events),
        bitmaps=BitmapApi(connections),
        server_version="0.0.test",
    )
    specs = [
        ListenerSpec(f"unix:{tmp_path}/sock", CallerRule(Transport.UNIX)),
        ListenerSpec(f"unix:{tmp_path}/sock-ro", CallerRule(Transport.UNIX, read_only=True), socket_mode=0o666),
    ]
    servers = [ListenerServer(floor, spec) for spec in specs]
    for server in servers:
        await server.bind()
        await server.start()
    yield Stack(driver, jobs, floor, specs[0].address, specs[1].address)
    driver.gate.set()
    for server in servers:
        await server.stop(0)
    floor.pools.close()
    store.close()


@pytest.fixture
async def stubs(stack: Stack) -> AsyncIterator[Stubs]:
    """A client of the read-write socket."""
    async with grpc.aio.insecure_channel(stack.target) as channel:
        yield Stubs(channel)


@pytest.fixture
async def read_only_stubs(stack: Stack) -> AsyncIterator[Stubs]:
    """A client of the read-only socket."""
    async with grpc.aio.insecure_channel(stack.read_only_target) as channel:
        yield Stubs(channel)
