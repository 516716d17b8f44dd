# SPDX-License-Identifier: Apache-2.0
"""Runs one case on one side and says all that came of it.

Owns: the guests of a side, by shape, used again while a case leaves them as they were; what an outcome is: of each step
the value or the whole error, the XML after, the events in order, and the content of the images. Invariants: names,
paths, UUIDs and ids of a side's guest are replaced by words, and nothing else is, so what is left is libvirt's own.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
from live.cases import PERSISTENT, RUNNING, SHUT_OFF, Case, Step
from live.hypervisor import PrivateLibvirtd, content, disk_xml, domain_xml
from live.sides import LIFECYCLE, Side, Told

WAIT_S = 20.0
EVENTS_SETTLE_S = 2.0
EVENT_DEFINED, EVENT_SUSPENDED = 0, 3
EMPTY_CDROM = "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Outcome:
    """All that came of a case."""

    steps: list[Any] = field(default_factory=list)
    xml: str = ""
    events: list[tuple[Any, ...]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Guest:
    """A guest as it was made."""

    name: str
    xml: str
    files: dict[str, str]


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

    def run(self, case: Case) -> Outcome:
        """The outcome of a case on a guest of its shape."""
        name = self._guest(case.shape)
        for file_name, make in case.files:
            subprocess.run(["qemu-img", *(self._fill(word, name) for word in make)], check=True)
            self._libvirtd.give_away(self._folder / self._fill(file_name, name))
        seen = len(self.side.events(name))
        outcome = Outcome()
        for step in case.steps:
            outcome.steps.append(self._step(name, step))
        outcome.xml = self._xml(name)
        outcome.files = self._files(name)
        self._name, self._seen = name, seen
        return outcome

    def events(self, wanted_count: int) -> list[tuple[Any, ...]]:
        """The events of the last case, once there are as many as the other side has, or none come any more."""
        deadline_s = time.monotonic() + EVENTS_SETTLE_S
        while len(self.side.events(self._name)) - self._seen < wanted_count and time.monotonic() < deadline_s:
            time.sleep(0.01)
        found = self.side.events(self._name)[self._seen :]
        return [tuple(self._plain(value, self._name) for value in event) for event in found]

    def forget(self, shape: str) -> None:
        """The guest of this shape is no longer as it was."""
        name = self._clean.pop(shape).name
        threading.Thread(target=self._destroy, args=(name,), daemon=True).start()

    def is_clean(self, shape: str, outcome: Outcome) -> bool:
        """Whether the guest is as it was before the case, but for files beside its own images, which go now."""
        known = self._clean[shape]
        if outcome.xml != known.xml or any(outcome.files.get(name) != digest for name, digest in known.files.items()):
            return False
        for name in outcome.files.keys() - known.files.keys():
            (self._folder / self._fill(name, known.name)).unlink()
        return True

    def _guest(self, shape: str) -> str:
        known = self._clean.get(shape)
        if known is not None:
            return known.name
        self._count += 1
        name = f"{self.side.name}{self._count:03d}"
        images: list[Path] = []
        for level, write in enumerate(("write -P 0x11 0 3M", "write -P 0x22 1M 1M")):
            below = images[0] if images else None
            images.insert(
                0, self._libvirtd.make_image(f"{self.side.name}/{name}-{level}.qcow2", backing=below, write=[write])
            )
        xml = domain_xml(name, [disk_xml(images[0]), EMPTY_CDROM])
        if shape == RUNNING:
            self._connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
        else:
            domain = self._connection.defineXML(xml)
            if shape == PERSISTENT:
                domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        self._clean[shape] = Guest(name, self._xml(name), self._files(name))
        self._await_start(name, shape)
        return name

    def _await_start(self, name: str, shape: str) -> None:
        """The events of the start are not the case's."""
        first = EVENT_DEFINED if shape == SHUT_OFF else EVENT_SUSPENDED
        deadline_s = time.monotonic() + WAIT_S
        while not any(event[:2] == (LIFECYCLE, first) for event in self.side.events(name)):
            assert time.monotonic() < deadline_s, f"{self.side.name} was not told that {name} was made"
            time.sleep(0.005)

    def _destroy(self, name: str) -> None:
        for end in ("destroy", "undefine"):
            try:
                getattr(self._connection.lookupByName(name), end)()
            except libvirt.libvirtError:
                continue  # the case did it, or it was never defined

    def _step(self, name: str, step: Step) -> Any:
        method, *arguments = step
        if method == "wait":
            return self._wait(name, *arguments)
        filled = [self._fill(value, name) for value in arguments]
        try:
            return ("answer", self._plain(self.side.call(name, method, *filled), name))
        except Told as told:
            return ("error", tuple(self._plain(value, name) for value in told.fields))

    def _wait(self, name: str, what: str, disk: str) -> str:
        """Until the disk's job is READY or gone ("settled"), or gone. Asks libvirt, whatever the side."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            try:
                domain = self._connection.lookupByName(name)
                xml = domain.XMLDesc(0)
                has_job = bool(domain.blockJobInfo(disk, 0))
            except libvirt.libvirtError:
                return "gone"
            if not has_job:
                return "gone"
            if what == "settled" and "ready='yes'" in xml:
                return "ready"
            time.sleep(0.005)
        return "timed out"

    def _xml(self, name: str) -> str:
        try:
            return str(self._plain(self._connection.lookupByName(name).XMLDesc(0), name))
        except libvirt.libvirtError as error:
            return f"no XML: {error.get_error_code()}"

    def _files(self, name: str) -> dict[str, str]:
        """What each image of the guest reads as, by name."""
        found = {}
        for path in sorted(self._folder.glob(f"{name}-*")):
            try:
                found[self._plain(path.name, name)] = hashlib.sha256(content(path)).hexdigest()[:16]
            except subprocess.CalledProcessError:
                found[self._plain(path.name, name)] = "no image"
        return found

    def _fill(self, value: Any, name: str) -> Any:
        return value.replace("{dir}", str(self._folder)).replace("{name}", name) if isinstance(value, str) else value

    def _plain(self, value: Any, name: str) -> Any:
        if isinstance(value, list):
            return [self._plain(item, name) for item in value]
        if not isinstance(value, str):
            return value
        text = value.replace(str(self._folder), "{dir}").replace(name, "{name}")
        text = _UUID.sub("{uuid}", text)
        text = re.sub(r"<domain type='(\w+)' id='\d+'", r"<domain type='\1' id='{id}'", text)
        return re.sub(r"domain-\d+-\{name\}|(?<=id=)\d+", "{id}", text)
