# SPDX-License-Identifier: Apache-2.0
"""The words in which virsh tells events."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtblock.client import DomainEvent

# By libvirt's number.
EVENT_NAMES = (
    "lifecycle",
    "reboot",
    "rtc-change",
    "watchdog",
    "io-error",
    "graphics",
    "io-error-reason",
    "control-error",
    "block-job",
    "disk-change",
    "tray-change",
    "pm-wakeup",
    "pm-suspend",
    "balloon-change",
    "pm-suspend-disk",
    "device-removed",
    "block-job-2",
    "tunable",
    "agent-lifecycle",
    "device-added",
    "migration-iteration",
    "job-completed",
    "device-removal-failed",
    "metadata-change",
    "block-threshold",
    "memory-failure",
    "memory-device-size-change",
)
# By the number of the type, and then of the detail.
_LIFECYCLE = (
    ("Defined", ("Added", "Updated", "Renamed", "Snapshot")),
    ("Undefined", ("Removed", "Renamed")),
    ("Started", ("Booted", "Migrated", "Restored", "Snapshot", "Event wakeup")),
    (
        "Suspended",
        (
            "Paused",
            "Migrated",
            "I/O Error",
            "Watchdog",
            "Restored",
            "Snapshot",
            "API error",
            "Post-copy",
            "Post-copy Error",
        ),
    ),
    ("Resumed", ("Unpaused", "Migrated", "Snapshot", "Post-copy", "Post-copy Error")),
    ("Stopped", ("Shutdown", "Destroyed", "Crashed", "Migrated", "Saved", "Failed", "Snapshot")),
    ("Shutdown", ("Finished", "Finished after guest request", "Finished after host request")),
    ("PMSuspended", ("Memory", "Disk")),
    ("Crashed", ("Panicked", "Crashloaded")),
)
_JOB_TYPES = ("Unknown job", "Block Pull", "Block Copy", "Block Commit", "Active Block Commit", "Backup")
_JOB_STATUSES = ("completed", "failed", "canceled", "ready")
_UNKNOWN = "unknown"


def event_name(event_id: int) -> str:
    """The event's name, which `--event` takes."""
    return EVENT_NAMES[event_id] if 0 <= event_id < len(EVENT_NAMES) else _UNKNOWN


def job_type_text(job_type: int) -> str:
    """What a block job does."""
    return _JOB_TYPES[job_type] if 0 <= job_type < len(_JOB_TYPES) else _JOB_TYPES[0]


def event_line(event: DomainEvent) -> str:
    """The event in one line, without its end."""
    line = f"event '{event_name(event.event_id)}' for domain '{event.domain.name}'"
    if event.lifecycle is not None:
        line += f": {' '.join(lifecycle_texts(event.lifecycle.event, event.lifecycle.detail))}"
    elif event.block_job is not None:
        job = event.block_job
        line += f": {job_type_text(job.type)} for {job.disk} {status_text(job.status)}"
    return line


def status_text(status: int) -> str:
    """What became of a block job."""
    return _JOB_STATUSES[status] if 0 <= status < len(_JOB_STATUSES) else _UNKNOWN


def lifecycle_texts(event_type: int, detail: int) -> tuple[str, str]:
    """What happened to a domain, and how it came about."""
    if not 0 <= event_type < len(_LIFECYCLE):
        return _UNKNOWN, _UNKNOWN
    name, details = _LIFECYCLE[event_type]
    return name, details[detail] if 0 <= detail < len(details) else _UNKNOWN
