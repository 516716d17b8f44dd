# SPDX-License-Identifier: Apache-2.0
"""The driver behind `embedded:///`.

Owns: the driver's face, one thin method per libvirt call, and the order in which its parts start and stop.
Invariants: embedded domains are persistent and shut off, always; a call that makes no sense for them is either not
defined here (the core answers 3), or is defined because a running copy must be able to refuse it (83), or because
libvirt refuses it on a shut-off domain (55).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lxml import etree

from virtblock.engine import PathPolicy
from virtblock.server.core.driver import JobOrigin
from virtblock.server.core.errors import ErrorNumber, no_support, report, unsupported_flags
from virtblock.server.core.events import DomainEvents
from virtblock.server.core.flags import DomainSaveFlags, DomainXmlFlags, SnapshotRevertFlags
from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.model import BlockBitmap, BlockInfo, BlockJobInfo, Disk, Domain, TypedParameter
from virtblock.server.core.store import Store
from virtblock.server.drivers.embedded import capabilities, definitions, images, snapshots
from virtblock.server.drivers.offline import bitmaps, block_jobs, disks, guards, job_checks, merge_calls
from virtblock.server.drivers.offline.context import Context, EngineDoors
from virtblock.server.drivers.offline.journals import Journals
from virtblock.server.drivers.offline.live_chains import shown_live
from virtblock.server.drivers.offline.merge_calls import MergeRequest
from virtblock.server.drivers.offline.recovery import Recovery
from virtblock.server.drivers.offline.running_jobs import RunningJobs

XML_FLAGS = int(sum(DomainXmlFlags))
CREATE_FLAGS = 0x3F
DESTROY_FLAGS = 0x1
SHUTDOWN_FLAGS = 0x1F
SAVE_FLAGS = int(sum(DomainSaveFlags))
REVERT_FLAGS = int(sum(SnapshotRevertFlags))
FOLLOWED_LIBVIRT_VERSION = 9_000_000
STATE_SHUTOFF = 5
STATE_REASON_UNKNOWN = 0
KIB_PER_UNIT = {
    "b": 1 / 1024, "bytes": 1 / 1024, "KB": 1000 / 1024, "k": 1, "KiB": 1, "MB": 1e6 / 1024, "M": 1024, "MiB": 1024,
    "GB": 1e9 / 1024, "G": 1024**2, "GiB": 1024**2, "TB": 1e12 / 1024, "T": 1024**3, "TiB": 1024**3,
}  # fmt: skip


class EmbeddedDriver:
    """Domains kept in the store, their disks copied by the engine. Every method may be called from many threads."""

    flag_masks: ClassVar[dict[str, int]] = {
        "list_all_domains": definitions.LIST_FLAGS,
        "domain_define_xml": definitions.DEFINE_FLAGS,
        "domain_undefine": definitions.UNDEFINE_FLAGS,
        "domain_get_xml_desc": XML_FLAGS,
        "domain_get_state": 0,
        "domain_get_block_info": 0,
        "domain_block_resize": images.RESIZE_FLAGS,
        "domain_detach_device": images.DETACH_FLAGS,
        "domain_snapshot_create_xml": snapshots.SNAPSHOT_FLAGS,
        "domain_block_rebase": block_jobs.REBASE_FLAGS,
        "domain_block_copy": block_jobs.COPY_FLAGS,
        "domain_block_pull": merge_calls.PULL_FLAGS,
        "domain_block_commit": merge_calls.COMMIT_FLAGS,
        "domain_block_job_abort": block_jobs.ABORT_FLAGS,
        "domain_get_block_job_info": block_jobs.INFO_FLAGS,
        "domain_block_job_set_speed": block_jobs.SPEED_FLAGS,
    }

    # There is no hypervisor: these check what libvirt checks, and then refuse.
    refusals: ClassVar[frozenset[str]] = frozenset(
        {
            "domain_create",
            "domain_destroy",
            "domain_shutdown",
            "domain_suspend",
            "domain_resume",
            "domain_save",
            "domain_managed_save",
            "domain_revert_to_snapshot",
        }
    )

    def __init__(
        self,
        store: Store,
        jobs: JobRegistry,
        events: DomainEvents,
        policy: PathPolicy,
        *,
        strict_libvirt: bool = False,
        uri: str = "embedded:///",
        doors: EngineDoors | None = None,
        journals: Journals | None = None,
    ) -> None:
        """`strict_libvirt`: block calls on shut-off domains are refused as libvirt refuses them (55).

        `journals`: where jobs note what is durable; without, a job that is cut off begins anew.
        """
        self.uri = uri
        self._context = Context(uri, store, jobs, policy, strict_libvirt, doors or EngineDoors(), journals=journals)
        self._definitions = definitions.StoredDefinitions(self._context, events)
        self._running = RunningJobs()
        self._block_jobs = block_jobs.BlockJobs(self._context, self._definitions, self._running)
        self._disk_changes = images.DiskChanges(self._context, self._definitions)
        self._snapshots = snapshots.Snapshots(self._context, self._definitions)
        self._bitmaps = bitmaps.Bitmaps(self._context, self._definitions)

    def open(self) -> None:
        """Takes up the jobs that had not ended when the server stopped."""
        try:
            Recovery(self._context, self._definitions, self._running).run()
        except BaseException:
            self._running.close()  # those that go on already
            raise
        self._running.open()

    def close(self) -> None:
        """Parks the jobs: they go on, or are READY again, at the next start."""
        self._running.close()

    def engine_features(self) -> Sequence[str]:
        """What the engine reads and writes."""
        return (
            "format:raw",
            "format:qcow2",
            "compressed-source:zlib",
            "compressed-source:zstd",
            "event:0",
            "event:8",
            "event:16",
            "offline-copy",
            "pull",
            "commit",
            "shallow",
            "reuse",
            "pause",
            "map",
            "image-locks",
            "bitmaps",
        )

    def get_version(self) -> int:
        """The hypervisor's version: our own."""
        return capabilities.encoded_version()

    def get_lib_version(self) -> int:
        """The version of libvirt whose behaviour this driver follows."""
        return FOLLOWED_LIBVIRT_VERSION

    def get_type(self) -> str:
        """The driver's name."""
        return "Embedded"

    def get_hostname(self) -> str:
        """The host's name."""
        return capabilities.host_name()

    def get_capabilities(self) -> str:
        """virConnectGetCapabilities."""
        return capabilities.capabilities_xml()

    def is_alive(self) -> bool:
        """Always: there is no connection to lose."""
        return True

    def is_secure(self) -> bool:
        """Always: nothing leaves this process."""
        return True

    def is_encrypted(self) -> bool:
        """Never: there is nothing to encrypt."""
        return False

    def domain_lookup_by_name(self, name: str, *, is_brief: bool = False) -> Domain:
        """virDomainLookupByName."""
        return self._definitions.find_by_name(name)

    def domain_lookup_by_uuid(self, uuid: str, *, is_brief: bool = False) -> Domain:
        """virDomainLookupByUUIDString."""
        return self._definitions.find_by_uuid(uuid)

    def domain_lookup_by_id(self, domain_id: int, *, is_brief: bool = False) -> Domain:
        """virDomainLookupByID."""
        return self._definitions.find_by_id(domain_id)

    def list_all_domains(self, flags: int) -> list[Domain]:
        """virConnectListAllDomains."""
        return self._definitions.list_all(flags)

    def domain_define_xml(self, xml: str, flags: int) -> Domain:
        """virDomainDefineXMLFlags."""
        return self._definitions.define(xml, flags)

    def domain_undefine(self, domain: Domain, flags: int) -> None:
        """virDomainUndefineFlags."""
        self._definitions.undefine(domain, flags)

    def domain_get_xml_desc(self, domain: Domain, flags: int) -> str:
        """virDomainGetXMLDesc. With INACTIVE the definition alone; else with chains and `<mirror>`."""
        if flags & ~XML_FLAGS:
            raise unsupported_flags(flags, XML_FLAGS, "qemuDomainGetXMLDesc")
        definition = self._definitions.load(domain)
        if flags & DomainXmlFlags.INACTIVE:
            return definition.xml
        return shown_live(self._context, definition)

    def domain_get_state(self, domain: Domain, flags: int) -> tuple[int, int]:
        """virDomainGetState: shut off, reason unknown."""
        if flags:
            raise unsupported_flags(flags, 0, "qemuDomainGetState")
        self._definitions.load(domain)
        return STATE_SHUTOFF, STATE_REASON_UNKNOWN

    def domain_get_info(self, domain: Domain) -> tuple[int, int, int, int, int]:
        """virDomainGetInfo: state, maximum and current memory in KiB, virtual CPUs, CPU time."""
        root = self._definitions.load(domain).tree()
        memory_kib = _memory_kib(root.find("memory"))
        current_kib = _memory_kib(root.find("currentMemory")) or memory_kib
        vcpus = (root.findtext("vcpu") or "1").strip()
        return STATE_SHUTOFF, memory_kib, current_kib, int(vcpus) if vcpus.isdecimal() else 1, 0

    def domain_create(self, domain: Domain, flags: int) -> None:
        """virDomainCreateWithFlags: 83 while a copy runs; there is no hypervisor to start it else."""
        self._refuse(domain, flags, CREATE_FLAGS, "qemuDomainCreateWithFlags")
        raise no_support("virDomainCreate")

    def domain_destroy(self, domain: Domain, flags: int) -> None:
        """virDomainDestroyFlags: it is not running."""
        self._refuse_idle(domain, flags, DESTROY_FLAGS, "qemuDomainDestroyFlags")

    def domain_shutdown(self, domain: Domain, flags: int) -> None:
        """virDomainShutdownFlags: it is not running."""
        self._refuse_idle(domain, flags, SHUTDOWN_FLAGS, "qemuDomainShutdownFlags")

    def domain_suspend(self, domain: Domain) -> None:
        """virDomainSuspend: it is not running."""
        self._refuse_idle(domain, 0, 0, "qemuDomainSuspend")

    def domain_resume(self, domain: Domain) -> None:
        """virDomainResume: it is not running."""
        self._refuse_idle(domain, 0, 0, "qemuDomainResume")

    def domain_save(self, domain: Domain, path: str, xml: str | None, flags: int) -> None:
        """virDomainSaveFlags: 83 while a copy runs, else it is not running."""
        self._refuse(domain, flags, SAVE_FLAGS, "qemuDomainSaveFlags")
        raise job_checks.domain_not_running()

    def domain_managed_save(self, domain: Domain, flags: int) -> None:
        """virDomainManagedSave: 83 while a copy runs, else it is not running."""
        self._refuse(domain, flags, SAVE_FLAGS, "qemuDomainManagedSave")
        raise job_checks.domain_not_running()

    def domain_revert_to_snapshot(self, domain: Domain, snapshot: str, flags: int) -> None:
        """virDomainRevertToSnapshot: 83 while a copy runs, else there is no such snapshot."""
        self._refuse(domain, flags, REVERT_FLAGS, "qemuSnapshotRevert")
        detail = f"no domain snapshot with matching name '{snapshot}'"
        raise report(ErrorNumber.NO_DOMAIN_SNAPSHOT, detail)

    def domain_snapshot_create_xml(self, domain: Domain, xml: str, flags: int) -> tuple[str, str]:
        """virDomainSnapshotCreateXML."""
        return self._snapshots.create(domain, xml, flags)

    def domain_detach_device(self, domain: Domain, xml: str, flags: int) -> None:
        """virDomainDetachDeviceFlags."""
        self._disk_changes.detach(domain, xml, flags)

    def domain_block_resize(self, domain: Domain, disk: str, size: int, flags: int) -> None:
        """virDomainBlockResize."""
        self._disk_changes.resize(domain, disk, size, flags)

    def domain_list_disks(self, domain: Domain) -> list[Disk]:
        """The disks, with their chains as far as they can be read."""
        return disks.list_disks(self._context, self._definitions.load(domain))

    def domain_get_block_info(self, domain: Domain, disk: str, flags: int) -> BlockInfo:
        """virDomainGetBlockInfo."""
        if flags:
            raise unsupported_flags(flags, 0, "qemuDomainGetBlockInfo")
        return disks.block_info(self._context, self._definitions.load(domain), disk)

    def domain_block_stats(self, domain: Domain, disk: str) -> tuple[int, int, int, int, int]:
        """virDomainBlockStats: it is not running."""
        self._definitions.load(domain)
        raise job_checks.domain_not_running()

    def domain_block_rebase(
        self, domain: Domain, disk: str, base: str | None, bandwidth: int, flags: int, origin: JobOrigin
    ) -> str:
        """virDomainBlockRebase; returns the job's id."""
        return self._block_jobs.rebase(domain, disk, base, bandwidth, flags, origin)

    def domain_block_pull(self, domain: Domain, disk: str, bandwidth: int, flags: int, origin: JobOrigin) -> str:
        """virDomainBlockPull; returns the job's id."""
        return self._block_jobs.pull(domain, disk, bandwidth, flags, origin)

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
        """virDomainBlockCommit; returns the job's id."""
        return self._block_jobs.commit(domain, MergeRequest(disk, base, top, bandwidth, flags, origin))

    def domain_block_copy(
        self,
        domain: Domain,
        disk: str,
        destination_xml: str,
        parameters: Sequence[TypedParameter],
        flags: int,
        origin: JobOrigin,
    ) -> str:
        """virDomainBlockCopy; returns the job's id."""
        return self._block_jobs.copy(domain, disk, destination_xml, parameters, flags, origin)

    def domain_block_job_abort(self, domain: Domain, disk: str, flags: int) -> None:
        """virDomainBlockJobAbort."""
        self._block_jobs.abort(domain, disk, flags)

    def domain_get_block_job_info(self, domain: Domain, disk: str, flags: int) -> BlockJobInfo | None:
        """virDomainGetBlockJobInfo."""
        return self._block_jobs.info(domain, disk, flags)

    def domain_block_job_set_speed(self, domain: Domain, disk: str, bandwidth: int, flags: int) -> None:
        """virDomainBlockJobSetSpeed."""
        self._block_jobs.set_speed(domain, disk, bandwidth, flags)

    def block_job_pause(self, job_id: str) -> None:
        """Holds a job's work."""
        self._block_jobs.pause(job_id)

    def block_job_resume(self, job_id: str) -> None:
        """Lets held work go on."""
        self._block_jobs.resume(job_id)

    def block_job_map(self, job_id: str, cell_count: int) -> bytes:
        """The picture of a job's work, one engine cell state per cell."""
        return self._block_jobs.map(job_id, cell_count)

    def list_block_bitmaps(self, domain: Domain, disk: str) -> list[BlockBitmap]:
        """The bitmaps of the disk's active image."""
        return self._bitmaps.list(domain, disk)

    def add_block_bitmap(
        self, domain: Domain, disk: str, name: str, granularity_bytes: int, is_enabled: bool
    ) -> BlockBitmap:
        """A new bitmap."""
        return self._bitmaps.add(domain, disk, name, granularity_bytes, is_enabled)

    def remove_block_bitmap(self, domain: Domain, disk: str, name: str) -> None:
        """Takes a bitmap away."""
        self._bitmaps.remove(domain, disk, name)

    def clear_block_bitmap(self, domain: Domain, disk: str, name: str) -> None:
        """Makes a bitmap mark nothing."""
        self._bitmaps.clear(domain, disk, name)

    def _refuse(self, domain: Domain, flags: int, mask: int, function: str) -> None:
        """The checks before a refusal: flags, the domain, and a running copy (83)."""
        if flags & ~mask:
            raise unsupported_flags(flags, mask, function)
        with self._context.locks.hold(domain.uuid):
            self._definitions.load(domain)
            guards.require_no_job(self._context, domain.uuid)

    def _refuse_idle(self, domain: Domain, flags: int, mask: int, function: str) -> None:
        """55, whatever jobs there are: the domain is not running."""
        if flags & ~mask:
            raise unsupported_flags(flags, mask, function)
        self._definitions.load(domain)
        raise job_checks.domain_not_running()


def _memory_kib(element: etree._Element | None) -> int:
    """A memory element in KiB, its default unit; 0 for what is not a number."""
    text = "" if element is None else (element.text or "").strip()
    if element is None or not text.isdecimal():
        return 0
    return int(int(text) * KIB_PER_UNIT.get(element.get("unit", "KiB"), 1))
