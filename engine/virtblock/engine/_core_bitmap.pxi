# SPDX-License-Identifier: Apache-2.0
# Part of _core.pyx: the dirty bitmap for tests and tools. Never closed before it dies, so calls need no guard.


cdef object _granule_size(object value):
    return _power_of_two(value, "granule_bytes", _GRANULE_MIN_BYTES, _GRANULE_MAX_BYTES)


@cython.final
cdef class Bitmap:
    """The dirty bitmap (core/bitmap.h)."""

    cdef vb_bitmap *_bitmap
    cdef readonly uint64_t _size_bytes

    def __cinit__(self, size_bytes, granule_bytes=65536):
        self._size_bytes = _within(size_bytes, "size_bytes", 0, _OFFSET_MAX)
        cdef uint32_t granule = _granule_size(granule_bytes)
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with nogil:
            self._bitmap = vb_bitmap_new(self._size_bytes, granule, &error)
        if self._bitmap is NULL:
            raise _failure(&error)

    def __dealloc__(self):
        if self._bitmap is not NULL:
            with nogil:
                vb_bitmap_free(self._bitmap)

    @property
    def granule_bytes(self):
        return vb_bitmap_granule_bytes(self._bitmap)

    @property
    def dirty_bytes(self):
        cdef uint64_t dirty
        with nogil:
            dirty = vb_bitmap_dirty_bytes(self._bitmap)
        return dirty

    @property
    def in_flight_bytes(self):
        cdef uint64_t in_flight
        with nogil:
            in_flight = vb_bitmap_in_flight_bytes(self._bitmap)
        return in_flight

    def set(self, start_bytes, length_bytes):
        """Marks every granule that the range touches."""
        cdef uint64_t start, length
        start, length = _range(start_bytes, length_bytes, self._size_bytes)
        with nogil:
            vb_bitmap_set(self._bitmap, start, length)

    def clear(self, start_bytes, length_bytes):
        """Clears the granules that lie wholly in the range."""
        cdef uint64_t start, length
        start, length = _range(start_bytes, length_bytes, self._size_bytes)
        with nogil:
            vb_bitmap_clear(self._bitmap, start, length)

    def get(self, offset_bytes):
        """Whether the granule of that offset is dirty."""
        cdef uint64_t offset = _range(offset_bytes, 1, self._size_bytes)[0]
        cdef c_bool is_dirty
        with nogil:
            is_dirty = vb_bitmap_get(self._bitmap, offset)
        return is_dirty

    def claim(self, cursor_bytes, max_bytes, align_bytes):
        """(start, length, new cursor) of a claimed run, or None."""
        granule = self.granule_bytes
        cdef uint64_t cursor = _within(cursor_bytes, "cursor_bytes", 0, _OFFSET_MAX)
        cdef uint64_t limit = _within(max_bytes, "max_bytes", granule, _OFFSET_MAX)
        cdef uint64_t align = _within(align_bytes, "align_bytes", granule, _OFFSET_MAX)
        if limit % granule or align % granule:
            raise _invalid(f"max_bytes and align_bytes must be multiples of the granule of {granule} bytes")
        cdef uint64_t start = 0, length = 0
        cdef c_bool is_claimed
        with nogil:
            is_claimed = vb_bitmap_claim(self._bitmap, &cursor, limit, align, &start, &length)
        return (start, length, cursor) if is_claimed else None

    def release(self, start_bytes, length_bytes, bint moved):
        """Ends the flight of a claimed run; not `moved` makes it dirty again."""
        cdef uint64_t start, length
        start, length = _range(start_bytes, length_bytes, self._size_bytes)
        with nogil:
            vb_bitmap_release(self._bitmap, start, length, moved)

    def serialize(self):
        """Little-endian bit stream of the dirty set, in flight counted as dirty."""
        data = PyBytes_FromStringAndSize(NULL, vb_bitmap_serialized_bytes(self._bitmap))
        cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(data)
        with nogil:
            vb_bitmap_serialize(self._bitmap, out)
        return data

    def deserialize(self, bytes data not None):
        """Sets the dirty set to what `serialize` gave."""
        cdef const uint8_t *c_data = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef size_t length = len(data)
        cdef int status
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with nogil:
            status = vb_bitmap_deserialize(self._bitmap, c_data, length, &error)
        if status < 0:
            raise _failure(&error)
