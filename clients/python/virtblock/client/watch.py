# SPDX-License-Identifier: Apache-2.0
"""The course of a watch over as many streams as it takes: what to ask for, what to show, when to go on.

Owns: `WatchCourse`, a state machine without any I/O that both front ends drive. Invariants: every change of state that
the server announces after the watch is established is shown once and in order, whatever breaks in between;
`resume_token` is that of what has been shown. A snapshot is shown only as a whole, because a token from its middle
would lose the rest of it.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import replace

import grpc

from virtblock.client import decode, encode
from virtblock.client.calls.call import BLOCK_JOB_SERVICE, StreamCall, Watch, answer
from virtblock.client.errors import COMPACTED, SLOW_READER, VirError
from virtblock.client.model import BlockJobEvent
from virtblock.v1 import block_job_service_pb2 as pb

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
# Enough to get from the first to the longest pause.
_DOUBLING_COUNT_MAX = 10


class WatchCourse:
    """What a watch knows between two messages.

    The driver opens `request()`, hands each message to `take`, shows what `pop` gives, and when a stream ends asks
    `pause_before_next` whether and when to open another one.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._resume_token = watch.resume_token
        self._received_token = watch.resume_token
        self._wants_snapshot = watch.include_snapshot and not watch.resume_token
        self._in_snapshot = False
        self._is_resync = False
        self._snapshot: list[BlockJobEvent] = []
        self._ready: deque[tuple[BlockJobEvent | None, str]] = deque()
        self._last_sequence = -1
        self._failure_count = 0
        self._reached = False
        self._established = False

    @property
    def established(self) -> bool:
        """Whether all that happens from now on will be shown."""
        return self._established

    @property
    def resume_token(self) -> str:
        """Go on after the last event that was shown with it. Empty: nothing was shown yet that one can go on after."""
        return self._resume_token

    def request(self) -> StreamCall[BlockJobEvent]:
        """The next stream to open."""
        self._in_snapshot = self._wants_snapshot and not self._received_token
        self._snapshot.clear()
        request = pb.WatchBlockJobsRequest(
            resume_token=self._received_token,
            filter=encode.block_job_filter(self._watch.filter),
            include_snapshot=self._in_snapshot,
            progress_interval_ms=math.ceil(self._watch.progress_interval_s * encode.MS_PER_S),
        )
        parse = answer(pb.WatchBlockJobsResponse, decode.block_job_event)
        return StreamCall(BLOCK_JOB_SERVICE, "WatchBlockJobs", request, parse, None)

    def take(self, event: BlockJobEvent) -> None:
        """A message came."""
        self._failure_count = 0
        self._reached = True
        if self._in_snapshot:
            self._take_snapshot(event)
        else:
            self._take_live(event)
        self._pass_hidden()

    def _take_snapshot(self, event: BlockJobEvent) -> None:
        if event.bookmark is None or not event.bookmark.snapshot_end:
            if event.job is not None:
                self._snapshot.append(replace(event, resume_token="", is_snapshot=True))
            return
        self._ready.extend((each, "") for each in self._snapshot)
        self._ready.append((event if self._watch.include_bookmarks or self._is_resync else None, event.resume_token))
        self._snapshot.clear()
        self._in_snapshot = self._wants_snapshot = self._is_resync = False
        self._received_token = event.resume_token
        self._last_sequence = event.sequence
        self._established = True

    def _take_live(self, event: BlockJobEvent) -> None:
        self._established = True
        if event.job is not None and event.sequence <= self._last_sequence:
            # The reader has this change, as a bookmark or an earlier stream told; its token would lead back.
            return
        self._received_token = event.resume_token or self._received_token
        if event.progress is None:
            self._last_sequence = max(self._last_sequence, event.sequence)
        is_shown = self._watch.include_bookmarks if event.bookmark is not None else _says_something(event)
        self._ready.append((event if is_shown else None, event.resume_token))

    def pop(self) -> BlockJobEvent | None:
        """The next event to show; None: wait for another message."""
        if not self._ready:
            return None
        event, token = self._ready.popleft()
        self._resume_token = token or self._resume_token
        self._pass_hidden()
        return event

    def _pass_hidden(self) -> None:
        """Go past what is not shown, so that its token can be stored without waiting for the next event."""
        while self._ready and self._ready[0][0] is None:
            _, token = self._ready.popleft()
            self._resume_token = token or self._resume_token

    def pause_before_next(self, error: VirError | None) -> float:
        """How many seconds to wait before opening the next stream, after one that ended by `error`, or without any.

        Raises the error when another stream would not help.
        """
        if error is not None and self._watch.on_compacted == "snapshot" and self._is_token_lost(error):
            self._begin_anew()
            return 0.0
        if error is not None and not self._helps_to_retry(error):
            raise error
        self._failure_count = min(self._failure_count + 1, _DOUBLING_COUNT_MAX)
        pause_s = min(math.ldexp(BACKOFF_FIRST_S, self._failure_count - 1), BACKOFF_MAX_S)
        # Half of it at random, so that all clients of a restarted server do not come back at the same moment.
        return pause_s * random.uniform(0.5, 1.0)

    def _is_token_lost(self, error: VirError) -> bool:
        """Whether the server cannot go on at the token: events since are gone, or the token is none of its own."""
        is_unknown = error.code is grpc.StatusCode.INVALID_ARGUMENT
        return bool(self._received_token) and (error.reason == COMPACTED or is_unknown)

    def _begin_anew(self) -> None:
        self._received_token = ""
        self._last_sequence = -1
        self._wants_snapshot = self._is_resync = True

    def _helps_to_retry(self, error: VirError) -> bool:
        """A server that was never reached is an error at once; later the watch bears what ends by itself."""
        if not self._reached:
            return False
        if error.code is grpc.StatusCode.UNAVAILABLE or error.reason == SLOW_READER:
            return True
        # A server that stops cancels its streams; one that is full refuses new ones. Neither says so as libvirt.
        return not error.reason and error.code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def _says_something(event: BlockJobEvent) -> bool:
    """Whether there is a payload that this client knows."""
    return event.job is not None or event.progress is not None
