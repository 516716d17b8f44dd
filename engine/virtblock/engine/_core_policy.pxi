# SPDX-License-Identifier: Apache-2.0
# Part of _core.pyx: which files may be opened. PathPolicy, which every call that opens a file takes.


@cython.final
@cython.no_gc_clear
cdef class PathPolicy:
    """Which files may be opened: beneath `folders` only, every link resolved; with none, any."""

    cdef vb_policy *_policy
    cdef readonly tuple folders
    cdef readonly dict data_files

    def __cinit__(self, folders=(), *, data_files=None):
        if isinstance(folders, (str, bytes)):
            raise TypeError("folders is a sequence of paths, not one path")
        encoded = [_encoded(folder) for folder in folders]
        cdef size_t count = len(encoded)
        cdef const char **names = <const char **>calloc(count + 1, sizeof(char *))
        if names is NULL:
            raise MemoryError
        cdef size_t i
        for i in range(count):
            names[i] = PyBytes_AS_STRING(encoded[i])
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        with nogil:
            self._policy = vb_policy_new(names, count, &error)
        free(names)
        if self._policy is NULL:
            raise _failure(&error)
        self.folders = tuple([os.path.realpath(os.fsdecode(folder)) for folder in encoded])
        self.data_files = dict(data_files or {})
        for image, data in self.data_files.items():
            self._name_data_file(_encoded(image), _encoded(data))

    cdef int _name_data_file(self, bytes image, bytes data) except -1:
        cdef vb_error error
        memset(&error, 0, sizeof(error))
        if vb_policy_name_data_file(self._policy, image, data, &error) < 0:
            raise _failure(&error)
        return 0

    def with_data_files(self, data_files):
        """The same folders, and the external data files of images by the images' paths."""
        return PathPolicy(self.folders, data_files={**self.data_files, **data_files})

    def __dealloc__(self):
        if self._policy is not NULL:
            with nogil:
                vb_policy_free(self._policy)

    def check(self, path):
        """The resolved path; EngineError `denied` outside the folders. Only advice: opening checks by itself."""
        name = os.fsdecode(_encoded(path))
        try:
            resolved = os.path.realpath(name)
        except OSError as error:  # a link that became something else while it was resolved
            raise EngineError("system", "The path cannot be resolved", errno=error.errno, path=name) from None
        if not self.folders:
            return resolved
        for folder in self.folders:
            if _is_beneath(resolved, folder):
                return resolved
        raise EngineError("denied", "The path lies outside every allowed folder", path=resolved)


cdef bint _is_beneath(str path, str folder):
    return path.startswith(folder if folder.endswith("/") else folder + "/")
