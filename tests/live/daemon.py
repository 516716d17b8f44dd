# SPDX-License-Identifier: Apache-2.0
"""A `virtblockd` of the live tests' own, in front of their libvirtd."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20


class LiveDaemon:
    """One daemon. `kill` and `start` may follow each other: its state stays in `folder`."""

    def __init__(
        self, connection_uri: str, folder: Path, *options: str, program: Sequence[str] = ("-m", "virtblock.server.cli")
    ) -> None:
        self._program = program
        self._uri = connection_uri
        self._options = options
        self._folder = folder
        self.target = f"unix:{folder / 'sock'}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def log(self) -> str:
        """All that it said."""
        return (self._folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Starts it and waits until it answers."""
        ready_read, ready_write = os.pipe()
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, *self._program, "--listen", self.target, "--connection", self._uri,
                    "--state-dir", str(self._folder / "state"), "--ready-fd", str(ready_write), *self._options,
                ],
                stdin=subprocess.DEVNULL, stderr=log, pass_fds=(ready_write,),
            )  # fmt: skip
        os.close(ready_write)
        readable, _, _ = select.select([ready_read], [], [], START_TIMEOUT_S)
        is_ready = bool(readable) and os.read(ready_read, 64) == b"READY=1\n"
        os.close(ready_read)
        assert is_ready, self.log

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """An orderly stop, unless it is gone already."""
        if self._process is not None and self._process.poll() is None:
            self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(STOP_TIMEOUT_S)
