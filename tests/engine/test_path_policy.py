# SPDX-License-Identifier: Apache-2.0
"""No file outside the allowed folders is opened or made, by any name."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, KIB, MIB, noisy_raw

from virtblock.engine import (
    Chain,
    Copy,
    EngineError,
    ImageWriter,
    PathPolicy,
    create_image,
    inspect,
    probe,
    resize_image,
)


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The allowed folder, beside one that is not and whose name begins alike."""
    for name in ("inside", "outside", "inside-not"):
        (tmp_path / name).mkdir()
        noisy_raw(tmp_path / name / "disk.raw", 1 * MIB, [(0, 64 * KIB)])
    return tmp_path / "inside"


@pytest.fixture
def policy(inside: Path) -> PathPolicy:
    """Only `inside`."""
    return PathPolicy([str(inside)])


def _link(target: str) -> Callable[[Path], str]:
    def make(inside: Path) -> str:
        (inside / "link").symlink_to(target)
        return str(inside / "link")

    return make


def _folder_link(inside: Path) -> str:
    (inside / "sub").symlink_to("../outside")
    return str(inside / "sub" / "disk.raw")


WAYS_OUT: dict[str, Callable[[Path], str]] = {
    "plainly": lambda inside: str(inside.parent / "outside" / "disk.raw"),
    "a folder that begins alike": lambda inside: str(inside.parent / "inside-not" / "disk.raw"),
    "dots": lambda inside: f"{inside}/../outside/disk.raw",
    "a link": _link("../outside/disk.raw"),
    "an absolute link": lambda inside: _link(str(inside.parent / "outside" / "disk.raw"))(inside),
    "a linked folder": _folder_link,
    "another root": lambda inside: "/etc/hostname",
    "a descriptor": lambda inside: "/proc/self/fd/0",
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_nothing_outside_is_read(way: str, inside: Path, policy: PathPolicy) -> None:
    """Every call that opens an image keeps to the policy."""
    path = WAYS_OUT[way](inside)
    calls: list[Callable[[], object]] = [
        lambda: Chain([(path, "raw")], policy),
        lambda: inspect(path, "raw", policy),
        lambda: probe(path, policy),
        lambda: policy.check(path),
        lambda: ImageWriter(path, "raw", policy),
        lambda: resize_image(path, "raw", 2 * MIB, policy),
    ]
    for call in calls:
        with pytest.raises(EngineError) as caught:
            call()
        assert caught.value.kind == "denied"
        assert caught.value.path


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("reuse", [False, True])
def test_nothing_outside_is_written(way: str, reuse: bool, inside: Path, policy: PathPolicy, sha256_of: Any) -> None:
    """Neither an existing file by reuse, nor an empty one, nor a new one."""
    path = Path(WAYS_OUT[way](inside))
    before = sha256_of(path) if path.is_file() else None
    with Chain([(str(inside / "disk.raw"), "raw")], ANY_PATH) as chain, pytest.raises(EngineError) as caught:
        Copy(chain, str(path), "raw", policy, reuse=reuse)
    assert caught.value.kind == "denied"
    assert before is None or sha256_of(path) == before


@pytest.mark.parametrize("name", ["../outside/new", "sub/new", "dangling"])
def test_nothing_new_is_made_outside(name: str, inside: Path, policy: PathPolicy) -> None:
    """A new destination and its partial file are made inside or not at all, a dangling link included."""
    # A link to nothing cannot be resolved, so it fails before it is judged.
    kinds = ("system",) if name == "dangling" else ("denied",)
    (inside / "sub").symlink_to("../outside")
    (inside / "dangling").symlink_to("../outside/new")
    with Chain([(str(inside / "disk.raw"), "raw")], ANY_PATH) as chain, pytest.raises(EngineError) as caught:
        Copy(chain, str(inside / name), "raw", policy)
    assert caught.value.kind in kinds
    with pytest.raises(EngineError) as caught:
        create_image(str(inside / name), "qcow2", 1 * MIB, policy)
    assert caught.value.kind in kinds
    assert os.listdir(inside.parent / "outside") == ["disk.raw"]


@pytest.mark.parametrize("way", WAYS_OUT)
def test_backing_file_outside(way: str, inside: Path, policy: PathPolicy, qemu_img: Any) -> None:
    """An image inside does not open what lies outside, and the error names that file."""
    top = inside / "top.qcow2"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", WAYS_OUT[way](inside), "-F", "raw", top, "1M")
    with pytest.raises(EngineError) as caught:
        Chain([(str(top), "qcow2")], policy)
    assert caught.value.kind == "denied"
    assert str(inside / "top.qcow2") in str(caught.value)


def test_links_within_are_followed(inside: Path, policy: PathPolicy) -> None:
    """What stays inside is allowed, whatever way it takes."""
    (inside / "sub").mkdir()
    (inside / "sub" / "link").symlink_to("../disk.raw")
    path = f"{inside}/sub/../sub/link"
    assert policy.check(path) == str(inside / "disk.raw")
    with Chain([(path, "raw")], policy) as chain:
        assert chain.layers[0].path == str(inside / "disk.raw")
        with Copy(chain, str(inside / "sub" / "copy"), "raw", policy) as copy:
            copy.run()
    assert (inside / "sub" / "copy").read_bytes() == (inside / "disk.raw").read_bytes()


def test_several_folders(inside: Path) -> None:
    """Any one of them will do; a folder may itself be a link."""
    (inside.parent / "by-link").symlink_to("outside")
    policy = PathPolicy([str(inside), str(inside.parent / "by-link")])
    assert policy.folders == (str(inside), str(inside.parent / "outside"))
    for name in ("inside", "outside"):
        path = str(inside.parent / name / "disk.raw")
        assert policy.check(path) == path
        with Chain([(path, "raw")], policy):
            pass


def test_no_folders_allow_any_path(inside: Path) -> None:
    """As libvirt's read-write socket does."""
    assert ANY_PATH.folders == ()
    with Chain([(str(inside / "disk.raw"), "raw")], ANY_PATH):
        pass
    assert ANY_PATH.check("/no/such/file") == "/no/such/file"


def test_a_name_that_cannot_be_resolved_is_told(
    policy: PathPolicy, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a link is swapped for a folder between the two looks at it."""

    def swapped(name: str) -> str:
        raise OSError(errno.EINVAL, "Invalid argument", name)

    monkeypatch.setattr(os.path, "realpath", swapped)
    with pytest.raises(EngineError, match="cannot be resolved") as caught:
        policy.check(str(inside / "disk.raw"))
    assert (caught.value.kind, caught.value.errno) == ("system", errno.EINVAL)


def test_policy_checks_files_to_come(policy: PathPolicy, inside: Path) -> None:
    """A destination is checked before it exists."""
    assert policy.check(str(inside / "new")) == str(inside / "new")


@pytest.mark.parametrize("folder", ["no/such/folder", "inside/disk.raw"])
def test_allowed_folder_must_be_one(folder: str, inside: Path) -> None:
    """A mistyped --allow-path must not end in an empty, hence boundless, policy."""
    with pytest.raises(EngineError) as caught:
        PathPolicy([str(inside.parent / folder)])
    assert caught.value.kind == "system"
    assert str(inside.parent / folder) in str(caught.value)


def test_one_path_is_not_a_list_of_folders(inside: Path) -> None:
    """`PathPolicy("/images")` would allow `/` if a string were taken for a sequence."""
    with pytest.raises(TypeError):
        PathPolicy(str(inside))


def test_root_folder_allows_everything(inside: Path) -> None:
    """`/` is a folder like any other."""
    policy = PathPolicy(["/"])
    with Chain([(str(inside / "disk.raw"), "raw")], policy) as chain:
        assert policy.check(chain.layers[0].path) == chain.layers[0].path
