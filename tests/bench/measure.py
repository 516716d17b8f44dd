# SPDX-License-Identifier: Apache-2.0
"""One run of one program: wall time, CPU time and peak memory of its whole process tree, start-up included.

Invariants: the CPU time is user and system of every process that the command started, also of those that outlived it
for a moment: this process is their reaper. The peak is the sum of the peaks of the processes that lived at one moment.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

SAMPLE_INTERVAL_S = 0.01
PR_SET_CHILD_SUBREAPER = 36


class Run(NamedTuple):
    """What one run cost."""

    wall_s: float
    cpu_s: float
    peak_bytes: int

    def __add__(self, other: object) -> Run:
        """A run and then another."""
        if not isinstance(other, Run):
            return NotImplemented
        return Run(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, max(self.peak_bytes, other.peak_bytes))


def adopt_orphans() -> None:
    """Become the reaper of what started programs leave behind; once, before the first run."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class _PeakSampler(threading.Thread):
    """Reads VmHWM of the tree while it lives; ru_maxrss would count what it inherited from this process at its exec."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.peak_bytes = 0

    def run(self) -> None:
        """Until the process has ended."""
        while (now_bytes := self._tree_bytes(self._pid)) > 0:
            self.peak_bytes = max(self.peak_bytes, now_bytes)
            time.sleep(SAMPLE_INTERVAL_S)

    def _tree_bytes(self, pid: int) -> int:
        own_bytes = _high_water_bytes(pid)
        if own_bytes == 0:
            return 0
        return own_bytes + sum(self._tree_bytes(child) for child in _children_of(pid))


def _high_water_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has ended
    return 0


def _children_of(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            return [int(child) for child in children.read().split()]
    except OSError:
        return []


def _reap_orphans() -> float:
    """CPU seconds of what the program left behind; waits until all of it has ended."""
    cpu_s = 0.0
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return cpu_s
        cpu_s += usage.ru_utime + usage.ru_stime


def run(command: Sequence[str], while_it_runs: Callable[[], None] | None = None) -> Run:
    """Run a command to its end, doing something meanwhile. RuntimeError with what it said if it fails."""
    with tempfile.TemporaryFile() as said:
        began_s = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        sampler = _PeakSampler(process.pid)
        sampler.start()
        try:
            if while_it_runs is not None:
                while_it_runs()
        except BaseException:
            process.kill()
            process.wait()
            raise
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.join()
        cpu_s = usage.ru_utime + usage.ru_stime + _reap_orphans()
        if process.returncode != 0:
            said.seek(0)
            words = said.read().decode(errors="replace")
            raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}: {words}")
    return Run(wall_s, cpu_s, sampler.peak_bytes)


def warm_memory(length_bytes: int) -> None:
    """Take memory and give it back, so that the next run finds what the host of a virtual machine has already backed.

    A guest that reports its free pages (virtio-balloon) loses them to the host, and the first touch of each then costs
    seven times as much, for whichever program comes first. Never more than half of what is available.
    """
    length_bytes = min(length_bytes, _available_bytes() // 2)
    with mmap.mmap(-1, max(length_bytes, mmap.PAGESIZE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        pass


def _available_bytes() -> int:
    with open("/proc/meminfo", encoding="ascii") as figures:
        [available] = [line.split()[1] for line in figures if line.startswith("MemAvailable:")]
    return int(available) * 1024


def sync_file(path: Path) -> Run:
    """What it costs to make a file durable whose program did not."""
    began_s, cpu_began_s = time.perf_counter(), time.thread_time()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Run(time.perf_counter() - began_s, time.thread_time() - cpu_began_s, 0)
