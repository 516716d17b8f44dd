# SPDX-License-Identifier: Apache-2.0
"""What others learn of the daemon while libvirt is away, or one of its hypervisors does not answer."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import libvirt
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from live.daemon import LiveDaemon
from live.guests import Guest
from live.hypervisor import PrivateLibvirtd
from live.stack import until

from virtblock.client import BlockJobState, Client, VirError
from virtblock.client.flags import BlockRebaseFlags
from virtblock.server.drivers.libvirt.binding import ensure_event_loop

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# More than the daemon has threads.
CALLER_COUNT = 24


@pytest.fixture
def daemon(libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[LiveDaemon]:
    """Ours, on the test's libvirtd."""
    made = LiveDaemon(libvirtd.uri, tmp_path)
    yield made
    made.close()


def test_health_follows_the_connection(libvirtd: PrivateLibvirtd, daemon: LiveDaemon) -> None:
    with grpc.insecure_channel(daemon.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def status(service: str) -> int:
            return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status)

        until(lambda: status(libvirtd.uri) == SERVING, "SERVING")
        libvirtd.stop(signal.SIGKILL)
        until(lambda: status(libvirtd.uri) == NOT_SERVING, "NOT_SERVING while libvirtd is away")
        assert status("") == SERVING, "the daemon itself is well"
        with Client(daemon.target) as client:
            with pytest.raises(VirError):
                client.domain_lookup_by_name("anybody")
            assert client.list_block_jobs() is not None
        libvirtd.start()
        until(lambda: status(libvirtd.uri) == SERVING, "SERVING again")


# The daemon, sooner tired of a libvirtd that says nothing.
IMPATIENT = """
from virtblock.server import cli
from virtblock.server.drivers.libvirt import binding

binding.KEEP_ALIVE_INTERVAL_S, binding.KEEP_ALIVE_COUNT = 1, 2
raise SystemExit(cli.main())
"""


def go_on(libvirtd: PrivateLibvirtd) -> None:
    """It was only held up."""
    libvirtd.send(signal.SIGCONT)


def start_anew(libvirtd: PrivateLibvirtd) -> None:
    """Somebody lost patience with it."""
    libvirtd.stop(signal.SIGKILL)
    libvirtd.start()


def knows(client: Client, name: str) -> bool:
    """Whether the daemon answers with the guest. On a slow machine it may tire of libvirtd once more."""
    with contextlib.suppress(VirError):
        return client.domain_lookup_by_name(name).name == name
    return False


@pytest.mark.parametrize("recover", [go_on, start_anew])
def test_a_libvirtd_that_hangs_is_noticed(
    libvirtd: PrivateLibvirtd,
    make_guest: Callable[..., Guest],
    tmp_path: Path,
    recover: Callable[[PrivateLibvirtd], None],
) -> None:
    guest = make_guest()
    ensure_event_loop()
    theirs = libvirt.open(libvirtd.uri)
    theirs.setKeepAlive(1, 2)
    daemon = LiveDaemon(libvirtd.uri, tmp_path, program=("-c", IMPATIENT))
    try:
        with grpc.insecure_channel(daemon.target) as channel, Client(daemon.target) as client:
            stub = health_pb2_grpc.HealthStub(channel)

            def status() -> int:
                return int(stub.Check(health_pb2.HealthCheckRequest(service=libvirtd.uri), timeout=60).status)

            until(lambda: status() == SERVING, "SERVING")
            libvirtd.send(signal.SIGSTOP)
            try:
                with pytest.raises(VirError) as under_way:
                    client.domain_lookup_by_name(guest.name)
                with pytest.raises(libvirt.libvirtError) as direct:
                    theirs.lookupByName(guest.name)
                until(lambda: status() == NOT_SERVING, "NOT_SERVING while libvirtd hangs")
                with pytest.raises(VirError) as later:
                    client.get_block_job_info(guest.name, "vda", 0)
            finally:
                recover(libvirtd)
            told = {(raised.value.number, raised.value.domain) for raised in (under_way, later)}
            assert told == {(direct.value.get_error_code(), direct.value.get_error_domain())}
            until(lambda: status() == SERVING, "SERVING again")
            until(lambda: knows(client, guest.name), "an answer")
    finally:
        daemon.close()


@pytest.fixture
def stuck_guest(libvirtd: PrivateLibvirtd, make_guest: Callable[..., Guest]) -> Iterator[Guest]:
    """A guest with a job whose QEMU does not answer."""
    guest = make_guest()
    path = str(guest.images[0].parent / f"{guest.name}-copy.qcow2")
    guest.domain.blockRebase("vda", path, 0, int(BlockRebaseFlags.COPY))
    pid = libvirtd.qemu_pid(guest.name)
    os.kill(pid, signal.SIGSTOP)
    yield guest
    os.kill(pid, signal.SIGCONT)


def test_the_others_answer_while_one_hypervisor_does_not(
    daemon: LiveDaemon, make_guest: Callable[..., Guest], stuck_guest: Guest
) -> None:
    other = make_guest()
    path = str(other.images[0].parent / f"{other.name}-copy.qcow2")
    with Client(daemon.target) as client:

        def ask() -> None:
            try:
                client.get_block_job_info(stuck_guest.name, "vda", 0)
            except VirError:
                return  # libvirt's own limit of patience

        callers = [threading.Thread(target=ask, daemon=True) for _ in range(CALLER_COUNT)]
        for caller in callers:
            caller.start()
        with client.watch_block_jobs() as stream:
            client.block_rebase(other.name, "vda", path, flags=BlockRebaseFlags.COPY)
            jobs = (event.job for event in stream if event.job is not None)
            told = ((job.domain.name, job.state) for job in jobs)
            assert (other.name, BlockJobState.READY) in told, "a watcher is told"
        assert client.get_block_job_info(other.name, "vda", 0) is not None
        assert client.get_state(stuck_guest.name, 0) is not None
        assert {domain.name for domain in client.list_all_domains()} >= {other.name, stuck_guest.name}
        assert other.name in {job.domain.name for job in client.list_block_jobs().jobs}
        assert any(caller.is_alive() for caller in callers), "it is stuck still"
        client.block_job_abort(other.name, "vda", 0)
