# SPDX-License-Identifier: Apache-2.0
"""Every case through our client and daemon in front of a real libvirtd; the outcome must be libvirt's own.

libvirt's side was recorded (`make record-live`); where another version runs it is asked here and now. `make live` asks
it in any case.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import libvirt
import pytest
from live import recording
from live.cases import CASES, Case
from live.comparing import Bench
from live.daemon import LiveDaemon
from live.differences import Difference, listed_differences
from live.hypervisor import PrivateLibvirtd
from live.outcome import Outcome
from live.sides import LibvirtSide, ServerSide

NAMES = [case.name for case in CASES]
DIFFERENCES = listed_differences()


class Comparison:
    """Both sides on one libvirtd, each from the time when it is asked for."""

    def __init__(self, libvirtd: PrivateLibvirtd, folder: Path) -> None:
        self._libvirtd = libvirtd
        self._folder = folder
        self._connection = libvirt.open(libvirtd.uri)
        self._closers = [self._connection.close]
        self.recorded = recording.load(self._connection)

    @cached_property
    def theirs(self) -> Bench:
        """libvirt-python."""
        side = LibvirtSide(self._libvirtd.uri)
        self._closers.append(side.close)
        return Bench(side, self._libvirtd, self._connection)

    @cached_property
    def ours(self) -> Bench:
        """Our client and a daemon of ours."""
        daemon = LiveDaemon(self._libvirtd.uri, self._folder, "--strict-libvirt")
        self._closers.append(daemon.close)
        side = ServerSide(daemon.target)
        self._closers.append(side.close)
        return Bench(side, self._libvirtd, self._connection)

    def libvirts(self, case: Case) -> Outcome:
        """libvirt's outcome, recorded or asked for."""
        return self.recorded.get(case.name) or self.theirs.run(case, None)

    def close(self) -> None:
        """Ends what was begun, the last first."""
        for close in reversed(self._closers):
            close()


@pytest.fixture(scope="module")
def comparison(libvirtd: PrivateLibvirtd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comparison]:
    """One for all cases: guests are used again."""
    made = Comparison(libvirtd, tmp_path_factory.mktemp("daemon"))
    yield made
    made.close()


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_our_answer_is_libvirts(comparison: Comparison, case: Case) -> None:
    theirs = comparison.libvirts(case)
    difference = DIFFERENCES.get(case.name)
    ours = comparison.ours.run(case, len(theirs.events) if difference is None else None)
    if difference is not None:
        assert difference == Difference.between(theirs, ours)
        return
    assert ours.steps == theirs.steps
    assert ours.xml == theirs.xml
    assert ours.events == theirs.events
    assert ours.files == theirs.files


@pytest.mark.oracle
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_what_is_recorded_is_libvirts(comparison: Comparison, case: Case) -> None:
    if not comparison.recorded:
        pytest.skip("another version of libvirt or QEMU is recorded; the comparison asks the one that runs")
    assert comparison.theirs.run(case, None) == comparison.recorded[case.name]


def test_there_are_enough_cases() -> None:
    """A list that shrinks by mistake is noticed, and so is a case that nobody recorded."""
    assert len(NAMES) >= 250
    assert len(set(NAMES)) == len(NAMES)
    assert set(NAMES) == recording.names()
    assert DIFFERENCES.keys() <= set(NAMES)
