# SPDX-License-Identifier: Apache-2.0
"""Pull and commit: the disk reads the same before and after, whatever the chain is made of, judged by qemu."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.chains import KnownChain, random_layers, read_by_qemu
from engine.sources import ANY_PATH
from hypothesis import given, settings
from hypothesis import strategies as st

from virtblock.engine import Merge

SETTINGS = settings(max_examples=25, deadline=None)


@pytest.fixture
def in_folder(tmp_path: Path) -> Callable[[], Path]:
    """A fresh folder for each example."""
    return lambda: Path(tempfile.mkdtemp(dir=tmp_path))


def _check_images(qemu_img: Any, paths: list[Path]) -> None:
    for path in paths:
        if path.suffix == ".qcow2":
            qemu_img.check(path)


@SETTINGS
@given(layers=random_layers(2, 5), choice=st.integers(0))
def test_pull(layers: Any, choice: int, in_folder: Callable[[], Path], qemu_img: Any, qemu_io: Any) -> None:
    """To a base or to none: the images that were pulled are not needed any more."""
    folder = in_folder()
    chain = KnownChain(folder, layers, qemu_img, qemu_io)
    depth = len(layers)
    base_index = [None, *range(1, depth)][choice % depth]
    with Merge.pull([chain.top], ANY_PATH, base_index=base_index) as merge:
        merge.run()
        progress = merge.progress()
        assert (progress.phase, progress.remaining_bytes) == ("done", 0)
    for path in chain.paths[1 : base_index or depth]:
        path.unlink()
    assert read_by_qemu(qemu_img, chain.paths[0], "qcow2", folder / "read") == chain.content
    info = qemu_img.info(chain.paths[0], image_format="qcow2")
    if base_index is None:
        assert "backing-filename" not in info
    else:
        assert info["backing-filename"] == str(chain.paths[base_index])
        assert info["backing-filename-format"] == chain.formats[base_index]
    _check_images(qemu_img, chain.paths[:1])
    shutil.rmtree(folder)


@SETTINGS
@given(layers=random_layers(2, 5), choices=st.tuples(st.integers(0), st.integers(0)))
def test_commit(
    layers: Any, choices: tuple[int, int], in_folder: Callable[[], Path], qemu_img: Any, qemu_io: Any
) -> None:
    """Any run of layers into the one below it, the top of the chain among them."""
    folder = in_folder()
    chain = KnownChain(folder, layers, qemu_img, qemu_io)
    depth = len(layers)
    top_index = choices[0] % (depth - 1)
    base_index = top_index + 1 + choices[1] % (depth - 1 - top_index)
    with Merge.commit([chain.top], ANY_PATH, top_index=top_index, base_index=base_index) as merge:
        merge.run()
        size_bytes = merge.size_bytes
    assert size_bytes == max(layers[depth - 1 - index].sector_count * 512 for index in (top_index, base_index))
    for path in chain.paths[top_index:base_index]:
        path.unlink()
    left = 0 if top_index else base_index
    content = read_by_qemu(qemu_img, chain.paths[left], chain.formats[left], folder / "read")
    assert content[: len(chain.content)] == chain.content
    _check_images(qemu_img, [chain.paths[left], chain.paths[base_index]])
    shutil.rmtree(folder)
