# SPDX-License-Identifier: Apache-2.0
"""The hinge between Python and the C core. What each name means is written in `_core.pyi`.

Owns: the lifetime of the core's objects as Python sees them, and the check of arguments before they reach C.
Invariants: C is called with Python's lock released; a failed constructor leaves nothing behind; nothing is freed while a call uses
it. Counters and flags of an object change only with Python's lock held, which makes each change atomic.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from operator import index

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.fcntl cimport O_RDONLY

from virtblock.engine._core_c cimport *

CELL_TODO = VB_CELL_TODO
CELL_COPYING = VB_CELL_COPYING
CELL_DONE = VB_CELL_DONE
CELL_ZERO = VB_CELL_ZERO
CELL_DIRTY_AGAIN = VB_CELL_DIRTY_AGAIN
CELL_FAILED = VB_CELL_FAILED

# In the order of enum vb_error_kind, from 1.
_KINDS = (
    "system", "invalid", "format", "unsupported", "denied", "locked", "backing", "backing-format", "size", "space",
    "cancelled", "memory", "exists", "same-file", "internal", "no-bitmap", "bitmap", "changed",
)  # fmt: skip
_PHASES = ("new", "planning", "copying", "flushing", "done", "failed")
_FORMATS = {"raw": VB_FORMAT_RAW, "qcow2": VB_FORMAT_QCOW2}
_FORMAT_NAMES = {VB_FORMAT_RAW: "raw", VB_FORMAT_QCOW2: "qcow2"}
_MODES = {"full": VB_PLAN_FULL, "top": VB_PLAN_TOP}
_REFLINKS = {"auto": VB_REFLINK_AUTO, "never": VB_REFLINK_NEVER, "always": VB_REFLINK_ALWAYS}
_COMPRESSIONS = {"none": VB_COMPRESS_NONE, "zlib": VB_COMPRESS_ZLIB, "zstd": VB_COMPRESS_ZSTD}
_PREALLOCATIONS = {
    "off": VB_PREALLOCATION_OFF, "metadata": VB_PREALLOCATION_METADATA, "falloc": VB_PREALLOCATION_FALLOC,
    "full": VB_PREALLOCATION_FULL,
}  # fmt: skip
_EXTENT_NAMES = {VB_EXTENT_ZERO: "zero", VB_EXTENT_DATA: "data", VB_EXTENT_COMPRESSED: "compressed"}

_OFFSET_MAX = 2**63 - 1
_CLUSTER_MIN_BYTES = 512
_CLUSTER_MAX_BYTES = 2 * 1024 * 1024
_CLUSTER_DEFAULT_BYTES = 64 * 1024
_CLUSTER_EXTENDED_MIN_BYTES = 16 * 1024
_GRANULE_MIN_BYTES = 4096
_GRANULE_MAX_BYTES = 64 * 1024 * 1024
_LANE_COUNT_MAX = 64
_JOURNAL_INTERVAL_MAX_S = 3600
_LAYER_INDEX_MAX = 65535
_LEVEL_MAX = 2**31 - 1  # the core knows each method's own
_CELL_COUNT_MAX = 1024 * 1024
_RAW_UNIT_BYTES = 4096
_SUBCLUSTER_COUNT = 32
_INCOMPATIBLE_DIRTY = 1
_INCOMPATIBLE_CORRUPT = 2
_INCOMPATIBLE_EXTENDED_L2 = 16


class EngineError(Exception):
    """Any failure of the engine; `str()` is one sentence with the place and the reason."""

    def __init__(self, kind, reason, *, errno=0, path="", offset_bytes=-1):
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason
        self.errno = errno
        self.path = path
        self.offset_bytes = offset_bytes

    def __str__(self):
        text = self.reason
        if self.path:
            # A name that is not UTF-8 must not make the message itself unprintable.
            text += f": '{os.fsencode(self.path).decode('utf-8', 'replace')}'"
        if self.offset_bytes >= 0:
            text += f" at offset {self.offset_bytes}"
        if self.errno:
            text += f": {os.strerror(self.errno)}"
        return text


cdef object _failure(vb_error *error):
    """The exception for a failure that C reported."""
    if not 1 <= error.kind <= len(_KINDS):
        return EngineError("internal", f"The core failed without saying why (kind {error.kind})")
    return EngineError(
        _KINDS[error.kind - 1],
        error.message.decode("utf-8", "replace"),
        errno=error.system_errno,
        path=os.fsdecode(<bytes>error.path),
        offset_bytes=error.offset_bytes,
    )


cdef object _invalid(str reason):
    return EngineError("invalid", reason)


cdef bytes _encoded(object path):
    name = os.fsencode(path)
    if not name:
        raise _invalid("A path is empty")
    if b"\0" in name:
        raise _invalid(f"A path contains a null byte: {path!r}")
    return name


cdef int _format_number(object name) except -1:
    number = _FORMATS.get(name)
    if number is None:
        raise _invalid(f"Unknown image format {name!r}; known are raw and qcow2")
    return number


cdef int _mode_number(object name) except -1:
    number = _MODES.get(name)
    if number is None:
        raise _invalid(f"Unknown copy mode {name!r}; known are full and top")
    return number


cdef int _reflink_number(object name) except -1:
    number = _REFLINKS.get(name)
    if number is None:
        raise _invalid(f"Unknown reflink mode {name!r}; known are auto, never and always")
    return number


cdef int _compression_number(object name) except -1:
    number = _COMPRESSIONS.get(name)
    if number is None:
        raise _invalid(f"Unknown compression {name!r}; known are none, zlib and zstd")
    return number


cdef int _preallocation_number(object name) except -1:
    number = _PREALLOCATIONS.get(name)
    if number is None:
        raise _invalid(f"Unknown preallocation {name!r}; known are off, metadata, falloc and full")
    return number


cdef object _within(object value, str name, object low, object high):
    number = index(value)
    if not low <= number <= high:
        raise _invalid(f"{name} must lie between {low} and {high}, not {number}")
    return number


cdef object _power_of_two(object value, str name, object low, object high):
    number = _within(value, name, low, high)
    if number & (number - 1):
        raise _invalid(f"{name} must be a power of two, not {number}")
    return number


cdef tuple _range(object start, object length, object size):
    first = _within(start, "start_bytes", 0, _OFFSET_MAX)
    count = _within(length, "length_bytes", 0, _OFFSET_MAX)
    if first + count > size:
        raise _invalid(f"The range of {count} bytes at {first} ends behind the {size} bytes there are")
    return first, count


include "_core_policy.pxi"


@cython.final
cdef class ImageInfo:
    """What one image says of itself. Immutable."""

    cdef readonly str path, format, backing_path, backing_format, data_path, data_file, compression
    cdef readonly uint64_t virtual_size_bytes, allocated_bytes, file_size_bytes, device, inode
    cdef readonly uint32_t cluster_size_bytes, version, refcount_bits, snapshot_count
    cdef readonly bint is_dirty, is_corrupt, is_block_device, has_extended_l2

    def __init__(self):
        raise TypeError("ImageInfo is made by inspect() and Chain")

    def __repr__(self):
        return f"ImageInfo({self.path!r}, {self.format!r}, virtual_size_bytes={self.virtual_size_bytes})"


cdef ImageInfo _image_info(const vb_layer *layer):
    cdef const vb_image_info *said = vb_layer_info(layer)
    cdef const vb_file *file = vb_layer_file(layer)
    cdef ImageInfo info = ImageInfo.__new__(ImageInfo)
    info.path = os.fsdecode(<bytes>file.path)
    info.format = _FORMAT_NAMES[said.format]
    info.virtual_size_bytes = said.virtual_size_bytes
    info.allocated_bytes = said.allocated_bytes
    info.file_size_bytes = file.size_bytes
    info.backing_path = None if said.backing_path is NULL else os.fsdecode(<bytes>said.backing_path)
    info.backing_format = None if said.backing_format is NULL else os.fsdecode(<bytes>said.backing_format)
    info.data_path = None if said.data_path is NULL else os.fsdecode(<bytes>said.data_path)
    cdef const vb_file *data_file = vb_layer_data_file(layer)
    info.data_file = None if data_file == file else os.fsdecode(<bytes>data_file.path)
    info.cluster_size_bytes = said.cluster_size_bytes
    info.version = said.version
    info.compression = "zstd" if said.compression == VB_COMPRESSION_ZSTD else "zlib"
    info.refcount_bits = said.refcount_bits
    info.snapshot_count = said.snapshot_count
    info.is_dirty = bool(said.incompatible_features & _INCOMPATIBLE_DIRTY)
    info.is_corrupt = bool(said.incompatible_features & _INCOMPATIBLE_CORRUPT)
    info.has_extended_l2 = bool(said.incompatible_features & _INCOMPATIBLE_EXTENDED_L2)
    info.is_block_device = file.is_block_device
    info.device = file.device
    info.inode = file.inode
    return info


cdef tuple _image_infos(const vb_chain *chain):
    return tuple([_image_info(vb_chain_layer(chain, i)) for i in range(vb_chain_depth(chain))])


@cython.final
cdef class _LayerSpecs:
    """Checked `vb_layer_spec`s with the strings that they point to."""

    cdef vb_layer_spec *specs
    cdef size_t count
    cdef list _encoded_paths

    def __cinit__(self, layers):
        checked = [(_encoded(path), _format_number(format)) for path, format in layers]
        if not checked:
            raise _invalid("A chain needs at least one image")
        self._encoded_paths = [path for path, _ in checked]
        self.count = len(checked)
        self.specs = <vb_layer_spec *>calloc(self.count, sizeof(vb_layer_spec))
        if self.specs is NULL:
            raise MemoryError
        cdef size_t i
        for i in range(self.count):
            self.specs[i].path = PyBytes_AS_STRING(checked[i][0])
            self.specs[i].format = <vb_format><int>checked[i][1]

    def __dealloc__(self):
        free(self.specs)


cdef int _probe(const vb_policy *policy, const char *path, vb_error *error) noexcept nogil:
    """The format's number; 0 when it failed."""
    cdef vb_file file
    memset(&file, 0, sizeof(file))
    if vb_policy_open(policy, path, O_RDONLY, 0, &file, error) < 0:
        return 0
    cdef int format = vb_format_probe(&file, error)
    vb_file_close(&file)
    return format


def probe(path, PathPolicy policy not None):
    """Format by the first bytes. Only for REUSE_EXT: probing trusts what a guest may have written."""
    name = _encoded(path)
    cdef const char *c_name = name
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    cdef int format
    with nogil:
        format = _probe(policy._policy, c_name, &error)
    if format not in _FORMAT_NAMES:
        raise _failure(&error)
    return _FORMAT_NAMES[format]


cdef vb_layer *_open_layer(const vb_policy *policy, const char *path, vb_format format, vb_error *error) noexcept nogil:
    cdef vb_file file
    memset(&file, 0, sizeof(file))
    if vb_policy_open(policy, path, O_RDONLY, 0, &file, error) < 0:
        return NULL
    return vb_layer_open(&file, format, error)


def inspect(path, format, PathPolicy policy not None):
    """Opens one image alone, without lock and without its backing file."""
    name = _encoded(path)
    cdef const char *c_name = name
    cdef vb_format c_format = <vb_format>_format_number(format)
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    cdef vb_layer *layer
    with nogil:
        layer = _open_layer(policy._policy, c_name, c_format, &error)
    if layer is NULL:
        raise _failure(&error)
    try:
        return _image_info(layer)
    finally:
        with nogil:
            vb_layer_close(layer)


cdef int _read_range(
    const vb_chain *chain, const vb_plan *plan, uint64_t start, char *buffer, size_t length, vb_error *error
) noexcept nogil:
    """Fills `buffer` with what a guest reads there: gaps of the plan are zeros."""
    cdef vb_reader *reader = vb_reader_new(chain, error)
    if reader is NULL:
        return -1
    memset(buffer, 0, length)
    cdef uint64_t end = start + length, first, last
    cdef size_t i = vb_plan_find(plan, start)
    cdef int status = 0
    cdef const vb_extent *extent
    while status == 0 and i < plan.extent_count and plan.extents[i].start_bytes < end:
        extent = &plan.extents[i]
        first = extent.start_bytes if extent.start_bytes > start else start
        last = extent.start_bytes + extent.length_bytes
        if last > end:
            last = end
        if extent.kind != VB_EXTENT_ZERO:
            status = vb_reader_read(
                reader, extent, first - extent.start_bytes, buffer + (first - start), last - first, error
            )
        i += 1
    vb_reader_free(reader)
    return status


@cython.final
@cython.no_gc_clear
cdef class Chain:
    """An open backing chain, read only, locked as QEMU's readers lock. A context manager."""

    cdef vb_chain *_chain
    cdef PathPolicy _policy
    cdef vb_plan *_plan  # the whole chain's, made by the first read()
    cdef Py_ssize_t _call_count  # calls that use the chain at this moment, a running copy among them
    cdef Py_ssize_t _copy_count  # copies that were made of it and are not closed
    cdef bint _is_closed
    cdef readonly tuple layers
    cdef readonly uint64_t size_bytes

    def __cinit__(self, layers, PathPolicy policy not None, *, bint terminated=False, bint lock=True):
        cdef _LayerSpecs wanted = _LayerSpecs(layers)
        cdef vb_lock_role role = VB_LOCK_READER if lock else VB_LOCK_NONE
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with nogil:
            self._chain = vb_chain_open(policy._policy, wanted.specs, wanted.count, terminated, role, &error)
        if self._chain is NULL:
            raise _failure(&error)
        self._policy = policy
        self.size_bytes = vb_chain_size_bytes(self._chain)
        self.layers = _image_infos(self._chain)

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        # Without Python's lock: the last close of a file on a network file system may wait.
        cdef vb_chain *chain = self._chain
        cdef vb_plan *plan = self._plan
        self._chain = NULL
        self._plan = NULL
        with nogil:
            if plan is not NULL:
                vb_plan_free(plan)
            if chain is not NULL:
                vb_chain_close(chain)

    cdef const vb_chain *_enter(self) except NULL:
        """Marks the chain as in use by a call; every success is followed by `_leave`."""
        if self._is_closed:
            raise _invalid("The chain is closed")
        self._call_count += 1
        return self._chain

    cdef void _leave(self) noexcept:
        self._call_count -= 1

    cdef void _drop_copy(self) noexcept:
        self._copy_count -= 1
        if self._is_closed and self._copy_count == 0:
            self._free()

    cdef vb_plan *_make_plan(self, vb_plan_mode mode, uint32_t unit_bytes) except NULL:
        """A new plan, which the caller frees."""
        cdef const vb_chain *chain = self._enter()
        cdef vb_plan *plan
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with nogil:
            plan = vb_plan_make(chain, mode, unit_bytes, NULL, &error)
        self._leave()
        if plan is NULL:
            raise _failure(&error)
        return plan

    def read(self, offset_bytes, length_bytes):
        """What the guest would read. For tools and tests, not for copying."""
        start, count = _range(offset_bytes, length_bytes, self.size_bytes)
        cdef uint64_t c_start = start
        cdef size_t c_length = count
        cdef vb_plan *plan
        if self._plan is NULL:
            plan = self._make_plan(VB_PLAN_FULL, _CLUSTER_MIN_BYTES)
            if self._plan is NULL:
                self._plan = plan
            else:
                vb_plan_free(plan)
        data = PyBytes_FromStringAndSize(NULL, c_length)
        cdef char *buffer = PyBytes_AS_STRING(data)
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        cdef int status
        cdef const vb_chain *chain = self._enter()
        with nogil:
            status = _read_range(chain, self._plan, c_start, buffer, c_length, &error)
        self._leave()
        if status < 0:
            raise _failure(&error)
        return data

    def map(self, mode="full"):
        """The plan as (start_bytes, length_bytes, "data" | "compressed" | "zero", layer_index)."""
        unit_bytes = self.layers[0].cluster_size_bytes or _CLUSTER_DEFAULT_BYTES
        cdef vb_plan *plan = self._make_plan(<vb_plan_mode>_mode_number(mode), unit_bytes)
        cdef const vb_extent *extent
        cdef size_t i
        rows = []
        try:
            for i in range(plan.extent_count):
                extent = &plan.extents[i]
                rows.append(
                    (extent.start_bytes, extent.length_bytes, _EXTENT_NAMES[extent.kind], extent.layer_index)
                )
        finally:
            with nogil:
                vb_plan_free(plan)
        return rows

    def required_bytes(self, format, mode="full", cluster_size_bytes=0, *, extended_l2=None, preallocation="off"):
        """Upper bound of what a new destination occupies."""
        clusters = _inherited_clusters(self, format, cluster_size_bytes, extended_l2)
        cdef _Destination wanted = _Destination("/", format, self.size_bytes, None, None, *clusters, preallocation)
        cdef uint32_t unit = _RAW_UNIT_BYTES
        if wanted.spec.format == VB_FORMAT_QCOW2:
            unit = wanted.spec.cluster_size_bytes
        if wanted.spec.extended_l2:
            unit //= <uint32_t>_SUBCLUSTER_COUNT
        cdef vb_plan *plan = self._make_plan(<vb_plan_mode>_mode_number(mode), unit)
        cdef uint64_t required
        with nogil:
            required = vb_writer_required_bytes(plan, &wanted.spec)
            vb_plan_free(plan)
        if required == UINT64_MAX:
            raise _invalid(f"A disk of {self.size_bytes} bytes does not fit clusters of {clusters[0]} bytes")
        return required

    def close(self):
        """Drops the locks and closes the files; with a copy not yet closed, when that closes."""
        if self._call_count:
            raise _invalid("The chain is in use by a running copy or another call")
        self._is_closed = True
        if self._copy_count == 0:
            self._free()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


cdef object _cluster_size(object value):
    return _power_of_two(value, "cluster_size_bytes", _CLUSTER_MIN_BYTES, _CLUSTER_MAX_BYTES)


cdef tuple _inherited_clusters(Chain source, object format, object cluster_size_bytes, object extended_l2):
    """Cluster size and extended L2 entries of a new destination: what was asked for, else what the source's top image has."""
    top = source.layers[0]
    cluster = cluster_size_bytes or top.cluster_size_bytes or _CLUSTER_DEFAULT_BYTES
    if extended_l2 is None:
        extended_l2 = format == "qcow2" and top.has_extended_l2 and cluster >= _CLUSTER_EXTENDED_MIN_BYTES
    elif extended_l2 and not cluster_size_bytes and cluster < _CLUSTER_EXTENDED_MIN_BYTES:
        cluster = _CLUSTER_DEFAULT_BYTES
    return cluster, extended_l2


@cython.final
cdef class _Destination:
    """A checked `vb_destination_spec` with the strings that it points to."""

    cdef vb_destination_spec spec
    cdef bytes _path, _backing_path, _backing_format

    def __cinit__(
        self, path, format, size_bytes, backing_path, backing_format, cluster_size_bytes, bint extended_l2, preallocation
    ):
        memset(&self.spec, 0, sizeof(self.spec))
        self._path = _encoded(path)
        self.spec.path = self._path
        self.spec.format = <vb_format>_format_number(format)
        self.spec.virtual_size_bytes = _within(size_bytes, "size_bytes", 0, _OFFSET_MAX)
        self.spec.cluster_size_bytes = _cluster_size(cluster_size_bytes)
        self.spec.extended_l2 = extended_l2
        if extended_l2 and self.spec.cluster_size_bytes < _CLUSTER_EXTENDED_MIN_BYTES:
            raise _invalid(f"A cluster size of {cluster_size_bytes} bytes is too small for extended L2 entries: they need 16 KiB")
        self.spec.preallocation = <vb_preallocation>_preallocation_number(preallocation)
        self.spec.durable = True
        if backing_path is not None:
            self._backing_path = _encoded(backing_path)
            self.spec.backing_path = self._backing_path
        if backing_format is not None:
            _format_number(backing_format)
            self._backing_format = os.fsencode(backing_format)
            self.spec.backing_format = self._backing_format


def create_image(
    path, format, size_bytes, PathPolicy policy not None, *,
    backing_path=None, backing_format=None, cluster_size_bytes=_CLUSTER_DEFAULT_BYTES, extended_l2=False,
    preallocation="off",
):
    """Makes an empty image (mode 0600), durable and at once: PATH must not exist. The backing file is recorded, not opened."""
    if backing_path is not None and format != "qcow2":
        raise _invalid(f"An image of format {format!r} has no backing file")
    cdef _Destination wanted = _Destination(
        path, format, size_bytes, backing_path, backing_format, cluster_size_bytes, extended_l2, preallocation
    )
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    cdef int status
    with nogil:
        status = vb_image_create(policy._policy, &wanted.spec, &error)
    if status < 0:
        raise _failure(&error)


def resize_image(path, format, size_bytes, PathPolicy policy not None):
    """Grows or (raw only) shrinks the virtual size in place, under the writer lock."""
    name = _encoded(path)
    cdef const char *c_name = name
    cdef vb_format c_format = <vb_format>_format_number(format)
    cdef uint64_t size = _within(size_bytes, "size_bytes", 0, _OFFSET_MAX)
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    cdef int status
    with nogil:
        status = vb_image_resize(policy._policy, c_name, c_format, size, &error)
    if status < 0:
        raise _failure(&error)


include "_core_copy.pxi"
include "_core_merge.pxi"
include "_core_bitmap.pxi"
include "_core_persistent_bitmaps.pxi"
