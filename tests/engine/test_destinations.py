# SPDX-License-Identifier: Apache-2.0
"""Destinations that cannot be: a clear error with the path, the source untouched, nothing that opens as an image."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import (
    ANY_PATH,
    DISK_BYTES,
    MIB,
    Source,
    SourceMaker,
    copy_image,
    noisy_raw,
    reads_same,
)

from virtblock.engine import Chain, Copy, EngineError


@pytest.fixture
def source(source_of: SourceMaker) -> Source:
    """The chain of three."""
    return source_of("chain")


def _fails(source: Source, destination: Path, destination_format: str, **options: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        copy_image(source.path, source.format, destination, destination_format, **options)
    return caught.value


@pytest.mark.fault
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_no_room_is_refused_before_copying(
    source_of: SourceMaker, small_folder: Path, image_format: str, is_untouched: Any
) -> None:
    """A full file system is seen from the plan, before anything is written."""
    source = source_of("zero-clusters")
    error = _fails(source, small_folder / "copy", image_format)
    assert error.kind == "space"
    assert str(small_folder / "copy") in error.path
    assert os.statvfs(small_folder).f_bavail * 4096 > 3 * MIB
    _nothing_good_is_left(small_folder / "copy")
    assert is_untouched(source)


@pytest.mark.fault
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_disk_that_fills_up_while_copying(
    source_of: SourceMaker, small_folder: Path, image_format: str, is_untouched: Any
) -> None:
    """Without the check, or when another program takes the room: ENOSPC, and the partial file is gone."""
    source = source_of("zero-clusters")
    error = _fails(source, small_folder / "copy", image_format, check_space=False)
    assert error.kind in ("space", "system")
    assert os.strerror(error.errno) == "No space left on device"
    _nothing_good_is_left(small_folder / "copy")
    assert is_untouched(source)


def _nothing_good_is_left(path: Path) -> None:
    """At most the empty file that stood for the destination."""
    assert [left.name for left in path.parent.iterdir()] in ([], [path.name])
    assert not path.exists() or path.stat().st_size == 0


@pytest.mark.fault
def test_reused_destination_that_fills_up(
    source_of: SourceMaker, small_folder: Path, make_image: Any, qemu_img: Any, is_untouched: Any
) -> None:
    """An existing qcow2 whose file system is full stays marked: it opens nowhere as a good image."""
    source = source_of("zero-clusters")
    destination = make_image(small_folder / "copy.qcow2", "qcow2", source.size_bytes)
    error = _fails(source, destination, "qcow2", reuse=True, check_space=False)
    assert os.strerror(error.errno) == "No space left on device"
    assert qemu_img("info", "-f", "qcow2", destination, check=False).returncode != 0
    assert is_untouched(source)


@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_folder_without_permission(mode: int, tmp_path: Path, command_as_nobody: Any) -> None:
    """As another user, into a folder that is not theirs: EACCES with the path."""
    place = tmp_path / "closed"
    place.mkdir()
    place.chmod(mode)
    source = noisy_raw(tmp_path / "disk.raw", 1 * MIB, [(0, 4096)])
    source.chmod(0o644)
    done = command_as_nobody("--json", source, place / "copy.raw")
    place.chmod(0o700)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["result"]) == (1, "failed")
    assert answer["error"]["kind"] == "system"
    assert "Permission denied" in answer["error"]["message"]
    assert str(place) in answer["error"]["message"]
    assert list(place.iterdir()) == []


def test_destination_without_permission(tmp_path: Path, command_as_nobody: Any) -> None:
    """An existing file that the user may not write is not replaced behind its owner's back."""
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    source = noisy_raw(tmp_path / "disk.raw", 1 * MIB, [(0, 4096)])
    source.chmod(0o644)
    destination = place / "copy.raw"
    destination.touch(mode=0o444)
    done = command_as_nobody(source, destination)
    assert done.returncode == 1
    assert str(destination) in done.stderr
    assert "Permission denied" in done.stderr
    assert destination.stat().st_size == 0


def test_source_without_permission(tmp_path: Path, command_as_nobody: Any) -> None:
    """EACCES names the source, and nothing is made."""
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    source = noisy_raw(tmp_path / "disk.raw", 1 * MIB, [(0, 4096)])
    source.chmod(0o600)
    done = command_as_nobody(source, place / "copy.raw")
    assert done.returncode == 1
    assert str(source) in done.stderr
    assert "Permission denied" in done.stderr
    assert list(place.iterdir()) == []


def test_missing_folder(source: Source, tmp_path: Path) -> None:
    """ENOENT with the path of the file that could not be made."""
    error = _fails(source, tmp_path / "no" / "copy", "qcow2")
    assert (error.kind, os.strerror(error.errno)) == ("system", "No such file or directory")
    assert str(tmp_path / "no") in error.path


@pytest.mark.parametrize("reuse", [False, True])
def test_folder_as_destination(source: Source, tmp_path: Path, reuse: bool) -> None:
    """Only files and block devices are written."""
    place = tmp_path / "folder"
    place.mkdir()
    error = _fails(source, place, "qcow2", reuse=reuse)
    assert error.kind == "denied"
    assert error.path == str(place)


@pytest.mark.parametrize("reuse", [False, True])
def test_pipe_as_destination(source: Source, tmp_path: Path, reuse: bool) -> None:
    """A pipe is refused without waiting for its other end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert _fails(source, pipe, "raw", reuse=reuse).kind == "denied"
    with pytest.raises(EngineError) as caught:
        Chain([(str(pipe), "raw")], ANY_PATH)
    assert caught.value.kind == "denied"


def test_existing_file_without_reuse(source: Source, tmp_path: Path) -> None:
    """A file with content is not overwritten."""
    destination = tmp_path / "copy"
    destination.write_bytes(b"precious")
    error = _fails(source, destination, "qcow2")
    assert (error.kind, error.path) == ("exists", str(destination))
    assert destination.read_bytes() == b"precious"


def test_existing_empty_file_keeps_owner_and_mode(source: Source, tmp_path: Path, qemu_img: Any) -> None:
    """Who made an empty file beforehand chose who may read it."""
    destination = tmp_path / "copy"
    destination.touch()
    destination.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(destination, 1234, 1235)
    before = destination.stat()
    copy_image(source.path, source.format, destination, "qcow2")
    after = destination.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert reads_same(qemu_img, source.path, source.format, destination, "qcow2")


def test_reuse_of_nothing(source: Source, tmp_path: Path) -> None:
    """ENOENT, and nothing is made."""
    error = _fails(source, tmp_path / "copy", "qcow2", reuse=True)
    assert (error.kind, os.strerror(error.errno)) == ("system", "No such file or directory")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("difference_bytes", [-MIB, MIB])
def test_reuse_of_another_size(
    source: Source, tmp_path: Path, make_image: Any, sha256_of: Any, image_format: str, difference_bytes: int
) -> None:
    """Virtual sizes must be equal; the destination is left as it was."""
    destination = make_image(tmp_path / "copy", image_format, source.size_bytes + difference_bytes)
    before = sha256_of(destination)
    error = _fails(source, destination, image_format, reuse=True)
    assert (error.kind, error.path) == ("size", str(destination))
    assert str(source.size_bytes) in error.reason
    assert sha256_of(destination) == before


def test_reuse_of_garbage(source: Source, tmp_path: Path, sha256_of: Any) -> None:
    """A file that is no qcow2 is not taken for one."""
    destination = noisy_raw(tmp_path / "copy", source.size_bytes, [(0, 4096)])
    before = sha256_of(destination)
    error = _fails(source, destination, "qcow2", reuse=True)
    assert (error.kind, error.path) == ("format", str(destination))
    assert sha256_of(destination) == before


def _by_same_name(tmp_path: Path, target: Path) -> Path:
    return target


def _by_symbolic_link(tmp_path: Path, target: Path) -> Path:
    link = tmp_path / "link"
    link.symlink_to(target)
    return link


def _by_hard_link(tmp_path: Path, target: Path) -> Path:
    os.link(target, tmp_path / "hard")
    return tmp_path / "hard"


@pytest.mark.parametrize("by", [_by_same_name, _by_symbolic_link, _by_hard_link])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("layer", ["top", "backing"])
def test_destination_is_the_source(
    by: Callable[[Path, Path], Path], reuse: bool, layer: str, source: Source, tmp_path: Path, is_untouched: Any
) -> None:
    """By any name, the source or anything below it is never a destination."""
    target = source.path if layer == "top" else list(source.digests)[-1]
    error = _fails(source, by(tmp_path, target), "qcow2", reuse=reuse)
    assert error.kind in (("same-file",) if reuse else ("same-file", "exists"))
    assert is_untouched(source)


@pytest.mark.parametrize("layer", ["top", "backing"])
@pytest.mark.parametrize("resume", [False, True])
def test_partial_name_is_the_source(layer: str, resume: bool, tmp_path: Path, qemu_img: Any) -> None:
    """What lies under the partial name is removed as left over, unless the copy itself is made from it."""
    left = noisy_raw(tmp_path / "copy.virtblock-partial", MIB, [(0, MIB)])
    content = left.read_bytes()
    overlay = qemu_img.create(tmp_path / "overlay", "qcow2", MIB, backing=left, backing_format="raw")
    top = (str(left), "raw") if layer == "top" else (str(overlay), "qcow2")
    options: dict[str, Any] = {"journal_path": str(tmp_path / "journal"), "resume": True} if resume else {}
    with Chain([top], ANY_PATH) as chain, pytest.raises(EngineError) as caught:  # type: ignore[list-item]
        Copy(chain, str(tmp_path / "copy"), "qcow2", ANY_PATH, **options)
    assert (caught.value.kind, caught.value.path) == ("same-file", str(left))
    assert left.read_bytes() == content
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("replaces", [False, True])
def test_what_came_to_the_destination_meanwhile_stays(replaces: bool, image_format: Any, tmp_path: Path) -> None:
    """Who knows nothing of locks may use the name while the copy runs; the finished copy does not take its place."""
    disk, destination = noisy_raw(tmp_path / "disk.raw", MIB, [(0, MIB)]), tmp_path / "copy"
    with Chain([(str(disk), "raw")], ANY_PATH) as chain, Copy(chain, str(destination), image_format, ANY_PATH) as copy:
        if replaces:
            destination.rename(tmp_path / "moved")
        destination.write_text("somebody's")
        with pytest.raises(EngineError, match="while the copy ran") as caught:
            copy.run()
    assert (caught.value.kind, caught.value.path) == ("exists", str(destination))
    assert destination.read_text() == "somebody's"
    assert not list(tmp_path.glob("*partial*"))


def test_a_destination_whose_name_went_meanwhile(tmp_path: Path) -> None:
    """The copy gets it all the same."""
    disk, destination = noisy_raw(tmp_path / "disk.raw", MIB, [(0, MIB)]), tmp_path / "copy"
    with Chain([(str(disk), "raw")], ANY_PATH) as chain, Copy(chain, str(destination), "raw", ANY_PATH) as copy:
        destination.unlink()
        copy.run()
    assert destination.read_bytes() == disk.read_bytes()


def test_empty_raw_source_is_not_its_own_destination(tmp_path: Path) -> None:
    """A disk of no bytes looks like a new destination; it is still the source."""
    disk = tmp_path / "disk.raw"
    disk.touch()
    with Chain([(str(disk), "raw")], ANY_PATH) as chain:
        assert chain.size_bytes == 0
        with pytest.raises(EngineError) as caught:
            Copy(chain, str(disk), "raw", ANY_PATH)
        assert caught.value.kind == "same-file"


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_disk_of_no_bytes(tmp_path: Path, image_format: str, qemu_img: Any) -> None:
    """Nothing to copy is a copy that is done."""
    disk = tmp_path / "disk.raw"
    disk.touch()
    copy_image(disk, "raw", tmp_path / "copy", image_format)
    assert qemu_img.info(tmp_path / "copy", image_format=image_format)["virtual-size"] == 0


@pytest.mark.parametrize("more_bytes", [0, MIB])
def test_block_device(
    source_of: SourceMaker, loop_device: Callable[[int], Path], qemu_img: Any, more_bytes: int
) -> None:
    """A real block device with old content, of the disk's size or larger, reads as the disk afterwards."""
    source = source_of("qcow2-v3")
    device = loop_device(DISK_BYTES + more_bytes)
    copy_image(source.path, source.format, device, "raw", reuse=True)
    done = qemu_img("compare", "-f", "qcow2", "-F", "raw", source.path, device, check=False)
    if more_bytes:
        with device.open("rb") as file:
            file.seek(DISK_BYTES)
            assert file.read() == b"\xee" * more_bytes
    else:
        assert done.returncode == 0, done.stdout


def test_block_device_that_is_too_small(source_of: SourceMaker, loop_device: Callable[[int], Path]) -> None:
    """Refused before the first byte."""
    source = source_of("qcow2-v3")
    device = loop_device(DISK_BYTES - MIB)
    assert _fails(source, device, "raw", reuse=True).kind == "size"
    assert device.read_bytes() == b"\xee" * (DISK_BYTES - MIB)


def test_block_device_as_source(loop_device: Callable[[int], Path], tmp_path: Path) -> None:
    """A raw source may be a block device."""
    copy_image(loop_device(2 * MIB), "raw", tmp_path / "copy", "raw")
    assert (tmp_path / "copy").read_bytes() == b"\xee" * 2 * MIB


def test_mounted_block_device_is_refused(
    source_of: SourceMaker, loop_device: Callable[[int], Path], tmp_path: Path
) -> None:
    """A file system in use is not written over."""
    device = loop_device(16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", device, place], check=True)
    try:
        error = _fails(source_of("qcow2-v3"), device, "raw", reuse=True)
        assert os.strerror(error.errno) == "Device or resource busy"
        assert error.path == str(device)
    finally:
        subprocess.run(["umount", place], check=True)
