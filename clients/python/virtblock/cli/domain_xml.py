# SPDX-License-Identifier: Apache-2.0
"""What the command line reads from a domain's XML, and the small XML that it writes.

Owns: finding disks in XML, the XML of a copy's destination and of a snapshot. Invariants: texts are escaped; the
layout is virsh's, so that `--print-xml` can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from virtblock.cli.failures import CommandError

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", '"': "&quot;"}
# The attribute of <source> that names the image, by the disk's type.
_SOURCE_ATTRIBUTES = {"file": "file", "block": "dev", "dir": "dir", "network": "name", "volume": "volume"}
_SNAPSHOT_SOURCE_TYPES = ("file", "block")


@dataclass(frozen=True)
class XmlDisk:
    """A disk as the XML has it. `source` is empty without a medium."""

    type: str
    device: str
    target: str
    source: str


def escaped(text: str) -> str:
    """The text as it stands in XML, between tags or in quotes."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def disks_of(domain_xml: str) -> list[XmlDisk]:
    """The disks in the order of the XML."""
    return [_read_disk(node) for node in _disk_nodes(domain_xml)]


def find_disk_xml(domain_xml: str, wanted: str) -> str:
    """The element, as text, of the disk with that target or source path. CommandError has virsh's text."""
    nodes = _disk_nodes(domain_xml)
    if not nodes:
        raise CommandError("Failed to get disk information")
    for node in nodes:
        disk = _read_disk(node)
        if wanted in (disk.target, disk.source):
            return str(node.toxml())
    raise CommandError(f"No disk found whose source path or target is {wanted}")


def _disk_nodes(domain_xml: str) -> list[minidom.Element]:
    try:
        # The server's own words; and expat bounds what entities may grow to.
        root = minidom.parseString(domain_xml).documentElement  # noqa: S318
    except ExpatError as error:
        raise CommandError("Failed to get disk information", f"the domain's XML cannot be read: {error}") from None
    devices = _children(root, "devices") if root is not None else []
    return [disk for device in devices for disk in _children(device, "disk")]


def _children(node: minidom.Element, name: str) -> list[minidom.Element]:
    return [child for child in node.childNodes if isinstance(child, minidom.Element) and child.tagName == name]


def _read_disk(node: minidom.Element) -> XmlDisk:
    disk_type = node.getAttribute("type")
    targets, sources = _children(node, "target"), _children(node, "source")
    return XmlDisk(
        type=disk_type,
        device=node.getAttribute("device"),
        target=targets[0].getAttribute("dev") if targets else "",
        source=sources[0].getAttribute(_SOURCE_ATTRIBUTES.get(disk_type, "file")) if sources else "",
    )


def destination_xml(path: str, image_format: str | None, *, is_device: bool) -> str:
    """The <disk> that describes a copy's destination."""
    disk_type, attribute = ("block", "dev") if is_device else ("file", "file")
    driver = f"  <driver type='{escaped(image_format)}'/>\n" if image_format else ""
    return f"<disk type='{disk_type}'>\n  <source {attribute}='{escaped(path)}'/>\n{driver}</disk>\n"


def snapshot_xml(name: str | None, description: str | None, memory: str | None, disks: Sequence[str]) -> str:
    """The <domainsnapshot> of `snapshot-create-as`; `memory` and `disks` are the specs as they were typed."""
    text = "<domainsnapshot>\n"
    if name is not None:
        text += f"  <name>{escaped(name)}</name>\n"
    if description is not None:
        text += f"  <description>{escaped(description)}</description>\n"
    if memory is not None:
        text += _memory_xml(memory)
    if disks:
        text += "  <disks>\n" + "".join(map(_snapshot_disk_xml, disks)) + "  </disks>\n"
    return text + "</domainsnapshot>\n"


def _memory_xml(spec: str) -> str:
    """`[file=]name[,snapshot=type]`."""
    parts = _split_spec(spec)
    if "=" not in parts[0]:
        parts[0] = f"file={parts[0]}"
    values = _read_parts(parts, ("file", "snapshot"))
    if values is None or values.get("file") == "":
        raise CommandError(f"unable to parse memspec: {spec}")
    attributes = [f" {name}='{escaped(values[name])}'" for name in ("snapshot", "file") if name in values]
    return f"  <memory{''.join(attributes)}/>\n"


def _snapshot_disk_xml(spec: str) -> str:
    """`disk[,snapshot=type][,driver=type][,stype=type][,file=name]`."""
    problem = f"unable to parse diskspec: {spec}"
    name, *parts = _split_spec(spec)
    values = _read_parts(parts, ("snapshot", "driver", "stype", "file"))
    if not name or values is None:
        raise CommandError(problem)
    storage_type = values.get("stype", "file")
    if storage_type not in _SNAPSHOT_SOURCE_TYPES:
        raise CommandError(f"Unknown storage type: '{storage_type}'", problem)
    text = f"    <disk name='{escaped(name)}'"
    text += f" snapshot='{escaped(values['snapshot'])}'" if "snapshot" in values else ""
    text += f" type='{storage_type}'" if "stype" in values else ""
    if "driver" not in values and "file" not in values:
        return text + "/>\n"
    text += ">\n"
    text += f"      <driver type='{escaped(values['driver'])}'/>\n" if "driver" in values else ""
    source = _SOURCE_ATTRIBUTES[storage_type]
    text += f"      <source {source}='{escaped(values['file'])}'/>\n" if "file" in values else ""
    return text + "    </disk>\n"


def _split_spec(spec: str) -> list[str]:
    """Cut at commas; a doubled comma stands for one."""
    return [part.replace("\0", ",") for part in spec.replace(",,", "\0").split(",")]


def _read_parts(parts: Sequence[str], names: Sequence[str]) -> dict[str, str] | None:
    """The `name=value` parts. None: one has another name, or comes twice."""
    values: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or name not in names or name in values:
            return None
        values[name] = value
    return values
