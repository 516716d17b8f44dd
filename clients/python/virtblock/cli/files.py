# SPDX-License-Identifier: Apache-2.0
"""Files that the command line names: reading one on this machine, with libvirt's texts for what goes wrong."""

from __future__ import annotations

import os
from pathlib import Path

from virtblock.cli.failures import CommandError

XML_BYTES_MAX = 10 * 1024 * 1024


def absolute(path: str) -> str:
    """The name for a server, which runs in another folder: a relative one is taken from this program's."""
    return path if path.startswith("/") else f"{os.getcwd()}/{path}"


def read_text(path: str) -> str:
    """The whole file as text. CommandError names the file and the reason."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(XML_BYTES_MAX + 1)
    except IsADirectoryError as error:
        raise CommandError(f"Failed to read file '{path}': {error.strerror}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandError(f"Failed to open file '{path}': {reason}") from None
    if len(content) > XML_BYTES_MAX:
        raise CommandError(f"Failed to read file '{path}': Value too large for defined data type")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"Failed to read file '{path}': byte {error.start} is not UTF-8") from None
