# SPDX-License-Identifier: Apache-2.0
"""One whole copy as a person asks for it: open the chain, copy, verify, and end in good order when a signal comes.

Owns: how the options become calls of the engine. Invariants: the engine works in a thread of its own and signals only
set a flag, so that nothing is ever half closed; `run_copy` ends only after that thread has. The source's policy never
covers the destination's folder: where a copy goes to says nothing about what may be read.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from virtblock.engine import CancelFlag, Chain, Copy, CopyProgress, EngineError, PathPolicy, compare, probe
from virtblock.engine.progress_bar import REDRAW_INTERVAL_S, ProgressBar

if TYPE_CHECKING:
    from virtblock.engine import CopyMode, ImageFormat, ReflinkMode

Result = TypeVar("Result")

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
    reflink: ReflinkMode = "auto"


class CopyReport(NamedTuple):
    """What a copy that is complete and durable did."""

    source: str
    source_format: ImageFormat
    destination: str
    destination_format: ImageFormat
    mode: CopyMode
    progress: CopyProgress
    verified: bool | None  # None: not asked for
    verify_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time of the copy, from planning until all is on the disk."""
        return self.progress.elapsed_ns / 1e9

    def rate_of(self, count_bytes: int) -> float:
        """Bytes per second over the whole copy."""
        return count_bytes / self.seconds if self.seconds > 0 else 0.0

    def fields(self) -> dict[str, object]:
        """For JSON."""
        progress = self.progress
        return {
            "source": self.source,
            "source_format": self.source_format,
            "destination": self.destination,
            "destination_format": self.destination_format,
            "mode": self.mode,
            "virtual_size_bytes": progress.size_bytes,
            "total_bytes": progress.total_bytes,
            "read_bytes": progress.read_bytes,
            "written_bytes": progress.written_bytes,
            "shared_bytes": progress.shared_bytes,
            "zero_bytes": progress.zero_bytes,
            "seconds": round(self.seconds, 6),
            "bytes_per_s": round(self.rate_of(progress.total_bytes)),
            "read_bytes_per_s": round(self.rate_of(progress.read_bytes)),
            "written_bytes_per_s": round(self.rate_of(progress.written_bytes)),
            "verified": self.verified,
            "verify_seconds": self.verify_seconds,
        }


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


def run_copy(request: Request, bar: ProgressBar | None = None) -> CopyReport:
    """Copy, and verify if asked. EngineError when it fails, Interrupted when SIGINT, SIGTERM or SIGHUP came.

    Must run in the main thread, because only that may watch signals.
    """
    policy = PathPolicy([_folder_of(request.source), *request.allow_paths])
    with SignalWatch() as watch, Chain([(request.source, request.source_format)], policy) as source:
        destination_policy = PathPolicy([_folder_of(request.destination)])
        mode = _mode(request, source)
        destination_format = _destination_format(request, destination_policy)
        watch.check()
        with _new_copy(request, source, destination_format, destination_policy, mode) as copy:
            _run(copy, watch, bar)
            progress = copy.progress()
        report = CopyReport(
            source=source.layers[0].path,
            source_format=request.source_format,
            destination=os.path.realpath(request.destination),
            destination_format=destination_format,
            mode=mode,
            progress=progress,
            verified=None,
        )
        if request.verify:
            seconds = _verify(request, source, destination_format, watch)
            report = report._replace(verified=True, verify_seconds=seconds)
        return report


def _folder_of(path: str) -> str:
    # The real folder: the caller named this file, and links on the way to it are the caller's.
    return os.path.dirname(os.path.realpath(path))


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
    return probe(request.destination, policy) if request.reuse else request.source_format


def _new_copy(
    request: Request, source: Chain, destination_format: ImageFormat, policy: PathPolicy, mode: CopyMode
) -> Copy:
    has_backing = mode == "top" and not request.reuse
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


def _verify(request: Request, source: Chain, destination_format: ImageFormat, watch: SignalWatch) -> float:
    """Compare what both chains read as; returns the seconds it took."""
    # A reused destination has a backing file of its own, which may lie beside it; a new one shares the source's.
    folders = [_folder_of(request.destination), _folder_of(request.source), *request.allow_paths]
    flag = CancelFlag()
    started_s = time.monotonic()
    try:
        with Chain([(request.destination, destination_format)], PathPolicy(folders)) as destination:
            difference = _in_thread(lambda: compare(source, destination, flag, pad=True), flag.set, watch)
    except EngineError as error:
        if error.kind == "cancelled" and watch.number is not None:
            raise Interrupted(watch.number, is_complete=True) from None
        raise
    if difference is not None:
        raise EngineError(
            "internal",
            "Verification failed: the destination differs from the source",
            path=os.path.realpath(request.destination),
            offset_bytes=difference,
        )
    return round(time.monotonic() - started_s, 6)


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
    is_cancelled = False
    while thread.is_alive():
        thread.join(REDRAW_INTERVAL_S)
        if watch.number is not None and not is_cancelled:
            is_cancelled = True
            cancel()
        if poll is not None:
            poll()
    if failure:
        raise failure[0]
    return outcome[0]
