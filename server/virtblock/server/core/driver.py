# SPDX-License-Identifier: Apache-2.0
"""What a hypervisor connection must offer: one method per libvirt call.

Owns: the seam between the core and the drivers. Invariants: methods block and are called from worker threads, many at
once; they take and return records of `model`, raise `VirError`, and know neither gRPC nor who calls (read-only and
NULL checks were made by the API classes). `flags` arrive unchecked: a driver refuses unknown bits itself with
`errors.unsupported_flags` and libvirt's driver function name, because that check's place in the order is part of the
answer. A call that a driver does not define is answered with VIR_ERR_NO_SUPPORT by the API classes (`offers`), never
by a stub here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from virtblock.server.core.model import (
    BlockBitmap,
    BlockInfo,
    BlockJobInfo,
    Disk,
    Domain,
    TypedParameter,
)


class ConnectOps(Protocol):
    """virConnect*."""

    uri: str

    def open(self) -> None:
        """Takes up the work after a start: recovers jobs. Called once, before the first call."""

    def close(self) -> None:
        """Parks running jobs so that a restart goes on with them, and lets go of everything. Called once."""

    def engine_features(self) -> Sequence[str]: ...
    def get_version(self) -> int: ...
    def get_lib_version(self) -> int: ...
    def get_type(self) -> str: ...
    def get_hostname(self) -> str: ...
    def get_capabilities(self) -> str: ...
    def is_alive(self) -> bool: ...
    def watch_alive(self, told: Callable[[bool], None]) -> None:
        """Before `open`: `told(is_alive)` on every change, in any thread. Only of drivers that can lose something."""

    def is_secure(self) -> bool: ...
    def is_encrypted(self) -> bool: ...
    def domain_lookup_by_name(self, name: str, *, is_brief: bool = False) -> Domain:
        """`is_brief`, here and in the next two: name, UUID, id and `is_active` are enough. libvirt tells the rest in
        answers of their own, which most calls would wait for in vain."""

    def domain_lookup_by_uuid(self, uuid: str, *, is_brief: bool = False) -> Domain: ...
    def domain_lookup_by_id(self, domain_id: int, *, is_brief: bool = False) -> Domain: ...
    def list_all_domains(self, flags: int) -> list[Domain]: ...
    def domain_define_xml(self, xml: str, flags: int) -> Domain: ...
    def domain_create_xml(self, xml: str, flags: int) -> Domain: ...


class DomainOps(Protocol):
    """virDomain*. `domain` is what a look-up of this driver returned; drivers look it up again by its UUID."""

    def domain_get_xml_desc(self, domain: Domain, flags: int) -> str: ...
    def domain_get_state(self, domain: Domain, flags: int) -> tuple[int, int]: ...
    def domain_get_info(self, domain: Domain) -> tuple[int, int, int, int, int]: ...
    def domain_create(self, domain: Domain, flags: int) -> None: ...
    def domain_destroy(self, domain: Domain, flags: int) -> None: ...
    def domain_shutdown(self, domain: Domain, flags: int) -> None: ...
    def domain_undefine(self, domain: Domain, flags: int) -> None: ...
    def domain_suspend(self, domain: Domain) -> None: ...
    def domain_resume(self, domain: Domain) -> None: ...
    def domain_list_disks(self, domain: Domain) -> list[Disk]: ...
    def domain_get_block_info(self, domain: Domain, disk: str, flags: int) -> BlockInfo: ...
    def domain_block_stats(self, domain: Domain, disk: str) -> tuple[int, int, int, int, int]: ...
    def domain_block_resize(self, domain: Domain, disk: str, size: int, flags: int) -> None: ...
    def domain_save(self, domain: Domain, path: str, xml: str | None, flags: int) -> None: ...
    def domain_managed_save(self, domain: Domain, flags: int) -> None: ...
    def domain_snapshot_create_xml(self, domain: Domain, xml: str, flags: int) -> tuple[str, str]:
        """Returns the snapshot's name and its XML."""

    def domain_revert_to_snapshot(self, domain: Domain, snapshot: str, flags: int) -> None: ...
    def domain_detach_device(self, domain: Domain, xml: str, flags: int) -> None: ...


class BlockJobOps(Protocol):
    """The block-job calls. Starting calls return the job's id; `origin` is put into the job's record."""

    def domain_block_rebase(
        self, domain: Domain, disk: str, base: str | None, bandwidth: int, flags: int, origin: JobOrigin
    ) -> str: ...
    def domain_block_copy(
        self,
        domain: Domain,
        disk: str,
        destination_xml: str,
        parameters: Sequence[TypedParameter],
        flags: int,
        origin: JobOrigin,
    ) -> str: ...
    def domain_block_copy_and_pivot(
        self,
        domain: Domain,
        disk: str,
        destination_xml: str,
        parameters: Sequence[TypedParameter],
        flags: int,
        origin: JobOrigin,
    ) -> str:
        """A copy that pivots by itself when it is READY, of a persistent domain as well.

        What is done by hand with libvirt: TRANSIENT_JOB, wait, pivot, look that both definitions name the new disk.
        """

    def domain_block_pull(self, domain: Domain, disk: str, bandwidth: int, flags: int, origin: JobOrigin) -> str: ...
    def domain_block_commit(
        self,
        domain: Domain,
        disk: str,
        base: str | None,
        top: str | None,
        bandwidth: int,
        flags: int,
        origin: JobOrigin,
    ) -> str: ...
    def domain_block_job_abort(self, domain: Domain, disk: str, flags: int) -> None: ...
    def domain_get_block_job_info(self, domain: Domain, disk: str, flags: int) -> BlockJobInfo | None: ...
    def domain_block_job_set_speed(self, domain: Domain, disk: str, bandwidth: int, flags: int) -> None: ...
    def block_job_pause(self, job_id: str) -> None: ...
    def block_job_resume(self, job_id: str) -> None: ...
    def block_job_map(self, job_id: str, cell_count: int) -> bytes:
        """One engine cell state per cell (1 to do, 2 copying, 3 done, 4 zero, 5 dirty again, 6 failed).

        Asked only of jobs that have not ended.
        """


class BitmapOps(Protocol):
    """The persistent bitmaps of a disk's active image. libvirt has no such calls."""

    def list_block_bitmaps(self, domain: Domain, disk: str) -> list[BlockBitmap]: ...
    def add_block_bitmap(
        self, domain: Domain, disk: str, name: str, granularity_bytes: int, is_enabled: bool
    ) -> BlockBitmap: ...
    def remove_block_bitmap(self, domain: Domain, disk: str, name: str) -> None: ...
    def clear_block_bitmap(self, domain: Domain, disk: str, name: str) -> None: ...


class JobOrigin(Protocol):
    """Who started a job and under which request id (see `jobs.Origin`)."""

    @property
    def principal(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def request_digest(self) -> str: ...


class Driver(ConnectOps, DomainOps, BlockJobOps, BitmapOps, Protocol):
    """A whole driver. Real ones define any subset, and should not inherit from this.

    Beside the methods a driver's class has `flag_masks: dict[str, int]`: for each of its methods with flags, the bits
    that it accepts; and `refusals: frozenset[str]`: methods that are there only to refuse in libvirt's words, which are
    no offer. That is what GetCapabilities tells.
    """
