# SPDX-License-Identifier: Apache-2.0
"""Messages and records say the same; what libvirt tells apart stays apart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtblock.server.core import model
from virtblock.server.core.block_job_api import Bookmark, JobChanged, JobProgressed, MapPicture, WatchItem
from virtblock.server.core.errors import ErrorNumber, VirError
from virtblock.server.core.model import JobState, ParameterType
from virtblock.server.rpc import convert
from virtblock.v1 import block_job_pb2, block_job_service_pb2, common_pb2, domain_block_pb2
from virtblock.v1 import libvirt_enums_pb2 as enums

JOB = model.BlockJob(
    job_id="j1",
    connection_uri="embedded:///",
    domain_uuid="0a0b0c0d-0000-4000-8000-000000000001",
    domain_name="guest",
    disk="vda",
    type=model.BlockJobType.COPY,
    state=JobState.FAILED,
    source_path="/s/\udcff",
    destination_path="/d",
    destination_format="qcow2",
    flags=9,
    bandwidth_bytes_per_s=1 << 63,
    progress=model.JobProgress(1, 2, 3, 4, 5, 6, 7, 8),
    paused=True,
    error=model.JobError(38, 10, "no space", str1="%s", int1=28),
    reason="why",
    is_fallback=True,
    is_restarted=True,
    request_id="r1",
    principal="unix",
    create_time_s=1.5,
    start_time_s=2.25,
    end_time_s=1_700_000_000.123456,
    digest="xxh3:00",
    details={"never": "sent"},
)


def test_every_field_of_a_job_is_sent() -> None:
    message = convert.job_message(JOB)
    unset = {field.name for field in message.DESCRIPTOR.fields} - {field.name for field, _ in message.ListFields()}
    assert unset == {"ready_time"}, "a field that was left out, or a time that never came"
    assert (message.cur, message.end, message.total_bytes, message.eta_s) == (1, 2, 3, 8)
    assert (message.error.number, message.error.int1, message.error.HasField("str2")) == (38, 28, False)
    assert message.source_path == "/s/\\udcff"
    assert message.end_time.ToNanoseconds() == pytest.approx(1_700_000_000_123_456_000, abs=1000)
    assert (message.domain.name, message.domain.id) == ("guest", -1)


@pytest.mark.parametrize("state", JobState)
def test_states_go_both_ways(state: JobState) -> None:
    number = convert.job_message(JOB.with_changes(state=state)).state
    assert block_job_pb2.BlockJobState.Name(number) == f"BLOCK_JOB_STATE_{state.name}"
    assert convert.states_of([number]) == {state}


@pytest.mark.parametrize("number", [0, 4711])
def test_a_state_that_is_none_is_refused(number: int) -> None:
    with pytest.raises(VirError) as refused:
        convert.states_of([block_job_pb2.BlockJobState.ValueType(number)])
    assert refused.value.number == ErrorNumber.INVALID_ARG


def test_the_states_of_the_contract_are_those_of_the_core() -> None:
    assert len(block_job_pb2.BlockJobState.values()) == len(JobState) + 1


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("int_value", -5, ParameterType.INT),
        ("uint_value", 5, ParameterType.UINT),
        ("llong_value", -(1 << 62), ParameterType.LLONG),
        ("ullong_value", (1 << 64) - 1, ParameterType.ULLONG),
        ("double_value", 0.5, ParameterType.DOUBLE),
        ("boolean_value", False, ParameterType.BOOLEAN),
        ("string_value", "", ParameterType.STRING),
    ],
)
def test_typed_parameters_keep_their_type(field: str, value: Any, kind: ParameterType) -> None:
    message = common_pb2.TypedParameter(field="granularity", **{field: value})
    assert convert.parameter_of(message) == model.TypedParameter("granularity", kind, value)
    assert enums.TypedParameterType.Name(enums.TypedParameterType.ValueType(kind)) == f"TYPED_PARAM_{kind.name}"


def test_a_parameter_without_a_value_is_refused() -> None:
    with pytest.raises(VirError) as refused:
        convert.parameters_of([common_pb2.TypedParameter(field="granularity")])
    assert refused.value.number == ErrorNumber.INVALID_ARG


def test_null_and_empty_stay_apart() -> None:
    assert convert.or_null(domain_block_pb2.BlockRebaseRequest(), "base") is None
    assert convert.or_null(domain_block_pb2.BlockRebaseRequest(base=""), "base") == ""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (common_pb2.DomainSelector(), model.DomainSelector()),
        (common_pb2.DomainSelector(name=""), model.DomainSelector(name="")),
        (common_pb2.DomainSelector(id=0), model.DomainSelector(id=0)),
        (common_pb2.DomainSelector(connection_uri="x:///", uuid="u"), model.DomainSelector("x:///", uuid="u")),
    ],
)
def test_a_selector_says_what_was_set(message: common_pb2.DomainSelector, expected: model.DomainSelector) -> None:
    assert convert.selector_of(message) == expected


@given(sequence=st.integers(0, (1 << 63) - 1))
def test_a_resume_token_stands_for_its_sequence(sequence: int) -> None:
    assert convert.resume_sequence(convert.resume_token(sequence)) == sequence


@given(token=st.text(min_size=1).filter(lambda text: not text.startswith("e")))
def test_any_other_token_is_refused(token: str) -> None:
    with pytest.raises(VirError):
        convert.resume_sequence(token)


@pytest.mark.parametrize("token", ["e", "e-1", "e1 ", "e1\n", "e٣", "e" + "9" * 20])
def test_a_token_that_nearly_is_one_is_refused(token: str) -> None:
    with pytest.raises(VirError):
        convert.resume_sequence(token)


@given(cells=st.binary(min_size=1, max_size=400).map(lambda raw: bytes(1 + byte % 6 for byte in raw)))
def test_runs_are_the_cells(cells: bytes) -> None:
    message = convert.map_message(MapPicture(JOB, size_bytes=len(cells) * 512, cell_bytes=512, cells=cells)).map
    unrolled = bytes(run.state for run in message.runs for _ in range(run.cell_count))
    assert unrolled == cells
    assert all(one.state != other.state for one, other in zip(message.runs, message.runs[1:], strict=False))


def test_each_kind_of_event_has_its_payload() -> None:
    progress = model.JobProgress(cur=1, end=9)
    items: list[WatchItem] = [
        JobChanged(3, 1.0, JOB),
        JobProgressed(3, 1.0, "j1", progress),
        Bookmark(3, 1.0, is_snapshot_end=True),
    ]
    events = [convert.watch_message(item, "e3").event for item in items]
    assert [event.WhichOneof("payload") for event in events] == ["job", "progress", "bookmark"]
    assert {(event.sequence, event.resume_token) for event in events} == {(3, "e3")}
    assert (events[1].progress.job_id, events[1].progress.end) == ("j1", 9)
    assert events[2].bookmark.snapshot_end


def test_domain_events_have_libvirts_numbers() -> None:
    domain = model.Domain("embedded:///", "guest", "u")
    lifecycle = convert.domain_event_message(model.LifecycleEvent(domain, event=1, detail=0)).event
    assert (lifecycle.event_id, lifecycle.WhichOneof("payload")) == (enums.DOMAIN_EVENT_ID_LIFECYCLE, "lifecycle")
    ready = model.BlockJobEvent(
        domain, model.DomainEventId.BLOCK_JOB_2, "vda", model.BlockJobType.COPY, model.BlockJobStatus.READY
    )
    event = convert.domain_event_message(ready).event
    assert (event.event_id, event.block_job.disk, event.block_job.status) == (16, "vda", enums.DOMAIN_BLOCK_JOB_READY)
    assert not convert.domain_event_message(None).HasField("event")


def test_a_disk_shows_its_chain_below_the_top() -> None:
    disk = model.Disk(
        "vda", bus="virtio", chain=(model.DiskImage("/top", "qcow2"), model.DiskImage("/mid", "qcow2"),
                                    model.DiskImage("/base", "raw")),
    )  # fmt: skip
    message = convert.disk_message(disk)
    assert (message.source_path, message.format, message.bus) == ("/top", "qcow2", "virtio")
    assert [(image.index, image.path) for image in message.backing_chain] == [(1, "/mid"), (2, "/base")]
    assert convert.disk_message(model.Disk("sda", device="cdrom")).source_path == ""


@pytest.mark.parametrize(
    ("state", "wanted", "reached"),
    [
        (JobState.READY, {JobState.READY}, True),
        (JobState.FAILED, {JobState.READY}, False),
        (JobState.FAILED, set(), True),
        (JobState.RUNNING, set(), False),
    ],
)
def test_a_wait_reached_what_it_waited_for(state: JobState, wanted: set[JobState], reached: bool) -> None:
    assert convert.is_reached(JOB.with_changes(state=state), frozenset(wanted)) is reached


def test_a_wait_without_a_limit_has_none() -> None:
    assert convert.wait_timeout_s(block_job_service_pb2.WaitBlockJobRequest()) is None
    assert convert.wait_timeout_s(block_job_service_pb2.WaitBlockJobRequest(timeout_ms=1500)) == 1.5
    assert convert.wait_timeout_s(block_job_service_pb2.WaitBlockJobRequest(timeout_ms=-1)) == -0.001
