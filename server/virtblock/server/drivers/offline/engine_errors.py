# SPDX-License-Identifier: Apache-2.0
"""The engine's failures in libvirt's numbers.

Owns: one total table from `EngineError.kind` to `VirError`. Invariants: every kind has an entry; path and reason are
always in the message; where libvirt has a text of its own for the mistake, that text is used.

Why these numbers. A running domain's disk that fails in the same way gives libvirt's:
- 1: whatever QEMU refuses (garbage, lock, same file) reaches libvirt as an internal error with QEMU's reason, and so
  does a chain that comes back to itself;
- 38: a failed system call, a missing backing file, and a full disk, with errno;
- 55: a backing file whose format nobody recorded, in libvirt's storage code;
- 67: a destination that exists or has another size, a valid image with a feature that this engine does not handle;
- 78: a copy that was cancelled;
- 88: a path outside the allowed folders, the number of a refused access;
- 103 and 109: no persistent bitmap of that name, and one that says nothing. Bitmaps are what libvirt's checkpoints are
  made of, and these are its numbers for a checkpoint that is not there or cannot be used.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from virtblock.engine import EngineError, PathPolicy, inspect
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report, system_error

KBASE = "https://libvirt.org/kbase/backing_chains.html"


def vir_error(error: EngineError) -> VirError:
    """The libvirt error for a failure of the engine."""
    return _TABLE[error.kind](error)


def opening_error(error: EngineError, top_path: str, policy: PathPolicy) -> VirError:
    """As `vir_error`, for a chain that could not be opened: a missing or unreadable image in libvirt's words."""
    if error.kind == "system" and error.path and error.errno:
        detail = f"Cannot access storage file '{error.path}' (as uid:{os.geteuid()}, gid:{os.getegid()})"
        return system_error(error.errno, detail, domain=ErrorDomain.STORAGE)
    if error.kind == "backing" and error.errno not in (0, errno.ELOOP):
        parent = _parent_of(error.path, top_path, policy)
        ids = f"(as uid:{os.geteuid()}, gid:{os.getegid()})"
        detail = f"Cannot access backing file '{error.path}' of storage file '{parent}' {ids}"
        return system_error(error.errno, detail, domain=ErrorDomain.STORAGE)
    if error.kind == "backing-format":
        return _format_not_recorded(error, policy)
    return vir_error(error)


def creating_error(error: EngineError, disk: str, path: str) -> VirError:
    """As `vir_error`, for a destination that could not be made."""
    if error.kind == "exists":
        return destination_exists(disk, path)
    if error.kind == "system" and error.errno and error.path.startswith(path):
        return system_error(error.errno, f"failed to create copy target '{path}'")
    return vir_error(error)


def destination_exists(disk: str, path: str) -> VirError:
    """A new destination that has content already (67)."""
    detail = f"external destination file for disk {disk} already exists and is not a block device: {path}"
    return report(ErrorNumber.CONFIG_UNSUPPORTED, detail)


def _parent_of(missing_path: str, top_path: str, policy: PathPolicy) -> str:
    """Which image of the chain names the missing file: found by following the headers, the top when that fails."""
    path, image_format = top_path, "qcow2"
    seen: set[str] = set()
    try:
        while path not in seen:
            seen.add(path)
            info = inspect(path, "raw" if image_format == "raw" else "qcow2", policy)
            if info.backing_path is None:
                break
            below = os.path.join(os.path.dirname(info.path), info.backing_path)
            if os.path.realpath(below) == os.path.realpath(missing_path):
                return path
            path, image_format = below, info.backing_format or "raw"
    except EngineError:
        pass  # the chain is broken, which is why we are here
    return top_path


def _system(error: EngineError) -> VirError:
    if not error.errno:
        return report(ErrorNumber.OPERATION_FAILED, str(error))
    place = f": '{error.path}'" if error.path else ""
    return system_error(error.errno, f"{error.reason}{place}")


def _backing(error: EngineError) -> VirError:
    if error.errno not in (0, errno.ELOOP):
        ids = f"(as uid:{os.geteuid()}, gid:{os.getegid()})"
        detail = f"Cannot access backing file '{error.path}' {ids}"
        return system_error(error.errno, detail, domain=ErrorDomain.STORAGE)
    return report(ErrorNumber.INTERNAL_ERROR, str(error), domain=ErrorDomain.STORAGE)


def _backing_format(error: EngineError) -> VirError:
    detail = (
        f"format of backing image was not specified in the image metadata: {error} (See {KBASE} for troubleshooting)"
    )
    return report(ErrorNumber.OPERATION_INVALID, detail, domain=ErrorDomain.STORAGE)


def _space(error: EngineError) -> VirError:
    place = f": '{error.path}'" if error.path else ""
    return system_error(errno.ENOSPC, f"{error.reason}{place}")


def _format_not_recorded(error: EngineError, policy: PathPolicy) -> VirError:
    """libvirt's text, with the name as the image records it."""
    try:
        backing = inspect(error.path, "qcow2", policy).backing_path
    except EngineError:
        return vir_error(error)
    images = f"format of backing image '{backing}' of image '{error.path}'"
    detail = f"{images} was not specified in the image metadata (See {KBASE} for troubleshooting)"
    return report(ErrorNumber.OPERATION_INVALID, detail, domain=ErrorDomain.STORAGE)


def _reported(number: ErrorNumber, domain: int = ErrorDomain.QEMU) -> Callable[[EngineError], VirError]:
    return lambda error: report(number, str(error), domain=domain)


_TABLE: dict[str, Callable[[EngineError], VirError]] = {
    "system": _system,
    "invalid": _reported(ErrorNumber.INVALID_ARG),
    "format": _reported(ErrorNumber.INTERNAL_ERROR),
    "unsupported": _reported(ErrorNumber.CONFIG_UNSUPPORTED),
    "denied": _reported(ErrorNumber.ACCESS_DENIED, ErrorDomain.ACCESS),
    "locked": _reported(ErrorNumber.INTERNAL_ERROR),
    "backing": _backing,
    "backing-format": _backing_format,
    "size": _reported(ErrorNumber.CONFIG_UNSUPPORTED),
    "space": _space,
    "cancelled": _reported(ErrorNumber.OPERATION_ABORTED),
    "memory": _reported(ErrorNumber.NO_MEMORY),
    "exists": _reported(ErrorNumber.CONFIG_UNSUPPORTED),
    "same-file": _reported(ErrorNumber.INTERNAL_ERROR),
    "internal": _reported(ErrorNumber.INTERNAL_ERROR),
    "no-bitmap": _reported(ErrorNumber.NO_DOMAIN_CHECKPOINT, ErrorDomain.DOMAIN_CHECKPOINT),
    "bitmap": _reported(ErrorNumber.CHECKPOINT_INCONSISTENT, ErrorDomain.DOMAIN_CHECKPOINT),
    "changed": _reported(ErrorNumber.OPERATION_FAILED),
}
