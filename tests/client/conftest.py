# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the client's tests: a scripted server, a real daemon, and both front ends."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client.daemon import Daemon
from client.fake_server import FakeServer
from client.front_ends import Asyncio, Blocking, FrontEnd

from virtblock.client import Client


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """A folder whose name is short enough for a socket in it, wherever pytest keeps its own."""
    folder = tempfile.mkdtemp(prefix="vb-")
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture
def server(socket_dir: Path) -> Iterator[FakeServer]:
    """A server that runs and answers nothing yet."""
    made = FakeServer(socket_dir / "sock")
    made.start()
    yield made
    made.close()


@pytest.fixture(params=[Blocking(), Asyncio()], ids=lambda each: each.name)
def front_end(request: pytest.FixtureRequest) -> FrontEnd:
    """Both clients, one after the other."""
    chosen: FrontEnd = request.param
    return chosen


@pytest.fixture
def daemon(socket_dir: Path) -> Iterator[Daemon]:
    """A daemon with an empty state."""
    made = Daemon(socket_dir)
    made.start()
    yield made
    made.stop(signal.SIGKILL)


@pytest.fixture
def guest(daemon: Daemon, make_chain: Callable[..., Any]) -> Any:
    """Defines the domain "guest" whose vda is the chain base <- snap1 <- snap2; answers the chain."""
    chain = make_chain()
    with Client(daemon.target) as client:
        client.domain_define_xml(
            "<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
            "<os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>"
            f"<driver name='qemu' type='qcow2'/><source file='{chain.top}'/><target dev='vda' bus='virtio'/>"
            "</disk></devices></domain>"
        )
    return chain
