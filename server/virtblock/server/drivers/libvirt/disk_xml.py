# SPDX-License-Identifier: Apache-2.0
"""What libvirt's XML says of disks, chains and mirrors.

Owns: reading `<disk>` of a domain's XML and of BlockCopy's destination. Invariants: never raises for XML that libvirt
gave or takes; what is not there is empty. Nothing is decided here: libvirt judges, this finds names for the records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lxml import etree

from virtblock.server.core import checks
from virtblock.server.core.model import Disk, DiskImage

_PATH_ATTRIBUTES = ("file", "dev", "dir", "name", "path")
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)


@dataclass(frozen=True)
class Mirror:
    """A disk's `<mirror>`: the job that a running domain has there. `ready`: "", "yes", "abort" or "pivot"."""

    job: str
    path: str
    format: str
    ready: str


@dataclass(frozen=True)
class LiveDisk:
    """A disk with what a job changes of it."""

    target: str
    source_path: str
    chain_paths: tuple[str, ...]
    mirror: Mirror | None
    format: str = ""


def live_disks(domain_xml: str) -> list[LiveDisk]:
    """The disks of a domain's XML, in its order."""
    return [_live_disk(element) for element in _parse(domain_xml).iterfind("devices/disk")]


def find_disk(domain_xml: str, name: str) -> LiveDisk | None:
    """The disk with this target or this source, as libvirt's block calls name one."""
    return next((disk for disk in live_disks(domain_xml) if name in (disk.target, disk.source_path)), None)


def disks_of(domain_xml: str, capacity_of: Callable[[str], int]) -> list[Disk]:
    """The disks as the contract shows them. `capacity_of(target)` may fail: then the capacity is not known."""
    return [_disk(element, capacity_of) for element in _parse(domain_xml).iterfind("devices/disk")]


def has_destination_options(disk_xml: str) -> bool:
    """Whether BlockCopy's destination asks for what libvirt has no word for, and would ignore."""
    try:
        element = etree.fromstring(disk_xml.encode(), _PARSER)
    except etree.XMLSyntaxError:
        return False
    return element.find(f"{{{checks.OWN_NAMESPACE}}}*") is not None


def destination_of(disk_xml: str) -> tuple[str, str]:
    """Path and format of BlockCopy's destination; empty where the XML is not what libvirt will take."""
    try:
        element = etree.fromstring(disk_xml.encode(), _PARSER)
    except etree.XMLSyntaxError:
        return "", ""
    driver = element.find("driver")
    return _path(element.find("source")), "" if driver is None else driver.get("type", "")


def _parse(xml: str) -> etree._Element:
    return etree.fromstring(xml.encode(), _PARSER)


def _path(source: etree._Element | None) -> str:
    if source is None:
        return ""
    return next((value for name in _PATH_ATTRIBUTES if (value := source.get(name))), "")


def _target(element: etree._Element) -> str:
    target = element.find("target")
    return "" if target is None else target.get("dev", "")


def _chain(element: etree._Element) -> list[DiskImage]:
    images = []
    driver = element.find("driver")
    format_name = "" if driver is None else driver.get("type", "")
    layer: etree._Element | None = element
    while layer is not None and (path := _path(layer.find("source"))):
        images.append(DiskImage(path, format_name))
        layer = layer.find("backingStore")
        found = None if layer is None else layer.find("format")
        format_name = "" if found is None else found.get("type", "")
    return images


def _mirror(element: etree._Element) -> Mirror | None:
    mirror = element.find("mirror")
    if mirror is None:
        return None
    found = mirror.find("format")
    return Mirror(
        mirror.get("job", ""),
        _path(mirror.find("source")) or mirror.get("file", ""),
        "" if found is None else found.get("type", ""),
        mirror.get("ready", ""),
    )


def _live_disk(element: etree._Element) -> LiveDisk:
    chain = _chain(element)
    paths = tuple(image.path for image in chain)
    image_format = chain[0].format if chain else ""
    return LiveDisk(_target(element), paths[0] if paths else "", paths, _mirror(element), image_format)


def _disk(element: etree._Element, capacity_of: Callable[[str], int]) -> Disk:
    target = element.find("target")
    chain = tuple(_chain(element))
    name = _target(element)
    try:
        capacity_bytes = capacity_of(name) if chain else -1
    except Exception:  # any of libvirt's refusals: the disk is listed all the same
        capacity_bytes = -1
    return Disk(
        target=name,
        device=element.get("device", "disk"),
        bus="" if target is None else target.get("bus", ""),
        source_type=element.get("type", "file"),
        is_read_only=element.find("readonly") is not None,
        is_shareable=element.find("shareable") is not None,
        is_transient=element.find("transient") is not None,
        chain=chain,
        capacity_bytes=capacity_bytes,
    )
