# SPDX-License-Identifier: Apache-2.0
"""What scripts get wrong: standard streams of `virtblock` and `virtblockd` closed or full, variables not set."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.test_daemon import READY_TIMEOUT_S, RUN_TIMEOUT_S, SCRIPTS

UNBUFFERED = ("", "1")
GONE = ["2>/dev/full", "2>&-", "2>&- >&- <&-", "2> >(exec true)"]


def shell(redirection: str, *words: str | Path, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script with a shell's redirection; what still comes out, both streams in one pipe."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
        timeout=RUN_TIMEOUT_S, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip


@pytest.mark.parametrize("unbuffered", UNBUFFERED)
@pytest.mark.parametrize("words", [["help"], ["--json", "help"], ["--help"], ["--version"], ["completion", "bash"]])
def test_a_result_that_is_lost_is_a_failure(words: list[str], unbuffered: str) -> None:
    """Told in one line; a pipe that its reader closed needs no word."""
    done = shell(">/dev/full", SCRIPTS / "virtblock", *words, unbuffered=unbuffered)
    assert done.stdout == "error: cannot write to standard output: [Errno 28] No space left on device\n"
    assert done.returncode == 1
    done = shell("| true; exit ${PIPESTATUS[0]}", SCRIPTS / "virtblock", *words, unbuffered=unbuffered)
    assert done.stdout == "" and done.returncode in (0, 1)


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_a_closed_standard_output_is_no_error(redirection: str) -> None:
    done = shell(redirection, SCRIPTS / "virtblock", "help")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("redirection", GONE)
def test_an_error_that_nobody_takes_keeps_its_exit_code(redirection: str) -> None:
    done = shell(redirection, SCRIPTS / "virtblock", "nonsense")
    assert (done.returncode, done.stdout) == (1, "")


class Daemon:
    """A daemon with a redirection; ready when its descriptor says so."""

    def __init__(self, folder: Path, redirection: str) -> None:
        self._sockets = tempfile.TemporaryDirectory(prefix="vb-")
        self.socket = Path(self._sockets.name) / "sock"
        read_end, write_end = os.pipe()
        arguments = ["--listen", f"unix:{self.socket}", "--state-dir", f"{folder}/state", "--ready-fd", str(write_end)]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" {redirection}', "bash", str(SCRIPTS / "virtblockd"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[write_end],
        )
        os.close(write_end)
        with os.fdopen(read_end, "rb") as ready:
            is_told, _, _ = select.select([ready], [], [], READY_TIMEOUT_S)
            self.is_ready = bool(is_told) and ready.readline() == b"READY=1\n"

    def close(self) -> int:
        """Stop it; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(READY_TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.wait()
            self._sockets.cleanup()


@pytest.fixture(params=GONE)
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """The daemon, to be stopped by the test."""
    started = Daemon(tmp_path, request.param)
    yield started
    if started.process.returncode is None:
        started.close()


def test_a_daemon_without_a_log_serves(daemon: Daemon) -> None:
    """A log that is full, closed or read no more stops no daemon, and its number belongs to no file of the daemon's."""
    assert daemon.is_ready
    done = shell("", SCRIPTS / "virtblock", "-s", f"unix:{daemon.socket}", "list", "--name")
    assert (done.returncode, done.stdout) == (0, "\n")
    standard = [os.readlink(f"/proc/{daemon.process.pid}/fd/{number}") for number in range(3)]
    assert [name for name in standard if not re.match(r"/dev/(null|full)$|pipe:", name)] == []
    assert daemon.close() == 0


@pytest.mark.parametrize("number", ["999", "-1"])
def test_a_ready_descriptor_that_is_not_open_is_refused(number: str, tmp_path: Path) -> None:
    """By the time it would be written to it could be the state's."""
    words = ["--listen", f"unix:{tmp_path}/sock", "--state-dir", str(tmp_path / "state"), "--ready-fd", number]
    done = shell("", SCRIPTS / "virtblockd", *words)
    assert done.stdout == f"virtblockd: ready_fd: descriptor {number} is not open: Bad file descriptor\n"
    assert done.returncode == 2
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("option", ["--state-dir", "--allow-path", "--tls-key"])
def test_an_empty_path_is_not_the_current_folder(option: str) -> None:
    """What a variable that is not set becomes in a script must not open the folder that one happens to stand in."""
    done = shell("", SCRIPTS / "virtblockd", option, "", "--print-config")
    assert done.returncode == 2
    assert f"argument {option}: must be a path that is not empty" in done.stdout
