# SPDX-License-Identifier: Apache-2.0
"""What the core's tests stand on: sample records, a whole core over one file, and a driver that answers from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from virtblock.server.core.block_api import BlockApi
from virtblock.server.core.block_job_api import BlockJobApi
from virtblock.server.core.connect_api import ConnectApi
from virtblock.server.core.connections import Connections
from virtblock.server.core.domain_api import DomainApi
from virtblock.server.core.driver import JobOrigin
from virtblock.server.core.errors import ErrorNumber, VirError, report
from virtblock.server.core.events import EventLog
from virtblock.server.core.jobs import JobRegistry, Origin
from virtblock.server.core.model import (
    BlockJob,
    BlockJobInfo,
    BlockJobType,
    Caller,
    Domain,
    DomainSelector,
    JobProgress,
    JobState,
    TypedParameter,
)
from virtblock.server.core.store import Store

URI = "test:///default"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
DOMAIN = Domain(URI, "test", UUID, id=1, is_active=True, state=1)
SELECTOR = DomainSelector(name="test")
CALLER = Caller()
READ_ONLY = Caller(read_only=True)
NO_ORIGIN = Origin("unix")


def sample_job(disk: str = "vda", **changes: Any) -> BlockJob:
    """A copy job as a driver hands it to `begin`."""
    job = BlockJob(
        job_id="",
        connection_uri=URI,
        domain_uuid=UUID,
        domain_name="test",
        disk=disk,
        type=BlockJobType.COPY,
        state=JobState.NEW,
        source_path=f"/images/{disk}.qcow2",
        destination_path=f"/images/{disk}.new",
        destination_format="qcow2",
        flags=8,
        bandwidth_bytes_per_s=0,
    )
    return job.with_changes(**changes)


@dataclass
class Core:
    """Store, log and registry over one file."""

    store: Store
    events: EventLog
    jobs: JobRegistry

    @staticmethod
    def open(path: Path, **log: Any) -> Core:
        store = Store(path)
        events = EventLog(store, **log)
        return Core(store, events, JobRegistry(store, events))

    def begin(self, disk: str = "vda", **changes: Any) -> BlockJob:
        return self.jobs.begin(sample_job(disk, **changes), NO_ORIGIN)


class MemoryDriver:
    """One domain, `test`, and the calls that the tests look through. What it lacks, it lacks on purpose."""

    flag_masks: ClassVar[dict[str, int]] = {"domain_block_rebase": 127, "domain_block_commit": 31}

    def __init__(self, jobs: JobRegistry, uri: str = URI) -> None:
        self.uri = uri
        self.jobs = jobs
        self.calls: list[tuple[object, ...]] = []

    def engine_features(self) -> Sequence[str]:
        return ["format:qcow2"]

    def get_version(self) -> int:
        return 9_000_000

    def domain_lookup_by_name(self, name: str, *, is_brief: bool = False) -> Domain:
        return self._found(name == "test")

    def domain_lookup_by_uuid(self, uuid: str, *, is_brief: bool = False) -> Domain:
        self.calls.append(("by_uuid", uuid))
        return self._found(uuid == UUID)

    def domain_lookup_by_id(self, domain_id: int, *, is_brief: bool = False) -> Domain:
        return self._found(domain_id == 1)

    def domain_get_xml_desc(self, domain: Domain, flags: int) -> str:
        return f"<domain flags='{flags}'/>"

    def domain_create_xml(self, xml: str, flags: int) -> Domain:
        return DOMAIN

    def domain_define_xml(self, xml: str, flags: int) -> Domain:
        return DOMAIN

    def domain_block_rebase(
        self, domain: Domain, disk: str, base: str | None, bandwidth: int, flags: int, origin: JobOrigin
    ) -> str:
        self.calls.append(("rebase", disk, base, bandwidth, flags))
        job = self.jobs.begin(sample_job(disk, progress=JobProgress(0, 64 << 20)), origin)
        return self.jobs.transition(job.job_id, JobState.RUNNING).job_id

    def domain_block_copy(
        self,
        domain: Domain,
        disk: str,
        destination_xml: str,
        parameters: Sequence[TypedParameter],
        flags: int,
        origin: JobOrigin,
    ) -> str:
        return self.jobs.begin(sample_job(disk), origin).job_id

    def domain_block_job_abort(self, domain: Domain, disk: str, flags: int) -> None:
        job = self.jobs.find_active(self.uri, domain.uuid, disk)
        assert job is not None
        self.jobs.transition(job.job_id, JobState.CANCELED)

    def domain_get_block_job_info(self, domain: Domain, disk: str, flags: int) -> BlockJobInfo | None:
        return None

    def block_job_pause(self, job_id: str) -> None:
        self.calls.append(("pause", job_id))

    def block_job_resume(self, job_id: str) -> None:
        self.calls.append(("resume", job_id))

    def block_job_map(self, job_id: str, cell_count: int) -> bytes:
        if self.jobs.get(job_id).state.is_final:
            raise report(ErrorNumber.OPERATION_INVALID, "the job has ended")
        return bytes([3]) + bytes([1]) * (cell_count - 1)

    @staticmethod
    def _found(is_found: bool) -> Domain:
        if not is_found:
            raise VirError(ErrorNumber.NO_DOMAIN, "Domain not found", domain=12, str1="Domain not found")
        return DOMAIN


class BareDriver(MemoryDriver):
    """Look-ups and nothing else, as libvirt's own test driver has no block jobs."""

    flag_masks: ClassVar[dict[str, int]] = {}
    domain_block_rebase = None  # type: ignore[assignment]
    domain_block_copy = None  # type: ignore[assignment]
    domain_block_job_abort = None  # type: ignore[assignment]
    domain_get_block_job_info = None  # type: ignore[assignment]


@dataclass
class Apis:
    """Every API class over one driver."""

    core: Core
    driver: MemoryDriver
    connect: ConnectApi
    domain: DomainApi
    block: BlockApi
    jobs: BlockJobApi

    @staticmethod
    def over(core: Core, kind: type[MemoryDriver] = MemoryDriver) -> Apis:
        driver = kind(core.jobs)
        connections = Connections([driver])
        return Apis(
            core,
            driver,
            ConnectApi(connections),
            DomainApi(connections),
            BlockApi(connections, core.jobs),
            BlockJobApi(connections, core.jobs, core.events),
        )
