# SPDX-License-Identifier: Apache-2.0
"""New qcow2 images on real block devices: formatted by the copy itself, header last."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, DISK_BYTES, MIB, SourceMaker, copy_image, noise, noisy_raw, reads_same

from virtblock.engine import Chain, Copy, EngineError, resize_image

OLD_BYTE = b"\xee"


@pytest.mark.parametrize("source_name", ["qcow2-v3", "chain"])
@pytest.mark.parametrize("cluster_size_bytes", [512, 65536, 2 * MIB])
def test_new_image_on_a_device(
    source_of: SourceMaker, loop_device: Callable[[int], Path], qemu_img: Any, source_name: str, cluster_size_bytes: int
) -> None:
    """Old content of the device is nowhere in what a guest reads, and the image is clean."""
    source = source_of(source_name)
    device = loop_device(3 * DISK_BYTES)
    copy_image(source.path, source.format, device, "qcow2", cluster_size_bytes=cluster_size_bytes)
    qemu_img.check(device)
    assert reads_same(qemu_img, source.path, source.format, device, "qcow2")


def test_old_image_on_the_device_is_gone_from_the_first_write_on(
    loop_device: Callable[[int], Path], qemu_img: Any, tmp_path: Path
) -> None:
    """A copy that is cancelled leaves nothing that opens: neither the old image nor the new one."""
    device = loop_device(32 * MIB)
    qemu_img.create(device, "qcow2", 16 * MIB)
    disk = noisy_raw(tmp_path / "disk.raw", 16 * MIB, [(0, 16 * MIB)])
    with Chain([(str(disk), "raw")], ANY_PATH) as chain:
        copy = Copy(chain, str(device), "qcow2", ANY_PATH, bandwidth_bytes_per_s=MIB)
        thread = threading.Thread(target=_run_until_cancelled, args=[copy])
        thread.start()
        while copy.progress().moved_bytes == 0:
            thread.join(0.01)
        assert qemu_img("info", "-U", "-f", "qcow2", device, check=False).returncode != 0
        copy.cancel()
        thread.join()
        copy.close()
    assert qemu_img("info", "-f", "qcow2", device, check=False).returncode != 0


def _run_until_cancelled(copy: Copy) -> None:
    with contextlib.suppress(EngineError):
        copy.run()


def test_device_without_room_is_left_alone(loop_device: Callable[[int], Path], tmp_path: Path) -> None:
    """Refused before the first byte, with both sizes."""
    device = loop_device(8 * MIB)
    disk = noisy_raw(tmp_path / "disk.raw", 8 * MIB, [(0, 8 * MIB)])
    with pytest.raises(EngineError) as caught:
        copy_image(disk, "raw", device, "qcow2")
    assert caught.value.kind == "space"
    assert str(8 * MIB) in str(caught.value)
    assert device.read_bytes() == OLD_BYTE * (8 * MIB)


def test_what_the_device_held_does_not_come_to_light_when_the_disk_grows(
    loop_device: Callable[[int], Path], tmp_path: Path
) -> None:
    """The disk ends inside a cluster; the rest of that cluster must not be the device's old bytes."""
    device = loop_device(8 * MIB)
    disk = tmp_path / "disk.raw"
    disk.write_bytes(noise(MIB + 512, 1))
    copy_image(disk, "raw", device, "qcow2")
    resize_image(str(device), "qcow2", 2 * MIB, ANY_PATH)
    with Chain([(str(device), "qcow2")], ANY_PATH) as chain:
        assert chain.read(0, 2 * MIB) == noise(MIB + 512, 1) + bytes(MIB - 512)


def test_device_is_the_source(loop_device: Callable[[int], Path], qemu_img: Any, tmp_path: Path) -> None:
    """By another node of the same device, whose locks are its own."""
    device = loop_device(8 * MIB)
    qemu_img.create(device, "qcow2", 4 * MIB)
    alias = tmp_path / "alias"
    os.mknod(alias, device.stat().st_mode, device.stat().st_rdev)
    before = device.read_bytes()
    with pytest.raises(EngineError) as caught:
        copy_image(device, "qcow2", alias, "qcow2")
    assert caught.value.kind == "same-file"
    assert device.read_bytes() == before


@pytest.mark.parametrize("is_written", [False, True])
def test_a_resumed_copy_of_a_device_that_was_written_is_refused(
    loop_device: Callable[[int], Path], tmp_path: Path, is_written: bool
) -> None:
    """A device has no time of change; the kernel counts what is written to it."""
    device, destination = loop_device(8 * MIB), tmp_path / "copy.raw"
    more: dict[str, Any] = {"journal_path": str(tmp_path / "journal")}
    with Chain([(str(device), "raw")], ANY_PATH) as chain:
        copy = Copy(chain, str(destination), "raw", ANY_PATH, bandwidth_bytes_per_s=MIB // 8, **more)
        thread = threading.Thread(target=_run_until_cancelled, args=[copy])
        thread.start()
        while copy.progress().moved_bytes == 0:
            thread.join(0.01)
        copy.keep_unfinished(True)
        copy.cancel()
        thread.join()
        copy.close()
    if is_written:
        with device.open("r+b") as file:
            file.seek(4 * MIB)
            file.write(b"\x11" * 4096)
            file.flush()
            os.fsync(file.fileno())
        with Chain([(str(device), "raw")], ANY_PATH) as chain, pytest.raises(EngineError) as caught:
            Copy(chain, str(destination), "raw", ANY_PATH, resume=True, **more).close()
        assert (caught.value.kind, caught.value.path) == ("changed", str(device))
        assert "was written" in caught.value.reason
        return
    with Chain([(str(device), "raw")], ANY_PATH) as chain:
        copy = Copy(chain, str(destination), "raw", ANY_PATH, resume=True, **more)
        copy.run()
        assert copy.is_resumed
        copy.close()
    assert destination.read_bytes() == device.read_bytes()
