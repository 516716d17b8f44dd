# SPDX-License-Identifier: Apache-2.0
"""Copies that share extents: on a real XFS with reflinks, and where sharing cannot be had."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine.sources import (
    ANY_PATH,
    DISK_BYTES,
    KIB,
    MIB,
    Source,
    SourceMaker,
    copy_image,
    noise,
    noisy_raw,
    reads_same,
)
from reference.digest import digest_of

from virtblock.engine import Chain, Copy, CopyProgress, EngineError

Command = Callable[..., subprocess.CompletedProcess[str]]
XFS_BYTES = 320 * MIB
PIECES = [(0, 3 * MIB), (4 * MIB + 512, 70 * KIB), (10 * MIB, 2 * MIB)]


@pytest.fixture(scope="module")
def xfs_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that shares extents, on a loop device; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    place = tmp_path_factory.mktemp("xfs")
    disk, root = place / "disk", place / "root"
    root.mkdir()
    with disk.open("wb") as file:
        file.truncate(XFS_BYTES)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, root], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", root], check=True)


@pytest.fixture
def xfs(xfs_root: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder on it, emptied afterwards."""
    place = xfs_root / tmp_path.name
    place.mkdir()
    yield place
    for file in place.iterdir():
        file.unlink()
    place.rmdir()


def extents(path: Path) -> list[str]:
    """What the file system says of each extent of a file."""
    done = subprocess.run(["filefrag", "-s", "-v", path], check=True, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if line.lstrip()[:1].isdigit()]


def is_shared(path: Path) -> bool:
    """Whether any extent belongs to another file too."""
    return any("shared" in line for line in extents(path))


def chain_of_three(folder: Path, qemu_img: Any) -> Path:
    """Layers of noise over each other, in pieces that are whole clusters of 64 KiB and others that are not."""
    base = noisy_raw(folder / "base.raw", 2 * DISK_BYTES, PIECES)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", base, folder / "base.qcow2")
    below, below_format = folder / "base.qcow2", "qcow2"
    base.unlink()
    for number, writes in enumerate([["1M 640k", "5000k 10k"], ["1280k 64k", "10M 1M", "15M 1M"]]):
        layer = folder / f"layer{number}.qcow2"
        qemu_img.create(layer, "qcow2", backing=below, backing_format=below_format)
        for seed, write in enumerate(writes):
            (folder / "noise").write_bytes(noise(MIB, 100 * number + seed))
            subprocess.run(
                ["qemu-io", "-f", "qcow2", "-c", f"write -q -s {folder / 'noise'} {write}", layer], check=True
            )
        below = layer
    (folder / "noise").unlink()
    return below


def run(source: Path, source_format: Any, destination: Path, destination_format: Any, **options: Any) -> CopyProgress:
    """Copy and say what was moved."""
    with (
        Chain([(str(source), source_format)], ANY_PATH) as chain,
        Copy(chain, str(destination), destination_format, ANY_PATH, **options) as copy,
    ):
        copy.run()
        return copy.progress()


@pytest.mark.parametrize("destination_format", ["raw", "qcow2"])
@pytest.mark.parametrize("reflink", ["auto", "always"])
def test_flattening_shares(xfs: Path, qemu_img: Any, destination_format: str, reflink: str) -> None:
    """Whole clusters of every layer are shared, the rest is copied; nothing of the source changes."""
    source = chain_of_three(xfs, qemu_img)
    copy = xfs / "copy"
    progress = run(source, "qcow2", copy, destination_format, reflink=reflink)
    assert reads_same(qemu_img, source, "qcow2", copy, destination_format)
    assert is_shared(copy)
    assert progress.shared_bytes >= 5 * MIB
    assert progress.shared_bytes + progress.written_bytes + progress.zero_bytes == 2 * DISK_BYTES
    assert progress.read_bytes == progress.written_bytes
    assert progress.moved_bytes == progress.total_bytes
    if destination_format == "qcow2":
        qemu_img.check(copy)


@pytest.mark.parametrize("destination_format", ["raw", "qcow2"])
def test_sharing_takes_no_room(xfs: Path, destination_format: Any) -> None:
    """A copy of more than what is free succeeds with `always`; writes to the copy do not reach the source."""
    source = noisy_raw(xfs / "disk.raw", 180 * MIB, [(at * MIB, MIB) for at in range(180)])
    first = noise(MIB, 0)
    with pytest.raises(EngineError) as caught:
        copy_image(source, "raw", xfs / "never", destination_format, reflink="never")
    assert caught.value.kind == "space"
    progress = run(source, "raw", xfs / "copy", destination_format, reflink="always")
    assert (progress.shared_bytes, progress.written_bytes) == (180 * MIB, 0)
    with Chain([(str(xfs / "copy"), destination_format)], ANY_PATH) as chain:
        assert chain.read(0, MIB) == first
    if destination_format == "raw":
        with (xfs / "copy").open("r+b") as file:
            file.write(bytes(MIB))
        with source.open("rb") as file:
            assert file.read(MIB) == first


def test_never_copies(xfs: Path, qemu_img: Any) -> None:
    """As on any other file system."""
    source = chain_of_three(xfs, qemu_img)
    progress = run(source, "qcow2", xfs / "copy", "qcow2", reflink="never")
    assert progress.shared_bytes == 0
    assert not is_shared(xfs / "copy")
    assert reads_same(qemu_img, source, "qcow2", xfs / "copy", "qcow2")


def test_top_alone_shares(xfs: Path, qemu_img: Any) -> None:
    """A shallow copy shares with the top image, and keeps its backing file."""
    source = chain_of_three(xfs, qemu_img)
    backing = xfs / "layer0.qcow2"
    progress = run(
        source, "qcow2", xfs / "copy", "qcow2", mode="top", backing_path=str(backing), backing_format="qcow2"
    )
    assert progress.shared_bytes >= 2 * MIB
    assert is_shared(xfs / "copy")
    qemu_img.check(xfs / "copy")
    assert reads_same(qemu_img, source, "qcow2", xfs / "copy", "qcow2")


@pytest.mark.parametrize("cluster_size_bytes", [512, 4096, 65536, 2 * MIB])
@pytest.mark.parametrize("size_bytes", [DISK_BYTES, DISK_BYTES + 4096, DISK_BYTES + 777])
def test_every_cluster_size(xfs: Path, qemu_img: Any, cluster_size_bytes: int, size_bytes: int) -> None:
    """Disks that end inside a granule, a cluster, a block; clusters smaller than a block."""
    pieces = [(0, 3 * MIB), (4 * MIB + 4096, MIB), (6 * MIB + 512, MIB), (7 * MIB + 512 * KIB, 512 * KIB)]
    source = noisy_raw(xfs / "disk.raw", size_bytes, [*pieces, (DISK_BYTES, size_bytes - DISK_BYTES)])
    for name, destination_format in (("copy.qcow2", "qcow2"), ("copy.raw", "raw")):
        run(source, "raw", xfs / name, destination_format, cluster_size_bytes=cluster_size_bytes)
    qemu_img.check(xfs / "copy.qcow2")
    assert is_shared(xfs / "copy.raw")
    assert (xfs / "copy.raw").read_bytes() == source.read_bytes()
    assert reads_same(qemu_img, source, "raw", xfs / "copy.qcow2", "qcow2")


@pytest.mark.parametrize("kind", ["raw", "qcow2-512", "qcow2-4k", "qcow2-2m", "zero-clusters", "zlib", "zstd", "chain"])
@pytest.mark.parametrize("destination_format", ["raw", "qcow2"])
def test_every_source(xfs: Path, source_of: SourceMaker, qemu_img: Any, kind: str, destination_format: str) -> None:
    """Whatever the source is made of, on this file system or another, the copy reads the same."""
    source = source_of(kind)
    run(source.path, source.format, xfs / "far", destination_format)
    assert reads_same(qemu_img, source.path, source.format, xfs / "far", destination_format)
    qemu_img("convert", "-f", source.format, "-O", source.format, source.path, xfs / "source")
    run(xfs / "source", source.format, xfs / "copy", destination_format)
    assert reads_same(qemu_img, source.path, source.format, xfs / "copy", destination_format)


def test_always_needs_whole_blocks(xfs: Path, qemu_img: Any) -> None:
    """Clusters of 512 bytes that do not lie on blocks are named as the reason; `auto` copies them."""
    source = noisy_raw(xfs / "disk.raw", DISK_BYTES, [(0, MIB)])
    with pytest.raises(EngineError) as caught:
        copy_image(source, "raw", xfs / "copy", "qcow2", cluster_size_bytes=512, reflink="always")
    assert caught.value.kind == "unsupported"
    assert "blocks of 4096 bytes" in str(caught.value)
    assert run(source, "raw", xfs / "copy", "qcow2", cluster_size_bytes=512).shared_bytes == 0
    assert reads_same(qemu_img, source, "raw", xfs / "copy", "qcow2")


@pytest.mark.parametrize("destination_format", ["raw", "qcow2"])
def test_other_file_system(xfs: Path, tmp_path: Path, qemu_img: Any, destination_format: str) -> None:
    """`auto` copies; `always` names the reason and leaves no more than the empty file that any failed copy leaves."""
    source = noisy_raw(tmp_path / "disk.raw", DISK_BYTES, [(0, MIB)])
    copy = xfs / "copy"
    with pytest.raises(EngineError) as caught:
        copy_image(source, "raw", copy, destination_format, reflink="always")
    assert caught.value.kind == "unsupported"
    assert "Cannot share the extents" in str(caught.value)
    assert str(source) in str(caught.value)
    assert [(file.name, file.stat().st_size) for file in xfs.iterdir()] == [("copy", 0)]
    assert run(source, "raw", copy, destination_format).shared_bytes == 0
    assert reads_same(qemu_img, source, "raw", copy, destination_format)


def test_layers_apart(xfs: Path, tmp_path: Path, qemu_img: Any) -> None:
    """A base on another file system does not keep the top image from being shared."""
    base = noisy_raw(tmp_path / "base.raw", DISK_BYTES, [(0, DISK_BYTES)])
    top = xfs / "top.qcow2"
    qemu_img.create(top, "qcow2", backing=base, backing_format="raw")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 2M 1M", top], check=True)
    progress = run(top, "qcow2", xfs / "copy", "qcow2")
    assert (progress.shared_bytes, progress.written_bytes) == (MIB, DISK_BYTES - MIB)
    assert reads_same(qemu_img, top, "qcow2", xfs / "copy", "qcow2")


def test_file_system_without_sharing(source_of: SourceMaker, tmp_path: Path, qemu_img: Any) -> None:
    """tmpfs: silent with `auto`, refused with `always`."""
    shm = Path("/dev/shm") / f"virtblock-{os.getpid()}"
    shm.mkdir()
    try:
        source = noisy_raw(shm / "disk.raw", DISK_BYTES, [(0, MIB)])
        with pytest.raises(EngineError, match="Cannot share the extents"):
            copy_image(source, "raw", shm / "copy", "raw", reflink="always")
        assert not (shm / "copy.virtblock-partial").exists()
        assert run(source, "raw", shm / "copy", "raw").shared_bytes == 0
        assert reads_same(qemu_img, source, "raw", shm / "copy", "raw")
    finally:
        for file in shm.iterdir():
            file.unlink()
        shm.rmdir()


def test_always_needs_a_new_file(xfs: Path) -> None:
    """What exists is not shared into: refused before it is touched."""
    source = noisy_raw(xfs / "disk.raw", DISK_BYTES, [(0, MIB)])
    existing = noisy_raw(xfs / "copy", DISK_BYTES, [(MIB, MIB)])
    before = existing.read_bytes()
    with pytest.raises(EngineError, match="Only a new file") as caught:
        copy_image(source, "raw", existing, "raw", reuse=True, reflink="always")
    assert caught.value.kind == "unsupported"
    assert existing.read_bytes() == before
    copy_image(source, "raw", existing, "raw", reuse=True)
    assert existing.read_bytes() == source.read_bytes()
    assert not is_shared(existing)


def test_unknown_word(tmp_path: Path) -> None:
    """Refused before the destination is made."""
    source = noisy_raw(tmp_path / "disk.raw", MIB, [])
    with pytest.raises(EngineError, match="Unknown reflink mode 'perhaps'"):
        copy_image(source, "raw", tmp_path / "copy", "raw", reflink="perhaps")
    assert not (tmp_path / "copy").exists()


def test_limit_is_not_charged(xfs: Path) -> None:
    """The bandwidth is for bytes that move: at 1 MiB/s this would take 8 seconds."""
    source = noisy_raw(xfs / "disk.raw", DISK_BYTES, [(0, DISK_BYTES)])
    progress = run(source, "raw", xfs / "copy", "raw", bandwidth_bytes_per_s=MIB)
    assert progress.shared_bytes == DISK_BYTES
    assert progress.elapsed_ns < 4_000_000_000


def test_pause_holds_sharing(xfs: Path) -> None:
    """A copy that is paused before it begins shares nothing until it goes on."""
    source = noisy_raw(xfs / "disk.raw", DISK_BYTES, [(0, DISK_BYTES)])
    with (
        Chain([(str(source), "raw")], ANY_PATH) as chain,
        Copy(chain, str(xfs / "copy"), "raw", ANY_PATH) as copy,
    ):
        copy.pause()
        thread = threading.Thread(target=copy.run)
        thread.start()
        while copy.progress().phase != "copying":
            thread.join(0.01)
        thread.join(0.2)
        assert thread.is_alive()
        assert copy.progress().shared_bytes == 0
        copy.resume()
        thread.join(120)
        assert copy.progress().phase == "done"
        assert copy.progress().shared_bytes == DISK_BYTES


def test_cancel_is_heard(xfs: Path) -> None:
    """Nothing is shared for a copy that nobody wants any more."""
    source = noisy_raw(xfs / "disk.raw", DISK_BYTES, [(0, DISK_BYTES)])
    with (
        Chain([(str(source), "raw")], ANY_PATH) as chain,
        Copy(chain, str(xfs / "copy"), "raw", ANY_PATH) as copy,
    ):
        copy.cancel()
        with pytest.raises(EngineError) as caught:
            copy.run()
        assert caught.value.kind == "cancelled"
        assert copy.progress().shared_bytes == 0
    assert (xfs / "copy").stat().st_size == 0


def test_command(xfs: Path, qemu_img: Any, copy_command: Command) -> None:
    """The option reaches the engine, and the words say what was shared."""
    source = chain_of_three(xfs, qemu_img)
    done = copy_command("--reflink", "always", "--verify", source, xfs / "copy")
    assert done.returncode == 0, done.stderr
    assert " shared, verified" in done.stdout
    done = copy_command("--reflink", "never", source, xfs / "other")
    assert "shared" not in done.stdout


def test_command_refused(source_of: SourceMaker, copy_command: Command) -> None:
    """In text, with exit code 1."""
    source: Source = source_of("raw")
    shm = Path("/dev/shm") / f"virtblock-{os.getpid()}"
    try:
        done = copy_command("--reflink", "always", source.path, shm)
        assert done.returncode == 1
        assert "Cannot share the extents" in done.stderr
    finally:
        shm.unlink(missing_ok=True)


def test_shared_extents_are_read_for_the_digest(xfs: Path) -> None:
    """No byte is moved that can be shared, and the digest is right all the same."""
    source = noisy_raw(xfs / "disk.raw", 4 * MIB, [(0, MIB), (2 * MIB + 777, MIB)])
    with (
        Chain([(str(source), "raw")], ANY_PATH) as chain,
        Copy(chain, str(xfs / "copy"), "qcow2", ANY_PATH, digest=True) as copy,
    ):
        copy.run()
        assert copy.progress().shared_bytes > 0
        assert copy.digest == digest_of(source.read_bytes())
