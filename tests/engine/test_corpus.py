# SPDX-License-Identifier: Apache-2.0
"""Every option of `qemu-img create` and `convert` and every state of an image, in every way of copying, judged by qemu.

The axes are in `corpus_space`. Every pair of their values occurs in `test_pairs`, every three in `test_triples` (`make
corpus`). After each copy the guest sees the same, `qemu-img check` is clean, the new image is what was asked for, and
every file of the source is what it was. What the engine does not read or write is refused by name.
"""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.corpus_images import CorpusImages, Disk
from engine.covering import Row
from engine.sources import ANY_PATH, KIB, MIB, copy_image, noise, noisy_raw, reads_same

from engine import corpus_space as space
from virtblock.engine import Chain, Copy, EngineError, PathPolicy

DISK_BYTES = 4 * MIB
SECTOR = 512
PAIR_SHARDS = 24
TRIPLE_SHARDS = 160
# What axes of other names say; encryption is refused.
COVERED = {"backing_file", "backing_fmt", "size", "data_file_raw"} | set(space.OPTIONS)
REFUSED = {"encryption"}
# What `qemu-img convert` lets one say besides: the formats, how fast, and how files are named and opened.
CONVERT_FORMATS = {"-f", "-O", "-o", "-B", "-F"}
CONVERT_SPEED = {"-m", "-r", "-p", "-q", "-t", "-T"}
CONVERT_OPENING = {"--object", "--image-opts", "--target-image-opts", "-U", "--salvage"}


class Judge:
    """Makes a row's source, copies it in the row's way, and asserts what must then be true."""

    def __init__(self, images: CorpusImages, qemu_img: Any, sha256_of: Callable[[Path], str]) -> None:
        self._images = images
        self._qemu_img = qemu_img
        self._sha256_of = sha256_of

    def __call__(self, folder: Path, row: Row) -> None:
        """Raises AssertionError or EngineError."""
        disk = self._images.source(folder, row)
        digests = {file: self._sha256_of(file) for file in disk.files()}
        size_bytes = -(-int(row["size"]) // SECTOR) * SECTOR
        destination = folder / "copy"
        self._copy(disk, destination, row, size_bytes)
        assert {file: self._sha256_of(file) for file in disk.files()} == digests
        assert [file.name for file in folder.iterdir() if "partial" in file.name] == []
        if row["way"] in (space.RAW, space.REUSE_RAW):
            assert destination.stat().st_size == size_bytes
            assert reads_same(self._qemu_img, disk.path, "qcow2", destination, "raw")
            return
        assert reads_same(self._qemu_img, disk.path, "qcow2", destination, "qcow2")
        self._qemu_img.check(destination)
        self._judge_header(disk, destination, row, size_bytes)

    def _copy(self, disk: Disk, destination: Path, row: Row, size_bytes: int) -> None:
        options: dict[str, Any] = {}
        image_format: Any = "raw" if row["way"] in (space.RAW, space.REUSE_RAW) else "qcow2"
        if row["way"] in space.REUSED_QCOW2:
            self._images.reused(destination, row, size_bytes, disk)
        elif row["way"] == space.REUSE_RAW:
            noisy_raw(destination, size_bytes, [(0, size_bytes)])
        else:
            options = self._new_options(row)
        options["reuse"] = row["way"].startswith("reuse")
        if row["way"] in (space.SHALLOW, space.REUSE_SHALLOW):
            options["mode"] = "top"
            if row["way"] == space.SHALLOW and disk.below:
                options |= {"backing_path": str(disk.below.path), "backing_format": disk.below.format}
        policy = PathPolicy(data_files=disk.data_files())
        with (
            Chain([(str(disk.path), "qcow2")], policy) as chain,
            Copy(chain, str(destination), image_format, ANY_PATH, **options) as copy,
        ):
            copy.run()

    @staticmethod
    def _new_options(row: Row) -> dict[str, Any]:
        cluster_size, extended = row["new cluster_size"], row["new extended_l2"]
        return {
            "cluster_size_bytes": 0 if cluster_size == space.INHERIT else int(cluster_size),
            "extended_l2": None if extended == space.INHERIT else extended == space.ON,
            "compression": row["new compression"],
            "preallocation": row["new preallocation"],
        }

    def _judge_header(self, disk: Disk, destination: Path, row: Row, size_bytes: int) -> None:
        info = self._qemu_img.info(destination)
        said = info["format-specific"]["data"]
        assert info["virtual-size"] == size_bytes
        assert (info.get("dirty-flag", False), said.get("corrupt", False)) == (False, False)
        backing = disk.below if row["way"] in (space.SHALLOW, space.REUSE_SHALLOW) else None
        assert info.get("full-backing-filename") == (str(backing.path) if backing else None)
        assert info.get("backing-filename-format") == (backing.format if backing else None)
        if row["way"] in space.NEW_QCOW2:
            of_new = self._expected_of_new(row)
            assert (info["cluster-size"], said["extended-l2"], said["compression-type"]) == of_new

    @staticmethod
    def _expected_of_new(row: Row) -> tuple[int, bool, str]:
        """Cluster size and L2 entries are the source's where nothing was asked for and they are possible."""
        asked_size, asked_extended = row["new cluster_size"], row["new extended_l2"]
        cluster_size = int(row["cluster_size"] if asked_size == space.INHERIT else asked_size)
        if asked_extended == space.ON and cluster_size < 16 * KIB:
            cluster_size = 64 * KIB
        is_compressed = row["new compression"] != space.NONE
        wants = row["extended_l2"] if asked_extended == space.INHERIT else asked_extended
        extended = wants == space.ON and cluster_size >= 16 * KIB and not is_compressed
        return cluster_size, extended, row["new compression"] if is_compressed else "zlib"


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, qemu_img: Any, qemu_io: Any) -> CorpusImages:
    """The maker of the rows' images, with what rows share."""
    return CorpusImages(tmp_path_factory.mktemp("corpus"), qemu_img, qemu_io)


@pytest.fixture
def judge_rows(
    images: CorpusImages, tmp_path: Path, qemu_img: Any, sha256_of: Callable[[Path], str]
) -> Callable[[list[Row]], None]:
    """Judges rows, each in a folder of its own; tells of all that went wrong, by name."""
    judge = Judge(images, qemu_img, sha256_of)

    def judge_all(rows: list[Row]) -> None:
        failures = {}
        for row in rows:
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            try:
                judge(folder, row)
            except (AssertionError, EngineError) as error:
                failures[space.name_of(row)] = f"{type(error).__name__}: {error}"[:2000]
            shutil.rmtree(folder)
        if failures:
            pytest.fail("\n\n".join(f"{name}:\n  {error}" for name, error in failures.items()), pytrace=False)

    return judge_all


@functools.cache
def _rows(strength: int) -> list[Row]:
    return space.SPACE.cover(strength)


@pytest.mark.parametrize("shard", range(PAIR_SHARDS))
def test_pairs(shard: int, judge_rows: Callable[[list[Row]], None]) -> None:
    """Every pair of values of any two axes."""
    judge_rows(_rows(2)[shard::PAIR_SHARDS])


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shard", range(TRIPLE_SHARDS))
def test_triples(shard: int, judge_rows: Callable[[list[Row]], None]) -> None:
    """Every combination of values of any three axes."""
    judge_rows(_rows(3)[shard::TRIPLE_SHARDS])


def test_no_option_is_forgotten(qemu_img: Any) -> None:
    """A newer qemu-img with an option that no case has must be noticed."""
    of_both = qemu_img("create", "-f", "qcow2", "-o", "help", "a-file").stdout
    offered = re.findall(r"^  ([a-z0-9_.-]+)=<", of_both, re.MULTILINE)
    assert {"cluster_size", "nocow"} <= set(offered)
    assert {name for name in offered if not name.startswith("encrypt.")} <= COVERED | REFUSED
    (usage,) = re.findall(r"^  convert (.*)$", qemu_img("--help").stdout, re.MULTILINE)
    flags = set(re.findall(r"\[(--?[a-zA-Z-]+)", usage))
    covered = {argument for arguments in space.CONVERTED.values() for argument in arguments if argument.startswith("-")}
    assert {"-c", "-S"} <= flags <= covered | CONVERT_FORMATS | CONVERT_SPEED | CONVERT_OPENING


RAW_SIZES = (0, 1, 511, 512, 513, 65536, MIB + 777)


@pytest.mark.parametrize("preallocation", ["off", "falloc", "full"])
@pytest.mark.parametrize("size_bytes", RAW_SIZES)
def test_raw_source(size_bytes: int, preallocation: str, tmp_path: Path, qemu_img: Any, sha256_of: Any) -> None:
    """A raw file of any length, to raw and qcow2, new and reused. qcow2 holds whole sectors."""
    source = tmp_path / "source"
    qemu_img.create(source, "raw", size_bytes // SECTOR * SECTOR, options=[f"preallocation={preallocation}"])
    with source.open("r+b") as file:
        file.truncate(size_bytes)
        file.seek(size_bytes // 3)
        file.write(noise(size_bytes // 2, 3))
        file.seek(max(0, size_bytes - 9))
        file.write(b"the end!!"[:size_bytes])
    digest = sha256_of(source)
    sector_bytes = -(-size_bytes // SECTOR) * SECTOR
    copy_image(source, "raw", tmp_path / "raw", "raw", preallocation=preallocation)
    noisy_raw(tmp_path / "old-raw", size_bytes, [(0, size_bytes)])
    copy_image(source, "raw", tmp_path / "old-raw", "raw", reuse=True)
    copy_image(source, "raw", tmp_path / "new", "qcow2", preallocation=preallocation)
    qemu_img.create(tmp_path / "old", "qcow2", sector_bytes)
    copy_image(source, "raw", tmp_path / "old", "qcow2", reuse=True)
    for name in ("raw", "old-raw"):
        assert (tmp_path / name).read_bytes() == source.read_bytes()
    for name in ("new", "old"):
        qemu_img.check(tmp_path / name)
        assert qemu_img.info(tmp_path / name)["virtual-size"] == sector_bytes
        assert reads_same(qemu_img, source, "raw", tmp_path / name, "qcow2")
    assert sha256_of(source) == digest


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


def _make_aes_image(qemu_img: Any, path: Path) -> None:
    """QEMU's first encryption, which its tools still make."""
    qemu_img(
        "create", "-q", "-f", "qcow2", "--object", "secret,id=key,data=passphrase",
        "-o", "encrypt.format=aes,encrypt.key-secret=key", path, "4M",
    )  # fmt: skip


@pytest.fixture(params=["LUKS encryption", "AES encryption", "an external data file", "a raw external data file"])
def refused_image(request: pytest.FixtureRequest, tmp_path: Path, qemu_img: Any, luks_image: Path) -> tuple[Path, str]:
    """An image with a feature that is not read, or not unless its data file is named, and the name of the feature."""
    path = tmp_path / "disk.qcow2"
    if request.param == "LUKS encryption":
        shutil.copy(luks_image, path)
        return path, request.param
    if request.param == "AES encryption":
        _make_aes_image(qemu_img, path)
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
