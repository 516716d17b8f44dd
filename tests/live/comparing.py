# SPDX-License-Identifier: Apache-2.0
"""Runs one case on one side and says all that came of it.

Owns: the guests of a side, by shape, used again while a case leaves them as they were. Invariants: names, paths, UUIDs
and ids of a side's guest are replaced by words, of its XML also the accelerator, the CPU and the numbers that images
get in the order of their use, and nothing else is, so what is left is libvirt's own; events are told in order and none
is left out: one that comes late, or too many, is the first of the guest's next case.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
from live.cases import PAUSED, PERSISTENT, RUNNING, SHUT_OFF, Case, Step
from live.hypervisor import PrivateLibvirtd, content, disk_xml, domain_xml
from live.outcome import Outcome, changed_lines
from live.sides import LIFECYCLE, Side, Told
from live.writer import DEVICE

WAIT_S = 60.0
# How long libvirt is given to tell more than was told, where nothing says how much that is.
QUIET_S = 0.4
EVENT_DEFINED, EVENT_SUSPENDED, EVENT_RESUMED = 0, 3, 4
FIRST_EVENTS = {SHUT_OFF: EVENT_DEFINED, PAUSED: EVENT_SUSPENDED, RUNNING: EVENT_RESUMED, PERSISTENT: EVENT_RESUMED}
EMPTY_CDROM = "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>"
_CPU = re.compile(r"<cpu\b.*?</cpu>", re.DOTALL)
_DOMAIN_TYPE = re.compile(r"<domain type='\w+'(?: id='\d+')?")
_IMAGE_NUMBER = re.compile(r" index='\d+'")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Guest:
    """A guest as it was made, and how many of its events were told."""

    name: str
    xml: str = ""
    inactive_xml: str = ""
    state: list[int] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    told_count: int = 0


class Digests:
    """What images read as. One that was not touched since is not read again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], str] = {}

    def of(self, path: Path) -> str:
        """A digest of the image's content."""
        found = path.stat()
        key = (str(path), found.st_ino, found.st_size, found.st_mtime_ns)
        if key not in self._known:
            try:
                self._known[key] = hashlib.sha256(content(path)).hexdigest()[:16]
            except subprocess.CalledProcessError:
                self._known[key] = "no image"
        return self._known[key]


class Bench:
    """The guests of one side."""

    def __init__(self, side: Side, libvirtd: PrivateLibvirtd, connection: libvirt.virConnect) -> None:
        self.side = side
        self._libvirtd = libvirtd
        self._connection = connection
        self._folder = libvirtd.images / side.name
        self._folder.mkdir()
        libvirtd.give_away(self._folder)
        self._count = 0
        self._clean: dict[str, Guest] = {}
        self._digests = Digests()
        self._templates = self._make_templates()

    def run(self, case: Case, event_count: int | None) -> Outcome:
        """The outcome of a case on a guest of its shape. `event_count`: as many are waited for; None: all there are."""
        guest = self._guest(case.shape)
        for file_name, make in case.files:
            self._make_file(guest, file_name, make)
        outcome = Outcome(steps=[self._step(guest, step) for step in case.steps])
        xml = self._xml(guest.name)
        self._flush(guest.name)
        outcome.xml = changed_lines(guest.xml, xml) if xml.startswith("<") else [xml]
        outcome.files = self._files(guest.name)
        outcome.events = self._events(guest, event_count)
        if not self._is_kept(guest, outcome):
            self._forget(case.shape)
        return outcome

    def _is_kept(self, guest: Guest, outcome: Outcome) -> bool:
        """Whether the guest and its own images are as they were; other files go now."""
        if (
            outcome.xml
            or self._inactive_xml(guest.name) != guest.inactive_xml
            or self._state(guest.name) != guest.state
        ):
            return False
        for name in outcome.files.keys() - guest.files.keys():
            path = self._folder / self._fill(name, guest.name)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return all(outcome.files.get(name) == digest for name, digest in guest.files.items())

    def _guest(self, shape: str) -> Guest:
        known = self._clean.get(shape)
        if known is not None:
            return known
        guest = Guest(self._new_name())
        image = self._make_images(guest.name)
        xml = domain_xml(guest.name, [disk_xml(image), EMPTY_CDROM], self._libvirtd.domain_type)
        if shape in (RUNNING, PAUSED):
            self._connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED if shape == PAUSED else 0)
        else:
            domain = self._connection.defineXML(xml)
            if shape == PERSISTENT:
                domain.create()
        guest.xml, guest.inactive_xml = self._xml(guest.name), self._inactive_xml(guest.name)
        guest.state, guest.files = self._state(guest.name), self._files(guest.name)
        guest.told_count = self._await_start(guest.name, FIRST_EVENTS[shape])
        self._clean[shape] = guest
        return guest

    def _new_name(self) -> str:
        self._count += 1
        return f"{self.side.name}{self._count:03d}"

    def _make_templates(self) -> list[Path]:
        """A chain of two, base first, that guests get copies of."""
        base = self._libvirtd.make_image(f"{self.side.name}/{self._new_name()}-0.qcow2", write=["write -P 0x11 0 3M"])
        top = self._libvirtd.make_image(
            f"{self.side.name}/{base.name.replace('-0.', '-1.')}", backing=base, write=["write -P 0x22 1M 1M"]
        )
        return [base, top]

    def _make_images(self, name: str) -> Path:
        """The guest's chain; its top. Names are of one length, so the backing file's is replaced in place."""
        template = self._templates[0].name.removesuffix("-0.qcow2").encode()
        for source in self._templates:
            path = self._folder / source.name.replace(template.decode(), name)
            path.write_bytes(source.read_bytes().replace(template + b"-0.qcow2", f"{name}-0.qcow2".encode()))
            self._libvirtd.give_away(path)
        return path

    def _make_file(self, guest: Guest, file_name: str, make: tuple[str, ...]) -> None:
        path = self._folder / self._fill(file_name, guest.name)
        words = [self._fill(word, guest.name) for word in make]
        if words[0] == "mkdir":
            path.mkdir()
        elif words[0] == "text":
            path.write_text(words[1])
        else:
            subprocess.run(["qemu-img", *words], check=True)
        self._libvirtd.give_away(path)

    def _await_start(self, name: str, first: int) -> int:
        """The events of the start are not a case's; how many there are."""
        deadline_s = time.monotonic() + WAIT_S
        while not any(event[:2] == (LIFECYCLE, first) for event in self.side.events(name)):
            assert time.monotonic() < deadline_s, f"{self.side.name} was not told that {name} was made"
            time.sleep(0.005)
        return len(self.side.events(name))

    def _forget(self, shape: str) -> None:
        """The guest of this shape is no longer as it was."""
        name = self._clean.pop(shape).name
        threading.Thread(target=self._destroy, args=(name,), daemon=True).start()

    def _destroy(self, name: str) -> None:
        """By a signal: libvirt waits more than a second for each. What is left of it, `destroy` and `undefine` do."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(self._libvirtd.qemu_pid(name), signal.SIGKILL)
        for end in ("destroy", "undefine"):
            try:
                getattr(self._connection.lookupByName(name), end)()
            except libvirt.libvirtError:
                continue  # the case did it, or it was never defined

    def _step(self, guest: Guest, step: Step) -> Any:
        method, *arguments = step
        if method == "wait":
            return self._wait(guest.name, *arguments)
        filled = [self._fill(value, guest.name) for value in arguments]
        try:
            answer = self._plain(self.side.call(guest.name, method, *filled), guest.name)
        except Told as told:
            return ["error", [self._plain(value, guest.name) for value in told.fields]]
        if method.startswith("xml"):
            # The sides of the drop-in show an answer as its type and value.
            *kind, xml = [answer] if isinstance(answer, str) else answer
            answer = [*kind, *changed_lines(guest.xml, xml)]
        return ["answer", answer]

    def _wait(self, name: str, what: str, disk: str) -> str:
        """Until the disk's job is READY or gone ("settled"), or gone. Asks libvirt, whatever the side."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            try:
                domain = self._connection.lookupByName(name)
                has_job = bool(domain.blockJobInfo(disk, 0))
                xml = domain.XMLDesc(0)
            except libvirt.libvirtError:
                return "gone"
            # Without a job in QEMU there is still one in libvirt for a moment.
            if not has_job and "<mirror" not in xml:
                return "gone"
            if what == "settled" and "ready='yes'" in xml:
                return "ready"
            time.sleep(0.005)
        return "timed out"

    def _events(self, guest: Guest, count: int | None) -> list[list[Any]]:
        """The events since the last case."""
        wanted_count = len(self.side.events(guest.name)) if count is None else guest.told_count + count
        deadline_s = time.monotonic() + (QUIET_S if count is None else WAIT_S)
        while time.monotonic() < deadline_s:
            found_count = len(self.side.events(guest.name))
            if count is not None and found_count >= wanted_count:
                break
            if count is None and found_count > wanted_count:
                wanted_count, deadline_s = found_count, time.monotonic() + QUIET_S
            time.sleep(0.005)
        found = self.side.events(guest.name)[guest.told_count :][: count if count is not None else None]
        guest.told_count += len(found)
        return [[self._plain(value, guest.name) for value in event] for event in found]

    def _xml(self, name: str) -> str:
        return self._described(name, 0)

    def _inactive_xml(self, name: str) -> str:
        return self._described(name, libvirt.VIR_DOMAIN_XML_INACTIVE)

    def _described(self, name: str, flags: int) -> str:
        try:
            return str(self._plain(self._connection.lookupByName(name).XMLDesc(flags), name))
        except libvirt.libvirtError as error:
            return f"no XML: {error.get_error_code()}"

    def _flush(self, name: str) -> None:
        """QEMU keeps tables of an open image in memory; without them in the file it reads as something else."""
        with contextlib.suppress(libvirt.libvirtError):  # it does not run
            domain = self._connection.lookupByName(name)
            command = f'qemu-io -d {DEVICE} "flush"'
            libvirt_qemu.qemuMonitorCommand(domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)

    def _state(self, name: str) -> list[int]:
        return list(self._connection.lookupByName(name).state())

    def _files(self, name: str) -> dict[str, str]:
        """What each image of the guest reads as, by name."""
        paths = sorted(self._folder.glob(f"{name}-*"))
        return {self._plain(path.name, name): "a folder" if path.is_dir() else self._digests.of(path) for path in paths}

    def _fill(self, value: Any, name: str) -> Any:
        return value.replace("{dir}", str(self._folder)).replace("{name}", name) if isinstance(value, str) else value

    def _plain(self, value: Any, name: str) -> Any:
        if isinstance(value, list):
            return [self._plain(item, name) for item in value]
        if not isinstance(value, str):
            return value
        text = value.replace(str(self._folder), "{dir}").replace(name, "{name}")
        text = _UUID.sub("{uuid}", text)
        if text.startswith("<domain "):
            text = _CPU.sub("<cpu/>", _IMAGE_NUMBER.sub("", text))
            text = _DOMAIN_TYPE.sub("<domain type='{type}'", text, count=1)
        return re.sub(r"domain-\d+-\{name\}|(?<=id=)\d+", "{id}", text)
