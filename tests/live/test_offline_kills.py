# SPDX-License-Identifier: Apache-2.0
"""Both daemons killed at random moments of a copy of a domain that is shut off: record, definition and data agree."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from live.daemon import LiveDaemon
from live.guests import Guest
from live.hypervisor import PrivateLibvirtd, content
from live.stack import until
from live.test_kills import FINAL, Watcher, jobs_of, kill_ours, kill_theirs, patiently

from virtblock.client import BlockJobState, Client, ErrorNumber, VirError
from virtblock.client.flags import BlockJobAbortFlags, BlockRebaseFlags

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(900)]

RUN_COUNT = 30
# How long a job lives here: from its start to its end some ten milliseconds.
DELAY_MAX_S = 0.1
# 8 and 55: an earlier try had reached the server before its answer was lost. 9: the pivot failed, and may come again.
GOING = (ErrorNumber.INVALID_ARG, ErrorNumber.OPERATION_INVALID, ErrorNumber.OPERATION_FAILED)


@pytest.fixture
def daemon(libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[LiveDaemon]:
    """Ours, on the test's libvirtd."""
    made = LiveDaemon(libvirtd.uri, tmp_path)
    yield made
    made.close()


def have_ended(client: Client, guest: Guest) -> bool:
    """Whether all jobs of the guest are at their ends; False while the daemon is away."""
    with contextlib.suppress(VirError):
        jobs = jobs_of(client, guest)
        return bool(jobs) and all(job.state in FINAL for job in jobs)
    return False


def definition(libvirtd: PrivateLibvirtd, guest: Guest) -> str:
    """What libvirt has, on a connection of its own: the guest's may have been lost."""
    connection = libvirt.open(libvirtd.uri)
    xml = str(connection.lookupByName(guest.name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    connection.close()
    return xml


@pytest.mark.parametrize("kill", [kill_ours, kill_theirs], ids=["our daemon", "libvirtd"])
def test_records_and_definitions_survive_kills(
    libvirtd: PrivateLibvirtd,
    daemon: LiveDaemon,
    make_guest: Callable[..., Guest],
    kill: Callable[[LiveDaemon, PrivateLibvirtd], None],
) -> None:
    chance = random.Random(7)
    with Client(daemon.target) as client:
        watcher = Watcher(client)
        for run in range(RUN_COUNT):
            guest = make_guest(depth=2, is_running=False)
            path, data = guest.images[0].parent / f"{guest.name}-copy.qcow2", content(guest.images[0])
            flags = int(BlockJobAbortFlags.PIVOT) if run % 4 else 0
            killer = threading.Timer(chance.uniform(0, DELAY_MAX_S), kill, (daemon, libvirtd))
            killer.start()
            try:
                live_through(client, guest, path, flags)
            finally:
                killer.join()
            until(lambda guest=guest: have_ended(client, guest), f"the end of {guest.name}'s jobs")  # type: ignore[misc]
            jobs = jobs_of(client, guest)
            done = [job for job in jobs if job.state is BlockJobState.COMPLETED]
            assert (f"<source file='{path}'" in definition(libvirtd, guest)) == (len(done) == 1), (run, jobs)
            assert content(guest.images[0]) == data, f"run {run}: the source was written"
            if done:
                assert content(path) == data, f"run {run}"
            until(lambda guest=guest, jobs=jobs: has_heard(watcher, guest, len(jobs)), "the watcher hears of the ends")  # type: ignore[misc]


def live_through(client: Client, guest: Guest, path: Path, flags: int) -> None:
    """A copy from its start to the end that is asked for, whatever dies meanwhile."""

    def start() -> None:
        client.block_rebase(guest.name, "vda", str(path), flags=BlockRebaseFlags.COPY)

    patiently(start, ErrorNumber.BLOCK_COPY_ACTIVE)
    patiently(lambda: client.block_job_abort(guest.name, "vda", flags), *GOING)


def has_heard(watcher: Watcher, guest: Guest, count: int) -> bool:
    """Whether each of the guest's jobs has come to its one end in the watcher's story."""
    return sum(told.state in FINAL for told in watcher.story(guest.name)) == count
