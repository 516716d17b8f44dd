# SPDX-License-Identifier: Apache-2.0
"""Copies that are killed and resumed, and those that must not be: by the module and by `virtblock-copy --resume`.

tests/engine/core/test_resume.c kills jobs at every kind of system call; here it is whole processes, and what is told.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from engine.sources import ANY_PATH, KIB, MIB, command_line, noisy_raw, reads_same
from reference.digest import digest_of

from virtblock.engine import Chain, Copy, EngineError, Merge, PathPolicy

Command = Callable[..., subprocess.CompletedProcess[str]]
DISK_BYTES = 12 * MIB
DATA_BYTES = 10 * MIB
SLOW_BYTES_PER_S = 2 * MIB  # seconds to the end: a job that is to be killed on the way does not get there
INTERVAL_S = 0.005


class Job(NamedTuple):
    """A source and where its copy goes."""

    source: Path
    destination: Path
    journal: Path

    @property
    def partial(self) -> Path:
        return Path(f"{self.destination}.virtblock-partial")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    source = noisy_raw(tmp_path / "disk.raw", DISK_BYTES, [(0, DATA_BYTES)])
    return Job(source, tmp_path / "copy", tmp_path / "copy.virtblock-journal")


def open_copy(chain: Chain, job: Job, destination_format: Any = "raw", **options: Any) -> Copy:
    options = {"journal_path": str(job.journal), "journal_interval_s": INTERVAL_S, **options}
    return Copy(chain, str(job.destination), destination_format, ANY_PATH, **options)


def killed(job: Job, destination_format: Any = "raw", source_format: Any = "raw", **options: Any) -> int:
    """A copy in a process of its own, killed when a part is done and in the journal; returns how much."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with (
                Chain([(str(job.source), source_format)], ANY_PATH) as chain,
                open_copy(chain, job, destination_format, bandwidth_bytes_per_s=SLOW_BYTES_PER_S, **options) as copy,
            ):
                _die_in_the_middle(copy, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as pipe:
        durable_bytes = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return int(durable_bytes)


def _die_in_the_middle(copy: Copy, writer: int) -> None:
    threading.Thread(target=copy.run, daemon=True).start()
    _wait(lambda: copy.progress().moved_bytes >= copy.progress().resumed_bytes + MIB // 2)
    copy.pause()  # what lanes hold is finished, and then in the journal, and more does not come
    _wait(lambda: copy.progress().durable_bytes >= copy.progress().resumed_bytes + MIB // 2)
    os.write(writer, b"%d" % copy.progress().durable_bytes)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(condition: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.005)


def resumed(job: Job, destination_format: Any = "raw", source_format: Any = "raw", **options: Any) -> Copy:
    """The copy again, run to its end; the caller closes it."""
    chain = Chain([(str(job.source), source_format)], ANY_PATH)
    copy = open_copy(chain, job, destination_format, resume=True, **options)
    copy.run()
    return copy


@pytest.mark.parametrize("destination_format", ["raw", "qcow2"])
@pytest.mark.parametrize("reuse", [False, True])
def test_a_killed_copy_goes_on(destination_format: Any, reuse: bool, job: Job, qemu_img: Any, make_image: Any) -> None:
    """What the journal has is not read again, the digest is of the whole, and nothing is left of the journal."""
    if reuse and destination_format == "raw":
        noisy_raw(job.destination, DISK_BYTES, [(5 * MIB, 7 * MIB)])
    elif reuse:
        make_image(job.destination, "qcow2", DISK_BYTES, writes=[(5 * MIB, 7 * MIB, 7)])
    durable_bytes = killed(job, destination_format, reuse=reuse, digest=True)
    with resumed(job, destination_format, reuse=reuse, digest=True) as copy:
        progress = copy.progress()
        assert copy.is_resumed
        assert durable_bytes <= progress.resumed_bytes < progress.total_bytes
        assert progress.read_bytes + progress.resumed_bytes <= progress.total_bytes
        assert progress.moved_bytes == progress.total_bytes
        assert copy.digest == digest_of(job.source.read_bytes())
    assert reads_same(qemu_img, job.source, "raw", job.destination, destination_format)
    assert not job.journal.exists()
    assert not job.partial.exists()


def test_killed_again_and_again(job: Job, qemu_img: Any) -> None:
    """Each run begins where the one before ended."""
    before = 0
    for number in range(3):
        killed(job, "qcow2", digest=True, resume=number > 0)
    with resumed(job, "qcow2", digest=True) as copy:
        assert copy.progress().resumed_bytes > before
        assert copy.digest == digest_of(job.source.read_bytes())
    assert reads_same(qemu_img, job.source, "raw", job.destination, "qcow2")


def test_nothing_to_resume(job: Job) -> None:
    """No journal, an empty one, garbage: the copy begins at the beginning, and what was left goes."""
    for content in (None, b"", b"garbage" * 10000):
        job.destination.unlink(missing_ok=True)
        job.partial.write_bytes(b"left over")
        if content is not None:
            job.journal.write_bytes(content)
        with resumed(job) as copy:
            assert not copy.is_resumed
            assert copy.progress().read_bytes == DATA_BYTES
        assert job.destination.read_bytes() == job.source.read_bytes()
        assert not job.journal.exists()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"reuse": True}])
def test_a_journal_is_none_of_the_images(job: Job, resume: bool, options: dict[str, Any], qemu_img: Any) -> None:
    """What lies at a journal's place is removed; source, backing file and destination are not, by any name."""
    overlay = qemu_img.create(
        job.source.with_name("overlay"), "qcow2", DISK_BYTES, backing=job.source, backing_format="raw"
    )
    other_name = job.source.with_name("link")
    os.link(job.source, other_name)
    content = job.source.read_bytes()
    if options.get("reuse"):
        qemu_img.create(job.destination, "qcow2", DISK_BYTES)
    of_destination = [job.destination] if options.get("reuse") else [job.destination, job.partial]
    for place in (overlay, job.source, other_name, *of_destination):
        with Chain([(str(overlay), "qcow2")], ANY_PATH) as chain:
            with pytest.raises(EngineError, match="same file as an image of the copy") as caught:
                open_copy(chain, job, "qcow2", journal_path=str(place), resume=resume, **options)
            assert caught.value.kind == "same-file"
    assert job.source.read_bytes() == content == other_name.read_bytes()
    qemu_img.check(overlay)
    if options.get("reuse"):
        qemu_img.check(job.destination)


def test_a_lost_partial_file_is_begun_anew(job: Job) -> None:
    """The journal speaks of a file that is gone."""
    killed(job)
    job.partial.unlink()
    with resumed(job) as copy:
        assert not copy.is_resumed
    assert job.destination.read_bytes() == job.source.read_bytes()


def test_without_resume_a_copy_begins_anew(job: Job) -> None:
    """And the journal of the earlier one is of no use any more."""
    killed(job)
    with Chain([(str(job.source), "raw")], ANY_PATH) as chain, open_copy(chain, job) as copy:
        assert not job.journal.exists()
        copy.run()
        assert not copy.is_resumed
    assert job.destination.read_bytes() == job.source.read_bytes()


def _write_source(job: Job) -> None:
    with job.source.open("r+b") as file:
        file.write(b"changed")


def _touch_source(job: Job) -> None:
    os.utime(job.source, ns=(1, job.source.stat().st_mtime_ns + 1))


def _change_header(job: Job) -> None:
    times = job.source.stat()
    _write_source(job)
    os.utime(job.source, ns=(times.st_atime_ns, times.st_mtime_ns))


def _move_data(job: Job) -> None:
    times = job.source.stat()
    with job.source.open("r+b") as file:
        file.seek(DATA_BYTES + MIB)
        file.write(b"x" * 4096)
    os.utime(job.source, ns=(times.st_atime_ns, times.st_mtime_ns))


def _replace_source(job: Job) -> None:
    times = job.source.stat()
    other = job.source.with_name("other")
    shutil.copyfile(job.source, other)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(job.source)


def _replace_partial(job: Job) -> None:
    other = job.source.with_name("other")
    shutil.copyfile(job.partial, other)
    other.rename(job.partial)


CHANGES: dict[str, tuple[Callable[[Job], None], str]] = {
    "written": (_write_source, "was modified"),
    "touched": (_touch_source, "was modified"),
    "header": (_change_header, "header"),
    "mapping": (_move_data, "at other places"),
    "replaced": (_replace_source, "another file"),
    "partial": (_replace_partial, "is not the one that the job was begun with"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_told_and_nothing_is_done(change: str, job: Job) -> None:
    """Never a guess: `changed`, the file, the reason; journal and partial file stay as they are."""
    killed(job)
    act, words = CHANGES[change]
    act(job)
    journal, partial = job.journal.read_bytes(), job.partial.read_bytes()
    with pytest.raises(EngineError) as caught:
        resumed(job).close()
    assert caught.value.kind == "changed"
    assert words in caught.value.reason
    assert caught.value.path == str(job.partial if change == "partial" else job.source)
    assert (job.journal.read_bytes(), job.partial.read_bytes()) == (journal, partial)
    assert job.destination.stat().st_size == 0


def test_a_longer_source_is_another_disk(job: Job) -> None:
    """The destination was made for the old length."""
    killed(job)
    with job.source.open("r+b") as file:
        file.truncate(DISK_BYTES + MIB)
    with pytest.raises(EngineError) as caught:
        resumed(job).close()
    assert (caught.value.kind, job.partial.exists()) == ("changed", True)


NEW_IMAGES: tuple[dict[str, Any], ...] = (
    {"extended_l2": True},
    {"preallocation": "metadata"},
    {"preallocation": "full", "extended_l2": True},
)


@pytest.mark.parametrize("options", NEW_IMAGES, ids=str)
def test_whatever_the_new_image_is(options: dict[str, Any], job: Job, qemu_img: Any) -> None:
    """With subclusters, and with room taken before."""
    durable_bytes = killed(job, "qcow2", digest=True, **options)
    with resumed(job, "qcow2", digest=True, **options) as copy:
        assert copy.progress().resumed_bytes >= durable_bytes
        assert copy.digest == digest_of(job.source.read_bytes())
    assert reads_same(qemu_img, job.source, "raw", job.destination, "qcow2")
    qemu_img("check", "-f", "qcow2", job.destination)


def test_a_copy_by_a_bitmap_goes_on(job: Job, qemu_img: Any, qemu_io: Any) -> None:
    """Its unfinished destination is of use to nothing but its journal."""
    marked = job._replace(source=job.source.with_name("marked.qcow2"))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", job.source, marked.source)
    qemu_img("bitmap", "--add", marked.source, "since")
    shutil.copyfile(job.source, job.destination)
    qemu_io(marked.source, "qcow2", "write -P 7 1M 6M", "write -z 8M 1M")
    options: dict[str, Any] = {"source_format": "qcow2", "reuse": True, "bitmap": "since"}
    durable_bytes = killed(marked, **options)
    with pytest.raises(EngineError, match="unfinished copy, which lacks more than a bitmap knows"):
        resumed(marked, **options, journal_path=str(job.journal.with_name("other"))).close()
    with pytest.raises(EngineError, match="another mode or bitmap"):
        resumed(marked, **{**options, "bitmap": None}).close()
    with resumed(marked, **options) as copy:
        progress = copy.progress()
        assert copy.is_resumed
        assert durable_bytes <= progress.resumed_bytes < progress.total_bytes == 7 * MIB
        assert progress.read_bytes + progress.resumed_bytes <= progress.total_bytes
    assert reads_same(qemu_img, marked.source, "qcow2", job.destination, "raw")
    assert not job.journal.exists()


def test_a_changed_data_file_is_told(job: Job, qemu_img: Any) -> None:
    """The image that names it is as it was."""
    data = job.source.with_name("disk.data")
    named = job._replace(source=job.source.with_name("named.qcow2"))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", f"data_file={data}", job.source, named.source)
    policy = PathPolicy(data_files={str(named.source): str(data)})

    def copy(**options: Any) -> None:
        with (
            Chain([(str(named.source), "qcow2")], policy) as chain,
            open_copy(chain, named, bandwidth_bytes_per_s=MIB, reflink="never", **options) as copy,
        ):
            copy.keep_unfinished(True)
            join = _run_in_thread(copy)
            _wait(lambda: copy.progress().moved_bytes > 0)
            copy.cancel()
            assert join().kind == "cancelled"

    copy()
    copy(resume=True)
    with data.open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(EngineError, match="external data file is not what it was") as caught:
        copy(resume=True)
    assert (caught.value.kind, caught.value.path) == ("changed", str(data))


@pytest.mark.parametrize("options", [{"granule_bytes": MIB}, {"cluster_size_bytes": 4096}, *NEW_IMAGES[:2]], ids=str)
def test_other_options_are_another_job(options: dict[str, Any], job: Job) -> None:
    """Where a byte goes must be decided as it was."""
    killed(job, "qcow2")
    with pytest.raises(EngineError) as caught:
        resumed(job, "qcow2", **options).close()
    assert caught.value.kind == "changed"
    assert job.partial.exists()


def test_a_reused_destination_that_somebody_finished(job: Job, make_image: Any) -> None:
    """Its mark is gone, so it is no longer the unfinished copy that the journal knows."""
    make_image(job.destination, "qcow2", DISK_BYTES)
    killed(job, "qcow2", reuse=True)
    with job.destination.open("r+b") as file:
        file.write(b"QFI\xfb")
    before = job.destination.read_bytes()
    with pytest.raises(EngineError) as caught:
        resumed(job, "qcow2", reuse=True).close()
    assert caught.value.kind == "changed"
    assert "no longer marked" in caught.value.reason
    assert job.destination.read_bytes() == before


def test_cancelled_copies_stay_only_if_wanted(job: Job) -> None:
    """Kept with a journal that was written at the very end, or gone."""
    for keeps in (True, False):
        with (
            Chain([(str(job.source), "raw")], ANY_PATH) as chain,
            open_copy(chain, job, journal_interval_s=0, bandwidth_bytes_per_s=MIB) as copy,
        ):
            copy.keep_unfinished(keeps)
            join = _run_in_thread(copy)
            while copy.progress().moved_bytes < 512 * KIB:
                time.sleep(0.01)
            copy.cancel()
            assert join().kind == "cancelled"
        assert (job.journal.exists(), job.partial.exists()) == (keeps, keeps)
        if keeps:
            with Chain([(str(job.source), "raw")], ANY_PATH) as chain, open_copy(chain, job, resume=True) as copy:
                copy.run()
                assert copy.progress().resumed_bytes >= 512 * KIB
            assert job.destination.read_bytes() == job.source.read_bytes()
            job.destination.unlink()


def _run_in_thread(copy: Copy | Merge) -> Callable[[], EngineError]:
    caught: list[EngineError] = []

    def run() -> None:
        try:
            copy.run()
        except EngineError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> EngineError:
        thread.join()
        return caught[0]

    return join


def test_a_copy_that_is_not_durable_keeps_no_journal(job: Job) -> None:
    with Chain([(str(job.source), "raw")], ANY_PATH) as chain, pytest.raises(EngineError, match="durable"):
        open_copy(chain, job, durable=False)
    assert not job.partial.exists()


def test_a_journal_needs_a_folder(job: Job, tmp_path: Path) -> None:
    with Chain([(str(job.source), "raw")], ANY_PATH) as chain:
        with pytest.raises(EngineError, match="journal's folder"):
            open_copy(chain, job, journal_path=str(tmp_path / "none" / "journal"))
        with pytest.raises(EngineError, match="journal_path"):
            Copy(chain, str(job.destination), "raw", ANY_PATH, resume=True)


@pytest.fixture
def merged(tmp_path: Path, make_image: Any) -> tuple[Path, Path]:
    base = make_image(tmp_path / "base.qcow2", "qcow2", DISK_BYTES, writes=[(0, 2 * MIB, 1)])
    top = make_image(tmp_path / "top.qcow2", "qcow2", backing=base, backing_format="qcow2", writes=[(MIB, 9 * MIB, 2)])
    return top, base


def test_a_commit_goes_on(merged: tuple[Path, Path], tmp_path: Path, qemu_img: Any) -> None:
    """A merge has a journal as well; another top image than the one it was begun with is refused."""
    top, base = merged
    journal = tmp_path / "journal"
    options: dict[str, Any] = {"top_index": 0, "base_index": 1, "journal_path": str(journal)}
    wanted = tmp_path / "wanted.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", top, wanted)
    slow = Merge.commit([(str(top), "qcow2")], ANY_PATH, bandwidth_bytes_per_s=MIB, **options)
    with slow:
        slow.keep_unfinished(True)
        join = _run_in_thread(slow)
        _wait(lambda: slow.progress().moved_bytes >= MIB)
        slow.cancel()
        assert join().kind == "cancelled"
    assert journal.exists()
    times = top.stat()
    os.utime(top, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(EngineError) as caught:
        Merge.commit([(str(top), "qcow2")], ANY_PATH, resume=True, **options)
    assert (caught.value.kind, caught.value.path) == ("changed", str(top))
    os.utime(top, ns=(times.st_atime_ns, times.st_mtime_ns))
    with Merge.commit([(str(top), "qcow2")], ANY_PATH, resume=True, **options) as merge:
        merge.run()
        progress = merge.progress()
        assert merge.is_resumed
        assert progress.resumed_bytes >= MIB
        assert progress.read_bytes + progress.resumed_bytes <= progress.total_bytes
    assert not journal.exists()
    assert reads_same(qemu_img, wanted, "raw", base, "qcow2")


def killed_command(job: Job, *options: str) -> None:
    process = subprocess.Popen(command_line("--bandwidth", "1", *options, job.source, job.destination))
    ends_s = time.monotonic() + 60
    while not (job.journal.exists() and job.journal.stat().st_size > 16 * KIB):
        assert time.monotonic() < ends_s
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_command(job: Job, copy_command: Command) -> None:
    """kill -9, then --resume: the rest is copied, and both outputs say so."""
    killed_command(job)
    done = copy_command("--resume", "--json", "--verify", job.source, job.destination)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["resumed"], answer["verified"]) == (0, True, True)
    assert 0 < answer["resumed_bytes"] < DATA_BYTES
    assert answer["read_bytes"] + answer["resumed_bytes"] <= answer["total_bytes"]
    assert job.destination.read_bytes() == job.source.read_bytes()
    assert sorted(path.name for path in job.source.parent.iterdir()) == ["copy", "disk.raw"]


def test_command_with_nothing_to_resume(job: Job, copy_command: Command) -> None:
    done = copy_command("--resume", job.source, job.destination)
    assert done.returncode == 0
    assert "Nothing to resume: the copy was made from the beginning\n" in done.stdout


def test_command_with_another_file_for_a_journal(job: Job, copy_command: Command) -> None:
    """It is not removed, whoever's it is."""
    notes = job.source.with_name("notes")
    notes.write_text("years of work\n")
    content = job.source.read_bytes()
    for place in (notes, job.source):
        done = copy_command("--journal", place, job.source, job.destination)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"is no journal: '{place}'" in done.stderr
    assert notes.read_text() == "years of work\n"
    assert job.source.read_bytes() == content
    assert not job.destination.exists()


def test_command_compressed(job: Job, copy_command: Command) -> None:
    """Where its clusters lie is in no journal, and that is said."""
    done = copy_command("--resume", "--compress", job.source, job.destination)
    assert done.returncode == 0
    assert "A compressed copy keeps no journal: it was made from the beginning\n" in done.stdout
    assert not job.journal.exists()


def test_command_interrupted_and_resumed(job: Job, copy_command: Command) -> None:
    """With --resume an interrupted copy stays, and what to do next is said; a changed source is told."""
    process = subprocess.Popen(
        command_line("--bandwidth", "1", "--progress", "--resume", job.source, job.destination),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    _wait(lambda: job.partial.exists() and job.partial.stat().st_blocks > 0)  # it copies
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"'{job.partial}' and '{job.journal}'; the same command with --resume goes on" in err
    times = job.source.stat()
    os.utime(job.source, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    refused = copy_command("--resume", job.source, job.destination)
    assert refused.returncode == 1
    assert "was modified" in refused.stderr
    assert job.partial.exists()
    os.utime(job.source, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = copy_command("--resume", job.source, job.destination)
    assert done.returncode == 0
    assert "Resumed: " in done.stdout
    assert job.destination.read_bytes() == job.source.read_bytes()


@pytest.mark.slow
def test_command_on_a_block_device(job: Job, loop_device: Callable[[int], Path], copy_command: Command) -> None:
    """Only with --journal: beside a device there is no place for one."""
    device = loop_device(DISK_BYTES)
    journal = job.journal
    killed_command(job._replace(destination=device, journal=journal), "--reuse", "--raw", "--journal", str(journal))
    done = copy_command("--resume", "--json", "--journal", journal, "--reuse", "--raw", job.source, device)
    assert json.loads(done.stdout)["resumed"] is True
    with device.open("rb") as file:
        assert file.read(DISK_BYTES) == job.source.read_bytes()
