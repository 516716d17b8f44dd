# SPDX-License-Identifier: Apache-2.0
"""Whatever breaks a watch and wherever: no change of state is missed and none is shown twice."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import pytest
from client.fake_log import TOKEN, FakeLog
from hypothesis import given
from hypothesis import strategies as st

from virtblock.client import BlockJobEvent, ErrorNumber, ErrorRecord, VirError
from virtblock.client.calls.call import OnCompacted, Watch
from virtblock.client.watch import BACKOFF_FIRST_S, BACKOFF_MAX_S, WatchCourse
from virtblock.v1 import block_job_service_pb2

UNAVAILABLE = VirError(ErrorRecord(ErrorNumber.SYSTEM_ERROR, "gone"), code=grpc.StatusCode.UNAVAILABLE)
SLOW = VirError(
    ErrorRecord(ErrorNumber.RESOURCE_BUSY, "slow"), reason="SLOW_READER", code=grpc.StatusCode.RESOURCE_EXHAUSTED
)
FULL = VirError(ErrorRecord(ErrorNumber.RPC, "full"), code=grpc.StatusCode.RESOURCE_EXHAUSTED)
CANCELLED = VirError(ErrorRecord(ErrorNumber.OPERATION_ABORTED, "stop"), code=grpc.StatusCode.CANCELLED)
COMPACTED = VirError(ErrorRecord(ErrorNumber.OVERFLOW, "old"), reason="COMPACTED", code=grpc.StatusCode.OUT_OF_RANGE)
UNKNOWN_TOKEN = VirError(ErrorRecord(ErrorNumber.INVALID_ARG, "token"), code=grpc.StatusCode.INVALID_ARGUMENT)
# What a stream may end by and be opened again; None: the server ended it without an error.
BREAKS = (UNAVAILABLE, SLOW, FULL, CANCELLED, None)


def _watch(
    *,
    resume_token: str = "",
    include_snapshot: bool = False,
    include_bookmarks: bool = False,
    on_compacted: OnCompacted = "raise",
) -> Watch:
    return Watch(None, resume_token, include_snapshot, 1.0, include_bookmarks, on_compacted, None)


@dataclass(frozen=True)
class Cut:
    """A stream: how many messages it sends, by what it ends, what happens meanwhile and what it repeats."""

    message_count: int
    error: VirError | None
    new_changes: int
    overlap: int


def _stream(course: WatchCourse, log: FakeLog, cut: Cut) -> list[BlockJobEvent]:
    """What is shown of one stream that is cut; the course then is ready for the next one."""
    shown: list[BlockJobEvent] = []
    call = course.request()
    log_error: VirError | None = None
    try:
        for number, message in enumerate(log.messages(call.request, overlap=cut.overlap)):  # type: ignore[arg-type]
            if number == cut.message_count:
                break
            event = call.parse(message.SerializeToString())
            assert event is not None
            course.take(event)
            while (ready := course.pop()) is not None:
                shown.append(ready)
    except LookupError:
        log_error = COMPACTED
    except ValueError:
        log_error = UNKNOWN_TOKEN
    assert course.pause_before_next(log_error or cut.error) <= BACKOFF_MAX_S
    return shown


CUTS = st.builds(Cut, st.integers(0, 12), st.sampled_from(BREAKS), st.integers(0, 3), st.integers(0, 3))
TO_THE_END = Cut(1000, None, 0, 0)


@given(
    head=st.integers(0, 5),
    ended=st.sets(st.integers(1, 5)),
    first_count=st.integers(1, 12),
    cuts=st.lists(CUTS, max_size=6),
    include_snapshot=st.booleans(),
    include_bookmarks=st.booleans(),
)
def test_nothing_is_missed_and_nothing_comes_twice(
    head: int, ended: set[int], first_count: int, cuts: list[Cut], include_snapshot: bool, include_bookmarks: bool
) -> None:
    log = FakeLog(head, ended=ended)
    course = WatchCourse(_watch(include_snapshot=include_snapshot, include_bookmarks=include_bookmarks))
    shown: list[BlockJobEvent] = []
    start = None
    for cut in [Cut(first_count, UNAVAILABLE, 2, 0), *cuts, TO_THE_END]:
        shown += _stream(course, log, cut)
        if start is None and course.established:
            start = log.head
            snapshot = [f"job-{number}" for number in range(1, start + 1) if number not in ended]
        log.head += cut.new_changes
    assert start is not None
    jobs = [event.job.job_id for event in shown if event.job is not None]
    expected = [f"job-{number}" for number in range(start + 1, log.head + 1)]
    assert jobs == (snapshot if include_snapshot else []) + expected
    assert [event.is_snapshot for event in shown if event.job is not None][: len(jobs) - len(expected)] == (
        [True] * len(snapshot) if include_snapshot else []
    )
    assert include_bookmarks or all(event.bookmark is None for event in shown)
    assert course.resume_token == f"{TOKEN}{log.head}"


@given(head=st.integers(0, 4), new=st.integers(0, 6), stored_after=st.integers(0, 30), include_snapshot=st.booleans())
def test_a_stored_token_goes_on_after_what_was_handled(
    head: int, new: int, stored_after: int, include_snapshot: bool
) -> None:
    """A program that stores the token after each event and dies anywhere sees every change, in one of its lives."""
    log = FakeLog(head)
    course = WatchCourse(_watch(include_snapshot=include_snapshot))
    call = course.request()
    handled: list[str] = []
    stored = ""
    messages = list(log.messages(call.request))  # type: ignore[arg-type]
    log.head += new
    for message in [*messages, *list(FakeLog(log.head).messages(_resume(head)))[1:]][:stored_after]:
        event = call.parse(message.SerializeToString())
        assert event is not None
        course.take(event)
        while (ready := course.pop()) is not None:
            handled += [ready.job.job_id] if ready.job is not None else []
            stored = course.resume_token
            assert ready.resume_token in ("", stored)
    second = WatchCourse(_watch(resume_token=stored, include_snapshot=include_snapshot))
    again = [event.job.job_id for event in _stream(second, log, TO_THE_END) if event.job is not None]
    if stored:
        assert handled + again == sorted(set(handled + again), key=lambda name: int(name.split("-")[1]))
        assert len(handled + again) == (head if include_snapshot else 0) + new
    elif include_snapshot:
        assert again == [f"job-{number}" for number in range(1, log.head + 1)]


def _resume(position: int) -> block_job_service_pb2.WatchBlockJobsRequest:
    return block_job_service_pb2.WatchBlockJobsRequest(resume_token=f"{TOKEN}{position}", progress_interval_ms=1)


@pytest.mark.parametrize("error", BREAKS)
def test_what_ends_by_itself_is_borne_once_the_server_was_reached(error: VirError | None) -> None:
    course = WatchCourse(_watch())
    _stream(course, FakeLog(1), Cut(1, error, 0, 0))
    pauses = [course.pause_before_next(error) for _ in range(50)]
    assert pauses[0] >= BACKOFF_FIRST_S / 2
    assert max(pauses) <= BACKOFF_MAX_S
    assert min(pauses[-10:]) >= BACKOFF_MAX_S / 2


@pytest.mark.parametrize("error", [error for error in BREAKS if error is not None])
def test_a_server_that_was_never_reached_is_an_error_at_once(error: VirError) -> None:
    course = WatchCourse(_watch(resume_token=f"{TOKEN}1"))
    course.request()
    with pytest.raises(VirError) as caught:
        course.pause_before_next(error)
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        COMPACTED,
        UNKNOWN_TOKEN,
        VirError(ErrorRecord(ErrorNumber.OPERATION_DENIED, "no"), code=grpc.StatusCode.PERMISSION_DENIED),
        VirError(ErrorRecord(ErrorNumber.RPC, "broken"), code=grpc.StatusCode.INTERNAL),
        VirError(ErrorRecord(ErrorNumber.NO_SUPPORT, "no"), code=grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_what_does_not_end_by_itself_is_raised(error: VirError) -> None:
    course = WatchCourse(_watch())
    _stream(course, FakeLog(1), Cut(1, UNAVAILABLE, 0, 0))
    with pytest.raises(VirError) as caught:
        course.pause_before_next(error)
    assert caught.value is error


def test_compacted_begins_anew_with_a_snapshot_by_choice() -> None:
    log = FakeLog(head=9, oldest=5, ended={1, 2, 3, 4, 5, 6, 7})
    course = WatchCourse(_watch(resume_token=f"{TOKEN}2", on_compacted="snapshot"))
    assert _stream(course, log, TO_THE_END) == []
    assert course.resume_token == f"{TOKEN}2"
    log.head = 9
    shown = _stream(course, log, TO_THE_END)
    assert [(event.job.job_id, event.is_snapshot) for event in shown[:-1] if event.job] == [
        ("job-8", True),
        ("job-9", True),
    ]
    assert shown[-1].bookmark is not None
    assert shown[-1].bookmark.snapshot_end
    log.head = 10
    assert [event.job.job_id for event in _stream(course, log, TO_THE_END) if event.job] == ["job-10"]


def test_a_token_of_another_server_begins_anew_once() -> None:
    course = WatchCourse(_watch(resume_token=f"{TOKEN}99", on_compacted="snapshot"))
    log = FakeLog(head=2)
    assert _stream(course, log, TO_THE_END) == []
    assert [event.job.job_id for event in _stream(course, log, TO_THE_END) if event.job] == ["job-1", "job-2"]
    # Without a token the same code means something else, and would never end.
    other = WatchCourse(_watch(on_compacted="snapshot"))
    other.request()
    with pytest.raises(VirError, match="token"):
        other.pause_before_next(UNKNOWN_TOKEN)


def test_a_payload_of_a_newer_server_is_passed_over() -> None:
    course = WatchCourse(_watch())
    course.request()
    course.take(BlockJobEvent(7, f"{TOKEN}7", None))
    assert course.pop() is None
    assert course.resume_token == f"{TOKEN}7"
