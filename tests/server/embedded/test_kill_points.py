# SPDX-License-Identifier: Apache-2.0
"""Servers that are killed at many moments of copies, pulls and commits: the next one goes on, to the same end.

The moment is a part of the work, told by the engine, so it is the same on a fast machine and on a slow one. What the
engine says is durable is written to shared memory right before the server kills itself, and little of it may be moved
again. The kills between two system calls are in tests/engine/core/test_resume.c.
"""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from server.embedded.house import WAIT_S, House, disk_xml

from virtblock.engine import Copy, Merge
from virtblock.server.core.model import Domain, JobState
from virtblock.server.drivers.offline.context import EngineDoors

MIB = 1024 * 1024
DATA_BYTES = 6 * MIB
BANDWIDTH_BYTES_PER_S = 32 * MIB
INTERVAL_S = 0.02
POINTS = (0.0, 0.2, 0.45, 0.7, 0.9, 1.0)  # of the work; the last one: all of it
REUSE, COPY, RAW, BYTES = 2, 8, 4, 64
ACTIVE, COMMIT_BYTES = 4, 16
PIVOT = 2


class Watched:
    """Work of the engine, and its last figures after it was closed."""

    last: Any = None

    def __init__(self, work: Any) -> None:
        self._work = work
        Watched.last = self
        self.figures: Any = None

    def run(self) -> None:
        try:
            self._work.run()
        finally:
            self.figures = self._work.progress()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def _door(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **options: Watched(make(*arguments, journal_interval_s=INTERVAL_S, **options))


DOORS = EngineDoors(open_copy=_door(Copy), open_pull=_door(Merge.pull), open_commit=_door(Merge.commit))


class Files(NamedTuple):
    """`base <- mid <- top`, what the disk reads as, and where a copy goes."""

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "base.qcow2"

    @property
    def mid(self) -> Path:
        return self.folder / "mid.qcow2"

    @property
    def top(self) -> Path:
        return self.folder / "top.qcow2"

    @property
    def golden(self) -> Path:
        return self.folder / "golden.raw"

    @property
    def copy(self) -> Path:
        return self.folder / "copy"


def _rebase(flags: int) -> Callable[[House, Domain, Files, int], str]:
    return lambda house, domain, files, limit: house.rebase(domain, files.copy, COPY | BYTES | flags, bandwidth=limit)


STARTS: dict[str, Callable[[House, Domain, Files, int], str]] = {
    "copy": _rebase(0),
    "copy to raw": _rebase(RAW),
    "copy onto another": _rebase(REUSE),
    "pull": lambda house, domain, files, limit: house.pull(domain, flags=BYTES, bandwidth=limit),
    "commit": lambda house, domain, files, limit: house.commit(
        domain, files.base, files.mid, COMMIT_BYTES, bandwidth=limit
    ),
    "active commit": lambda house, domain, files, limit: house.commit(
        domain, flags=ACTIVE | COMMIT_BYTES, bandwidth=limit
    ),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, qemu_img: Any) -> Files:
    folder = tmp_path_factory.mktemp("template")
    files = Files(folder)
    raw = folder / "disk.raw"
    raw.write_bytes(os.urandom(DATA_BYTES) + bytes(2 * MIB))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, files.base)
    raw.write_bytes(bytes(MIB // 2) + os.urandom(DATA_BYTES) + bytes(MIB // 2 + MIB))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, files.mid)
    qemu_img("create", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", files.top)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", files.mid)
    qemu_img("convert", "-f", "qcow2", "-O", "raw", files.top, files.golden)
    return files


@pytest.fixture
def shared() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, 4096) as memory:
        yield memory


def _run_and_die(folder: Path, files: Files, kind: str, point: float, shared: mmap.mmap) -> None:
    """In a child: a server that kills itself when this part of the work is done."""
    house = House(folder, doors=DOORS)
    domain = house.define(disk_xml(files.top))
    STARTS[kind](house, domain, files, BANDWIDTH_BYTES_PER_S)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        figures = Watched.last.figures or Watched.last.progress()
        if figures.total_bytes and figures.moved_bytes >= point * figures.total_bytes:
            shared[:16] = struct.pack("<QQ", figures.durable_bytes, figures.total_bytes)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.0005)


def _killed(folder: Path, files: Files, kind: str, point: float, shared: mmap.mmap) -> tuple[int, int]:
    """What was durable, and all the work."""
    child = os.fork()
    if child == 0:
        try:
            _run_and_die(folder, files, kind, point, shared)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    durable_bytes, total_bytes = struct.unpack("<QQ", shared[:16])
    return durable_bytes, total_bytes


def _end(house: House, kind: str) -> Any:
    """Lets the job come to its end; the record."""
    (job,) = house.jobs.list_active() or [None]
    if job is None:
        return None  # it had ended
    (domain,) = house.driver.list_all_domains(0)
    house.driver.domain_block_job_set_speed(domain, "vda", 0, 0)
    if kind in ("pull", "commit"):
        return house.wait(job.job_id, JobState.COMPLETED)
    house.wait_ready(job.job_id)
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    return house.wait(job.job_id, JobState.COMPLETED)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STARTS)
def test_killed_at_many_moments(
    kind: str, template: Files, tmp_path: Path, shared: mmap.mmap, qemu_img: Any, make_house: Callable[..., House]
) -> None:
    resumed_count = 0
    for number, point in enumerate(POINTS):
        files = Files(tmp_path / f"images{number}")
        shutil.copytree(template.folder, files.folder)
        if kind == "copy onto another":
            qemu_img("create", "-f", "qcow2", files.copy, files.golden.stat().st_size)
        folder = tmp_path / f"state{number}"
        folder.mkdir()
        durable_bytes, total_bytes = _killed(folder, files, kind, point, shared)
        Watched.last = None
        house = make_house(folder, doors=DOORS)
        job = _end(house, kind)
        house.stop()
        assert list((folder / "jobs").iterdir()) == [] or job is None
        if Watched.last is not None:
            figures = Watched.last.figures
            left_bytes = figures.total_bytes - figures.resumed_bytes
            if not job.is_restarted:
                assert left_bytes <= total_bytes - durable_bytes + durable_bytes // 20
                resumed_count += figures.resumed_bytes > 0 or kind == "pull"
            assert not (job.is_restarted and durable_bytes > 0)
        written = {"pull": files.top, "commit": files.top, "active commit": files.base}.get(kind, files.copy)
        assert qemu_img.is_same(files.golden, "raw", written, "raw" if kind == "copy to raw" else "qcow2")
        assert not list(files.folder.glob("*partial*"))
    assert resumed_count > 0
