# SPDX-License-Identifier: Apache-2.0
"""Images that a real qemu process holds, and images that the engine holds against a real qemu."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, MIB, SourceMaker, copy_image

from virtblock.engine import Chain, Copy, EngineError, ImageWriter

Holder = Callable[..., AbstractContextManager[None]]


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextmanager
def _held_by_qemu_io(path: Path, image_format: str, *, read_only: bool = False) -> Iterator[None]:
    command = ["qemu-io", "-f", image_format, *(["-r"] if read_only else []), str(path)]
    process = _start(command)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # An answer to a command means that the image is open.
        process.stdin.write("length\n")
        process.stdin.flush()
        assert process.stdout.readline() != ""
        yield
    finally:
        process.communicate("quit\n", timeout=120)


@contextmanager
def _held_by_a_machine(path: Path, image_format: str) -> Iterator[None]:
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    drive = f"file={path},format={image_format},if=virtio"
    options = ["-machine", "accel=tcg", "-m", "32", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio", "-drive"]
    process = _start([program, *options, drive])
    assert process.stdout is not None
    try:
        assert "QMP" in process.stdout.readline()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=120)


@pytest.fixture
def disk(tmp_path: Path, make_image: Any) -> Path:
    """A small qcow2 image of its own for each test."""
    path: Path = make_image(tmp_path / "disk.qcow2", "qcow2", 4 * MIB, writes=[(0, 1 * MIB, 7)])
    return path


def _expect_locked(error: EngineError, path: Path) -> None:
    assert error.kind == "locked"
    assert error.path == str(path)
    assert "lock" in error.reason
    assert str(path) in str(error)


@pytest.mark.parametrize("holder", [_held_by_qemu_io, _held_by_a_machine])
def test_source_that_qemu_writes_is_refused(holder: Holder, disk: Path, tmp_path: Path) -> None:
    """A disk that a guest writes to would be copied torn."""
    with holder(disk, "qcow2"), pytest.raises(EngineError) as caught:
        Chain([(str(disk), "qcow2")], ANY_PATH)
    _expect_locked(caught.value, disk)
    copy_image(disk, "qcow2", tmp_path / "copy", "qcow2")


def test_source_that_qemu_writes_may_be_opened_without_lock(disk: Path) -> None:
    """Who knows what it does may look without a lock."""
    with _held_by_qemu_io(disk, "qcow2"), Chain([(str(disk), "qcow2")], ANY_PATH, lock=False) as chain:
        assert chain.size_bytes == 4 * MIB


def test_source_that_qemu_reads_is_shared(disk: Path, tmp_path: Path) -> None:
    """Readers stand beside each other."""
    with _held_by_qemu_io(disk, "qcow2", read_only=True):
        copy_image(disk, "qcow2", tmp_path / "copy", "qcow2")


def test_backing_file_of_a_running_machine_is_shared(disk: Path, tmp_path: Path, make_image: Any) -> None:
    """QEMU opens backing files as a reader: the base of one machine is copied while that machine runs."""
    overlay = make_image(tmp_path / "top.qcow2", "qcow2", backing=disk, backing_format="qcow2")
    with _held_by_a_machine(overlay, "qcow2"):
        copy_image(disk, "qcow2", tmp_path / "copy", "qcow2")


def test_backing_file_that_qemu_writes_is_refused(disk: Path, tmp_path: Path, make_image: Any) -> None:
    """The whole chain is locked, not only its top; the error names the image concerned."""
    overlay = make_image(tmp_path / "top.qcow2", "qcow2", backing=disk, backing_format="qcow2")
    with _held_by_qemu_io(disk, "qcow2"), pytest.raises(EngineError) as caught:
        Chain([(str(overlay), "qcow2")], ANY_PATH)
    _expect_locked(caught.value, disk)


@pytest.mark.parametrize("read_only", [False, True])
def test_destination_that_qemu_has_open_is_refused(
    disk: Path, tmp_path: Path, make_image: Any, sha256_of: Any, read_only: bool
) -> None:
    """A reused destination that anybody reads or writes is left alone."""
    destination = make_image(tmp_path / "reused.qcow2", "qcow2", 4 * MIB)
    before = sha256_of(destination)
    with _held_by_qemu_io(destination, "qcow2", read_only=read_only), pytest.raises(EngineError) as caught:
        copy_image(disk, "qcow2", destination, "qcow2", reuse=True)
    _expect_locked(caught.value, destination)
    assert sha256_of(destination) == before


def test_qemu_cannot_write_a_source_that_we_read(disk: Path) -> None:
    """qemu's own message, so that its user knows what is going on; it may still read."""
    with Chain([(str(disk), "qcow2")], ANY_PATH):
        writing = _qemu_io(disk, "qcow2", "write 0 64k")
        assert 'Failed to get "write" lock' in writing
        assert "read 65536/65536" in _qemu_io(disk, "qcow2", "read 0 64k", "-r")
    assert "wrote 65536/65536" in _qemu_io(disk, "qcow2", "write 0 64k")


def _qemu_io(path: Path, image_format: str, command: str, *flags: str) -> str:
    done = subprocess.run(
        ["qemu-io", "-f", image_format, *flags, "-c", command, path], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_qemu_cannot_open_a_destination_that_we_fill(
    image_format: Any, source_of: SourceMaker, tmp_path: Path, make_image: Any
) -> None:
    """Neither for reading nor for writing, from the constructor until close."""
    source = source_of("raw")
    destination = make_image(tmp_path / "copy", image_format, source.size_bytes)
    with Chain([(str(source.path), "raw")], ANY_PATH) as chain:
        with Copy(chain, str(destination), image_format, ANY_PATH, reuse=True) as copy:
            assert "lock" in _qemu_io(destination, image_format, "read 0 64k", "-r")
            copy.run()
            assert "lock" in _qemu_io(destination, image_format, "read 0 64k", "-r")
        assert "read 65536/65536" in _qemu_io(destination, image_format, "read 0 64k", "-r")


def test_two_copies_to_one_new_destination(source_of: SourceMaker, tmp_path: Path) -> None:
    """The second is refused while the first lives, and the first is not disturbed."""
    source = source_of("raw")
    destination = str(tmp_path / "copy")
    with Chain([(str(source.path), "raw")], ANY_PATH) as chain, Copy(chain, destination, "raw", ANY_PATH) as first:
        with pytest.raises(EngineError) as caught:
            Copy(chain, destination, "raw", ANY_PATH)
        assert caught.value.kind == "locked"
        first.run()
    assert (tmp_path / "copy").read_bytes() == source.path.read_bytes()


def test_two_chains_share_and_a_writer_does_not(disk: Path) -> None:
    """The engine's own objects keep to the same rules."""
    with Chain([(str(disk), "qcow2")], ANY_PATH), Chain([(str(disk), "qcow2")], ANY_PATH):
        with pytest.raises(EngineError) as caught:
            ImageWriter(str(disk), "qcow2", ANY_PATH)
        _expect_locked(caught.value, disk)
    with ImageWriter(str(disk), "qcow2", ANY_PATH):
        with pytest.raises(EngineError) as caught:
            Chain([(str(disk), "qcow2")], ANY_PATH)
        _expect_locked(caught.value, disk)
