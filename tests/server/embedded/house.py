# SPDX-License-Identifier: Apache-2.0
"""An embedded driver over a real store, and short ways to define, copy and look."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lxml import etree

from virtblock.engine import PathPolicy
from virtblock.server.core.events import DomainEvents, EventLog
from virtblock.server.core.jobs import JobRegistry, Origin
from virtblock.server.core.model import BlockJobEvent, Domain, JobState
from virtblock.server.core.store import Store
from virtblock.server.drivers.embedded import EmbeddedDriver
from virtblock.server.drivers.offline.domain_xml import element_of
from virtblock.server.drivers.offline.journals import Journals

WAIT_S = 60.0
REBASE_BANDWIDTH_BYTES, COMMIT_BANDWIDTH_BYTES = 64, 16
UUID = "11111111-1111-1111-1111-111111111111"


def disk_xml(
    path: Path | str | None,
    image_format: str | None = "qcow2",
    *,
    target: str = "vda",
    more: str = "",
    attributes: str = "type='file' device='disk'",
) -> str:
    """A `<disk>` as people write it."""
    driver = f"<driver name='qemu' type='{image_format}'/>" if image_format else ""
    source = f"<source {'dev' if 'block' in attributes else 'file'}='{path}'/>" if path is not None else ""
    return f"<disk {attributes}>{driver}{source}<target dev='{target}'/>{more}</disk>"


def domain_xml(*disks: str, name: str = "vm", uuid: str | None = UUID) -> str:
    """An ordinary domain with these disks."""
    identity = f"<uuid>{uuid}</uuid>" if uuid else ""
    return f"""<domain type='qemu'>
  <name>{name}</name>{identity}
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    {"".join(disks)}
    <memballoon model='virtio'/>
  </devices>
</domain>
"""


class House:
    """One driver over one store; `restart` is a new process, `crash` one that did not say goodbye."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._path = folder / "state.db"
        self._options = options
        self.folder = folder
        self.start()

    def start(self) -> None:
        self.store = Store(self._path)
        self.events = EventLog(self.store)
        self.jobs: Any = JobRegistry(self.store, self.events)
        options: dict[str, Any] = {"policy": PathPolicy(), "journals": Journals(self.folder / "jobs")} | self._options
        self.driver = EmbeddedDriver(self.store, self.jobs, DomainEvents(self.events), **options)
        self.driver.open()

    def stop(self) -> None:
        self.driver.close()
        self.store.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def define(self, *disks: str, **identity: Any) -> Domain:
        return self.driver.domain_define_xml(domain_xml(*disks, **identity), 0)

    def rebase(
        self,
        domain: Domain,
        base: Path | str,
        flags: int = 8,
        *,
        disk: str = "vda",
        bandwidth: int = 0,
        is_held: bool = False,
    ) -> str:
        """`is_held`: at a byte per second, so that it neither ends nor becomes READY before its speed is changed."""
        if is_held:
            flags, bandwidth = flags | REBASE_BANDWIDTH_BYTES, 1
        return self.driver.domain_block_rebase(domain, disk, str(base), bandwidth, flags, Origin("unix"))

    def pull(
        self,
        domain: Domain,
        base: Path | str | None = None,
        flags: int = 0,
        *,
        bandwidth: int = 0,
        is_held: bool = False,
    ) -> str:
        """BlockRebase without COPY."""
        if is_held:
            flags, bandwidth = flags | REBASE_BANDWIDTH_BYTES, 1
        name = None if base is None else str(base)
        return self.driver.domain_block_rebase(domain, "vda", name, bandwidth, flags, Origin("unix"))

    def commit(
        self,
        domain: Domain,
        base: Path | str | None = None,
        top: Path | str | None = None,
        flags: int = 0,
        *,
        bandwidth: int = 0,
        is_held: bool = False,
    ) -> str:
        if is_held:
            flags, bandwidth = flags | COMMIT_BANDWIDTH_BYTES, 1
        base_name, top_name = (None if path is None else str(path) for path in (base, top))
        return self.driver.domain_block_commit(domain, "vda", base_name, top_name, bandwidth, flags, Origin("unix"))

    def copy(self, domain: Domain, xml: str, flags: int = 0, *parameters: Any, disk: str = "vda") -> str:
        return self.driver.domain_block_copy(domain, disk, xml, parameters, flags, Origin("unix"))

    def wait(self, job_id: str, *states: JobState) -> Any:
        """Waits for one of the states; an end that was not asked for fails at once."""
        deadline = time.monotonic() + WAIT_S
        while True:
            job = self.jobs.get(job_id)
            if job.state in states:
                return job
            assert not job.state.is_final, f"{job.state}: {job.reason}"
            assert time.monotonic() < deadline, f"still {job.state}"
            time.sleep(0.01)

    def hold(self, job_id: str) -> None:
        """Pauses a job that has moved something, so that it cannot come to its end."""
        deadline = time.monotonic() + WAIT_S
        while not self.jobs.get(job_id).progress.copied_bytes:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.driver.block_job_pause(job_id)

    def wait_ready(self, job_id: str) -> Any:
        return self.wait(job_id, JobState.READY)

    def copied(self, domain: Domain, base: Path | str, flags: int = 8, **more: Any) -> str:
        """A job that is READY."""
        job_id = self.rebase(domain, base, flags, **more)
        self.wait_ready(job_id)
        return job_id

    def info(self, domain: Domain, disk: str = "vda", flags: int = 0) -> Any:
        """GetBlockJobInfo; None without a job."""
        return self.driver.domain_get_block_job_info(domain, disk, flags)

    def xml(self, domain: Domain, flags: int = 0) -> str:
        return self.driver.domain_get_xml_desc(domain, flags)

    def disk(self, domain: Domain, target: str = "vda", flags: int = 0) -> Any:
        """The `<disk>` with this target, as GetXMLDesc shows it."""
        root = etree.fromstring(self.xml(domain, flags))
        return element_of(root, target)

    def domain_events(self) -> list[Any]:
        """libvirt's events so far."""
        return [entry.domain_event for entry in self.events.read(0) if entry.domain_event is not None]

    def block_events(self) -> list[tuple[int, str, int, int]]:
        """(event id, disk, type, status) of libvirt's block-job events so far."""
        return [
            (int(event.event_id), event.disk, int(event.type), int(event.status))
            for event in self.domain_events()
            if isinstance(event, BlockJobEvent)
        ]
