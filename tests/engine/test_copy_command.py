# SPDX-License-Identifier: Apache-2.0
"""`virtblock-copy` as a person or a script meets it: options, formats, what it prints, exit codes, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.sources import KIB, MIB, Source, SourceMaker, command_line, noisy_raw, reads_same

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def chain(source_of: SourceMaker) -> Source:
    """The chain of three."""
    return source_of("chain")


def test_flat(chain: Source, tmp_path: Path, copy_command: Command, qemu_img: Any) -> None:
    """The plainest call: flattened, in the source's format, one line of result."""
    done = copy_command(chain.path, tmp_path / "copy.qcow2")
    assert (done.returncode, done.stderr) == (0, "")
    assert reads_same(qemu_img, chain.path, "qcow2", tmp_path / "copy.qcow2", "qcow2")
    assert done.stdout.startswith("Copied ")
    assert done.stdout.endswith(f"'{tmp_path}/copy.qcow2', qcow2\n")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "arguments", "image_format"),
    [
        ("disk.qcow2", [], "qcow2"),
        ("disk.QCOW2", [], "qcow2"),
        ("disk.raw", [], "raw"),
        ("disk.img", [], "raw"),
        ("disk", ["--source-format", "raw"], "raw"),
        ("disk.img", ["--source-format", "qcow2"], "qcow2"),
        ("disk.vmdk", ["--source-format=qcow2"], "qcow2"),
    ],
)
def test_source_format(
    name: str, arguments: list[str], image_format: str, tmp_path: Path, copy_command: Command, make_image: Any
) -> None:
    """By what is said, else by the ending; the destination gets the same format whatever its name is."""
    make_image(tmp_path / name, image_format, 1 * MIB, writes=[(0, 64 * KIB, 3)])
    done = copy_command("--json", *arguments, tmp_path / name, tmp_path / "copy.xyz")
    answer = json.loads(done.stdout)
    assert (answer["source_format"], answer["destination_format"]) == (image_format, image_format)


@pytest.mark.parametrize("name", ["disk", "disk.vmdk", "qcow2", "disk.qcow2.bak"])
def test_source_format_is_never_probed(name: str, tmp_path: Path, copy_command: Command, make_image: Any) -> None:
    """A name that does not tell is refused with what to do, even where the content would."""
    make_image(tmp_path / name, "qcow2", 1 * MIB)
    done = copy_command(tmp_path / name, tmp_path / "copy")
    assert done.returncode == 2
    assert "--source-format raw or --source-format qcow2" in done.stderr
    assert not (tmp_path / "copy").exists()


def test_raw(chain: Source, tmp_path: Path, copy_command: Command, qemu_img: Any) -> None:
    """--raw."""
    assert copy_command("--raw", chain.path, tmp_path / "copy").returncode == 0
    assert reads_same(qemu_img, chain.path, "qcow2", tmp_path / "copy", "raw")


def test_shallow(chain: Source, tmp_path: Path, copy_command: Command, qemu_img: Any) -> None:
    """--shallow records the source's backing file by its absolute path and its format, as libvirt does."""
    done = copy_command("--shallow", "--json", chain.path, tmp_path / "copy")
    assert json.loads(done.stdout)["mode"] == "top"
    info = qemu_img.info(tmp_path / "copy", image_format="qcow2")
    assert info["backing-filename"] == str(chain.backing)
    assert info["backing-filename-format"] == "qcow2"
    assert reads_same(qemu_img, chain.path, "qcow2", tmp_path / "copy", "qcow2")


@pytest.mark.parametrize("arguments", [["--shallow"], ["--shallow", "--raw"]])
def test_shallow_without_backing_file(
    arguments: list[str], source_of: SourceMaker, tmp_path: Path, copy_command: Command, qemu_img: Any
) -> None:
    """Shallow then means nothing, also with --raw: libvirt's test is for a backing file, not for raw."""
    source = source_of("qcow2-v3")
    done = copy_command("--json", *arguments, source.path, tmp_path / "copy")
    answer = json.loads(done.stdout)
    assert (answer["result"], answer["mode"]) == ("done", "full")
    assert reads_same(qemu_img, source.path, "qcow2", tmp_path / "copy", answer["destination_format"])


def test_shallow_raw_is_refused(chain: Source, tmp_path: Path, copy_command: Command) -> None:
    """A raw file cannot have a backing file; nothing is made."""
    done = copy_command("--shallow", "--raw", chain.path, tmp_path / "copy")
    assert done.returncode == 1
    assert f"Shallow copy of '{chain.path}' into a raw file is not possible" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_reuse_probes_the_destination(
    image_format: str, chain: Source, tmp_path: Path, copy_command: Command, make_image: Any, qemu_img: Any
) -> None:
    """--reuse without --raw takes the format that the destination has, as REUSE_EXT does."""
    destination = make_image(tmp_path / "copy", image_format, chain.size_bytes)
    done = copy_command("--reuse", "--json", chain.path, destination)
    assert json.loads(done.stdout)["destination_format"] == image_format
    assert reads_same(qemu_img, chain.path, "qcow2", destination, image_format)


def test_reuse_shallow_keeps_the_backing_name(
    chain: Source, tmp_path: Path, copy_command: Command, make_image: Any, qemu_img: Any
) -> None:
    """A relative backing name in the existing overlay stays as it is."""
    assert chain.backing is not None
    name = os.path.relpath(chain.backing, tmp_path)
    destination = make_image(tmp_path / "copy", "qcow2", chain.size_bytes, backing=name, backing_format="qcow2")
    assert copy_command("--reuse", "--shallow", chain.path, destination).returncode == 0
    assert qemu_img.info(destination)["backing-filename"] == name
    assert reads_same(qemu_img, chain.path, "qcow2", destination, "qcow2")


def test_reuse_shallow_raw(chain: Source, tmp_path: Path, copy_command: Command, qemu_img: Any) -> None:
    """A raw volume with the backing file's content."""
    destination = tmp_path / "volume"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", chain.backing, destination)
    os.truncate(destination, chain.size_bytes)
    assert copy_command("--reuse", "--shallow", "--raw", "--verify", chain.path, destination).returncode == 0
    assert reads_same(qemu_img, chain.path, "qcow2", destination, "raw")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [(["--bitmap", "nightly"], "add --reuse"), (["--reuse", "--bitmap="], "the name is empty")],
)
def test_a_bitmap_needs_an_earlier_copy(
    arguments: list[str], advice: str, chain: Source, tmp_path: Path, copy_command: Command
) -> None:
    done = copy_command(*arguments, chain.path, tmp_path / "copy")
    assert done.returncode == 2 and advice in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["auto", "never"])
def test_reflink_that_promises_nothing(value: str, chain: Source, tmp_path: Path, copy_command: Command) -> None:
    """What needs no sharing is accepted."""
    assert copy_command("--reflink", value, chain.path, tmp_path / "copy").returncode == 0


WRONG = [
    [],
    ["a.raw"],
    ["a.raw", "b", "c"],
    ["--nonsense", "a.raw", "b"],
    ["--bandwidth", "fast", "a.raw", "b"],
    ["--bandwidth", "-3", "a.raw", "b"],
    ["--sha", "a.raw", "b"],
    ["", "b"],
    ["a.raw", ""],
]


@pytest.mark.parametrize("arguments", WRONG)
@pytest.mark.parametrize("as_json", [False, True])
def test_usage(arguments: list[str], as_json: bool, copy_command: Command) -> None:
    """Wrong usage is 2, on standard error, or as JSON when asked for; abbreviations are not guessed."""
    done = copy_command(*(["--json"] if as_json else []), *arguments)
    assert done.returncode == 2
    if as_json:
        answer = json.loads(done.stdout)
        assert (answer["result"], answer["exit_code"], answer["error"]["kind"]) == ("usage", 2, "usage")
        assert answer["error"]["message"]
    else:
        assert done.stdout == ""
        assert "virtblock-copy --help" in done.stderr


def test_json(chain: Source, tmp_path: Path, copy_command: Command) -> None:
    """One object with what was done, in units that its names tell."""
    done = copy_command("--json", "--verify", chain.path, tmp_path / "copy")
    answer = json.loads(done.stdout)
    assert done.stderr == ""
    assert (answer["result"], answer["exit_code"], answer["verified"]) == ("done", 0, True)
    assert answer["virtual_size_bytes"] == chain.size_bytes
    assert 0 < answer["written_bytes"] <= answer["read_bytes"] <= answer["total_bytes"] <= chain.size_bytes
    assert answer["seconds"] > 0
    assert answer["bytes_per_s"] == pytest.approx(answer["total_bytes"] / answer["seconds"], rel=0.01)
    assert answer["source"] == str(chain.path)
    assert answer["destination"] == str(tmp_path / "copy")


def test_json_error(tmp_path: Path, copy_command: Command) -> None:
    """Errors keep their parts."""
    done = copy_command("--json", tmp_path / "none.raw", tmp_path / "copy")
    assert (done.returncode, done.stderr) == (1, "")
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "system"
    assert error["path"] == str(tmp_path / "none.raw")
    assert os.strerror(error["errno"]) == "No such file or directory"
    assert error["message"].endswith("No such file or directory")


def test_error_for_a_person(tmp_path: Path, copy_command: Command) -> None:
    """One line with program, reason, path and what the system said; nothing on standard output."""
    done = copy_command(tmp_path / "none.raw", tmp_path / "copy")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("virtblock-copy: ")
    assert done.stderr.count("\n") == 1
    assert f"'{tmp_path}/none.raw'" in done.stderr


def test_refused_reuse_leaves_nothing_behind(chain: Source, tmp_path: Path, copy_command: Command) -> None:
    """What was refused before it began is not called incomplete: it may be the very source."""
    (tmp_path / "longer").write_bytes(bytes(chain.size_bytes + 512))
    for destination, reason in ((chain.path, "same file as the source"), (tmp_path / "longer", "the source has")):
        done = copy_command("--reuse", chain.path, destination)
        assert (done.returncode, done.stdout) == (1, "")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1


def test_verify(chain: Source, tmp_path: Path, copy_command: Command) -> None:
    """--verify says that it did."""
    done = copy_command("--verify", chain.path, tmp_path / "copy")
    assert done.returncode == 0
    assert ", verified" in done.stdout


def test_verify_finds_a_difference(
    chain: Source, tmp_path: Path, copy_command: Command, make_image: Any, qemu_img: Any
) -> None:
    """A shallow copy onto an overlay of another backing file cannot read the same; exit code 1 tells the first byte."""
    other = make_image(tmp_path / "other.qcow2", "qcow2", 9 * MIB, writes=[(0, 9 * MIB, 0x77)])
    destination = make_image(tmp_path / "copy", "qcow2", chain.size_bytes, backing=other, backing_format="qcow2")
    done = copy_command("--reuse", "--shallow", "--verify", "--json", chain.path, destination)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["result"]) == (1, "failed")
    assert "Verification failed" in answer["error"]["message"]
    # The first cluster is touched by the top, so it was copied whole.
    assert answer["error"]["offset_bytes"] == 64 * KIB


@pytest.fixture
def apart(tmp_path: Path, make_image: Any) -> tuple[Path, Path]:
    """An image in one folder whose backing file lies in another."""
    (tmp_path / "top").mkdir()
    (tmp_path / "below").mkdir()
    base = make_image(tmp_path / "below" / "base.qcow2", "qcow2", 1 * MIB, writes=[(0, 64 * KIB, 1)])
    top = make_image(tmp_path / "top" / "top.qcow2", "qcow2", backing=base, backing_format="qcow2")
    return top, base


def test_backing_file_elsewhere_needs_allow_path(
    apart: tuple[Path, Path], tmp_path: Path, copy_command: Command, qemu_img: Any
) -> None:
    """Refused with the path; allowed by name of its folder, also among several."""
    top, base = apart
    done = copy_command(top, tmp_path / "copy")
    assert done.returncode == 1
    assert str(base) in done.stderr
    assert "allowed folder" in done.stderr
    assert not (tmp_path / "copy").exists()
    (tmp_path / "more").mkdir()
    allow = ["--allow-path", tmp_path / "more", "--allow-path", base.parent]
    assert copy_command(*allow, "--verify", top, tmp_path / "copy").returncode == 0
    assert reads_same(qemu_img, top, "qcow2", tmp_path / "copy", "qcow2")


def test_destination_folder_allows_no_backing_file(apart: tuple[Path, Path], copy_command: Command) -> None:
    """Where a copy goes to says nothing about what may be read."""
    top, base = apart
    done = copy_command(top, base.parent / "copy")
    assert done.returncode == 1
    assert "allowed folder" in done.stderr
    assert not (base.parent / "copy").exists()


def test_source_by_link(apart: tuple[Path, Path], tmp_path: Path, copy_command: Command) -> None:
    """The source is named by the caller, through links too; its own folder is the real one."""
    top, base = apart
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "disk.qcow2").symlink_to(top)
    assert copy_command(tmp_path / "links" / "disk.qcow2", tmp_path / "copy").returncode == 1
    allow = ["--allow-path", base.parent]
    assert copy_command(*allow, tmp_path / "links" / "disk.qcow2", tmp_path / "copy").returncode == 0


def test_relative_names(apart: tuple[Path, Path], tmp_path: Path, copy_command: Command) -> None:
    """Names relative to the current folder, a bare file name included."""
    top, _ = apart
    shutil.copy(tmp_path / "below" / "base.qcow2", top.parent / "plain.qcow2")
    assert copy_command("plain.qcow2", "copy.qcow2", cwd=top.parent).returncode == 0
    assert (top.parent / "copy.qcow2").stat().st_size > 0


def test_names_that_are_not_utf8(tmp_path: Path, copy_command: Command) -> None:
    """File names are bytes; they are copied, and named in an error, whatever they hold."""
    folder = os.fsencode(tmp_path)
    source = folder + b"/disk-\xff.raw"
    with open(source, "wb") as file:
        file.write(b"x" * 4096)
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = copy_command(os.fsdecode(source), os.fsdecode(folder + b"/copy-\xfe"), env=strict)
    assert (done.returncode, done.stderr) == (0, "")
    assert "copy-\N{REPLACEMENT CHARACTER}'" in done.stdout
    missing = os.fsdecode(folder + b"/none-\xff.raw")
    done = copy_command("--json", missing, "copy", cwd=tmp_path, env=strict)
    assert json.loads(done.stdout)["error"]["path"] == missing
    done = copy_command(missing, "copy", cwd=tmp_path, env=strict)
    assert "none-\N{REPLACEMENT CHARACTER}.raw" in done.stderr
    assert done.returncode == 1


def test_progress_in_a_pipe(chain: Source, tmp_path: Path, copy_command: Command) -> None:
    """Lines without control characters, the last one 100 %; the result stays alone on standard output."""
    done = copy_command("--progress", chain.path, tmp_path / "copy")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("100 %")
    assert "\r" not in done.stderr
    assert done.stdout.count("\n") == 1


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """A bar that is drawn over and over in one line."""
    source = noisy_raw(tmp_path / "disk.raw", 8 * MIB, [(0, 8 * MIB)])
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        command_line("--progress", "--bandwidth", "4", source, tmp_path / "copy"),
        stderr=terminal, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(terminal)
    drawn = b""
    try:
        while chunk := os.read(main, 4096):
            drawn += chunk
    except OSError:
        pass  # the other end of a terminal is closed by an error
    os.close(main)
    assert process.wait(120) == 0
    assert drawn.count(b"\r\x1b[K") >= 2
    assert b"100.0 % [####" in drawn
    assert drawn.count(b"\n") == 1


class Interruptible:
    """A slow copy in a process of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            # Whoever runs the tests may have been started with signals ignored, and that is inherited.
            ["env", "--default-signal", *command_line("--bandwidth", "1", "--progress", *arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        # The first line comes at a tenth.
        self.process.stderr.readline()

    def end(self, number: int) -> tuple[int, str, str]:
        """Send a signal; (exit code, stdout, stderr)."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


@pytest.fixture
def slow_source(tmp_path: Path) -> Path:
    """16 MiB of noise: 16 seconds at 1 MiB/s."""
    return noisy_raw(tmp_path / "disk.raw", 16 * MIB, [(0, 16 * MIB)])


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupted(number: int, exit_code: int, slow_source: Path, tmp_path: Path) -> None:
    """The copy is cancelled in good order and soon: no partial file, and what is left behind is said."""
    code, out, err = Interruptible(slow_source, tmp_path / "copy").end(number)
    assert (code, out) == (exit_code, "")
    assert "virtblock-copy: interrupted\n" in err
    assert f"Left behind: '{tmp_path}/copy', an empty file" in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "disk.raw"]
    assert (tmp_path / "copy").stat().st_size == 0


def test_interrupted_reuse_says_what_is_left(slow_source: Path, tmp_path: Path, make_image: Any) -> None:
    """The destination that was kept is incomplete, and the next step is told."""
    destination = make_image(tmp_path / "copy.qcow2", "qcow2", 16 * MIB)
    code, _, err = Interruptible("--reuse", slow_source, destination).end(signal.SIGINT)
    assert code == 130
    assert f"'{destination}', which is incomplete" in err
    assert "--reuse" in err


def test_interrupted_json(slow_source: Path, tmp_path: Path) -> None:
    """Scripts learn it too."""
    code, out, _ = Interruptible("--json", slow_source, tmp_path / "copy").end(signal.SIGINT)
    answer = json.loads(out)
    assert (code, answer["result"], answer["exit_code"], answer["is_complete"]) == (130, "interrupted", 130, False)
    assert "empty file" in answer["left_behind"]


def test_nohup_is_respected(slow_source: Path, tmp_path: Path) -> None:
    """A signal that was ignored when the command started stays ignored."""
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    process = subprocess.Popen(
        [*ignoring, *command_line("--bandwidth", "16", "--progress", slow_source, tmp_path / "copy")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert (tmp_path / "copy").stat().st_size == 16 * MIB


def test_help(copy_command: Command) -> None:
    """Every option of the design is there, and the exit codes."""
    done = copy_command("--help")
    assert done.returncode == 0
    options = (
        "--source-format --shallow --reuse --raw --bitmap --bandwidth --reflink --allow-path --verify --progress --json"
    )
    assert [option for option in options.split() if option not in done.stdout] == []
    assert "130 interrupted" in done.stdout
