# SPDX-License-Identifier: Apache-2.0
"""A server to try a client on, as the clients' READMEs do.

    .venv/bin/python server/packaging/try_server.py                 starts it and prints its folder
    .venv/bin/python server/packaging/try_server.py --stop FOLDER   ends it and removes the folder

The folder is a new one. Its `sock` is the server's; in `images`, where the server may make others, lie the two of the
chain that is the disk vda of the one domain, `guest`. The server goes on when this program has ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from virtblock.client import Client
from virtblock.engine import ImageWriter, PathPolicy, create_image

MIB = 1024 * 1024
DISK_BYTES = 64 * MIB
STOP_TIMEOUT_S = 20
DOMAIN_XML = """<domain type='qemu'>
  <name>guest</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{source}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""


def make_chain(folder: Path) -> Path:
    """base.qcow2 <- vda.qcow2, each with data of its own. Returns the upper one."""
    policy = PathPolicy([str(folder)])
    below: Path | None = None
    for number, name in enumerate(("base", "vda")):
        path = folder / f"{name}.qcow2"
        create_image(
            str(path),
            "qcow2",
            DISK_BYTES,
            policy,
            backing_path=None if below is None else str(below),
            backing_format=None if below is None else "qcow2",
        )
        with ImageWriter(str(path), "qcow2", policy) as writer:
            writer.write(number * 4 * MIB, os.urandom(8 * MIB))
        below = path
    assert below is not None
    return below


def start() -> Path:
    """A server that runs. Returns its folder."""
    folder = Path(tempfile.mkdtemp(prefix="virtblock-try-"))
    images = folder / "images"
    images.mkdir()
    top = make_chain(images)
    target = f"unix:{folder / 'sock'}"
    ready_read, ready_write = os.pipe()
    command = [sys.executable, "-m", "virtblock.server.cli", "--listen", target, "--state-dir", str(folder / "state")]
    command += ["--allow-path", str(images), "--ready-fd", str(ready_write)]
    with (folder / "virtblockd.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(ready_write,), start_new_session=True
        )
    os.close(ready_write)
    with os.fdopen(ready_read) as ready:
        if not ready.readline():
            raise SystemExit(f"try_server: virtblockd did not start:\n{(folder / 'virtblockd.log').read_text()}")
    (folder / "pid").write_text(str(process.pid))
    with Client(target) as client:
        client.domain_define_xml(DOMAIN_XML.format(source=top))
    return folder


def stop(folder: Path) -> None:
    """End the server of a folder and remove both."""
    pid = int((folder / "pid").read_text())
    os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while _runs(pid) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    shutil.rmtree(folder)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """What the arguments say."""
    if len(sys.argv) == 3 and sys.argv[1] == "--stop":
        stop(Path(sys.argv[2]))
    elif len(sys.argv) == 1:
        print(start())
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
