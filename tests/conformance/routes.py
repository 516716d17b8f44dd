# SPDX-License-Identifier: Apache-2.0
"""The two ways in which every conformance case is run.

Owns: `Route`, one face for "the core called in Python" and "a daemon called over gRPC"; both answer with plain values
or raise `Refused`. A case that passes on one route and not on the other has found a bug in the floor between them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]

from virtblock.engine import PathPolicy
from virtblock.server.core.bitmap_api import BitmapApi
from virtblock.server.core.block_api import BlockApi
from virtblock.server.core.block_job_api import BlockJobApi
from virtblock.server.core.connect_api import ConnectApi
from virtblock.server.core.connections import Connections
from virtblock.server.core.domain_api import DomainApi
from virtblock.server.core.errors import VirError
from virtblock.server.core.events import DomainEvents, EventLog
from virtblock.server.core.jobs import JobFilter, JobRegistry
from virtblock.server.core.model import BlockBitmap, Caller, DomainSelector, ParameterType, TypedParameter
from virtblock.server.core.store import Store
from virtblock.server.drivers.embedded import EmbeddedDriver
from virtblock.v1 import (
    block_bitmap_pb2,
    block_job_service_pb2,
    block_job_service_pb2_grpc,
    common_pb2,
    connect_service_pb2,
    connect_service_pb2_grpc,
    domain_block_pb2,
    domain_service_pb2,
    domain_service_pb2_grpc,
    errors_pb2,
)

DAEMON_START_TIMEOUT_S = 120.0
JOB_TIMEOUT_S = 60.0


class Refused(Exception):
    """What a route raises when the server refused: libvirt's number, domain and message."""

    def __init__(self, number: int, domain: int, message: str, int1: int = 0) -> None:
        super().__init__(f"{number} (domain {domain}): {message}")
        self.number = number
        self.domain = domain
        self.message = message
        self.int1 = int1


@dataclass(frozen=True)
class JobInfo:
    """virDomainBlockJobInfo."""

    type: int
    bandwidth: int
    cur: int
    end: int


@dataclass(frozen=True)
class Bitmap:
    """A persistent bitmap; `state` as in "usable", `dirty_bytes` -1 when it is not known."""

    name: str
    granularity_bytes: int
    is_enabled: bool
    state: str
    dirty_bytes: int


class Route(ABC):
    """One way to the server. Domains are named by name; flags are libvirt's numbers."""

    @abstractmethod
    def define(self, xml: str) -> None: ...
    @abstractmethod
    def undefine(self, name: str) -> None: ...
    @abstractmethod
    def create(self, name: str) -> None: ...
    @abstractmethod
    def xml(self, name: str, flags: int = 0) -> str: ...
    @abstractmethod
    def rebase(self, name: str, disk: str | None, base: str | None, bandwidth: int = 0, flags: int = 0) -> str:
        """Returns the job's id."""

    @abstractmethod
    def copy(
        self,
        name: str,
        disk: str | None,
        xml: str | None,
        params: Sequence[tuple[str, str, Any]] = (),
        flags: int = 0,
    ) -> str:
        """`params` are (name, type as "uint", "ullong", "string" …, value). Returns the job's id."""

    @abstractmethod
    def pull(self, name: str, disk: str | None, bandwidth: int = 0, flags: int = 0) -> str:
        """Returns the job's id."""

    @abstractmethod
    def commit(
        self,
        name: str,
        disk: str | None,
        base: str | None = None,
        top: str | None = None,
        bandwidth: int = 0,
        flags: int = 0,
    ) -> str:
        """Returns the job's id."""

    @abstractmethod
    def abort(self, name: str, disk: str | None, flags: int = 0) -> None: ...
    @abstractmethod
    def info(self, name: str, disk: str, flags: int = 0) -> JobInfo | None: ...
    @abstractmethod
    def set_speed(self, name: str, disk: str, bandwidth: int, flags: int = 0) -> None: ...
    @abstractmethod
    def snapshot(self, name: str, xml: str, flags: int) -> None: ...
    @abstractmethod
    def detach(self, name: str, xml: str) -> None: ...
    @abstractmethod
    def resize(self, name: str, disk: str, size: int, flags: int = 0) -> None: ...
    @abstractmethod
    def bitmaps(self, name: str, disk: str) -> list[Bitmap]: ...
    @abstractmethod
    def add_bitmap(
        self, name: str, disk: str, bitmap: str, granularity_bytes: int = 0, *, disabled: bool = False
    ) -> Bitmap: ...
    @abstractmethod
    def remove_bitmap(self, name: str, disk: str, bitmap: str) -> None: ...
    @abstractmethod
    def clear_bitmap(self, name: str, disk: str, bitmap: str) -> None: ...
    @abstractmethod
    def job(self, job_id: str) -> tuple[str, Refused | None]:
        """The job's state in lower case ("running", "ready" …) and, when it failed, why."""

    @abstractmethod
    def newest_job(self) -> str | None:
        """Id of the job begun last, ended or not."""

    @abstractmethod
    def close(self) -> None: ...
    def wait(self, job_id: str, *states: str, timeout_s: float = JOB_TIMEOUT_S) -> tuple[str, Refused | None]:
        """Polls until the job is in one of the states; the job's end in another one fails the test."""
        deadline = time.monotonic() + timeout_s
        while True:
            state, error = self.job(job_id)
            if state in states:
                return state, error
            if state in ("completed", "canceled", "failed") or time.monotonic() > deadline:
                raise AssertionError(f"job is {state} ({error}), expected {states}")
            time.sleep(0.02)

    def wait_ready(self, job_id: str) -> None:
        self.wait(job_id, "ready")

    @staticmethod
    def wait_until(is_so: Callable[[], bool], timeout_s: float = JOB_TIMEOUT_S) -> None:
        """Polls until the condition holds."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, "it did not come to be"
            time.sleep(0.02)


_PARAMETER_TYPES = {
    "int": ParameterType.INT,
    "uint": ParameterType.UINT,
    "llong": ParameterType.LLONG,
    "ullong": ParameterType.ULLONG,
    "double": ParameterType.DOUBLE,
    "boolean": ParameterType.BOOLEAN,
    "string": ParameterType.STRING,
}


class CoreRoute(Route):
    """The server's core and embedded driver in this process."""

    def __init__(self, state_dir: Path, allowed: Sequence[Path] = ()) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self._store = Store(state_dir / "virtblock.db")
        events = EventLog(self._store)
        jobs = JobRegistry(self._store, events)
        self._driver = EmbeddedDriver(
            self._store, jobs, DomainEvents(events), PathPolicy([str(folder) for folder in allowed])
        )
        self._driver.open()
        connections = Connections([self._driver])
        self._connect_api = ConnectApi(connections)
        self._domain_api = DomainApi(connections)
        self._block_api = BlockApi(connections, jobs)
        self._job_api = BlockJobApi(connections, jobs, events)
        self._bitmap_api = BitmapApi(connections)
        self._caller = Caller()

    def close(self) -> None:
        self._driver.close()
        self._store.close()

    def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(self._caller, *arguments)
        except VirError as error:
            raise Refused(error.number, error.domain, error.message, error.int1) from error

    def define(self, xml: str) -> None:
        self._do(self._connect_api.domain_define_xml, "", xml, 0)

    def undefine(self, name: str) -> None:
        self._do(self._domain_api.undefine, DomainSelector(name=name), 0)

    def create(self, name: str) -> None:
        self._do(self._domain_api.create, DomainSelector(name=name), 0)

    def xml(self, name: str, flags: int = 0) -> str:
        return str(self._do(self._domain_api.get_xml_desc, DomainSelector(name=name), flags))

    def rebase(self, name: str, disk: str | None, base: str | None, bandwidth: int = 0, flags: int = 0) -> str:
        job = self._do(self._block_api.block_rebase, DomainSelector(name=name), disk, base, bandwidth, flags)
        return str(job.job_id)

    def copy(
        self, name: str, disk: str | None, xml: str | None, params: Sequence[tuple[str, str, Any]] = (), flags: int = 0
    ) -> str:
        parameters = [TypedParameter(field, _PARAMETER_TYPES[kind], value) for field, kind, value in params]
        job = self._do(self._block_api.block_copy, DomainSelector(name=name), disk, xml, parameters, flags)
        return str(job.job_id)

    def pull(self, name: str, disk: str | None, bandwidth: int = 0, flags: int = 0) -> str:
        return str(self._do(self._block_api.block_pull, DomainSelector(name=name), disk, bandwidth, flags).job_id)

    def commit(
        self,
        name: str,
        disk: str | None,
        base: str | None = None,
        top: str | None = None,
        bandwidth: int = 0,
        flags: int = 0,
    ) -> str:
        selector = DomainSelector(name=name)
        return str(self._do(self._block_api.block_commit, selector, disk, base, top, bandwidth, flags).job_id)

    def abort(self, name: str, disk: str | None, flags: int = 0) -> None:
        self._do(self._block_api.block_job_abort, DomainSelector(name=name), disk, flags)

    def info(self, name: str, disk: str, flags: int = 0) -> JobInfo | None:
        info = self._do(self._block_api.get_block_job_info, DomainSelector(name=name), disk, flags)
        return None if info is None else JobInfo(int(info.type), info.bandwidth, info.cur, info.end)

    def set_speed(self, name: str, disk: str, bandwidth: int, flags: int = 0) -> None:
        self._do(self._block_api.block_job_set_speed, DomainSelector(name=name), disk, bandwidth, flags)

    def snapshot(self, name: str, xml: str, flags: int) -> None:
        self._do(self._domain_api.snapshot_create_xml, DomainSelector(name=name), xml, flags)

    def detach(self, name: str, xml: str) -> None:
        self._do(self._domain_api.detach_device_flags, DomainSelector(name=name), xml, 0)

    def resize(self, name: str, disk: str, size: int, flags: int = 0) -> None:
        self._do(self._domain_api.block_resize, DomainSelector(name=name), disk, size, flags)

    def bitmaps(self, name: str, disk: str) -> list[Bitmap]:
        return [_bitmap(found) for found in self._do(self._bitmap_api.list, DomainSelector(name=name), disk)]

    def add_bitmap(
        self, name: str, disk: str, bitmap: str, granularity_bytes: int = 0, *, disabled: bool = False
    ) -> Bitmap:
        add = functools.partial(self._bitmap_api.add, disabled=disabled)
        return _bitmap(self._do(add, DomainSelector(name=name), disk, bitmap, granularity_bytes))

    def remove_bitmap(self, name: str, disk: str, bitmap: str) -> None:
        self._do(self._bitmap_api.remove, DomainSelector(name=name), disk, bitmap)

    def clear_bitmap(self, name: str, disk: str, bitmap: str) -> None:
        self._do(self._bitmap_api.clear, DomainSelector(name=name), disk, bitmap)

    def job(self, job_id: str) -> tuple[str, Refused | None]:
        job = self._do(self._job_api.get, job_id)
        error = job.error
        return job.state.value, error and Refused(error.number, error.domain, error.message, error.int1)

    def newest_job(self) -> str | None:
        jobs, _ = self._do(
            lambda caller: self._job_api.list(caller, JobFilter(), include_ended=True, page_size=1, page_token="")
        )
        return jobs[0].job_id if jobs else None


class GrpcRoute(Route):
    """A daemon in a process of its own, over its unix socket."""

    def __init__(self, folder: Path, allowed: Sequence[Path] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # A unix socket's path holds at most 107 bytes, and tmp_path may be longer.
        self._socket = Path("/tmp") / f"vb-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}" / "sock"
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)
        options = ["--listen", f"unix:{self._socket}", "--state-dir", str(folder / "state")]
        options += [part for path in allowed for part in ("--allow-path", str(path))]
        self._log = (folder / "daemon.log").open("wb")
        self._daemon = subprocess.Popen(
            [str(Path(sys.executable).with_name("virtblockd")), *options],
            stderr=self._log,
            stdin=subprocess.DEVNULL,
        )
        self._channel = grpc.insecure_channel(f"unix:{self._socket}")
        self._await_daemon(folder)
        self._connect = connect_service_pb2_grpc.ConnectServiceStub(self._channel)
        self._domain = domain_service_pb2_grpc.DomainServiceStub(self._channel)
        self._jobs = block_job_service_pb2_grpc.BlockJobServiceStub(self._channel)

    def _await_daemon(self, folder: Path) -> None:
        try:
            grpc.channel_ready_future(self._channel).result(timeout=DAEMON_START_TIMEOUT_S)
        except grpc.FutureTimeoutError:
            self._daemon.kill()
            raise AssertionError(f"the daemon did not start: {(folder / 'daemon.log').read_text()}") from None

    def close(self) -> None:
        self._channel.close()
        self._daemon.terminate()
        code = self._daemon.wait(timeout=DAEMON_START_TIMEOUT_S)
        self._log.close()
        shutil.rmtree(self._socket.parent, ignore_errors=True)
        assert code == 0, f"the daemon ended with {code}"

    def clear(self) -> None:
        """Ends every job and forgets every domain, so that the daemon serves the next case as a new one would."""
        self.wait_until(self._has_ended_all_jobs)
        for domain in self._do(self._connect.ListAllDomains, connect_service_pb2.ListAllDomainsRequest()).domains:
            self.undefine(domain.name)

    def _has_ended_all_jobs(self) -> bool:
        """Aborts what runs; what is being ended already cannot be aborted, and is asked for again."""
        jobs = self._do(self._jobs.ListBlockJobs, block_job_service_pb2.ListBlockJobsRequest(page_size=1000)).jobs
        for job in jobs:
            with contextlib.suppress(Refused):
                self.abort(job.domain.name, job.disk)
        return not jobs

    def _do(self, call: Any, request: Any) -> Any:
        try:
            return call(request, timeout=JOB_TIMEOUT_S)
        except grpc.RpcError as error:
            raise _refused(error) from error

    def define(self, xml: str) -> None:
        self._do(self._connect.DomainDefineXML, connect_service_pb2.DomainDefineXMLRequest(xml=xml))

    def undefine(self, name: str) -> None:
        self._do(self._domain.Undefine, domain_service_pb2.UndefineRequest(domain=_selector(name)))

    def create(self, name: str) -> None:
        self._do(self._domain.Create, domain_service_pb2.CreateRequest(domain=_selector(name)))

    def xml(self, name: str, flags: int = 0) -> str:
        request = domain_service_pb2.GetXMLDescRequest(domain=_selector(name), flags=flags)
        return str(self._do(self._domain.GetXMLDesc, request).xml)

    def rebase(self, name: str, disk: str | None, base: str | None, bandwidth: int = 0, flags: int = 0) -> str:
        request = domain_block_pb2.BlockRebaseRequest(
            domain=_selector(name), disk=disk, base=base, bandwidth=bandwidth, flags=flags
        )
        return str(self._do(self._domain.BlockRebase, request).job.job_id)

    def copy(
        self, name: str, disk: str | None, xml: str | None, params: Sequence[tuple[str, str, Any]] = (), flags: int = 0
    ) -> str:
        parameters = [
            common_pb2.TypedParameter(field=field, **{f"{kind}_value": value}) for field, kind, value in params
        ]
        request = domain_block_pb2.BlockCopyRequest(
            domain=_selector(name), disk=disk, dest_xml=xml, params=parameters, flags=flags
        )
        return str(self._do(self._domain.BlockCopy, request).job.job_id)

    def pull(self, name: str, disk: str | None, bandwidth: int = 0, flags: int = 0) -> str:
        request = domain_block_pb2.BlockPullRequest(domain=_selector(name), disk=disk, bandwidth=bandwidth, flags=flags)
        return str(self._do(self._domain.BlockPull, request).job.job_id)

    def commit(
        self,
        name: str,
        disk: str | None,
        base: str | None = None,
        top: str | None = None,
        bandwidth: int = 0,
        flags: int = 0,
    ) -> str:
        request = domain_block_pb2.BlockCommitRequest(
            domain=_selector(name), disk=disk, base=base, top=top, bandwidth=bandwidth, flags=flags
        )
        return str(self._do(self._domain.BlockCommit, request).job.job_id)

    def abort(self, name: str, disk: str | None, flags: int = 0) -> None:
        request = domain_block_pb2.BlockJobAbortRequest(domain=_selector(name), disk=disk, flags=flags)
        self._do(self._domain.BlockJobAbort, request)

    def info(self, name: str, disk: str, flags: int = 0) -> JobInfo | None:
        request = domain_block_pb2.GetBlockJobInfoRequest(domain=_selector(name), disk=disk, flags=flags)
        answer = self._do(self._domain.GetBlockJobInfo, request)
        if not answer.found:
            return None
        return JobInfo(answer.info.type, answer.info.bandwidth, answer.info.cur, answer.info.end)

    def set_speed(self, name: str, disk: str, bandwidth: int, flags: int = 0) -> None:
        request = domain_block_pb2.BlockJobSetSpeedRequest(
            domain=_selector(name), disk=disk, bandwidth=bandwidth, flags=flags
        )
        self._do(self._domain.BlockJobSetSpeed, request)

    def snapshot(self, name: str, xml: str, flags: int) -> None:
        request = domain_service_pb2.SnapshotCreateXMLRequest(domain=_selector(name), xml=xml, flags=flags)
        self._do(self._domain.SnapshotCreateXML, request)

    def detach(self, name: str, xml: str) -> None:
        request = domain_service_pb2.DetachDeviceFlagsRequest(domain=_selector(name), xml=xml)
        self._do(self._domain.DetachDeviceFlags, request)

    def resize(self, name: str, disk: str, size: int, flags: int = 0) -> None:
        request = domain_block_pb2.BlockResizeRequest(domain=_selector(name), disk=disk, size=size, flags=flags)
        self._do(self._domain.BlockResize, request)

    def bitmaps(self, name: str, disk: str) -> list[Bitmap]:
        request = block_bitmap_pb2.ListBlockBitmapsRequest(domain=_selector(name), disk=disk)
        return [_sent_bitmap(message) for message in self._do(self._jobs.ListBlockBitmaps, request).bitmaps]

    def add_bitmap(
        self, name: str, disk: str, bitmap: str, granularity_bytes: int = 0, *, disabled: bool = False
    ) -> Bitmap:
        request = block_bitmap_pb2.AddBlockBitmapRequest(
            domain=_selector(name), disk=disk, name=bitmap, granularity_bytes=granularity_bytes, disabled=disabled
        )
        return _sent_bitmap(self._do(self._jobs.AddBlockBitmap, request).bitmap)

    def remove_bitmap(self, name: str, disk: str, bitmap: str) -> None:
        request = block_bitmap_pb2.RemoveBlockBitmapRequest(domain=_selector(name), disk=disk, name=bitmap)
        self._do(self._jobs.RemoveBlockBitmap, request)

    def clear_bitmap(self, name: str, disk: str, bitmap: str) -> None:
        request = block_bitmap_pb2.ClearBlockBitmapRequest(domain=_selector(name), disk=disk, name=bitmap)
        self._do(self._jobs.ClearBlockBitmap, request)

    def job(self, job_id: str) -> tuple[str, Refused | None]:
        job = self._do(self._jobs.GetBlockJob, block_job_service_pb2.GetBlockJobRequest(job_id=job_id)).job
        state = type(job).DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[job.state].name
        error = job.error if job.HasField("error") else None
        refused = Refused(error.number, error.domain, error.message, error.int1) if error else None
        return state.removeprefix("BLOCK_JOB_STATE_").lower(), refused

    def newest_job(self) -> str | None:
        request = block_job_service_pb2.ListBlockJobsRequest(page_size=1, include_ended=True)
        jobs = self._do(self._jobs.ListBlockJobs, request).jobs
        return str(jobs[0].job_id) if jobs else None


def _bitmap(found: BlockBitmap) -> Bitmap:
    dirty_bytes = -1 if found.dirty_bytes is None else found.dirty_bytes
    return Bitmap(found.name, found.granularity_bytes, found.is_enabled, found.state, dirty_bytes)


def _sent_bitmap(message: block_bitmap_pb2.BlockBitmap) -> Bitmap:
    state = block_bitmap_pb2.BlockBitmapState.Name(message.state).removeprefix("BLOCK_BITMAP_STATE_")
    plain_state = state.lower().replace("_", "-")
    return Bitmap(message.name, message.granularity_bytes, message.enabled, plain_state, message.dirty_bytes)


def _selector(name: str) -> common_pb2.DomainSelector:
    return common_pb2.DomainSelector(name=name)


def _refused(error: Any) -> Refused:
    """The VirError in the status details; its absence is itself a failure of the contract."""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            vir_error = errors_pb2.VirError()
            if detail.Unpack(vir_error):
                return Refused(vir_error.number, vir_error.domain, vir_error.message, vir_error.int1)
    raise AssertionError(f"no VirError in the answer: {error.code()} {error.details()}")
