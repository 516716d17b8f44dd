# SPDX-License-Identifier: Apache-2.0
"""The native Python client of virtblockd: `AsyncClient` for asyncio, `Client` for blocking programs.

Owns: dialling, typed calls, errors, and watching without missing anything. Invariants: knows the contract alone, never
the server or the engine; answers are records of its own (`model`), failures are `VirError`, and no protobuf is shown.
"""

from __future__ import annotations

import logging

from virtblock.client import errors, flags
from virtblock.client.aio import AsyncBlockJobWatcher, AsyncStream
from virtblock.client.blocking import BlockJobWatcher, Stream
from virtblock.client.calls.call import DEFAULT_TIMEOUT_S
from virtblock.client.clients import AsyncClient, Client
from virtblock.client.enums import (
    BlockBitmapState,
    BlockJobState,
    BlockJobStatus,
    BlockJobType,
    BlockMapCellState,
    DomainEventId,
    DomainEventType,
    DomainState,
    TypedParameterType,
)
from virtblock.client.error_numbers import ErrorDomain, ErrorLevel, ErrorNumber
from virtblock.client.errors import VirError
from virtblock.client.model import (
    FINAL_STATES,
    BlockBitmap,
    BlockInfo,
    BlockJob,
    BlockJobBookmark,
    BlockJobEvent,
    BlockJobFilter,
    BlockJobInfo,
    BlockJobPage,
    BlockJobProgress,
    BlockJobStatusEvent,
    BlockJobWait,
    BlockMap,
    BlockMapRun,
    BlockStats,
    Capabilities,
    ChainImage,
    Connection,
    ConnectionCapabilities,
    Disk,
    Domain,
    DomainEvent,
    DomainInfo,
    DomainLike,
    DomainSelector,
    DomainStateReason,
    ErrorRecord,
    LifecycleEvent,
    Snapshot,
    TypedParameter,
)
from virtblock.client.target import Target, TlsOptions

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "FINAL_STATES",
    "AsyncBlockJobWatcher",
    "AsyncClient",
    "AsyncStream",
    "BlockBitmap",
    "BlockBitmapState",
    "BlockInfo",
    "BlockJob",
    "BlockJobBookmark",
    "BlockJobEvent",
    "BlockJobFilter",
    "BlockJobInfo",
    "BlockJobPage",
    "BlockJobProgress",
    "BlockJobState",
    "BlockJobStatus",
    "BlockJobStatusEvent",
    "BlockJobType",
    "BlockJobWait",
    "BlockJobWatcher",
    "BlockMap",
    "BlockMapCellState",
    "BlockMapRun",
    "BlockStats",
    "Capabilities",
    "ChainImage",
    "Client",
    "Connection",
    "ConnectionCapabilities",
    "Disk",
    "Domain",
    "DomainEvent",
    "DomainEventId",
    "DomainEventType",
    "DomainInfo",
    "DomainLike",
    "DomainSelector",
    "DomainState",
    "DomainStateReason",
    "ErrorDomain",
    "ErrorLevel",
    "ErrorNumber",
    "ErrorRecord",
    "LifecycleEvent",
    "Snapshot",
    "Stream",
    "Target",
    "TlsOptions",
    "TypedParameter",
    "TypedParameterType",
    "VirError",
    "errors",
    "flags",
]

# A program that does not set up logging gets no lines from a library on its terminal.
logging.getLogger("virtblock.client").addHandler(logging.NullHandler())
