# SPDX-License-Identifier: Apache-2.0
"""What a reader of a README pastes, and a shell that it is pasted into.

Owns: `shell_lines`, and `Shell`, which runs a line at a time and keeps what a line leaves: variables and the folder.
Invariants: a line that fails fails the test; a line whose comment says "until Ctrl-C" runs until it printed something,
and is then ended by that signal; nothing is read from standard input.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

LINE_TIMEOUT_S = 900
OUTPUT_TIMEOUT_S = 120
UNTIL_INTERRUPTED = "until Ctrl-C"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """The blocks of a Markdown text in that language."""
    return [found[2] for found in _BLOCK.finditer(text) if found[1] == language]


def shell_lines(text: str) -> list[str]:
    """Every line of the shell blocks; one that a backslash ends goes on in the next."""
    lines = "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


class Shell:
    """A bash that begins in `folder`."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ

    def run(self, line: str) -> str:
        """What the line prints."""
        if UNTIL_INTERRUPTED in line:
            return self._run_until_output(line)
        with tempfile.TemporaryDirectory() as left:
            script = f'{line}\nstatus=$?\nenv -0 >"{left}/environ"\npwd >"{left}/folder"\nexit $status\n'
            done = subprocess.run(
                ["bash", "-uo", "pipefail", "-c", script],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LINE_TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}"
            self.folder = Path(Path(left, "folder").read_text().removesuffix("\n"))
            kept = Path(left, "environ").read_text().split("\0")
            self.environ = dict(each.split("=", 1) for each in kept if each)
        return done.stdout

    def _run_until_output(self, line: str) -> str:
        process = subprocess.Popen(
            ["bash", "-uo", "pipefail", "-c", line],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        overdue = threading.Timer(OUTPUT_TIMEOUT_S, os.killpg, (process.pid, signal.SIGKILL))
        overdue.start()
        try:
            first = process.stdout.readline()
            os.killpg(process.pid, signal.SIGINT)
            rest = process.stdout.read()
            process.wait()
        finally:
            overdue.cancel()
            process.stdout.close()
        assert first, f"{line}\nprinted nothing"
        assert process.returncode != -signal.SIGKILL, f"{line}\n{first}{rest}\ndid not end at Ctrl-C"
        return first + rest
