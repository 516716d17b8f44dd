# SPDX-License-Identifier: Apache-2.0
"""Bad images, bad places and images in use: each a VirError with the path and the reason, kept with the job.

In every case nothing is left at the destination that opens as a good image, and the source is as it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance.guests import (
    ACCESS_DENIED,
    BLOCK_COPY_ACTIVE,
    BYTES,
    CONFIG_UNSUPPORTED,
    COPY,
    INTERNAL_ERROR,
    KIB,
    MIB,
    OPERATION_INVALID,
    RAW,
    REUSE_EXT,
    SHALLOW,
    STANDING_STILL_BYTES_PER_S,
    SYSTEM_ERROR,
)
from conformance.routes import Refused, Route

QCOW2_L1_TABLE_OFFSET_FIELD = 40
ENOENT, ENOSPC = 2, 28


def copy_must_fail(
    route: Route, destination: Path, flags: int = COPY, *, numbers: tuple[int, ...], names: Path
) -> Refused:
    """Starts a copy that fails in the call or later; returns its error, after the job was seen FAILED with it."""
    earlier = route.newest_job()
    refused: Refused | None = None
    try:
        route.rebase("guest", "vda", str(destination), 0, flags)
    except Refused as refusal:
        refused = refusal
    job = route.newest_job()
    assert job is not None and job != earlier, f"no record of the failure was kept: {refused}"
    _, error = route.wait(job, "failed")
    assert error is not None
    assert refused is None or refused.message == error.message
    assert error.number in numbers, error
    assert str(names) in error.message, error
    assert route.info("guest", "vda") is None
    return error


def assert_nothing_left(destination: Path) -> None:
    assert not destination.exists() or destination.stat().st_size == 0
    assert not list(destination.parent.glob("*.virtblock-partial"))


@pytest.fixture
def good_image(tmp_path: Path, make_image: Any) -> Path:
    """A qcow2 with data that is spread out, so that its tables are used."""
    writes = [(offset * 4 * MIB, 256 * KIB, offset + 1) for offset in range(8)]
    path: Path = make_image(tmp_path / "source.qcow2", "qcow2", 32 * MIB, writes=writes)
    return path


def test_truncated_image(route: Route, good_image: Path, domain_xml: Callable[..., str], tmp_path: Path) -> None:
    with good_image.open("rb") as file:
        file.seek(QCOW2_L1_TABLE_OFFSET_FIELD)
        l1_offset = struct.unpack(">Q", file.read(8))[0]
    os.truncate(good_image, l1_offset)
    before = good_image.read_bytes()
    route.define(domain_xml(("vda", good_image, "qcow2")))
    copy_must_fail(route, tmp_path / "copy", numbers=(INTERNAL_ERROR, CONFIG_UNSUPPORTED), names=good_image)
    assert_nothing_left(tmp_path / "copy")
    assert good_image.read_bytes() == before


def test_garbage_header(route: Route, good_image: Path, domain_xml: Callable[..., str], tmp_path: Path) -> None:
    good_image.write_bytes(os.urandom(MIB))
    before = good_image.read_bytes()
    route.define(domain_xml(("vda", good_image, "qcow2")))
    copy_must_fail(route, tmp_path / "copy", numbers=(INTERNAL_ERROR, CONFIG_UNSUPPORTED), names=good_image)
    assert_nothing_left(tmp_path / "copy")
    assert good_image.read_bytes() == before


def test_missing_image(route: Route, domain_xml: Callable[..., str], tmp_path: Path) -> None:
    route.define(domain_xml(("vda", tmp_path / "absent.qcow2", "qcow2")))
    error = copy_must_fail(route, tmp_path / "copy", numbers=(SYSTEM_ERROR,), names=tmp_path / "absent.qcow2")
    assert error.int1 == ENOENT
    assert_nothing_left(tmp_path / "copy")


def test_missing_backing_file(route: Route, make_chain: Any, domain_xml: Callable[..., str], tmp_path: Path) -> None:
    chain = make_chain()
    route.define(domain_xml(("vda", chain.top, "qcow2")))
    chain.base.rename(tmp_path / "elsewhere")
    error = copy_must_fail(route, tmp_path / "copy", numbers=(SYSTEM_ERROR,), names=chain.base)
    assert error.int1 == ENOENT
    assert "Cannot access backing file" in error.message
    assert str(chain.snap1) in error.message
    assert_nothing_left(tmp_path / "copy")


def test_loop_in_the_chain(
    route: Route, make_chain: Any, qemu_img: Any, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    chain = make_chain()
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", chain.top, chain.base)
    route.define(domain_xml(("vda", chain.top, "qcow2")))
    error = copy_must_fail(route, tmp_path / "copy", numbers=(INTERNAL_ERROR, CONFIG_UNSUPPORTED), names=chain.top)
    assert "loop" in error.message
    assert_nothing_left(tmp_path / "copy")


def test_backing_format_not_recorded(
    route: Route, make_chain: Any, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    """qemu-img refuses to make such an image since 6.1; older ones are about, and probing them trusts the guest."""
    chain = make_chain()
    content = bytearray(chain.top.read_bytes())
    place = content.find(struct.pack(">II", 0xE2792ACA, 5))
    assert place > 0
    content[place : place + 4] = struct.pack(">I", 0x11223344)
    chain.top.write_bytes(content)
    route.define(domain_xml(("vda", chain.top, "qcow2")))
    error = copy_must_fail(route, tmp_path / "copy", numbers=(OPERATION_INVALID, CONFIG_UNSUPPORTED), names=chain.snap1)
    assert "format" in error.message
    assert_nothing_left(tmp_path / "copy")


@contextlib.contextmanager
def small_file_system(path: Path, size: str) -> Iterator[Path]:
    """A tmpfs of a few MiB; needs root."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs to be had: {done.stderr}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_full_disk_is_seen_before_the_start(
    route: Route, good_image: Path, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    before = good_image.read_bytes()
    route.define(domain_xml(("vda", good_image, "qcow2")))
    with small_file_system(tmp_path / "small", "1m") as small:
        error = copy_must_fail(route, small / "copy", numbers=(SYSTEM_ERROR,), names=small / "copy")
        assert error.int1 == ENOSPC
        assert_nothing_left(small / "copy")
    assert good_image.read_bytes() == before


def test_disk_that_fills_up_meanwhile(
    route: Route, good_image: Path, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    before = good_image.read_bytes()
    route.define(domain_xml(("vda", good_image, "qcow2")))
    with small_file_system(tmp_path / "small", "8m") as small:
        job = route.rebase("guest", "vda", str(small / "copy"), STANDING_STILL_BYTES_PER_S, COPY | BYTES)
        with contextlib.suppress(OSError), (small / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(64 * KIB))
                filler.flush()
        with contextlib.suppress(Refused):  # it may have met the full disk already
            route.set_speed("guest", "vda", 0)
        _, error = route.wait(job, "failed")
        assert error is not None
        assert (error.number, error.int1) == (SYSTEM_ERROR, ENOSPC)
        assert str(small / "copy") in error.message
        assert_nothing_left(small / "copy")
    assert good_image.read_bytes() == before


def test_destination_without_permission(
    route: Route, good_image: Path, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    """A read-only file system refuses root too."""
    route.define(domain_xml(("vda", good_image, "qcow2")))
    with small_file_system(tmp_path / "small", "8m") as small:
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        error = copy_must_fail(route, small / "copy", numbers=(SYSTEM_ERROR,), names=small / "copy")
        assert "Read-only file system" in error.message
        assert_nothing_left(small / "copy")


def test_destination_in_no_folder(
    route: Route, good_image: Path, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    route.define(domain_xml(("vda", good_image, "qcow2")))
    error = copy_must_fail(route, tmp_path / "no" / "copy", numbers=(SYSTEM_ERROR,), names=tmp_path / "no" / "copy")
    assert error.int1 == ENOENT


@contextlib.contextmanager
def running_qemu(image: Path) -> Iterator[None]:
    """A real machine, with no processor running, that has the image open for writing."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    pid_file = image.with_suffix(".pid")
    drive = f"file={image},format=qcow2,if=none,id=d0"
    machine = ["-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-m", "32", "-S", "-drive", drive]
    machine += ["-device", "virtio-blk-pci,drive=d0", "-daemonize", "-pidfile", str(pid_file)]
    subprocess.run(
        [program, *machine],
        check=True,
        timeout=120,
    )
    process = int(pid_file.read_text())
    try:
        yield
    finally:
        os.kill(process, 9)
        while Path(f"/proc/{process}").exists():
            time.sleep(0.01)


def test_source_in_use_by_a_running_qemu(
    route: Route, good_image: Path, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    route.define(domain_xml(("vda", good_image, "qcow2")))
    with running_qemu(good_image):
        error = copy_must_fail(route, tmp_path / "copy", numbers=(INTERNAL_ERROR,), names=good_image)
        assert "lock" in error.message
    assert_nothing_left(tmp_path / "copy")
    job = route.rebase("guest", "vda", str(tmp_path / "copy"), 0, COPY)
    route.wait_ready(job)


def test_destination_in_use_by_a_running_qemu(
    route: Route, good_image: Path, qemu_img: Any, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    route.define(domain_xml(("vda", good_image, "qcow2")))
    used = qemu_img.create(tmp_path / "used.qcow2", "qcow2", 32 * MIB)
    before = used.read_bytes()
    with running_qemu(used):
        error = copy_must_fail(route, used, COPY | REUSE_EXT, numbers=(INTERNAL_ERROR,), names=used)
        assert "lock" in error.message
    assert used.read_bytes() == before


def test_a_running_qemu_is_kept_out_of_a_source_that_is_read(
    route: Route, good_image: Path, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    route.define(domain_xml(("vda", good_image, "qcow2")))
    job = route.rebase("guest", "vda", str(tmp_path / "copy"), STANDING_STILL_BYTES_PER_S, COPY | BYTES)
    route.wait(job, "running")
    with pytest.raises(subprocess.CalledProcessError), running_qemu(good_image):
        pass
    route.set_speed("guest", "vda", 0)
    route.wait_ready(job)


@pytest.mark.parametrize("how", ["path", "symlink", "hard link", "backing"])
def test_destination_is_the_source(
    route: Route, how: str, make_chain: Any, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    chain = make_chain()
    before = [path.read_bytes() for path in chain.files]
    route.define(domain_xml(("vda", chain.top, "qcow2")))
    destination = chain.snap1 if how == "backing" else tmp_path / "other-name"
    if how == "path":
        destination = chain.top
    elif how == "symlink":
        destination.symlink_to(chain.top)
    elif how == "hard link":
        destination.hardlink_to(chain.top)
    for flags in (COPY | REUSE_EXT, COPY | REUSE_EXT | SHALLOW):
        with pytest.raises(Refused) as refusal:
            route.rebase("guest", "vda", str(destination), 0, flags)
        assert refusal.value.number == INTERNAL_ERROR, refusal.value
        assert str(destination) in refusal.value.message or str(chain.top) in refusal.value.message
    assert [path.read_bytes() for path in chain.files] == before


def test_destination_of_another_job(
    route: Route, make_image: Any, qemu_img: Any, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    one = make_image(tmp_path / "one.raw", "raw", 8 * MIB, writes=[(0, 8 * MIB, 1)])
    two = make_image(tmp_path / "two.raw", "raw", 8 * MIB, writes=[(0, 8 * MIB, 2)])
    route.define(domain_xml(("vda", one, "raw"), ("vdb", two, "raw")))
    target = qemu_img.create(tmp_path / "target.raw", "raw", 8 * MIB)
    route.rebase("guest", "vda", str(target), STANDING_STILL_BYTES_PER_S, COPY | REUSE_EXT | RAW | BYTES)
    with pytest.raises(Refused) as refusal:
        route.rebase("guest", "vdb", str(target), 0, COPY | REUSE_EXT | RAW)
    assert refusal.value.number == BLOCK_COPY_ACTIVE, refusal.value
    assert str(target) in refusal.value.message
    route.abort("guest", "vda")


# With allowed folders: nothing outside is opened or made, by any name.


def test_source_outside_the_allowed_folders(
    fenced_route: Route, good_image: Path, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    fenced_route.define(domain_xml(("vda", good_image, "qcow2")))
    with pytest.raises(Refused) as refusal:
        fenced_route.rebase("guest", "vda", str(tmp_path / "allowed" / "copy"), 0, COPY)
    assert refusal.value.number == ACCESS_DENIED, refusal.value
    assert str(good_image) in refusal.value.message
    assert_nothing_left(tmp_path / "allowed" / "copy")


@pytest.mark.parametrize("how", ["plain", "dots", "symlink", "symlinked folder"])
def test_destination_outside_the_allowed_folders(
    fenced_route: Route, how: str, good_image: Path, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    outside = tmp_path / "outside"
    outside.mkdir()
    source = allowed / "source.qcow2"
    shutil.copy(good_image, source)
    fenced_route.define(domain_xml(("vda", source, "qcow2")))
    (allowed / "link").symlink_to(outside / "copy")
    (allowed / "folder").symlink_to(outside)
    destination = {
        "plain": outside / "copy",
        "dots": allowed / ".." / "outside" / "copy",
        "symlink": allowed / "link",
        "symlinked folder": allowed / "folder" / "copy",
    }[how]
    with pytest.raises(Refused) as refusal:
        fenced_route.rebase("guest", "vda", str(destination), 0, COPY)
    assert refusal.value.number == ACCESS_DENIED, refusal.value
    assert not list(outside.iterdir())


@pytest.mark.parametrize("how", ["plain", "symlink"])
def test_backing_file_outside_the_allowed_folders(
    fenced_route: Route, how: str, good_image: Path, qemu_img: Any, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    """An image in an allowed folder names a file outside as its backing file: the file is not read."""
    allowed = tmp_path / "allowed"
    backing = good_image
    if how == "symlink":
        backing = allowed / "backing.qcow2"
        backing.symlink_to(good_image)
    overlay = qemu_img.create(allowed / "overlay.qcow2", "qcow2", backing=backing, backing_format="qcow2")
    fenced_route.define(domain_xml(("vda", overlay, "qcow2")))
    with pytest.raises(Refused) as refusal:
        fenced_route.rebase("guest", "vda", str(allowed / "copy"), 0, COPY)
    assert refusal.value.number == ACCESS_DENIED, refusal.value
    assert_nothing_left(allowed / "copy")


def test_protocol_and_json_backing_names(
    route: Route, make_chain: Any, qemu_img: Any, domain_xml: Callable[..., str], tmp_path: Path
) -> None:
    chain = make_chain()
    for name in ('json:{"driver":"file","filename":"/etc/hostname"}', "nbd:localhost:1"):
        qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", name, chain.top)
        route.define(domain_xml(("vda", chain.top, "qcow2"), name="guest"))
        with pytest.raises(Refused) as refusal:
            route.rebase("guest", "vda", str(tmp_path / "copy"), 0, COPY)
        assert refusal.value.number in (ACCESS_DENIED, CONFIG_UNSUPPORTED), refusal.value
        assert_nothing_left(tmp_path / "copy")
        route.undefine("guest")
