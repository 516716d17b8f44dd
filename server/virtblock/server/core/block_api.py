# SPDX-License-Identifier: Apache-2.0
"""The block-job calls of virDomain*. Signatures first; the bodies follow."""

from __future__ import annotations

from collections.abc import Sequence

from virtblock.server.core.connections import Connections
from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.model import BlockJob, BlockJobInfo, Caller, DomainSelector, TypedParameter


class BlockApi:
    """The seven block-job RPCs of DomainService."""

    def __init__(self, connections: Connections, jobs: JobRegistry) -> None: ...
    def block_rebase(
        self,
        caller: Caller,
        selector: DomainSelector,
        disk: str | None,
        base: str | None,
        bandwidth: int,
        flags: int,
        request_id: str = "",
    ) -> BlockJob:
        raise NotImplementedError

    def block_copy(
        self,
        caller: Caller,
        selector: DomainSelector,
        disk: str | None,
        dest_xml: str | None,
        parameters: Sequence[TypedParameter],
        flags: int,
        request_id: str = "",
        *,
        pivot_persistent: bool = False,
    ) -> BlockJob:
        raise NotImplementedError

    def block_pull(
        self,
        caller: Caller,
        selector: DomainSelector,
        disk: str | None,
        bandwidth: int,
        flags: int,
        request_id: str = "",
    ) -> BlockJob:
        raise NotImplementedError

    def block_commit(
        self,
        caller: Caller,
        selector: DomainSelector,
        disk: str | None,
        base: str | None,
        top: str | None,
        bandwidth: int,
        flags: int,
        request_id: str = "",
    ) -> BlockJob:
        raise NotImplementedError

    def block_job_abort(
        self, caller: Caller, selector: DomainSelector, disk: str | None, flags: int
    ) -> BlockJob | None:
        raise NotImplementedError

    def get_block_job_info(
        self, caller: Caller, selector: DomainSelector, disk: str | None, flags: int
    ) -> BlockJobInfo | None:
        raise NotImplementedError

    def block_job_set_speed(
        self, caller: Caller, selector: DomainSelector, disk: str | None, bandwidth: int, flags: int
    ) -> None: ...
