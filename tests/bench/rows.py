# SPDX-License-Identifier: Apache-2.0
"""The rows of the benchmark's table: what is copied, where, and what is promised of it."""

from __future__ import annotations

from typing import NamedTuple

from virtblock.engine import ImageFormat
from virtblock.engine.units import MIB

CONVERT = ("convert", "convert -W", "convert -C")
CP = ("cp always", "cp auto")
SERVERS = ("nbdcopy", "mirror")


class Work(NamedTuple):
    """One row. `peers` are names of peers.PEERS; the quickest of them by its median is the best."""

    key: str
    name: str
    place: str  # a name of places.PLACES
    disk: str  # a name of images.MAKERS
    format: ImageFormat  # of the destination
    peers: tuple[str, ...]
    options: tuple[str, ...] = ()  # ours
    goal: float | None = None  # how many times as fast as the best peer
    is_shallow: bool = False
    is_cold: bool = False
    is_compressed: bool = False  # the destination
    is_incremental: bool = False
    size_share: float = 1  # of the usual size, for what takes long
    memory_goal_bytes: int | None = None


WORKS = (
    Work("raw", "raw → raw", "tmpfs", "raw", "raw", (*CONVERT, *CP, *SERVERS), goal=1.5),
    Work("qcow2", "qcow2 → qcow2", "tmpfs", "qcow2", "qcow2", (*CONVERT, *SERVERS), goal=1.4),
    Work("chain", "chain of 3 → qcow2", "tmpfs", "chain", "qcow2", (*CONVERT, *SERVERS), goal=2),
    Work("chain-raw", "chain of 3 → raw", "tmpfs", "chain", "raw", (*CONVERT, *SERVERS), ("--raw",), goal=2),
    Work(
        "shallow", "chain of 3, shallow", "tmpfs", "chain", "qcow2", (*CONVERT, "mirror"), ("--shallow",),
        goal=1.5, is_shallow=True,
    ),
    Work("small", "4 KiB clusters → qcow2", "tmpfs", "small", "qcow2", (*CONVERT, *SERVERS), goal=5),
    Work("small-raw", "4 KiB clusters → raw", "tmpfs", "small", "raw", (*CONVERT, *SERVERS), ("--raw",)),
    Work("zlib", "zlib → qcow2", "tmpfs", "zlib", "qcow2", ("convert", "convert -W", *SERVERS), goal=3),
    Work("zstd", "zstd → qcow2", "tmpfs", "zstd", "qcow2", ("convert", "convert -W", *SERVERS), goal=1.5),
    Work(
        "compress", "raw → qcow2, by zlib", "tmpfs", "text", "qcow2", ("convert -c", "convert -c -m 16"),
        ("--compress=zlib",), goal=1.5, is_compressed=True, size_share=0.25,
    ),
    Work("wide", "16 TiB, 1000 clusters", "tmpfs", "wide", "qcow2", CONVERT, goal=10, memory_goal_bytes=64 * MIB),
    Work(
        "dirty", "1 % dirty of 10 GiB", "tmpfs", "dirty", "qcow2", CONVERT, ("--reuse", "--bitmap", "since-copy"),
        goal=20, is_incremental=True,
    ),
    Work("raw-ext4", "raw → raw", "ext4", "raw", "raw", (*CONVERT, *CP, *SERVERS)),
    Work("raw-ext4-cold", "raw → raw, cold", "ext4", "raw", "raw", (*CONVERT, *CP, *SERVERS), is_cold=True),
    Work("qcow2-ext4", "qcow2 → qcow2", "ext4", "qcow2", "qcow2", (*CONVERT, *SERVERS)),
    Work("qcow2-ext4-cold", "qcow2 → qcow2, cold", "ext4", "qcow2", "qcow2", (*CONVERT, *SERVERS), is_cold=True),
    Work("chain-ext4", "chain of 3 → qcow2", "ext4", "chain", "qcow2", (*CONVERT, *SERVERS)),
    Work("chain-ext4-cold", "chain of 3 → qcow2, cold", "ext4", "chain", "qcow2", (*CONVERT, *SERVERS), is_cold=True),
    Work("raw-xfs", "raw → raw, shared", "xfs", "raw", "raw", ("convert -C", "cp reflink")),
    Work("flatten-xfs", "chain of 3 → qcow2, shared", "xfs", "chain", "qcow2", ("convert -C",), goal=3),
    Work("flatten-xfs-copy", "the same, beside copying", "xfs", "chain", "qcow2", ("convert", "convert -W"), goal=20),
)  # fmt: skip
