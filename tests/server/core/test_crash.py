# SPDX-License-Identifier: Apache-2.0
"""A process that is killed between any two lines leaves a prefix of its history, whole transactions only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server.core.samples import URI, UUID, Core

from virtblock.server.core.jobs import JobFilter
from virtblock.server.core.model import BlockJobEvent, JobState, LogEntry

TESTS = Path(__file__).resolve().parents[2]


def _run_until_killed(path: Path, after_s: float) -> int:
    """Kills a writer some time after its first step; returns the last sequence that it had announced."""
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "server.core.crash_writer", str(path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=TESTS)
    assert writer.stdout is not None
    first = writer.stdout.readline()
    time.sleep(after_s)
    writer.kill()
    rest = writer.stdout.read()
    writer.stdout.close()
    assert writer.wait() == -9
    # The kill may have cut the last line short.
    whole_lines = (first + rest).rsplit("\n", 1)[0].split()
    return int(whole_lines[-1])


def _check_libvirt_events(entries: list[LogEntry]) -> None:
    """READY and COMPLETED brought libvirt's two events, or nothing of the transition is there."""
    for position, entry in enumerate(entries):
        if entry.job is not None and entry.job.state in (JobState.READY, JobState.COMPLETED):
            events = [following.domain_event for following in entries[position + 1 : position + 3]]
            assert [event.event_id for event in events if isinstance(event, BlockJobEvent)] == [8, 16]


@pytest.mark.fault
def test_a_killed_writer_leaves_a_consistent_prefix(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for after_s in (0.0, 0.013, 0.02, 0.031, 0.047, 0.06, 0.083, 0.11):
        announced = _run_until_killed(path, after_s)
        core = Core.open(path)
        entries = core.events.read(0, 1_000_000)
        assert [entry.sequence for entry in entries] == list(range(1, core.events.last_sequence + 1))
        assert core.events.last_sequence >= announced
        last_states = {entry.job.job_id: entry.job.state for entry in entries if entry.job is not None}
        jobs = core.jobs.list_jobs(JobFilter(), page_size=1000)[0]
        assert {job.job_id: job.state for job in jobs} == dict(list(last_states.items())[-len(jobs) :])
        assert len(core.jobs.list_active()) <= 1
        completed = [job_id for job_id, state in last_states.items() if state is JobState.COMPLETED]
        domain = core.store.get_domain(URI, UUID)
        assert domain is not None
        assert domain.xml == (completed[-1] if completed else "")
        _check_libvirt_events(entries)
        core.store.close()
