# SPDX-License-Identifier: Apache-2.0
"""The registry of block jobs: transitions, what becomes durable together, progress, pages, request ids."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.core.samples import DOMAIN, NO_ORIGIN, URI, UUID, Core, sample_job

from virtblock.server.core.errors import ErrorNumber as Number
from virtblock.server.core.errors import VirError, report, system_error
from virtblock.server.core.jobs import (
    ALLOWED,
    BlockJobNotFound,
    JobFilter,
    JobRegistry,
    Origin,
    RequestIdReused,
    job_error,
    libvirt_progress,
)
from virtblock.server.core.model import (
    BlockJob,
    BlockJobEvent,
    BlockJobStatus,
    BlockJobType,
    DomainEventId,
    JobProgress,
    JobState,
)
from virtblock.server.core.store import DomainRecord

FINAL = {JobState.COMPLETED, JobState.CANCELED, JobState.FAILED}


@dataclass
class Clock:
    now_s: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(core: Core, clock: Clock) -> JobRegistry:
    return JobRegistry(core.store, core.events, clock)


def _bring_to(core: Core, state: JobState) -> BlockJob:
    """A new job in this state, by the shortest way."""
    ways = {JobState.NEW: [], JobState.PIVOTING: [JobState.READY, JobState.PIVOTING]}
    job = core.begin(f"disk-{state.value}-{core.events.last_sequence}")
    for step in ways.get(state, [state]):
        job = core.jobs.transition(job.job_id, step)
    return job


@pytest.mark.parametrize(("before", "after"), list(itertools.product(JobState, JobState)))
def test_only_allowed_transitions_happen(core: Core, before: JobState, after: JobState) -> None:
    job = _bring_to(core, before)
    sequence = core.events.last_sequence
    if after in ALLOWED[before]:
        assert core.jobs.transition(job.job_id, after).state is after
        assert core.events.last_sequence == sequence + 1
    else:
        with pytest.raises(VirError, match=f"cannot go from {before.value} to {after.value}") as caught:
            core.jobs.transition(job.job_id, after)
        assert caught.value.number == 1
        assert core.jobs.get(job.job_id) == job
        assert core.events.last_sequence == sequence


def test_no_way_leads_out_of_a_final_state() -> None:
    assert {state for state, following in ALLOWED.items() if not following} == FINAL
    assert all(following >= FINAL for state, following in ALLOWED.items() if state not in FINAL)


def test_begin_sets_what_is_the_registrys(jobs: JobRegistry, clock: Clock) -> None:
    job = jobs.begin(sample_job(state=JobState.READY, job_id="mine"), Origin("tls:CN=x", "r-1", "d"))
    assert job.job_id.startswith("vb-")
    assert (job.state, job.principal, job.request_id) == (JobState.NEW, "tls:CN=x", "r-1")
    assert job.create_time_s == clock.now_s
    assert jobs.get(job.job_id) == job
    clock.now_s += 0.001
    assert jobs.begin(sample_job("vdb"), NO_ORIGIN).job_id > job.job_id


def test_times_are_the_first_ones(jobs: JobRegistry, clock: Clock) -> None:
    job = jobs.begin(sample_job(), NO_ORIGIN)
    for state in (JobState.RUNNING, JobState.READY, JobState.RUNNING, JobState.READY, JobState.CANCELED):
        clock.now_s += 1
        job = jobs.transition(job.job_id, state)
    start = 1_000_000.0
    assert (job.create_time_s, job.start_time_s) == (start, start + 1)
    assert (job.ready_time_s, job.end_time_s) == (start + 2, start + 5)


def test_libvirts_events_follow_ours(core: Core) -> None:
    job = core.begin()
    core.jobs.transition(
        job.job_id, JobState.READY, status=BlockJobStatus.READY, domain=DOMAIN, event_path="/images/vda.qcow2"
    )
    entries = core.events.read(1)
    assert entries[0].job is not None
    assert entries[0].job.state is JobState.READY
    assert [entry.domain_event for entry in entries[1:]] == [
        BlockJobEvent(DOMAIN, event_id, disk, BlockJobType.COPY, BlockJobStatus.READY)
        for event_id, disk in [(DomainEventId.BLOCK_JOB, "/images/vda.qcow2"), (DomainEventId.BLOCK_JOB_2, "vda")]
    ]


def test_a_source_without_a_path_has_one_event(core: Core) -> None:
    """libvirt sends BLOCK_JOB only when the disk is a local file or device."""
    job = core.begin()
    core.jobs.transition(job.job_id, JobState.FAILED, status=BlockJobStatus.FAILED, domain=DOMAIN)
    events = [entry.domain_event for entry in core.events.read(2)]
    assert [event.event_id for event in events if isinstance(event, BlockJobEvent)] == [16]


def test_a_status_needs_the_domain(core: Core) -> None:
    with pytest.raises(ValueError, match="domain"):
        core.jobs.transition(core.begin().job_id, JobState.READY, status=BlockJobStatus.READY)


def test_a_pivot_rewrites_the_domain_with_the_job(core: Core) -> None:
    with core.store.transaction() as transaction:
        transaction.put_domain(DomainRecord(URI, UUID, "test", "<old/>"))
    job = _bring_to(core, JobState.PIVOTING)
    core.jobs.transition(job.job_id, JobState.COMPLETED, domain_xml="<new/>")
    assert core.store.get_domain(URI, UUID) == DomainRecord(URI, UUID, "test", "<new/>")


def test_a_pivot_that_cannot_rewrite_does_not_happen(core: Core) -> None:
    job = _bring_to(core, JobState.PIVOTING)
    sequence = core.events.last_sequence
    with pytest.raises(VirError, match="no stored domain"):
        core.jobs.transition(
            job.job_id, JobState.COMPLETED, domain_xml="<new/>", status=BlockJobStatus.COMPLETED, domain=DOMAIN
        )
    assert core.jobs.get(job.job_id) == job
    assert core.events.last_sequence == sequence
    assert JobRegistry(core.store, core.events).get(job.job_id) == job


def test_a_transition_that_fails_late_is_nowhere(core: Core) -> None:
    """The last of its entries cannot be written: neither disk nor memory has the first."""
    job = core.begin()
    nobody = replace(DOMAIN, name=object())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        core.jobs.transition(job.job_id, JobState.READY, status=BlockJobStatus.READY, domain=nobody)
    assert core.jobs.get(job.job_id) == job
    assert core.events.last_sequence == 1
    assert core.jobs.transition(job.job_id, JobState.CANCELED).state is JobState.CANCELED


def test_a_failed_job_says_why(core: Core) -> None:
    error = system_error(28, "cannot write '/images/vda.new'")
    failed = core.jobs.transition(core.begin().job_id, JobState.FAILED, error=job_error(error))
    assert failed.error is not None
    assert (failed.error.number, failed.error.int1) == (38, 28)
    assert failed.reason == error.message
    silent = core.jobs.transition(core.begin().job_id, JobState.FAILED, reason="the disk is gone")
    assert silent.error == job_error(report(Number.OPERATION_FAILED, "the disk is gone"))
    assert JobRegistry(core.store, core.events).get(failed.job_id) == failed


@pytest.mark.parametrize(
    ("kind", "number"),
    [(BlockJobType.COPY, 83), (BlockJobType.ACTIVE_COMMIT, 83), (BlockJobType.PULL, 84), (BlockJobType.COMMIT, 84)],
)
def test_one_job_per_disk(core: Core, kind: BlockJobType, number: int) -> None:
    first = core.begin(type=kind)
    core.begin("vdb")
    with pytest.raises(VirError) as caught:
        core.begin()
    assert caught.value.number == number
    assert caught.value.str2 == "disk 'vda' already in active block job"
    core.jobs.transition(first.job_id, JobState.CANCELED)
    core.begin()


def test_active_jobs_are_found(core: Core) -> None:
    job, other = core.begin(), core.begin("vdb", connection_uri="other:///")
    assert core.jobs.find_active(URI, UUID, "vda") == job
    assert core.jobs.find_active(URI, UUID, "/images/vda.qcow2") == job
    assert core.jobs.find_active(URI, UUID, "vdb") is None
    assert core.jobs.list_active() == [job, other]
    assert core.jobs.list_active("other:///") == [other]
    assert core.jobs.snapshot() == (2, [job, other])
    core.jobs.transition(job.job_id, JobState.CANCELED)
    assert core.jobs.find_active(URI, UUID, "vda") is None


def test_an_unknown_job(core: Core) -> None:
    calls: list[Callable[[], BlockJob]] = [
        lambda: core.jobs.get("vb-0"),
        lambda: core.jobs.transition("vb-0", JobState.READY),
        lambda: core.jobs.set_paused("vb-0", True),
        lambda: core.jobs.update("vb-0", digest="x"),
    ]
    for call in calls:
        with pytest.raises(BlockJobNotFound) as caught:
            call()
        assert (caught.value.number, caught.value.domain) == (8, 20)
        assert caught.value.message == "invalid argument: block job 'vb-0' not found"


def test_progress_is_never_complete_before_ready(core: Core) -> None:
    job_id = core.begin().job_id
    core.jobs.transition(job_id, JobState.RUNNING)
    core.jobs.set_progress(job_id, JobProgress(cur=100, end=100))
    assert core.jobs.get(job_id).progress.cur == 99
    assert core.jobs.transition(job_id, JobState.READY).progress.cur == 100
    assert core.jobs.transition(job_id, JobState.PIVOTING).progress.cur == 99
    assert core.jobs.transition(job_id, JobState.READY).progress.cur == 100
    assert core.jobs.transition(job_id, JobState.ABORTING).progress.cur == 99
    assert core.jobs.transition(job_id, JobState.CANCELED).progress.cur == 99


def test_progress_lives_in_memory_until_the_next_change(core: Core) -> None:
    job_id = core.begin().job_id
    core.jobs.transition(job_id, JobState.RUNNING)
    sequence = core.events.last_sequence
    core.jobs.set_progress(job_id, JobProgress(cur=10, end=100))
    assert core.jobs.get(job_id).progress.cur == 10
    assert core.jobs.list_jobs(JobFilter())[0][0].progress.cur == 10
    assert core.events.last_sequence == sequence
    assert JobRegistry(core.store, core.events).get(job_id).progress.cur == 0
    core.jobs.transition(job_id, JobState.CANCELED)
    core.jobs.set_progress(job_id, JobProgress(cur=11, end=100))
    assert core.jobs.get(job_id).progress.cur == 10
    assert JobRegistry(core.store, core.events).get(job_id).progress.cur == 10


def test_progress_given_with_a_transition_wins(core: Core) -> None:
    job_id = core.begin().job_id
    core.jobs.set_progress(job_id, JobProgress(cur=10, end=100))
    ready = core.jobs.transition(job_id, JobState.READY, progress=JobProgress(cur=90, end=95))
    assert (ready.progress.cur, ready.progress.end) == (90, 95)


def test_pausing_is_told_once(core: Core) -> None:
    job_id = core.begin().job_id
    core.jobs.set_paused(job_id, True)
    core.jobs.set_progress(job_id, JobProgress(), paused=True)
    core.jobs.set_progress(job_id, JobProgress(), paused=False)
    told = [entry.job.paused for entry in core.events.read(1) if entry.job is not None]
    assert told == [True, False]
    core.jobs.transition(job_id, JobState.CANCELED)
    assert core.jobs.set_paused(job_id, True).paused is False


def test_other_changes_are_durable_and_silent(core: Core) -> None:
    job_id = core.begin().job_id
    core.jobs.change_bandwidth(job_id, 1 << 20)
    core.jobs.update(job_id, details={"journal": "/x"}, is_restarted=True)
    assert core.events.last_sequence == 1
    again = JobRegistry(core.store, core.events).get(job_id)
    assert (again.bandwidth_bytes_per_s, again.details, again.is_restarted) == (1 << 20, {"journal": "/x"}, True)


@pytest.mark.parametrize("field", ["job_id", "domain_uuid", "create_time_s", "progress", "paused"])
def test_identity_and_what_is_watched_do_not_change_silently(core: Core, field: str) -> None:
    with pytest.raises(TypeError):
        core.jobs.update(core.begin().job_id, **{field: getattr(sample_job(), field)})


def test_a_transition_cannot_change_the_identity(core: Core) -> None:
    with pytest.raises(TypeError):
        core.jobs.transition(core.begin().job_id, JobState.READY, disk="vdb")


def test_pages(jobs: JobRegistry, clock: Clock) -> None:
    made = []
    for number in range(7):
        clock.now_s += 1
        made.append(jobs.begin(sample_job(f"vd{number}"), NO_ORIGIN))
    jobs.transition(made[3].job_id, JobState.CANCELED)
    disks, token = [], ""
    while True:
        page, token = jobs.list_jobs(JobFilter(), page_size=3, page_token=token)
        disks.append([job.disk for job in page])
        if not token:
            break
    assert disks == [["vd6", "vd5", "vd4"], ["vd3", "vd2", "vd1"], ["vd0"]]
    assert len(jobs.list_jobs(JobFilter(), include_ended=False)[0]) == 6
    canceled = JobFilter(states=frozenset({JobState.CANCELED}))
    assert [job.disk for job in jobs.list_jobs(canceled, include_ended=False)[0]] == ["vd3"]
    assert [job.disk for job in jobs.list_jobs(JobFilter(disk="vd2"))[0]] == ["vd2"]


def test_a_page_token_belongs_to_its_list(jobs: JobRegistry) -> None:
    for number in range(3):
        jobs.begin(sample_job(f"vd{number}"), NO_ORIGIN)
    token = jobs.list_jobs(JobFilter(), page_size=1)[1]
    for filters, bad in [
        (JobFilter(disk="vd1"), token),
        (JobFilter(), token[:-4]),
        (JobFilter(), "é"),
        (JobFilter(), "x"),
    ]:
        with pytest.raises(VirError, match="page_token") as caught:
            jobs.list_jobs(filters, page_size=1, page_token=bad)
        assert caught.value.number == 8
    with pytest.raises(VirError, match="page_size"):
        jobs.list_jobs(JobFilter(), page_size=-1)


def test_a_request_id_finds_its_job_for_a_day(jobs: JobRegistry, clock: Clock) -> None:
    origin = Origin("unix", "r-1", "digest")
    assert jobs.find_request(origin) is None
    job = jobs.begin(sample_job(), origin)
    jobs.transition(job.job_id, JobState.CANCELED)
    found = jobs.find_request(origin)
    assert found is not None
    assert (found.job_id, found.state) == (job.job_id, JobState.CANCELED)
    assert jobs.find_request(Origin("tls:CN=other", "r-1", "digest")) is None
    assert jobs.find_request(Origin("unix", "", "digest")) is None
    with pytest.raises(RequestIdReused) as caught:
        jobs.find_request(Origin("unix", "r-1", "another"))
    assert caught.value.number == 8
    clock.now_s += 24 * 3600 + 1
    assert jobs.find_request(origin) is None
    assert jobs.begin(sample_job(), origin).job_id != job.job_id


def test_a_request_id_starts_one_job(core: Core) -> None:
    origin = Origin("unix", "r-1", "digest")
    core.jobs.begin(sample_job(), origin)
    with pytest.raises(RequestIdReused):
        core.jobs.begin(sample_job("vdb"), origin)
    assert len(core.jobs.list_active()) == 1


def test_what_a_hypervisor_is_asked_to_begin_is_seen_by_nobody(core: Core) -> None:
    start = core.jobs.prepare(sample_job(), Origin("unix", "r-1", "digest"))
    assert core.jobs.list_active() == []
    assert core.jobs.list_jobs(JobFilter()) == ([], "")
    assert core.jobs.find_request(Origin("unix", "r-1", "digest")) is None
    with pytest.raises(BlockJobNotFound):
        core.jobs.get(start.job.job_id)
    core.jobs.withdraw(start)
    assert core.events.last_sequence == 0
    assert JobRegistry(core.store, core.events).list_active() == []


def test_what_it_has_begun_is_seen_by_everybody(core: Core) -> None:
    origin = Origin("unix", "r-1", "digest")
    job = core.jobs.accept(core.jobs.prepare(sample_job(), origin))
    assert job.state is JobState.NEW
    assert core.jobs.get(job.job_id) == job
    assert core.jobs.list_active() == [job]
    assert core.jobs.find_active(URI, UUID, "vda") == job
    assert core.events.last_sequence == 0, "nothing was written for it"
    assert core.jobs.find_request(origin) == job
    assert core.jobs.snapshot() == (1, [job])
    assert core.jobs.list_jobs(JobFilter())[0] == [job]
    core.jobs.transition(job.job_id, JobState.RUNNING)
    assert [entry.job.state for entry in core.events.read(0) if entry.job] == [JobState.NEW, JobState.RUNNING]


@pytest.mark.parametrize("look", ["list", "snapshot", "request"])
def test_what_looks_at_the_store_sees_it_as_well(core: Core, look: str) -> None:
    origin = Origin("unix", "r-1", "digest")
    job = core.jobs.accept(core.jobs.prepare(sample_job(), origin))
    looks: dict[str, Callable[[], object]] = {
        "list": lambda: core.jobs.list_jobs(JobFilter())[0],
        "snapshot": lambda: core.jobs.snapshot()[1],
        "request": lambda: [core.jobs.find_request(origin)],
    }
    assert looks[look]() == [job]


def test_its_first_change_brings_its_entry_along(core: Core) -> None:
    job = core.jobs.accept(core.jobs.prepare(sample_job(), NO_ORIGIN))
    core.jobs.transition(job.job_id, JobState.CANCELED)
    assert [entry.job.state for entry in core.events.read(0) if entry.job] == [JobState.NEW, JobState.CANCELED]
    assert core.jobs.list_active() == []
    assert JobRegistry(core.store, core.events).get(job.job_id).state is JobState.CANCELED


def test_a_start_cannot_take_a_disk_that_has_a_job(core: Core) -> None:
    start = core.jobs.prepare(sample_job(), NO_ORIGIN)
    job = core.begin()
    with pytest.raises(VirError) as caught:
        core.jobs.accept(start)
    assert caught.value.number == 83
    assert core.jobs.list_active() == [job]
    other = core.jobs.accept(core.jobs.prepare(sample_job("vdb"), NO_ORIGIN))
    with pytest.raises(VirError) as caught:
        core.begin("vdb")
    assert caught.value.number == 83
    assert [one.job_id for one in core.jobs.list_active()] == [job.job_id, other.job_id]


@pytest.mark.parametrize("is_accepted", [False, True])
def test_a_start_of_a_process_that_died_is_entered_by_the_next(core: Core, is_accepted: bool) -> None:
    origin = Origin("unix", "r-1", "digest")
    start = core.jobs.prepare(sample_job(), origin)
    if is_accepted:
        core.jobs.accept(start)
    for _ in range(2):
        later = Core(core.store, core.events, JobRegistry(core.store, core.events))
        assert later.jobs.list_active() == [start.job]
        assert later.jobs.find_request(origin) == start.job
    assert [entry.job for entry in core.events.read(0)] == [start.job.with_changes(details={})]


def test_a_start_that_was_refused_while_its_process_died_yields_to_the_job_that_there_is(core: Core) -> None:
    core.jobs.prepare(sample_job(), NO_ORIGIN)
    job = core.begin()
    again = core.jobs.prepare(sample_job("vdb"), Origin("unix", "r-1", "digest"))
    core.jobs.prepare(sample_job("vdc"), Origin("unix", "r-1", "digest"))
    later = JobRegistry(core.store, core.events)
    assert {one.job_id for one in later.list_active()} == {job.job_id, again.job.job_id}
    with core.store.reading() as reads:
        assert reads.list_starts() == []


@given(st.integers(0, 1 << 63), st.integers(0, 1 << 63), st.booleans())
def test_complete_means_ready(total_bytes: int, remaining_bytes: int, is_ready: bool) -> None:
    cur, end = libvirt_progress(total_bytes, remaining_bytes, is_ready=is_ready)
    assert end == max(total_bytes, 1)
    assert 0 <= cur <= end
    assert is_ready or cur < end
    if remaining_bytes == 0:
        assert cur == (end if is_ready else end - 1)


def test_libvirts_own_figures() -> None:
    """Seen on libvirt 9.0: a 64 MiB disk just before READY, and an empty one."""
    assert libvirt_progress(67108864, 0, is_ready=False) == (67108863, 67108864)
    assert libvirt_progress(0, 0, is_ready=False) == (0, 1)
    assert libvirt_progress(0, 0, is_ready=True) == (1, 1)


def test_the_oldest_ended_jobs_are_forgotten(core: Core, clock: Clock) -> None:
    jobs = JobRegistry(core.store, core.events, clock, kept_count=3, forget_step=2)

    def begin(disk: str, request_id: str = "") -> BlockJob:
        clock.now_s += 1
        return jobs.begin(sample_job(disk), Origin("someone", request_id))

    def disks(registry: JobRegistry) -> list[str]:
        return [job.disk for job in registry.list_jobs(JobFilter())[0]]

    begin("active")
    for disk, request_id in (("requested", "a"), ("0", ""), ("1", ""), ("2", ""), ("3", "")):
        jobs.transition(begin(disk, request_id).job_id, JobState.COMPLETED)
    assert disks(jobs) == ["3", "2", "1", "requested", "active"]
    clock.now_s += 48 * 3600
    begin("later", "b")  # the first request is forgotten with its day
    assert disks(JobRegistry(core.store, core.events, clock, kept_count=2)) == ["later", "3", "active"]
