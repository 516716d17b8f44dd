# SPDX-License-Identifier: Apache-2.0
"""New qcow2 images of compressed clusters, judged by qemu: content, refcounts, size, and what is refused."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, DISK_BYTES, KIB, KINDS, MIB, Source, SourceMaker, copy_image, noise, reads_same
from hypothesis import given, settings
from hypothesis import strategies as st

from virtblock.engine import Chain, Copy, EngineError

Command = Callable[..., subprocess.CompletedProcess[str]]

METHODS = ("zlib", "zstd")
CLUSTER_SIZES = (512, 4 * KIB, 64 * KIB, 2 * MIB)


def _text(length_bytes: int, seed: int) -> bytes:
    """What compresses to about a third."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("etaoinshrdlucmfw", k=chance.randint(2, 9))) for _ in range(500)]
    return " ".join(chance.choices(words, k=length_bytes // 4)).encode()[:length_bytes]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk of text, noise that does not compress between it, one byte over and over, zeros, and an odd end."""
    path = tmp_path_factory.mktemp("mixed") / "disk.raw"
    pieces = [
        (0, _text(1 * MIB, 1)),
        (1 * MIB, noise(300 * KIB, 2)),
        (1 * MIB + 300 * KIB, _text(200 * KIB, 3)),
        (2 * MIB, b"\x5a" * MIB),
        (4 * MIB, b"".join(_text(24 * KIB, at) + noise(40 * KIB, at) for at in range(10))),
        (7 * MIB, b"".join(noise(64 * KIB, at) + _text(64 * KIB, at) for at in range(6))),
        (8 * MIB - 100, b"end!" * 219),
    ]
    with path.open("wb") as file:
        for offset, content in pieces:
            file.seek(offset)
            file.write(content)
    return path


def _compressed_count(qemu_img: Any, path: Path) -> int:
    return int(json.loads(qemu_img("check", "--output=json", "-f", "qcow2", path).stdout).get("compressed-clusters", 0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cluster_size_bytes", CLUSTER_SIZES)
def test_mixed_content(mixed: Path, method: str, cluster_size_bytes: int, tmp_path: Path, qemu_img: Any) -> None:
    """Clean, the same to qemu, partly compressed, and no larger than what qemu-img itself makes of the disk."""
    copy_image(
        mixed,
        "raw",
        tmp_path / "copy",
        "qcow2",
        cluster_size_bytes=cluster_size_bytes,
        compression=method,
        lane_count=3,
    )
    qemu_img.check(tmp_path / "copy")
    assert qemu_img("compare", "-f", "raw", "-F", "qcow2", mixed, tmp_path / "copy").returncode == 0
    assert _compressed_count(qemu_img, tmp_path / "copy") > 0
    described = qemu_img.info(tmp_path / "copy", image_format="qcow2")
    assert described["format-specific"]["data"]["compression-type"] == method
    assert described["cluster-size"] == cluster_size_bytes
    options = f"compression_type={method},cluster_size={cluster_size_bytes}"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, mixed, tmp_path / "theirs")
    # Two host clusters more for what lies between lanes; QEMU's tables are no smaller.
    assert (tmp_path / "copy").stat().st_size <= (tmp_path / "theirs").stat().st_size * 1.01 + 2 * cluster_size_bytes


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_source(
    kind: str, method: str, source_of: SourceMaker, tmp_path: Path, qemu_img: Any, is_untouched: Any
) -> None:
    """Flattened and shallow."""
    source: Source = source_of(kind)
    copy_image(source.path, source.format, tmp_path / "flat", "qcow2", compression=method)
    qemu_img.check(tmp_path / "flat")
    assert reads_same(qemu_img, source.path, source.format, tmp_path / "flat", "qcow2")
    if source.backing:
        backing = {"backing_path": str(source.backing), "backing_format": source.backing_format}
        copy_image(source.path, source.format, tmp_path / "top", "qcow2", mode="top", compression=method, **backing)
        qemu_img.check(tmp_path / "top")
        assert reads_same(qemu_img, source.path, source.format, tmp_path / "top", "qcow2")
    assert is_untouched(source)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cluster_size_bytes", CLUSTER_SIZES)
def test_zeros_over_a_backing_file(
    method: str, cluster_size_bytes: int, tmp_path: Path, qemu_img: Any, make_image: Any, qemu_io: Any
) -> None:
    """What reads as zeros in the top image, by its entry or by its data, does not show what lies below."""
    base = make_image(tmp_path / "base", "qcow2", 16 * MIB, writes=[(0, 16 * MIB, 7)])
    top = make_image(
        tmp_path / "top.qcow2", "qcow2", backing=base, backing_format="qcow2",
        writes=[(0, 3 * MIB, 0), (4 * MIB, 1 * MIB + 512, 9), (8 * MIB, 64 * KIB, 0)],
    )  # fmt: skip
    qemu_io(top, "qcow2", "write -z 10M 3M")
    copy_image(
        top, "qcow2", tmp_path / "copy", "qcow2", mode="top", compression=method, cluster_size_bytes=cluster_size_bytes,
        backing_path=str(base), backing_format="qcow2",
    )  # fmt: skip
    qemu_img.check(tmp_path / "copy")
    assert reads_same(qemu_img, top, "qcow2", tmp_path / "copy", "qcow2")


_PIECE = st.one_of(
    st.tuples(st.just("text"), st.integers(1, 90_000), st.integers(0, 99)),
    st.tuples(st.just("noise"), st.integers(1, 90_000), st.integers(0, 99)),
    st.tuples(st.just("zeros"), st.integers(1, 200_000), st.just(0)),
    st.tuples(st.just("byte"), st.integers(1, 200_000), st.integers(1, 255)),
)


def _content(pieces: list[tuple[str, int, int]]) -> bytes:
    makers: dict[str, Callable[[int, int], bytes]] = {
        "text": _text,
        "noise": noise,
        "zeros": lambda length, _: bytes(length),
        "byte": lambda length, value: bytes([value]) * length,
    }
    return b"".join(makers[kind](length, seed) for kind, length, seed in pieces)


@given(
    pieces=st.lists(_PIECE, max_size=8),
    cluster_bits=st.integers(9, 18),
    method=st.sampled_from(METHODS),
    level=st.integers(0, 9),
    lane_count=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_any_content(
    pieces: list[tuple[str, int, int]],
    cluster_bits: int,
    method: Any,
    level: int,
    lane_count: int,
    tmp_path: Path,
    qemu_img: Any,
) -> None:
    """Whatever the disk holds, the image is clean and gives it back: to qemu, which is not ours."""
    disk, copy = tmp_path / "disk.raw", tmp_path / "copy.qcow2"
    disk.write_bytes(_content(pieces))
    copy.unlink(missing_ok=True)
    copy_image(
        disk, "raw", copy, "qcow2", cluster_size_bytes=1 << cluster_bits, compression=method, compression_level=level,
        lane_count=lane_count, durable=False,
    )  # fmt: skip
    qemu_img.check(copy)
    if disk.stat().st_size:
        assert qemu_img("compare", "-f", "raw", "-F", "qcow2", disk, copy).returncode == 0


@pytest.mark.parametrize("lane_count", [1, 4])
def test_the_same_bytes_compress_to_the_same_size(mixed: Path, lane_count: int, tmp_path: Path) -> None:
    """Lanes share no state of an encoder, and what they pack together leaves no gaps that count."""
    sizes = set()
    for number in range(3):
        copy_image(mixed, "raw", tmp_path / f"{number}", "qcow2", compression="zlib", lane_count=lane_count)
        sizes.add((tmp_path / f"{number}").stat().st_size)
    assert max(sizes) - min(sizes) <= 4 * 64 * KIB


@pytest.mark.parametrize("method", METHODS)
def test_new_image_on_a_device(mixed: Path, method: str, loop_device: Callable[[int], Path], qemu_img: Any) -> None:
    """Old content of the device is nowhere in what a guest reads."""
    device = loop_device(16 * MIB)
    copy_image(mixed, "raw", device, "qcow2", compression=method)
    qemu_img.check(device)
    assert reads_same(qemu_img, mixed, "raw", device, "qcow2")


@pytest.mark.parametrize("method", METHODS)
def test_device_that_is_too_small(mixed: Path, method: str, loop_device: Callable[[int], Path], qemu_img: Any) -> None:
    """What compression saves is known at the end alone: then the device holds no image."""
    device = loop_device(1 * MIB)
    with pytest.raises(EngineError, match="needs more than the block device's 1048576 bytes") as caught:
        copy_image(mixed, "raw", device, "qcow2", compression=method)
    assert caught.value.kind == "space"
    assert qemu_img("info", "-f", "qcow2", device, check=False).returncode != 0


@pytest.mark.fault
def test_file_system_that_fills_up(source_of: SourceMaker, small_folder: Path, is_untouched: Any) -> None:
    """ENOSPC, and nothing but at most the empty file that stood for the destination."""
    source = source_of("zero-clusters")
    with pytest.raises(EngineError) as caught:
        copy_image(source.path, source.format, small_folder / "copy", "qcow2", compression="zlib")
    assert os.strerror(caught.value.errno) == "No space left on device"
    assert [left.name for left in small_folder.iterdir()] in ([], ["copy"])
    assert not (small_folder / "copy").exists() or (small_folder / "copy").stat().st_size == 0
    assert is_untouched(source)


def test_what_fits_compressed_alone_is_not_refused(
    mixed: Path, small_folder: Path, tmp_path: Path, qemu_img: Any
) -> None:
    """The disk's data is larger than the file system's room, and its compressed form is not."""
    (tmp_path / "disk.raw").write_bytes(mixed.read_bytes() + b"\xa5" * 4 * MIB)
    with Chain([(str(tmp_path / "disk.raw"), "raw")], ANY_PATH) as chain:
        assert chain.required_bytes("qcow2") > 4 * MIB
    copy_image(tmp_path / "disk.raw", "raw", small_folder / "copy", "qcow2", compression="zlib")
    qemu_img.check(small_folder / "copy")


def _fails(source: Source, destination: Path, destination_format: Any, **options: Any) -> EngineError:
    with Chain([(str(source.path), source.format)], ANY_PATH) as chain, pytest.raises(EngineError) as caught:  # type: ignore[list-item]
        Copy(chain, str(destination), destination_format, ANY_PATH, **options)
    return caught.value


def test_what_cannot_be_compressed_is_refused(
    source_of: SourceMaker, tmp_path: Path, make_image: Any, sha256_of: Any
) -> None:
    """Raw images, existing ones, levels that do not exist, and methods; nothing is made and nothing is touched."""
    source = source_of("qcow2-v3")
    old = make_image(tmp_path / "old.qcow2", "qcow2", source.size_bytes, writes=[(0, 4096, 1)])
    before = sha256_of(old)
    for error in (
        _fails(source, tmp_path / "new", "raw", compression="zlib"),
        _fails(source, old, "qcow2", reuse=True, compression="zstd"),
    ):
        assert (error.kind, error.reason) == ("invalid", "Only a new qcow2 destination can be compressed")
    assert "not one of 1 to 9" in str(
        _fails(source, tmp_path / "new", "qcow2", compression="zlib", compression_level=10)
    )
    assert "not one of 1 to 22" in str(
        _fails(source, tmp_path / "new", "qcow2", compression="zstd", compression_level=23)
    )
    assert "Unknown compression 'lzo'" in str(_fails(source, tmp_path / "new", "qcow2", compression="lzo"))
    assert _fails(source, tmp_path / "new", "qcow2", compression="zlib", reflink="always").kind == "unsupported"
    assert sha256_of(old) == before
    assert [left.name for left in tmp_path.iterdir()] in (["old.qcow2"], ["new", "old.qcow2"], ["old.qcow2", "new"])


@pytest.mark.parametrize(
    "arguments", [["-c"], ["--compress"], ["--compress=zlib"], ["--compress=zstd", "--compression-level=9"]]
)
def test_command(arguments: list[str], mixed: Path, tmp_path: Path, copy_command: Command, qemu_img: Any) -> None:
    """The option stands before SOURCE, alone or with its method; a raw SOURCE becomes a qcow2 image."""
    done = copy_command(*arguments, "--json", "--verify", mixed, tmp_path / "copy")
    answer = json.loads(done.stdout)
    method = "zstd" if "--compress=zstd" in arguments else "zlib"
    assert (answer["destination_format"], answer["compression"], answer["verified"]) == ("qcow2", method, True)
    assert 0 < answer["stored_bytes"] < answer["written_bytes"]
    assert answer["compression_ratio"] == round(answer["stored_bytes"] / answer["written_bytes"], 6)
    described = qemu_img.info(tmp_path / "copy", image_format="qcow2")
    assert described["format-specific"]["data"]["compression-type"] == method


def test_command_says_the_ratio(mixed: Path, tmp_path: Path, copy_command: Command) -> None:
    """For a person."""
    done = copy_command("-c", mixed, tmp_path / "copy")
    assert (done.returncode, done.stderr) == (0, "")
    assert "', qcow2, zlib to " in done.stdout
    assert done.stdout.endswith("%\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--raw"], "cannot go with --raw"),
        (["--reuse"], "cannot go with --reuse"),
        (["--reflink=always"], "cannot go with --reflink=always"),
        (["--compression-level=10"], "'10' is not one of 1 to 9"),
        (["--compression-level=-1"], "'-1' is not one of 1 to 9"),
    ],
)
def test_command_refuses(arguments: list[str], words: str, mixed: Path, tmp_path: Path, copy_command: Command) -> None:
    """Before anything is opened, and in words that say what to leave out."""
    done = copy_command("-c", *arguments, mixed, tmp_path / "copy")
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "copy").exists()


def test_level_without_compression(mixed: Path, tmp_path: Path, copy_command: Command) -> None:
    """A level alone asks for nothing."""
    done = copy_command("--compression-level=3", mixed, tmp_path / "copy")
    assert (done.returncode, "--compression-level needs --compress" in done.stderr) == (2, True)


def test_disk_size_is_kept(tmp_path: Path, qemu_img: Any) -> None:
    """An empty disk, and one that ends within a sector."""
    for size_bytes in (0, 1, 513, DISK_BYTES + 1):
        disk = tmp_path / f"{size_bytes}.raw"
        disk.write_bytes(_text(size_bytes, size_bytes)[:size_bytes].ljust(size_bytes, b"x"))
        copy_image(disk, "raw", tmp_path / f"{size_bytes}.qcow2", "qcow2", compression="zlib")
        qemu_img.check(tmp_path / f"{size_bytes}.qcow2")
        described = qemu_img.info(tmp_path / f"{size_bytes}.qcow2", image_format="qcow2")
        assert described["virtual-size"] == (size_bytes + 511) // 512 * 512
