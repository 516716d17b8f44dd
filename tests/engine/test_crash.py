# SPDX-License-Identifier: Apache-2.0
"""kill -9 in the middle of a copy: what is at the destination's name never opens as a complete image."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from engine.sources import MIB, command_line, copy_image, noisy_raw, own_bytes, reads_same, set_length

DISK_BYTES = 24 * MIB
ROUNDS = 6
# For those that must have been struck while data moved.
ROUNDS_MAX = 60
# Slow enough that the kill strikes while data moves, fast enough that all of it is reached over the rounds.
BANDWIDTH = "40"
START_S = 0.05
COPY_S = DISK_BYTES / (40 * MIB)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, qemu_img: Any) -> Path:
    """A qcow2 disk full of noise: every byte of a copy that is missing shows."""
    folder = tmp_path_factory.mktemp("crash")
    raw = noisy_raw(folder / "disk.raw", DISK_BYTES, [(0, DISK_BYTES)])
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, folder / "disk.qcow2")
    raw.unlink()
    return folder / "disk.qcow2"


class Killer:
    """Kills a command at random moments of its copy, which it learns to meet on a machine of any speed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._scale = 1.0

    def kill(self, *arguments: str | Path) -> bool:
        """Run the command and kill it after a time; returns whether it was still running."""
        process = subprocess.Popen(command_line(*arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(self._chance.uniform(START_S, START_S + COPY_S) * self._scale)
        process.send_signal(signal.SIGKILL)
        is_killed = process.wait(120) == -signal.SIGKILL
        self._scale *= 1.25 if is_killed else 0.5
        return is_killed


def _opens(qemu_img: Any, path: Path, image_format: str) -> bool:
    return path.exists() and qemu_img("info", "-f", image_format, path, check=False).returncode == 0


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--raw"]])
def test_new_destination(options: list[str], source: Path, tmp_path: Path, qemu_img: Any) -> None:
    """Killed at any moment, the name is absent, an empty file, or the whole disk; the next copy succeeds."""
    destination = tmp_path / "copy.img"
    image_format = "raw" if options else "qcow2"
    killer = Killer(7)
    for _ in range(ROUNDS):
        is_killed = killer.kill("--bandwidth", BANDWIDTH, *options, source, destination)
        if destination.exists() and destination.stat().st_size:
            assert not is_killed or reads_same(qemu_img, source, "qcow2", destination, image_format)
            destination.unlink()
        elif image_format == "qcow2":
            assert not _opens(qemu_img, destination, "qcow2")
    copy_image(source, "qcow2", destination, image_format)
    assert reads_same(qemu_img, source, "qcow2", destination, image_format)
    assert [path.name for path in tmp_path.iterdir()] == [destination.name]


@pytest.mark.fault
@pytest.mark.slow
def test_reused_qcow2(source: Path, tmp_path: Path, qemu_img: Any, make_image: Any, sha256_of: Any) -> None:
    """Untouched until the copy begins; from then on it does not open until a copy has ended, and then it is whole."""
    destination = make_image(tmp_path / "copy.qcow2", "qcow2", DISK_BYTES, writes=[(0, 8 * MIB, 0xEE)])
    untouched = sha256_of(destination)
    killer = Killer(8)
    marked_count = 0
    for round_number in range(ROUNDS_MAX):
        if round_number >= ROUNDS and marked_count:
            break
        is_killed = killer.kill("--bandwidth", BANDWIDTH, "--reuse", source, destination)
        if is_killed and not _opens(qemu_img, destination, "qcow2"):
            marked_count += 1
        elif marked_count or not is_killed or sha256_of(destination) != untouched:
            assert reads_same(qemu_img, source, "qcow2", destination, "qcow2")
    assert marked_count > 0
    copy_image(source, "qcow2", destination, "qcow2", reuse=True)
    assert reads_same(qemu_img, source, "qcow2", destination, "qcow2")
    qemu_img.check(destination)
    assert own_bytes(qemu_img, destination) == DISK_BYTES


@pytest.mark.fault
@pytest.mark.slow
def test_reused_raw(source: Path, tmp_path: Path, qemu_img: Any) -> None:
    """A raw file cannot be made to fail to open; its length tells that it is not the disk, and the mark says why."""
    destination = tmp_path / "copy.raw"
    destination.touch()
    set_length(destination, DISK_BYTES)
    killer = Killer(9)
    marked_count = 0
    for round_number in range(ROUNDS_MAX):
        if round_number >= ROUNDS and marked_count:
            break
        is_killed = killer.kill("--bandwidth", BANDWIDTH, "--reuse", "--raw", source, destination)
        if destination.stat().st_size > DISK_BYTES:
            marked_count += 1
            assert destination.read_bytes()[DISK_BYTES:].startswith(b"virtblock: unfinished copy\n")
        elif marked_count or not is_killed or destination.stat().st_blocks:
            assert reads_same(qemu_img, source, "qcow2", destination, "raw")
    assert marked_count > 0
    copy_image(source, "qcow2", destination, "raw", reuse=True)
    assert destination.stat().st_size == DISK_BYTES
    assert reads_same(qemu_img, source, "qcow2", destination, "raw")
