# SPDX-License-Identifier: Apache-2.0
"""Removing images while folders are swapped for links: no file elsewhere goes."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from virtblock.engine import EngineError, PathPolicy
from virtblock.server.drivers.offline.file_identity import file_identity
from virtblock.server.drivers.offline.removing import remove_image


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An allowed one, and one elsewhere, both with a file `image`."""
    allowed, elsewhere = tmp_path / "allowed", tmp_path / "elsewhere"
    for folder in (allowed / "inner", elsewhere):
        folder.mkdir(parents=True)
        (folder / "image").write_bytes(b"x")
    return allowed, elsewhere


def swap(folder: Path, elsewhere: Path) -> None:
    """A link takes the folder's place."""
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(elsewhere)


def test_the_known_file_goes_and_no_other(folders: tuple[Path, Path]) -> None:
    allowed, elsewhere = folders
    image = allowed / "inner/image"
    known = file_identity(str(image))
    policy = PathPolicy([str(allowed)])
    with pytest.raises(OSError, match="another file took its place"):
        remove_image(str(image), policy, file_identity(str(elsewhere / "image")))
    remove_image(str(image), policy, known)
    assert not image.exists()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_link_leads_nowhere_else(folders: tuple[Path, Path], is_known: bool) -> None:
    allowed, elsewhere = folders
    swap(allowed / "inner", elsewhere)
    path = str(allowed / "inner/image")
    with pytest.raises(EngineError, match="outside every allowed folder"):
        remove_image(path, PathPolicy([str(allowed)]), file_identity(path) if is_known else None)
    assert (elsewhere / "image").exists()


def test_a_link_that_comes_after_the_check_leads_nowhere_else(folders: tuple[Path, Path]) -> None:
    allowed, elsewhere = folders
    policy = PathPolicy([str(allowed)])

    class Swapping:
        def check(self, path: str) -> None:
            policy.check(path)
            swap(allowed / "inner", elsewhere)

    remove_image(str(allowed / "inner/image"), cast(PathPolicy, Swapping()), None)
    assert (elsewhere / "image").exists()
    assert not (allowed / "moved/image").exists()
