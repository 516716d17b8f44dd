# SPDX-License-Identifier: Apache-2.0
"""`virtblock-copy`: copies a disk image with its backing chain by the engine alone, without server or domain.

Owns: the command line, its exit codes (0 done, 1 failed, 2 usage, 130 interrupted, 143 terminated) and what it prints.
Invariants: formats are told, never guessed from content, but for an existing destination (REUSE_EXT); no file is opened
only because an image names it: backing and data files must lie in the source's own folder or in an `--allow-path`.
The source is never written. A start loads what a plain copy needs and no more: of a small copy it is most of the time.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

from virtblock.engine import EngineError
from virtblock.engine.copy_command import PARTIAL_SUFFIX, CopyReport, Course, Interrupted, Request, journal_of, run_copy
from virtblock.engine.progress_bar import ProgressBar
from virtblock.engine.streams import replace_closed_streams
from virtblock.engine.units import MIB, bytes_text, parse_rate, parse_size

if TYPE_CHECKING:
    from virtblock.engine import Compression, ImageFormat

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

_FORMATS_BY_ENDING: dict[str, ImageFormat] = {".qcow2": "qcow2", ".raw": "raw", ".img": "raw"}
_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\n")}
_BITMAP_HELP = (
    "with --reuse: DEST is an earlier copy; copy only what SOURCE's persistent bitmap NAME marks as written since "
    "(the bitmap stays as it is: clear it when the copy is yours)"
)
_EPILOG = """\
The destination gets the source's format, raw with --raw, or qcow2 with --compress. A new destination appears under its
name only when it is complete and on the disk. Backing and data files are opened only in SOURCE's own folder and in
each --allow-path.

exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated
"""


class UsageError(Exception):
    """The command line asks for what cannot be; nothing was opened."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise, so that `main` may print the message as text or as JSON."""
        raise UsageError(message)


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    """As wide as the terminal. Left to find the width, argparse loads shutil at each start, and that four archivers."""
    try:
        columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size().columns
    except (OSError, ValueError):
        columns = 0
    return argparse.RawDescriptionHelpFormatter(prog, width=(columns or 80) - 2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="virtblock-copy",
        description="Copy a disk image, with the backing chain below it, to one destination.",
        epilog=_EPILOG,
        formatter_class=_help_formatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="the image at the top of the chain")
    add("destination", metavar="DEST", help="a new file; with --reuse an existing file or block device")
    add("--source-format", choices=("raw", "qcow2"), help="default: by SOURCE's ending (.qcow2, .raw, .img)")
    add("--shallow", action="store_true", help="copy only the top image; DEST keeps SOURCE's backing file")
    add("--reuse", action="store_true", help="write into the existing DEST and keep what it says of itself")
    add("--raw", action="store_true", help="DEST is raw")
    add(
        "-c",
        "--compress",
        choices=("zlib", "zstd"),
        metavar="[=zlib|zstd]",
        help="DEST is a new qcow2 image of compressed clusters; zlib unless said. A cluster that does not become "
        "smaller is stored as it is",
    )
    add("--compression-level", metavar="N", help="1 to 9 for zlib (default 6), 1 to 22 for zstd (default 3)")
    add("--bitmap", metavar="NAME", help=_BITMAP_HELP)
    add("--bandwidth", metavar="MiB/s", help="speed limit; also with a unit, as in 500K, 1.5G or 20MiB/s")
    add(
        "--reflink",
        choices=("auto", "never", "always"),
        default="auto",
        help="share extents with the source's files instead of copying them; auto (default): in a new DEST, where the "
        "file system can (XFS, btrfs); always: fail where it cannot; never: copy all, and find zeros in it. Data that "
        "fills no granule (64 KiB or DEST's cluster) and compressed clusters are copied in any case",
    )
    add(
        "--data-file",
        metavar="[IMAGE=]PATH",
        action="append",
        default=[],
        help="the external data file of SOURCE, or of an IMAGE below it; none is opened only because an image names it",
    )
    add("--cluster-size", metavar="SIZE", help="of a new qcow2 DEST: 512 to 2M; default: SOURCE's, or 64K")
    add(
        "--extended-l2",
        action=argparse.BooleanOptionalAction,
        help="a new qcow2 DEST with subclusters, or without; needs clusters of 16K. Default: as SOURCE",
    )
    add(
        "--preallocation",
        choices=("off", "metadata", "falloc", "full"),
        default="off",
        help="of a new DEST, as in qemu-img create: metadata (qcow2): every cluster has its place; falloc: and blocks; "
        "full: and zeros are written to them",
    )
    add(
        "--resume",
        action="store_true",
        help="go on where the same copy was cut off, if its journal is there; keep what is done if this one ends early",
    )
    add(
        "--journal",
        metavar="FILE",
        help="where to note what is done, for --resume; default: DEST.virtblock-journal, for a block device none",
    )
    add(
        "--allow-path",
        metavar="DIR",
        action="append",
        default=[],
        help="backing and data files may lie in DIR too (repeatable)",
    )
    add("--verify", action="store_true", help="read DEST back afterwards, from its device, and compare digests")
    add("--digest", action="store_true", help="print the digest of the disk's content, the same in every format")
    add("--progress", action="store_true", help="show on standard error how far the copy is")
    add("--json", action="store_true", help="print one JSON object, for errors too")
    return parser


def _source_format(options: argparse.Namespace) -> ImageFormat:
    if options.source_format is not None:
        return "raw" if options.source_format == "raw" else "qcow2"
    name = os.path.basename(options.source)
    by_ending = _FORMATS_BY_ENDING.get(os.path.splitext(name)[1].lower())
    if by_ending is None:
        raise UsageError(
            f"the name '{options.source}' does not tell its format, and content is never probed; "
            "add --source-format raw or --source-format qcow2"
        )
    return by_ending


def _bandwidth(options: argparse.Namespace) -> int:
    if options.bandwidth is None:
        return 0
    try:
        return parse_rate(options.bandwidth)
    except ValueError as error:
        raise UsageError(f"--bandwidth: {error}") from None


def _compression(options: argparse.Namespace) -> Compression:
    if options.compress is None:
        if options.compression_level is not None:
            raise UsageError("--compression-level needs --compress")
        return "none"
    excluded = {
        "--raw": options.raw,
        "--reuse": options.reuse,
        "--extended-l2": bool(options.extended_l2),
        "--preallocation": options.preallocation != "off",
    }
    for name, is_asked in excluded.items():
        if is_asked:
            raise UsageError(f"--compress makes a new qcow2 image; it cannot go with {name}")
    if options.reflink == "always":
        raise UsageError("--compress shares no extents; it cannot go with --reflink=always")
    return "zstd" if options.compress == "zstd" else "zlib"


def _compression_level(options: argparse.Namespace) -> int:
    if options.compression_level is None:
        return 0
    highest = 22 if options.compress == "zstd" else 9
    text: str = options.compression_level
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= highest):
        raise UsageError(f"--compression-level: '{text}' is not one of 1 to {highest}")
    return int(text)


def _cluster_size(options: argparse.Namespace) -> int:
    if options.cluster_size is None:
        return 0
    try:
        cluster_size_bytes = parse_size(options.cluster_size)
    except ValueError as error:
        raise UsageError(f"--cluster-size: {error}") from None
    if not 512 <= cluster_size_bytes <= 2 * MIB or cluster_size_bytes & (cluster_size_bytes - 1):
        raise UsageError(f"--cluster-size: {options.cluster_size!r} is not a power of two from 512 to 2M")
    return cluster_size_bytes


def _data_files(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Images and their data files; of a PATH with an equals sign in it, IMAGE must be said."""
    named: dict[str, str] = {}
    for text in options.data_file:
        image, equals, path = text.partition("=")
        if not equals:
            image, path = options.source, text
        if not image or not path:
            raise UsageError(f"--data-file: '{text}' is neither PATH nor IMAGE=PATH")
        if image in named:
            raise UsageError(f"--data-file: '{image}' is given two data files, '{named[image]}' and '{path}'")
        named[image] = path
    return tuple(named.items())


def _check_new_image_options(options: argparse.Namespace, source_format: ImageFormat) -> None:
    """What describes a new DEST says nothing of one that is there already, and clusters nothing of a raw one."""
    of_qcow2 = {"--cluster-size": options.cluster_size is not None, "--extended-l2": options.extended_l2 is not None}
    of_new = {**of_qcow2, "--preallocation": options.preallocation != "off"}
    for name, is_asked in of_new.items():
        if is_asked and options.reuse:
            raise UsageError(f"{name} describes a new DEST and cannot be combined with --reuse")
    for name, is_asked in of_qcow2.items():
        if is_asked and (options.raw or (source_format == "raw" and options.compress is None)):
            raise UsageError(f"{name} describes a qcow2 DEST, and this one is raw")


def _request(options: argparse.Namespace) -> Request:
    for name in ("source", "destination"):
        if not getattr(options, name):
            raise UsageError(f"{name.upper()} is empty")
    if options.bitmap is not None and not options.reuse:
        raise UsageError("--bitmap brings an earlier copy up to date; add --reuse, or leave it out for a first copy")
    if options.bitmap == "":
        raise UsageError("--bitmap: the name is empty")
    source_format = _source_format(options)
    _check_new_image_options(options, source_format)
    return Request(
        source=options.source,
        source_format=source_format,
        destination=options.destination,
        shallow=options.shallow,
        reuse=options.reuse,
        raw=options.raw,
        bandwidth_bytes_per_s=_bandwidth(options),
        allow_paths=tuple(options.allow_path),
        verify=options.verify,
        digest=options.digest,
        resume=options.resume,
        journal=options.journal,
        reflink=options.reflink,
        compression=_compression(options),
        compression_level=_compression_level(options),
        bitmap=options.bitmap,
        cluster_size_bytes=_cluster_size(options),
        extended_l2=options.extended_l2,
        preallocation=options.preallocation,
        data_files=_data_files(options),
    )


def _error_fields(error: EngineError) -> dict[str, object]:
    return {
        "kind": error.kind,
        "message": str(error),
        "reason": error.reason,
        "path": error.path or None,
        "offset_bytes": error.offset_bytes if error.offset_bytes >= 0 else None,
        "errno": error.errno or None,
    }


def _say(text: str, stream: TextIO) -> bool:
    """Print one message; whether it got out."""
    # A file name may hold bytes that are no text; they must not turn a message into another error. And an image's
    # names, which somebody else chose, must not steer the terminal.
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _print(readable.translate(_CONTROL_CHARACTERS), stream)


def _print(text: str, stream: TextIO) -> bool:
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        if stream is sys.stdout:
            _print(f"virtblock-copy: Cannot write to standard output: {error.strerror}", sys.stderr)
        return False
    return True


def _advice(error: EngineError) -> str:
    """What to do next, where the reason alone does not tell; else ""."""
    if error.kind == "exists":
        return "Remove it, choose another name, or write into it with --reuse."
    if error.kind == "denied" and "outside every allowed folder" in error.reason:
        return f"If it may be read, add --allow-path '{os.path.dirname(error.path)}'."
    if error.kind == "format" and error.reason == "Image is not in qcow2 format":
        return "If it is a raw image, add --source-format raw."
    return ""


def _how_resumed(report: CopyReport) -> str:
    if report.compression != "none":
        return "A compressed copy keeps no journal: it was made from the beginning"
    if not report.is_resumed:
        return "Nothing to resume: the copy was made from the beginning"
    if report.progress.total_bytes == 0:
        return "The copy was complete already"
    return f"Resumed: {bytes_text(report.progress.resumed_bytes)} were there already"


class _Output:
    """Says how it ended: for a person on two streams, or as one JSON object on standard output."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def done(self, report: CopyReport) -> int:
        if self._as_json:
            return self._json(EXIT_DONE, "done", report.fields())
        lines = [_how_resumed(report)] if report.request.resume else []
        moved_bytes, size_bytes = report.moved_bytes, report.progress.size_bytes
        verified = ", verified" if report.verified else ""
        ratio = report.compression_ratio
        compressed = "" if ratio is None else f", {report.compression} to {ratio:.1%}"
        shared_bytes = report.progress.shared_bytes
        shared = f", {bytes_text(shared_bytes)} shared" if shared_bytes else ""
        lines.append(
            f"Copied {bytes_text(moved_bytes)} of a {bytes_text(size_bytes)} disk in {report.seconds:.2f} s "
            f"({bytes_text(report.rate_of(moved_bytes))}/s): "
            f"'{report.destination}', {report.destination_format}{compressed}{shared}{verified}"
        )
        if report.digest:
            lines.append(f"Digest: {report.digest}")
        return self._if_told(_say("\n".join(lines), sys.stdout), EXIT_DONE)

    def usage(self, message: str) -> int:
        if self._as_json:
            return self._json(EXIT_USAGE, "usage", {"error": {"kind": "usage", "message": message}})
        _say(f"virtblock-copy: {message}\nTry 'virtblock-copy --help'.", sys.stderr)
        return EXIT_USAGE

    def failed(self, error: EngineError, left_behind: str) -> int:
        if self._as_json:
            return self._json(
                EXIT_FAILED, "failed", {"error": _error_fields(error), "left_behind": left_behind or None}
            )
        _say(f"virtblock-copy: {error}", sys.stderr)
        if advice := _advice(error):
            _say(advice, sys.stderr)
        self._tell(left_behind)
        return EXIT_FAILED

    def interrupted(self, error: Interrupted, left_behind: str) -> int:
        # As a shell reports a process that a signal ended.
        exit_code = 128 + error.signal_number
        if self._as_json:
            fields: dict[str, object] = {"is_complete": error.is_complete, "left_behind": left_behind or None}
            return self._json(exit_code, "interrupted", fields)
        if error.is_complete:
            _say("virtblock-copy: interrupted while verifying; the copy itself is complete", sys.stderr)
        else:
            _say("virtblock-copy: interrupted", sys.stderr)
            self._tell(left_behind)
        return exit_code

    def _tell(self, left_behind: str) -> None:
        if left_behind:
            _say(f"Left behind: {left_behind}", sys.stderr)

    def _json(self, exit_code: int, result: str, fields: dict[str, object]) -> int:
        import json  # noqa: PLC0415  # not at each start, which takes as long as a small copy

        answer = json.dumps({"result": result, "exit_code": exit_code, **fields})
        return self._if_told(_print(answer, sys.stdout), exit_code)

    @staticmethod
    def _if_told(is_told: bool, exit_code: int) -> int:
        # A script that waits for an answer must not take an empty one for success.
        return exit_code if is_told else exit_code or EXIT_FAILED


def _left_behind(request: Request, *, existed: bool, has_begun: bool) -> str:
    """What a copy that did not end well left at the destination's name; "" if nothing of ours."""
    name = request.destination
    try:
        status = os.stat(name)
    except OSError:
        return ""
    if request.resume and (kept := _kept(request)):
        return kept
    if request.reuse and not has_begun:
        return ""
    if request.reuse:
        mark = "cannot be marked" if stat.S_ISBLK(status.st_mode) else "is marked so"
        return f"'{name}', which is incomplete and {mark} if the copy had begun; copy again with --reuse"
    if existed:
        return ""
    return f"'{name}', an empty file" if status.st_size == 0 else f"'{name}'"


def _with_compress_method(arguments: list[str]) -> list[str]:
    """Give --compress its method where it stands alone: argparse would take SOURCE, which follows, for it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    head = ["--compress=zlib" if argument in {"-c", "--compress"} else argument for argument in arguments[:end]]
    return head + arguments[end:]


def _kept(request: Request) -> str:
    """What can be resumed, and how; "" if nothing."""
    journal = journal_of(request)
    if journal is None or not os.path.exists(journal):
        return ""
    partial = os.path.realpath(request.destination) + PARTIAL_SUFFIX
    names = [partial, journal] if os.path.exists(partial) else [journal]
    return (
        " and ".join(f"'{name}'" for name in names)
        + "; the same command with --resume goes on from there, without it the copy begins anew"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    output = _Output(as_json="--json" in arguments)
    try:
        options = _parser().parse_args(_with_compress_method(arguments))
        request = _request(options)
    except UsageError as error:
        return output.usage(str(error))
    existed = os.path.lexists(request.destination)
    course = Course()

    def left_behind() -> str:
        return _left_behind(request, existed=existed, has_begun=course.has_begun)

    try:
        return output.done(run_copy(request, ProgressBar(sys.stderr) if options.progress else None, course))
    except EngineError as error:
        return output.failed(error, left_behind())
    except Interrupted as error:
        return output.interrupted(error, left_behind())


def command() -> None:
    """The console script: `main`, then the end, without taking the interpreter apart first."""
    replace_closed_streams()
    exit_code = main()
    os._exit(exit_code)


if __name__ == "__main__":
    command()
