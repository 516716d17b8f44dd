# SPDX-License-Identifier: Apache-2.0
"""The engine's jobs of this process that have not ended.

Owns: the look-up from id to `EngineJob`, the one thread that publishes progress, and the order in which all are
parked. Invariants: an ended job is forgotten; after `close` none is taken in.
"""

from __future__ import annotations

import logging
import threading

from virtblock.server.core.errors import ErrorNumber, report
from virtblock.server.drivers.offline.engine_job import EngineJob

PROGRESS_INTERVAL_S = 0.2

logger = logging.getLogger(__name__)


class RunningJobs:
    """By job id. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, EngineJob] = {}
        self._closing = threading.Event()
        self._ticker: threading.Thread | None = None

    def open(self) -> None:
        """Starts publishing progress."""
        self._ticker = threading.Thread(target=self._tick, name="engine-progress", daemon=True)
        self._ticker.start()

    def add(self, job: EngineJob) -> None:
        """Takes a job in; 78 when the server is stopping."""
        with self._lock:
            if self._closing.is_set():
                raise report(ErrorNumber.OPERATION_ABORTED, "the server is stopping")
            self._jobs = {key: one for key, one in self._jobs.items() if not one.ended.is_set()}
            self._jobs[job.job_id] = job

    def find(self, job_id: str) -> EngineJob | None:
        """The job of this id; None when this process does not do it."""
        with self._lock:
            return self._jobs.get(job_id)

    def has_live(self, job_id: str) -> bool:
        """Whether this process does the job."""
        job = self.find(job_id)
        return job is not None and not job.ended.is_set()

    def all_live(self) -> list[EngineJob]:
        """The jobs that this process does."""
        with self._lock:
            return [job for job in self._jobs.values() if not job.ended.is_set()]

    def close(self) -> None:
        """Parks every job and stops the ticker."""
        with self._lock:
            self._closing.set()
            jobs = list(self._jobs.values())
        for job in jobs:
            job.park()
        if self._ticker is not None:
            self._ticker.join()

    def _tick(self) -> None:
        while not self._closing.wait(PROGRESS_INTERVAL_S):
            with self._lock:
                jobs = [job for job in self._jobs.values() if not job.ended.is_set()]
            for job in jobs:
                try:
                    job.publish_progress()
                except Exception:
                    # One broken job must not blind the watchers of all others; its own thread tells how it ended.
                    logger.exception("the progress of job %s could not be read", job.job_id)
