# SPDX-License-Identifier: Apache-2.0
"""Telling whoever started the daemon how far it is.

Owns: the two ways of saying so: systemd's (a datagram to `$NOTIFY_SOCKET`, sd_notify(3)) and a file descriptor that a
test or a script waits on. Invariant: a service manager that does not listen never stops the daemon.
"""

from __future__ import annotations

import logging
import os
import socket

READY = "READY=1"
STOPPING = "STOPPING=1"

logger = logging.getLogger("virtblock.service_manager")


def notify(state: str, address: str | None = None) -> None:
    """Tell systemd a state; `address` None: `$NOTIFY_SOCKET`, and nothing is told when that is not set."""
    target = address if address is not None else os.environ.get("NOTIFY_SOCKET", "")
    if not target:
        return
    # systemd writes an abstract socket's leading NUL as "@".
    path = "\0" + target[1:] if target.startswith("@") else target
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), path)
    except OSError as error:
        logger.warning("service manager not told", extra={"fields": {"state": state, "reason": str(error)}})


def signal_ready(ready_fd: int) -> None:
    """Write one line to a descriptor that was inherited, and close it: the reader sees the line, then the end."""
    try:
        os.write(ready_fd, f"{READY}\n".encode())
    except OSError as error:
        logger.warning("nobody reads the ready descriptor", extra={"fields": {"fd": ready_fd, "reason": str(error)}})
        return
    if ready_fd > 2:
        os.close(ready_fd)
        return
    # The log would go on into whatever is opened next under a standard stream's number.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, ready_fd)
    os.close(null)
