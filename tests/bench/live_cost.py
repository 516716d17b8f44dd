# SPDX-License-Identifier: Apache-2.0
"""What our server costs in front of libvirt: the latency that it adds to a call, and how late a watcher hears of READY.

The rules. Both sides make the same call over a unix socket, on the same guest of the same private libvirtd or each on
one of two that are alike, in turns, so that what else the machine does hits both. In the same turns an empty gRPC
server waits as long as libvirt just took: what that takes longer is the transport's share (`bare_grpc`). A call that
starts a job is made when libvirt has ended the job before and our server has recorded its end, whichever side it was.
READY is counted from libvirt's own event, taken by libvirt-python in this process, to the event at each watcher, which
is a stream of its own over the server's unix socket. The jobs are on the disks of a few guests: guests are heavy, and
libvirt's jobs are per disk.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Run as a script, this folder is on the path; its parent makes `bench` and `live` importable as everywhere else.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import grpc
import libvirt
from bench.bare_grpc import BareServer
from live.daemon import LiveDaemon
from live.hypervisor import HypervisorUnavailable, PrivateLibvirtd, disk_xml, domain_xml

from virtblock.client import BlockJobFilter, BlockJobState, Client
from virtblock.client.flags import BlockRebaseFlags
from virtblock.server.drivers.libvirt.binding import ensure_event_loop
from virtblock.v1 import block_job_pb2, block_job_service_pb2, block_job_service_pb2_grpc

INFO_CALLS = 500
REBASE_CALLS = 40
GUEST_COUNT, DISKS_PER_GUEST = 10, 20
WATCHER_COUNT = 200
COPY = int(BlockRebaseFlags.COPY)
BLOCK_JOB_2, STATUS_READY = 16, 3
FINAL_STATES = (BlockJobState.COMPLETED, BlockJobState.CANCELED, BlockJobState.FAILED)
READY_WAIT_S, RECORD_WAIT_S = 120.0, 60.0
PAGE_SIZE = 1000  # all that one answer has
GOAL_ADDED_MS, GOAL_READY_MS = 1.5, 250.0


class Rig:
    """A private libvirtd, our daemon in front of it, and both clients."""

    def __init__(self, folder: Path) -> None:
        self.libvirtd = PrivateLibvirtd(folder)
        self.libvirtd.start()
        ensure_event_loop()
        self.connection = libvirt.open(self.libvirtd.uri)
        (folder / "daemon").mkdir()
        self.daemon = LiveDaemon(self.libvirtd.uri, folder / "daemon")
        self.client = Client(self.daemon.target)
        self.bare = BareServer(folder)

    def make_guest(self, name: str, disk_count: int, size: str = "1M") -> libvirt.virDomain:
        """A paused guest with this many disks vda, vdb…"""
        disks = [
            disk_xml(self.libvirtd.make_image(f"{name}-{number}.qcow2", size=size), f"vd{chr(ord('a') + number)}")
            for number in range(disk_count)
        ]
        xml = domain_xml(name, disks, self.libvirtd.domain_type)
        return self.connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)

    def close(self) -> None:
        """Ends everything."""
        self.bare.close()
        self.client.close()
        self.daemon.close()
        self.connection.close()
        self.libvirtd.close()


class Latencies:
    """What one kind of call took, in seconds; the first few rounds open what the others use and do not count."""

    def __init__(self, rig: Rig, skipped_count: int) -> None:
        self.direct_s: list[float] = []
        self.ours_s: list[float] = []
        self.transport_s: list[float] = []  # beyond the wait
        self._rig = rig
        self._skipped_count = skipped_count
        self._round_count = 0

    def add(self, direct_s: float, ours_s: float) -> None:
        """A round; the empty call follows here."""
        transport_s = measure(lambda: self._rig.bare.wait(direct_s)) - direct_s
        self._round_count += 1
        if self._round_count > self._skipped_count:
            self.direct_s.append(direct_s)
            self.ours_s.append(ours_s)
            self.transport_s.append(transport_s)


def measure(call: Callable[[], object]) -> float:
    """Seconds."""
    begun_s = time.perf_counter()
    call()
    return time.perf_counter() - begun_s


def percentiles(times_s: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(times_s, n=100, method="inclusive")
    return cuts[49] * 1000, cuts[98] * 1000


def print_latency(name: str, times: Latencies) -> None:
    """One row: libvirt, virtblock, what is added, and which share of it gRPC has."""
    direct, ours = percentiles(times.direct_s), percentiles(times.ours_s)
    added_ms = ours[0] - direct[0]
    transport_ms = percentiles(times.transport_s)[0]
    verdict = "" if added_ms <= GOAL_ADDED_MS else f"  (goal: {GOAL_ADDED_MS} ms)"
    print(
        f"{name:<18} libvirt {direct[0]:7.2f} {direct[1]:7.2f}   virtblock {ours[0]:7.2f} {ours[1]:7.2f}   "
        f"added at p50 {added_ms:6.2f} ms, of which an empty gRPC call {transport_ms:5.2f}{verdict}",
        flush=True,
    )


def measure_info(rig: Rig) -> None:
    """GetBlockJobInfo of a job in READY."""
    domain = rig.make_guest("info", 1)
    domain.blockRebase("vda", str(rig.libvirtd.images / "info-copy"), 0, COPY)
    while "ready='yes'" not in domain.XMLDesc():
        time.sleep(0.01)
    times = Latencies(rig, skipped_count=20)
    for _ in range(INFO_CALLS + 20):
        times.add(
            measure(lambda: domain.blockJobInfo("vda", 0)),
            measure(lambda: rig.client.get_block_job_info("info", "vda", 0)),
        )
    print_latency("GetBlockJobInfo", times)
    domain.blockJobAbort("vda", 0)


def wait_recorded(rig: Rig, domain: libvirt.virDomain, job_count: int) -> None:
    """Until our server has so many jobs of the domain, and the end of each."""
    of_domain = BlockJobFilter(domain_uuid=domain.UUIDString())
    deadline_s = time.monotonic() + RECORD_WAIT_S
    while True:
        jobs = rig.client.list_block_jobs(of_domain, include_ended=True, page_size=PAGE_SIZE).jobs
        if len(jobs) == job_count and all(job.state in FINAL_STATES for job in jobs):
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{len(jobs)} of {job_count} jobs of {domain.name()} are recorded")
        time.sleep(0.005)


def measure_rebase(rig: Rig) -> None:
    """BlockRebase with COPY, on two guests that are alike; what ends the jobs is not measured."""
    times = Latencies(rig, skipped_count=5)
    theirs, our_own = rig.make_guest("rebase-1", 1), rig.make_guest("rebase-2", 1)

    def start_s(number: int, domain: libvirt.virDomain, start: Callable[[str], object]) -> float:
        path = rig.libvirtd.images / f"{domain.name()}-copy"
        took_s = measure(lambda: start(str(path)))
        domain.blockJobAbort("vda", 0)
        wait_recorded(rig, domain, number)
        path.unlink()
        return took_s

    for number in range(1, REBASE_CALLS + 6):
        times.add(
            start_s(number, theirs, lambda path: theirs.blockRebase("vda", path, 0, COPY)),
            start_s(number, our_own, lambda path: rig.client.block_rebase("rebase-2", "vda", path, 0, COPY)),
        )
    print_latency("BlockRebase COPY", times)


class Announcements:
    """When libvirt told each job's READY: (domain, disk) and the time."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        self.times_s: dict[tuple[str, str], float] = {}
        self._connection = connection
        self._number = connection.domainEventRegisterAny(None, BLOCK_JOB_2, self._take, None)

    def _take(
        self, _connection: object, domain: libvirt.virDomain, disk: str, _type: int, status: int, _: object
    ) -> None:
        if status == STATUS_READY:
            self.times_s[domain.name(), disk] = time.perf_counter()

    def close(self) -> None:
        """Listens no more."""
        self._connection.domainEventDeregisterAny(self._number)


async def watch(target: str, job_count: int, begun: threading.Semaphore) -> list[dict[tuple[str, str], float]]:
    """When each watcher was told of each job's READY."""

    async def follow(stub: block_job_service_pb2_grpc.BlockJobServiceStub) -> dict[tuple[str, str], float]:
        times_s: dict[tuple[str, str], float] = {}
        stream: Any = stub.WatchBlockJobs(block_job_service_pb2.WatchBlockJobsRequest())
        is_first = True
        async for response in stream:
            if is_first:  # a bookmark: from here on it misses nothing
                begun.release()
                is_first = False
            job = response.event.job
            if job.state == block_job_pb2.BLOCK_JOB_STATE_READY:
                times_s.setdefault((job.domain.name, job.disk), time.perf_counter())
                if len(times_s) == job_count:
                    break
        stream.cancel()
        return times_s

    # 100 streams is what the server gives one connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(WATCHER_COUNT // 50)]
    stubs = [block_job_service_pb2_grpc.BlockJobServiceStub(channel) for channel in channels]
    try:
        return await asyncio.gather(*(follow(stubs[number % len(stubs)]) for number in range(WATCHER_COUNT)))
    finally:
        for channel in channels:
            await channel.close()


def measure_ready(rig: Rig) -> None:
    """200 jobs, 200 watchers."""
    domains = [rig.make_guest(f"many{number}", DISKS_PER_GUEST) for number in range(GUEST_COUNT)]
    jobs = [(domain, f"vd{chr(ord('a') + number)}") for domain in domains for number in range(DISKS_PER_GUEST)]
    announcements = Announcements(rig.connection)
    begun = threading.Semaphore(0)
    watched: list[dict[tuple[str, str], float]] = []
    watching = threading.Thread(target=lambda: watched.extend(asyncio.run(watch(rig.daemon.target, len(jobs), begun))))
    watching.start()
    for _ in range(WATCHER_COUNT):
        begun.acquire()
    for domain, disk in jobs:
        path = str(rig.libvirtd.images / f"{domain.name()}-{disk}-copy")
        rig.client.block_rebase(domain.name(), disk, path, 0, COPY)
    watching.join(READY_WAIT_S)
    announcements.close()
    late_ms = sorted(
        (times_s[job] - announcements.times_s[job]) * 1000 for times_s in watched for job in announcements.times_s
    )
    if len(late_ms) != len(jobs) * WATCHER_COUNT:
        print(f"{'READY':<18} only {len(late_ms)} of {len(jobs) * WATCHER_COUNT} announcements came")
        return
    p50, p99, last = late_ms[len(late_ms) // 2], late_ms[len(late_ms) * 99 // 100], late_ms[-1]
    verdict = "" if last <= GOAL_READY_MS else f"  (goal: {GOAL_READY_MS:.0f} ms)"
    print(
        f"{'READY at watchers':<18} {len(jobs)} jobs on {GUEST_COUNT} guests, {WATCHER_COUNT} watchers: "
        f"p50 {p50:.0f}, p99 {p99:.0f}, last {last:.0f} ms after libvirt's own event{verdict}"
    )


def main() -> None:
    """Prints the rows; says why where libvirtd cannot run."""
    folder = Path(tempfile.mkdtemp(prefix="virtblock-live-"))
    try:
        rig = Rig(folder)
    except HypervisorUnavailable as error:
        print(f"in front of libvirt: not measured: {error}")
        shutil.rmtree(folder)
        return
    print(f"\nIn front of libvirt ({rig.libvirtd.domain_type}), over a unix socket: p50 and p99 in milliseconds")
    try:
        measure_info(rig)
        measure_rebase(rig)
        measure_ready(rig)
    finally:
        rig.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
