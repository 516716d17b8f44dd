# SPDX-License-Identifier: Apache-2.0
"""From the shell to the disk: the installed scripts `virtblockd` and `virtblock`, real images, pipes and a terminal."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MIB = 1024 * 1024
UUID = "5b6c1c2e-9c1f-4f6e-8a43-0a1d7c5b9f10"
READY_TIMEOUT_S = 120
RUN_TIMEOUT_S = 120
STANDING_STILL = ("--bandwidth", "1", "--bytes")
SCRIPTS = Path(sys.executable).parent


class Shell:
    """A daemon with one domain `guest`, and command lines against it."""

    def __init__(self, folder: Path, image: Path) -> None:
        # A socket's name is short, and pytest's folders are not.
        self._sockets = tempfile.TemporaryDirectory(prefix="vb-")
        self.socket = Path(self._sockets.name) / "sock"
        self.log = (folder / "daemon.log").open("wb")
        self.folder = folder
        read_end, write_end = os.pipe()
        self.daemon = subprocess.Popen(
            [
                SCRIPTS / "virtblockd",
                *("--listen", f"unix:{self.socket}"),
                *("--state-dir", str(folder / "state")),
                *("--ready-fd", str(write_end)),
            ],
            stderr=self.log,
            stdin=subprocess.DEVNULL,
            pass_fds=[write_end],
        )
        os.close(write_end)
        with os.fdopen(read_end, "rb") as ready:
            is_told, _, _ = select.select([ready], [], [], READY_TIMEOUT_S)
            told = ready.readline() if is_told else b""
        assert told, (folder / "daemon.log").read_text()
        self.xml = folder / "guest.xml"
        self.xml.write_text(
            f"<domain type='qemu'><name>guest</name><uuid>{UUID}</uuid><memory>65536</memory>"
            "<os><type>hvm</type></os><devices>"
            f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/>"
            "<target dev='vda' bus='virtio'/></disk></devices></domain>"
        )

    def command(self, *words: str, read_only: bool = False) -> list[str]:
        """The words of a command line against this daemon."""
        return [str(SCRIPTS / "virtblock"), "--server", f"unix:{self.socket}", *(["-r"] if read_only else []), *words]

    def __call__(self, *words: str, read_only: bool = False) -> subprocess.CompletedProcess[str]:
        """Run it over pipes."""
        return run_over_pipes(self.command(*words, read_only=read_only))

    def close(self) -> None:
        """Stop the daemon."""
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(timeout=READY_TIMEOUT_S)
        finally:
            self.daemon.kill()
            self.daemon.wait()
            self.log.close()
            self._sockets.cleanup()


@pytest.fixture
def image(tmp_path: Path, make_image: Callable[..., Path]) -> Path:
    """A qcow2 image with 48 MiB of data in 64 MiB."""
    return make_image(tmp_path / "disk.qcow2", "qcow2", 64 * MIB, writes=[(0, 48 * MIB, 0x5A)])


@pytest.fixture
def shell(tmp_path: Path, image: Path) -> Iterator[Shell]:
    """The daemon, with the domain defined."""
    made = Shell(tmp_path, image)
    try:
        defined = made("define", str(made.xml))
        assert (defined.returncode, defined.stdout) == (0, f"Domain 'guest' defined from {made.xml}\n\n"), (
            defined.stderr
        )
        yield made
    finally:
        made.close()


def run_over_pipes(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it; its carriage returns are kept."""
    done = subprocess.run(command, capture_output=True, timeout=RUN_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def run_on_terminal(
    command: list[str], *, interrupt_at: str = "", when_seen: tuple[str, Callable[[], object]] | None = None
) -> tuple[int, str]:
    """Run it on a terminal of 80 columns; exit code and what appeared.

    Ctrl-C is typed once `interrupt_at` is seen; of `when_seen` the function is called once the text is.
    """
    terminal, child = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    # setsid makes it the controlling terminal, so that a typed Ctrl-C becomes SIGINT.
    process = subprocess.Popen(
        ["setsid", "--ctty", *command],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm", "PYTHONUTF8": "1"},
    )
    os.close(child)
    shown = ""
    try:
        while some := _read_terminal(terminal):
            shown += some
            if interrupt_at and re.search(interrupt_at, shown):
                os.write(terminal, b"\x03")
                interrupt_at = ""
            if when_seen is not None and re.search(when_seen[0], shown):
                when_seen[1]()
                when_seen = None
        return process.wait(timeout=RUN_TIMEOUT_S), shown
    finally:
        os.close(terminal)
        process.kill()
        process.wait()


def _read_terminal(terminal: int) -> str:
    """What appeared next; empty once the program is gone."""
    can_read, _, _ = select.select([terminal], [], [], RUN_TIMEOUT_S)
    if not can_read:
        raise TimeoutError("nothing appeared on the terminal")
    try:
        return os.read(terminal, 4096).decode("utf-8", "replace")
    except OSError as error:
        # What Linux says when nobody has the other side open any more.
        if error.errno == errno.EIO:
            return ""
        raise


def test_domains_and_disks_are_shown(shell: Shell, image: Path) -> None:
    listed = shell("list", "--all")
    assert listed.stdout == " Id   Name    State\n------------------------\n -    guest   shut off\n\n"
    assert shell("list").stdout == " Id   Name   State\n--------------------\n\n"
    dumped = shell("dumpxml", "guest")
    xml = dumped.stdout
    assert f"<source file='{image}'" in xml, dumped.stderr
    assert xml.endswith("</domain>\n\n")
    assert shell("-q", "list", "--all", "--uuid").stdout == f"{UUID}\n"
    assert shell("dumpxml", UUID).stdout == xml
    row = shell("domblklist", "guest", "--details").stdout.splitlines()[2]
    assert row.split() == ["file", "disk", "vda", str(image)]
    assert shell("domblkinfo", "guest", "vda").stdout.startswith(f"Capacity:       {64 * MIB}\n")


def test_a_copy_over_a_pipe_is_pivoted(shell: Shell, image: Path, tmp_path: Path, qemu_img: Any) -> None:
    dest = tmp_path / "copy.qcow2"
    ran = shell("blockcopy", "guest", "vda", str(dest), "--wait", "--verbose", "--pivot")
    assert (ran.returncode, ran.stdout) == (0, "\nSuccessfully pivoted\n"), ran.stderr
    assert re.fullmatch(r"(\rBlock Copy: \[[ 0-9]{3} %\])*\rBlock Copy: \[100 %\]", ran.stderr)
    assert ran.stderr.count("[100 %]") == 1
    assert shell("-q", "domblklist", "guest").stdout == f" vda   {dest}\n"
    assert qemu_img.is_same(image, "qcow2", dest, "qcow2")
    assert shell("blockjob", "guest", "vda").stdout == "No current block job for vda\n"


def test_a_progress_that_nobody_takes_ends_no_wait(shell: Shell, tmp_path: Path) -> None:
    """The pivot that was asked for comes all the same."""
    words = ["blockcopy", "guest", "vda", str(tmp_path / "copy.qcow2"), "--wait", "--verbose", "--pivot"]
    ran = run_over_pipes(["bash", "-c", '"$@" 2>/dev/full', "bash", *shell.command(*words)])
    assert (ran.returncode, ran.stdout) == (0, "\nSuccessfully pivoted\n")
    assert shell("-q", "domblklist", "guest").stdout == f" vda   {tmp_path}/copy.qcow2\n"


def test_a_copy_on_a_terminal_has_a_bar(shell: Shell, tmp_path: Path) -> None:
    words = ["blockcopy", "guest", "vda", str(tmp_path / "copy.qcow2"), "--verbose", "--finish", "--bandwidth", "1"]
    estimate = r"[KM]iB/s  ETA \d+:"
    hasten = (estimate, lambda: shell("blockjob", "guest", "vda", "0"))
    exit_code, shown = run_on_terminal(shell.command(*words), when_seen=hasten)
    assert exit_code == 0, shown
    lines = [line.replace("\x1b[K", "") for line in shown.split("\r")]
    readings = [re.fullmatch(r"Block Copy: \[(.*)\] +(\d+) %(.*)", line.rstrip("\n")) for line in lines]
    percents = [int(reading[2]) for reading in readings if reading]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert any(reading and re.search(estimate, reading[3]) for reading in readings), shown
    assert shown.endswith("\r\nSuccessfully copied\r\n")


def test_ctrl_c_on_a_terminal_aborts_the_copy(shell: Shell, tmp_path: Path) -> None:
    words = ["blockcopy", "guest", "vda", str(tmp_path / "copy.qcow2"), "--wait", "--verbose", *STANDING_STILL]
    exit_code, shown = run_on_terminal(shell.command(*words), interrupt_at=r"Block Copy: .* %")
    assert exit_code == 1, shown
    assert shown.endswith("Copy aborted\r\n")
    assert shell("blockjob", "guest", "vda").stdout == "No current block job for vda\n"


def test_a_time_limit_over_a_pipe_aborts_the_copy(shell: Shell, tmp_path: Path) -> None:
    dest = tmp_path / "copy.qcow2"
    ran = shell("blockcopy", "guest", "vda", str(dest), "--timeout", "1", "--verbose", *STANDING_STILL)
    assert (ran.returncode, ran.stdout) == (1, "\nCopy aborted\n")
    assert "100 %" not in ran.stderr
    assert shell("blockjob", "guest", "vda").stdout == "No current block job for vda\n"


def test_a_job_is_told_changed_and_ended(shell: Shell, tmp_path: Path) -> None:
    started = shell("blockcopy", "guest", "vda", str(tmp_path / "copy.qcow2"), *STANDING_STILL)
    assert (started.returncode, started.stdout) == (0, "Block Copy started\n"), started.stderr
    told = shell("blockjob", "guest", "vda")
    assert told.stdout == "    Bandwidth limit: 1 bytes/s (1.000 B/s)\n\n"
    assert re.fullmatch(r"\rBlock Copy: \[[ 0-9]{3} %\]", told.stderr)
    assert shell("blockjob", "guest", "vda", "2", "--bytes").returncode == 0
    raw = shell("blockjob", "guest", "vda", "--raw", "--bytes").stdout
    assert re.fullmatch(r" type=Block Copy\n bandwidth=2\n cur=\d+\n end=\d+\n\n", raw)
    early = shell("blockjob", "guest", "vda", "--pivot")
    assert early.returncode == 1
    assert early.stderr.startswith("error: block copy still active")
    assert shell("undefine", "guest").returncode == 1
    assert shell("blockjob", "guest", "vda", "--abort").returncode == 0
    assert shell("undefine", "guest").stdout == "Domain 'guest' has been undefined\n\n"


def test_events_are_printed_as_virsh_prints_them(shell: Shell, image: Path, tmp_path: Path) -> None:
    command = shell.command("event", "--all", "--loop", "--timeout", "600")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        # Registered when another definition of the domain shows.
        seen = ""
        while not seen:
            shell("define", str(shell.xml))
            is_told, _, _ = select.select([listener.stdout], [], [], 0.2)
            seen = listener.stdout.readline() if is_told else ""
        assert seen == "event 'lifecycle' for domain 'guest': Defined Updated\n"
        dest = tmp_path / "copy.qcow2"
        assert shell("blockcopy", "guest", "vda", str(dest), "--pivot").returncode == 0
        lines: list[str] = []
        while not lines or "vda completed" not in lines[-1]:
            lines.append(listener.stdout.readline())
        listener.send_signal(signal.SIGINT)
        rest = listener.stdout.read()
        assert listener.wait(timeout=RUN_TIMEOUT_S) == 0
    jobs = [line for line in lines if "block-job" in line]
    assert jobs == [
        f"event 'block-job' for domain 'guest': Block Copy for {image} ready\n",
        "event 'block-job-2' for domain 'guest': Block Copy for vda ready\n",
        f"event 'block-job' for domain 'guest': Block Copy for {dest} completed\n",
        "event 'block-job-2' for domain 'guest': Block Copy for vda completed\n",
    ]
    assert re.fullmatch(r"event loop interrupted\nevents received: \d+\n\n", rest)


def test_a_snapshot_a_resize_and_a_detached_disk(shell: Shell, image: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    words = ["snapshot-create-as", "guest", "s1", "--disk-only", "--no-metadata", "--diskspec", f"vda,file={overlay}"]
    taken = shell(*words)
    assert (taken.returncode, taken.stdout) == (0, "Domain snapshot s1 created\n"), taken.stderr
    assert shell("-q", "domblklist", "guest").stdout == f" vda   {overlay}\n"
    resized = shell("blockresize", "guest", "vda", "128M")
    assert (resized.returncode, resized.stdout) == (0, "Block device 'vda' is resized\n"), resized.stderr
    assert shell("domblkinfo", "guest", "vda", "--human").stdout.startswith("Capacity:       128.000 MiB\n")
    detached = shell("detach-disk", "guest", "vda", "--config")
    assert (detached.returncode, detached.stdout) == (0, "Disk detached successfully\n\n"), detached.stderr
    assert shell("detach-disk", "guest", "vda").stderr == "error: Failed to get disk information\n"


def test_the_read_only_socket_refuses_what_changes(shell: Shell) -> None:
    assert shell("-q", "list", "--all", "--name", read_only=True).stdout == "guest\n"
    refused = shell("undefine", "guest", read_only=True)
    assert refused.returncode == 1
    first, second = refused.stderr.splitlines()
    assert first == "error: Failed to undefine domain 'guest'"
    assert "read only access prevents" in second


def test_a_mistake_in_the_xml_is_told(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "bad.xml"
    file.write_text("<domain")
    ran = shell("define", str(file), "--json")
    error = json.loads(ran.stderr)["error"]
    assert (ran.returncode, ran.stdout) == (1, "")
    assert error["context"] == f"Failed to define domain from {file}"
    assert error["name"].startswith("VIR_ERR_XML")


def test_without_a_daemon_it_says_what_to_do() -> None:
    ran = run_over_pipes([str(SCRIPTS / "virtblock"), "--server", "unix:/nonexistent/sock", "list"])
    first, second = ran.stderr.splitlines()
    assert (ran.returncode, ran.stdout) == (1, "")
    assert first == "error: failed to connect to the hypervisor"
    assert "virtblockd --listen unix:/nonexistent/sock" in second


def test_a_reader_that_goes_away_is_no_traceback(shell: Shell) -> None:
    with subprocess.Popen(
        shell.command("dumpxml", "guest"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.close()
        assert writer.stderr.read() == ""
        assert writer.wait(timeout=RUN_TIMEOUT_S) == 1


def test_help_loads_no_client() -> None:
    """What is typed wrong or asked about is answered at once."""
    program = (
        "import sys; from virtblock.cli.main import main; "
        "codes = [main(['--help']), main(['help', 'blockcopy']), main(['nocmd'])]; "
        "assert codes == [0, 0, 1]; assert 'grpc' not in sys.modules, 'grpc was loaded'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pull_and_commit_from_the_shell(
    tmp_path: Path, shell: Shell, image: Path, make_image: Callable[..., Path], qemu_img: Any
) -> None:
    """The middle of a chain goes into its base, the top is committed and pivoted, and a new overlay pulls it all."""
    mid = make_image(tmp_path / "mid.qcow2", "qcow2", backing=image, backing_format="qcow2", writes=[(0, MIB, 1)])
    top = make_image(tmp_path / "top.qcow2", "qcow2", backing=mid, backing_format="qcow2", writes=[(MIB, MIB, 2)])
    golden = tmp_path / "golden.raw"
    qemu_img("convert", "-O", "raw", top, golden)
    shell.xml.write_text(shell.xml.read_text().replace(str(image), str(top)))
    assert shell("define", str(shell.xml)).returncode == 0

    done = shell("blockcommit", "guest", "vda", "--top", "vda[2]", "--shallow", "--delete", "--wait", "--verbose")
    assert (done.returncode, done.stdout) == (0, "\nCommit complete\n"), done.stderr
    assert done.stderr.endswith("\rBlock commit: [100 %]")
    assert qemu_img.info(top)["backing-filename"] == str(image)
    refused = shell("blockcommit", "guest", "vda", "--wait")
    text = "error: invalid argument: commit of 'vda' active layer requires active flag\n"
    assert (refused.returncode, refused.stderr) == (1, text)
    done = shell("blockcommit", "guest", "vda", "--pivot")
    assert (done.returncode, done.stdout) == (0, "\nSuccessfully pivoted\n"), done.stderr
    assert qemu_img.is_same(golden, "raw", image, "qcow2")

    overlay = qemu_img.create(tmp_path / "overlay.qcow2", "qcow2", backing=image, backing_format="qcow2")
    shell.xml.write_text(shell.xml.read_text().replace(str(top), str(overlay)))
    assert shell("define", str(shell.xml)).returncode == 0
    done = shell("blockpull", "guest", "vda", "--wait")
    assert (done.returncode, done.stdout) == (0, "\nPull complete\n"), done.stderr
    assert "backing-filename" not in qemu_img.info(overlay)
    assert qemu_img.is_same(golden, "raw", overlay, "qcow2")


def test_jobs_are_listed_drawn_and_followed(shell: Shell, tmp_path: Path) -> None:
    dest = tmp_path / "copy.qcow2"
    assert shell("blockcopy", "guest", "vda", str(dest), *STANDING_STILL).returncode == 0
    job_id = shell("-q", "jobs", "--id").stdout.strip()
    assert shell("jobs").stdout.splitlines()[2].split()[:3] == [job_id, "guest", "vda"]
    drawn = shell("map", job_id, "--cells", "64").stdout.splitlines()
    assert drawn[0] == f"{job_id}  guest vda  running"
    assert len(drawn[1]) == 64 and drawn[1].endswith("·" * 16)
    assert set(drawn[1][:48]) <= {"░", "▓"}
    rescue, picture = tmp_path / "map", tmp_path / "map.svg"
    written = shell("map", job_id, "--cells", "64", "--ddrescue", str(rescue), "--svg", str(picture))
    assert written.returncode == 0, written.stderr
    blocks = [line.split() for line in rescue.read_text().splitlines() if not line.startswith("#")][1:]
    assert blocks == [["0x00000000", "0x03000000", "?"], ["0x03000000", "0x01000000", "+"]]
    exit_code, shown = run_on_terminal(shell.command("map", job_id), interrupt_at="to do")
    assert exit_code == 0, shown
    exit_code, shown = run_on_terminal(shell.command("top"), interrupt_at="guest")
    assert exit_code == 0 and "\x1b[H\x1b[J Domain" in shown, "80 columns have no room for ids"
    assert json.loads(shell("top", "--json").stdout)["jobs"][0]["redirtied_bytes"] == 0
    left = shell("attach", job_id, "--timeout", "1")
    assert (left.returncode, left.stdout) == (1, f"Left job {job_id}, which goes on\n\n")
    with subprocess.Popen(shell.command("attach", job_id), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        assert shell("blockjob", "guest", "vda", "0").returncode == 0
        followed, _ = following.communicate(timeout=RUN_TIMEOUT_S)
    assert (following.returncode, followed.decode()) == (0, f"Job {job_id} is ready\n\n")
    assert shell("map", job_id, "--cells", "64").stdout.splitlines()[1] == "█" * 48 + "·" * 16
    assert shell("blockjob", "guest", "vda", "--abort").returncode == 0
    assert shell("jobs").stdout.count("\n") == 3
    assert shell("jobs", "--all").stdout.splitlines()[2].split()[5] == "canceled"
    ended = shell("map", job_id)
    assert ended.stdout.splitlines()[0] == f"{job_id}  guest vda  canceled"
