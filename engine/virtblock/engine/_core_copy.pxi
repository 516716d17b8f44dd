# SPDX-License-Identifier: Apache-2.0
# Part of _core.pyx: what writes. ImageWriter, Copy with its progress, and compare.
#
# Invariants: `_mutex` is held by every call but Copy.run, so that close() cannot free what another thread's call uses; Copy.run is
# covered by `_is_running`, which close() refuses. C never calls back, so waiting for `_mutex` ends.


cdef int _close_writer(vb_writer *writer) noexcept nogil:
    writer.ops.close(writer)
    return 0


@cython.final
@cython.no_gc_clear
cdef class ImageWriter:
    """Writes into an image that nothing else uses, under the writer lock: raw anywhere, qcow2 in whole clusters."""

    cdef vb_writer *_writer
    cdef PathPolicy _policy
    cdef object _mutex

    def __cinit__(self, path, format, PathPolicy policy not None):
        self._mutex = allocate_lock()
        self._policy = policy
        name = _encoded(path)
        cdef const char *c_name = name
        cdef vb_format c_format = <vb_format>_format_number(format)
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with nogil:
            self._writer = vb_image_open_writable(policy._policy, c_name, c_format, &error)
        if self._writer is NULL:
            raise _failure(&error)

    def __dealloc__(self):
        if self._writer is not NULL:
            with nogil:
                _close_writer(self._writer)

    cdef int _check_open(self) except -1:
        if self._writer is NULL:
            raise _invalid("The image writer is closed")
        return 0

    def write(self, offset_bytes, data):
        """Puts `data` at a guest offset."""
        cdef const uint8_t[::1] view = data
        cdef size_t length = view.shape[0]
        cdef uint64_t start = _within(offset_bytes, "offset_bytes", 0, _OFFSET_MAX)
        cdef const uint8_t *bytes_in = &view[0] if length else NULL
        cdef int status = 0
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with self._mutex:
            self._check_open()
            with nogil:
                status = self._writer.ops.write(self._writer, start, bytes_in, length, &error) if length else 0
        if status < 0:
            raise _failure(&error)

    def zero(self, offset_bytes, length_bytes):
        """Makes a range read as zeros."""
        cdef uint64_t start = _within(offset_bytes, "offset_bytes", 0, _OFFSET_MAX)
        cdef uint64_t length = _within(length_bytes, "length_bytes", 0, _OFFSET_MAX)
        cdef int status = 0
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with self._mutex:
            self._check_open()
            with nogil:
                status = self._writer.ops.zero(self._writer, start, length, &error) if length else 0
        if status < 0:
            raise _failure(&error)

    def close(self):
        """Writes the metadata and syncs; whatever comes of it, the image is closed and its lock dropped."""
        cdef int status = 0
        cdef vb_writer *writer
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with self._mutex:
            writer = self._writer
            self._writer = NULL
            if writer is NULL:
                return
            with nogil:
                status = writer.ops.publish(writer, &error)
                _close_writer(writer)
        if status < 0:
            raise _failure(&error)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@cython.final
cdef class CopyProgress:
    """One consistent-enough snapshot of a running copy."""

    cdef readonly str phase
    cdef readonly bint paused
    cdef readonly uint64_t size_bytes, total_bytes, moved_bytes, resumed_bytes, durable_bytes, remaining_bytes, read_bytes
    cdef readonly uint64_t written_bytes, stored_bytes, shared_bytes, zero_bytes, elapsed_ns, bandwidth_bytes_per_s

    def __init__(self):
        raise TypeError("CopyProgress is made by Copy.progress()")

    def __repr__(self):
        return f"CopyProgress({self.phase!r}, moved_bytes={self.moved_bytes}, total_bytes={self.total_bytes})"


cdef CopyProgress _copy_progress(const vb_copy_progress *said):
    cdef CopyProgress progress = CopyProgress.__new__(CopyProgress)
    progress.phase = _PHASES[said.phase]
    progress.paused = said.paused
    progress.size_bytes = said.size_bytes
    progress.total_bytes = said.total_bytes
    progress.moved_bytes = said.moved_bytes
    progress.resumed_bytes = said.resumed_bytes
    progress.durable_bytes = said.durable_bytes
    progress.remaining_bytes = said.remaining_bytes
    progress.read_bytes = said.read_bytes
    progress.written_bytes = said.written_bytes
    progress.stored_bytes = said.stored_bytes
    progress.shared_bytes = said.shared_bytes
    progress.zero_bytes = said.zero_bytes
    progress.elapsed_ns = said.elapsed_ns
    progress.bandwidth_bytes_per_s = said.bandwidth_bytes_per_s
    return progress


cdef int _check_backing(Chain source, format, mode, bint reuse, backing_path, backing_format) except -1:
    """Refuses a backing file where none belongs, and none where the copy would not be complete without."""
    if backing_path is None:
        if backing_format is not None:
            raise _invalid("backing_format without backing_path")
        if mode == "top" and not reuse and len(source.layers) > 1:
            raise _invalid("A new destination of the top image alone needs backing_path")
        return 0
    if mode != "top" or reuse or format != "qcow2":
        raise _invalid("backing_path belongs to a new qcow2 destination of the top image alone")
    if backing_format is None:
        raise _invalid("backing_path needs backing_format: formats are recorded, never probed")
    return 0


cdef bytes _journal_options(vb_copy_options *options, object path, bint resume, object interval_s, bint stays):
    """Fills in the journal; the result holds the name that `options` points to."""
    if path is None:
        if resume:
            raise _invalid("resume needs journal_path")
        return None
    cdef bytes name = _encoded(path)
    cdef double seconds = interval_s
    if not 0 <= seconds <= _JOURNAL_INTERVAL_MAX_S:
        raise _invalid(f"journal_interval_s must lie between 0 and {_JOURNAL_INTERVAL_MAX_S}, not {interval_s}")
    options.journal_path = name
    options.resume = resume
    options.journal_stays = stays
    options.journal_interval_ms = <uint32_t>(seconds * 1000)
    if seconds > 0 and options.journal_interval_ms == 0:
        options.journal_interval_ms = 1
    return name


cdef int _open_copy(
    const vb_chain *source, const vb_policy *policy, const vb_destination_spec *spec, const vb_copy_options *options,
    vb_writer **writer, vb_copy **copy, vb_error *error,
) noexcept nogil:
    """Both or none."""
    writer[0] = vb_copy_open_destination(policy, spec, source, options, error)
    if writer[0] is NULL:
        return -1
    copy[0] = vb_copy_new(source, writer[0], options, error)
    if copy[0] is NULL:
        _close_writer(writer[0])
        writer[0] = NULL
        return -1
    return 0


@cython.final
@cython.no_gc_clear
cdef class Copy:
    """One copy of a chain to one destination. A context manager: leaving it closes."""

    cdef vb_copy *_copy
    cdef vb_writer *_writer
    cdef Chain _source  # kept open for as long as `_copy` lives
    cdef PathPolicy _policy
    cdef object _mutex
    cdef bint _has_run, _is_running

    def __cinit__(
        self, Chain source not None, destination_path, destination_format, PathPolicy policy not None, *,
        mode="full", bint reuse=False, backing_path=None, backing_format=None, cluster_size_bytes=0,
        bandwidth_bytes_per_s=0, granule_bytes=0, lane_count=0, bint check_space=True, bint durable=True,
        reflink="auto", bint digest=False, bint digest_shared=True, compression="none", compression_level=0, bitmap=None, extended_l2=None,
        preallocation="off",
        journal_path=None, bint resume=False, journal_interval_s=0.0, bint journal_stays=False,
    ):
        self._mutex = allocate_lock()
        cdef vb_copy_options options
        memset(&options, 0, sizeof(options))
        options.mode = <vb_plan_mode>_mode_number(mode)
        options.bandwidth_bytes_per_s = _within(bandwidth_bytes_per_s, "bandwidth_bytes_per_s", 0, _OFFSET_MAX)
        options.granule_bytes = granule_bytes and _granule_size(granule_bytes)
        options.lane_count = _within(lane_count, "lane_count", 0, _LANE_COUNT_MAX)
        options.check_space = check_space
        options.digest = digest
        options.digest_shared = digest_shared
        journal_name = _journal_options(&options, journal_path, resume, journal_interval_s, journal_stays)
        options.reflink = <vb_reflink>_reflink_number(reflink)
        name = None if bitmap is None else _bitmap_name(bitmap)
        if name is not None:
            options.bitmap_name = PyBytes_AS_STRING(name)
            if not reuse:
                raise _invalid("A bitmap brings an earlier copy up to date: it needs reuse=True")
        _check_backing(source, destination_format, mode, reuse, backing_path, backing_format)
        if extended_l2 is None and (reuse or compression != "none"):
            extended_l2 = False
        cdef _Destination wanted = _Destination(
            destination_path, destination_format, source.size_bytes, backing_path, backing_format,
            *_inherited_clusters(source, destination_format, cluster_size_bytes, extended_l2), preallocation,
        )
        wanted.spec.reuse = reuse
        wanted.spec.durable = durable
        wanted.spec.compression = <vb_compress>_compression_number(compression)
        wanted.spec.compression_level = _within(compression_level, "compression_level", 0, _LEVEL_MAX)
        cdef const vb_chain *chain = source._enter()
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        cdef int status
        with nogil:
            status = _open_copy(chain, policy._policy, &wanted.spec, &options, &self._writer, &self._copy, &error)
        source._leave()
        if status < 0:
            raise _failure(&error)
        source._copy_count += 1
        self._source = source
        self._policy = policy

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        # Without Python's lock: closing waits for the lanes to end and for the disk.
        cdef vb_copy *copy = self._copy
        cdef vb_writer *writer = self._writer
        self._copy = NULL
        self._writer = NULL
        if copy is NULL:
            return
        with nogil:
            vb_copy_free(copy)
            _close_writer(writer)
        self._source._drop_copy()

    cdef int _check_open(self) except -1:
        if self._copy is NULL:
            raise _invalid("The copy is closed")
        return 0

    def run(self):
        """Returns when the destination is complete and durable; once."""
        with self._mutex:
            self._check_open()
            if self._has_run:
                raise _invalid("A copy runs once")
            self._has_run = True
            self._is_running = True
            self._source._call_count += 1
        cdef int status
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with nogil:
            status = vb_copy_run(self._copy, &error)
        self._source._leave()
        self._is_running = False
        if status < 0:
            raise _failure(&error)

    def cancel(self):
        """Ends a running copy soon, and a later run() at once."""
        with self._mutex:
            self._check_open()
            with nogil:
                vb_copy_cancel(self._copy)

    def keep_unfinished(self, bint keeps):
        """Whether a copy that does not end well leaves its partial file and its journal."""
        with self._mutex:
            self._check_open()
            vb_copy_keep_unfinished(self._copy, keeps)

    @property
    def is_resumed(self):
        """Whether the copy goes on from an earlier run's journal."""
        with self._mutex:
            self._check_open()
            return vb_copy_is_resumed(self._copy)

    def pause(self):
        """Lets the lanes finish what they hold and then wait."""
        with self._mutex:
            self._check_open()
            with nogil:
                vb_copy_pause(self._copy)

    def resume(self):
        """Ends a pause."""
        with self._mutex:
            self._check_open()
            with nogil:
                vb_copy_resume(self._copy)

    def set_bandwidth(self, bytes_per_s):
        """The speed limit from now on; 0 is none."""
        cdef uint64_t limit = _within(bytes_per_s, "bytes_per_s", 0, _OFFSET_MAX)
        with self._mutex:
            self._check_open()
            with nogil:
                vb_copy_set_bandwidth(self._copy, limit)

    def progress(self):
        """How far the copy is."""
        cdef vb_copy_progress said
        with self._mutex:
            self._check_open()
            with nogil:
                vb_copy_get_progress(self._copy, &said)
        return _copy_progress(&said)

    def map(self, cell_count):
        """One CELL_* value per cell, the disk cut into cells of equal width."""
        cdef size_t count = _within(cell_count, "cell_count", 1, _CELL_COUNT_MAX)
        cells = PyBytes_FromStringAndSize(NULL, count)
        cdef uint8_t *c_cells = <uint8_t *>PyBytes_AS_STRING(cells)
        with self._mutex:
            self._check_open()
            with nogil:
                vb_copy_map(self._copy, c_cells, count)
        return cells

    @property
    def digest(self):
        """The digest of the disk as it was read; "" if there is none."""
        cdef char[VB_DIGEST_TEXT_BYTES] text
        with self._mutex:
            self._check_open()
            with nogil:
                vb_copy_digest(self._copy, text)
        return text.decode("ascii")

    def mark_unfinished(self):
        """Takes back that the destination is complete."""
        cdef int status
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with self._mutex:
            self._check_open()
            if self._is_running or not self._writer.published:
                raise _invalid("Only a destination that is complete can be marked unfinished again")
            with nogil:
                status = self._writer.ops.unpublish(self._writer, &error)
        if status < 0:
            raise _failure(&error)

    def close(self):
        """Frees, and drops the destination's lock; an unpublished new destination loses its partial file."""
        with self._mutex:
            if self._is_running:
                raise _invalid("The copy is running; cancel it and wait for run() to return")
            self._free()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@cython.final
cdef class CancelFlag:
    """Ends a compare() that runs in another thread; once set, it stays set."""

    cdef c_bool _is_set

    def set(self):
        """Lets the call that was given this flag end soon, with EngineError `cancelled`."""
        self._is_set = True


def digest(Chain chain not None, CancelFlag cancel=None, *, bint drop_cache=False):
    """The digest of what a disk reads as."""
    cdef const vb_chain *c_chain = chain._enter()
    cdef const c_bool *cancelled = NULL if cancel is None else &cancel._is_set
    cdef char[VB_DIGEST_TEXT_BYTES] text
    cdef int status
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    with nogil:
        status = vb_digest_chain(c_chain, drop_cache, cancelled, text, &error)
    chain._leave()
    if status < 0:
        raise _failure(&error)
    return text.decode("ascii")


def compare(Chain left not None, Chain right not None, CancelFlag cancel=None, *, bint pad=False):
    """Offset of the first byte in which two disks differ; None when they read the same."""
    cdef const vb_chain *c_left = left._enter()
    cdef const vb_chain *c_right
    try:
        c_right = right._enter()
    except EngineError:
        left._leave()
        raise
    cdef const c_bool *cancelled = NULL if cancel is None else &cancel._is_set
    cdef uint64_t offset = 0
    cdef int status
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    with nogil:
        status = vb_compare(c_left, c_right, pad, &offset, cancelled, &error)
    left._leave()
    right._leave()
    if status < 0:
        raise _failure(&error)
    return None if status else offset
