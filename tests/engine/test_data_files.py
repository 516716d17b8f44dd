# SPDX-License-Identifier: Apache-2.0
"""Images that keep their data in another file: read where caller and image name the same file, else refused."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from engine.sources import ANY_PATH, KIB, MIB, copy_image, noisy_raw, reads_same

from virtblock.engine import Chain, Copy, EngineError, ImageWriter, PathPolicy, inspect, resize_image

DISK_BYTES = 4 * MIB
KINDS = (
    ("raw-plain", ()),
    ("raw-on", ("data_file_raw=on",)),
    ("4k", ("cluster_size=4k",)),
    ("2m", ("cluster_size=2M",)),
    ("extended", ("extended_l2=on",)),
    ("metadata", ("preallocation=metadata",)),
    ("extended-metadata", ("extended_l2=on", "preallocation=metadata")),
)

Command = Callable[..., subprocess.CompletedProcess[str]]


class Image(NamedTuple):
    """An image, its data file, and a policy that names it."""

    path: Path
    data: Path
    policy: PathPolicy


@pytest.fixture
def make(tmp_path: Path, qemu_img: Any, qemu_io: Any) -> Callable[..., Image]:
    """Makes an image with data of every kind, the first cluster among it."""

    def make(name: str, *options: str, below: Path | None = None, recorded: str = "") -> Image:
        path, data = tmp_path / f"{name}.qcow2", tmp_path / f"{name}.data"
        backing = {"backing": below, "backing_format": "qcow2"} if below else {}
        qemu_img.create(path, "qcow2", DISK_BYTES, options=[f"data_file={recorded or data}", *options], **backing)
        qemu_io(
            path, "qcow2", "write -P 1 0 5k", "write -P 2 1M 100k", "write -z 1050k 8k", "discard 1M 4k",
            "write -P 0 2M 64k", "write -zu 3M 64k", f"write -P 9 {DISK_BYTES - 512} 512",
        )  # fmt: skip
        return Image(path, data, PathPolicy(data_files={str(path): str(data)}))

    return make


@pytest.mark.parametrize("kind", KINDS, ids=[name for name, _ in KINDS])
@pytest.mark.parametrize(("image_format", "reuse"), [("qcow2", False), ("raw", False), ("qcow2", True), ("raw", True)])
def test_named(
    kind: tuple[str, tuple[str, ...]],
    image_format: Any,
    reuse: bool,
    make: Callable[..., Image],
    tmp_path: Path,
    qemu_img: Any,
    sha256_of: Any,
) -> None:
    """Copied as any image; the copy holds its data itself, and neither file of the source is touched."""
    image = make("disk", *kind[1])
    digests = [sha256_of(image.path), sha256_of(image.data)]
    if reuse and image_format == "qcow2":
        qemu_img.create(tmp_path / "copy", "qcow2", DISK_BYTES)
    elif reuse:
        noisy_raw(tmp_path / "copy", DISK_BYTES, [(0, DISK_BYTES)])
    with (
        Chain([(str(image.path), "qcow2")], image.policy) as chain,
        Copy(chain, str(tmp_path / "copy"), image_format, ANY_PATH, reuse=reuse) as copy,
    ):
        assert (chain.layers[0].data_path, chain.layers[0].data_file) == (str(image.data), str(image.data))
        copy.run()
    assert reads_same(qemu_img, image.path, "qcow2", tmp_path / "copy", image_format)
    if image_format == "qcow2":
        qemu_img.check(tmp_path / "copy")
        assert inspect(str(tmp_path / "copy"), "qcow2", ANY_PATH).data_path is None
    assert [sha256_of(image.path), sha256_of(image.data)] == digests


def test_in_every_place_of_a_chain(make: Callable[..., Image], tmp_path: Path, qemu_img: Any, qemu_io: Any) -> None:
    """Below another image with one, and below one without; flat, and shallow over a base that has one."""
    base = make("base")
    middle = make("middle", "extended_l2=on", below=base.path)
    top = qemu_img.create(tmp_path / "top.qcow2", "qcow2", backing=middle.path, backing_format="qcow2")
    qemu_io(top, "qcow2", "write -P 7 700k 300k")
    policy = PathPolicy(data_files={str(base.path): str(base.data), str(middle.path): str(middle.data)})
    with Chain([(str(top), "qcow2")], policy) as chain:
        assert [layer.data_file for layer in chain.layers] == [None, str(middle.data), str(base.data)]
        with Copy(chain, str(tmp_path / "flat"), "qcow2", ANY_PATH) as copy:
            copy.run()
        with Copy(
            chain, str(tmp_path / "shallow"), "qcow2", ANY_PATH,
            mode="top", backing_path=str(middle.path), backing_format="qcow2",
        ) as copy:  # fmt: skip
            copy.run()
    for name in ("flat", "shallow"):
        assert reads_same(qemu_img, top, "qcow2", tmp_path / name, "qcow2")
    with pytest.raises(EngineError) as caught:
        Chain([(str(top), "qcow2")], base.policy)
    assert (caught.value.kind, caught.value.path) == ("denied", str(middle.path))
    with pytest.raises(EngineError) as caught:
        Chain([(str(top), "qcow2")], middle.policy)
    assert (caught.value.kind, caught.value.path) == ("denied", str(base.path))


def test_names_are_names_of_files(make: Callable[..., Image], tmp_path: Path) -> None:
    """A recorded name is relative to the image's folder; links lead to the same file, for an image and its data."""
    os.chdir(tmp_path)
    image = make("disk", recorded="disk.data")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/data").symlink_to(image.data)
    (tmp_path / "links/image").hardlink_to(image.path)
    os.chdir("/")
    for path, data in (
        (image.path, image.data),
        (image.path, tmp_path / "links/data"),
        (tmp_path / "links/image", image.data),
    ):
        policy = PathPolicy(data_files={str(path): str(data)})
        with Chain([(str(image.path), "qcow2")], policy) as chain:
            assert chain.layers[0].data_file == str(image.data)


def _refused(path: Path, policy: PathPolicy, kind: str, words: str) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        Chain([(str(path), "qcow2")], policy)
    assert caught.value.kind == kind


def test_refused(make: Callable[..., Image], tmp_path: Path, qemu_img: Any) -> None:
    """Not named; another file; one for an image that has none; outside the folders; gone; named by a protocol."""
    image = make("disk")
    _refused(image.path, ANY_PATH, "denied", "only where the caller names it: by <dataStore>.*--data-file")
    other = shutil.copy(image.data, tmp_path / "other")
    _refused(image.path, PathPolicy(data_files={str(image.path): str(other)}), "denied", "which is not")
    plain = qemu_img.create(tmp_path / "plain", "qcow2", DISK_BYTES)
    _refused(plain, PathPolicy(data_files={str(plain): str(other)}), "invalid", "has no external data file")
    place = tmp_path / "place"
    place.mkdir()
    _refused(
        image.path, PathPolicy([str(tmp_path)], data_files={str(image.path): "/etc/passwd"}), "denied", "outside every"
    )
    shutil.copy(image.path, place / "disk.qcow2")
    policy = PathPolicy([str(place)], data_files={str(place / "disk.qcow2"): str(image.data)})
    _refused(place / "disk.qcow2", policy, "denied", "outside every allowed folder")
    image.data.rename(tmp_path / "away")
    _refused(image.path, image.policy, "system", "Cannot open the file")
    policy = PathPolicy(data_files={str(image.path): str(tmp_path / "away")})
    _refused(image.path, policy, "denied", "which is not")
    with image.path.open("r+b") as file:
        content = file.read(64 * KIB)
        file.seek(content.index(bytes(image.data)))
        file.write(b"nbd://x/".ljust(len(bytes(image.data)), b"y"))
    _refused(image.path, policy, "denied", "named by a protocol")


def test_no_part_of_the_chain_twice(make: Callable[..., Image], tmp_path: Path, qemu_img: Any) -> None:
    """One data file for two images, and a data file that is an image of the chain."""
    base = make("base")
    top = qemu_img.create(
        tmp_path / "top.qcow2", "qcow2", backing=base.path, backing_format="qcow2",
        options=[f"data_file={tmp_path / 'top.data'}"],
    )  # fmt: skip
    for target in (base.data, base.path):
        (tmp_path / "top.data").unlink()
        (tmp_path / "top.data").symlink_to(target)
        policy = PathPolicy(data_files={str(top): str(target), str(base.path): str(base.data)})
        _refused(top, policy, "backing", "loop|another part of the same chain")


def _entry_at(path: Path, index: int) -> int:
    """Where the L2 entry of a guest cluster in the first table lies in the file."""
    with path.open("rb") as file:
        head = file.read(104)
        file.seek(struct.unpack_from(">Q", head, 40)[0])
        return int(struct.unpack(">Q", file.read(8))[0] & 0x00FFFFFFFFFFFE00) + index * 8


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (1 << 63 | 64 * KIB, "does not name the same offset"),
        (1 << 62 | 5 * 64 * KIB, "compressed cluster in an image with an external data file"),
        (1 << 63 | 3 << 56, "reserved bits"),
    ],
)
def test_damaged(entry: int, words: str, make: Callable[..., Image], tmp_path: Path) -> None:
    """Guest and host offset are the same in a data file, and nothing in it is compressed."""
    image = make("disk")
    with image.path.open("r+b") as file:
        file.seek(_entry_at(image.path, 17))
        file.write(struct.pack(">Q", entry))
    with Chain([(str(image.path), "qcow2")], image.policy) as chain:
        with pytest.raises(EngineError, match=words) as caught:
            chain.read(0, DISK_BYTES)
        assert caught.value.kind == "format"


def test_cut_data_file(make: Callable[..., Image]) -> None:
    """Data beyond the data file's end is lost data, not zeros."""
    image = make("disk")
    os.truncate(image.data, MIB)
    with Chain([(str(image.path), "qcow2")], image.policy) as chain, pytest.raises(EngineError, match="truncated"):
        chain.read(0, DISK_BYTES)


def test_locked(make: Callable[..., Image], tmp_path: Path) -> None:
    """What writes into the data file meanwhile is refused, and a data file that is written to is not read."""
    image = make("disk")
    with Chain([(str(image.path), "qcow2")], image.policy):
        with pytest.raises(EngineError) as caught:
            ImageWriter(str(image.data), "raw", ANY_PATH)
        assert caught.value.kind == "locked"
    with ImageWriter(str(image.data), "raw", ANY_PATH):
        _refused(image.path, image.policy, "locked", "lock")


def test_never_a_destination(make: Callable[..., Image], tmp_path: Path, qemu_img: Any, sha256_of: Any) -> None:
    """Neither file is copied onto, and the image is not changed in place; reasons name the data file."""
    image = make("disk")
    other = qemu_img.create(tmp_path / "other.qcow2", "qcow2", DISK_BYTES)
    digests = [sha256_of(image.path), sha256_of(image.data)]
    with Chain([(str(image.path), "qcow2")], image.policy) as chain:
        with pytest.raises(EngineError, match="is the data file of the source's image") as caught:
            Copy(chain, str(image.data), "raw", ANY_PATH, reuse=True)
        assert caught.value.kind == "same-file"
    for refused in (
        lambda: copy_image(other, "qcow2", image.path, "qcow2", reuse=True),
        lambda: ImageWriter(str(image.path), "qcow2", ANY_PATH),
        lambda: resize_image(str(image.path), "qcow2", 2 * DISK_BYTES, image.policy),
    ):
        with pytest.raises(EngineError, match="external data file") as caught:
            refused()
        assert caught.value.kind == "unsupported"
    assert [sha256_of(image.path), sha256_of(image.data)] == digests


def test_command(make: Callable[..., Image], tmp_path: Path, qemu_img: Any, copy_command: Command) -> None:
    """`--data-file PATH` is the source's own, `IMAGE=PATH` another's; verification needs them as well."""
    base = make("base")
    top = make("top", below=base.path)
    named = ["--data-file", top.data, "--data-file", f"{base.path}={base.data}"]
    done = copy_command("--verify", *named, top.path, tmp_path / "flat.qcow2")
    assert done.returncode == 0, done.stderr
    done = copy_command("--verify", "--shallow", *named, top.path, tmp_path / "shallow.qcow2")
    assert done.returncode == 0, done.stderr
    for name in ("flat.qcow2", "shallow.qcow2"):
        assert reads_same(qemu_img, top.path, "qcow2", tmp_path / name, "qcow2")
    done = copy_command("--json", top.path, tmp_path / "none")
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (1, "denied")
    done = copy_command("--json", *named, base.path, tmp_path / "none")
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (2, "usage")
    done = copy_command("--json", *named, f"--data-file={tmp_path}/x=y", top.path, tmp_path / "none")
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (1, "invalid")
    for text in ("", "=x", "x="):
        assert copy_command("--data-file", text, top.path, tmp_path / "none").returncode == 2
    assert not (tmp_path / "none").exists()
