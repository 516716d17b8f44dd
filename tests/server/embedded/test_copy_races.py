# SPDX-License-Identifier: Apache-2.0
"""Calls that meet in the middle of a job's life, with an engine that stops where the test wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.embedded.house import House, disk_xml

from virtblock.engine import EngineError
from virtblock.server.core.errors import VirError
from virtblock.server.core.jobs import JobFilter
from virtblock.server.core.model import Domain, JobState
from virtblock.server.core.store import Transaction
from virtblock.server.drivers.offline.context import EngineDoors

MIB = 1024 * 1024
ASYNC, PIVOT = 1, 2
WAIT_S = 60
STILL_ENDING = (55, 10, "Requested operation is not valid: block job on disk 'vda' is still being ended")


class Stage:
    """An engine whose steps wait for the test. `opening` and `running` are where it is; `go_*` let it on."""

    def __init__(self, top: Any, *, hold_open: Any = False, hold_run: Any = True) -> None:
        self.layer = SimpleNamespace(path=str(top), format="qcow2", is_block_device=False, data_file=None)
        self.opening, self.running = threading.Event(), threading.Event()
        self.go_open, self.go_run = threading.Event(), threading.Event()
        self.is_cancelled = self.is_resumed = False
        self.digest = ""
        self.open_failure = None
        self.open_count = 0
        self.moved_bytes = 0
        if not hold_open:
            self.go_open.set()
        if not hold_run:
            self.go_run.set()

    @property
    def doors(self) -> Any:
        return EngineDoors(self.open_chain, self.open_copy)

    def open_chain(self, layers: Any, policy: Any, *, terminated: Any, lock: Any) -> Any:
        self.open_count += 1
        return SimpleNamespace(
            layers=(self.layer,), size_bytes=4 * MIB, required_bytes=lambda *_, **_options: 0, close=self.close_one
        )

    def open_copy(self, chain: Any, path: Any, image_format: Any, policy: Any, **options: Any) -> Any:
        self.opening.set()
        assert self.go_open.wait(WAIT_S)
        if self.open_failure is not None:
            raise self.open_failure
        self.open_count += 1
        self.path = path
        return self

    def close_one(self) -> None:
        self.open_count -= 1

    close = close_one

    def run(self) -> None:
        self.running.set()
        assert self.go_run.wait(WAIT_S)
        if self.is_cancelled:
            raise EngineError("cancelled", "the copy was cancelled")
        self.moved_bytes = 4 * MIB
        with open(self.path, "wb") as file:
            file.write(b"complete")

    def cancel(self) -> None:
        self.is_cancelled = True
        self.go_run.set()

    def keep_unfinished(self, keeps: bool) -> None:
        pass

    def pause(self) -> None:
        pass

    resume = pause

    def set_bandwidth(self, bytes_per_s: Any) -> None:
        pass

    def map(self, cell_count: Any) -> Any:
        return bytes(cell_count)

    def progress(self) -> Any:
        moved_bytes = self.moved_bytes
        return SimpleNamespace(
            size_bytes=4 * MIB,
            total_bytes=4 * MIB,
            moved_bytes=moved_bytes,
            remaining_bytes=4 * MIB - moved_bytes,
            written_bytes=moved_bytes,
            zero_bytes=0,
            resumed_bytes=0,
        )


class Scene:
    """A house with a stage, a domain, and a destination that is not there yet."""

    def __init__(
        self, make_house: Callable[..., House], make_image: Callable[..., Path], folder: Any, **stage: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.top = folder / "top.qcow2"
        make_image(self.top, "qcow2", 4 * MIB)
        self.stage = Stage(self.top, **stage)
        self.house = make_house(doors=self.stage.doors)
        self.domain = self.house.define(disk_xml(self.top))
        self.destination = folder / "copy.qcow2"

    def start(self) -> Any:
        return self.house.rebase(self.domain, self.destination)

    def abort(self, flags: int = 0) -> None:
        self.house.driver.domain_block_job_abort(self.domain, "vda", flags)

    def in_thread(self, call: Any, *arguments: Any) -> Any:
        """Runs a call beside the test; `outcome` has what it raised or returned."""
        result = SimpleNamespace(outcome=None)

        def run() -> None:
            try:
                result.outcome = call(*arguments)
            except VirError as error:
                result.outcome = error

        result.thread = threading.Thread(target=run)
        result.thread.start()
        return result


@pytest.fixture
def scene(make_house: Callable[..., House], make_image: Callable[..., Path], tmp_path: Path) -> Iterator[Any]:
    scenes: list[Scene] = []

    def make(**stage: Any) -> Any:
        scenes.append(Scene(make_house, make_image, tmp_path / f"scene{len(scenes)}", **stage))
        return scenes[-1]

    yield make
    for one in scenes:
        one.stage.go_open.set()
        one.stage.go_run.set()


def only_job(house: House) -> Any:
    (job,) = house.jobs.list_jobs(JobFilter())[0]
    return job


def joined(call: Any) -> Any:
    call.thread.join(WAIT_S)
    assert not call.thread.is_alive()
    return call.outcome


def test_abort_while_the_images_are_opened(scene: Any) -> None:
    it = scene(hold_open=True)
    starting = it.in_thread(it.start)
    assert it.stage.opening.wait(WAIT_S)
    assert only_job(it.house).state is JobState.NEW
    assert it.house.info(it.domain).end == 1
    it.abort(ASYNC)
    assert only_job(it.house).state is JobState.ABORTING
    it.stage.go_open.set()
    error = joined(starting)
    assert (error.number, error.message) == (78, "operation aborted: block copy of disk 'vda' was aborted")
    assert only_job(it.house).state is JobState.CANCELED
    assert it.stage.open_count == 0
    assert not it.stage.running.is_set()


def test_failure_to_open_after_an_abort_is_an_abort(scene: Any) -> None:
    it = scene(hold_open=True)
    starting = it.in_thread(it.start)
    assert it.stage.opening.wait(WAIT_S)
    ending = it.in_thread(it.abort)
    it.house.wait(only_job(it.house).job_id, JobState.ABORTING)
    it.stage.open_failure = EngineError("locked", "another process uses the image", path="/x")
    it.stage.go_open.set()
    assert joined(ending) is None
    assert joined(starting).number == 1
    assert only_job(it.house).state is JobState.CANCELED


def test_abort_that_comes_after_the_last_byte_keeps_the_copy(scene: Any) -> None:
    """The copy is complete, but the abort was there before READY: CANCELED, and never READY."""
    it = scene()
    job_id = it.start()
    assert it.stage.running.wait(WAIT_S)
    it.stage.cancel = lambda: None  # too late to be noticed
    it.abort(ASYNC)
    it.stage.go_run.set()
    assert it.house.wait(job_id, JobState.CANCELED)
    assert [status for _, _, _, status in it.house.block_events()] == [2, 2]
    assert it.destination.read_bytes() == b"complete"
    assert it.stage.open_count == 0


def test_bug_while_opening_does_not_keep_the_disk(scene: Any) -> None:
    it = scene()
    it.stage.open_failure = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        it.start()
    job = only_job(it.house)
    assert (job.state, job.error.number) == (JobState.FAILED, 1)
    it.stage.open_failure = None
    it.stage.go_run.set()
    it.house.wait_ready(it.start())


@pytest.mark.parametrize("flags", [0, ASYNC, PIVOT, PIVOT | ASYNC])
def test_second_end_while_the_first_is_under_way(scene: Any, refused: Callable[..., VirError], flags: int) -> None:
    it = scene()
    job_id = it.start()
    assert it.stage.running.wait(WAIT_S)
    it.stage.cancel = lambda: setattr(it.stage, "is_cancelled", True)  # noticed later
    first = it.in_thread(it.abort)
    it.house.wait(job_id, JobState.ABORTING)
    assert it.house.disk(it.domain).find("mirror").get("ready") == "abort"
    refused(STILL_ENDING, it.abort, flags)
    it.stage.go_run.set()
    assert joined(first) is None
    assert it.house.jobs.get(job_id).state is JobState.CANCELED


def test_pivot_under_way(scene: Any, refused: Callable[..., VirError], monkeypatch: pytest.MonkeyPatch) -> None:
    it = scene(hold_run=False)
    job_id = it.start()
    it.house.wait_ready(job_id)
    entered, leave = threading.Event(), threading.Event()
    real = it.house.driver._definitions.load

    def slow_load(domain: Domain) -> Any:
        if threading.current_thread().name.startswith("copy-"):
            entered.set()
            assert leave.wait(WAIT_S)
        return real(domain)

    monkeypatch.setattr(it.house.driver._definitions, "load", slow_load)
    first = it.in_thread(it.abort, PIVOT)
    assert entered.wait(WAIT_S)
    assert it.house.jobs.get(job_id).state is JobState.PIVOTING
    assert it.house.disk(it.domain).find("mirror").get("ready") == "pivot"
    leave.set()
    assert joined(first) is None
    assert it.house.jobs.get(job_id).state is JobState.COMPLETED
    assert it.stage.open_count == 0


def test_pivot_that_cannot_be_stored_leaves_the_job_ready(
    scene: Any, refused: Callable[..., VirError], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = scene(hold_run=False)
    job_id = it.start()
    it.house.wait_ready(job_id)
    xml = it.house.xml(it.domain, 2)

    def full(self: Any, record: Any) -> None:
        raise VirError(38, "cannot write the state: No space left on device")

    monkeypatch.setattr(Transaction, "put_domain", full)
    message = "operation failed: block job 'copy-vda-libvirt-1-format' failed while pivoting: "
    with pytest.raises(VirError) as caught:
        it.abort(PIVOT)
    assert caught.value.number == 9
    assert caught.value.message.startswith(message)
    assert "No space left on device" in caught.value.message
    assert it.house.jobs.get(job_id).state is JobState.READY
    assert it.house.xml(it.domain, 2) == xml
    monkeypatch.undo()
    it.abort(PIVOT)
    assert it.house.jobs.get(job_id).state is JobState.COMPLETED
    assert it.house.disk(it.domain, flags=2).find("source").get("file") == str(it.destination)


def test_closing_wakes_a_waiting_abort(scene: Any) -> None:
    it = scene()
    job_id = it.start()
    assert it.stage.running.wait(WAIT_S)
    it.stage.cancel = lambda: None
    waiting = it.in_thread(it.abort)
    it.house.wait(job_id, JobState.ABORTING)
    closing = it.in_thread(it.house.driver.close)
    it.stage.go_run.set()
    assert joined(waiting) is None
    assert joined(closing) is None
    assert it.house.jobs.get(job_id).state is JobState.CANCELED


@pytest.mark.parametrize("flags", [0, PIVOT])
def test_an_end_that_is_asked_for_after_the_close_changes_nothing(scene: Any, flags: int) -> None:
    it = scene(hold_run=False)
    job_id = it.start()
    it.house.wait_ready(job_id)
    it.house.driver.close()
    with pytest.raises(VirError, match="the server is stopping"):
        it.abort(flags)
    assert it.house.jobs.get(job_id).state is JobState.READY


def test_closing_while_the_images_are_opened(scene: Any) -> None:
    it = scene(hold_open=True)
    starting = it.in_thread(it.start)
    assert it.stage.opening.wait(WAIT_S)
    it.house.driver.close()
    it.stage.go_open.set()
    error = joined(starting)
    assert (error.number, error.message) == (78, "operation aborted: the server is stopping")
    assert only_job(it.house).state is JobState.NEW
    assert it.stage.open_count == 0


def test_engine_that_breaks_is_a_failed_job(scene: Any) -> None:
    it = scene()
    job_id = it.start()

    def run() -> None:
        raise ZeroDivisionError("a bug")

    assert it.stage.running.wait(WAIT_S)
    it.stage.cancel()
    it.stage.is_cancelled = False
    it.stage.path = "/nope/x"  # writing it raises what the engine never raises
    job = it.house.wait(job_id, JobState.FAILED)
    assert job.error.number == 1
    assert "vda" in job.reason


def test_many_starts_on_one_disk_give_one_job(scene: Any) -> None:
    it = scene()
    calls = [it.in_thread(it.start) for _ in range(8)]
    outcomes = [joined(call) for call in calls]
    started = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(started) == 1
    assert {error.number for error in outcomes if isinstance(error, VirError)} == {83}
    assert len(it.house.jobs.list_jobs(JobFilter())[0]) == 1


STEPS = st.lists(
    st.sampled_from(["abort", "abort async", "pivot", "pivot async", "info", "speed", "xml", "finish", "restart"]),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_whatever_is_called_a_job_ends_once_and_its_events_tell_it(
    make_house: Callable[..., House], make_image: Callable[..., Path], tmp_path_factory: Any, steps: Any
) -> None:
    it = Scene(make_house, make_image, tmp_path_factory.mktemp("scene"))
    job_id = it.start()
    for step in steps:
        take(it, step)
    take(it, "finish")
    take(it, "abort")
    job = it.house.jobs.get(job_id)
    assert job.state in (JobState.COMPLETED, JobState.CANCELED)
    assert it.stage.open_count == 0
    statuses = [status for event_id, _, _, status in it.house.block_events() if event_id == 16]
    assert statuses in ([3, 0], [3, 2], [2])
    source = it.house.disk(it.domain, flags=2).find("source").get("file")
    assert source == str(it.destination if job.state is JobState.COMPLETED else it.top)


def take(it: Any, step: Any) -> None:
    """One step. It may be refused as too early, too late or too much; what that leaves is judged in the end."""
    try:
        do(it, step)
    except VirError as error:
        if error.number not in (8, 55, 83):
            raise


def do(it: Any, step: Any) -> None:
    driver = it.house.driver
    if step in ("abort", "abort async", "pivot", "pivot async"):
        it.abort((PIVOT if "pivot" in step else 0) | (ASYNC if "async" in step else 0))
    elif step == "info":
        driver.domain_get_block_job_info(it.domain, "vda", 0)
    elif step == "speed":
        driver.domain_block_job_set_speed(it.domain, "vda", 5, 0)
    elif step == "xml":
        driver.domain_get_xml_desc(it.domain, 0)
    elif step == "restart":
        it.house.stop()
        it.stage.is_cancelled = False
        it.stage.go_run.clear()
        it.house.start()
    else:
        it.stage.go_run.set()
        for job in it.house.jobs.list_active():
            wait_settled(it.house, job.job_id)


def wait_settled(house: House, job_id: Any) -> None:
    """Until the job is READY or has ended."""
    settled = threading.Event()
    for _ in range(100 * WAIT_S):
        state = house.jobs.get(job_id).state
        if state is JobState.READY or state.is_final:
            return
        settled.wait(0.01)
    raise AssertionError(f"still {state}")
