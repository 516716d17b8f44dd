# SPDX-License-Identifier: Apache-2.0
"""Every option that `qemu-img create` has for qcow2, each in every way of copying, judged by qemu.

A source is a chain of two: a base and an overlay, both made with the options that are tested (an overlay cannot be
preallocated, but with extended L2 entries). A destination that is reused was made with the same options too. What the
engine does not read or write is refused by name.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from engine.sources import KIB, MIB, copy_image, noisy_raw, reads_same

from virtblock.engine import EngineError

DISK_BYTES = 4 * MIB
EXTENDED = "extended_l2=on"
PREALLOCATIONS = ("metadata", "falloc", "full")
WAYS = ("flat", "raw", "shallow", "reuse", "reuse shallow", "reuse raw")

# One value of one option at a time, and combinations that change how tables lie.
CORPUS: tuple[tuple[str, ...], ...] = (
    (),
    ("compat=0.10",),
    ("compat=1.1",),
    *((f"cluster_size={512 << shift}",) for shift in range(13)),
    *((f"refcount_bits={1 << order}",) for order in range(7)),
    ("lazy_refcounts=on",),
    *((f"preallocation={kind}",) for kind in ("off", *PREALLOCATIONS)),
    ("compression_type=zlib",),
    ("compression_type=zstd",),
    *((EXTENDED, f"cluster_size={(16 * KIB) << shift}") for shift in range(8)),
    *((EXTENDED, f"preallocation={kind}") for kind in PREALLOCATIONS),
    (EXTENDED, "compression_type=zstd", "refcount_bits=1", "lazy_refcounts=on"),
    ("compat=0.10", "cluster_size=512"),
    ("compat=0.10", "preallocation=metadata", "cluster_size=2M"),
    ("cluster_size=512", "refcount_bits=64", "compression_type=zstd"),
    ("cluster_size=2M", "refcount_bits=1", "lazy_refcounts=on", "preallocation=full"),
)
# Backing files and the disk's size are in each case; encryption and data files are refused.
COVERED = {"backing_file", "backing_fmt", "size"} | {option.partition("=")[0] for case in CORPUS for option in case}
REFUSED = {"encryption", "data_file", "data_file_raw"}


class Image(NamedTuple):
    """A chain of two made with one set of options, and digests of both files."""

    top: Path
    base: Path
    options: tuple[str, ...]
    digests: dict[Path, str]


def _for_overlay(options: tuple[str, ...]) -> list[str]:
    """QEMU preallocates images over a backing file only with extended L2 entries."""
    return [option for option in options if EXTENDED in options or not option.startswith("preallocation=")]


def _fill(path: Path, seed: int, qemu_io: Any, *, compressed: bool) -> None:
    """Data from one sector on, zeros, discards, and a compressed piece where there is no space for it already."""
    packed = [f"write -c -P {seed + 1} 2M 2M"] if compressed else []
    qemu_io(
        path, "qcow2", *packed,
        f"write -P {seed + 2} {seed * 512} 512",
        f"write -P {seed + 3} {100 * KIB + seed * 4096} 300k",
        f"write -z {150 * KIB + seed * 4096} 12k",
        f"write -zu {200 * KIB} 70k",
        f"write -z {900 * KIB} 300k",
        f"discard {300 * KIB} 64k",
        f"write -P {seed + 4} {DISK_BYTES - 3 * KIB} 3k",
    )  # fmt: skip


@pytest.fixture(scope="session")
def image_of(
    tmp_path_factory: pytest.TempPathFactory, qemu_img: Any, qemu_io: Any, sha256_of: Callable[[Path], str]
) -> Callable[[tuple[str, ...]], Image]:
    """The image of a case, made once."""
    made: dict[tuple[str, ...], Image] = {}

    def make(options: tuple[str, ...]) -> Image:
        if options not in made:
            folder = tmp_path_factory.mktemp("corpus")
            base = qemu_img.create(folder / "base.qcow2", "qcow2", DISK_BYTES, options=options)
            in_place = any(option.removeprefix("preallocation=") in PREALLOCATIONS for option in options)
            _fill(base, 10, qemu_io, compressed=not in_place)
            overlay = _for_overlay(options)
            top = qemu_img.create(
                folder / "top.qcow2", "qcow2", backing=base.name, backing_format="qcow2", options=overlay
            )
            _fill(top, 40, qemu_io, compressed=False)
            made[options] = Image(top, base, options, {file: sha256_of(file) for file in (top, base)})
        return made[options]

    return make


@pytest.fixture(params=CORPUS, ids=lambda options: ",".join(options) or "default")
def image(request: pytest.FixtureRequest, image_of: Callable[[tuple[str, ...]], Image]) -> Image:
    """One case's image."""
    return image_of(request.param)


class Ways:
    """The ways of copying: each makes what must be there before, copies, and returns the destination and its format."""

    def __init__(self, folder: Path, qemu_img: Any) -> None:
        self._folder = folder
        self._qemu_img = qemu_img

    def flat(self, image: Image) -> tuple[Path, str]:
        """A new image without a backing file."""
        copy_image(image.top, "qcow2", self._folder / "copy", "qcow2")
        return self._folder / "copy", "qcow2"

    def raw(self, image: Image) -> tuple[Path, str]:
        """A new raw file."""
        copy_image(image.top, "qcow2", self._folder / "copy", "raw")
        return self._folder / "copy", "raw"

    def shallow(self, image: Image) -> tuple[Path, str]:
        """A new overlay of the same base."""
        copy_image(
            image.top, "qcow2", self._folder / "copy", "qcow2",
            mode="top", backing_path=str(image.base), backing_format="qcow2",
        )  # fmt: skip
        return self._folder / "copy", "qcow2"

    def reuse(self, image: Image) -> tuple[Path, str]:
        """Onto an image with the same options that is full of something else."""
        path = self._qemu_img.create(self._folder / "old", "qcow2", DISK_BYTES, options=image.options)
        self._qemu_img("bench", "-f", "qcow2", "-w", "--pattern=238", "-c", "8", "-d", "1", "-s", "512k", path)
        copy_image(image.top, "qcow2", path, "qcow2", reuse=True)
        return path, "qcow2"

    def reuse_shallow(self, image: Image) -> tuple[Path, str]:
        """Onto an empty overlay of the same base."""
        options = _for_overlay(image.options)
        path = self._qemu_img.create(
            self._folder / "old", "qcow2", backing=image.base, backing_format="qcow2", options=options
        )
        copy_image(image.top, "qcow2", path, "qcow2", mode="top", reuse=True)
        return path, "qcow2"

    def reuse_raw(self, image: Image) -> tuple[Path, str]:
        """Onto a raw file that is full of something else."""
        path = noisy_raw(self._folder / "old", DISK_BYTES, [(0, DISK_BYTES)])
        copy_image(image.top, "qcow2", path, "raw", reuse=True)
        return path, "raw"


@pytest.mark.parametrize("way", WAYS)
def test_corpus(image: Image, way: str, tmp_path: Path, qemu_img: Any, sha256_of: Callable[[Path], str]) -> None:
    """The guest sees the same, the image is clean, the source is what it was."""
    path, image_format = getattr(Ways(tmp_path, qemu_img), way.replace(" ", "_"))(image)
    assert reads_same(qemu_img, image.top, "qcow2", path, image_format)
    assert {file: sha256_of(file) for file in image.digests} == image.digests
    if image_format == "qcow2":
        qemu_img.check(path)
        info = qemu_img.info(path)
        assert info["virtual-size"] == DISK_BYTES
        assert info.get("full-backing-filename") == (str(image.base) if "shallow" in way else None)
        assert info["format-specific"]["data"].get("extended-l2", False) is (EXTENDED in image.options)
    else:
        assert path.stat().st_size == DISK_BYTES


def test_no_option_is_forgotten(qemu_img: Any) -> None:
    """A newer qemu-img with an option that no case has must be noticed."""
    offered = re.findall(r"^  ([a-z0-9_.-]+)=<", qemu_img("create", "-f", "qcow2", "-o", "help").stdout, re.MULTILINE)
    assert "cluster_size" in offered
    assert {name for name in offered if not name.startswith("encrypt.")} <= COVERED | REFUSED


@pytest.fixture(scope="session")
def luks_image(tmp_path_factory: pytest.TempPathFactory, qemu_img: Any) -> Path:
    """An encrypted image; made once, because the key's derivation takes its time.

    qemu-img measures that time first, and gives up where other processes disturb the measurement: it is asked again.
    """
    path = tmp_path_factory.mktemp("luks") / "disk.qcow2"
    for attempts_left in reversed(range(10)):
        done = qemu_img(
            "create", "-q", "-f", "qcow2", "--object", "secret,id=key,data=passphrase",
            "-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10", path, "4M",
            check=attempts_left == 0,
        )  # fmt: skip
        if done.returncode == 0 or "CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(params=["LUKS encryption", "an external data file", "a raw external data file"])
def refused_image(request: pytest.FixtureRequest, tmp_path: Path, qemu_img: Any, luks_image: Path) -> tuple[Path, str]:
    """An image with a feature that is not read, or not unless its data file is named, and the name of the feature."""
    path = tmp_path / "disk.qcow2"
    if request.param == "LUKS encryption":
        shutil.copy(luks_image, path)
        return path, request.param
    raw = ["data_file_raw=on"] if "raw" in request.param else []
    qemu_img.create(path, "qcow2", DISK_BYTES, options=[f"data_file={tmp_path / 'data.raw'}", *raw])
    return path, "external data file"


@pytest.mark.parametrize("place", ["top", "base", "destination"])
def test_refused_by_name(
    refused_image: tuple[Path, str], place: str, tmp_path: Path, qemu_img: Any, sha256_of: Callable[[Path], str]
) -> None:
    """As a source, below one, and as a destination to reuse: nothing is made, and nothing is changed."""
    path, name = refused_image
    source, destination, options = path, tmp_path / "copy", {}
    if place == "base":
        source = tmp_path / "top.qcow2"
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", path, "-F", "qcow2", source, "4M")
    elif place == "destination":
        source = qemu_img.create(tmp_path / "source.qcow2", "qcow2", DISK_BYTES)
        destination, options = path, {"reuse": True}
    digests = {file: sha256_of(file) for file in tmp_path.iterdir()}
    with pytest.raises(EngineError) as caught:
        copy_image(source, "qcow2", destination, "qcow2", **options)
    kind = "denied" if "data file" in name and place != "destination" else "unsupported"
    assert (caught.value.kind, caught.value.path) == (kind, str(path))
    assert name in caught.value.reason
    assert {file: sha256_of(file) for file in tmp_path.iterdir()} == digests
