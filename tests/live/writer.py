# SPDX-License-Identifier: Apache-2.0
"""A guest's writes, made through QEMU's monitor while a block job runs, and what the disk must read as after each.

Owns: the log of writes. Invariants: writes are made one after the other by one thread; the log has a write before it is
begun, and `done_count` counts it after it has returned.
"""

from __future__ import annotations

import random
import threading
from typing import Any

import libvirt_qemu

BLOCK_BYTES = 4096
DEVICE = "/machine/peripheral/virtio-disk0/virtio-backend"


class GuestWriter:
    """Writes random blocks until it is stopped."""

    def __init__(self, domain: Any, size_bytes: int, before: bytes, seed: int) -> None:
        self._domain = domain
        self._before = before
        self._block_count = size_bytes // BLOCK_BYTES
        self._random = random.Random(seed)
        self._writes: list[tuple[int, int, int]] = []  # offset, length, byte
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.done_count = 0
        self.failure: Exception | None = None

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the write that is under way; its failure is raised here."""
        self._is_stopping.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def content(self, write_count: int) -> bytes:
        """The disk after so many writes."""
        disk = bytearray(self._before)
        for offset_bytes, length_bytes, value in self._writes[:write_count]:
            disk[offset_bytes : offset_bytes + length_bytes] = bytes([value]) * length_bytes
        return bytes(disk)

    def _run(self) -> None:
        try:
            while not self._is_stopping.is_set():
                self._write()
        except Exception as error:
            self.failure = error

    def _write(self) -> None:
        block = self._random.randrange(self._block_count)
        length_bytes = min(self._random.choice((1, 1, 1, 2, 16)), self._block_count - block) * BLOCK_BYTES
        value = self._random.randrange(1, 256)
        self._writes.append((block * BLOCK_BYTES, length_bytes, value))
        command = f'qemu-io -d {DEVICE} "write -P {value} {block * BLOCK_BYTES} {length_bytes}"'
        said = libvirt_qemu.qemuMonitorCommand(self._domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        if "wrote" not in said and said.strip():
            raise AssertionError(f"the guest's write failed: {said}")
        self.done_count += 1
