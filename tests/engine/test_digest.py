# SPDX-License-Identifier: Apache-2.0
"""The digest of a disk's content: one for one content, whatever the format, cut and order; and how --verify uses it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import ANY_PATH, KIB, KINDS, MIB, SourceMaker, noisy_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.digest import digest_of

from virtblock.engine import Chain, Copy, EngineError, ImageWriter, cli, digest
from virtblock.engine import copy_command as command_module

Command = Callable[..., subprocess.CompletedProcess[str]]


def chain_of(path: Path, image_format: Any) -> Chain:
    return Chain([(str(path), image_format)], ANY_PATH)


def content_of(path: Path, image_format: Any) -> bytes:
    with chain_of(path, image_format) as chain:
        return chain.read(0, chain.size_bytes)


def copied_digest(source: Path, source_format: Any, destination: Path, destination_format: Any, **options: Any) -> str:
    with (
        chain_of(source, source_format) as chain,
        Copy(chain, str(destination), destination_format, ANY_PATH, digest=True, **options) as copy,
    ):
        assert copy.digest == ""
        copy.run()
        return copy.digest


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source(kind: str, source_of: SourceMaker, tmp_path: Path) -> None:
    """Copying to raw and to qcow2 and reading back all give what the definition gives."""
    source = source_of(kind)
    wanted = digest_of(content_of(source.path, source.format))
    for destination_format in ("raw", "qcow2"):
        destination = tmp_path / destination_format
        assert copied_digest(source.path, source.format, destination, destination_format) == wanted
        with chain_of(destination, destination_format) as chain:
            assert digest(chain) == wanted
    with chain_of(source.path, source.format) as chain:
        assert digest(chain, drop_cache=True) == wanted


@settings(max_examples=25, deadline=None)
@given(
    size_bytes=st.integers(1, 3 * MIB),
    pieces=st.lists(st.tuples(st.integers(0, 3 * MIB), st.sampled_from([1, 511, 4096, 70000])), max_size=6),
    cluster_bytes=st.sampled_from([512, 2048, 4096, 65536]),
    granule_bytes=st.sampled_from([4096, 65536, MIB]),
    lane_count=st.integers(1, 3),
)
def test_cut_and_order_do_not_count(
    size_bytes: int,
    pieces: list[tuple[int, int]],
    cluster_bytes: int,
    granule_bytes: int,
    lane_count: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Any granule, cluster and number of lanes; pieces begin and end anywhere."""
    folder = tmp_path_factory.mktemp("cut")
    inside = [(start, min(length, size_bytes - start)) for start, length in pieces if start < size_bytes]
    source = noisy_raw(folder / "disk.raw", size_bytes, inside)
    options: dict[str, Any] = {"granule_bytes": granule_bytes, "lane_count": lane_count}
    wanted = digest_of(source.read_bytes())
    assert copied_digest(source, "raw", folder / "a", "qcow2", cluster_size_bytes=cluster_bytes, **options) == wanted
    assert copied_digest(folder / "a", "qcow2", folder / "b", "raw", **options) == wanted


def test_reused_destination(source_of: SourceMaker, tmp_path: Path) -> None:
    """What the destination held before leaves no trace in the digest."""
    source = source_of("raw")
    destination = noisy_raw(tmp_path / "old.raw", source.size_bytes, [(0, source.size_bytes)])
    wanted = digest_of(source.path.read_bytes())
    assert copied_digest(source.path, "raw", destination, "raw", reuse=True) == wanted
    with chain_of(destination, "raw") as chain:
        assert digest(chain) == wanted


def test_places_count(tmp_path: Path) -> None:
    """The same blocks at other places, and the same blocks on a larger disk, are other disks."""
    first = tmp_path / "first.raw"
    swapped = tmp_path / "swapped.raw"
    longer = tmp_path / "longer.raw"
    left, right = os.urandom(4096), os.urandom(4096)
    first.write_bytes(left + right)
    swapped.write_bytes(right + left)
    longer.write_bytes(left + right + bytes(512))
    digests = set()
    for path in (first, swapped, longer):
        with chain_of(path, "raw") as chain:
            digests.add(digest(chain))
    assert len(digests) == 3


def test_only_whole_disks_have_one(source_of: SourceMaker, tmp_path: Path) -> None:
    """Not asked for, or a copy of the top alone: none. The command line reads the chain for it."""
    source = source_of("chain")
    with chain_of(source.path, "qcow2") as chain:
        with Copy(chain, str(tmp_path / "plain"), "qcow2", ANY_PATH) as copy:
            copy.run()
            assert copy.digest == ""
        options: dict[str, Any] = {"mode": "top", "backing_path": str(source.backing), "backing_format": "qcow2"}
        with Copy(chain, str(tmp_path / "top"), "qcow2", ANY_PATH, digest=True, **options) as copy:
            copy.run()
            assert copy.digest == ""


@pytest.mark.parametrize("options", [(), ("--shallow",), ("--raw",)])
def test_command(options: tuple[str, ...], source_of: SourceMaker, tmp_path: Path, copy_command: Command) -> None:
    """--digest prints it, --json has it, for whole and for shallow copies."""
    source = source_of("chain")
    wanted = digest_of(content_of(source.path, "qcow2"))
    done = copy_command("--digest", *options, source.path, tmp_path / "a")
    assert done.returncode == 0
    assert f"Digest: {wanted}\n" in done.stdout
    done = copy_command("--digest", "--json", "--verify", *options, source.path, tmp_path / "b")
    answer = json.loads(done.stdout)
    assert (answer["digest"], answer["verified"]) == (wanted, True)


def _flip_a_byte(path: Path, offset_bytes: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset_bytes)
        byte = file.read(1)[0]
        file.seek(offset_bytes)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    ("options", "destination_format"), [((), "qcow2"), (("--raw",), "raw"), (("--raw", "--reuse"), "raw")]
)
def test_verify_fails_when_the_disk_lies(
    options: tuple[str, ...],
    destination_format: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A byte changes behind the copy's back: the command fails with its place, and the destination opens no more."""
    raw = noisy_raw(tmp_path / "disk.raw", MIB, [(0, MIB)])
    source = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, source], check=True)
    destination = tmp_path / "copy"
    if "--reuse" in options:
        destination.write_bytes(bytes(MIB))

    def lying(chain: Chain, *arguments: Any, **options: Any) -> str:
        host_bytes = next(
            offset for offset in range(0, 8 * MIB, 64 * KIB) if _block(destination, offset) == _block(raw, 0)
        )
        _flip_a_byte(destination, host_bytes + 777)
        return digest(chain, *arguments, **options)

    monkeypatch.setattr(command_module, "digest", lying)
    assert cli.main(["--json", "--verify", *options, str(source), str(destination)]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert "Verification failed" in error["message"]
    assert "marked unfinished" in error["message"]
    assert error["offset_bytes"] == 777
    with pytest.raises(EngineError):
        ImageWriter(str(destination), destination_format, ANY_PATH)


def _block(path: Path, offset_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset_bytes)
        return file.read(512)
