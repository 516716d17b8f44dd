# SPDX-License-Identifier: Apache-2.0
"""`<domainsnapshot>`: what a caller asks for, and what was made of it.

Owns: reading and checking snapshot XML against a definition, libvirt's names of new overlays, and the XML that is
answered. Invariants: pure; no file is looked at. Only external snapshots of disks are understood.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from lxml import etree

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.drivers.offline import xml_text
from virtblock.server.drivers.offline.disk_xml import SOURCE_ATTRIBUTES, DiskDefinition, ImageSource
from virtblock.server.drivers.offline.domain_xml import Definition

KINDS = frozenset({"no", "internal", "external", "manual"})


@dataclass(frozen=True)
class Overlay:
    """One disk of a snapshot: the image that it has, and the new one above it."""

    disk: DiskDefinition
    image: ImageSource


@dataclass(frozen=True)
class Snapshot:
    """A checked snapshot. `overlays` has only the disks that take part."""

    name: str
    description: str | None
    created_s: int
    overlays: tuple[Overlay, ...]


@dataclass(frozen=True)
class _DiskRequest:
    kind: str
    image: ImageSource | None


def parse_snapshot(xml: str, definition: Definition, *, is_disk_only: bool) -> Snapshot:
    """Reads `<domainsnapshot>`.

    Disks it does not name are external with DISK_ONLY, else internal, which is not offered (84).
    """
    root = xml_text.parse(xml, "(domain_snapshot)", "domainsnapshot", domain=ErrorDomain.DOMAIN_SNAPSHOT)
    created_s = int(time.time())
    name = root.findtext("name") or str(created_s)
    _check_memory(root)
    requests = _requests(root, definition)
    default_kind = "external" if is_disk_only else "internal"
    overlays = []
    for disk in definition.disks:
        request = requests.get(disk.target, _DiskRequest(default_kind if disk.source is not None else "no", None))
        if request.kind == "internal":
            detail = f"internal snapshot of disk '{disk.target}' is not supported, only external ones are"
            raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
        if request.kind == "external":
            overlays.append(Overlay(disk, request.image or _generated(disk, name)))
    if not overlays:
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, "nothing selected for snapshot")
    return Snapshot(name, root.findtext("description"), created_s, tuple(overlays))


def snapshot_xml(snapshot: Snapshot, definition: Definition) -> str:
    """The XML of a snapshot that was made of `definition`, in libvirt's order of elements."""
    root = etree.Element("domainsnapshot")
    etree.SubElement(root, "name").text = snapshot.name
    if snapshot.description is not None:
        etree.SubElement(root, "description").text = snapshot.description
    etree.SubElement(root, "state").text = "shutoff"
    etree.SubElement(root, "creationTime").text = str(snapshot.created_s)
    etree.SubElement(root, "memory", snapshot="no")
    disks = etree.SubElement(root, "disks")
    images = {overlay.disk.target: overlay.image for overlay in snapshot.overlays}
    for disk in definition.disks:
        image = images.get(disk.target)
        if image is None:
            etree.SubElement(disks, "disk", name=disk.target, snapshot="no")
            continue
        shown = etree.SubElement(disks, "disk", name=disk.target, snapshot="external", type=image.type)
        etree.SubElement(shown, "driver", type=image.format)
        etree.SubElement(shown, "source").set(SOURCE_ATTRIBUTES[image.type], image.path or "")
    root.append(definition.tree())
    etree.indent(root, space="  ")
    return xml_text.serialize(root)


def _check_memory(root: etree._Element) -> None:
    memory = root.find("memory")
    if memory is not None and memory.get("snapshot", "no") != "no":
        detail = "memory state cannot be saved with offline or disk-only snapshot"
        raise report(ErrorNumber.XML_ERROR, detail, domain=ErrorDomain.DOMAIN_SNAPSHOT)


def _requests(root: etree._Element, definition: Definition) -> dict[str, _DiskRequest]:
    """What the XML says of disks, by target."""
    requests: dict[str, _DiskRequest] = {}
    for element in root.findall("disks/disk"):
        name = element.get("name")
        if name is None:
            detail = "missing name from disk snapshot element"
            raise report(ErrorNumber.INTERNAL_ERROR, detail, domain=ErrorDomain.DOMAIN_SNAPSHOT)
        request = _disk_request(element)
        disk = definition.find_disk(name)
        if disk is None:
            raise _unsupported(f"no disk named '{name}'")
        if disk.target in requests:
            raise _unsupported(f"disk '{disk.target}' specified twice")
        requests[disk.target] = request
    return requests


def _disk_request(element: etree._Element) -> _DiskRequest:
    kind = element.get("snapshot") or "external"
    if kind not in KINDS:
        detail = f"Invalid value for attribute 'snapshot' in element 'disk': '{kind}'."
        raise report(ErrorNumber.XML_ERROR, detail, domain=ErrorDomain.XML)
    source_type = element.get("type", "file")
    if source_type not in ("file", "block"):
        raise report(ErrorNumber.OPERATION_UNSUPPORTED, f"snapshot into a '{source_type}' image is not supported")
    source = element.find("source")
    path = None if source is None else source.get(SOURCE_ATTRIBUTES[source_type])
    driver = element.find("driver")
    image_format = (None if driver is None else driver.get("type")) or "qcow2"
    if path is None:
        return _DiskRequest(kind, None)
    if not path.startswith("/"):
        detail = f"disk snapshot image path '{path}' must be absolute"
        raise report(ErrorNumber.XML_ERROR, detail, domain=ErrorDomain.DOMAIN_SNAPSHOT)
    if image_format != "qcow2":
        detail = f"external snapshot format for disk {element.get('name')} is unsupported: {image_format}"
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail)
    return _DiskRequest(kind, ImageSource(source_type, path, image_format))


def _generated(disk: DiskDefinition, snapshot_name: str) -> ImageSource:
    """libvirt's name: the source's, with its last suffix replaced by the snapshot's name."""
    if disk.source is None or disk.source.path is None:
        raise _unsupported(f"cannot generate external snapshot name for disk '{disk.target}' without source")
    if disk.source.type != "file":
        detail = f"cannot generate external snapshot name for disk '{disk.target}' on a '{disk.source.type}' device"
        raise _unsupported(detail)
    folder, name = os.path.split(disk.source.path)
    stem = name.rpartition(".")[0] if "." in name else name
    return ImageSource("file", os.path.join(folder, f"{stem}.{snapshot_name}"), "qcow2")


def _unsupported(detail: str) -> VirError:
    return report(ErrorNumber.CONFIG_UNSUPPORTED, detail, domain=ErrorDomain.DOMAIN_SNAPSHOT)
