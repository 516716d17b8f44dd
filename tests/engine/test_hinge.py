# SPDX-License-Identifier: Apache-2.0
"""The layer between Python and C: arguments, errors, the stub file, and objects that die at a bad moment."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, KIB, MIB, SourceMaker, noisy_raw

import virtblock.engine
from virtblock.engine import (
    CancelFlag,
    Chain,
    Copy,
    EngineError,
    ImageWriter,
    PathPolicy,
    compare,
    create_image,
    inspect,
    probe,
)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk of 1 MiB."""
    return noisy_raw(tmp_path / "disk.raw", 1 * MIB, [(0, 64 * KIB)])


def test_error_says_everything_in_one_sentence() -> None:
    """Reason, path, offset and what the system said, as far as they apply."""
    assert str(EngineError("format", "L2 entry 7 is not aligned", path="/d/a.qcow2", offset_bytes=65592)) == (
        "L2 entry 7 is not aligned: '/d/a.qcow2' at offset 65592"
    )
    assert str(EngineError("system", "Cannot open image", errno=errno.ENOENT, path="/d/x")) == (
        "Cannot open image: '/d/x': No such file or directory"
    )
    assert str(EngineError("cancelled", "The copy was cancelled")) == "The copy was cancelled"
    assert str(EngineError("system", "Cannot open image", path="/d/\udcff")) == "Cannot open image: '/d/\ufffd'"


def test_error_has_its_parts() -> None:
    """The parts a caller decides by, and their values when they do not apply."""
    error = EngineError("size", "Sizes differ")
    assert (error.kind, error.reason, error.errno, error.path, error.offset_bytes) == (
        "size",
        "Sizes differ",
        0,
        "",
        -1,
    )
    assert isinstance(error, Exception)


def test_error_travels_between_processes() -> None:
    """A worker process may raise it."""
    error = EngineError("format", "Bad", errno=5, path="/d/a", offset_bytes=512)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.kind, copy.errno, copy.path, copy.offset_bytes) == (
        str(error), "format", 5, "/d/a", 512,
    )  # fmt: skip


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_paths_that_are_none(path: str) -> None:
    """Refused before C sees them."""
    calls: list[Any] = [
        lambda: Chain([(path, "raw")], ANY_PATH),
        lambda: probe(path, ANY_PATH),
        lambda: inspect(path, "raw", ANY_PATH),
        lambda: create_image(path, "raw", 0, ANY_PATH),
        lambda: PathPolicy([path]),
        lambda: ANY_PATH.check(path),
    ]
    for call in calls:
        with pytest.raises(EngineError) as caught:
            call()
        assert caught.value.kind == "invalid"


@pytest.mark.parametrize("name", ["", "RAW", "vmdk", None, 1])
def test_unknown_formats(name: Any, disk: Path) -> None:
    """Only the two words."""
    for call in (lambda: Chain([(str(disk), name)], ANY_PATH), lambda: inspect(str(disk), name, ANY_PATH)):
        with pytest.raises(EngineError) as caught:
            call()
        assert caught.value.kind == "invalid"


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "half"},
        {"bandwidth_bytes_per_s": -1},
        {"bandwidth_bytes_per_s": 2**63},
        {"granule_bytes": 1000},
        {"granule_bytes": 128 * MIB},
        {"cluster_size_bytes": 511},
        {"cluster_size_bytes": 4 * MIB},
        {"cluster_size_bytes": 3 * 4096},
        {"lane_count": -1},
        {"lane_count": 1000},
        {"backing_path": "/b"},
        {"backing_format": "raw"},
        {"mode": "top", "backing_path": "/b"},
        {"mode": "top", "backing_path": "/b", "backing_format": "vmdk"},
        {"mode": "top", "backing_path": "/b", "backing_format": "raw", "reuse": True},
    ],
)
def test_copy_options_that_make_no_sense(options: dict[str, Any], disk: Path, tmp_path: Path) -> None:
    """Refused with nothing made, and the chain is free to close."""
    with Chain([(str(disk), "raw")], ANY_PATH) as chain:
        with pytest.raises(EngineError) as caught:
            Copy(chain, str(tmp_path / "copy"), "qcow2", ANY_PATH, **options)
        assert caught.value.kind == "invalid"
    assert not (tmp_path / "copy").exists()


def test_top_of_a_chain_needs_its_backing_file(source_of: SourceMaker, tmp_path: Path) -> None:
    """A new destination that lacks what lies below would look complete and read wrong."""
    with Chain([(str(source_of("chain").path), "qcow2")], ANY_PATH) as chain:
        for image_format in ("raw", "qcow2"):
            with pytest.raises(EngineError, match="backing_path"):
                Copy(chain, str(tmp_path / "copy"), image_format, ANY_PATH, mode="top")
    assert not (tmp_path / "copy").exists()


# These calls are wrong on purpose; Any keeps mypy from saying so.
ANY: Any = virtblock.engine
WRONG_TYPES: list[Any] = [
    lambda disk: ANY.Chain([(disk, "raw")], None),
    lambda disk: ANY.Chain(disk, ANY_PATH),
    lambda disk: ANY.Chain([(1.5, "raw")], ANY_PATH),
    lambda disk: ANY.Chain([disk], ANY_PATH),
    lambda disk: ANY.Copy(None, disk, "raw", ANY_PATH),
    lambda disk: ANY.compare(None, None),
    lambda disk: ANY.Bitmap("many"),
    lambda disk: ANY.Bitmap(1.5),
    lambda disk: ANY.Bitmap(MIB).deserialize(None),
    lambda disk: ANY.ImageInfo(),
    lambda disk: ANY.CopyProgress(),
    lambda disk: ANY.ImageWriter(disk, "raw", ANY_PATH).write(0, "text"),
]


@pytest.mark.parametrize("number", range(len(WRONG_TYPES)))
def test_wrong_types_are_type_errors(number: int, disk: Path) -> None:
    """Or ValueErrors where Python's own unpacking says so; never a crash."""
    with pytest.raises((TypeError, ValueError)):
        WRONG_TYPES[number](str(disk))


def test_chain_needs_an_image() -> None:
    """No layers are no chain."""
    with pytest.raises(EngineError) as caught:
        Chain([], ANY_PATH)
    assert caught.value.kind == "invalid"


def open_beneath(folder: Path) -> list[str]:
    """What this process holds open in a folder; other tests' threads may close theirs at any time."""
    gc.collect()
    held = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [path for path in held if path == str(folder) or path.startswith(f"{folder}/")]


def test_failed_constructors_leave_nothing(disk: Path, tmp_path: Path) -> None:
    """No descriptor, lock or memory stays of what could not be made."""
    (tmp_path / "full").write_bytes(b"x")
    for _ in range(50):
        with pytest.raises(EngineError):
            Chain([(str(disk), "qcow2")], ANY_PATH)
        with pytest.raises(EngineError):
            PathPolicy([str(tmp_path), "/no/such/folder"])
        with Chain([(str(disk), "raw")], ANY_PATH) as chain, pytest.raises(EngineError):
            Copy(chain, str(tmp_path / "full"), "raw", ANY_PATH)
        with pytest.raises(EngineError):
            ImageWriter(str(disk), "qcow2", ANY_PATH)
        with pytest.raises(EngineError):
            create_image(str(disk), "raw", 512, ANY_PATH)
    assert open_beneath(tmp_path) == []


def test_objects_close_their_files(disk: Path, tmp_path: Path) -> None:
    """After close, and after being forgotten, no descriptor is left."""
    for number in range(5):
        chain = Chain([(str(disk), "raw")], ANY_PATH)
        chain.close()
        chain.close()
        Chain([(str(disk), "raw")], PathPolicy([str(tmp_path)]))
        with Chain([(str(disk), "raw")], ANY_PATH) as source:
            Copy(source, str(tmp_path / f"a{number}"), "qcow2", ANY_PATH)
            with Copy(source, str(tmp_path / f"b{number}"), "qcow2", ANY_PATH) as copy:
                copy.run()
        with ImageWriter(str(tmp_path / f"b{number}"), "qcow2", ANY_PATH) as writer:
            writer.zero(0, 64 * KIB)
    assert open_beneath(tmp_path) == []


def test_info_is_immutable(disk: Path) -> None:
    """What an image says of itself cannot be edited."""
    info = inspect(str(disk), "raw", ANY_PATH)
    with pytest.raises(AttributeError):
        info.path = "/other"
    assert "disk.raw" in repr(info)


def test_closed_things_say_so(disk: Path) -> None:
    """No call on a closed chain or writer reaches C."""
    chain = Chain([(str(disk), "raw")], ANY_PATH)
    chain.close()
    other = Chain([(str(disk), "raw")], ANY_PATH)
    calls: list[Any] = [
        lambda: chain.read(0, 1),
        chain.map,
        lambda: chain.required_bytes("raw"),
        lambda: compare(chain, other),
        lambda: compare(other, chain),
        lambda: Copy(chain, "/none/copy", "raw", ANY_PATH),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="closed"):
            call()
    other.close()
    assert chain.size_bytes == 1 * MIB
    assert len(chain.layers) == 1
    writer = ImageWriter(str(disk), "raw", ANY_PATH)
    writer.close()
    writer.close()
    for call in (lambda: writer.write(0, b"x"), lambda: writer.zero(0, 1)):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_compare(disk: Path, tmp_path: Path) -> None:
    """None for the same; else the first byte; a size difference is an error."""
    other = tmp_path / "other.raw"
    other.write_bytes(disk.read_bytes())
    with Chain([(str(disk), "raw")], ANY_PATH) as left:
        with Chain([(str(other), "raw")], ANY_PATH) as right:
            assert compare(left, right) is None
            assert compare(left, left) is None
        with other.open("r+b") as file:
            file.seek(700_001)
            file.write(b"!")
        with Chain([(str(other), "raw")], ANY_PATH) as right:
            assert compare(left, right) == compare(right, left) == 700_001
        os.truncate(other, 1 * MIB + 512)
        with Chain([(str(other), "raw")], ANY_PATH) as right, pytest.raises(EngineError) as caught:
            compare(left, right)
        assert caught.value.kind == "size"


def test_compare_with_padding(disk: Path, tmp_path: Path) -> None:
    """A longer disk is the same if the rest of it is zeros, whichever side it is on, and differs there if not."""
    longer = tmp_path / "longer.raw"
    longer.write_bytes(disk.read_bytes() + bytes(512))
    with Chain([(str(disk), "raw")], ANY_PATH) as left:
        with Chain([(str(longer), "raw")], ANY_PATH) as right:
            assert compare(left, right, pad=True) is None
            assert compare(right, left, pad=True) is None
        longer.write_bytes(disk.read_bytes() + bytes(511) + b"!")
        with Chain([(str(longer), "raw")], ANY_PATH) as right:
            assert compare(left, right, pad=True) == compare(right, left, pad=True) == 1 * MIB + 511


def test_compare_can_be_cancelled(tmp_path: Path) -> None:
    """A flag that is set ends it, before or while it runs."""
    big = noisy_raw(tmp_path / "big.raw", 64 * MIB, [(0, 16 * MIB)])
    flag = CancelFlag()
    flag.set()
    with Chain([(str(big), "raw")], ANY_PATH) as left, Chain([(str(big), "raw")], ANY_PATH) as right:
        with pytest.raises(EngineError) as caught:
            compare(left, right, flag)
        assert caught.value.kind == "cancelled"
        assert compare(left, right, CancelFlag()) is None


def test_reads_from_many_threads(source_of: SourceMaker) -> None:
    """A chain may be read by several threads at once, the first read included."""
    source = source_of("zlib")
    with Chain([(str(source.path), "qcow2")], ANY_PATH) as chain:
        expected = Chain([(str(source.path), "qcow2")], ANY_PATH).read(0, source.size_bytes)
        wrong: list[int] = []

        def read(number: int) -> None:
            for offset in range(number * 512, source.size_bytes - 300_000, 1_000_000):
                if chain.read(offset, 300_000) != expected[offset : offset + 300_000]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert wrong == []


def test_everything_public_is_exported() -> None:
    """`virtblock.engine` offers what the compiled module has, and nothing private."""
    compiled = {name for name in dir(virtblock.engine._core) if not name.startswith("_")}
    imported = {"os", "annotations", "allocate_lock", "index"}
    assert compiled - imported <= set(virtblock.engine.__all__)
    assert all(hasattr(virtblock.engine, name) for name in virtblock.engine.__all__)


# What Cython adds of its own, and constructors that only say that they are none.
NOT_IN_THE_STUB = r"""
virtblock\.engine\._core\.(.*\.)?__(reduce|setstate)_cython__
virtblock\.engine\._core\.__test__
virtblock\.engine\._core\.(ImageInfo|BitmapInfo|CopyProgress|Merge)\.__init__
"""


@pytest.mark.slow
def test_stub_file_is_true(tmp_path: Path) -> None:
    """mypy's stubtest holds `_core.pyi` against the compiled module."""
    root = Path(__file__).resolve().parents[2]
    allowed = tmp_path / "allowed"
    allowed.write_text(NOT_IN_THE_STUB)
    options = ["--mypy-config-file", str(root / "pyproject.toml"), "--allowlist", str(allowed)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "virtblock.engine._core", *options],
        capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
