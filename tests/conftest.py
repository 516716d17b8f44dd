# SPDX-License-Identifier: Apache-2.0
"""What every test may count on: qemu's tools as the judge, images with known content, and honesty about skips.

With `CI=true` a test that is skipped fails, with the skip's reason: a check that could not run has not passed.
qemu-img and qemu-io are outside judges here; nothing that is tested makes the image that it is judged by.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

KIB = 1024
MIB = 1024 * KIB
HASH_BLOCK_BYTES = 4 * MIB
TOOL_TIMEOUT_S = 300

# One write of a pattern: (offset_bytes, length_bytes, byte value 0..255).
Write = tuple[int, int, int]

# An example that takes long on a busy machine shows nothing; fixtures that examples share, they make anew or only read.
settings.register_profile(
    "virtblock", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("virtblock")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Turn a skip into a failure where CI runs; an expected failure (xfail) keeps its meaning."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} could not run, which is a failure with CI=true: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """The same for a whole module that skips itself while it is imported."""
    report = yield
    if os.environ.get("CI") == "true" and report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} could not run, which is a failure with CI=true: {reason}"
    return report


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


class QemuImg:
    """Runs `qemu-img`. A call that fails raises AssertionError with the command and what it printed."""

    def __init__(self, program: str) -> None:
        self._program = program

    def __call__(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `qemu-img arguments…`; with `check=False` the caller judges the exit code."""
        command = [self._program, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command} exited with {done.returncode}: {done.stderr or done.stdout}")
        return done

    def create(
        self,
        path: Path,
        image_format: str,
        size_bytes: int | None = None,
        *,
        backing: Path | str | None = None,
        backing_format: str | None = None,
        options: Iterable[str] = (),
    ) -> Path:
        """Make an empty image; `options` are qemu-img's own, as in `cluster_size=4096`. No size: that of `backing`."""
        arguments: list[str | Path] = ["create", "-q", "-f", image_format]
        if backing is not None:
            arguments += ["-b", str(backing)]
        if backing_format is not None:
            arguments += ["-F", backing_format]
        for option in options:
            arguments += ["-o", option]
        arguments.append(path)
        if size_bytes is not None:
            arguments.append(str(size_bytes))
        self(*arguments)
        return path

    def info(self, path: Path, *, image_format: str | None = None) -> dict[str, Any]:
        """What `qemu-img info --output=json` says of one image; locks of others are not minded."""
        chosen = ["-f", image_format] if image_format else []
        return dict(json.loads(self("info", "-U", "--output=json", *chosen, path).stdout))

    def check(self, path: Path, image_format: str = "qcow2") -> None:
        """Assert that `qemu-img check` finds neither errors nor leaked clusters."""
        self("check", "-q", "-f", image_format, path)

    def map(self, path: Path, image_format: str) -> list[dict[str, Any]]:
        """The extents of the whole chain, as `qemu-img map --output=json` lists them."""
        return list(json.loads(self("map", "-U", "--output=json", "-f", image_format, path).stdout))

    def is_same(self, one: Path, one_format: str, other: Path, other_format: str) -> bool:
        """Whether both chains show a guest the same content and size; an error of the tool raises.

        Not `compare -s`, which also demands the same allocation.
        """
        if (
            self.info(one, image_format=one_format)["virtual-size"]
            != self.info(other, image_format=other_format)["virtual-size"]
        ):
            return False
        done = self("compare", "-q", "-f", one_format, "-F", other_format, one, other, check=False)
        if done.returncode not in (0, 1):
            raise AssertionError(f"qemu-img compare {one} {other}: {done.stderr or done.stdout}")
        return done.returncode == 0


@pytest.fixture(scope="session")
def qemu_img() -> QemuImg:
    """The qemu-img of this machine."""
    return QemuImg(_tool("qemu-img"))


@pytest.fixture(scope="session")
def qemu_io() -> Callable[..., str]:
    """Runs qemu-io commands on one image in one process: `qemu_io(path, "qcow2", "write -P 7 0 64k", …)`."""
    program = _tool("qemu-io")

    def run(path: Path, image_format: str, *commands: str) -> str:
        arguments = [program, "-f", image_format]
        for command in commands:
            arguments += ["-c", command]
        done = subprocess.run(
            [*arguments, str(path)],
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        # qemu-io exits with 0 when a command failed; the text is all there is to go by.
        if done.returncode != 0 or "failed" in done.stdout or "failed" in done.stderr:
            raise AssertionError(f"qemu-io {commands} on {path}: {done.stdout}{done.stderr}")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def make_image(qemu_img: QemuImg, qemu_io: Callable[..., str]) -> Callable[..., Path]:
    """Makes an image and writes patterns by qemu: `make_image(path, "qcow2", 64 * MIB, writes=[(0, 4096, 7)])`.

    `backing`, `backing_format` and `options` are those of `QemuImg.create`. Offsets and lengths are multiples of 512.
    """

    def make(
        path: Path, image_format: str, size_bytes: int | None = None, *, writes: Iterable[Write] = (), **create: Any
    ) -> Path:
        qemu_img.create(path, image_format, size_bytes, **create)
        commands = [f"write -P {value} {offset} {length}" for offset, length, value in writes]
        if commands:
            qemu_io(path, image_format, *commands)
        return path

    return make


@pytest.fixture(scope="session")
def sha256_of() -> Callable[[Path], str]:
    """The digest of a file's bytes, to show that a source was not touched."""

    def digest(path: Path) -> str:
        state = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK_BYTES):
                state.update(block)
        return state.hexdigest()

    return digest


class Chain:
    """`base <- snap1 <- snap2`, all qcow2, each layer with writes of its own over those below."""

    def __init__(self, base: Path, snap1: Path, snap2: Path, size_bytes: int) -> None:
        self.base = base
        self.snap1 = snap1
        self.snap2 = snap2
        self.size_bytes = size_bytes

    @property
    def top(self) -> Path:
        """The layer that a guest would have open."""
        return self.snap2

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """Every file of the chain, base first."""
        return (self.base, self.snap1, self.snap2)


@pytest.fixture
def make_chain(tmp_path: Path, make_image: Callable[..., Path]) -> Callable[..., Chain]:
    """Makes a `Chain` of 32 MiB in `tmp_path / folder`, with data alone in each layer, overlapping data, and holes."""

    def make(folder: str = "chain") -> Chain:
        place = tmp_path / folder
        place.mkdir(parents=True)
        size_bytes = 32 * MIB
        base = make_image(
            place / "base.qcow2",
            "qcow2",
            size_bytes,
            writes=[(0, 4 * MIB, 0x11), (16 * MIB, 2 * MIB, 0x12), (size_bytes - 64 * KIB, 64 * KIB, 0x13)],
        )
        snap1 = make_image(
            place / "snap1.qcow2",
            "qcow2",
            backing=base,
            backing_format="qcow2",
            writes=[(1 * MIB, 1 * MIB, 0x21), (8 * MIB, 512 * KIB, 0x22), (17 * MIB, 64 * KIB + 512, 0x23)],
        )
        snap2 = make_image(
            place / "snap2.qcow2",
            "qcow2",
            backing=snap1,
            backing_format="qcow2",
            writes=[(1 * MIB + 4 * KIB, 4 * KIB, 0x31), (24 * MIB, 1 * MIB, 0x32), (0, 512, 0)],
        )
        return Chain(base, snap1, snap2, size_bytes)

    return make
