# SPDX-License-Identifier: Apache-2.0
"""Changes of a shut-off domain's disks other than block jobs: resize and detach.

Owns: BlockResize and DetachDevice. Invariants: both hold the domain's lock from the guard to the end, so that no job
starts in between; a detached disk's image is not touched.
"""

from __future__ import annotations

from virtblock.engine import EngineError, resize_image
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, report, unsupported_flags
from virtblock.server.core.flags import BlockResizeFlags, DomainModificationImpact
from virtblock.server.core.model import Domain
from virtblock.server.drivers.embedded.definitions import StoredDefinitions
from virtblock.server.drivers.offline import guards, xml_text
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.disk_xml import read_disk_loosely
from virtblock.server.drivers.offline.disks import data_files, require_readable
from virtblock.server.drivers.offline.domain_xml import without_disk
from virtblock.server.drivers.offline.engine_errors import opening_error
from virtblock.server.drivers.offline.job_checks import domain_not_running

RESIZE_FLAGS = int(BlockResizeFlags.BYTES)
DETACH_FLAGS = int(sum(DomainModificationImpact))

KIB = 1024
SECTOR_BYTES = 512
SIZE_KIB_MAX = (2**64 - 1) // KIB
SIZE_BYTES_MAX = 2**63 - 1 - SECTOR_BYTES

# Devices that libvirt knows and this driver keeps without looking at them.
OTHER_DEVICES = frozenset(
    [
        "lease",
        "filesystem",
        "interface",
        "input",
        "sound",
        "watchdog",
        "video",
        "hostdev",
        "graphics",
        "hub",
        "redirdev",
        "smartcard",
        "memballoon",
        "nvram",
        "rng",
        "shmem",
        "tpm",
        "panic",
        "memory",
        "iommu",
        "vsock",
        "audio",
        "crypto",
        "controller",
        "parallel",
        "serial",
        "console",
        "channel",
    ]
)


class DiskChanges:
    """BlockResize and DetachDevice of one connection."""

    def __init__(self, context: Context, definitions: StoredDefinitions) -> None:
        self._context = context
        self._definitions = definitions

    def resize(self, domain: Domain, name: str, size: int, flags: int) -> None:
        """virDomainBlockResize: `size` in KiB, or in bytes with BYTES. qcow2 only grows."""
        if flags & ~RESIZE_FLAGS:
            raise unsupported_flags(flags, RESIZE_FLAGS, "qemuDomainBlockResize")
        size_bytes = _size_bytes(size, flags)
        with self._context.locks.hold(domain.uuid):
            definition = self._definitions.load(domain)
            if self._context.strict_libvirt:
                raise domain_not_running()
            disk = definition.find_disk(name)
            if disk is None:
                raise report(ErrorNumber.INVALID_ARG, f"disk '{name}' was not found in the domain config")
            if disk.source is None or disk.is_read_only:
                detail = f"can't resize empty or readonly disk '{disk.target}'"
                raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
            require_readable(disk)
            guards.require_idle_disk(self._context, domain.uuid, disk.target)
            path, image_format = disk.source.path or "", disk.source.format
            try:
                policy = self._context.policy_with(data_files(disk))
                resize_image(path, "raw" if image_format == "raw" else "qcow2", size_bytes, policy)
            except EngineError as error:
                raise opening_error(error, path, self._context.policy) from None

    def detach(self, domain: Domain, xml: str, flags: int) -> None:
        """virDomainDetachDeviceFlags: takes a disk out of the definition.

        A shut-off domain is nothing but its definition, so LIVE means the same here, but for a strict server (55).
        """
        if flags & ~DETACH_FLAGS:
            raise unsupported_flags(flags, DETACH_FLAGS, "qemuDomainDetachDeviceLiveAndConfig")
        with self._context.locks.hold(domain.uuid):
            definition = self._definitions.load(domain)
            if flags & DomainModificationImpact.LIVE and self._context.strict_libvirt:
                raise domain_not_running()
            target = _target_of(xml)
            if definition.disk_of_target(target) is None:
                raise report(ErrorNumber.DEVICE_MISSING, f"no target device {target}")
            guards.require_idle_disk(self._context, domain.uuid, target)
            self._definitions.save(without_disk(definition, target))


def _size_bytes(size: int, flags: int) -> int:
    """The wanted size, rounded up to whole sectors as libvirt does; 82 when it cannot be a size."""
    size_max = SIZE_BYTES_MAX
    if not flags & BlockResizeFlags.BYTES:
        if size > SIZE_KIB_MAX:
            raise report(ErrorNumber.OVERFLOW, f"size must be less than {SIZE_KIB_MAX}")
        size *= KIB
    if size > size_max:
        raise report(ErrorNumber.OVERFLOW, f"size must be less than {size_max} bytes")
    return -(-size // SECTOR_BYTES) * SECTOR_BYTES


def _target_of(xml: str) -> str:
    """The target of the disk that the XML describes; as in libvirt nothing else of it counts."""
    element = xml_text.parse_any(xml, "(device_definition)")
    tag = str(element.tag)
    if tag in OTHER_DEVICES:
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, f"detaching devices of type '{tag}' is not supported")
    if tag != "disk":
        detail = f"unknown device type '{tag}'"
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail, domain=ErrorDomain.DOMAIN)
    return read_disk_loosely(element).target
