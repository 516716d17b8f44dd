# SPDX-License-Identifier: Apache-2.0
"""The connection to libvirt: lost, opened again, told late, and given up."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from live.guests import Guest
from live.hypervisor import PrivateLibvirtd
from live.stack import CALLER, Stack, selector, until

from virtblock.server.core.model import JobState
from virtblock.server.drivers.libvirt.binding import Binding

LIFECYCLE, SUSPENDED, RESUMED = 0, 3, 4


class Listener:
    """A binding and the lifecycle events that came through it."""

    def __init__(self, uri: str) -> None:
        self.told: list[tuple[str, int]] = []
        self.open_count = 0
        self.binding = Binding(uri, self._count)
        self.binding.subscribe(LIFECYCLE, lambda _uuid, name, _id, event, _detail: self.told.append((name, event)))
        self.binding.start()

    def _count(self) -> None:
        self.open_count += 1


@pytest.fixture
def listener(libvirtd: PrivateLibvirtd) -> Iterator[Listener]:
    """An open one."""
    made = Listener(libvirtd.uri)
    yield made
    made.binding.stop()


def lose(listener: Listener, libvirtd: PrivateLibvirtd) -> libvirt.virConnect:
    """Kills libvirtd, and gives the connection that was lost once there is a new one."""
    old = listener.binding.call(lambda connection: connection)
    libvirtd.stop(signal.SIGKILL)
    until(lambda: not listener.binding.is_open, "the loss is noticed")
    libvirtd.start()
    until(lambda: listener.binding.is_open, "a new connection")
    return old


def test_a_late_word_of_the_old_connection_does_not_end_the_new_one(
    listener: Listener, libvirtd: PrivateLibvirtd
) -> None:
    old = lose(listener, libvirtd)
    new = listener.binding.call(lambda connection: connection)
    listener.binding._on_close(old, libvirt.VIR_CONNECT_CLOSE_REASON_EOF, None)
    assert listener.binding.is_open
    assert listener.binding.call(lambda connection: connection) is new
    assert listener.open_count == 2


def test_an_event_comes_once_over_a_new_connection(
    listener: Listener, libvirtd: PrivateLibvirtd, make_guest: Callable[..., Guest]
) -> None:
    lose(listener, libvirtd)
    guest = make_guest()
    for call in ("resume", "suspend", "resume"):
        getattr(guest.domain, call)()
    until(lambda: listener.told[-1:] == [(guest.name, RESUMED)], "the last event")
    told = [event for name, event in listener.told if name == guest.name]
    assert told[-3:] == [RESUMED, SUSPENDED, RESUMED]


def test_a_connection_that_was_given_up_is_closed_at_the_daemon(
    libvirtd: PrivateLibvirtd, make_guest: Callable[..., Guest]
) -> None:
    """What is registered on a connection would keep it open, and its events would come twice."""
    listener = Listener(libvirtd.uri)
    connection = listener.binding.call(lambda found: found)
    listener.binding.stop()
    with pytest.raises(libvirt.libvirtError):
        connection.listAllDomains()
    guest = make_guest()
    guest.domain.resume()
    assert [name for name, _ in listener.told] == []


def test_a_stop_leaves_a_pivot_to_the_next_start(
    libvirtd: PrivateLibvirtd, make_guest: Callable[..., Guest], tmp_path: Path
) -> None:
    guest = make_guest(is_persistent=True)
    path = str(guest.images[0].parent / f"{guest.name}-copy.qcow2")
    xml = f"<disk type='file'><driver type='qcow2'/><source file='{path}'/></disk>"
    stack = Stack(libvirtd.uri, tmp_path / "stopped")
    job = stack.blocks.block_copy(CALLER, selector(guest.uuid), "vda", xml, [], 0, pivot_persistent=True)
    stack.close()
    stack = Stack(libvirtd.uri, tmp_path / "stopped")
    try:
        stack.wait_for(job.job_id, JobState.COMPLETED)
    finally:
        stack.close()
    assert f"<source file='{path}'" in guest.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
