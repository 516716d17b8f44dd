# SPDX-License-Identifier: Apache-2.0
"""A libvirtd of the tests' own, and domains on it.

Owns: a session daemon in a folder of its own, run as nobody where the tests run as root (libvirtd as root is always the
machine's one), and guests without an operating system, on KVM where that works. Invariants: nothing of the machine's
own libvirt is touched, and /dev/kvm keeps its rights: the daemon gets a mount namespace in which a node that nobody may
open stands in its place; the daemon may be stopped, killed and started again while its guests go on; `close` ends all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libvirt

NOBODY = 65534
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 15
QUIET_SHUTDOWN = "0"  # libvirtd -t: never stop for lack of clients
KVM_DEVICE = Path("/dev/kvm")
KVM_CREATE_VM = 0xAE01
# "tcg": as on a machine without KVM.
ACCELERATOR_VARIABLE = "VIRTBLOCK_LIVE_ACCELERATOR"


class HypervisorUnavailable(Exception):
    """libvirtd or QEMU is not to be had; the text says what is missing."""


class PrivateLibvirtd:
    """One daemon in `folder`."""

    def __init__(self, folder: Path) -> None:
        for program in ("libvirtd", "qemu-system-x86_64"):
            if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
                raise HypervisorUnavailable(f"{program} is not installed")
        self.folder = folder
        self.images = folder / "images"
        for name in ("home", "run", "config", "cache", "images"):
            (folder / name).mkdir(parents=True, mode=0o700)
        self.is_root = os.geteuid() == 0
        if self.is_root:
            self.give_away(folder, *folder.iterdir())
        self._process: subprocess.Popen[bytes] | None = None
        self._kvm_node = self._make_kvm_node()
        self.domain_type = "qemu" if self._kvm_node is None else "kvm"

    @property
    def uri(self) -> str:
        """For libvirt, from any user."""
        return f"qemu+unix:///session?socket={self.folder / 'run/libvirt/libvirt-sock'}"

    def give_away(self, *paths: Path) -> None:
        """Makes files the daemon's own, so that its guests can open them."""
        if self.is_root:
            for path in paths:
                os.chown(path, NOBODY, NOBODY)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        identity = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if self.is_root else []
        if self._kvm_node not in (None, KVM_DEVICE):
            mount = 'mount --bind "$0" /dev/kvm && exec "$@"'
            identity = ["unshare", "--mount", "sh", "-c", mount, str(self._kvm_node), *identity]
        environ = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder / "home"),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        with (self.folder / "libvirtd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*identity, "libvirtd", "-t", QUIET_SHUTDOWN],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                libvirt.open(self.uri).close()
                return
            except libvirt.libvirtError as error:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    said = (self.folder / "libvirtd.log").read_text(errors="replace")[-2000:]
                    raise HypervisorUnavailable(f"libvirtd does not answer: {error}\n{said}") from None
                time.sleep(0.05)

    def qemu_pid(self, name: str) -> int:
        """The process of a guest that runs."""
        return int((self.folder / f"run/libvirt/qemu/run/{name}.pid").read_text())

    def monitor_path(self, name: str) -> Path:
        """The socket of a running guest's monitor; libvirtd holds it while it lives."""
        [folder] = (self.folder / "config/libvirt/qemu/lib").glob(f"domain-*-{name}")
        return folder / "monitor.sock"

    def status_path(self, name: str) -> Path:
        """What libvirtd keeps of a running guest for its own next start."""
        return self.folder / f"run/libvirt/qemu/run/{name}.xml"

    def _make_kvm_node(self) -> Path | None:
        """The node by which the daemon's guests reach KVM; None where they cannot."""
        if os.environ.get(ACCELERATOR_VARIABLE) == "tcg" or not _has_kvm(KVM_DEVICE):
            return None
        if not self.is_root:
            return KVM_DEVICE
        node = self.folder / "kvm"
        try:
            os.mknod(node, stat.S_IFCHR | 0o600, KVM_DEVICE.stat().st_rdev)
        except OSError:
            return None
        self.give_away(node)
        can_mount = subprocess.run(
            ["unshare", "--mount", "mount", "--bind", str(node), str(KVM_DEVICE)], capture_output=True, check=False
        )
        return node if _has_kvm(node) and can_mount.returncode == 0 else None

    def send(self, number: signal.Signals) -> None:
        """To the daemon alone, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends the daemon; its guests go on."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        """Ends every guest and the daemon."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        connection = libvirt.open(self.uri)
        running = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        # libvirt takes more than a second for each, most of it waiting.
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(_destroy, running))
        connection.close()
        self.stop()
        for pid in self._lost_guests():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _lost_guests(self) -> list[int]:
        """Guests of ours that libvirtd knows no more, as it was killed at a bad moment, and would leave running."""
        mark, found = os.fsencode(f"{self.folder}/"), []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            if b"qemu-system" in words[0] and any(mark in word for word in words):
                found.append(int(entry.name))
        return found

    def make_image(
        self, name: str, *, size: str = "16M", backing: Path | None = None, write: Sequence[str] = ()
    ) -> Path:
        """A qcow2 image that guests can open; `write` are qemu-io commands."""
        path = self.images / name
        above = [] if backing is None else ["-b", str(backing), "-F", "qcow2"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *above, str(path), size], check=True)
        commands = [word for command in write for word in ("-c", command)]
        if commands:
            subprocess.run(["qemu-io", "-f", "qcow2", *commands, str(path)], check=True, stdout=subprocess.DEVNULL)
        self.give_away(path)
        return path


def _destroy(domain: libvirt.virDomain) -> None:
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise  # else it ended by itself meanwhile


def _has_kvm(node: Path) -> bool:
    """Whether a virtual machine can be made through the node."""
    try:
        with node.open("r+b", buffering=0) as device:
            os.close(fcntl.ioctl(device, KVM_CREATE_VM, 0))
    except OSError:
        return False
    return True


def domain_xml(name: str, disks: Sequence[str], domain_type: str = "qemu") -> str:
    """A guest without an operating system. `disks`: `<disk>` elements; `domain_type`: that of the daemon."""
    return (
        f"<domain type='{domain_type}'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os>"
        f"<devices>{''.join(disks)}</devices></domain>"
    )


def disk_xml(path: Path, target: str = "vda", image_format: str = "qcow2") -> str:
    """A disk of a file."""
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{image_format}'/>"
        f"<source file='{path}'/><target dev='{target}' bus='virtio'/></disk>"
    )


def content(path: Path | str) -> bytes:
    """What an image reads as, also while QEMU has it open. CalledProcessError for what is no image."""
    with tempfile.NamedTemporaryFile(prefix="virtblock-content-") as flat:
        command = ["qemu-img", "convert", "-U", "-O", "raw", str(path), flat.name]
        subprocess.run(command, check=True, capture_output=True)
        return Path(flat.name).read_bytes()
