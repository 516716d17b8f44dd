# SPDX-License-Identifier: Apache-2.0
"""Standard streams that the caller closed.

Invariant: the numbers 0 to 2 belong to no image, database or socket, so that no message ever lands in one.
"""

from __future__ import annotations

import os
import sys


def replace_closed_streams() -> None:
    """To be called before anything is opened: files get the lowest free number, and native code writes to 2."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  # as long as the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
