# SPDX-License-Identifier: Apache-2.0
"""The registry against a model of a few lines, over restarts: what is allowed, what is kept, what is told."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from server.core.samples import DOMAIN, NO_ORIGIN, URI, UUID, Core, sample_job

from virtblock.server.core.errors import VirError
from virtblock.server.core.jobs import ALLOWED, JobFilter
from virtblock.server.core.model import BlockJobEvent, BlockJobStatus, JobProgress, JobState

DISKS = ["vda", "vdb", "vdc"]


class RegistryMachine(RuleBasedStateMachine):
    """`told` is the log as it must read: a job and its state, or the number of a libvirt event."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.core = Core.open(self.folder / "state.db", tail_count=3)
        self.states: dict[str, JobState] = {}
        self.disks: dict[str, str] = {}
        self.paused: dict[str, bool] = {}
        self.told: list[tuple[str, JobState] | int] = []

    def teardown(self) -> None:
        self.core.store.close()
        shutil.rmtree(self.folder)

    @rule(target=ids, disk=st.sampled_from(DISKS))
    def begin(self, disk: str) -> str:
        holders = [job_id for job_id, held in self._active_disks() if held == disk]
        if holders:
            with pytest.raises(VirError) as caught:
                self.core.jobs.begin(sample_job(disk), NO_ORIGIN)
            assert caught.value.number == 83
            return holders[0]
        job = self.core.jobs.begin(sample_job(disk), NO_ORIGIN)
        self.states[job.job_id], self.disks[job.job_id], self.paused[job.job_id] = JobState.NEW, disk, False
        self.told.append((job.job_id, JobState.NEW))
        return job.job_id

    @rule(target=ids, disk=st.sampled_from(DISKS), is_restarted=st.booleans())
    def begin_elsewhere(self, disk: str, is_restarted: bool) -> str:
        """By a hypervisor; the process may die before its answer."""
        holders = [job_id for job_id, held in self._active_disks() if held == disk]
        start = self.core.jobs.prepare(sample_job(disk), NO_ORIGIN)
        if holders:
            if is_restarted:
                self.restart()
            else:
                self.core.jobs.withdraw(start)
            return holders[0]
        if is_restarted:
            self.restart()
        else:
            self.core.jobs.accept(start)
        job_id = start.job.job_id
        self.states[job_id], self.disks[job_id], self.paused[job_id] = JobState.NEW, disk, False
        self.told.append((job_id, JobState.NEW))
        return job_id

    @rule(job_id=ids, state=st.sampled_from(JobState), status=st.none() | st.sampled_from(BlockJobStatus))
    def transition(self, job_id: str, state: JobState, status: BlockJobStatus | None) -> None:
        if state not in ALLOWED[self.states[job_id]]:
            with pytest.raises(VirError) as caught:
                self.core.jobs.transition(job_id, state, status=status, domain=DOMAIN, event_path="/p")
            assert caught.value.number == 1
            return
        self.core.jobs.transition(job_id, state, status=status, domain=DOMAIN, event_path="/p")
        self.states[job_id] = state
        self.told += [(job_id, state)] if status is None else [(job_id, state), 8, 16]

    @rule(job_id=ids, cur=st.integers(0, 10))
    def progress(self, job_id: str, cur: int) -> None:
        self.core.jobs.set_progress(job_id, JobProgress(cur=cur, end=10))

    @rule(job_id=ids, paused=st.booleans())
    def pause(self, job_id: str, paused: bool) -> None:
        changes = not self.states[job_id].is_final and self.paused[job_id] != paused
        self.core.jobs.set_paused(job_id, paused)
        if changes:
            self.paused[job_id] = paused
            self.told.append((job_id, self.states[job_id]))

    @rule(job_id=consumes(ids), note=st.integers())
    def update(self, job_id: str, note: int) -> None:
        assert self.core.jobs.update(job_id, details={"note": note}).details == {"note": note}

    @rule()
    def restart(self) -> None:
        self.core.store.close()
        self.core = Core.open(self.folder / "state.db", tail_count=3)

    @invariant()
    def every_job_is_known(self) -> None:
        jobs, token = self.core.jobs.list_jobs(JobFilter(), page_size=1000)
        assert token == ""
        assert {job.job_id: job.state for job in jobs} == self.states
        assert {job.job_id: job.paused for job in jobs} == self.paused
        for job in jobs:
            is_complete = job.progress.end > 0 and job.progress.cur == job.progress.end
            assert not is_complete or job.state in (JobState.READY, JobState.COMPLETED)
        active = {job_id for job_id, _ in self._active_disks()}
        assert {job.job_id for job in self.core.jobs.list_active()} == active
        for disk in DISKS:
            found = self.core.jobs.find_active(URI, UUID, disk)
            assert (found is not None) == (disk in {held for _, held in self._active_disks()})

    @invariant()
    def the_log_is_gapless_and_complete(self) -> None:
        self.core.jobs.snapshot()  # enters what was accepted
        entries = self.core.events.read(0, 10_000)
        assert [entry.sequence for entry in entries] == list(range(1, len(self.told) + 1))
        told: list[tuple[str, JobState] | int] = []
        for entry in entries:
            if entry.job is not None:
                told.append((entry.job.job_id, entry.job.state))
            elif isinstance(entry.domain_event, BlockJobEvent):
                told.append(int(entry.domain_event.event_id))
        assert told == self.told

    def _active_disks(self) -> list[tuple[str, str]]:
        return [(job_id, self.disks[job_id]) for job_id, state in self.states.items() if not state.is_final]


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
