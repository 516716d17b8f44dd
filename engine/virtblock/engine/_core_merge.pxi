# SPDX-License-Identifier: Apache-2.0
# Part of _core.pyx: Merge, that is pull and commit.
#
# Invariants: as for Copy: `_mutex` is held by every call but run(), which `_is_running` covers, and which close() refuses.


@cython.final
@cython.no_gc_clear
cdef class Merge:
    """One pull or commit. Made by `Merge.pull` and `Merge.commit`. A context manager: leaving it closes."""

    cdef vb_merge *_merge
    cdef PathPolicy _policy
    cdef object _mutex
    cdef bint _has_run, _is_running
    cdef readonly tuple layers
    cdef readonly uint64_t size_bytes

    def __init__(self):
        raise TypeError("Merge is made by Merge.pull() and Merge.commit()")

    @staticmethod
    def pull(
        layers, PathPolicy policy not None, *, bint terminated=False, base_index=None, backing_path=None,
        bandwidth_bytes_per_s=0, granule_bytes=0, lane_count=0, bint durable=True, journal_path=None,
        bint resume=False, journal_interval_s=0.0, bint journal_stays=False,
    ):
        """What lies between the top and the base moves into the top, whose backing file then is the base, or none."""
        cdef vb_merge_request request
        memset(&request, 0, sizeof(request))
        request.span.base_index = <size_t>-1 if base_index is None else _layer_index(base_index, "base_index")
        request.durable = durable
        cdef vb_copy_options options = _merge_options(bandwidth_bytes_per_s, granule_bytes, lane_count)
        journal_name = _journal_options(&options, journal_path, resume, journal_interval_s, journal_stays)
        if base_index is None and backing_path is not None:
            raise _invalid("backing_path without base_index: the top will have no backing file")
        return _open_merge(layers, policy, terminated, &request, backing_path, &options)

    @staticmethod
    def commit(
        layers, PathPolicy policy not None, *, bint terminated=False, top_index, base_index, backing_path=None,
        bandwidth_bytes_per_s=0, granule_bytes=0, lane_count=0, bint durable=True, journal_path=None,
        bint resume=False, journal_interval_s=0.0, bint journal_stays=False,
    ):
        """`layers[top_index:base_index]` move into `layers[base_index]`, which the image above them then has as its backing file."""
        cdef vb_merge_request request
        memset(&request, 0, sizeof(request))
        request.span.is_commit = True
        request.span.top_index = _layer_index(top_index, "top_index")
        request.span.base_index = _layer_index(base_index, "base_index")
        request.durable = durable
        cdef vb_copy_options options = _merge_options(bandwidth_bytes_per_s, granule_bytes, lane_count)
        journal_name = _journal_options(&options, journal_path, resume, journal_interval_s, journal_stays)
        if request.span.top_index == 0 and backing_path is not None:
            raise _invalid("backing_path with top_index 0: no image lies above the top")
        return _open_merge(layers, policy, terminated, &request, backing_path, &options)

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        cdef vb_merge *merge = self._merge
        self._merge = NULL
        if merge is not NULL:
            with nogil:
                vb_merge_close(merge)

    cdef vb_copy *_copy(self) except NULL:
        if self._merge is NULL:
            raise _invalid("The merge is closed")
        return vb_merge_copy(self._merge)

    def run(self):
        """Returns when everything is moved and durable, and the backing reference changed; once."""
        with self._mutex:
            self._copy()
            if self._has_run:
                raise _invalid("A merge runs once")
            self._has_run = True
            self._is_running = True
        cdef int status
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with nogil:
            status = vb_merge_run(self._merge, &error)
        self._is_running = False
        if status < 0:
            raise _failure(&error)

    def cancel(self):
        """Ends a running merge soon, and a later run() at once."""
        with self._mutex:
            vb_copy_cancel(self._copy())

    def keep_unfinished(self, bint keeps):
        """Whether a merge that does not end well leaves its journal."""
        with self._mutex:
            vb_copy_keep_unfinished(self._copy(), keeps)

    @property
    def is_resumed(self):
        """Whether the merge goes on from an earlier run's journal."""
        with self._mutex:
            return vb_copy_is_resumed(self._copy())

    def pause(self):
        """Lets the lanes finish what they hold and then wait."""
        with self._mutex:
            vb_copy_pause(self._copy())

    def resume(self):
        """Ends a pause."""
        with self._mutex:
            vb_copy_resume(self._copy())

    def set_bandwidth(self, bytes_per_s):
        """The speed limit from now on; 0 is none."""
        cdef uint64_t limit = _within(bytes_per_s, "bytes_per_s", 0, _OFFSET_MAX)
        with self._mutex:
            vb_copy_set_bandwidth(self._copy(), limit)

    def progress(self):
        """How far the merge is."""
        cdef vb_copy_progress said
        with self._mutex:
            vb_copy_get_progress(self._copy(), &said)
        return _copy_progress(&said)

    def map(self, cell_count):
        """One CELL_* value per cell, the disk cut into cells of equal width."""
        cdef size_t count = _within(cell_count, "cell_count", 1, _CELL_COUNT_MAX)
        cells = PyBytes_FromStringAndSize(NULL, count)
        cdef uint8_t *c_cells = <uint8_t *>PyBytes_AS_STRING(cells)
        cdef vb_copy *copy
        with self._mutex:
            copy = self._copy()
            with nogil:
                vb_copy_map(copy, c_cells, count)
        return cells

    def close(self):
        """Frees, and drops the locks."""
        with self._mutex:
            if self._is_running:
                raise _invalid("The merge is running; cancel it and wait for run() to return")
            self._free()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


cdef size_t _layer_index(object value, str name) except? 0:
    return _within(value, name, 0, _LAYER_INDEX_MAX)


cdef vb_copy_options _merge_options(object bandwidth_bytes_per_s, object granule_bytes, object lane_count) except *:
    cdef vb_copy_options options
    memset(&options, 0, sizeof(options))
    options.bandwidth_bytes_per_s = _within(bandwidth_bytes_per_s, "bandwidth_bytes_per_s", 0, _OFFSET_MAX)
    options.granule_bytes = granule_bytes and _granule_size(granule_bytes)
    options.lane_count = _within(lane_count, "lane_count", 0, _LANE_COUNT_MAX)
    return options


cdef Merge _open_merge(
    object layers, PathPolicy policy, bint terminated, vb_merge_request *request, object backing_path,
    const vb_copy_options *options,
):
    cdef _LayerSpecs wanted = _LayerSpecs(layers)
    cdef Merge merge = Merge.__new__(Merge)
    merge._mutex = allocate_lock()
    merge._policy = policy
    name = None if backing_path is None else _encoded(backing_path)
    if name is not None:
        request.backing_path = name
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    with nogil:
        merge._merge = vb_merge_open(policy._policy, wanted.specs, wanted.count, terminated, request, options, &error)
    if merge._merge is NULL:
        raise _failure(&error)
    cdef const vb_chain *chain = vb_merge_chain(merge._merge)
    merge.layers = _image_infos(chain)
    cdef vb_copy_progress said
    vb_copy_get_progress(vb_merge_copy(merge._merge), &said)
    merge.size_bytes = said.size_bytes
    return merge
