# SPDX-License-Identifier: Apache-2.0
"""What the engine's tests share: sources, the console script, and places where writing fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine.sources import Source, SourceMaker, command_line


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
            command_line(*arguments), capture_output=True, text=True, timeout=100, check=False, **options
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
def unprivileged(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A `preexec_fn` that turns the child into nobody, for whom permissions count; the test's folder lets it pass."""
    if os.geteuid() != 0:
        yield lambda: None
        return
    opened = []
    for folder in (tmp_path, *tmp_path.parents):
        mode = folder.stat().st_mode
        if not mode & 0o001 and str(folder).startswith("/tmp/"):
            opened.append((folder, mode))
            folder.chmod(mode | 0o011)

    def become_nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    yield become_nobody
    for folder, mode in opened:
        folder.chmod(mode)
