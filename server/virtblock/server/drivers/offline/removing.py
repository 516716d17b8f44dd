# SPDX-License-Identifier: Apache-2.0
"""Removing an image's file: the one that is meant, and nothing outside the allowed folders.

Owns: the unlink of images. Invariant: the folder is held by a descriptor from the check to the removal, so a folder in
whose place somebody puts a link meanwhile leads to no other file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from virtblock.engine import PathPolicy
from virtblock.server.drivers.offline.file_identity import is_same_file


def remove_image(path: str, policy: PathPolicy, known: Mapping[str, int] | None) -> None:
    """Removes the file, if it is the `known` one (None: whichever is there).

    OSError, ESTALE for another file; EngineError outside the allowed folders.
    """
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        policy.check(os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), name))
        if known is not None:
            status = os.stat(name, dir_fd=descriptor)
            if not is_same_file(known, {"device": status.st_dev, "inode": status.st_ino}):
                raise OSError(errno.ESTALE, "another file took its place", path)
        os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
