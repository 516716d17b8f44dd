# SPDX-License-Identifier: Apache-2.0
"""Asking libvirt again and again how far the jobs are.

Owns: the rounds, and the rate of each job. Invariants: a domain whose hypervisor does not answer holds up no other one
and is not asked a second time meanwhile; a job that waits to be ended is asked less often.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from virtblock.server.core.errors import VirError
from virtblock.server.core.model import BlockJob, JobProgress, JobState

POLL_INTERVAL_S = 0.5
READY_ROUNDS = 5  # between two questions about a job that is READY
THREAD_COUNT = 4

logger = logging.getLogger(__name__)


class Poller:
    """The rounds over the jobs of one connection."""

    def __init__(self, name: str, jobs: Callable[[], Sequence[BlockJob]], poll: Callable[[BlockJob], None]) -> None:
        """`jobs()` gives those to ask about, `poll(job)` asks about one."""
        self._jobs = jobs
        self._poll = poll
        self._is_stopping = threading.Event()
        self._lock = threading.Lock()
        self._asked: set[str] = set()  # domains
        self._workers = ThreadPoolExecutor(THREAD_COUNT, thread_name_prefix=name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Ends after the questions that are under way, but does not wait for an answer longer than this."""
        self._is_stopping.set()
        self._thread.join(timeout_s)
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        round_number = 0
        while not self._is_stopping.wait(POLL_INTERVAL_S):
            round_number += 1
            domains: dict[str, list[BlockJob]] = {}
            for job in self._jobs():
                if job.state is not JobState.READY or round_number % READY_ROUNDS == 0:
                    domains.setdefault(job.domain_uuid, []).append(job)
            for uuid, jobs in domains.items():
                self._ask(uuid, jobs)

    def _ask(self, uuid: str, jobs: list[BlockJob]) -> None:
        with self._lock:
            if uuid in self._asked:
                return
            self._asked.add(uuid)
        self._workers.submit(self._ask_all, uuid, jobs)

    def _ask_all(self, uuid: str, jobs: list[BlockJob]) -> None:
        try:
            for job in jobs:
                if self._is_stopping.is_set():
                    return
                try:
                    self._poll(job)
                except VirError as error:
                    logger.debug("job %s cannot be polled: %s", job.job_id, error)
        except Exception:
            logger.exception("the jobs of domain %s cannot be polled", uuid)
        finally:
            with self._lock:
                self._asked.discard(uuid)


class Rates:
    """How fast each job goes, from one look to the next."""

    def __init__(self) -> None:
        self._looks: dict[str, tuple[float, int]] = {}

    def forget(self, job_id: str) -> None:
        """The job ended, or stands in READY."""
        self._looks.pop(job_id, None)

    def progress(self, job_id: str, info: dict[str, int]) -> JobProgress:
        """The progress that libvirt's (cur, end) means."""
        cur, end = info["cur"], info["end"]
        now_s = time.monotonic()
        before_s, before_bytes = self._looks.get(job_id, (now_s, cur))
        self._looks[job_id] = (now_s, cur)
        rate = int((cur - before_bytes) / (now_s - before_s)) if now_s > before_s and cur > before_bytes else 0
        remaining_bytes = max(end - cur, 0)
        return JobProgress(
            cur=cur,
            end=end,
            total_bytes=end,
            copied_bytes=cur,
            remaining_bytes=remaining_bytes,
            rate_bytes_per_s=rate,
            eta_s=-(-remaining_bytes // rate) if rate else -1,
        )
