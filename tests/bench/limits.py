# SPDX-License-Identifier: Apache-2.0
"""What the kernel takes for the same bytes with no program around them: the floors under the table.

A file takes one buffered write at a time, so nobody who fills a new file by writing is quicker than one thread that
writes the same bytes from a buffer in its cache. On tmpfs that is the time to allocate pages, not to copy memory:
writing over pages that are there already takes a fraction, and is shown beside it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from virtblock.engine.units import GIB, KIB, MIB

LIMIT_BYTES = 512 * MIB
BUFFER_BYTES = 256 * KIB
ROUNDS = 5


class Limits(NamedTuple):
    """Seconds for one GiB, each the median of a few, in one thread; the sync at the end is part of it."""

    place: str
    read_s: float
    overwrite_s: float
    write_s: float
    read_write_s: float
    copy_file_range_s: float


def measure_limits(place: str, folder: Path) -> Limits:
    """Bare loops over one file."""
    source_path, path = folder / "limit-source", folder / "limit"
    buffer = bytearray(os.urandom(BUFFER_BYTES))
    source = os.open(source_path, os.O_RDWR | os.O_CREAT)
    _write(source, buffer)

    def fresh(work: Callable[[int], None]) -> float:
        seconds = []
        for _ in range(ROUNDS):
            path.unlink(missing_ok=True)
            destination = os.open(path, os.O_RDWR | os.O_CREAT)
            os.truncate(destination, LIMIT_BYTES)
            seconds.append(_timed(lambda: work(destination)))  # noqa: B023
            os.close(destination)
        return statistics.median(seconds)

    limits = Limits(
        place,
        read_s=fresh(lambda _: _read(source, buffer)),
        overwrite_s=fresh(lambda _: _write(source, buffer)),
        write_s=fresh(lambda destination: _write(destination, buffer)),
        read_write_s=fresh(lambda destination: _copy(source, destination, buffer)),
        copy_file_range_s=fresh(lambda destination: _copy_in_kernel(source, destination)),
    )
    os.close(source)
    source_path.unlink()
    path.unlink()
    return limits


def _timed(work: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    work()
    return (time.perf_counter() - began_s) * GIB / LIMIT_BYTES


def _read(source: int, buffer: bytearray) -> None:
    for at in range(0, LIMIT_BYTES, BUFFER_BYTES):
        os.preadv(source, [buffer], at)


def _write(destination: int, buffer: bytearray) -> None:
    for at in range(0, LIMIT_BYTES, BUFFER_BYTES):
        os.pwrite(destination, buffer, at)
    os.fdatasync(destination)


def _copy(source: int, destination: int, buffer: bytearray) -> None:
    for at in range(0, LIMIT_BYTES, BUFFER_BYTES):
        os.preadv(source, [buffer], at)
        os.pwrite(destination, buffer, at)
    os.fdatasync(destination)


def _copy_in_kernel(source: int, destination: int) -> None:
    done = 0
    while done < LIMIT_BYTES:
        done += os.copy_file_range(source, destination, LIMIT_BYTES - done, done, done)
    os.fdatasync(destination)
