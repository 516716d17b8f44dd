# SPDX-License-Identifier: Apache-2.0
"""New destinations by their options: cluster size, extended L2 entries, preallocation; judged by qemu."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, GIB, KIB, MIB, TIB, copy_image, noisy_raw, own_bytes, reads_same
from hypothesis import given, settings
from hypothesis import strategies as st

from virtblock.engine import Chain, Copy, EngineError, create_image

DISK_BYTES = 5 * MIB + 7 * 512
PREALLOCATIONS = ("off", "metadata", "falloc", "full")
SETTINGS = settings(max_examples=25, deadline=None)

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def overlay(tmp_path_factory: pytest.TempPathFactory, qemu_img: Any, qemu_io: Any) -> Path:
    """An image with subclusters of every kind over a base without."""
    folder = tmp_path_factory.mktemp("overlay")
    base = qemu_img.create(folder / "base.qcow2", "qcow2", DISK_BYTES)
    qemu_io(base, "qcow2", "write -P 1 0 2M", "write -P 2 3M 100k", f"write -P 9 {DISK_BYTES - 512} 512")
    top = folder / "top.qcow2"
    qemu_img.create(
        top, "qcow2", backing=base.name, backing_format="qcow2",
        options=["extended_l2=on", "cluster_size=128k"],
    )  # fmt: skip
    qemu_io(
        top, "qcow2", "write -P 3 4k 4k", "write -z 100k 8k", "write -P 0 300k 100k", "write -P 4 4M 300k",
        "write -zu 1M 256k", "discard 4200k 20k", f"write -P 8 {DISK_BYTES - 1024} 512",
    )  # fmt: skip
    return top


def _new(overlay: Path, path: Path, mode: Any, **options: Any) -> int:
    """Copy; returns the bound that was told before."""
    of_clusters = dict(options)
    if mode == "top":
        options |= {"backing_path": str(overlay.parent / "base.qcow2"), "backing_format": "qcow2"}
    with Chain([(str(overlay), "qcow2")], ANY_PATH) as chain:
        required_bytes = chain.required_bytes("qcow2", mode, **of_clusters)
        with Copy(chain, str(path), "qcow2", ANY_PATH, mode=mode, **options) as copy:
            copy.run()
    return required_bytes


@pytest.mark.parametrize("preallocation", PREALLOCATIONS)
@pytest.mark.parametrize("cluster_size_bytes", [16 * KIB, 64 * KIB, 2 * MIB])
@pytest.mark.parametrize(("mode", "extended_l2"), [("full", False), ("full", True), ("top", False), ("top", True)])
def test_every_new_image(
    mode: str,
    extended_l2: bool,
    cluster_size_bytes: int,
    preallocation: str,
    overlay: Path,
    tmp_path: Path,
    qemu_img: Any,
) -> None:
    """It reads the same, is clean, is what was asked for, and takes no more room than was said."""
    options = {
        "cluster_size_bytes": cluster_size_bytes, "extended_l2": extended_l2, "preallocation": preallocation,
    }  # fmt: skip
    if mode == "top" and not extended_l2 and preallocation != "off":
        with pytest.raises(EngineError, match="only with extended L2") as caught:
            _new(overlay, tmp_path / "copy", mode, **options)
        assert caught.value.kind == "invalid"
        assert list(tmp_path.iterdir()) == []
        return
    required_bytes = _new(overlay, tmp_path / "copy", mode, **options)
    assert reads_same(qemu_img, overlay, "qcow2", tmp_path / "copy", "qcow2")
    qemu_img.check(tmp_path / "copy")
    info = qemu_img.info(tmp_path / "copy")
    assert info["cluster-size"] == cluster_size_bytes
    assert info["format-specific"]["data"]["extended-l2"] is extended_l2
    occupied_bytes = (tmp_path / "copy").stat().st_blocks * 512
    assert occupied_bytes <= required_bytes + 16 * KIB
    if preallocation in ("falloc", "full"):
        assert occupied_bytes >= DISK_BYTES
    if preallocation != "off":
        assert (tmp_path / "copy").stat().st_size >= DISK_BYTES


def test_inherits_from_the_top(overlay: Path, tmp_path: Path, qemu_img: Any) -> None:
    """Cluster size and extended L2 entries of the top image, but where clusters that were asked for are too small."""
    cases: list[tuple[dict[str, Any], int, bool]] = [
        ({}, 128 * KIB, True),
        ({"extended_l2": False}, 128 * KIB, False),
        ({"cluster_size_bytes": 32 * KIB}, 32 * KIB, True),
        ({"cluster_size_bytes": 8 * KIB}, 8 * KIB, False),
    ]
    for number, (options, cluster_size_bytes, extended_l2) in enumerate(cases):
        path = tmp_path / str(number)
        copy_image(overlay, "qcow2", path, "qcow2", **options)
        info = qemu_img.info(path)
        assert info["cluster-size"] == cluster_size_bytes
        assert info["format-specific"]["data"]["extended-l2"] is extended_l2
    small = qemu_img.create(tmp_path / "small", "qcow2", MIB, options=["cluster_size=4k"])
    copy_image(small, "qcow2", tmp_path / "large", "qcow2", extended_l2=True)
    assert qemu_img.info(tmp_path / "large")["cluster-size"] == 64 * KIB
    raw = noisy_raw(tmp_path / "raw", MIB, [(0, 5000)])
    copy_image(raw, "raw", tmp_path / "from-raw", "qcow2")
    info = qemu_img.info(tmp_path / "from-raw")
    assert (info["cluster-size"], info["format-specific"]["data"]["extended-l2"]) == (64 * KIB, False)


def test_shallow_copy_says_what_the_source_says(overlay: Path, tmp_path: Path, qemu_img: Any) -> None:
    """Subcluster for subcluster: what is data, what is zeros, and what shows through."""

    def said(path: Path) -> list[tuple[int, int, bool]]:
        rows: list[tuple[int, int, bool]] = []
        for row in qemu_img.map(path, "qcow2"):
            here = (row["start"], row["length"], row["depth"] == 0)
            if rows and rows[-1][2] == here[2]:
                here = (rows[-1][0], rows.pop()[1] + here[1], here[2])
            rows.append(here)
        return rows

    _new(overlay, tmp_path / "copy", "top")
    assert said(tmp_path / "copy") == said(overlay)


def test_saves_room(tmp_path: Path, qemu_img: Any, qemu_io: Any) -> None:
    """Small writes here and there cost their subclusters alone, as they do in qemu's own image."""
    base = noisy_raw(tmp_path / "base", 64 * MIB, [(0, 64 * MIB)])
    top = qemu_img.create(
        tmp_path / "top", "qcow2", backing=base, backing_format="raw", options=["extended_l2=on", "cluster_size=128k"]
    )
    qemu_io(top, "qcow2", *(f"write -P 7 {at}M 4k" for at in range(0, 64, 2)))
    backing = {"backing_path": str(base), "backing_format": "raw"}
    copy_image(top, "qcow2", tmp_path / "sub", "qcow2", mode="top", **backing)
    copy_image(top, "qcow2", tmp_path / "whole", "qcow2", mode="top", extended_l2=False, **backing)
    assert own_bytes(qemu_img, tmp_path / "sub") == 32 * 4 * KIB
    assert own_bytes(qemu_img, tmp_path / "whole") == 32 * 128 * KIB
    sub, whole, theirs = ((tmp_path / name).stat().st_blocks * 512 for name in ("sub", "whole", "top"))
    assert sub <= theirs + 256 * KIB
    assert sub < whole / 4


OPERATIONS = st.tuples(
    st.sampled_from(["write", "zero", "discard", "stored zeros"]), st.integers(0, 127), st.integers(1, 40)
)


@SETTINGS
@given(
    base=st.lists(OPERATIONS, max_size=4),
    top=st.lists(OPERATIONS, max_size=6),
    top_is_extended=st.booleans(),
    shift=st.integers(0, 3),
    preallocation=st.sampled_from(PREALLOCATIONS),
    mode=st.sampled_from(["full", "top"]),
    tail_sectors=st.integers(0, 9),
)
def test_any_chain(
    base: list[tuple[str, int, int]],
    top: list[tuple[str, int, int]],
    top_is_extended: bool,
    shift: int,
    preallocation: str,
    mode: str,
    tail_sectors: int,
    qemu_img: Any,
    qemu_io: Any,
) -> None:
    """Whatever lies in two images: the new one reads the same and is clean, before and after a guest writes to it."""
    size_bytes = 512 * KIB + tail_sectors * 512
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        below = qemu_img.create(folder / "base.qcow2", "qcow2", size_bytes, options=["cluster_size=4k"])
        _operate(qemu_io, below, base)
        options = ["extended_l2=on", "cluster_size=16k"] if top_is_extended else ["cluster_size=1k"]
        above = qemu_img.create(folder / "top.qcow2", "qcow2", backing=below, backing_format="qcow2", options=options)
        _operate(qemu_io, above, top)
        path = folder / "copy"
        _new(above, path, mode, extended_l2=True, cluster_size_bytes=16 * KIB << shift, preallocation=preallocation)
        assert reads_same(qemu_img, above, "qcow2", path, "qcow2")
        qemu_img.check(path)
        _operate(qemu_io, path, [("write", 3, 30), ("zero", 90, 20)])
        _operate(qemu_io, above, [("write", 3, 30), ("zero", 90, 20)])
        assert reads_same(qemu_img, above, "qcow2", path, "qcow2")
        qemu_img.check(path)


def _operate(qemu_io: Any, path: Path, operations: list[tuple[str, int, int]]) -> None:
    words = {"write": "write -P {seed}", "zero": "write -z", "discard": "discard", "stored zeros": "write -P 0"}
    commands = [
        f"{words[kind].format(seed=index + 1)} {start * 4096} {min(count, 128 - start) * 4096}"
        for index, (kind, start, count) in enumerate(operations)
    ]
    if commands:
        qemu_io(path, "qcow2", *commands)


@pytest.mark.parametrize("extended_l2", [False, True])
def test_many_tables(extended_l2: bool, tmp_path: Path, qemu_img: Any) -> None:
    """Data on both sides of the borders of tables; a preallocated disk of many tables without any data."""
    raw = tmp_path / "disk.raw"
    places = [0, 8 * MIB - 4096, 16 * MIB - 512, 100 * MIB, 255 * MIB + 512]
    noisy_raw(raw, 256 * MIB, [(place, 5000) for place in places[:-1]])
    options = {"cluster_size_bytes": 16 * KIB, "extended_l2": extended_l2}
    for number, preallocation in enumerate(("off", "metadata")):
        copy_image(raw, "raw", tmp_path / str(number), "qcow2", preallocation=preallocation, **options)
        assert reads_same(qemu_img, raw, "raw", tmp_path / str(number), "qcow2")
        qemu_img.check(tmp_path / str(number))
    assert (tmp_path / "0").stat().st_blocks * 512 < 1 * MIB
    assert (tmp_path / "1").stat().st_blocks * 512 < 2 * MIB


def test_as_qemu_preallocates(tmp_path: Path, qemu_img: Any) -> None:
    """The same file length and blocks, give or take where refcounts lie, as `qemu-img create` gives."""
    zeros = tmp_path / "zeros"
    with zeros.open("wb") as file:
        file.truncate(8 * MIB)
    for preallocation in PREALLOCATIONS[1:]:
        theirs = qemu_img.create(tmp_path / "theirs", "qcow2", 8 * MIB, options=[f"preallocation={preallocation}"])
        ours = tmp_path / f"ours-{preallocation}"
        copy_image(zeros, "raw", ours, "qcow2", preallocation=preallocation)
        assert abs(ours.stat().st_size - theirs.stat().st_size) <= 512 * KIB
        assert abs(ours.stat().st_blocks - theirs.stat().st_blocks) * 512 <= 512 * KIB
        before = ours.stat().st_size
        qemu_img("bench", "-f", "qcow2", "-w", "--pattern=7", "-c", "64", "-d", "1", "-s", "128k", ours)
        qemu_img.check(ours)
        assert ours.stat().st_size == before  # the guest's writes found their place
        theirs.unlink()


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_full_means_written(image_format: Any, tmp_path: Path) -> None:
    """The file has no hole, not even one that has its blocks."""
    source = noisy_raw(tmp_path / "disk", 3 * MIB, [(100 * KIB, 4000), (2 * MIB, 100 * KIB)])
    copy_image(source, "raw", tmp_path / "copy", image_format, preallocation="full")
    with (tmp_path / "copy").open("rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == os.fstat(file.fileno()).st_size


@pytest.mark.parametrize(("image_format", "preallocation"), [("raw", "falloc"), ("qcow2", "falloc"), ("qcow2", "full")])
def test_no_room(image_format: Any, preallocation: Any, small_folder: Path, tmp_path: Path) -> None:
    """Refused before anything is written, or when the blocks are taken; nothing is left but an empty file."""
    source = noisy_raw(tmp_path / "disk", 8 * MIB, [(0, 4096)])
    for check_space, kind in ((True, "space"), (False, "system")):
        with pytest.raises(EngineError) as caught:
            copy_image(
                source, "raw", small_folder / "copy", image_format, preallocation=preallocation, check_space=check_space
            )
        assert caught.value.kind == kind
        assert [file.stat().st_size for file in small_folder.iterdir()] == [0]
    with pytest.raises(EngineError):
        create_image(str(small_folder / "image"), image_format, 8 * MIB, ANY_PATH, preallocation=preallocation)
    assert [file.name for file in small_folder.iterdir()] == ["copy"]


def test_clusters_too_small_for_the_disk(tmp_path: Path) -> None:
    """What is said is the limit that stands in the way, not a lack of room."""
    (tmp_path / "disk").touch()
    os.truncate(tmp_path / "disk", 1 * TIB)
    with pytest.raises(EngineError, match="33554432 is the limit: choose larger clusters") as caught:
        copy_image(tmp_path / "disk", "raw", tmp_path / "copy", "qcow2", cluster_size_bytes=512)
    assert caught.value.kind == "invalid"
    assert (tmp_path / "copy").stat().st_size == 0


def test_an_empty_image(tmp_path: Path, qemu_img: Any) -> None:
    """create_image has the same options."""
    for number, (extended_l2, preallocation) in enumerate(
        (extended_l2, preallocation) for extended_l2 in (False, True) for preallocation in PREALLOCATIONS
    ):
        path = tmp_path / str(number)
        create_image(
            str(path),
            "qcow2",
            8 * MIB,
            ANY_PATH,
            extended_l2=extended_l2,
            preallocation=preallocation,  # type: ignore[arg-type]
        )
        qemu_img.check(path)
        assert qemu_img.info(path)["format-specific"]["data"]["extended-l2"] is extended_l2
        assert (path.stat().st_blocks * 512 >= 8 * MIB) is (preallocation in ("falloc", "full"))
    create_image(str(tmp_path / "raw"), "raw", MIB, ANY_PATH, preallocation="falloc")
    assert (tmp_path / "raw").stat().st_blocks * 512 >= MIB


def test_a_huge_disk(tmp_path: Path, qemu_img: Any) -> None:
    """Tables cost what the data needs: 2 TiB with five writes in them."""
    source = tmp_path / "disk.raw"
    noisy_raw(source, 2 * TIB, [(0, 4096), (300 * GIB, 4096), (2 * TIB - 4096, 4096)])
    copy_image(source, "raw", tmp_path / "copy", "qcow2", extended_l2=True, cluster_size_bytes=2 * MIB)
    qemu_img.check(tmp_path / "copy")
    assert own_bytes(qemu_img, tmp_path / "copy") == 3 * 64 * KIB


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"extended_l2": True, "cluster_size_bytes": 8 * KIB}, "16 KiB"),
        ({"destination_format": "raw", "extended_l2": True}, "no L2 entries"),
        ({"destination_format": "raw", "preallocation": "metadata"}, "no metadata to preallocate"),
        ({"reuse": True, "extended_l2": True}, "Only a new destination"),
        ({"reuse": True, "preallocation": "full"}, "Only a new destination"),
        ({"preallocation": "some"}, "Unknown preallocation 'some'"),
        ({"preallocation": "falloc", "reflink": "always"}, "none whose room is preallocated"),
    ],
)
def test_refusals(options: dict[str, Any], reason: str, overlay: Path, tmp_path: Path, qemu_img: Any) -> None:
    """Said before anything is made."""
    if options.get("reuse"):
        qemu_img.create(tmp_path / "copy", "qcow2", DISK_BYTES)
    before = list(tmp_path.iterdir())
    with Chain([(str(overlay), "qcow2")], ANY_PATH) as chain, pytest.raises(EngineError, match=reason) as caught:
        Copy(chain, str(tmp_path / "copy"), policy=ANY_PATH, **{"destination_format": "qcow2", **options})
    assert caught.value.kind == ("unsupported" if "reflink" in options else "invalid")
    assert [file for file in tmp_path.iterdir() if file.stat().st_size] == before


def test_block_device(overlay: Path, loop_device: Any, qemu_img: Any) -> None:
    """Extended L2 entries over whatever the device held; preallocation is refused, there is nothing to take."""
    device = loop_device(16 * MIB)
    copy_image(overlay, "qcow2", device, "qcow2")
    assert reads_same(qemu_img, overlay, "qcow2", device, "qcow2")
    qemu_img.check(device)
    for image_format in ("qcow2", "raw"):
        with pytest.raises(EngineError, match="cannot be preallocated"):
            copy_image(overlay, "qcow2", device, image_format, preallocation="falloc")
    assert reads_same(qemu_img, overlay, "qcow2", device, "qcow2")


def test_options_of_the_command(overlay: Path, tmp_path: Path, copy_command: Command, qemu_img: Any) -> None:
    """`virtblock-copy` passes them on, and `--no-extended-l2` undoes what the source says."""
    done = copy_command("--cluster-size", "32K", "--extended-l2", "--preallocation=metadata", overlay, tmp_path / "a")
    assert done.returncode == 0, done.stderr
    done = copy_command("--cluster-size=1MiB", "--no-extended-l2", overlay, tmp_path / "b")
    assert done.returncode == 0, done.stderr
    for name, cluster_size_bytes, extended_l2 in (("a", 32 * KIB, True), ("b", MIB, False)):
        info = qemu_img.info(tmp_path / name)
        assert info["cluster-size"] == cluster_size_bytes
        assert info["format-specific"]["data"]["extended-l2"] is extended_l2
    assert (tmp_path / "a").stat().st_size > DISK_BYTES


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cluster-size", "3000"],
        ["--cluster-size", "4M"],
        ["--cluster-size", "-1"],
        ["--cluster-size=64K", "--reuse"],
        ["--extended-l2", "--reuse"],
        ["--preallocation=full", "--reuse"],
        ["--cluster-size=64K", "--raw"],
        ["--extended-l2", "--raw"],
        ["--preallocation=most"],
    ],
)
def test_wrong_options_of_the_command(
    arguments: list[str], overlay: Path, tmp_path: Path, copy_command: Command
) -> None:
    """Exit code 2, and nothing is opened."""
    done = copy_command("--json", *arguments, overlay, tmp_path / "copy")
    assert done.returncode == 2
    assert json.loads(done.stdout)["result"] == "usage"
    assert list(tmp_path.iterdir()) == []
