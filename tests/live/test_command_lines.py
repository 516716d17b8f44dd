# SPDX-License-Identifier: Apache-2.0
"""virsh is the judge on real guests: the same words print the same lines and end with the same code.

virsh talks to libvirtd, `virtblock` to a daemon of ours in front of the same libvirtd. What only looks and what is
refused is asked of both about one guest; what changes something goes through two guests that are alike. Invariant: the
lines that are to differ are those of the table in docs/cli.md, and differ as it says.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest
from live.command_lines import COPY_COURSE, ENDS, LIFE_COURSE, LOOKING, MERGE_COURSE, MISTAKES, STARTS
from live.daemon import LiveDaemon
from live.guests import Guest
from live.hypervisor import PrivateLibvirtd
from live.stack import until

from virtblock.cli.main import main

RUN_TIMEOUT_S = 120
LINE_COUNT_MIN = 60
GUIDE = Path(__file__).parents[2] / "docs" / "cli.md"
_ROW = re.compile(r"\| `(?P<line>[^`]+)` \| (?P<virsh>[^|]+) \| (?P<virtblock>[^|]+) \| [^|]+ \|")
# What a guest that stands still has of chance: its clock and balloon, and how far a job was when it was asked.
_CHANCE = re.compile(r"<currentMemory.*|\rBlock \w+: \[ *[0-9]+ %\]")


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    exit_code: int
    out: str
    err: str

    def lines(self) -> list[str]:
        """All that it printed."""
        return f"{self.out}{self.err}".splitlines()


class Judges:
    """Both programs."""

    def __init__(self, uri: str, target: str) -> None:
        self._uri = uri
        self._target = target

    def check(self, lines: Iterable[str], guest: Guest, our_guest: Guest | None = None) -> set[str]:
        """The same exit code and lines for each; all differences are told at once. Returns those that are listed."""
        differences, listed = [], set()
        for line in lines:
            theirs = _run(_virsh, ["-c", self._uri], line, guest)
            ours = _run(_virtblock, ["--server", self._target], line, our_guest or guest)
            if theirs != ours and line in DIFFERENCES:
                DIFFERENCES[line].check(theirs, ours)
                listed.add(line)
            elif theirs != ours:
                differences.append(f"{line}\n   virsh     {theirs}\n   virtblock {ours}")
        assert not differences, "\n".join(differences)
        return listed


@dataclass(frozen=True)
class Difference:
    """A row of the guide: what is in the lines that only one of the two prints; empty where it prints none."""

    virsh: tuple[str, ...]
    virtblock: tuple[str, ...]

    def check(self, theirs: Ran, ours: Ran) -> None:
        """It is still so, and it is all."""
        assert theirs.exit_code == ours.exit_code
        only_theirs = [line for line in theirs.lines() if line not in ours.lines()]
        only_ours = [line for line in ours.lines() if line not in theirs.lines()]
        for told, lines in ((self.virsh, only_theirs), (self.virtblock, only_ours)):
            assert bool(told) == bool(lines), lines
            assert all(any(text in line for line in lines) for text in told), lines


def _listed_differences() -> dict[str, Difference]:
    table = GUIDE.read_text().partition("## Where it differs from virsh")[2].partition("\n## ")[0]
    found = {}
    for row in _ROW.finditer(table):
        virsh, virtblock = (tuple(re.findall(r"`([^`]+)`", row[side])) for side in ("virsh", "virtblock"))
        found[row["line"]] = Difference(virsh, virtblock)
    return found


DIFFERENCES = _listed_differences()


def _run(program: Callable[[list[str], Path], Ran], options: list[str], line: str, guest: Guest) -> Ran:
    image = guest.images[0]
    words = [word.replace("GUEST", guest.name).replace("IMAGE", str(image)) for word in line.split()]
    ran = program([*options, *words], image.parent)
    return Ran(ran.exit_code, _plain(ran.out, guest), _plain(ran.err, guest))


def _virsh(words: list[str], folder: Path) -> Ran:
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["virsh", *words],
        capture_output=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=environ,
    )
    out, err = (stream.decode(errors="backslashreplace") for stream in (done.stdout, done.stderr))
    return Ran(done.returncode, out, err)


def _virtblock(words: list[str], folder: Path) -> Ran:
    """In this process: to start one takes longer than most command lines."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        exit_code = main(words)
    return Ran(exit_code, out.getvalue(), err.getvalue())


def _plain(text: str, guest: Guest) -> str:
    """Without chance, and with the guest's own name, UUID and id replaced."""
    text = _CHANCE.sub("", text.replace(guest.name, "GUEST").replace(guest.uuid, "UUID"))
    return re.sub(r"(?<=<domain type=')(\w+)' id='[0-9]+'|^[0-9]+$|52:54(:[0-9a-f]{2}){4}", r"\1ID", text, flags=re.M)


@pytest.fixture
def make_judges(libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[Callable[..., Judges]]:
    """virsh, and our command line over a daemon with the given options."""
    daemons = []

    def make(*options: str) -> Judges:
        daemons.append(LiveDaemon(libvirtd.uri, tmp_path, *options))
        return Judges(libvirtd.uri, daemons[0].target)

    yield make
    daemons[0].close()


def test_of_a_guest_without_a_job(make_judges: Callable[..., Judges], make_guest: Callable[..., Guest]) -> None:
    guest = make_guest(depth=2, is_persistent=True)
    assert make_judges().check((*LOOKING, *MISTAKES, *ENDS), guest) == DIFFERENCES.keys()


def test_of_a_mirror_that_is_ready(make_judges: Callable[..., Judges], make_guest: Callable[..., Guest]) -> None:
    guest = make_guest(depth=2)
    guest.domain.blockRebase("vda", f"{guest.images[0]}.copy", 0, libvirt.VIR_DOMAIN_BLOCK_REBASE_COPY)
    until(lambda: "ready='yes'" in guest.domain.XMLDesc(), "READY")
    make_judges().check((*LOOKING, *STARTS), guest)


def test_of_a_guest_that_is_shut_off(make_judges: Callable[..., Judges], make_guest: Callable[..., Guest]) -> None:
    """With `--strict-libvirt` the server refuses block jobs of it as libvirt does, instead of doing them."""
    guest = make_guest(depth=2, is_running=False)
    make_judges("--strict-libvirt").check((*LOOKING, *MISTAKES, *ENDS, *STARTS[:-1]), guest)


@pytest.mark.parametrize("course", [COPY_COURSE, MERGE_COURSE], ids=["copy", "merge"])
def test_through_a_course(
    make_judges: Callable[..., Judges], make_guest: Callable[..., Guest], course: tuple[str, ...]
) -> None:
    guests = [make_guest(depth=2) for _ in range(2)]
    make_judges().check(course, *guests)


def test_through_a_life(
    libvirtd: PrivateLibvirtd, make_judges: Callable[..., Judges], make_guest: Callable[..., Guest]
) -> None:
    guests = [make_guest(depth=2, is_running=False) for _ in range(2)]
    for guest in guests:
        (libvirtd.images / f"{guest.name}.xml").write_text(guest.domain.XMLDesc())
    make_judges().check(LIFE_COURSE, *guests)


def test_there_are_enough_lines() -> None:
    lines = {*LOOKING, *MISTAKES, *ENDS, *STARTS, *COPY_COURSE, *MERGE_COURSE, *LIFE_COURSE}
    assert len(lines) >= LINE_COUNT_MIN
    assert f"{len(lines - DIFFERENCES.keys())} lines print the" in GUIDE.read_text()
