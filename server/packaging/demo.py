# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the main job, told as it goes, with nothing but what this project installs.

Owns: the story. Every step is the real thing: a daemon on a unix socket, a 2 GiB chain of three qcow2 images made by
the engine, the command line a person would type, and at the end a comparison of every byte by the engine. A step that
fails ends the demonstration with its error; the temporary folder goes in any case.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from virtblock.engine import Chain, ImageWriter, PathPolicy, compare, create_image, inspect

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
DISK_BYTES = 2 * GIB
CLUSTER_BYTES = 64 * KIB
# How much data each layer gets, scattered in runs of 1 to 16 clusters.
LAYERS = (("base", 420 * MIB), ("snap1", 90 * MIB), ("snap2", 60 * MIB))
NEEDED_BYTES = 2 * GIB
DAEMON_START_TIMEOUT_S = 20.0
# Slow enough that the bar can be watched, and that the copy to be aborted is still on its way.
WATCHED_MIB_PER_S = 150
ABORTED_MIB_PER_S = 20

PROGRAMS = Path(sys.executable).parent
IS_TERMINAL = sys.stdout.isatty()

DOMAIN_XML = """<domain type='qemu'>
  <name>demo</name>
  <memory unit='MiB'>512</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{source}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""


def styled(text: str, code: str) -> str:
    """The text in a terminal style, plain elsewhere."""
    return f"\033[{code}m{text}\033[0m" if IS_TERMINAL else text


def chapter(title: str) -> None:
    print(f"\n{styled('── ' + title + ' ', '1;36')}{styled('─' * max(0, 72 - len(title)), '36')}", flush=True)


def say(text: str) -> None:
    print(f"   {text}", flush=True)


class Demo:
    """One run in one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.images.mkdir()
        self.state = folder / "state"
        self.server = f"unix:{folder / 'sock'}"
        self.log = folder / "virtblockd.log"
        self.policy = PathPolicy([str(self.images)])
        self.top = self.images / "snap2.qcow2"

    def virtblock(
        self, *arguments: str, expected: int = 0, only: Sequence[str] = (), shows_progress: bool = False
    ) -> None:
        """Types a command: echoes it, runs it on this terminal, and shows what it wrote to stdout.

        `only`: just the lines that contain one of these. `shows_progress`: it leaves a line of progress open.
        """
        shown = " ".join(arguments).replace(f"{self.images}/", "")
        print(f"   {styled('$ virtblock ' + shown, '1')}", flush=True)
        command = [str(PROGRAMS / "virtblock"), "--server", self.server, *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if shows_progress:
            print(flush=True)
        for line in done.stdout.splitlines():
            if line.strip() and (not only or any(part in line for part in only)):
                say(f"  {line.strip() if only else line}")
        if done.returncode != expected:
            raise SystemExit(f"demo: the command ended with {done.returncode}, expected {expected}")

    @contextlib.contextmanager
    def daemon(self) -> Iterator[None]:
        """virtblockd on a unix socket, allowed to touch the images' folder and nothing else."""
        command = [str(PROGRAMS / "virtblockd"), "--listen", self.server, "--state-dir", str(self.state)]
        command += ["--allow-path", str(self.images)]
        with self.log.open("wb") as log:
            process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        try:
            self._await(process)
            yield
        finally:
            process.terminate()
            process.wait(timeout=DAEMON_START_TIMEOUT_S)

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + DAEMON_START_TIMEOUT_S
        while not Path(self.server.removeprefix("unix:")).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"demo: virtblockd did not start:\n{self.log.read_text()}")
            time.sleep(0.05)

    def make_chain(self) -> None:
        """base <- snap1 <- snap2, each with data of its own over what lies below."""
        below: Path | None = None
        for number, (name, data_bytes) in enumerate(LAYERS):
            path = self.images / f"{name}.qcow2"
            create_image(
                str(path),
                "qcow2",
                DISK_BYTES,
                self.policy,
                backing_path=str(below) if below else None,
                backing_format="qcow2" if below else None,
                cluster_size_bytes=CLUSTER_BYTES,
            )
            scatter(path, data_bytes, self.policy, seed=number)
            info = inspect(str(path), "qcow2", self.policy)
            arrow = f"over {below.name}" if below else "the base"
            say(f"{path.name:12s} {arrow:18s} {info.allocated_bytes / MIB:7.0f} MiB of {DISK_BYTES / GIB:.0f} GiB used")
            below = path

    def prove_equal(self, copy: Path, copy_format: str = "qcow2") -> None:
        """Reads both disks to their end and compares every byte."""
        started = time.monotonic()
        with (
            Chain([(str(self.top), "qcow2")], self.policy) as source,
            Chain([(str(copy), copy_format)], self.policy) as destination,  # type: ignore[list-item]
        ):
            difference = compare(source, destination)
        if difference is not None:
            raise SystemExit(f"demo: {copy} differs from the source at byte {difference}")
        seconds = time.monotonic() - started
        say(styled(f"✔ {DISK_BYTES / GIB:.0f} GiB compared byte for byte: identical ({seconds:.1f} s)", "32"))


def scatter(path: Path, data_bytes: int, policy: PathPolicy, *, seed: int) -> None:
    """Writes incompressible data at random places, in runs of 1 to 16 clusters."""
    chosen = random.Random(seed)
    noise = memoryview(os.urandom(32 * CLUSTER_BYTES))
    cluster_count = DISK_BYTES // CLUSTER_BYTES
    with ImageWriter(str(path), "qcow2", policy) as image:
        while data_bytes > 0:
            run = chosen.randint(1, 16)
            at = chosen.randrange(cluster_count - run)
            begin = chosen.randrange(16) * CLUSTER_BYTES
            image.write(at * CLUSTER_BYTES, noise[begin : begin + run * CLUSTER_BYTES])
            data_bytes -= run * CLUSTER_BYTES


def hash_of(path: Path) -> bytes:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def tell_copy(demo: Demo) -> None:
    chapter("1  A disk with a history: base <- snap1 <- snap2")
    say("Three qcow2 images, made by the engine, with data scattered over 2 GiB.")
    demo.make_chain()
    content = {path: hash_of(path) for path in sorted(demo.images.glob("*.qcow2"))}

    chapter("2  A domain that uses it, defined from ordinary libvirt XML")
    xml = demo.images.parent / "demo.xml"
    xml.write_text(DOMAIN_XML.format(source=demo.top))
    demo.virtblock("define", str(xml))
    demo.virtblock("domblklist", "demo")

    chapter("3  Copy the whole chain into one new image, with a bar")
    say(f"Held to {WATCHED_MIB_PER_S} MiB/s, so that there is something to watch.")
    copy = demo.images / "copy.qcow2"
    command = ("blockcopy", "demo", "vda", str(copy), "--bandwidth", str(WATCHED_MIB_PER_S), "--wait", "--verbose")
    demo.virtblock(*command, shows_progress=True)
    say("The job is READY: every byte is on the new image and synced. The domain still uses the old one:")
    demo.virtblock("dumpxml", "demo", only=("<mirror", "<source", "ready="))

    chapter("4  Pivot: the domain moves to the copy")
    demo.virtblock("blockjob", "demo", "vda", "--pivot")
    demo.virtblock("dumpxml", "demo", "--inactive", only=("<source",))
    say("No image was deleted. Does the new one hold what the chain of three holds?")
    demo.prove_equal(copy)
    if any(hash_of(path) != digest for path, digest in content.items()):
        raise SystemExit("demo: a source image was changed")
    say(styled("✔ the three source images are untouched", "32"))


def tell_abort(demo: Demo) -> None:
    chapter("5  A second copy, aborted on its way")
    second = demo.images / "second.raw"
    demo.virtblock("blockcopy", "demo", "vda", str(second), "--raw", "--bandwidth", str(ABORTED_MIB_PER_S))
    time.sleep(1.0)
    demo.virtblock("blockjob", "demo", "vda", "--info", shows_progress=True)
    say("And an error on purpose: it cannot pivot before it is READY.")
    demo.virtblock("blockjob", "demo", "vda", "--pivot", expected=1)
    demo.virtblock("blockjob", "demo", "vda", "--abort")
    left = second.stat().st_size if second.exists() else None
    if left:
        raise SystemExit(f"demo: the aborted copy left {left} bytes that look like an image")
    say(styled("✔ nothing is left at the destination that could be taken for an image", "32"))
    demo.virtblock("domblklist", "demo")

    chapter("6  The same engine without server or domain: virtblock-copy")
    flat = demo.images / "flat.raw"
    print(f"   {styled('$ virtblock-copy --raw --progress snap2.qcow2 flat.raw', '1')}", flush=True)
    subprocess.run([str(PROGRAMS / "virtblock-copy"), "--raw", "--progress", str(demo.top), str(flat)], check=True)
    demo.prove_equal(flat, "raw")


def main() -> int:
    """Runs the story in a temporary folder with enough room."""
    place = Path(tempfile.gettempdir())
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < NEEDED_BYTES:
        print(
            f"demo: {place} has {free_bytes // MIB} MiB free, {NEEDED_BYTES // MIB} MiB are needed; "
            "name another folder: TMPDIR=/some/where make demo",
            file=sys.stderr,
        )
        return 1
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="virtblock-demo-") as name:
        demo = Demo(Path(name))
        with demo.daemon():
            tell_copy(demo)
            tell_abort(demo)
    chapter("Done")
    say(f"All of it in {time.monotonic() - started:.0f} s; the temporary folder is gone. Next:")
    say("  .venv/bin/virtblockd --help         run the server")
    say("  .venv/bin/virtblock help blockcopy  everything that virsh's blockcopy can do")
    say("  .venv/bin/virtblock-copy --help     copy an image without a server")
    return 0


if __name__ == "__main__":
    sys.exit(main())
