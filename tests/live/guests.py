# SPDX-License-Identifier: Apache-2.0
"""Guests of the live tests: a name, a disk with a chain, and the libvirt handle beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import libvirt
from live.hypervisor import PrivateLibvirtd, disk_xml, domain_xml

BASE_WRITES = ("write -P 0x11 0 4M",)
TOP_WRITES = ("write -P 0x22 1M 2M",)


@dataclass
class Guest:
    """A domain, libvirt's own handle of it, and its images from the top down."""

    name: str
    domain: libvirt.virDomain
    images: list[Path] = field(default_factory=list)

    @property
    def uuid(self) -> str:
        """As libvirt prints it."""
        return str(self.domain.UUIDString())


class GuestMaker:
    """Makes guests. They stay until the daemon ends: destroying one takes libvirt more than a second."""

    def __init__(self, libvirtd: PrivateLibvirtd, numbers: Iterator[int]) -> None:
        self._libvirtd = libvirtd
        self._numbers = numbers

    def make(self, *, depth: int = 1, is_persistent: bool = False, is_running: bool = True) -> Guest:
        """A guest whose disk vda has a chain of `depth` images with data in each."""
        name = f"guest{next(self._numbers)}"
        images: list[Path] = []
        for level in range(depth):
            below = images[0] if images else None
            writes = TOP_WRITES if below else BASE_WRITES
            images.insert(0, self._libvirtd.make_image(f"{name}-{level}.qcow2", backing=below, write=writes))
        connection = libvirt.open(self._libvirtd.uri)  # a new one: tests kill libvirtd
        xml = domain_xml(name, [disk_xml(images[0])], self._libvirtd.domain_type)
        if is_persistent or not is_running:
            domain = connection.defineXML(xml)
            if is_running:
                domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        else:
            domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
        return Guest(name, domain, images)
