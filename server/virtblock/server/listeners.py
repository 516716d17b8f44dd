# SPDX-License-Identifier: Apache-2.0
"""Sole use of the state folder and of the sockets.

Owns: the locks that make two daemons on one folder or one socket impossible, and the socket files' comings and
goings. A lock is flock(2) on a file of its own, held as long as the process lives: the kernel lets go of it however
the process ends, so a file that is left over by `kill -9` means nothing. Invariants: lock files are never removed
(removing one while another daemon waits for it would give two of them "the" lock); a socket file is removed only
under its lock, and only if it is a socket that nobody listens on.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from pathlib import Path

LOCK_NAME = "lock"
SOCKET_LOCK_SUFFIX = ".lock"
_STATE_DIR_MODE = 0o700
_SOCKET_DIR_MODE = 0o755
_LOCK_MODE = 0o600
_PID_BYTES_MAX = 32
# A listening program takes a connection into its backlog at once; only a broken one makes us wait.
_PROBE_TIMEOUT_S = 2.0


class StartRefused(Exception):
    """Something the daemon needs is not to be had; the text says what, and who has it."""


class HeldLock:
    """An exclusive lock with its holder's pid in it, for as long as this process lives or until `release`."""

    def __init__(self, path: Path, what: str) -> None:
        """Take it. `what` names what it protects, for people. Raises StartRefused."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _LOCK_MODE)
        except OSError as error:
            raise StartRefused(f"{what} cannot be locked by '{path}': {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, _PID_BYTES_MAX, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise StartRefused(f"{what} is in use by another daemon, pid {holder or 'not known'}") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go. The file stays."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def lock_state_dir(state_dir: Path) -> HeldLock:
    """Make the folder if it is not there, see that it is private, and take it. Raises StartRefused."""
    what = f"state folder '{state_dir}'"
    try:
        state_dir.mkdir(mode=_STATE_DIR_MODE, parents=True, exist_ok=True)
        found = state_dir.stat()
    except OSError as error:
        raise StartRefused(f"{what} cannot be made: {error.strerror}") from error
    if stat.S_IMODE(found.st_mode) & ~_STATE_DIR_MODE:
        _make_private(state_dir, what)
    return HeldLock(state_dir / LOCK_NAME, what)


def lock_socket(path: Path) -> HeldLock:
    """Take a socket's path and clear it of a socket that nobody listens on any more. Raises StartRefused."""
    what = f"socket '{path}'"
    try:
        path.parent.mkdir(mode=_SOCKET_DIR_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise StartRefused(f"folder of {what} cannot be made: {error.strerror}") from error
    lock = HeldLock(path.with_name(path.name + SOCKET_LOCK_SUFFIX), what)
    try:
        _clear_socket(path, what)
    except StartRefused:
        lock.release()
        raise
    return lock


def remove_socket(path: Path) -> None:
    """Remove a socket file of ours, under its lock; that it is gone already is fine."""
    path.unlink(missing_ok=True)


def _make_private(state_dir: Path, what: str) -> None:
    """Take away others' rights, but only on a folder that is plainly ours: an empty one, or one that we used before."""
    entries = [entry.name for entry in state_dir.iterdir()]
    if entries and LOCK_NAME not in entries:
        raise StartRefused(f"{what} is open to others and holds files of others: choose another one, or chmod 700 it")
    try:
        state_dir.chmod(_STATE_DIR_MODE)
    except OSError as error:
        raise StartRefused(f"{what} cannot be made private: {error.strerror}") from error


def _clear_socket(path: Path, what: str) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StartRefused(f"{what}: something that is not a socket is there")
    if _is_listened_on(path):
        raise StartRefused(f"{what} is in use by another program")
    path.unlink()


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # A full backlog, or no right to connect: somebody is there.
            return True
    return True
