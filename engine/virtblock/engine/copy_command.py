# SPDX-License-Identifier: Apache-2.0
"""One whole copy as a person asks for it: open the chain, copy, verify, and end in good order when a signal comes.

Owns: how the options become calls of the engine. Invariants: the engine works in a thread of its own and signals only
set a flag, so that nothing is ever half closed; `run_copy` ends only after that thread has. The source's policy never
covers the destination's folder: where a copy goes to says nothing about what may be read.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeVar

from virtblock.engine import CancelFlag, Chain, Copy, CopyProgress, EngineError, PathPolicy, compare, digest, probe
from virtblock.engine.progress_bar import REDRAW_INTERVAL_S, ProgressBar

if TYPE_CHECKING:
    from virtblock.engine import Compression, CopyMode, ImageFormat, Preallocation, ReflinkMode

Result = TypeVar("Result")

JOURNAL_SUFFIX = ".virtblock-journal"
PARTIAL_SUFFIX = ".virtblock-partial"
_JOURNAL_MAGIC = b"VBjrnl01"  # core/journal.c
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Request(NamedTuple):
    """What to copy where; see the options of `virtblock-copy`."""

    source: str
    source_format: ImageFormat
    destination: str
    shallow: bool = False
    reuse: bool = False
    raw: bool = False
    bandwidth_bytes_per_s: int = 0
    allow_paths: tuple[str, ...] = ()
    verify: bool = False
    digest: bool = False
    resume: bool = False
    journal: str | None = None  # default: beside the destination, and none for a block device
    reflink: ReflinkMode = "auto"
    compression: Compression = "none"
    compression_level: int = 0  # 0: the method's default
    bitmap: str | None = None
    cluster_size_bytes: int = 0  # 0: the source's
    extended_l2: bool | None = None  # None: as the source
    preallocation: Preallocation = "off"
    data_files: tuple[tuple[str, str], ...] = ()  # (image, its external data file)


class CopyReport(NamedTuple):
    """What a copy that is complete and durable did."""

    request: Request
    source: str
    source_format: ImageFormat
    destination: str
    destination_format: ImageFormat
    mode: CopyMode
    compression: Compression
    progress: CopyProgress
    verified: bool | None  # None: not asked for
    verify_seconds: float | None = None
    digest: str = ""
    is_resumed: bool = False

    @property
    def seconds(self) -> float:
        """Wall time of the copy, from planning until all is on the disk."""
        return self.progress.elapsed_ns / 1e9

    @property
    def moved_bytes(self) -> int:
        """What this run moved: without what an earlier one had done."""
        return self.progress.total_bytes - self.progress.resumed_bytes

    def rate_of(self, count_bytes: int) -> float:
        """Bytes per second over the whole copy."""
        return count_bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def compression_ratio(self) -> float | None:
        """What the data takes in a compressed destination, as a share of its length; None where it is none."""
        progress = self.progress
        if self.compression == "none" or progress.written_bytes == 0:
            return None
        return progress.stored_bytes / progress.written_bytes

    def fields(self) -> dict[str, object]:
        """For JSON."""
        progress = self.progress
        ratio = self.compression_ratio
        return {
            "source": self.source,
            "source_format": self.source_format,
            "destination": self.destination,
            "destination_format": self.destination_format,
            "mode": self.mode,
            "compression": self.compression,
            "compression_ratio": None if ratio is None else round(ratio, 6),
            "virtual_size_bytes": progress.size_bytes,
            "total_bytes": progress.total_bytes,
            "read_bytes": progress.read_bytes,
            "written_bytes": progress.written_bytes,
            "stored_bytes": progress.stored_bytes,
            "shared_bytes": progress.shared_bytes,
            "zero_bytes": progress.zero_bytes,
            "seconds": round(self.seconds, 6),
            "bytes_per_s": round(self.rate_of(self.moved_bytes)),
            "read_bytes_per_s": round(self.rate_of(progress.read_bytes)),
            "written_bytes_per_s": round(self.rate_of(progress.written_bytes)),
            "verified": self.verified,
            "verify_seconds": self.verify_seconds,
            "digest": self.digest or None,
            "resumed": self.is_resumed,
            "resumed_bytes": progress.resumed_bytes,
        }


class Course:
    """How far a copy came, for whoever tells what it left behind."""

    has_begun = False  # before that a destination which is reused was not touched


class Interrupted(Exception):
    """A signal ended the copy, or its verification; the copy itself was closed in good order."""

    def __init__(self, signal_number: int, *, is_complete: bool) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
        self.is_complete = is_complete  # the destination: the signal came while it was verified


class SignalWatch:
    """A context manager that notes the first signal that asks to end instead of letting it strike between lines."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> SignalWatch:
        for number in _SIGNALS:
            # A shell that started us with a signal ignored (nohup) wants it ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave is what it takes

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number

    def check(self) -> None:
        """Raise Interrupted if a signal came; for moments at which there is nothing to clean up."""
        if self.number is not None:
            raise Interrupted(self.number, is_complete=False)


def run_copy(request: Request, bar: ProgressBar | None = None, course: Course | None = None) -> CopyReport:
    """Copy, and verify if asked. EngineError when it fails, Interrupted when SIGINT, SIGTERM or SIGHUP came.

    Must run in the main thread, because only that may watch signals.
    """
    course = course or Course()
    _require_no_other_file(request.journal)
    policy = PathPolicy(_source_folders(request), data_files=dict(request.data_files))
    with SignalWatch() as watch, Chain([(request.source, request.source_format)], policy) as source:
        _require_images_of(source, request.data_files)
        destination_policy = PathPolicy([_existing_folder_of(request.destination)])
        mode = _mode(request, source)
        destination_format = _destination_format(request, destination_policy)
        watch.check()
        with _new_copy(request, source, destination_format, destination_policy, mode) as copy:
            copy.keep_unfinished(request.resume)
            course.has_begun = True
            _run(copy, watch, bar)
            report = CopyReport(
                request=request,
                source=source.layers[0].path,
                source_format=request.source_format,
                destination=os.path.realpath(request.destination),
                destination_format=destination_format,
                mode=mode,
                compression=request.compression,
                progress=copy.progress(),
                verified=None,
                digest=copy.digest,
                is_resumed=copy.is_resumed,
            )
            if request.digest or request.verify:
                return _prove(request, source, copy, report, watch)
            return report


def journal_of(request: Request) -> str | None:
    """Where the journal is kept. A folder of devices is no place for files, and forgets them."""
    if request.journal is not None:
        return request.journal
    path = os.path.realpath(request.destination)
    try:
        if stat.S_ISBLK(os.stat(path).st_mode):
            return None
    except OSError:
        pass  # it will be made
    return path + JOURNAL_SUFFIX


def _folder_of(path: str) -> str:
    # The real folder: the caller named this file, and links on the way to it are the caller's.
    return os.path.dirname(os.path.realpath(path))


def _existing_folder_of(path: str) -> str:
    """The folder, which only now is said to be missing as what it is, and not as one that a policy allows."""
    folder = _folder_of(path)
    try:
        os.stat(folder)
    except OSError as error:
        reason = f"Cannot reach the folder of '{path}'"
        raise EngineError("system", reason, errno=error.errno or 0, path=folder) from None
    return folder


def _source_folders(request: Request) -> list[str]:
    return [_existing_folder_of(request.source), *request.allow_paths]


def _require_no_other_file(journal: str | None) -> None:
    """A journal replaces what is at its place, so that must not be somebody's file whose name was typed by mistake."""
    if journal is None or not os.path.isfile(journal):
        return
    with open(journal, "rb") as file:
        head = file.read(len(_JOURNAL_MAGIC))
    if head not in (b"", _JOURNAL_MAGIC):
        raise EngineError("exists", "The file is there already and is no journal", path=journal)


def _require_images_of(source: Chain, data_files: tuple[tuple[str, str], ...]) -> None:
    paths = {layer.path for layer in source.layers}
    for image, data_file in data_files:
        if os.path.realpath(image) not in paths:
            reason = f"The data file '{data_file}' is named for an image that is not one of the source's"
            raise EngineError("invalid", reason, path=os.path.realpath(image))


def _mode(request: Request, source: Chain) -> CopyMode:
    """libvirt's rules: shallow means nothing without a backing file; a new raw file cannot have one."""
    if not request.shallow or source.layers[0].backing_path is None:
        return "full"
    if request.raw and not request.reuse:
        raise EngineError("invalid", f"Shallow copy of '{request.source}' into a raw file is not possible")
    return "top"


def _destination_format(request: Request, policy: PathPolicy) -> ImageFormat:
    """As libvirt decides: what was said, else what a reused file is, else the source's."""
    if request.raw:
        return "raw"
    if request.compression != "none":
        return "qcow2"
    return probe(request.destination, policy) if request.reuse else request.source_format


def _new_copy(
    request: Request, source: Chain, destination_format: ImageFormat, policy: PathPolicy, mode: CopyMode
) -> Copy:
    has_backing = mode == "top" and not request.reuse
    journal = journal_of(request)
    return Copy(
        source,
        request.destination,
        destination_format,
        policy,
        mode=mode,
        reuse=request.reuse,
        backing_path=source.layers[1].path if has_backing else None,
        backing_format=source.layers[1].format if has_backing else None,
        bandwidth_bytes_per_s=request.bandwidth_bytes_per_s,
        reflink=request.reflink,
        digest=request.digest or request.verify,
        compression=request.compression,
        compression_level=request.compression_level,
        bitmap=request.bitmap,
        cluster_size_bytes=request.cluster_size_bytes,
        extended_l2=request.extended_l2,
        preallocation=request.preallocation,
        journal_path=journal,
        resume=request.resume and journal is not None,
    )


def _run(copy: Copy, watch: SignalWatch, bar: ProgressBar | None) -> None:
    def poll() -> None:
        if bar is not None:
            bar.show(copy.progress())

    try:
        _in_thread(copy.run, copy.cancel, watch, poll)
    except EngineError as error:
        if error.kind == "cancelled" and watch.number is not None:
            raise Interrupted(watch.number, is_complete=False) from None
        raise
    finally:
        if bar is not None:
            bar.finish(copy.progress())


def _prove(request: Request, source: Chain, copy: Copy, report: CopyReport, watch: SignalWatch) -> CopyReport:
    """Digest and verification of a copy that is complete."""
    flag = CancelFlag()
    try:
        if not report.digest:  # a shallow copy did not see the whole disk
            report = report._replace(digest=_in_thread(lambda: digest(source, flag), flag.set, watch))
        if not request.verify:
            return report
        started_s = time.monotonic()
        # A reused destination has a backing file of its own, which may lie beside it; a new one shares the source's.
        # Without a lock: the copy still holds the destination's.
        folders = [_folder_of(request.destination), *_source_folders(request)]
        policy = PathPolicy(folders, data_files=dict(request.data_files))
        with Chain([(request.destination, report.destination_format)], policy, lock=False) as destination:
            offset_bytes = _in_thread(
                lambda: _find_difference(source, destination, report.digest, flag), flag.set, watch
            )
    except EngineError as error:
        if error.kind == "cancelled" and watch.number is not None:
            raise Interrupted(watch.number, is_complete=True) from None
        raise
    if offset_bytes is not None:
        _refuse_destination(copy, report, offset_bytes)
    return report._replace(verified=True, verify_seconds=round(time.monotonic() - started_s, 6))


def _find_difference(source: Chain, destination: Chain, wanted_digest: str, flag: CancelFlag) -> int | None:
    """The first byte in which the destination, read back from its device, differs; -1 if only the digests do."""
    # A block device may be longer than the disk, which a digest would see.
    if -(-source.size_bytes // 512) == -(-destination.size_bytes // 512):
        if digest(destination, flag, drop_cache=True) == wanted_digest:
            return None
        difference = compare(source, destination, flag, pad=True)
        return -1 if difference is None else difference
    return compare(source, destination, flag, pad=True)


def _refuse_destination(copy: Copy, report: CopyReport, offset_bytes: int) -> NoReturn:
    """What is there must not be taken for a copy: it gets the mark of an unfinished one."""
    try:
        copy.mark_unfinished()
        fate = "it was marked unfinished"
    except EngineError as error:
        fate = f"it could not be marked unfinished ({error})"
    what = (
        "the destination differs from the source"
        if offset_bytes >= 0
        else "what was read while copying differs from what both images read as now"
    )
    raise EngineError(
        "internal", f"Verification failed: {what}; {fate}", path=report.destination, offset_bytes=offset_bytes
    )


def _in_thread(
    work: Callable[[], Result],
    cancel: Callable[[], None],
    watch: SignalWatch,
    poll: Callable[[], None] | None = None,
) -> Result:
    """Run `work` in a thread; meanwhile call `poll` ten times a second, and `cancel` once when a signal came."""
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # whatever it is, the main thread raises it
            failure.append(error)

    thread = threading.Thread(target=run, name="copy", daemon=True)
    thread.start()
    try:
        is_cancelled = False
        while thread.is_alive():
            thread.join(REDRAW_INTERVAL_S)
            if watch.number is not None and not is_cancelled:
                is_cancelled = True
                cancel()
            if poll is not None:
                poll()
    except BaseException:
        cancel()
        thread.join()
        raise
    if failure:
        raise failure[0]
    return outcome[0]
