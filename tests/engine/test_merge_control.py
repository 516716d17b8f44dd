# SPDX-License-Identifier: Apache-2.0
"""Pull and commit under control: what is refused, who is locked out, and what a cancel or a full disk leaves."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.chains import read_by_qemu
from engine.sources import ANY_PATH, KIB, MIB, noisy_raw

from virtblock.engine import Chain, EngineError, ImageWriter, Merge

DISK_BYTES = 4 * MIB
WAIT_S = 60


class Disk:
    """top over middle over base, each with noise of its own, and what a guest reads."""

    def __init__(self, folder: Path, qemu_img: Any, qemu_io: Any, *, base_bytes: int = DISK_BYTES) -> None:
        self.folder = folder
        self.base = noisy_raw(folder / "base.raw", base_bytes, [(0, base_bytes)])
        noisy_raw(folder / "noise", DISK_BYTES, [(0, DISK_BYTES)])
        self.middle = qemu_img.create(
            folder / "middle.qcow2", "qcow2", DISK_BYTES, backing="base.raw", backing_format="raw"
        )
        qemu_io(self.middle, "qcow2", f"write -s {folder / 'noise'} 64k 3M", "write -z 3500k 100k")
        self.top = qemu_img.create(
            folder / "top.qcow2", "qcow2", DISK_BYTES, backing="middle.qcow2", backing_format="qcow2"
        )
        qemu_io(self.top, "qcow2", "write -P 7 1M 100k")
        self.files = (self.base, self.middle, self.top)
        self._qemu_img = qemu_img
        self.content = self.read()

    @property
    def layers(self) -> list[tuple[str, Any]]:
        """As the engine wants them named."""
        return [(str(self.top), "qcow2")]

    def read(self) -> bytes:
        """What a guest reads, by qemu."""
        return read_by_qemu(self._qemu_img, self.top, "qcow2", self.folder / "read")

    def is_good(self) -> bool:
        """The guest reads what it always read, and nothing leaked."""
        for path in (self.top, self.middle):
            self._qemu_img.check(path)
        return self.read() == self.content


@pytest.fixture
def disk(tmp_path: Path, qemu_img: Any, qemu_io: Any) -> Disk:
    """One in a folder of its own."""
    return Disk(tmp_path, qemu_img, qemu_io)


PULL: dict[str, Any] = {"base_index": None}
COMMIT: dict[str, Any] = {"top_index": 1, "base_index": 2}


def _open(disk: Disk, **options: Any) -> Merge:
    make = Merge.commit if "top_index" in options else Merge.pull
    return make(disk.layers, ANY_PATH, **options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"base_index": 0}, "cannot be the base of a pull"),
        ({"base_index": 4}, "cannot be the base of a pull"),
        ({"top_index": 1, "base_index": 1}, "cannot be committed"),
        ({"top_index": 0, "base_index": 3}, "cannot be committed"),
        ({"base_index": 2, "backing_path": "middle.qcow2"}, "would lead to another file"),
        ({"base_index": 2, "backing_path": "/" + "./" * 600 + "base.raw"}, "does not fit|No such file"),
        ({**COMMIT, "backing_path": "../top.qcow2"}, "No such file"),
        ({**COMMIT, "backing_path": "nbd:unix:/s"}, "named by a protocol"),
        ({"backing_path": "base.raw"}, "without base_index"),
        ({"top_index": 0, "base_index": 2, "backing_path": "base.raw"}, "no image lies above"),
        ({"base_index": -1}, "must lie between"),
        ({"base_index": None, "granule_bytes": 5000}, "power of two"),
    ],
)
def test_bad_arguments(options: dict[str, Any], reason: str, disk: Disk, sha256_of: Callable[[Path], str]) -> None:
    """Refused before anything is touched."""
    before = [sha256_of(path) for path in disk.files]
    with pytest.raises(EngineError, match=reason):
        _open(disk, **options)
    assert [sha256_of(path) for path in disk.files] == before


@pytest.mark.parametrize("options", [PULL, COMMIT])
def test_nothing_before_run(options: dict[str, Any], disk: Disk, sha256_of: Callable[[Path], str]) -> None:
    """Opened, shown, cancelled before it ran, and closed: every file is what it was."""
    before = [sha256_of(path) for path in disk.files]
    with _open(disk, **options) as merge:
        assert merge.size_bytes == DISK_BYTES
        assert [Path(layer.path) for layer in merge.layers] == [disk.top, disk.middle, disk.base]
        assert (merge.progress().phase, merge.progress().total_bytes) == ("new", 0)
        assert merge.map(4) == bytes([1] * 4)
        merge.cancel()
        with pytest.raises(EngineError) as caught:
            merge.run()
        assert caught.value.kind == "cancelled"
        with pytest.raises(EngineError, match="runs once"):
            merge.run()
    with pytest.raises(EngineError, match="closed"):
        merge.progress()
    assert [sha256_of(path) for path in disk.files] == before


@pytest.mark.parametrize(
    ("options", "written", "read_only"),
    [(PULL, ["top"], ["middle", "base"]), (COMMIT, ["top", "base"], ["middle"])],
)
def test_locks(options: dict[str, Any], written: list[str], read_only: list[str], disk: Disk, qemu_img: Any) -> None:
    """Nobody opens what is written; what is read, only readers do."""
    kinds: dict[str, Any] = {"top": "qcow2", "middle": "qcow2", "base": "raw"}
    with _open(disk, **options):
        for name in (*written, *read_only):
            path = getattr(disk, name)
            qemu_said = qemu_img(
                "convert", "-f", kinds[name], "-O", "raw", path, disk.folder / "out", check=False
            ).stderr
            # An image that is read only is locked out by the one below it that is written.
            assert ("lock" in qemu_said) == (name in written or "base" in written)
            with pytest.raises(EngineError) as caught:
                ImageWriter(str(path), kinds[name], ANY_PATH)
            assert caught.value.kind == "locked"
    for name in written:
        with ImageWriter(str(getattr(disk, name)), kinds[name], ANY_PATH), pytest.raises(EngineError) as caught:
            _open(disk, **options)
        assert caught.value.kind == "locked"
    with Chain(disk.layers, ANY_PATH), pytest.raises(EngineError) as caught:
        _open(disk, **options)
    assert caught.value.kind == "locked"


@pytest.mark.parametrize("options", [PULL, {"base_index": 2}, COMMIT, {"top_index": 0, "base_index": 2}])
def test_cancelled_in_the_middle(options: dict[str, Any], disk: Disk) -> None:
    """The disk is good, and another run completes it."""
    with _open(disk, **options, bandwidth_bytes_per_s=256 * KIB, granule_bytes=64 * KIB, lane_count=1) as merge:
        failures: list[EngineError] = []

        def run() -> None:
            try:
                merge.run()
            except EngineError as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + WAIT_S
        while not {1, 3} <= set(merge.map(64)) and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(EngineError, match="is running"):
            merge.close()
        merge.cancel()
        thread.join()
        assert [error.kind for error in failures] == ["cancelled"]
        first = merge.progress()
        assert 0 < first.remaining_bytes < first.total_bytes
        assert set(merge.map(64)) >= {1, 3}
    assert disk.is_good()
    with _open(disk, **options) as merge:
        merge.run()
        if "top_index" not in options:  # what was pulled is the top's own now
            assert merge.progress().total_bytes == first.remaining_bytes
    assert disk.is_good()


def test_recorded_names(disk: Disk, qemu_img: Any) -> None:
    """As given, if it leads to the base; relative ones from the image's folder."""
    with Merge.pull(disk.layers, ANY_PATH, base_index=2, backing_path="./base.raw") as merge:
        merge.run()
    assert qemu_img.info(disk.top)["backing-filename"] == "./base.raw"
    assert disk.read() == disk.content
    with Merge.pull(disk.layers, ANY_PATH, base_index=1) as merge:  # nothing to move: the name alone changes
        merge.run()
        assert merge.progress().total_bytes == 0
    assert qemu_img.info(disk.top)["backing-filename"] == str(disk.base)
    with Merge.pull(disk.layers, ANY_PATH) as merge:
        merge.run()
    with Merge.pull(disk.layers, ANY_PATH) as merge:  # and again, as after a crash in the last step
        merge.run()
    assert "backing-filename" not in qemu_img.info(disk.top)
    disk.base.unlink()
    assert disk.read() == disk.content


def test_a_single_raw_image(disk: Disk, sha256_of: Callable[[Path], str]) -> None:
    """Has nothing to pull."""
    before = sha256_of(disk.base)
    with Merge.pull([(str(disk.base), "raw")], ANY_PATH) as merge:
        merge.run()
    assert sha256_of(disk.base) == before


def test_bitmaps(disk: Disk, qemu_img: Any) -> None:
    """A pull changes nothing that the guest reads, so the top's bitmaps stay; a commit changes the base's disk."""
    for path in (disk.top, disk.middle):
        qemu_img("bitmap", "--add", path, "changes")
    with Merge.commit(disk.layers, ANY_PATH, top_index=0, base_index=1) as merge:
        merge.run()
    (bitmap,) = qemu_img.info(disk.middle)["format-specific"]["data"]["bitmaps"]
    assert "in-use" in bitmap["flags"]
    qemu_img.check(disk.middle)
    with Merge.pull(disk.layers, ANY_PATH) as merge:
        merge.run()
    assert [bitmap["name"] for bitmap in qemu_img.info(disk.top)["format-specific"]["data"]["bitmaps"]] == ["changes"]
    qemu_img.check(disk.top)
    assert disk.read() == disk.content


def test_snapshots(disk: Disk, qemu_img: Any) -> None:
    """An internal snapshot of the top reads the backing files too, and a pull would take them away."""
    qemu_img("snapshot", "-c", "one", disk.top)
    for options in (PULL, {"base_index": 2}):
        with pytest.raises(EngineError, match="internal snapshots") as caught:
            _open(disk, **options)
        assert caught.value.kind == "unsupported"
    with _open(disk, **COMMIT) as merge:
        merge.run()
    assert disk.read() == disk.content
    qemu_img("convert", "-l", "snapshot.name=one", "-O", "raw", disk.top, disk.folder / "old")
    assert (disk.folder / "old").read_bytes() == disk.content


def test_a_base_that_cannot_grow(
    tmp_path: Path, qemu_img: Any, qemu_io: Any, make_image: Any, sha256_of: Callable[[Path], str]
) -> None:
    """A disk with internal snapshots keeps its size. It is said at once, and the base keeps its bitmaps too."""
    base = make_image(tmp_path / "base.qcow2", "qcow2", 100 * KIB, writes=[(0, 100 * KIB, 1)])
    qemu_img("snapshot", "-c", "one", base)
    qemu_img("bitmap", "--add", base, "changes")
    top = qemu_img.create(tmp_path / "top.qcow2", "qcow2", DISK_BYTES, backing=base.name, backing_format="qcow2")
    qemu_io(top, "qcow2", "write -P 2 1M 64k")
    before = sha256_of(base)
    with pytest.raises(EngineError, match="internal snapshots") as caught:
        Merge.commit([(str(top), "qcow2")], ANY_PATH, top_index=0, base_index=1)
    assert caught.value.kind == "unsupported"
    assert sha256_of(base) == before


@pytest.mark.parametrize("is_damaged", [False, True])
def test_failed_in_the_middle(
    is_damaged: bool, small_folder: Path, tmp_path: Path, qemu_img: Any, qemu_io: Any
) -> None:
    """No room left, or a layer that turns out to be damaged: the disk is as good as before."""
    disk = Disk(tmp_path, qemu_img, qemu_io)
    top = small_folder / "top.qcow2"
    qemu_img.create(top, "qcow2", DISK_BYTES, backing=disk.middle, backing_format="qcow2")
    qemu_io(top, "qcow2", "write -P 7 1M 100k")
    disk.top.unlink()
    disk.top = top
    if is_damaged:
        subprocess.run(["truncate", "-s", "2M", disk.middle], check=True)
    else:
        (small_folder / "ballast").write_bytes(b"x" * (2 * MIB))
    with Merge.pull(disk.layers, ANY_PATH) as merge, pytest.raises(EngineError) as caught:
        merge.run()
    if is_damaged:
        assert caught.value.path == str(disk.middle)
        assert caught.value.kind == "format"
        assert qemu_img.info(top)["backing-filename"] == str(disk.middle)
    else:
        assert "No space" in str(caught.value)
        assert disk.read() == disk.content
        (small_folder / "ballast").unlink()
        assert qemu_img("check", "-q", top, check=False).returncode in (0, 3)  # 3: clusters that leaked


def test_block_devices(loop_device: Callable[[int], Path], tmp_path: Path, qemu_img: Any, qemu_io: Any) -> None:
    """A base on a device cannot grow; one that is large enough takes all."""
    small, large = loop_device(1 * MIB), loop_device(DISK_BYTES)
    for device in (small, large):
        top = tmp_path / f"{device.name}.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", "-b", device, "-F", "raw", top, str(DISK_BYTES - 1 * MIB))
        qemu_io(top, "qcow2", "write -P 5 100k 1M", "write -z 1500k 200k")
        layers: list[tuple[str, Any]] = [(str(top), "qcow2")]
        if device == small:
            with pytest.raises(EngineError) as caught:
                Merge.commit(layers, ANY_PATH, top_index=0, base_index=1)
            assert caught.value.kind == "size"
            continue
        content = read_by_qemu(qemu_img, top, "qcow2", tmp_path / "read")
        with Merge.commit(layers, ANY_PATH, top_index=0, base_index=1) as merge:
            merge.run()
        assert device.read_bytes()[: len(content)] == content
