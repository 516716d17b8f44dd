# SPDX-License-Identifier: Apache-2.0
"""The registry of block jobs. Signatures first; the bodies follow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from virtblock.server.core.errors import VirError
from virtblock.server.core.events import EventLog
from virtblock.server.core.model import BlockJob, BlockJobStatus, Domain, JobError, JobProgress, JobState
from virtblock.server.core.store import Store


@dataclass(frozen=True)
class Origin:
    """Who started a job, and under which request id (empty: none)."""

    principal: str = ""
    request_id: str = ""
    request_digest: str = ""


@dataclass(frozen=True)
class JobFilter:
    """Which jobs are meant; what is empty matches everything."""

    connection_uri: str = ""
    domain_uuid: str = ""
    disk: str = ""
    states: frozenset[JobState] = frozenset()

    def matches(self, job: BlockJob) -> bool:
        raise NotImplementedError


class BlockJobNotFound(VirError):
    """No job of this id (8). rpc: NOT_FOUND, reason BLOCK_JOB_NOT_FOUND."""


class RequestIdReused(VirError):
    """The same request id came with other arguments (8). rpc: ALREADY_EXISTS, reason REQUEST_ID_REUSED."""


def libvirt_progress(total_bytes: int, remaining_bytes: int, *, is_ready: bool) -> tuple[int, int]:
    """libvirt's (cur, end)."""
    raise NotImplementedError


class JobRegistry:
    def __init__(self, store: Store, events: EventLog, clock: Callable[[], float] = time.time) -> None: ...
    def begin(self, job: BlockJob, origin: Origin) -> BlockJob:
        """Raises 83/84 when the disk has an active job."""
        raise NotImplementedError

    def get(self, job_id: str) -> BlockJob:
        raise NotImplementedError

    def find_active(self, connection_uri: str, domain_uuid: str, disk: str) -> BlockJob | None:
        """By target, or by source path when `disk` begins with "/"."""
        raise NotImplementedError

    def list_active(self, connection_uri: str = "") -> list[BlockJob]:
        raise NotImplementedError

    def list_jobs(
        self, filters: JobFilter, *, include_ended: bool = True, page_size: int = 0, page_token: str = ""
    ) -> tuple[list[BlockJob], str]:
        raise NotImplementedError

    def snapshot(self) -> tuple[int, list[BlockJob]]:
        """The last sequence, and the active jobs exactly as of it."""
        raise NotImplementedError

    def transition(
        self,
        job_id: str,
        state: JobState,
        *,
        status: BlockJobStatus | None = None,
        domain: Domain | None = None,
        event_path: str = "",
        error: JobError | None = None,
        reason: str = "",
        domain_xml: str | None = None,
        **changes: Any,
    ) -> BlockJob:
        raise NotImplementedError

    def update(self, job_id: str, **changes: Any) -> BlockJob:
        """Durable change of fields other than the state (e.g. `details`), without an entry in the log."""
        raise NotImplementedError

    def change_bandwidth(self, job_id: str, bandwidth_bytes_per_s: int) -> BlockJob:
        raise NotImplementedError

    def set_paused(self, job_id: str, paused: bool) -> BlockJob:
        """Durable, with an entry in the log when it changes."""
        raise NotImplementedError

    def set_progress(self, job_id: str, progress: JobProgress, paused: bool | None = None) -> None:
        """In memory only; watchers look at it at their own pace. `paused`, when it changes, is `set_paused`."""

    def find_request(self, origin: Origin) -> BlockJob | None:
        raise NotImplementedError
