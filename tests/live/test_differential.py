# SPDX-License-Identifier: Apache-2.0
"""Every case twice: through libvirt-python, and through our client and daemon. The outcomes must be equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libvirt
import pytest
from live.cases import CASES, Case
from live.comparing import Bench
from live.daemon import LiveDaemon
from live.hypervisor import PrivateLibvirtd
from live.sides import LibvirtSide, ServerSide

pytestmark = pytest.mark.oracle


@dataclass(frozen=True)
class Pair:
    """Both sides on one libvirtd."""

    theirs: Bench
    ours: Bench


@pytest.fixture(scope="module")
def pair(libvirtd: PrivateLibvirtd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A daemon of ours beside libvirt-python."""
    connection = libvirt.open(libvirtd.uri)
    daemon = LiveDaemon(libvirtd.uri, tmp_path_factory.mktemp("daemon"), "--strict-libvirt")
    theirs, ours = LibvirtSide(libvirtd.uri), ServerSide(daemon.target)
    yield Pair(Bench(theirs, libvirtd, connection), Bench(ours, libvirtd, connection))
    theirs.close()
    ours.close()
    daemon.close()
    connection.close()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_our_answer_is_libvirts(pair: Pair, case: Case) -> None:
    theirs, ours = pair.theirs.run(case), pair.ours.run(case)
    theirs.events = pair.theirs.events(0)
    ours.events = pair.ours.events(len(theirs.events))
    theirs.events = pair.theirs.events(len(ours.events))
    if not pair.theirs.is_clean(case.shape, theirs) or not pair.ours.is_clean(case.shape, ours):
        pair.theirs.forget(case.shape)
        pair.ours.forget(case.shape)
    assert ours.steps == theirs.steps
    assert ours.xml == theirs.xml
    assert ours.events == theirs.events
    assert ours.files == theirs.files


def test_there_are_enough_cases() -> None:
    """A list that shrinks by mistake is noticed; every case has a name of its own."""
    assert len(CASES) >= 250
    assert len({case.name for case in CASES}) == len(CASES)
