# SPDX-License-Identifier: Apache-2.0
"""Who owns a new image: whoever owns the one that it is a copy of, as with libvirt.

Owns: owner and mode of a copy's new file. Invariants: only a file that the engine has just made is touched, by its
descriptor and never through a link; one whose owner or mode somebody chose before is left as it is; set-user-id and
its like are never given.
"""

from __future__ import annotations

import logging
import os
import stat

NEW_FILE_MODE = 0o600  # the engine's
# What a guest wrote is never to run with anybody's rights, whatever the source's name leads to.
RIGHTS = 0o777

logger = logging.getLogger(__name__)


def take_over(source_path: str, new_path: str) -> None:
    """Gives the new file the owner and mode of the source, as far as this process may. OSError."""
    source = os.stat(source_path)
    if not stat.S_ISREG(source.st_mode):
        return  # the rights of a device are the host's business, and say nothing of a file's
    descriptor = os.open(new_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if _is_untouched(os.fstat(descriptor)):
            _give(descriptor, source, new_path)
    finally:
        os.close(descriptor)


def _is_untouched(status: os.stat_result) -> bool:
    is_made_here = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid()
    return is_made_here and stat.S_IMODE(status.st_mode) == NEW_FILE_MODE


def _give(descriptor: int, source: os.stat_result, new_path: str) -> None:
    try:
        os.fchown(descriptor, source.st_uid, source.st_gid)
    except PermissionError as error:
        logger.warning(
            "the copy '%s' cannot have the source's owner %d:%d: %s", new_path, source.st_uid, source.st_gid, error
        )
    # After the owner: a change of owner takes bits of the mode away.
    os.fchmod(descriptor, source.st_mode & RIGHTS)
