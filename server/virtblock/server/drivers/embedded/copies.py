# SPDX-License-Identifier: Apache-2.0
"""The copies of this process that have not ended.

Owns: the look-up from job to `CopyJob`, the one thread that publishes progress, and the order in which all are
parked. Invariants: an ended copy is forgotten; after `close` none is taken in.
"""

from __future__ import annotations

import logging
import threading

from virtblock.server.core.errors import ErrorNumber, report
from virtblock.server.drivers.embedded.copy_job import CopyJob

PROGRESS_INTERVAL_S = 0.2

logger = logging.getLogger(__name__)


class Copies:
    """By job id. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._copies: dict[str, CopyJob] = {}
        self._closing = threading.Event()
        self._ticker: threading.Thread | None = None

    def open(self) -> None:
        """Starts publishing progress."""
        self._ticker = threading.Thread(target=self._tick, name="embedded-progress", daemon=True)
        self._ticker.start()

    def add(self, copy_job: CopyJob) -> None:
        """Takes a copy in; 78 when the server is stopping."""
        with self._lock:
            if self._closing.is_set():
                raise report(ErrorNumber.OPERATION_ABORTED, "the server is stopping")
            self._copies = {key: copy for key, copy in self._copies.items() if not copy.ended.is_set()}
            self._copies[copy_job.job_id] = copy_job

    def find(self, job_id: str) -> CopyJob | None:
        """The copy of a job; None when this process has none."""
        with self._lock:
            return self._copies.get(job_id)

    def close(self) -> None:
        """Parks every copy and stops the ticker."""
        with self._lock:
            self._closing.set()
            copies = list(self._copies.values())
        for copy_job in copies:
            copy_job.park()
        if self._ticker is not None:
            self._ticker.join()

    def _tick(self) -> None:
        while not self._closing.wait(PROGRESS_INTERVAL_S):
            with self._lock:
                copies = [copy for copy in self._copies.values() if not copy.ended.is_set()]
            for copy_job in copies:
                try:
                    copy_job.publish_progress()
                except Exception:
                    # One broken copy must not blind the watchers of all others; its own thread tells how it ended.
                    logger.exception("the progress of job %s could not be read", copy_job.job_id)
