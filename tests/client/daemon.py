# SPDX-License-Identifier: Apache-2.0
"""A `virtblockd` with the embedded hypervisor for the client's tests."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

START_TIMEOUT_S = 120


class Daemon:
    """virtblockd on a socket, which can be stopped and started anew on the same state."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.target = f"unix:{folder}/sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        ready, ready_write = os.pipe()
        arguments = [
            "--listen",
            self.target,
            "--state-dir",
            str(self._folder / "state"),
            "--ready-fd",
            str(ready_write),
        ]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "virtblock.server.cli", *arguments],
                stderr=log,
                stdin=subprocess.DEVNULL,
                pass_fds=(ready_write,),
            )
        os.close(ready_write)
        try:
            select.select([ready], [], [], START_TIMEOUT_S)
            assert os.read(ready, 64) == b"READY=1\n", (self._folder / "log").read_text()
        finally:
            os.close(ready)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Stop it and wait for its end."""
        if self._process is not None:
            self._process.send_signal(signal_number)
            self._process.wait(START_TIMEOUT_S)
            self._process = None
