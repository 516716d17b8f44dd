# SPDX-License-Identifier: Apache-2.0
"""libvirt's flags, by value, for the calls that the core and the drivers judge.

Owns: one IntFlag per enum of `libvirt-domain.h`, with libvirt's values. Invariants: a value never changes; SHALLOW
and REUSE_EXT have the same values in Rebase and Copy, and 4 and 8 do not mean the same there; what a driver accepts
is the driver's own business (`flag_masks`).
"""

from __future__ import annotations

from enum import IntFlag


class BlockRebaseFlags(IntFlag):
    """virDomainBlockRebaseFlags."""

    SHALLOW = 1
    REUSE_EXT = 2
    COPY_RAW = 4
    COPY = 8
    RELATIVE = 16
    COPY_DEV = 32
    BANDWIDTH_BYTES = 64

    @classmethod
    def copy_only(cls) -> int:
        """The bits that make sense with COPY alone: without it they are refused before the driver sees them."""
        return cls.SHALLOW | cls.REUSE_EXT | cls.COPY_RAW | cls.COPY_DEV


class BlockCopyFlags(IntFlag):
    """virDomainBlockCopyFlags. TARGET_ZEROED came with libvirt 12.2."""

    SHALLOW = 1
    REUSE_EXT = 2
    TRANSIENT_JOB = 4
    SYNCHRONOUS_WRITES = 8
    TARGET_ZEROED = 16


class BlockPullFlags(IntFlag):
    """virDomainBlockPullFlags."""

    BANDWIDTH_BYTES = 64


class BlockCommitFlags(IntFlag):
    """virDomainBlockCommitFlags."""

    SHALLOW = 1
    DELETE = 2
    ACTIVE = 4
    RELATIVE = 8
    BANDWIDTH_BYTES = 16


class BlockJobAbortFlags(IntFlag):
    """virDomainBlockJobAbortFlags."""

    ASYNC = 1
    PIVOT = 2


class BlockJobInfoFlags(IntFlag):
    """virDomainBlockJobInfoFlags."""

    BANDWIDTH_BYTES = 1


class BlockJobSetSpeedFlags(IntFlag):
    """virDomainBlockJobSetSpeedFlags."""

    BANDWIDTH_BYTES = 1


class BlockResizeFlags(IntFlag):
    """virDomainBlockResizeFlags."""

    BYTES = 1
    CAPACITY = 2


class DomainXmlFlags(IntFlag):
    """virDomainXMLFlags."""

    SECURE = 1
    INACTIVE = 2
    UPDATE_CPU = 4
    MIGRATABLE = 8


class DomainModificationImpact(IntFlag):
    """virDomainModificationImpact; CURRENT is 0."""

    LIVE = 1
    CONFIG = 2


class DomainSaveFlags(IntFlag):
    """virDomainSaveRestoreFlags."""

    BYPASS_CACHE = 1
    RUNNING = 2
    PAUSED = 4


class SnapshotCreateFlags(IntFlag):
    """virDomainSnapshotCreateFlags."""

    REDEFINE = 1
    CURRENT = 2
    NO_METADATA = 4
    HALT = 8
    DISK_ONLY = 16
    REUSE_EXT = 32
    QUIESCE = 64
    ATOMIC = 128
    LIVE = 256
    VALIDATE = 512


class SnapshotRevertFlags(IntFlag):
    """virDomainSnapshotRevertFlags."""

    RUNNING = 1
    PAUSED = 2
    FORCE = 4
    RESET_NVRAM = 8
