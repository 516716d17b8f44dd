# SPDX-License-Identifier: Apache-2.0
"""A running copy obeys: its speed limit, pause, cancel; its progress is true; and nothing is closed under it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, MIB, copy_image, noisy_raw, reads_same

from virtblock.engine import (
    CELL_COPYING,
    CELL_DIRTY_AGAIN,
    CELL_DONE,
    CELL_FAILED,
    CELL_TODO,
    CELL_ZERO,
    Chain,
    Copy,
    CopyProgress,
    EngineError,
)

DISK_BYTES = 64 * MIB
DATA_BYTES = 32 * MIB
# A copy at this speed is still far from its end whenever a test that waits for its first bytes goes on.
SLOW_BYTES_PER_S = MIB // 4
WAIT_S = 60.0


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk of 64 MiB whose first half is noise."""
    return noisy_raw(tmp_path_factory.mktemp("control") / "disk.raw", DISK_BYTES, [(0, DATA_BYTES)])


class Running:
    """A copy in a thread, with what it ended with."""

    def __init__(self, copy: Copy) -> None:
        self.copy = copy
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.copy.run()
        except BaseException as error:
            self.error = error

    @property
    def is_alive(self) -> bool:
        """Whether run() has not returned yet."""
        return self._thread.is_alive()

    def wait_for(self, is_met: Callable[[CopyProgress], bool]) -> CopyProgress:
        """Poll until a reading meets the condition."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            progress = self.copy.progress()
            if is_met(progress):
                return progress
            time.sleep(0.002)
        raise AssertionError(f"not met within {WAIT_S} s; last {progress}")

    def join(self) -> BaseException | None:
        """Wait for the end; what run() raised."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self.error


@pytest.fixture
def start(source: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts a copy of the source to `tmp_path/copy` in a thread; whatever is left is cancelled and closed."""
    chain = Chain([(str(source), "raw")], ANY_PATH)
    started: list[Running] = []

    def run(image_format: Any = "qcow2", **options: Any) -> Running:
        started.append(Running(Copy(chain, str(tmp_path / "copy"), image_format, ANY_PATH, **options)))
        return started[-1]

    yield run
    for running in started:
        if running.is_alive:
            running.copy.cancel()
            running.copy.resume()
        running.join()
        running.copy.close()
    chain.close()


def test_limit_holds(start: Callable[..., Running]) -> None:
    """32 MiB at 16 MiB/s take two seconds, not much less."""
    running = start(bandwidth_bytes_per_s=16 * MIB)
    assert running.join() is None
    seconds = running.copy.progress().elapsed_ns / 1e9
    assert seconds > 1.5


def test_limit_changes_while_running(start: Callable[..., Running]) -> None:
    """A copy that would take hours ends at once when its limit is lifted, and a new limit slows one down."""
    running = start(bandwidth_bytes_per_s=1)
    assert running.copy.progress().bandwidth_bytes_per_s == 1
    running.copy.set_bandwidth(0)
    assert running.join() is None
    assert running.copy.progress().bandwidth_bytes_per_s == 0


def test_limit_is_lowered_while_running(start: Callable[..., Running]) -> None:
    """After the change, no more moves than the new limit lets through and what the lanes had in hand."""
    running = start(bandwidth_bytes_per_s=8 * MIB)
    running.wait_for(lambda progress: progress.moved_bytes > 0)
    running.copy.set_bandwidth(1 * MIB)
    began_s = time.monotonic()
    before = running.copy.progress().moved_bytes
    time.sleep(1.0)
    moved_bytes = running.copy.progress().moved_bytes - before
    assert moved_bytes <= 4 * MIB + (time.monotonic() - began_s) * MIB


def test_pause_stands_still(start: Callable[..., Running], tmp_path: Path, source: Path, qemu_img: Any) -> None:
    """While paused nothing moves; after it everything arrives."""
    running = start(bandwidth_bytes_per_s=SLOW_BYTES_PER_S)
    running.wait_for(lambda progress: progress.moved_bytes > 0)
    running.copy.pause()
    assert running.wait_for(lambda progress: progress.paused).paused
    before = running.copy.progress()
    time.sleep(0.4)
    while (after := running.copy.progress()).written_bytes != before.written_bytes:  # what the lanes had in hand
        before = after
        time.sleep(0.4)
    assert after.moved_bytes == before.moved_bytes < DATA_BYTES
    assert running.is_alive
    running.copy.set_bandwidth(0)
    running.copy.resume()
    assert running.join() is None
    assert not running.copy.progress().paused
    running.copy.close()
    assert reads_same(qemu_img, source, "raw", tmp_path / "copy", "qcow2")


def test_pause_before_run(start: Callable[..., Running], source: Path, tmp_path: Path) -> None:
    """A copy that is paused before it runs waits, and can be cancelled there."""
    with Chain([(str(source), "raw")], ANY_PATH) as chain:
        copy = Copy(chain, str(tmp_path / "copy"), "raw", ANY_PATH)
        copy.pause()
        running = Running(copy)
        time.sleep(0.2)
        assert running.is_alive
        assert copy.progress().moved_bytes == 0
        copy.cancel()
        error = running.join()
        assert isinstance(error, EngineError)
        assert error.kind == "cancelled"
        copy.close()


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("is_paused", [False, True])
def test_cancel(
    start: Callable[..., Running], tmp_path: Path, qemu_img: Any, image_format: str, is_paused: bool
) -> None:
    """The copy ends soon, with nothing at its name that opens as the disk, and no partial file."""
    running = start(image_format, bandwidth_bytes_per_s=SLOW_BYTES_PER_S)
    running.wait_for(lambda progress: progress.moved_bytes > 0)
    if is_paused:
        running.copy.pause()
    running.copy.cancel()
    error = running.join()
    assert isinstance(error, EngineError)
    assert error.kind == "cancelled"
    progress = running.copy.progress()
    assert progress.phase == "failed"
    assert progress.remaining_bytes > 0
    running.copy.close()
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert (tmp_path / "copy").stat().st_size == 0
    assert qemu_img("info", "-f", "qcow2", tmp_path / "copy", check=False).returncode != 0


def test_cancel_before_run(source: Path, tmp_path: Path) -> None:
    """Cancelled is cancelled, even when run() comes afterwards."""
    with Chain([(str(source), "raw")], ANY_PATH) as chain, Copy(chain, str(tmp_path / "copy"), "raw", ANY_PATH) as copy:
        copy.cancel()
        with pytest.raises(EngineError) as caught:
            copy.run()
        assert caught.value.kind == "cancelled"
    assert (tmp_path / "copy").stat().st_size == 0


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_cancelled_reuse_is_not_a_good_image(
    source: Path, tmp_path: Path, qemu_img: Any, make_image: Any, image_format: Any
) -> None:
    """A reused destination that was begun is marked; the next copy takes it over and completes it."""
    destination = make_image(tmp_path / "copy", image_format, DISK_BYTES)
    with Chain([(str(source), "raw")], ANY_PATH) as chain:
        with Copy(
            chain, str(destination), image_format, ANY_PATH, reuse=True, bandwidth_bytes_per_s=SLOW_BYTES_PER_S
        ) as copy:
            running = Running(copy)
            running.wait_for(lambda progress: progress.moved_bytes > 0)
            copy.cancel()
            assert isinstance(running.join(), EngineError)
        if image_format == "qcow2":
            assert qemu_img("info", "-f", "qcow2", destination, check=False).returncode != 0
        else:
            with destination.open("rb") as file:
                file.seek(DISK_BYTES)
                assert file.read().startswith(b"virtblock: unfinished copy\n")
    copy_image(source, "raw", destination, image_format, reuse=True)
    assert reads_same(qemu_img, source, "raw", destination, image_format)
    if image_format == "qcow2":
        qemu_img.check(destination)
    else:
        assert destination.stat().st_size == DISK_BYTES


def test_progress_is_monotonic_and_adds_up(start: Callable[..., Running]) -> None:
    """moved never falls, remaining never rises once planned, phases only go forward, and the end is exact."""
    running = start(bandwidth_bytes_per_s=SLOW_BYTES_PER_S)
    readings: list[CopyProgress] = []
    while running.is_alive:
        readings.append(running.copy.progress())
        if readings[-1].moved_bytes and len(readings) > 100:
            running.copy.set_bandwidth(64 * MIB)
        time.sleep(0.003)
    assert running.join() is None
    readings.append(running.copy.progress())
    order = ["new", "planning", "copying", "flushing", "done"]
    ranks = [order.index(reading.phase) for reading in readings]
    assert ranks == sorted(ranks)
    moved = [reading.moved_bytes for reading in readings]
    assert moved == sorted(moved)
    planned = [reading for reading in readings if reading.phase in ("copying", "flushing", "done")]
    assert len(planned) > 20
    assert all(reading.total_bytes == DATA_BYTES for reading in planned)
    assert all(reading.moved_bytes <= reading.total_bytes for reading in planned)
    remaining = [reading.remaining_bytes for reading in planned]
    assert remaining == sorted(remaining, reverse=True)
    last = readings[-1]
    assert (last.phase, last.moved_bytes, last.remaining_bytes) == ("done", DATA_BYTES, 0)
    assert (last.size_bytes, last.read_bytes, last.written_bytes) == (DISK_BYTES, DATA_BYTES, DATA_BYTES)
    assert [r.elapsed_ns for r in readings] == sorted(r.elapsed_ns for r in readings)


def test_zeros_in_data_are_found(tmp_path: Path) -> None:
    """Zeros that the source stores as data are not stored again."""
    disk = tmp_path / "zeros.raw"
    disk.write_bytes(bytes(4 * MIB) + b"x" * MIB)
    with Chain([(str(disk), "raw")], ANY_PATH) as chain, Copy(chain, str(tmp_path / "c"), "raw", ANY_PATH) as copy:
        copy.run()
        assert copy.progress().written_bytes == MIB
        assert copy.progress().zero_bytes == 4 * MIB
    assert (tmp_path / "c").stat().st_blocks * 512 <= MIB + 8192


def test_map_shows_the_copy(start: Callable[..., Running]) -> None:
    """Cells tell what is to do, done and zero, at the start, in the middle and at the end."""
    running = start(bandwidth_bytes_per_s=MIB)
    running.wait_for(lambda progress: progress.moved_bytes >= 2 * MIB)
    running.copy.pause()
    cells = running.copy.map(64)
    assert len(cells) == 64
    assert CELL_TODO in cells[:32]
    assert CELL_DONE in cells[:32]
    assert set(cells[:32]) <= {CELL_TODO, CELL_COPYING, CELL_DONE}
    assert set(cells[32:]) == {CELL_ZERO}
    running.copy.set_bandwidth(0)
    running.copy.resume()
    assert running.join() is None
    assert running.copy.map(64) == bytes([CELL_DONE] * 32 + [CELL_ZERO] * 32)
    assert len(running.copy.map(1)) == 1
    assert len(running.copy.map(100_000)) == 100_000


def test_cell_values_are_the_contract() -> None:
    """The numbers travel in messages; they never change."""
    cells = (CELL_TODO, CELL_COPYING, CELL_DONE, CELL_ZERO, CELL_DIRTY_AGAIN, CELL_FAILED)
    assert cells == (1, 2, 3, 4, 5, 6)


def test_nothing_is_closed_under_a_running_copy(start: Callable[..., Running], source: Path, tmp_path: Path) -> None:
    """close() of the copy and of its chain are refused while run() has not returned."""
    with Chain([(str(source), "raw")], ANY_PATH) as chain:
        copy = Copy(chain, str(tmp_path / "copy"), "raw", ANY_PATH, bandwidth_bytes_per_s=SLOW_BYTES_PER_S)
        running = Running(copy)
        running.wait_for(lambda progress: progress.moved_bytes > 0)
        for thing in (copy, chain):
            with pytest.raises(EngineError) as caught:
                thing.close()
            assert caught.value.kind == "invalid"
        assert running.is_alive
        copy.cancel()
        running.join()
        copy.close()
        copy.close()


def test_chain_outlives_its_close_for_a_copy(source: Path, tmp_path: Path, qemu_img: Any) -> None:
    """A chain that is closed before its copy ran stays open for that copy, and for nothing else."""
    chain = Chain([(str(source), "raw")], ANY_PATH)
    copy = Copy(chain, str(tmp_path / "copy"), "raw", ANY_PATH)
    chain.close()
    with pytest.raises(EngineError, match="closed"):
        chain.read(0, 1)
    copy.run()
    copy.close()
    assert reads_same(qemu_img, source, "raw", tmp_path / "copy", "raw")


def test_a_copy_runs_once(source: Path, tmp_path: Path) -> None:
    """A second run() is refused and harms nothing; a closed copy answers nothing."""
    with Chain([(str(source), "raw")], ANY_PATH) as chain:
        copy = Copy(chain, str(tmp_path / "copy"), "raw", ANY_PATH)
        copy.run()
        with pytest.raises(EngineError, match="runs once"):
            copy.run()
        assert copy.progress().phase == "done"
        copy.close()
        for call in (copy.run, copy.cancel, copy.pause, copy.resume, copy.progress, lambda: copy.map(1)):
            with pytest.raises(EngineError, match="closed"):
                call()


def test_many_threads_may_ask(start: Callable[..., Running]) -> None:
    """progress(), map() and the limit from several threads at once do not disturb a copy."""
    running = start(bandwidth_bytes_per_s=64 * MIB)
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            while running.is_alive:
                running.copy.progress()
                running.copy.map(1000)
                running.copy.set_bandwidth(64 * MIB)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert running.join() is None
    for thread in threads:
        thread.join(WAIT_S)
    assert failures == []


def test_dropped_without_close(source: Path, tmp_path: Path) -> None:
    """Objects that are forgotten give back their locks, files and partial files."""
    chain = Chain([(str(source), "raw")], ANY_PATH)
    copy = Copy(chain, str(tmp_path / "copy"), "raw", ANY_PATH)
    del copy, chain
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    copy_image(source, "raw", tmp_path / "copy", "raw")
