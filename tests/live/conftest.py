# SPDX-License-Identifier: Apache-2.0
"""One libvirtd per test process, and the server's driver on it."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

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
def libvirtd() -> Iterator[PrivateLibvirtd]:
    """A daemon of this test process's own, in a folder that `nobody` can reach: pytest's are root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="virtblock-live-"))
    try:
        daemon = PrivateLibvirtd(folder)
        daemon.start()
    except HypervisorUnavailable as error:
        shutil.rmtree(folder)
        pytest.skip(str(error))
    try:
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    """For names that no other test has."""
    return itertools.count(1)


@pytest.fixture
def make_guest(libvirtd: PrivateLibvirtd, numbers: Iterator[int]) -> Callable[..., Guest]:
    """Guests of this test."""
    return GuestMaker(libvirtd, numbers).make


@pytest.fixture
def stack(libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[Stack]:
    """The core with the driver on the daemon."""
    made = Stack(libvirtd.uri, tmp_path / "state")
    yield made
    made.close()
