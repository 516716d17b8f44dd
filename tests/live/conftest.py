# SPDX-License-Identifier: Apache-2.0
"""One libvirtd per test process, and the server's driver on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from live.guests import Guest, GuestMaker
from live.hypervisor import HypervisorUnavailable, PrivateLibvirtd
from live.stack import Stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs libvirtd."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def libvirtd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateLibvirtd]:
    """A daemon of this test process's own."""
    base = tmp_path_factory.getbasetemp()
    for folder in (base, *base.parents):  # nobody must be able to reach the sockets and images
        if folder.stat().st_uid == base.stat().st_uid and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
    try:
        daemon = PrivateLibvirtd(tmp_path_factory.mktemp("libvirtd"))
        daemon.start()
    except HypervisorUnavailable as error:
        pytest.skip(str(error))
    try:
        yield daemon
    finally:
        daemon.close()


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    """For names that no other test has."""
    return itertools.count(1)


@pytest.fixture
def make_guest(libvirtd: PrivateLibvirtd, numbers: Iterator[int]) -> Iterator[Callable[..., Guest]]:
    """Guests of this test."""
    maker = GuestMaker(libvirtd, libvirt.open(libvirtd.uri), numbers)
    yield maker.make
    maker.close()


@pytest.fixture
def stack(libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[Stack]:
    """The core with the driver on the daemon."""
    made = Stack(libvirtd.uri, tmp_path / "state")
    yield made
    made.close()
