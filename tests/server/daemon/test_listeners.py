# SPDX-License-Identifier: Apache-2.0
"""Sole use of folders and sockets: by locks that the kernel lets go of, never by files that are there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtblock.server.listeners import HeldLock, StartRefused, lock_socket, lock_state_dir


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    """A socket that a program listens on which takes no locks."""
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield path


def test_a_lock_names_its_holder_and_can_be_taken_again(tmp_path: Path) -> None:
    lock = HeldLock(tmp_path / "lock", "the thing")
    with pytest.raises(StartRefused, match=f"the thing is in use by another daemon, pid {os.getpid()}$"):
        HeldLock(tmp_path / "lock", "the thing")
    lock.release()
    HeldLock(tmp_path / "lock", "the thing").release()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import os, sys, pathlib\nfrom virtblock.server.listeners import HeldLock\n"
        "lock = HeldLock(pathlib.Path(sys.argv[1]), 'x')\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False, timeout=120)
    assert done.returncode == -9
    assert path.read_text().strip().isdecimal(), "the dead holder's pid is left over"
    HeldLock(path, "x").release()


def test_a_lock_is_not_followed_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StartRefused):
        HeldLock(tmp_path / "lock", "x")
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_state_folder_is_made_private(tmp_path: Path) -> None:
    lock = lock_state_dir(tmp_path / "new" / "state")
    assert mode_of(tmp_path / "new" / "state") == 0o700
    lock.release()
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o755)
    lock_state_dir(empty).release()
    assert mode_of(empty) == 0o700


def test_an_open_folder_of_others_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    (folder / "file").touch()
    with pytest.raises(StartRefused, match="chmod 700"):
        lock_state_dir(folder)
    assert mode_of(folder) == 0o755
    assert [entry.name for entry in folder.iterdir()] == ["file"]


def test_a_socket_that_nobody_listens_on_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    lock = lock_socket(path)
    assert not path.exists()
    lock.release()


def test_a_socket_of_another_program_is_not_taken(listening: Path) -> None:
    for _ in range(2):
        with pytest.raises(StartRefused, match="in use by another program"):
            lock_socket(listening)
    assert listening.is_socket()


def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.write_text("precious")
    with pytest.raises(StartRefused, match="not a socket"):
        lock_socket(path)
    assert path.read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartRefused, match=r"state folder .*file/state"):
        lock_state_dir(tmp_path / "file" / "state")
    with pytest.raises(StartRefused, match="folder of socket"):
        lock_socket(tmp_path / "file" / "sock")
