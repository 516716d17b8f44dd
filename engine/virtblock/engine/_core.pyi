# SPDX-License-Identifier: Apache-2.0
"""The engine's compiled module: what `virtblock.engine` offers to Python.

Thin: each call checks its arguments, leaves Python's lock around one call of the C core, and turns a failure into
`EngineError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, final

from virtblock.engine.kinds import (
    BitmapState,
    Compression,
    CopyMode,
    CopyPhase,
    ErrorKind,
    ImageFormat,
    Preallocation,
    ReflinkMode,
)

CELL_TODO: Final = 1
CELL_COPYING: Final = 2
CELL_DONE: Final = 3
CELL_ZERO: Final = 4
CELL_DIRTY_AGAIN: Final = 5
CELL_FAILED: Final = 6

class EngineError(Exception):
    """Any failure of the engine.

    `str(error)` is one sentence with the place and the reason, e.g.
    `L2 entry 7 is not aligned: '/d/a.qcow2' at offset 65592` or `Cannot open image: '/d/x': No such file or directory`.
    """

    kind: ErrorKind
    errno: int  # 0 if no system call failed
    path: str  # "" if no file is concerned
    offset_bytes: int  # -1 if it does not apply
    reason: str  # the sentence without path, offset and strerror
    def __init__(
        self, kind: ErrorKind, reason: str, *, errno: int = 0, path: str = "", offset_bytes: int = -1
    ) -> None: ...

@final
class PathPolicy:
    """Which files may be opened: beneath `folders` only, every link resolved; with none, any.

    An external data file (qcow2) is opened only if `data_files`, by its image's path, and the image itself name it.
    """

    def __new__(cls, folders: Sequence[str] = (), *, data_files: Mapping[str, str] | None = None) -> PathPolicy: ...
    @property
    def folders(self) -> tuple[str, ...]: ...
    @property
    def data_files(self) -> dict[str, str]: ...
    def with_data_files(self, data_files: Mapping[str, str]) -> PathPolicy:
        """The same folders, and these data files besides."""

    def check(self, path: str) -> str:
        """Returns the resolved path of an existing or future file; EngineError `denied` outside the folders."""

@final
class ImageInfo:
    """What one image says of itself. Immutable."""

    path: str  # absolute, links resolved
    format: ImageFormat
    virtual_size_bytes: int
    allocated_bytes: int  # what the file occupies
    file_size_bytes: int  # the file's length, or the block device's
    backing_path: str | None  # as recorded
    backing_format: str | None  # as recorded
    data_path: str | None  # the external data file as recorded
    data_file: str | None  # the data file that the chain opened, resolved
    cluster_size_bytes: int  # 0 for raw
    version: int  # qcow2: 2 or 3; 0 for raw
    compression: Literal["zlib", "zstd"]
    refcount_bits: int
    snapshot_count: int
    is_dirty: bool
    is_corrupt: bool
    is_block_device: bool
    has_extended_l2: bool
    device: int
    inode: int

def probe(path: str, policy: PathPolicy) -> ImageFormat:
    """Format by the first bytes. Only for REUSE_EXT: probing trusts what a guest may have written."""

def inspect(path: str, format: ImageFormat, policy: PathPolicy) -> ImageInfo:
    """Opens one image alone, without lock and without its backing file."""

@final
class Chain:
    """An open backing chain, read only, locked as QEMU's readers lock. A context manager."""

    def __new__(
        cls,
        layers: Sequence[tuple[str, ImageFormat]],
        policy: PathPolicy,
        *,
        terminated: bool = False,
        lock: bool = True,
    ) -> Chain:
        """Opens every image. `layers[0]` is the top; the others are what the domain's definition says of those below.

        The rules are in core/image.h. `terminated`: the last one given is the bottom, nothing below it is followed.
        """

    @property
    def layers(self) -> tuple[ImageInfo, ...]: ...
    @property
    def size_bytes(self) -> int: ...
    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """What the guest would read. For tools and tests, not for copying."""

    def map(self, mode: CopyMode = "full") -> list[tuple[int, int, str, int]]:
        """The plan as (start_bytes, length_bytes, "data" | "compressed" | "zero", layer_index)."""

    def required_bytes(
        self,
        format: ImageFormat,
        mode: CopyMode = "full",
        cluster_size_bytes: int = 0,
        *,
        extended_l2: bool | None = None,
        preallocation: Preallocation = "off",
    ) -> int:
        """Upper bound of what a new destination occupies; options as in `Copy`."""

    def close(self) -> None:
        """Drops the locks and closes the files: at once, or when the last copy made of the chain closes.

        EngineError `invalid` while a copy runs or another thread's call uses the chain.
        """

    def __enter__(self) -> Chain: ...
    def __exit__(self, *_: object) -> None: ...

def create_image(
    path: str,
    format: ImageFormat,
    size_bytes: int,
    policy: PathPolicy,
    *,
    backing_path: str | None = None,
    backing_format: str | None = None,
    cluster_size_bytes: int = 65536,
    extended_l2: bool = False,
    preallocation: Preallocation = "off",
) -> None:
    """Makes an empty image (mode 0600), durable and at once: PATH must not exist.

    The backing file is recorded, not opened. Options as in `Copy`.
    """

def resize_image(path: str, format: ImageFormat, size_bytes: int, policy: PathPolicy) -> None: ...

@final
class ImageWriter:
    """Writes into an image that nothing else uses, under the writer lock: raw anywhere, qcow2 in whole clusters."""

    def __new__(cls, path: str, format: ImageFormat, policy: PathPolicy) -> ImageWriter: ...
    def write(self, offset_bytes: int, data: bytes | bytearray | memoryview) -> None: ...
    def zero(self, offset_bytes: int, length_bytes: int) -> None: ...
    def close(self) -> None:
        """Writes the metadata and syncs. An image that was not closed may leak clusters but reads right."""

    def __enter__(self) -> ImageWriter: ...
    def __exit__(self, *_: object) -> None: ...

@final
class CopyProgress:
    """One consistent-enough snapshot of a running copy.

    All values are only for show but `remaining_bytes == 0` with `done`.
    """

    phase: CopyPhase
    paused: bool
    size_bytes: int
    total_bytes: int  # what the plan has to move; 0 until planned
    moved_bytes: int
    resumed_bytes: int  # of moved_bytes: by an earlier run, as its journal says
    durable_bytes: int  # of moved_bytes: a resume would find them done, by the journal; 0 without one
    remaining_bytes: int
    read_bytes: int
    written_bytes: int
    stored_bytes: int  # of a compressed destination: what `written_bytes` take in its file so far; else 0
    shared_bytes: int  # extents shared with the source's files: neither read nor written
    zero_bytes: int
    elapsed_ns: int
    bandwidth_bytes_per_s: int

@final
class Copy:
    """One copy of a chain to one destination.

    The constructor opens, checks and locks the destination (and creates an empty file for a new one); `run` does the
    work and blocks without Python's lock; the other methods may be called from any thread. The chain stays open for as
    long as the copy is. Rules: core/writer.h, core/copy.h.
    """

    def __new__(
        cls,
        source: Chain,
        destination_path: str,
        destination_format: ImageFormat,
        policy: PathPolicy,
        *,
        mode: CopyMode = "full",
        reuse: bool = False,
        backing_path: str | None = None,  # new qcow2 in mode "top": recorded as given
        backing_format: str | None = None,
        cluster_size_bytes: int = 0,  # 0: the source's, 64 KiB if it has none
        bandwidth_bytes_per_s: int = 0,
        granule_bytes: int = 0,
        lane_count: int = 0,
        check_space: bool = True,
        durable: bool = True,
        reflink: ReflinkMode = "auto",  # core/copy.h
        digest: bool = False,
        digest_shared: bool = True,  # for it also read what was shared; else a copy that shares has none
        compression: Compression = "none",  # of a new qcow2
        compression_level: int = 0,  # zlib: 1 to 9; zstd: 1 to 22; 0: the method's default (6, 3)
        extended_l2: bool | None = None,  # new qcow2 with clusters of 16 KiB or more; None: the source's
        preallocation: Preallocation = "off",  # new file: core/writer.h
        bitmap: str | None = None,
        journal_path: str | None = None,
        resume: bool = False,
        journal_interval_s: float = 0.0,  # 0: two seconds or more, so that it takes little of the time
        journal_stays: bool = False,
    ) -> Copy:
        """`bitmap`: a persistent bitmap of the source's top image; the destination is an earlier copy (`reuse`).

        Only what the bitmap marks becomes on the destination what the source reads there, in either mode; the rest
        stays untouched. The bitmap itself does too: `clear_bitmap` is a call of its own. EngineError `no-bitmap`, or
        `bitmap` for one that is in use, inconsistent or of another size, or `invalid` for a destination that is an
        unfinished copy (but for the one that `resume` goes on with).

        `journal_path`: where to keep what is durable so far, once the copy lives long enough to need it. It is removed
        when the copy is published. With `resume` the copy goes on from the journal that is there, and begins at the
        beginning when there is none that is whole (`is_resumed` tells). EngineError `changed`: an image of the source,
        the destination or an option is not what it was when the journal was begun; nothing was changed then. A kind of
        destination that cannot be gone on with keeps no journal. `journal_stays`: it is not removed when the copy is
        published but says that nothing is left, so that a resume finds the destination complete; the caller removes it.
        """

    def run(self) -> None:
        """Returns when the destination is complete and durable; may be called once.

        EngineError otherwise; kind `cancelled` after `cancel`.
        """

    def keep_unfinished(self, keeps: bool) -> None:
        """Whether a copy that fails or is cancelled keeps partial file and journal (default: no).

        May be called until `run` returns.
        """

    @property
    def is_resumed(self) -> bool:
        """Whether it goes on from an earlier run's journal."""

    def cancel(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def set_bandwidth(self, bytes_per_s: int) -> None: ...
    def progress(self) -> CopyProgress: ...
    def map(self, cell_count: int) -> bytes:
        """One CELL_* value per cell, the disk cut into cells of equal width."""

    @property
    def digest(self) -> str:
        """`xxh3-` and 32 hexadecimal digits: the disk as it was read (docs/digest.md), once the copy is done.

        "" without `digest=True`, and in mode "top", which does not read the whole disk.
        """

    def mark_unfinished(self) -> None:
        """Gives a destination that is complete the mark of an unfinished copy again, when it turned out to be wrong.

        Its name stays. EngineError `unsupported` for a raw block device, which cannot be marked.
        """

    def close(self) -> None:
        """Frees; unpublished new destinations lose their partial file. Drops the destination's lock.

        EngineError `invalid` while `run` has not returned.
        """

    def __enter__(self) -> Copy: ...
    def __exit__(self, *_: object) -> None: ...

@final
class Merge:
    """One pull or commit: data of some layers of a chain moves into another layer of it, in place.

    At every moment the image that is written is a good image and the disk reads the same; before `run` nothing is
    changed. The written image gets the writer lock (and is refused, `locked`, while anybody uses it), and so does the
    image whose backing reference changes; all others get the reader lock. Run again after a crash, a merge completes.
    Rules: core/merge.h.
    """

    @staticmethod
    def pull(
        layers: Sequence[tuple[str, ImageFormat]],
        policy: PathPolicy,
        *,
        terminated: bool = False,
        base_index: int | None = None,
        backing_path: str | None = None,
        bandwidth_bytes_per_s: int = 0,
        granule_bytes: int = 0,
        lane_count: int = 0,
        durable: bool = True,
        journal_path: str | None = None,  # as for Copy
        resume: bool = False,
        journal_interval_s: float = 0.0,
        journal_stays: bool = False,
    ) -> Merge:
        """What lies between `layers[0]` and `layers[base_index]` (None: everything below) moves into `layers[0]`.

        Last, its backing reference becomes `layers[base_index]`, recorded as `backing_path` (default: its absolute
        path) with its format, or none. Indexes count in the opened chain. EngineError `invalid`: an index, or a
        `backing_path` that leads to another file or does not fit the header; `unsupported`: internal snapshots in
        `layers[0]`, which a pull would cut off from what they read.
        """

    @staticmethod
    def commit(
        layers: Sequence[tuple[str, ImageFormat]],
        policy: PathPolicy,
        *,
        terminated: bool = False,
        top_index: int,
        base_index: int,
        backing_path: str | None = None,
        bandwidth_bytes_per_s: int = 0,
        granule_bytes: int = 0,
        lane_count: int = 0,
        durable: bool = True,
        journal_path: str | None = None,  # as for Copy
        resume: bool = False,
        journal_interval_s: float = 0.0,
        journal_stays: bool = False,
    ) -> Merge:
        """`layers[top_index:base_index]` move into `layers[base_index]`, which first grows to the top's size.

        With `top_index` > 0 the image above the top then gets `layers[base_index]` as its backing file, recorded as
        `backing_path` (default: its absolute path). With 0 `run` returns when every byte is in the base and durable;
        what uses the base next is the caller's business. The base's persistent bitmaps become invalid. EngineError
        `size`: the base is a block device that is too small; else as for `pull`.
        """

    @property
    def layers(self) -> tuple[ImageInfo, ...]:
        """What the images said when they were opened."""

    @property
    def size_bytes(self) -> int:
        """Virtual size of the written image when the merge is done."""

    def run(self) -> None:
        """Returns when everything is moved and durable, and the backing reference changed; may be called once.

        EngineError otherwise; kind `cancelled` after `cancel`: then what was moved stays moved.
        """

    def keep_unfinished(self, keeps: bool) -> None:
        """Whether a merge that fails or is cancelled keeps its journal (default: no), as for Copy."""

    @property
    def is_resumed(self) -> bool:
        """Whether it goes on from an earlier run's journal."""

    def cancel(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def set_bandwidth(self, bytes_per_s: int) -> None: ...
    def progress(self) -> CopyProgress: ...
    def map(self, cell_count: int) -> bytes:
        """One CELL_* value per cell, the disk cut into cells of equal width; what does not move counts as zero."""

    def close(self) -> None:
        """Drops the locks. EngineError `invalid` while `run` has not returned."""

    def __enter__(self) -> Merge: ...
    def __exit__(self, *_: object) -> None: ...

@final
class CancelFlag:
    """Ends a `compare` that runs in another thread; once set, it stays set."""

    def set(self) -> None:
        """Lets the call that was given this flag end soon, with EngineError `cancelled`."""

def digest(chain: Chain, cancel: CancelFlag | None = None, *, drop_cache: bool = False) -> str:
    """The digest of what a disk reads as (docs/digest.md): the same in every format.

    `drop_cache`: read the top image from its device instead of from memory, where the kernel heeds POSIX_FADV_DONTNEED
    (not on tmpfs).
    """

def compare(left: Chain, right: Chain, cancel: CancelFlag | None = None, *, pad: bool = False) -> int | None:
    """Offset of the first byte in which two disks differ; None when they read the same.

    Different sizes are an EngineError `size`, unless `pad` lets the shorter disk go on in zeros: qcow2 holds whole
    sectors only, so a copy of a raw disk of odd length is longer.
    """

@final
class BitmapInfo:
    """What an image says of one of its persistent bitmaps. Immutable."""

    name: str
    granularity_bytes: int
    is_enabled: bool  # whoever opens the image for writing records its writes in it
    state: BitmapState  # only a usable one says what was written
    dirty_bytes: int | None  # what it marks; None unless usable

def list_bitmaps(path: str, policy: PathPolicy) -> tuple[BitmapInfo, ...]:
    """The persistent bitmaps of a qcow2 image, in the image's order; none in version 2.

    Takes the reader lock: EngineError `locked` while somebody has the image open for writing.
    """

def add_bitmap(
    path: str, name: str, policy: PathPolicy, *, granularity_bytes: int = 65536, is_enabled: bool = True
) -> None:
    """Gives a qcow2 image at rest a new bitmap, in which nothing is dirty; durable when it returns.

    `granularity_bytes`: a power of two from 512 to 2 GiB. `is_enabled`: whoever opens the image for writing records in
    it (qemu-img bitmap --add; --disable without). Bitmaps that are not valid any more are dropped first, as QEMU does.
    EngineError `locked` while anybody uses the image, `exists`, `invalid`, or `unsupported` (a version 2 image, no room
    in the header).
    """

def remove_bitmap(path: str, name: str, policy: PathPolicy) -> None:
    """Takes a bitmap from an image at rest, whatever its state. EngineError `no-bitmap`; else as `add_bitmap`."""

def clear_bitmap(path: str, name: str, policy: PathPolicy) -> None:
    """Makes a bitmap of an image at rest mark nothing. EngineError `no-bitmap`, or `bitmap` for one not usable."""

@final
class Bitmap:
    """The dirty bitmap, for tests and tools (core/bitmap.h)."""

    def __new__(cls, size_bytes: int, granule_bytes: int = 65536) -> Bitmap: ...
    @property
    def granule_bytes(self) -> int: ...
    @property
    def dirty_bytes(self) -> int: ...
    @property
    def in_flight_bytes(self) -> int: ...
    def set(self, start_bytes: int, length_bytes: int) -> None: ...
    def clear(self, start_bytes: int, length_bytes: int) -> None: ...
    def get(self, offset_bytes: int) -> bool: ...
    def claim(self, cursor_bytes: int, max_bytes: int, align_bytes: int) -> tuple[int, int, int] | None:
        """(start, length, new cursor) of a claimed run, or None."""

    def release(self, start_bytes: int, length_bytes: int, moved: bool) -> None: ...
    def serialize(self) -> bytes: ...
    def deserialize(self, data: bytes) -> None: ...
