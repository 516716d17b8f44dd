# SPDX-License-Identifier: Apache-2.0
"""The engine's journals of jobs: `JOB.journal` in a folder of the state's.

Owns: that folder, and when a journal goes. Invariants: a journal is there only while its job has not ended; the end is
durable before the journal is removed, so that one that is left over belongs to an ended job and goes at the next start.
"""

from __future__ import annotations

import logging
from collections.abc import Set
from pathlib import Path

SUFFIX = ".journal"
_FOLDER_MODE = 0o700

logger = logging.getLogger(__name__)


class Journals:
    """By job id. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder. OSError."""
        folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        self._folder = folder

    def path_of(self, job_id: str) -> str:
        """Where the job's journal is, or is to be."""
        return str(self._folder / f"{job_id}{SUFFIX}")

    def has(self, job_id: str) -> bool:
        """Whether the job has one."""
        return (self._folder / f"{job_id}{SUFFIX}").exists()

    def remove(self, job_id: str) -> None:
        """Of a job that has ended, or is READY."""
        self._unlink(self._folder / f"{job_id}{SUFFIX}")

    def sweep(self, active_ids: Set[str]) -> None:
        """At the start: removes those of jobs that are not active; the process died between an end and the removal."""
        for path in self._folder.glob(f"*{SUFFIX}"):
            if path.name.removesuffix(SUFFIX) not in active_ids:
                self._unlink(path)

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the journal '%s' could not be removed: %s", path, error)
