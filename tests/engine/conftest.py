# SPDX-License-Identifier: Apache-2.0
"""What the engine's tests share: sources, the console script, and places where writing fails."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine.sources import Source, SourceMaker, command_line

from virtblock.engine import cli

NOBODY = 65534


@pytest.fixture(scope="session")
def source_of(
    tmp_path_factory: pytest.TempPathFactory, qemu_img: Any, make_image: Any, sha256_of: Callable[[Path], str]
) -> SourceMaker:
    """`source_of("chain")` and the other `KINDS`."""
    return SourceMaker(tmp_path_factory.mktemp("sources"), qemu_img, make_image, sha256_of)


@pytest.fixture
def is_untouched(sha256_of: Callable[[Path], str]) -> Callable[[Source], bool]:
    """Whether every file of a source is, byte for byte, what it was when it was made."""

    def check(source: Source) -> bool:
        return all(sha256_of(file) == digest for file, digest in source.digests.items())

    return check


@pytest.fixture
def copy_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `virtblock-copy` as a process and returns what it said."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command_line(*arguments), capture_output=True, text=True, timeout=300, check=False, **options
        )

    return run


@pytest.fixture
def small_folder(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MiB; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def command_as_nobody(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs `virtblock-copy` as a user for whom permissions count, in a fork, so that the user need not reach Python."""
    opened = []
    for folder in (tmp_path, *tmp_path.parents):
        mode = folder.stat().st_mode & 0o777
        if os.geteuid() == 0 and not mode & 0o001:
            opened.append((folder, mode))
            folder.chmod(mode | 0o011)
    yield _command_as_nobody
    for folder, mode in opened:
        folder.chmod(mode)


def _command_as_nobody(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            exit_code = 99
            try:
                sys.stdout, sys.stderr = out, err
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                exit_code = cli.main([str(argument) for argument in arguments])
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(exit_code)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, os.waitstatus_to_exitcode(status), out.read(), err.read())


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Real block devices over sparse files; needs root."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    made: list[str] = []

    def make(size_bytes: int) -> Path:
        file = tmp_path / f"device{len(made)}.img"
        with file.open("wb") as handle:
            handle.write(b"\xee" * size_bytes)
        done = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop device to be had: {done.stderr}")
        made.append(done.stdout.strip())
        return Path(made[-1])

    yield make
    for device in made:
        subprocess.run(["losetup", "--detach", device], check=True)
