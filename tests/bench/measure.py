# SPDX-License-Identifier: Apache-2.0
"""One run of one program: wall time, CPU time and peak memory of the whole process, start-up included."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

SAMPLE_INTERVAL_S = 0.01


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


class _PeakSampler(threading.Thread):
    """Reads VmHWM while the process lives; ru_maxrss would count what it inherited from this process at its exec."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.peak_bytes = 0

    def run(self) -> None:
        """Until the process has ended."""
        while (peak_bytes := self._read()) is not None:
            self.peak_bytes = max(self.peak_bytes, peak_bytes)
            time.sleep(SAMPLE_INTERVAL_S)

    def _read(self) -> int | None:
        try:
            with open(f"/proc/{self._pid}/status", encoding="ascii", errors="replace") as status:
                for line in status:
                    if line.startswith("VmHWM"):
                        return int(line.split()[1]) * 1024
        except OSError:
            pass  # it has ended
        return None


def run(command: Sequence[str]) -> Run:
    """Run a command to its end. RuntimeError with what it said if it fails."""
    began_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    sampler = _PeakSampler(process.pid)
    sampler.start()
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    sampler.join()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}: {said.decode(errors='replace')}")
    return Run(wall_s, usage.ru_utime + usage.ru_stime, sampler.peak_bytes)
