# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor of a guest while its libvirtd is dead: what happens to a job that nobody follows."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

ANSWER_TIMEOUT_S = 60.0


class Monitor:
    """A connection to the monitor's socket, which takes one at a time. A context manager."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile()
        self._lines.readline()  # the greeting
        self.run("qmp_capabilities")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._socket.close()

    def run(self, command: str, **arguments: Any) -> Any:
        """One command's answer; events between are left out."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            if "event" not in answer:
                assert "return" in answer, answer
                return answer["return"]

    def job_states(self) -> dict[str, str]:
        """QEMU's jobs, by id."""
        return {job["id"]: job["status"] for job in self.run("query-jobs")}
