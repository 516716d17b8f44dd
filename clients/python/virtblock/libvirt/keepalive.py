# SPDX-License-Identifier: Apache-2.0
"""Asks a server again and again whether it is there.

Owns: the thread that asks. Invariants: a server that is silent for interval times count makes the connection lost, with
libvirt's reason for it; one that answers, with whatever, does not.
"""

from __future__ import annotations

import threading

from virtblock.client import ErrorNumber, VirError
from virtblock.libvirt.gen.constants import VIR_CONNECT_CLOSE_REASON_EOF, VIR_CONNECT_CLOSE_REASON_KEEPALIVE
from virtblock.libvirt.link import Link, is_loss


class Keepalive:
    """Runs until it is stopped, or the connection is lost."""

    def __init__(self, link: Link, interval_s: int, silent_count: int) -> None:
        self._link = link
        self._interval_s = interval_s
        self._timeout_s = float(interval_s * max(1, silent_count))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="virtblock-keepalive", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s) and not self._link.is_lost:
            try:
                self._link.client.get_uri(timeout_s=self._timeout_s)
            except VirError as error:
                if is_loss(error):
                    self._link.lose(VIR_CONNECT_CLOSE_REASON_EOF)
                elif error.number == ErrorNumber.OPERATION_TIMEOUT:
                    self._link.lose(VIR_CONNECT_CLOSE_REASON_KEEPALIVE)
            except RuntimeError:
                return  # the client was closed
