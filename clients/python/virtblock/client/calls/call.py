# SPDX-License-Identifier: Apache-2.0
"""What a front end needs to know to make a call.

Owns: `Call` (one answer), `StreamCall` (many) and `Watch` (many, resumed when the connection breaks). Invariants:
frozen and without any connection, so that one and the same description serves both front ends; `timeout_s` None means
no deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from google.protobuf.message import Message

from virtblock.client.model import BlockJobFilter

T = TypeVar("T")
ResponseT = TypeVar("ResponseT", bound=Message)

DEFAULT_TIMEOUT_S = 30.0
"""The deadline of a call that answers without waiting for work to end."""

OnCompacted = Literal["raise", "snapshot"]

CONNECT_SERVICE = "virtblock.v1.ConnectService"
DOMAIN_SERVICE = "virtblock.v1.DomainService"
BLOCK_JOB_SERVICE = "virtblock.v1.BlockJobService"


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how its answer is read."""

    service: str
    rpc: str
    request: Message
    parse: Callable[[bytes], T]
    timeout_s: float | None

    @property
    def path(self) -> str:
        """The method's name on the wire."""
        return f"/{self.service}/{self.rpc}"


@dataclass(frozen=True)
class StreamCall(Call[T | None], Generic[T]):
    """One request and how each message of its stream is read; a message read as None is not shown."""


@dataclass(frozen=True)
class Watch:
    """What to watch, over as many streams as it takes; see `watch.py`."""

    filter: BlockJobFilter | None
    resume_token: str
    include_snapshot: bool
    progress_interval_s: float
    include_bookmarks: bool
    on_compacted: OnCompacted
    timeout_s: float | None


def answer(response_type: type[ResponseT], decode: Callable[[ResponseT], T]) -> Callable[[bytes], T]:
    """How bytes of the wire become the record: typed by both, so that a decoder fits its response."""
    parse: Callable[[bytes], Any] = response_type.FromString
    return lambda data: decode(parse(data))


def nothing(response_type: type[Message]) -> Callable[[bytes], None]:
    """For an answer that holds nothing yet."""
    return answer(response_type, lambda _: None)
