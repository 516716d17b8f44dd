# SPDX-License-Identifier: Apache-2.0
"""Images that are not what they should be: each a clear error that says where, and a destination that stays empty."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, KIB, MIB, copy_image, noise, reads_same
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import qcow2

from virtblock.engine import Chain, EngineError, inspect, probe

CLUSTER = 64 * KIB


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, make_image: Any) -> Path:
    """A good qcow2 image of 8 MiB with some data, to be spoiled in copies."""
    writes = [(0, 256 * KIB, 5), (4 * MIB, 1 * MIB, 6)]
    path: Path = make_image(tmp_path_factory.mktemp("bad") / "good.qcow2", "qcow2", 8 * MIB, writes=writes)
    return path


@pytest.fixture
def image(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the good image for one test to spoil."""
    return Path(shutil.copy(pristine, tmp_path / "bad.qcow2"))


def _fails(path: Path, image_format: str = "qcow2") -> EngineError:
    """Copies, expects an error, and holds what was left against the promise."""
    destination = path.parent / "copy"
    with pytest.raises(EngineError) as caught:
        copy_image(path, image_format, destination, "raw")
    assert not destination.exists() or destination.stat().st_size == 0
    assert list(path.parent.glob("*partial*")) == []
    return caught.value


def _u32(offset: int, value: int) -> Callable[[Path], None]:
    return lambda path: qcow2.write_u32(path, offset, value)


def _u64(offset: int, value: int) -> Callable[[Path], None]:
    return lambda path: qcow2.write_u64(path, offset, value)


def _cut(length: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, length)


def _small_subclusters(path: Path) -> None:
    qcow2.write_u64(path, qcow2.INCOMPATIBLE_OFFSET, 1 << 4)
    qcow2.write_u32(path, qcow2.CLUSTER_BITS_OFFSET, 13)


def _l1_entry(value: int) -> Callable[[Path], None]:
    return lambda path: qcow2.write_u64(path, qcow2.l1_offset(path), value)


def _l2_entry(value: int) -> Callable[[Path], None]:
    return lambda path: qcow2.write_u64(path, qcow2.l2_offset(path), value)


COPIED = 1 << 63
COMPRESSED = 1 << 62
# How to spoil, the kind of the error, and a word that its reason must hold.
SPOILED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "empty file": (_cut(0), "format", ""),
    "half a header": (_cut(50), "format", "truncated"),
    "header alone": (_cut(CLUSTER), "format", "truncated"),
    "cut in the data": (_cut(6 * CLUSTER), "format", "end"),
    "garbage": (lambda path: qcow2.overwrite(path, 0, noise(MIB, 1)), "format", "not in qcow2 format"),
    "version 1": (_u32(qcow2.VERSION_OFFSET, 1), "unsupported", "version 1"),
    "version 4": (_u32(qcow2.VERSION_OFFSET, 4), "unsupported", "version 4"),
    "tiny clusters": (_u32(qcow2.CLUSTER_BITS_OFFSET, 8), "format", "cluster_bits"),
    "giant clusters": (_u32(qcow2.CLUSTER_BITS_OFFSET, 22), "format", "cluster_bits"),
    "cluster bits that overflow": (_u32(qcow2.CLUSTER_BITS_OFFSET, 0xFFFFFFFF), "format", "cluster_bits"),
    "AES": (_u32(qcow2.CRYPT_METHOD_OFFSET, 1), "unsupported", "encrypt"),
    "LUKS": (_u32(qcow2.CRYPT_METHOD_OFFSET, 2), "unsupported", "encrypt"),
    "data file": (_u64(qcow2.INCOMPATIBLE_OFFSET, 1 << 2), "format", "does not name it"),
    "subclusters smaller than a sector": (_small_subclusters, "format", "extended L2 entries need at least 14"),
    "unknown bit 5": (_u64(qcow2.INCOMPATIBLE_OFFSET, 1 << 5), "unsupported", "bit 5"),
    "unknown bit 63": (_u64(qcow2.INCOMPATIBLE_OFFSET, 1 << 63), "unsupported", "bit 63"),
    "refcount order": (_u32(qcow2.REFCOUNT_ORDER_OFFSET, 7), "format", "refcount_order"),
    "header too short": (_u32(qcow2.HEADER_LENGTH_OFFSET, 103), "format", "header_length"),
    "header too long": (_u32(qcow2.HEADER_LENGTH_OFFSET, CLUSTER + 8), "format", "header_length"),
    "huge L1": (_u32(qcow2.L1_ENTRIES_OFFSET, 0x7FFFFFFF), "format", "l1_size"),
    "small L1": (_u32(qcow2.L1_ENTRIES_OFFSET, 0), "format", "L1 table is too small"),
    "crooked L1": (_u64(qcow2.L1_OFFSET_OFFSET, 3 * CLUSTER + 8), "format", "l1_table_offset"),
    "L1 far away": (_u64(qcow2.L1_OFFSET_OFFSET, 1 << 50), "format", "truncated"),
    "L1 offset that overflows": (_u64(qcow2.L1_OFFSET_OFFSET, 0xFFFFFFFFFFFF0000), "format", "l1_table_offset"),
    "huge refcount table": (_u32(qcow2.REFCOUNT_TABLE_CLUSTERS_OFFSET, 0x7FFFFFFF), "format", "refcount_table"),
    "crooked refcount table": (_u64(qcow2.REFCOUNT_TABLE_OFFSET_OFFSET, CLUSTER + 512), "format", "refcount_table"),
    "huge disk": (_u64(qcow2.SIZE_OFFSET, 1 << 62), "format", "L1 table is too small"),
    "negative disk": (_u64(qcow2.SIZE_OFFSET, 1 << 63), "format", "size"),
    "many snapshots": (_u32(qcow2.SNAPSHOT_COUNT_OFFSET, 0x7FFFFFFF), "format", "nb_snapshots"),
    "long backing name": (
        lambda path: (_u64(qcow2.BACKING_OFFSET_OFFSET, 1024)(path), _u32(qcow2.BACKING_LENGTH_OFFSET, 1024)(path))[0],
        "format",
        "backing",
    ),
    "backing name outside": (
        lambda path: (_u64(qcow2.BACKING_OFFSET_OFFSET, CLUSTER)(path), _u32(qcow2.BACKING_LENGTH_OFFSET, 9)(path))[0],
        "format",
        "backing",
    ),
    "endless extension": (
        lambda path: qcow2.overwrite(path, 112, struct.pack(">II", 0x12345678, 0xFFFFFFF0)),
        "format",
        "extension",
    ),
    "crooked L1 entry": (_l1_entry(COPIED | (4 * CLUSTER + 512)), "format", "L1 entry"),
    "L1 entry far away": (_l1_entry(COPIED | 1 << 50), "format", "L1 entry"),
    "L1 entry with reserved bits": (_l1_entry(COPIED | 4 * CLUSTER | 3), "format", "L1 entry"),
    "crooked L2 entry": (_l2_entry(COPIED | (5 * CLUSTER + 512)), "format", "L2 entry"),
    "L2 entry far away": (_l2_entry(COPIED | 1 << 50), "format", "L2 entry"),
    "L2 entry with reserved bits": (_l2_entry(COPIED | 5 * CLUSTER | 2), "format", "L2 entry"),
    "compressed garbage": (_l2_entry(COMPRESSED | 5 * CLUSTER), "format", "compress"),
    "compressed far away": (_l2_entry(COMPRESSED | 1 << 50), "format", "L2 entry"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled(name: str, image: Path) -> None:
    """The error has the kind, the image's path, and a reason that names what is wrong."""
    spoil, kind, word = SPOILED[name]
    spoil(image)
    error = _fails(image)
    assert (error.kind, error.path) == (kind, str(image)), str(error)
    assert word in error.reason
    assert str(image) in str(error)


def test_errors_of_tables_say_where(image: Path) -> None:
    """The offset is that of the entry, so that a person can look at it with a hex editor."""
    entry_offset = qcow2.l2_offset(image) + 8 * 64
    qcow2.write_u64(image, entry_offset, COPIED | 512)
    error = _fails(image)
    assert error.offset_bytes == entry_offset
    assert f"at offset {entry_offset}" in str(error)


def test_unfinished_copy_says_so(image: Path) -> None:
    """A reused destination whose copy did not end is recognised by its mark, not called garbage."""
    qcow2.write_u32(image, 0, 0x56427066)
    error = _fails(image)
    assert (error.kind, error.path) == ("format", str(image))
    assert "unfinished" in error.reason


def test_unfinished_raw_copy_says_so(tmp_path: Path, make_image: Any) -> None:
    """A raw image opens whatever it holds: neither it nor what is built on it is copied while it lacks a part."""
    unfinished, overlay = tmp_path / "unfinished.raw", tmp_path / "overlay.qcow2"
    unfinished.write_bytes(bytes(MIB) + b"virtblock: unfinished copy\n".ljust(512, b"\0"))
    make_image(overlay, "qcow2", MIB, backing=unfinished, backing_format="raw")
    for path, image_format in ((unfinished, "raw"), (overlay, "qcow2")):
        error = _fails(path, image_format)
        assert (error.kind, error.path) == ("format", str(unfinished))
        assert "unfinished" in error.reason


@pytest.mark.parametrize("bit", [0, 1])
def test_marked_image_is_read(image: Path, bit: int, qemu_img: Any) -> None:
    """Dirty and corrupt are about writing; QEMU reads such images, and so do we, but the mark is told."""
    qcow2.write_u64(image, qcow2.INCOMPATIBLE_OFFSET, 1 << bit)
    copy_image(image, "qcow2", image.parent / "copy", "raw")
    assert reads_same(qemu_img, image, "qcow2", image.parent / "copy", "raw")
    info = inspect(str(image), "qcow2", ANY_PATH)
    assert (info.is_dirty, info.is_corrupt) == (bit == 0, bit == 1)


def test_missing_file(tmp_path: Path) -> None:
    """ENOENT, with the path."""
    error = _fails(tmp_path / "none.qcow2")
    assert (error.kind, error.path) == ("system", str(tmp_path / "none.qcow2"))
    assert str(error).endswith("No such file or directory")


def test_folder_as_source(tmp_path: Path) -> None:
    """Only files and block devices are read."""
    (tmp_path / "folder").mkdir()
    assert _fails(tmp_path / "folder").kind == "denied"


@pytest.fixture
def overlay_on(tmp_path: Path, qemu_img: Any) -> Callable[..., Path]:
    """An overlay whose backing file qemu-img was not asked to open."""

    def make(backing: str, backing_format: str | None = "qcow2", name: str = "top.qcow2") -> Path:
        path = tmp_path / name
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", backing_format or "raw", path, "1M")
        if backing_format is None:
            # qemu-img insists on a format; its extension, the first, is made one that nobody knows.
            qcow2.write_u32(path, 112, 0x6E6F6E65)
        return path

    return make


def test_missing_backing_file(overlay_on: Callable[..., Path], tmp_path: Path) -> None:
    """The missing file is named, and the image that needs it."""
    top = overlay_on("gone.qcow2")
    error = _fails(top)
    assert (error.kind, error.path) == ("backing", str(tmp_path / "gone.qcow2"))
    assert str(top) in error.reason
    assert os.strerror(error.errno) == "No such file or directory"


def test_garbage_backing_file(overlay_on: Callable[..., Path], tmp_path: Path) -> None:
    """The image below is judged as the top is."""
    (tmp_path / "base.qcow2").write_bytes(noise(MIB, 3))
    error = _fails(overlay_on("base.qcow2"))
    assert (error.kind, error.path) == ("format", str(tmp_path / "base.qcow2"))


def test_backing_file_without_format(overlay_on: Callable[..., Path], tmp_path: Path) -> None:
    """Nobody recorded the format, and it is not guessed; a definition that tells it is enough."""
    base = tmp_path / "base.raw"
    base.write_bytes(noise(MIB, 4))
    top = overlay_on("base.raw", None)
    error = _fails(top)
    assert (error.kind, error.path) == ("backing-format", str(top))
    assert "base.raw" in error.reason
    with Chain([(str(top), "qcow2"), (str(base), "raw")], ANY_PATH) as chain:
        assert chain.read(0, MIB) == base.read_bytes()


def test_backing_file_of_unknown_format(overlay_on: Callable[..., Path], tmp_path: Path) -> None:
    """A format that this engine does not read is named."""
    (tmp_path / "base.vmdk").write_bytes(noise(MIB, 4))
    error = _fails(overlay_on("base.vmdk", "vmdk"))
    assert error.kind == "unsupported"
    assert "vmdk" in error.reason


@pytest.mark.parametrize("names", [["a.qcow2"], ["a.qcow2", "b.qcow2"], ["a.qcow2", "b.qcow2", "c.qcow2"]])
def test_loop(names: list[str], overlay_on: Callable[..., Path], tmp_path: Path) -> None:
    """An image that comes back, directly or through others, ends the search at once."""
    for name, below in zip(names, names[1:] + names[:1], strict=True):
        overlay_on(below, name=name)
    error = _fails(tmp_path / "a.qcow2")
    assert (error.kind, error.path) == ("backing", str(tmp_path / "a.qcow2"))
    assert "loop" in error.reason


def test_loop_through_a_link(overlay_on: Callable[..., Path], tmp_path: Path) -> None:
    """Files are known by what they are, not by their names."""
    top = overlay_on("other.qcow2")
    os.link(top, tmp_path / "other.qcow2")
    assert "loop" in _fails(top).reason


@pytest.mark.parametrize(
    "name",
    [
        "nbd:localhost:10809",
        "nbd+unix:///disk?socket=/tmp/s",
        "http://localhost/disk.qcow2",
        "fat:/etc",
        'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/hostname"}}',
    ],
)
def test_backing_file_by_protocol(name: str, overlay_on: Callable[..., Path]) -> None:
    """Nothing but files is opened because an image names it."""
    error = _fails(overlay_on(name, "raw"))
    assert error.kind == "denied"
    assert "protocol" in error.reason


def test_file_protocol_is_a_file(overlay_on: Callable[..., Path], tmp_path: Path) -> None:
    """`file:` is only another way to write a path."""
    (tmp_path / "base.raw").write_bytes(noise(MIB, 5))
    with Chain([(str(overlay_on(f"file:{tmp_path}/base.raw", "raw")), "qcow2")], ANY_PATH) as chain:
        assert chain.read(0, MIB) == (tmp_path / "base.raw").read_bytes()


@pytest.mark.parametrize("depth", [200, 201])
def test_deep_chain(depth: int, tmp_path: Path, qemu_img: Any) -> None:
    """As deep as libvirt allows, and not one deeper."""
    template = tmp_path / "template"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-o", "cluster_size=512", "-b", "000", "-F", "qcow2", template, "64k")
    name_offset = qcow2.read_u64(template, qcow2.BACKING_OFFSET_OFFSET)
    for number in range(1, depth):
        path = Path(shutil.copy(template, tmp_path / f"{number:03}"))
        qcow2.overwrite(path, name_offset, f"{number - 1:03}".encode())
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "000", "64k")
    top = tmp_path / f"{depth - 1:03}"
    if depth <= 200:
        with Chain([(str(top), "qcow2")], ANY_PATH) as chain:
            assert len(chain.layers) == depth
        return
    error = _fails(top)
    assert error.kind == "backing"
    assert "200" in error.reason


def test_probe_tells_formats_apart(image: Path, tmp_path: Path) -> None:
    """qcow2 by its magic, everything else is raw; an unfinished copy is still the qcow2 that it was."""
    assert probe(str(image), ANY_PATH) == "qcow2"
    qcow2.write_u32(image, 0, 0x56427066)
    assert probe(str(image), ANY_PATH) == "qcow2"
    (tmp_path / "raw").write_bytes(b"QFI")
    assert probe(str(tmp_path / "raw"), ANY_PATH) == "raw"
    (tmp_path / "empty").touch()
    assert probe(str(tmp_path / "empty"), ANY_PATH) == "raw"


@settings(max_examples=150, deadline=None)
@given(
    spots=st.lists(
        st.tuples(
            st.one_of(
                st.integers(0, 160),
                st.integers(3 * CLUSTER, 3 * CLUSTER + 16),
                st.integers(4 * CLUSTER, 4 * CLUSTER + 1024),
                st.integers(CLUSTER, 3 * CLUSTER),
            ),
            st.binary(min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=4,
    ),
    length=st.one_of(st.none(), st.integers(0, 8 * CLUSTER)),
)
def test_any_damage_is_an_error_or_a_copy(
    pristine: Path, tmp_path: Path, spots: list[tuple[int, bytes]], length: int | None
) -> None:
    """Whatever bytes the header or a table holds: an EngineError of a kind that blames the image, or a whole copy."""
    image, copy = tmp_path / "fuzzed.qcow2", tmp_path / "fuzzed.raw"
    copy.unlink(missing_ok=True)
    shutil.copy(pristine, image)
    for offset, data in spots:
        qcow2.overwrite(image, offset, data)
    if length is not None:
        os.truncate(image, length)
    kind = None
    try:
        copy_image(image, "qcow2", copy, "raw", durable=False)
    except EngineError as error:
        kind = error.kind
    if kind is None:
        assert copy.stat().st_size == inspect(str(image), "qcow2", ANY_PATH).virtual_size_bytes
    else:
        assert kind in {"format", "unsupported", "backing", "backing-format", "denied", "system", "space", "memory"}
