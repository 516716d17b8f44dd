# SPDX-License-Identifier: Apache-2.0
"""The peer that does what libvirt's blockCopy asks of QEMU: `blockdev-mirror` in a qemu-storage-daemon, over QMP."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.measure import Run, run

PATIENCE_S = 300.0
POLL_INTERVAL_S = 0.001


class _Monitor:
    """One QMP connection. Events that come while an answer is awaited are kept."""

    def __init__(self, path: Path) -> None:
        self._socket = _connect(path)
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        self._events: list[dict[str, Any]] = []
        self._read()  # the greeting
        self.ask("qmp_capabilities")

    def _read(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise RuntimeError("the storage daemon ended the conversation")
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, command: str, **arguments: object) -> None:
        """Send a command and await its answer; RuntimeError with what QEMU says against it."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while "return" not in (message := self._read()):
            if "error" in message:
                raise RuntimeError(f"{command}: {message['error']['desc']}")
            self._events.append(message)

    def await_status(self, wanted: str) -> None:
        """Until the job has this status; RuntimeError when it ends without."""
        while True:
            event = self._events.pop(0) if self._events else self._read()
            status = event.get("data", {}).get("status")
            if status == wanted:
                return
            if status in ("aborting", "null"):
                raise RuntimeError(f"the mirror job became {status}, not {wanted}")

    def close(self) -> None:
        """Hang up; the daemon ends by its own quit."""
        self._stream.close()
        self._socket.close()


def _connect(path: Path) -> socket.socket:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE_S)
        try:
            connection.connect(str(path))
            return connection
        except OSError:
            connection.close()
            if time.monotonic() > deadline_s:
                raise
            time.sleep(POLL_INTERVAL_S)


def _node(name: str, image_format: str, path: Path) -> str:
    file = {"driver": "file", "filename": str(path)}
    node: Mapping[str, object] = {"node-name": name, "driver": image_format, "file": file}
    return json.dumps(node)


def _node_without_backing(name: str, image_format: str, path: Path) -> str:
    node = json.loads(_node(name, image_format, path))
    if image_format == "qcow2":
        node["backing"] = None
    return json.dumps(node)


def mirror(source: tuple[str, Path], destination: tuple[str, Path], sync: str, folder: Path) -> Run:
    """Start the daemon, mirror until ready, complete, end. The destination exists and has the source's size."""
    monitor_path = folder / "qmp.sock"
    command = [
        "qemu-storage-daemon",
        *("--blockdev", _node("source", *source)),
        *("--blockdev", _node_without_backing("destination", *destination)),
        *("--chardev", f"socket,id=monitor,path={monitor_path},server=on,wait=off"),
        *("--monitor", "chardev=monitor"),
    ]

    def drive() -> None:
        monitor = _Monitor(monitor_path)
        monitor.ask("blockdev-mirror", **{"job-id": "copy", "device": "source", "target": "destination", "sync": sync})
        monitor.await_status("ready")
        monitor.ask("job-complete", id="copy")
        monitor.await_status("null")
        monitor.ask("quit")
        monitor.close()

    monitor_path.unlink(missing_ok=True)
    try:
        return run(command, drive)
    finally:
        monitor_path.unlink(missing_ok=True)
