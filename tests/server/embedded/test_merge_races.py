# SPDX-License-Identifier: Apache-2.0
"""Calls that meet in the middle of a pull or commit, with an engine that stops where the test wants it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from server.embedded.house import House, disk_xml

from virtblock.engine import EngineError, inspect
from virtblock.server.core.errors import VirError
from virtblock.server.core.jobs import JobFilter
from virtblock.server.core.model import JobState
from virtblock.server.core.store import Transaction
from virtblock.server.drivers.offline.context import EngineDoors

MIB = 1024 * 1024
SHALLOW, DELETE, ACTIVE = 1, 2, 4
ASYNC, PIVOT = 1, 2
WAIT_S = 60


class Stage:
    """The engine's pulls and commits, whose steps wait for the test; at the end the reference is changed by qemu."""

    def __init__(self, qemu_img: Any) -> None:
        self._qemu_img = qemu_img
        self.opening, self.running = threading.Event(), threading.Event()
        self.go_open, self.go_run = threading.Event(), threading.Event()
        self.go_open.set()
        self.open_failure: Exception | None = None
        self.run_failure: EngineError | None = None
        self.changes_reference = True
        self.ignores_cancel = False
        self.is_cancelled = self.is_resumed = False
        self.is_open = False

    @property
    def doors(self) -> EngineDoors:
        return EngineDoors(open_pull=self.open_pull, open_commit=self.open_commit)

    def open_pull(self, layers: Any, policy: Any, *, base_index: int | None, **more: Any) -> Any:
        return self._open(layers, policy, 0, base_index, more["backing_path"])

    def open_commit(self, layers: Any, policy: Any, *, top_index: int, base_index: int, **more: Any) -> Any:
        return self._open(layers, policy, top_index - 1, base_index, more["backing_path"])

    def _open(self, layers: Any, policy: Any, holder: int, base: int | None, reference: str | None) -> Any:
        self.opening.set()
        assert self.go_open.wait(WAIT_S)
        if self.open_failure is not None:
            raise self.open_failure
        self.layers = tuple(inspect(path, image_format, policy) for path, image_format in layers)
        self._holder = None if holder < 0 else layers[holder][0]
        self._reference = "" if base is None else reference or layers[base][0]
        self.is_open = True
        return self

    def run(self) -> None:
        self.running.set()
        assert self.go_run.wait(WAIT_S)
        if self.is_cancelled:
            raise EngineError("cancelled", "The merge was cancelled")
        if self.changes_reference and self._holder is not None:
            words = ("-b", self._reference, "-F", "qcow2") if self._reference else ("-b", "")
            self._qemu_img("rebase", "-u", "-f", "qcow2", *words, self._holder)
        if self.run_failure is not None:
            raise self.run_failure

    def cancel(self) -> None:
        if not self.ignores_cancel:
            self.is_cancelled = True
            self.go_run.set()

    def keep_unfinished(self, keeps: bool) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def set_bandwidth(self, bytes_per_s: int) -> None: ...

    def map(self, cell_count: int) -> bytes:
        return bytes(cell_count)

    def progress(self) -> Any:
        return SimpleNamespace(
            size_bytes=4 * MIB,
            total_bytes=MIB,
            moved_bytes=MIB,
            remaining_bytes=0,
            written_bytes=MIB,
            zero_bytes=0,
            resumed_bytes=0,
        )

    def close(self) -> None:
        self.is_open = False


class Scene:
    """`base <- mid <- top`, all named by the definition."""

    def __init__(self, make_house: Callable[..., House], make_image: Any, qemu_img: Any, folder: Path) -> None:
        self.base = make_image(folder / "base.qcow2", "qcow2", 4 * MIB)
        self.mid = make_image(folder / "mid.qcow2", "qcow2", backing=self.base, backing_format="qcow2")
        self.top = make_image(folder / "top.qcow2", "qcow2", backing=self.mid, backing_format="qcow2")
        self.stage = Stage(qemu_img)
        self.house = make_house(doors=self.stage.doors)
        store = "<backingStore type='file'><format type='qcow2'/><source file='{}'/>{}</backingStore>"
        more = store.format(self.mid, store.format(self.base, "<backingStore/>"))
        self.domain = self.house.define(disk_xml(self.top, more=more))

    def start(self, kind: str) -> str:
        if kind == "pull":
            return self.house.pull(self.domain)
        if kind == "commit":
            return self.house.commit(self.domain, self.base, self.mid, DELETE)
        return self.house.commit(self.domain, None, None, ACTIVE | DELETE)

    def abort(self, flags: int = 0) -> None:
        self.house.driver.domain_block_job_abort(self.domain, "vda", flags)

    @property
    def named(self) -> list[str]:
        """The images that the definition names, from the top."""
        sources = self.house.disk(self.domain, flags=2).iter("source")
        return [os.path.basename(source.get("file")) for source in sources]

    @property
    def statuses(self) -> list[int]:
        """libvirt's events on the target, by status."""
        return [status for event_id, _, _, status in self.house.block_events() if event_id == 16]

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


ALL = ["top.qcow2", "mid.qcow2", "base.qcow2"]
LEFT = {"pull": ["top.qcow2"], "commit": ["top.qcow2", "base.qcow2"]}
KINDS = ["pull", "commit", "active commit"]


@pytest.fixture
def it(make_house: Callable[..., House], make_image: Any, qemu_img: Any, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(make_house, make_image, qemu_img, tmp_path)
    yield scene
    scene.stage.go_open.set()
    scene.stage.go_run.set()


def only_job(house: House) -> Any:
    (job,) = house.jobs.list_jobs(JobFilter())[0]
    return job


def joined(call: Any) -> Any:
    call.thread.join(WAIT_S)
    assert not call.thread.is_alive()
    return call.outcome


@pytest.mark.parametrize("kind", KINDS)
def test_abort_while_the_images_are_opened(it: Scene, kind: str) -> None:
    it.stage.go_open.clear()
    starting = it.in_thread(it.start, kind)
    assert it.stage.opening.wait(WAIT_S)
    assert only_job(it.house).state is JobState.NEW
    it.abort(ASYNC)
    it.stage.go_open.set()
    error = joined(starting)
    noun = "pull" if kind == "pull" else "commit"
    assert (error.number, error.message) == (78, f"operation aborted: block {noun} of disk 'vda' was aborted")
    assert only_job(it.house).state is JobState.CANCELED
    assert not it.stage.is_open and not it.stage.running.is_set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("failure", "number"),
    [
        (EngineError("locked", "Another process uses the image", path="/x"), 1),
        (EngineError("unsupported", "Internal snapshots", path="/x"), 67),
        (EngineError("system", "Cannot open image", errno=5, path="/x"), 38),
    ],
)
def test_images_that_cannot_be_opened_fail_the_call_and_the_job(
    it: Scene, kind: str, failure: EngineError, number: int
) -> None:
    it.stage.open_failure = failure
    with pytest.raises(VirError) as caught:
        it.start(kind)
    assert caught.value.number == number
    assert "/x" in caught.value.message
    job = only_job(it.house)
    assert (job.state, job.error.number, job.error.message) == (JobState.FAILED, number, caught.value.message)
    assert it.house.block_events() == []
    it.stage.open_failure = None
    it.start(kind)


@pytest.mark.parametrize("kind", LEFT)
def test_abort_that_comes_after_the_change_completes(it: Scene, kind: str) -> None:
    """The backing reference is another one: the definition follows, and the abort returns without an error."""
    job_id = it.start(kind)
    assert it.stage.running.wait(WAIT_S)
    it.stage.ignores_cancel = True
    ending = it.in_thread(it.abort)
    it.house.wait(job_id, JobState.ABORTING)
    it.stage.go_run.set()
    assert joined(ending) is None
    assert it.house.jobs.get(job_id).state is JobState.COMPLETED
    assert it.named == LEFT[kind]
    assert it.statuses == [0]
    assert not it.stage.is_open


def test_abort_that_comes_after_the_last_byte_of_an_active_commit(it: Scene) -> None:
    job_id = it.start("active commit")
    assert it.stage.running.wait(WAIT_S)
    it.stage.ignores_cancel = True
    it.abort(ASYNC)
    it.stage.go_run.set()
    it.house.wait(job_id, JobState.CANCELED)
    assert it.named == ALL
    assert it.statuses == [2]
    assert it.top.exists()


@pytest.mark.parametrize("kind", LEFT)
def test_abort_while_the_end_is_recorded(it: Scene, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the end, which is COMPLETED; a pivot is told that there is no mirror."""
    entered, leave = threading.Event(), threading.Event()
    definitions = it.house.driver._definitions
    real = definitions.load

    def slow_load(domain: Any) -> Any:
        if threading.current_thread().name.startswith(kind):
            entered.set()
            assert leave.wait(WAIT_S)
        return real(domain)

    monkeypatch.setattr(definitions, "load", slow_load)
    job_id = it.start(kind)
    it.stage.go_run.set()
    assert entered.wait(WAIT_S)
    job = it.house.driver._running.find(job_id)
    assert job is not None
    job.request_abort(lambda record: None)
    assert it.house.jobs.get(job_id).state is JobState.RUNNING
    waiting = it.in_thread(job.wait_for_end)
    leave.set()
    assert joined(waiting) is None
    assert it.house.jobs.get(job_id).state is JobState.COMPLETED
    assert it.named == LEFT[kind]


@pytest.mark.parametrize("kind", LEFT)
def test_failure_after_the_change_is_told_and_the_definition_follows(it: Scene, kind: str) -> None:
    it.stage.run_failure = EngineError("system", "Cannot sync", errno=5, path="/x")
    job_id = it.start(kind)
    it.stage.go_run.set()
    job = it.house.wait(job_id, JobState.FAILED)
    assert (job.error.number, job.error.int1) == (38, 5)
    assert it.named == LEFT[kind]
    assert it.statuses == [1]
    assert it.mid.exists()  # what failed deletes nothing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("code", "number"), [(5, 38), (28, 38)])
def test_failure_before_the_change_leaves_the_definition(it: Scene, kind: str, code: int, number: int) -> None:
    it.stage.changes_reference = False
    kinds = {5: "system", 28: "space"}
    it.stage.run_failure = EngineError(kinds[code], "Cannot write", errno=code, path="/x")  # type: ignore[arg-type]
    job_id = it.start(kind)
    it.stage.go_run.set()
    job = it.house.wait(job_id, JobState.FAILED)
    assert (job.error.number, job.error.int1) == (number, code)
    assert "/x" in job.reason
    assert it.named == ALL
    assert it.statuses == [1]
    it.stage.run_failure, it.stage.changes_reference = None, True
    it.start(kind)  # the disk is free


@pytest.mark.parametrize("kind", LEFT)
def test_end_that_cannot_be_stored_is_recorded_after_a_restart(
    it: Scene, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, record: Any) -> None:
        raise VirError(38, "cannot write the state: No space left on device")

    monkeypatch.setattr(Transaction, "put_domain", full)
    job_id = it.start(kind)
    job = it.house.driver._running.find(job_id)
    it.stage.go_run.set()
    assert job is not None and job.ended.wait(WAIT_S)
    assert it.house.jobs.get(job_id).state is JobState.RUNNING
    assert it.mid.exists()
    monkeypatch.undo()
    it.house.restart()
    assert it.house.jobs.get(job_id).state is JobState.COMPLETED
    assert it.named == LEFT[kind]
    assert it.mid.exists() == (kind == "pull")


def test_pivot_that_cannot_be_stored_leaves_the_commit_ready(it: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, record: Any) -> None:
        raise VirError(38, "cannot write the state: No space left on device")

    job_id = it.start("active commit")
    it.stage.go_run.set()
    it.house.wait_ready(job_id)
    monkeypatch.setattr(Transaction, "put_domain", full)
    with pytest.raises(VirError, match="No space left") as caught:
        it.abort(PIVOT)
    assert "'commit-vda-libvirt-1-format' failed while pivoting" in caught.value.message
    assert caught.value.number == 9
    assert it.house.jobs.get(job_id).state is JobState.READY
    assert it.named == ALL
    assert it.top.exists()
    monkeypatch.undo()
    it.abort(PIVOT)
    assert it.named == ["base.qcow2"]
    assert not it.top.exists() and not it.mid.exists()


@pytest.mark.parametrize(("harm", "number"), [("removed", 38), ("replaced", 9)])
def test_pivot_to_a_base_that_is_not_there(it: Scene, harm: str, number: int) -> None:
    job_id = it.start("active commit")
    it.stage.go_run.set()
    it.house.wait_ready(job_id)
    it.base.rename(it.base.with_name("hidden"))
    if harm == "replaced":
        it.base.write_bytes(b"another")
    with pytest.raises(VirError) as caught:
        it.abort(PIVOT)
    assert caught.value.number == number
    assert str(it.base) in caught.value.message
    assert it.house.jobs.get(job_id).state is JobState.READY


@pytest.mark.parametrize("kind", KINDS)
def test_closing_while_it_runs_parks_it(it: Scene, kind: str) -> None:
    job_id = it.start(kind)
    assert it.stage.running.wait(WAIT_S)
    it.house.stop()
    assert not it.stage.is_open
    it.stage.is_cancelled = False
    it.house.start()
    it.stage.go_run.set()
    state = JobState.READY if kind == "active commit" else JobState.COMPLETED
    assert it.house.wait(job_id, state).is_restarted == (kind != "pull")


def test_files_that_delete_must_not_touch(it: Scene) -> None:
    """Another file under the name of a committed image stays."""
    job_id = it.start("commit")
    assert it.stage.running.wait(WAIT_S)
    it.mid.rename(it.mid.with_name("moved"))
    it.mid.write_bytes(b"another")
    it.stage.go_run.set()
    it.house.wait(job_id, JobState.COMPLETED)
    job = it.house.driver._running.find(job_id)
    assert job is not None and job.ended.wait(WAIT_S)
    assert it.mid.read_bytes() == b"another"
    assert it.mid.with_name("moved").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_live_xml_shows_the_chain_of_the_beginning_until_the_end(it: Scene, kind: str) -> None:
    before = [source.get("file") for source in it.house.disk(it.domain).iter("source")]
    job_id = it.start(kind)
    assert it.stage.running.wait(WAIT_S)
    it.mid.rename(it.mid.with_name("hidden"))  # what the files say does not count now
    shown = it.house.disk(it.domain)
    mirror = shown.find("mirror")
    assert (mirror is not None) == (kind == "active commit")
    if mirror is not None:
        shown.remove(mirror)
    assert [source.get("file") for source in shown.iter("source")] == before
    it.mid.with_name("hidden").rename(it.mid)
    it.abort()
    assert it.house.jobs.get(job_id).state is JobState.CANCELED
