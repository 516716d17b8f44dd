# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the client's tests: a scripted server, and both front ends."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from client.fake_server import FakeServer
from client.front_ends import Asyncio, Blocking, FrontEnd


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
