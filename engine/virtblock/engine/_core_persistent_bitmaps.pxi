# SPDX-License-Identifier: Apache-2.0
# Part of _core.pyx: the persistent bitmaps of a qcow2 image at rest.

_BITMAP_GRANULARITY_MIN_BYTES = 512
_BITMAP_GRANULARITY_MAX_BYTES = 2 * 1024 * 1024 * 1024
_BITMAP_STATES = {
    VB_BITMAP_USABLE: "usable",
    VB_BITMAP_IN_USE: "in-use",
    VB_BITMAP_INCONSISTENT: "inconsistent",
    VB_BITMAP_WRONG_SIZE: "wrong-size",
}


cdef bytes _bitmap_name(object name):
    if not isinstance(name, str):
        raise TypeError("The name of a bitmap is a str")
    encoded = os.fsencode(name)
    if b"\0" in encoded:
        raise _invalid(f"The name of a bitmap contains a null byte: {name!r}")
    if not encoded:
        raise _invalid("The name of a bitmap is empty")
    return encoded


@cython.final
cdef class BitmapInfo:
    """What an image says of one of its persistent bitmaps. Immutable."""

    cdef readonly str name, state
    cdef readonly uint64_t granularity_bytes
    cdef readonly bint is_enabled
    cdef readonly object dirty_bytes

    def __init__(self):
        raise TypeError("BitmapInfo is made by list_bitmaps()")

    def __repr__(self):
        return f"BitmapInfo({self.name!r}, {self.state!r}, dirty_bytes={self.dirty_bytes})"


cdef BitmapInfo _bitmap_info(const vb_persistent_bitmap *said):
    cdef BitmapInfo info = BitmapInfo.__new__(BitmapInfo)
    info.name = os.fsdecode(<bytes>said.name)
    info.state = _BITMAP_STATES[said.state]
    info.granularity_bytes = said.granularity_bytes
    info.is_enabled = said.is_enabled
    info.dirty_bytes = said.dirty_bytes if said.state == VB_BITMAP_USABLE else None
    return info


def list_bitmaps(path, PathPolicy policy not None):
    """The persistent bitmaps of a qcow2 image, in the image's order, under the reader lock."""
    name = _encoded(path)
    cdef const char *c_name = name
    cdef vb_persistent_bitmaps found
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    cdef int status
    with nogil:
        status = vb_image_list_bitmaps(policy._policy, c_name, &found, &error)
    if status < 0:
        raise _failure(&error)
    try:
        return tuple([_bitmap_info(&found.items[i]) for i in range(found.count)])
    finally:
        with nogil:
            vb_persistent_bitmaps_free(&found)


def add_bitmap(path, name, PathPolicy policy not None, *, granularity_bytes=64 * 1024, bint is_enabled=True):
    """Gives an image at rest a new bitmap, in which nothing is dirty."""
    encoded_path = _encoded(path)
    encoded_name = _bitmap_name(name)
    cdef const char *c_path = encoded_path
    cdef vb_new_bitmap wanted
    wanted.name = encoded_name
    wanted.granularity_bytes = _power_of_two(
        granularity_bytes, "granularity_bytes", _BITMAP_GRANULARITY_MIN_BYTES, _BITMAP_GRANULARITY_MAX_BYTES
    )
    wanted.is_enabled = is_enabled
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    cdef int status
    with nogil:
        status = vb_image_add_bitmap(policy._policy, c_path, &wanted, &error)
    if status < 0:
        raise _failure(&error)


def remove_bitmap(path, name, PathPolicy policy not None):
    """Takes a bitmap from an image at rest, whatever its state."""
    encoded_path = _encoded(path)
    encoded_name = _bitmap_name(name)
    cdef const char *c_path = encoded_path
    cdef const char *c_name = encoded_name
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    cdef int status
    with nogil:
        status = vb_image_remove_bitmap(policy._policy, c_path, c_name, &error)
    if status < 0:
        raise _failure(&error)


def clear_bitmap(path, name, PathPolicy policy not None):
    """Makes a usable bitmap of an image at rest mark nothing."""
    encoded_path = _encoded(path)
    encoded_name = _bitmap_name(name)
    cdef const char *c_path = encoded_path
    cdef const char *c_name = encoded_name
    cdef vb_error error
    memset(&error, 0, sizeof(error))
    cdef int status
    with nogil:
        status = vb_image_clear_bitmap(policy._policy, c_path, c_name, &error)
    if status < 0:
        raise _failure(&error)
