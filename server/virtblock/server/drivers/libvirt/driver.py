# SPDX-License-Identifier: Apache-2.0
"""The driver behind libvirt's URIs (`qemu:///system`, `qemu+unix://…`, `test:///default`).

Owns: the driver's face, one thin method per libvirt call. Invariants: arguments go to libvirt as they came, answers
and errors come back as libvirt gave them; nothing is checked here that libvirt checks. Block jobs on domains that are
shut off, which libvirt refuses, go to `shut_off`; so do the guards of the engine's jobs. What only C callers can send
(typed parameters of another type, or twice) libvirt-python cannot pass on: that one check is made in libvirt's words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from virtblock.engine import PathPolicy
from virtblock.server.core import checks
from virtblock.server.core.driver import JobOrigin
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, no_support, report
from virtblock.server.core.events import EventLog
from virtblock.server.core.flags import (
    BlockCommitFlags,
    BlockCopyFlags,
    BlockJobAbortFlags,
    BlockPullFlags,
    BlockRebaseFlags,
    BlockResizeFlags,
    SnapshotCreateFlags,
)
from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.model import (
    BlockBitmap,
    BlockInfo,
    BlockJobInfo,
    BlockJobType,
    Disk,
    Domain,
    TypedParameter,
)
from virtblock.server.core.store import Store
from virtblock.server.drivers.libvirt.allowing import AllowedDestinations
from virtblock.server.drivers.libvirt.binding import Binding
from virtblock.server.drivers.libvirt.disk_xml import destination_of, disks_of, has_destination_options
from virtblock.server.drivers.libvirt.following import Follower
from virtblock.server.drivers.libvirt.shut_off import FEATURES, ShutOffDomains, is_local
from virtblock.server.drivers.libvirt.starting import JobRequest
from virtblock.server.drivers.offline.journals import Journals
from virtblock.server.drivers.offline.merge_calls import MergeRequest

T = TypeVar("T")

_START_AUTODESTROY = 2  # VIR_DOMAIN_START_AUTODESTROY
_RESIZE_BYTES_MAX = (1 << 64) - 512  # libvirt rounds up to whole sectors
ENGINE_METHODS = frozenset(
    {
        "block_job_pause",
        "block_job_resume",
        "block_job_map",
        "list_block_bitmaps",
        "add_block_bitmap",
        "remove_block_bitmap",
        "clear_block_bitmap",
    }
)


class LibvirtDriver:
    """Domains that libvirt runs. Every method may be called from many threads."""

    # libvirt has its own masks and refuses unknown bits itself; what is told is what its headers know.
    flag_masks: ClassVar[dict[str, int]] = {
        "domain_block_rebase": int(sum(BlockRebaseFlags)),
        "domain_block_copy": int(sum(BlockCopyFlags)),
        "domain_block_job_abort": int(sum(BlockJobAbortFlags)),
        "domain_block_pull": int(sum(BlockPullFlags)),
        "domain_block_commit": int(sum(BlockCommitFlags)),
    }

    def __init__(
        self,
        uri: str,
        store: Store,
        jobs: JobRegistry,
        events: EventLog,
        policy: PathPolicy | None = None,
        *,
        strict_libvirt: bool = False,
        journals: Journals | None = None,
    ) -> None:
        """`policy`: which images of shut-off domains may be opened, and where copies of any may go; None: all.

        `strict_libvirt`: no job on a shut-off domain (55). `journals`: where jobs on those note what is durable;
        without, a job that is cut off begins anew.
        """
        self.uri = uri
        self._binding = Binding(uri, self._take_up)
        policy = policy or PathPolicy([])
        self._shut_off = ShutOffDomains(
            self._binding, uri, store, jobs, policy, strict_libvirt=strict_libvirt, journals=journals
        )
        self._follower = Follower(self._binding, uri, store, jobs, events, self._shut_off.cancel_if_gone)
        self._allowed = AllowedDestinations(policy, is_local=is_local(uri))
        # What only the engine's jobs have.
        self.refusals = frozenset() if self._shut_off.is_enabled else ENGINE_METHODS

    def open(self) -> None:
        """Opens the connection and takes up every job that libvirt still has; goes on trying when that fails."""
        self._follower.start()
        self._shut_off.open()
        self._binding.start()

    def close(self) -> None:
        """Parks the engine's jobs and closes the connection. The others go on in the hypervisor."""
        self._shut_off.close()
        self._follower.stop()
        self._binding.stop()

    def _take_up(self) -> None:
        self._follower.take_up()
        self._shut_off.take_up()

    def engine_features(self) -> Sequence[str]:
        """What the wire can tell of a connection."""
        return ("event:0", "event:8", "event:16", "live-copy", *(FEATURES if self._shut_off.is_enabled else ()))

    def get_version(self) -> int:
        """virConnectGetVersion."""
        return int(self._ask(lambda connection: connection.getVersion()))

    def get_lib_version(self) -> int:
        """virConnectGetLibVersion."""
        return int(self._ask(lambda connection: connection.getLibVersion()))

    def get_type(self) -> str:
        """virConnectGetType."""
        return str(self._ask(lambda connection: connection.getType()))

    def get_hostname(self) -> str:
        """virConnectGetHostname."""
        return str(self._ask(lambda connection: connection.getHostname()))

    def get_capabilities(self) -> str:
        """virConnectGetCapabilities."""
        return str(self._ask(lambda connection: connection.getCapabilities()))

    def is_alive(self) -> bool:
        """virConnectIsAlive, of the server's own connection."""
        return self._binding.is_open

    def watch_alive(self, told: Callable[[bool], None]) -> None:
        """`told(is_alive)` when the connection was opened or lost."""
        self._binding.watch(told)

    def is_secure(self) -> bool:
        """virConnectIsSecure."""
        return bool(self._ask(lambda connection: connection.isSecure()))

    def is_encrypted(self) -> bool:
        """virConnectIsEncrypted."""
        return bool(self._ask(lambda connection: connection.isEncrypted()))

    def domain_lookup_by_name(self, name: str, *, is_brief: bool = False) -> Domain:
        """virDomainLookupByName."""
        return self._ask(lambda connection: self._found(connection.lookupByName(name), is_brief=is_brief))

    def domain_lookup_by_uuid(self, uuid: str, *, is_brief: bool = False) -> Domain:
        """virDomainLookupByUUIDString."""
        return self._ask(lambda connection: self._found(connection.lookupByUUIDString(uuid), is_brief=is_brief))

    def domain_lookup_by_id(self, domain_id: int, *, is_brief: bool = False) -> Domain:
        """virDomainLookupByID."""
        return self._ask(lambda connection: self._found(connection.lookupByID(domain_id), is_brief=is_brief))

    def list_all_domains(self, flags: int) -> list[Domain]:
        """virConnectListAllDomains."""
        return self._ask(lambda connection: [self._record(found) for found in connection.listAllDomains(flags)])

    def domain_define_xml(self, xml: str, flags: int) -> Domain:
        """virDomainDefineXMLFlags."""
        with self._shut_off.guarding_definition(xml):
            return self._ask(lambda connection: self._record(connection.defineXMLFlags(xml, flags)))

    def domain_create_xml(self, xml: str, flags: int) -> Domain:
        """virDomainCreateXML. OPERATION_UNSUPPORTED (84) with AUTODESTROY."""
        _refuse_autodestroy(flags)
        with self._shut_off.guarding_definition(xml, is_started=True):
            return self._ask(lambda connection: self._record(connection.createXML(xml, flags)))

    def domain_get_xml_desc(self, domain: Domain, flags: int) -> str:
        """virDomainGetXMLDesc; of a shut-off domain with `<mirror>` where the engine copies."""
        xml = str(self._look(domain, lambda found: found.XMLDesc(flags)))
        return self._shut_off.shown(domain, xml, flags)

    def domain_get_state(self, domain: Domain, flags: int) -> tuple[int, int]:
        """virDomainGetState."""
        state, reason = self._look(domain, lambda found: found.state(flags))
        return state, reason

    def domain_get_info(self, domain: Domain) -> tuple[int, int, int, int, int]:
        """virDomainGetInfo."""
        state, maximum_kib, memory_kib, vcpus, cpu_time_ns = self._look(domain, lambda found: found.info())
        return state, maximum_kib, memory_kib, vcpus, cpu_time_ns

    def domain_create(self, domain: Domain, flags: int) -> None:
        """virDomainCreateWithFlags. OPERATION_UNSUPPORTED (84) with AUTODESTROY."""
        _refuse_autodestroy(flags)
        with self._shut_off.guarding_start(domain):
            self._on(domain, lambda found: found.createWithFlags(flags))

    def domain_destroy(self, domain: Domain, flags: int) -> None:
        """virDomainDestroyFlags."""
        self._on(domain, lambda found: found.destroyFlags(flags))

    def domain_shutdown(self, domain: Domain, flags: int) -> None:
        """virDomainShutdown, with flags virDomainShutdownFlags."""
        self._on(domain, lambda found: found.shutdownFlags(flags) if flags else found.shutdown())

    def domain_undefine(self, domain: Domain, flags: int) -> None:
        """virDomainUndefineFlags."""
        with self._shut_off.guarding(domain):
            self._on(domain, lambda found: found.undefineFlags(flags))

    def domain_suspend(self, domain: Domain) -> None:
        """virDomainSuspend."""
        self._on(domain, lambda found: found.suspend())

    def domain_resume(self, domain: Domain) -> None:
        """virDomainResume."""
        self._on(domain, lambda found: found.resume())

    def domain_list_disks(self, domain: Domain) -> list[Disk]:
        """The disks of the live XML (of a shut-off domain: of its definition)."""
        return self._on(domain, lambda found: disks_of(found.XMLDesc(0), lambda target: found.blockInfo(target, 0)[0]))

    def domain_get_block_info(self, domain: Domain, disk: str, flags: int) -> BlockInfo:
        """virDomainGetBlockInfo."""
        capacity_bytes, allocation_bytes, physical_bytes = self._on(domain, lambda found: found.blockInfo(disk, flags))
        return BlockInfo(capacity_bytes, allocation_bytes, physical_bytes)

    def domain_block_stats(self, domain: Domain, disk: str) -> tuple[int, int, int, int, int]:
        """virDomainBlockStats."""
        reads, read_bytes, writes, written_bytes, errors = self._on(domain, lambda found: found.blockStats(disk))
        return reads, read_bytes, writes, written_bytes, errors

    def domain_block_resize(self, domain: Domain, disk: str, size: int, flags: int) -> None:
        """virDomainBlockResize. OVERFLOW (82) for a size that libvirt would round up to 0, and the disk with it."""
        if flags & BlockResizeFlags.BYTES and size > _RESIZE_BYTES_MAX:
            raise report(ErrorNumber.OVERFLOW, f"size must be less than {_RESIZE_BYTES_MAX + 1}")
        with self._shut_off.guarding(domain, disk):
            self._on(domain, lambda found: found.blockResize(disk, _as_c_long(size), flags))

    def domain_save(self, domain: Domain, path: str, xml: str | None, flags: int) -> None:
        """virDomainSaveFlags, or virDomainSave where that is all."""
        self._allowed.require_saved(path)
        with self._shut_off.guarding(domain):
            is_plain = xml is None and not flags  # XML that is empty is XML, and libvirt refuses it
            self._on(domain, lambda found: found.save(path) if is_plain else found.saveFlags(path, xml, flags))

    def domain_managed_save(self, domain: Domain, flags: int) -> None:
        """virDomainManagedSave."""
        with self._shut_off.guarding(domain):
            self._on(domain, lambda found: found.managedSave(flags))

    def domain_snapshot_create_xml(self, domain: Domain, xml: str, flags: int) -> tuple[str, str]:
        """virDomainSnapshotCreateXML. With NO_METADATA libvirt keeps nothing of the snapshot, not even its XML."""

        def create(found: Any) -> tuple[str, str]:
            snapshot = found.snapshotCreateXML(xml, flags)
            return snapshot.getName(), "" if flags & SnapshotCreateFlags.NO_METADATA else snapshot.getXMLDesc()

        self._allowed.require_snapshot(xml)
        with self._shut_off.guarding(domain):
            return self._on(domain, create)

    def domain_revert_to_snapshot(self, domain: Domain, snapshot: str, flags: int) -> None:
        """virDomainSnapshotLookupByName and virDomainRevertToSnapshot."""
        with self._shut_off.guarding(domain):
            self._on(domain, lambda found: found.revertToSnapshot(found.snapshotLookupByName(snapshot), flags))

    def domain_detach_device(self, domain: Domain, xml: str, flags: int) -> None:
        """virDomainDetachDeviceFlags."""
        with self._shut_off.guarding_detach(domain, xml):
            self._on(domain, lambda found: found.detachDeviceFlags(xml, flags))

    def domain_block_rebase(
        self, domain: Domain, disk: str, base: str | None, bandwidth: int, flags: int, origin: JobOrigin
    ) -> str:
        """virDomainBlockRebase: a copy with COPY, else a pull."""
        if self._begins(domain):
            return self._shut_off.block_jobs.rebase(domain, disk, base, bandwidth, flags, origin)
        is_copy = bool(flags & BlockRebaseFlags.COPY)
        if is_copy:
            self._allowed.require_path(base)
        request = JobRequest(
            type=BlockJobType.COPY if is_copy else BlockJobType.PULL,
            flags=flags,
            bandwidth=bandwidth,
            is_bandwidth_bytes=bool(flags & BlockRebaseFlags.BANDWIDTH_BYTES),
            destination_path=base or "" if is_copy else "",
            destination_format="raw" if is_copy and flags & BlockRebaseFlags.COPY_RAW else "",
            takes_source_format=is_copy and not flags & BlockRebaseFlags.REUSE_EXT,
        )
        return self._start(
            domain, disk, request, origin, lambda found: found.blockRebase(disk, base, _as_c_long(bandwidth), flags)
        )

    def domain_block_copy(
        self,
        domain: Domain,
        disk: str,
        destination_xml: str,
        parameters: Sequence[TypedParameter],
        flags: int,
        origin: JobOrigin,
    ) -> str:
        """virDomainBlockCopy."""
        return self._copy(domain, disk, destination_xml, parameters, flags, origin, is_pivoting=False)

    def domain_block_copy_and_pivot(
        self,
        domain: Domain,
        disk: str,
        destination_xml: str,
        parameters: Sequence[TypedParameter],
        flags: int,
        origin: JobOrigin,
    ) -> str:
        """virDomainBlockCopy with TRANSIENT_JOB, and the pivot when it is READY."""
        flags |= int(BlockCopyFlags.TRANSIENT_JOB)
        return self._copy(domain, disk, destination_xml, parameters, flags, origin, is_pivoting=True)

    def _copy(
        self,
        domain: Domain,
        disk: str,
        destination_xml: str,
        parameters: Sequence[TypedParameter],
        flags: int,
        origin: JobOrigin,
        *,
        is_pivoting: bool,
    ) -> str:
        if self._begins(domain):
            return self._shut_off.block_jobs.copy(
                domain, disk, destination_xml, parameters, flags, origin, is_pivoting=is_pivoting
            )
        checks.check_parameter_types(parameters)
        values = {parameter.name: parameter.value for parameter in parameters}
        if has_destination_options(destination_xml):
            detail = "destination options are not supported where libvirt makes the copy"
            raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
        self._allowed.require_xml(destination_xml)
        path, image_format = destination_of(destination_xml)
        request = JobRequest(
            type=BlockJobType.COPY,
            flags=flags,
            bandwidth=int(values.get(checks.PARAMETER_BANDWIDTH, 0)),
            is_bandwidth_bytes=True,
            destination_path=path,
            destination_format=image_format,
            takes_source_format=not flags & BlockCopyFlags.REUSE_EXT,
            is_pivoting=is_pivoting,
        )
        return self._start(
            domain, disk, request, origin, lambda found: found.blockCopy(disk, destination_xml, values, flags)
        )

    def domain_block_pull(self, domain: Domain, disk: str, bandwidth: int, flags: int, origin: JobOrigin) -> str:
        """virDomainBlockPull."""
        if self._begins(domain):
            return self._shut_off.block_jobs.pull(domain, disk, bandwidth, flags, origin)
        request = JobRequest(
            type=BlockJobType.PULL,
            flags=flags,
            bandwidth=bandwidth,
            is_bandwidth_bytes=bool(flags & BlockPullFlags.BANDWIDTH_BYTES),
        )
        return self._start(
            domain, disk, request, origin, lambda found: found.blockPull(disk, _as_c_long(bandwidth), flags)
        )

    def domain_block_commit(
        self,
        domain: Domain,
        disk: str,
        base: str | None,
        top: str | None,
        bandwidth: int,
        flags: int,
        origin: JobOrigin,
    ) -> str:
        """virDomainBlockCommit."""
        if self._begins(domain):
            return self._shut_off.block_jobs.commit(domain, MergeRequest(disk, base, top, bandwidth, flags, origin))
        is_active = bool(flags & BlockCommitFlags.ACTIVE)
        request = JobRequest(
            type=BlockJobType.ACTIVE_COMMIT if is_active else BlockJobType.COMMIT,
            flags=flags,
            bandwidth=bandwidth,
            is_bandwidth_bytes=bool(flags & BlockCommitFlags.BANDWIDTH_BYTES),
        )
        return self._start(
            domain,
            disk,
            request,
            origin,
            lambda found: found.blockCommit(disk, base, top, _as_c_long(bandwidth), flags),
        )

    def domain_block_job_abort(self, domain: Domain, disk: str, flags: int) -> None:
        """virDomainBlockJobAbort."""
        if self._has_own(domain, disk):
            self._shut_off.block_jobs.abort(domain, disk, flags)
            return
        self._follower.end(domain, disk, flags, lambda found: found.blockJobAbort(disk, flags))

    def domain_get_block_job_info(self, domain: Domain, disk: str, flags: int) -> BlockJobInfo | None:
        """virDomainGetBlockJobInfo; None without a job."""
        if self._has_own(domain, disk):
            return self._shut_off.block_jobs.info(domain, disk, flags)
        info = self._on(domain, lambda found: found.blockJobInfo(disk, flags))
        return BlockJobInfo(info["type"], info["bandwidth"], info["cur"], info["end"]) if info else None

    def domain_block_job_set_speed(self, domain: Domain, disk: str, bandwidth: int, flags: int) -> None:
        """virDomainBlockJobSetSpeed."""
        if self._has_own(domain, disk):
            self._shut_off.block_jobs.set_speed(domain, disk, bandwidth, flags)
            return
        self._on(domain, lambda found: found.blockJobSetSpeed(disk, _as_c_long(bandwidth), flags))
        self._follower.note_speed(domain, disk, bandwidth, flags)

    def block_job_pause(self, job_id: str) -> None:
        """Holds the work of one of the engine's jobs; a hypervisor's cannot be held (3)."""
        self._require_own(job_id, "PauseBlockJob")
        self._shut_off.block_jobs.pause(job_id)

    def block_job_resume(self, job_id: str) -> None:
        """Lets held work go on; as `block_job_pause`."""
        self._require_own(job_id, "ResumeBlockJob")
        self._shut_off.block_jobs.resume(job_id)

    def block_job_map(self, job_id: str, cell_count: int) -> bytes:
        """The picture of the work of one of the engine's jobs; a hypervisor gives none (3)."""
        self._require_own(job_id, "WatchBlockMap")
        return self._shut_off.block_jobs.map(job_id, cell_count)

    def _begins(self, domain: Domain) -> bool:
        """Whether a new job is the engine's; then no record of a hypervisor's is left on the domain."""
        if not self._shut_off.begins(domain):
            return False
        self._follower.note_stopped(domain.uuid)
        return True

    def list_block_bitmaps(self, domain: Domain, disk: str) -> list[BlockBitmap]:
        """The bitmaps of a shut-off domain's active image."""
        self._require_shut_off(domain, "ListBlockBitmaps", is_change=False)
        return self._shut_off.bitmaps.list(domain, disk)

    def add_block_bitmap(
        self, domain: Domain, disk: str, name: str, granularity_bytes: int, is_enabled: bool
    ) -> BlockBitmap:
        """A new bitmap in it."""
        self._require_shut_off(domain, "AddBlockBitmap")
        return self._shut_off.bitmaps.add(domain, disk, name, granularity_bytes, is_enabled)

    def remove_block_bitmap(self, domain: Domain, disk: str, name: str) -> None:
        """Takes a bitmap away."""
        self._require_shut_off(domain, "RemoveBlockBitmap")
        self._shut_off.bitmaps.remove(domain, disk, name)

    def clear_block_bitmap(self, domain: Domain, disk: str, name: str) -> None:
        """Makes a bitmap mark nothing."""
        self._require_shut_off(domain, "ClearBlockBitmap")
        self._shut_off.bitmaps.clear(domain, disk, name)

    def _require_shut_off(self, domain: Domain, call: str, *, is_change: bool = True) -> None:
        """55 on a running domain, whose bitmaps are the hypervisor's; 3 where shut-off domains are libvirt's alone."""
        if not self._shut_off.is_enabled:
            raise no_support(call)
        if not (self._shut_off.begins(domain) if is_change else self._shut_off.takes(domain)):
            raise report(ErrorNumber.OPERATION_INVALID, "domain is running", domain=ErrorDomain.DOMAIN)

    def _has_own(self, domain: Domain, disk: str) -> bool:
        """Whether a call on a job is the engine's to answer."""
        return self._shut_off.has_job(domain, disk) or self._shut_off.takes(domain)

    def _require_own(self, job_id: str, call: str) -> None:
        if not self._shut_off.is_ours(job_id):
            raise no_support(call)

    def _ask(self, function: Callable[[Any], T]) -> T:
        return self._binding.call(function)

    def _on(self, domain: Domain, function: Callable[[Any], T]) -> T:
        """A call that may wait for the domain's hypervisor."""
        return self._binding.on_domain(domain.uuid, function, may_wait=True)

    def _look(self, domain: Domain, function: Callable[[Any], T]) -> T:
        """A call that libvirt answers from what it knows."""
        return self._binding.on_domain(domain.uuid, function)

    def _start(
        self, domain: Domain, disk: str, request: JobRequest, origin: JobOrigin, call: Callable[[Any], object]
    ) -> str:
        with self._shut_off.guarding(domain, disk):
            return self._follower.begin(domain, disk, request, origin, call)

    def _found(self, found: Any, *, is_brief: bool) -> Domain:
        if not is_brief:
            return self._record(found)
        domain_id = found.ID()  # came with the look-up
        return Domain(self.uri, found.name(), self._binding.remember(found), id=domain_id, is_active=domain_id >= 0)

    def _record(self, found: Any) -> Domain:
        uuid = self._binding.remember(found)
        domain_id = found.ID()
        return Domain(
            self.uri,
            found.name(),
            uuid,
            id=domain_id,
            is_persistent=bool(found.isPersistent()),
            is_active=domain_id >= 0,
            state=found.state(0)[0],
        )


def _refuse_autodestroy(flags: int) -> None:
    """libvirt would bind the domain to the server's connection: a restart of the server would destroy it."""
    if flags & _START_AUTODESTROY:
        detail = "a domain cannot be bound to a client of this server (VIR_DOMAIN_START_AUTODESTROY)"
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)


def _as_c_long(value: int) -> int:
    """libvirt-python reads C's unsigned long (long) as a signed one, so the upper half goes in as the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
