# SPDX-License-Identifier: Apache-2.0
"""What a copy may cost: memory on the largest disks, and what starting the command loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine.sources import GIB, KIB, MIB, TIB, noise

PEAK_MAX_BYTES = 100 * MIB
SIZE_BYTES = 16 * TIB
# Runs the command in its own process and reports the peak of that; ru_maxrss would be inherited from the parent.
MEASURE = """
import json, sys
from virtblock.engine import cli
exit_code = cli.main(sys.argv[1:])
with open("/proc/self/status") as status:
    peak_bytes = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
print(json.dumps({"exit_code": exit_code, "peak_bytes": peak_bytes}))
"""


def _copy_measured(*arguments: str | Path) -> int:
    """Peak memory of one `virtblock-copy`, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["exit_code"] == 0, done.stderr + done.stdout
    return int(answer["peak_bytes"])


def _sparse_raw(path: Path) -> Path:
    """Almost 16 TiB, the most that ext4 takes, with a piece of data in every TiB and at the very end."""
    with path.open("wb") as file:
        for number in range(16):
            os.pwrite(file.fileno(), noise(64 * KIB, number), number * TIB + number * GIB)
        os.pwrite(file.fileno(), noise(4 * KIB, 99), SIZE_BYTES - 12 * KIB)
        os.truncate(path, SIZE_BYTES - 4 * KIB)
    return path


@pytest.fixture
def wide_folder(tmp_path: Path) -> Path:
    """A folder whose file system holds files of almost 16 TiB."""
    probe = tmp_path / "probe"
    probe.touch()
    os.truncate(probe, SIZE_BYTES - 4 * KIB)
    probe.unlink()
    return tmp_path


def test_16_tib_raw(wide_folder: Path) -> None:
    """raw to raw."""
    source = _sparse_raw(wide_folder / "disk.raw")
    destination = wide_folder / "copy.raw"
    assert _copy_measured(source, destination) < PEAK_MAX_BYTES
    assert destination.stat().st_size == source.stat().st_size
    assert destination.stat().st_blocks * 512 <= 17 * 64 * KIB + 64 * KIB
    _same_pieces(source, destination)


def _same_pieces(source: Path, destination: Path) -> None:
    """Compares where the data lies; reading 16 TiB of zeros would prove no more and take an hour."""
    with source.open("rb") as left, destination.open("rb") as right:
        for number in range(16):
            start = number * TIB + number * GIB - (64 * KIB if number else 0)
            assert os.pread(left.fileno(), 192 * KIB, start) == os.pread(right.fileno(), 192 * KIB, start)
        assert os.pread(left.fileno(), MIB, SIZE_BYTES - MIB) == os.pread(right.fileno(), MIB, SIZE_BYTES - MIB)


@pytest.mark.parametrize("options", [[], ["--raw"]])
def test_16_tib_qcow2(options: list[str], wide_folder: Path, qemu_img: Any, qemu_io: Any) -> None:
    """qcow2 of almost 16 TiB, to qcow2 and to raw; a check by qemu-img of the result is clean."""
    source = wide_folder / "disk.qcow2"
    size = SIZE_BYTES - 4 * KIB
    qemu_img.create(source, "qcow2", size)
    qemu_io(source, "qcow2", *(f"write -P {number + 1} {number * TIB + number * GIB} 128k" for number in range(16)))
    destination = wide_folder / "copy.img"
    assert _copy_measured(*options, source, destination) < PEAK_MAX_BYTES
    image_format = "raw" if options else "qcow2"
    if image_format == "qcow2":
        qemu_img.check(destination)
        assert qemu_img.info(destination)["virtual-size"] == size
    for number in range(16):
        start = number * TIB + number * GIB
        qemu_io(destination, image_format, f"read -P {number + 1} {start} 128k", f"read -P 0 {start + 128 * KIB} 1M")


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """On tmpfs where there is one: deleting a file of many pieces takes some disks half a minute."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_many_extents(memory_folder: Path) -> None:
    """A disk of 4 GiB with a page of data in every 128 KiB makes a long plan and small memory."""
    source = memory_folder / "disk.raw"
    with source.open("wb") as file:
        os.truncate(source, 4 * GIB)
        for offset in range(0, 4 * GIB, 128 * KIB):
            os.pwrite(file.fileno(), b"x" * 4096, offset)
    assert _copy_measured(source, memory_folder / "copy.raw") < PEAK_MAX_BYTES


def _modules_of(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; import sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_start_loads_little() -> None:
    """What the command loads beyond bare Python is counted, because a clock on a busy machine tells nothing."""
    bare = _modules_of("pass")
    loaded = _modules_of("from virtblock.engine.cli import main; main(['disk', 'copy'])") - bare
    heavy = {
        "grpc",
        "asyncio",
        "rich",
        "google",
        "inspect",
        "dataclasses",
        "subprocess",
        "logging",
        "sqlite3",
        "shutil",
        "lzma",
        "json",
    }
    assert heavy & loaded == set()
    assert len(loaded) < 60, sorted(loaded)
