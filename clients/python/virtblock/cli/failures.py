# SPDX-License-Identifier: Apache-2.0
"""The two ways in which a command line goes wrong before or beside a libvirt error."""

from __future__ import annotations


class UsageError(Exception):
    """What was typed is no command. Nothing was run; `lines` are virsh's texts without the `error: ` before them."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


class CommandError(Exception):
    """A command that was understood did not succeed.

    `context` is virsh's own line on it. The VirError that is the cause, if any, is the exception's `__cause__` and
    becomes the line after it. With no text at all the command has said on its own what became of it.
    """

    def __init__(self, context: str = "", *more: str) -> None:
        super().__init__(context)
        self.context = context
        self.more = more
