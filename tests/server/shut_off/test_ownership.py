# SPDX-License-Identifier: Apache-2.0
"""A new image belongs to whom its source belongs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from virtblock.server.drivers.offline.ownership import take_over

OTHER = 65534


def make(path: Path, mode: int) -> Path:
    """A file with this mode."""
    path.touch()
    path.chmod(mode)
    return path


def rights(path: Path) -> tuple[int, int, int]:
    """Owner, group and mode."""
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def test_a_new_file_gets_owner_and_mode(tmp_path: Path) -> None:
    source, new = make(tmp_path / "source", 0o640), make(tmp_path / "new", 0o600)
    if os.geteuid() == 0:
        os.chown(source, OTHER, OTHER)
    take_over(str(source), str(new))
    assert rights(new) == rights(source)


def test_set_user_id_is_not_given(tmp_path: Path) -> None:
    source, new = make(tmp_path / "source", 0o7755), make(tmp_path / "new", 0o600)
    take_over(str(source), str(new))
    assert rights(new)[2] == 0o755


def test_what_somebody_chose_stays(tmp_path: Path) -> None:
    source, new = make(tmp_path / "source", 0o640), make(tmp_path / "new", 0o604)
    before = rights(new)
    take_over(str(source), str(new))
    assert rights(new) == before


def test_no_link_is_followed(tmp_path: Path) -> None:
    source, victim = make(tmp_path / "source", 0o666), make(tmp_path / "victim", 0o600)
    (tmp_path / "symbolic").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        take_over(str(source), str(tmp_path / "symbolic"))
    os.link(victim, tmp_path / "hard")
    take_over(str(source), str(tmp_path / "hard"))
    assert rights(victim)[2] == 0o600


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        take_over(str(make(tmp_path / "source", 0o600)), str(tmp_path / "new"))


def test_a_device_says_nothing_of_a_file(tmp_path: Path) -> None:
    new = make(tmp_path / "new", 0o600)
    take_over("/dev/null", str(new))
    assert rights(new)[2] == 0o600
