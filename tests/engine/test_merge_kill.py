# SPDX-License-Identifier: Apache-2.0
"""kill -9 in the middle of a pull or a commit: the guest reads what it always read, and another run completes it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine.chains import read_by_qemu
from engine.sources import ANY_PATH, MIB, noisy_raw

from virtblock.engine import Chain, ImageInfo, Merge

DISK_BYTES = 16 * MIB
ROUNDS = 6
BANDWIDTH = 4 * MIB
# Tells when so many parts in a hundred are moved.
CHILD = """
import sys, threading, time
from virtblock.engine import Merge, PathPolicy
name, top, options, percent = sys.argv[1:]
merge = getattr(Merge, name)([(top, "qcow2")], PathPolicy(), **eval(options))
thread = threading.Thread(target=merge.run)
thread.start()
while thread.is_alive():
    progress = merge.progress()
    if progress.total_bytes and progress.moved_bytes * 100 >= progress.total_bytes * int(percent):
        break
    time.sleep(0.001)
print("now", flush=True)
"""


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "cluster", "extra"),
    [
        ("pull", {}, "4k", ""),
        ("pull", {"base_index": 2}, "64k", ",extended_l2=on"),
        ("commit", {"top_index": 1, "base_index": 2}, "4k", ""),
        ("commit", {"top_index": 0, "base_index": 1}, "64k", ",extended_l2=on"),
    ],
)
def test_killed(
    name: str, options: dict[str, int], cluster: str, extra: str, tmp_path: Path, qemu_img: Any, qemu_io: Any
) -> None:
    """At random moments, over and over on the same images, and then not any more.

    A kill between the last step and the end of the process finds a commit complete: then it is not run again.
    """
    noise = noisy_raw(tmp_path / "noise", DISK_BYTES, [(0, DISK_BYTES)])
    base, middle, top = (tmp_path / f"{part}.qcow2" for part in ("base", "middle", "top"))
    shape = [f"cluster_size={cluster}{extra}"]
    qemu_img.create(base, "qcow2", DISK_BYTES - 3 * MIB, options=shape)
    qemu_io(base, "qcow2", "write -P 9 0 13M")
    qemu_img.create(middle, "qcow2", DISK_BYTES, backing=base, backing_format="qcow2", options=shape)
    qemu_io(middle, "qcow2", f"write -s {noise} 1M 14M", "write -z 2M 100k")
    qemu_img.create(top, "qcow2", DISK_BYTES, backing=middle, backing_format="qcow2", options=shape)
    qemu_io(top, "qcow2", "write -P 7 5M 100k", f"write -s {noise} 8M 5M")
    content = read_by_qemu(qemu_img, top, "qcow2", tmp_path / "read")
    chance = random.Random(f"{name} {options}")
    is_complete = False
    for _ in range(ROUNDS):
        slow = {**options, "bandwidth_bytes_per_s": BANDWIDTH}
        command = [sys.executable, "-c", CHILD, name, str(top), repr(slow), str(chance.randrange(100))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
        is_killed = process.wait(120) == -signal.SIGKILL
        process.stdout.close()
        assert read_by_qemu(qemu_img, top, "qcow2", tmp_path / "read") == content
        for path in (base, middle, top):
            assert qemu_img("check", "-q", path, check=False).returncode in (0, 3)  # 3: clusters that leaked
        is_complete = not is_killed or (options.get("top_index") == 1 and len(_chain(top)) == 2)
        if is_complete:
            break
    if not is_complete:
        with getattr(Merge, name)([(str(top), "qcow2")], ANY_PATH, **options) as merge:
            merge.run()
    if options.get("top_index") != 0:
        middle.unlink()
    left = middle if options.get("top_index") == 0 else top
    assert read_by_qemu(qemu_img, left, "qcow2", tmp_path / "read") == content
    assert qemu_img("check", "-q", left, check=False).returncode in (0, 3)


def _chain(top: Path) -> tuple[ImageInfo, ...]:
    with Chain([(str(top), "qcow2")], ANY_PATH) as chain:
        return chain.layers
