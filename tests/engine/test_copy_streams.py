# SPDX-License-Identifier: Apache-2.0
"""What `virtblock-copy` prints, and streams that are closed, full or gone: the copy goes on, the exit code tells."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine.sources import MIB, command_line, noisy_raw

from virtblock.engine.cli import _Output
from virtblock.engine.copy_command import CopyReport, Request


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return noisy_raw(tmp_path / "disk.raw", 4 * MIB, [(0, 4 * MIB)])


def shell(redirection: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command with a shell's redirection; what still comes out, both streams in one pipe."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command_line(*arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2>&- <&-", "2> >(exec true)"])
def test_a_progress_that_nobody_takes(redirection: str, source: Path, tmp_path: Path) -> None:
    """The bar is for show: without it the copy is made as well, and nothing is left beside it."""
    done = shell(redirection, "--progress", "--bandwidth", "8", source, tmp_path / "copy")
    assert (done.returncode, done.stdout.count("Copied")) == (0, 1)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "disk.raw"]


def test_a_terminal_that_went_away(source: Path, tmp_path: Path) -> None:
    """Whoever ignores the hang-up (nohup) keeps the copy, though its bar has no terminal any more."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        command_line("--progress", "--bandwidth", "8", source, tmp_path / "copy"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    os.close(main)
    assert process.wait(120) == 0
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("option", ["--digest", "--json"])
def test_an_answer_that_is_lost_is_a_failure(option: str, source: Path, tmp_path: Path) -> None:
    """The copy is there, but a script must not take an empty answer for success; what is wrong is said, in one line."""
    done = shell(">/dev/full", option, source, tmp_path / "copy")
    assert done.returncode == 1
    assert done.stdout == "virtblock-copy: Cannot write to standard output: No space left on device\n"
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_closed_streams_never_become_an_image(redirection: str, source: Path, tmp_path: Path) -> None:
    """The first files that a process opens get the free numbers; messages to 1 and 2 would go into an image."""
    before = source.read_bytes()
    done = shell(redirection, "--progress", "--digest", source, tmp_path / "copy")
    assert done.returncode == 0
    assert source.read_bytes() == (tmp_path / "copy").read_bytes() == before


def test_an_error_that_nobody_takes_keeps_its_exit_code(tmp_path: Path) -> None:
    done = shell("2>/dev/full", tmp_path / "none.raw", tmp_path / "copy")
    assert (done.returncode, done.stdout) == (1, "")
    done = shell(">/dev/full", "--json", "--nonsense", "a.raw", "b")
    assert done.returncode == 2 and "standard output" in done.stdout


def test_json_is_told_what_a_person_is(source: Path, tmp_path: Path) -> None:
    """What was not touched is not called incomplete: neither the source itself nor a file of another size."""
    other = noisy_raw(tmp_path / "other.raw", 1 * MIB, [(0, 1 * MIB)])
    before = other.read_bytes()
    for destination in (source, other, Path("/dev/null")):
        done = shell("", "--json", "--reuse", "--raw", source, destination)
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["result"], answer["left_behind"]) == (1, "failed", None)
    assert other.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "names", "advice"),
    [
        ([], ["disk.raw", "other.raw"], "write into it with --reuse"),
        (["--source-format", "qcow2"], ["disk.raw", "copy"], "add --source-format raw"),
        ([], ["folder/top.qcow2", "copy"], "add --allow-path '{}'"),
        ([], ["none/disk.raw", "copy"], "Cannot reach the folder of '{}/none/disk.raw'"),
        ([], ["disk.raw", "none/copy"], "Cannot reach the folder of '{}/none/copy'"),
    ],
)
def test_advice(
    options: list[str], names: list[str], advice: str, source: Path, tmp_path: Path, make_image: Any
) -> None:
    """What to do next stands below the reason, where the reason alone does not tell."""
    (tmp_path / "other.raw").write_bytes(b"other")
    (tmp_path / "folder").mkdir()
    make_image(tmp_path / "folder/top.qcow2", "qcow2", backing=source, backing_format="raw")
    done = shell("", *options, *(tmp_path / name for name in names))
    assert done.returncode == 1
    assert advice.format(tmp_path) in done.stdout


def test_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    done = shell("", tmp_path / "a\x1b[31m\x9b.raw", tmp_path / "copy")
    assert done.returncode == 1
    assert "/a\\x1b[31m\\x9b.raw'" in done.stdout


def test_a_resumed_copy_tells_what_it_moved_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """What an earlier run had done is in neither its amount nor its rate."""
    progress: Any = SimpleNamespace(
        total_bytes=60 * MIB, resumed_bytes=40 * MIB, size_bytes=64 * MIB, elapsed_ns=2 * 10**9,
        read_bytes=0, written_bytes=0, stored_bytes=0, shared_bytes=0, zero_bytes=0,
    )  # fmt: skip
    request = Request("a.raw", "raw", "b.raw", resume=True)
    report = CopyReport(request, "/a.raw", "raw", "/b.raw", "raw", "full", "none", progress, None, is_resumed=True)
    assert report.fields()["bytes_per_s"] == 10 * MIB
    _Output(as_json=False).done(report)
    resumed, copied = capsys.readouterr().out.splitlines()
    assert resumed == "Resumed: 40.0 MiB were there already"
    assert copied.startswith("Copied 20.0 MiB of a 64.0 MiB disk in 2.00 s (10.0 MiB/s): ")
