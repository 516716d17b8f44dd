# SPDX-License-Identifier: Apache-2.0
"""A domain's definition: libvirt's domain XML, read, checked and edited.

Owns: what a stored definition may be. Invariants: of the XML only name, UUID and disks are understood and checked;
all else is kept as the caller wrote it. What describes a running domain (`id`, `index`, `<mirror>`) never enters a
definition. A `Definition` is frozen; an edit gives a new one.
"""

from __future__ import annotations

import re
import uuid as uuid_module
from collections.abc import Sequence
from dataclasses import dataclass

from lxml import etree

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.drivers.offline import xml_text
from virtblock.server.drivers.offline.disk_xml import (
    SOURCE_ATTRIBUTES,
    DiskDefinition,
    ImageSource,
    read_backing,
    read_disk,
)

DISK_DEPTH = 2
NO_NAME = 21  # VIR_ERR_NO_NAME
DOMAIN_TYPES = frozenset(
    [
        "none",
        "qemu",
        "kqemu",
        "kvm",
        "xen",
        "lxc",
        "uml",
        "openvz",
        "test",
        "vmware",
        "hyperv",
        "vbox",
        "phyp",
        "parallels",
        "bhyve",
        "vz",
        "hvf",
    ]
)
_UUID = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True)
class Definition:
    """A checked definition. `xml` is what is stored and what VIR_DOMAIN_XML_INACTIVE shows."""

    name: str
    uuid: str
    xml: str
    disks: tuple[DiskDefinition, ...]

    def find_disk(self, name: str) -> DiskDefinition | None:
        """By target, or by the source's path when `name` begins with "/"; the first that fits, as libvirt does."""
        for disk in self.disks:
            if name.startswith("/"):
                if disk.source is not None and disk.source.path == name:
                    return disk
            elif disk.target == name:
                return disk
        return None

    def disk_of_target(self, target: str) -> DiskDefinition | None:
        """The disk with exactly this target."""
        return next((disk for disk in self.disks if disk.target == target), None)

    def tree(self) -> etree._Element:
        """The XML as a tree of the caller's own."""
        return xml_text.parse(self.xml, "(domain_definition)", "domain")


def parse_definition(xml: str) -> Definition:
    """Reads what a caller wants to define; makes a UUID when there is none. Errors have libvirt's numbers and texts."""
    root = xml_text.parse(xml, "(domain_definition)", "domain")
    _check_type(root)
    name = _read_name(root)
    uuid = _read_uuid(root) or str(uuid_module.uuid4())
    _normalize(root, uuid)
    return _definition(root, name, uuid)


def disk_elements(root: etree._Element) -> list[etree._Element]:
    """The `<disk>` elements of a domain, in order."""
    return root.findall("devices/disk")


def element_of(root: etree._Element, target: str) -> etree._Element:
    """The `<disk>` with this target, which the caller knows to be there."""
    for element in disk_elements(root):
        target_element = element.find("target")
        if target_element is not None and target_element.get("dev") == target:
            return element
    raise LookupError(f"no disk {target}")


def without_disk(definition: Definition, target: str) -> Definition:
    """The definition with the disk of this target removed."""
    root = definition.tree()
    xml_text.remove_indented(element_of(root, target))
    return _definition(root, definition.name, definition.uuid)


def with_source(
    definition: Definition,
    target: str,
    source: ImageSource,
    *,
    backing: Sequence[ImageSource] = (),
    is_terminated: bool = False,
) -> Definition:
    """The definition with another image in the disk of this target, and exactly this `<backingStore>` below it."""
    root = definition.tree()
    element = element_of(root, target)
    assert source.path is not None  # only local images are put in place
    element.set("type", source.type)
    _set_format(element, source.format)
    _set_source(element, source)
    _set_backing(element, backing, is_terminated=is_terminated)
    return _definition(root, definition.name, definition.uuid)


def with_backing(
    definition: Definition, target: str, backing: Sequence[ImageSource], *, is_terminated: bool
) -> Definition:
    """The definition with exactly this `<backingStore>` in the disk of this target."""
    root = definition.tree()
    _set_backing(element_of(root, target), backing, is_terminated=is_terminated)
    return _definition(root, definition.name, definition.uuid)


def backing_element(images: Sequence[ImageSource], *, is_terminated: bool) -> etree._Element | None:
    """Nested `<backingStore>` elements for `images`, nearest first; None when there is nothing to say."""
    if not images:
        return etree.Element("backingStore") if is_terminated else None
    image, rest = images[0], images[1:]
    store = etree.Element("backingStore", type=image.type)
    etree.SubElement(store, "format", type=image.format)
    source = etree.SubElement(store, "source")
    if image.path is not None:
        source.set(SOURCE_ATTRIBUTES[image.type], image.path)
    _add_data_store(source, image)
    below = backing_element(rest, is_terminated=is_terminated)
    if below is not None:
        store.append(below)
    return store


def position_before_target(element: etree._Element) -> int:
    """Where libvirt puts `<backingStore>` and `<mirror>`: right before `<target>`."""
    target = element.find("target")
    assert target is not None  # every disk of a definition has one
    return element.index(target)


def _check_type(root: etree._Element) -> None:
    domain_type = root.get("type")
    if domain_type is None:
        raise report(ErrorNumber.INTERNAL_ERROR, "missing domain type attribute", domain=ErrorDomain.DOMAIN)
    if domain_type not in DOMAIN_TYPES:
        detail = f"invalid domain type {domain_type}"
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail, domain=ErrorDomain.DOMAIN)


def _read_name(root: etree._Element) -> str:
    name = root.findtext("name") or ""
    if not name:
        text = "missing name information"
        raise VirError(NO_NAME, text, domain=ErrorDomain.DOMAIN, str1=text)
    if "/" in name:
        raise report(ErrorNumber.XML_ERROR, f"name {name} cannot contain '/'", domain=ErrorDomain.DOMAIN)
    if "\n" in name:
        raise report(ErrorNumber.XML_DETAIL, "invalid char in name: \n", domain=ErrorDomain.XML)
    return name


def _read_uuid(root: etree._Element) -> str:
    text = root.findtext("uuid") or ""
    digits = text.strip().replace("-", "")
    if not text:
        return ""
    if not _UUID.fullmatch(digits):
        raise report(ErrorNumber.INTERNAL_ERROR, "malformed uuid element", domain=ErrorDomain.DOMAIN)
    return str(uuid_module.UUID(digits))


def _normalize(root: etree._Element, uuid: str) -> None:
    """Sets the UUID and drops what only a running domain has."""
    _drop_attribute(root, "id")
    element = root.find("uuid")
    if element is None:
        name = root.find("name")
        assert name is not None  # it was read before
        element = etree.Element("uuid")
        xml_text.insert_indented(root, root.index(name) + 1, element)
    element.text = uuid
    for disk in disk_elements(root):
        for mirror in disk.findall("mirror"):
            xml_text.remove_indented(mirror)
        for image in disk.iter("source", "backingStore"):
            _drop_attribute(image, "index")
        etree.indent(disk, space="  ", level=DISK_DEPTH)  # what is put in later lines up, however it was written


def _drop_attribute(element: etree._Element, name: str) -> None:
    if name in element.attrib:
        del element.attrib[name]


def _definition(root: etree._Element, name: str, uuid: str) -> Definition:
    disks: dict[str, DiskDefinition] = {}
    for element in disk_elements(root):
        disk = read_disk(element)
        other = disks.get(disk.target)
        if other is not None:
            detail = f"target '{disk.target}' duplicated for disk sources '{_shown(other)}' and '{_shown(disk)}'"
            raise report(ErrorNumber.XML_ERROR, detail, domain=ErrorDomain.DOMAIN)
        disks[disk.target] = disk
    return Definition(name, uuid, xml_text.serialize(root), tuple(disks.values()))


def _shown(disk: DiskDefinition) -> str:
    return "(null)" if disk.source is None or disk.source.path is None else disk.source.path


def _set_format(element: etree._Element, image_format: str) -> None:
    driver = element.find("driver")
    if driver is None:
        driver = etree.Element("driver", name="qemu")
        xml_text.insert_indented(element, 0, driver)
    driver.set("type", image_format)


def _set_source(element: etree._Element, source: ImageSource) -> None:
    old = element.find("source")
    new = etree.Element("source")
    new.set(SOURCE_ATTRIBUTES[source.type], source.path or "")
    if old is None:
        xml_text.insert_indented(element, position_before_target(element), new)
        return
    startup_policy = old.get("startupPolicy")
    if startup_policy is not None:
        new.set("startupPolicy", startup_policy)
    _add_data_store(new, source)
    # A security label belongs to the disk and goes with it to the new image, as in virDomainBlockRebase.
    new.extend(old.findall("seclabel"))
    new.text = old.text if len(new) else None
    new.tail = old.tail
    element.replace(old, new)


def _add_data_store(element: etree._Element, image: ImageSource) -> None:
    """`<dataStore>` in the `<source>` of an image that has a data file."""
    if image.data_file is None:
        return
    store = etree.SubElement(element, "dataStore", type="file")
    etree.SubElement(store, "format", type="raw")
    etree.SubElement(store, "source", file=image.data_file)


def _set_backing(element: etree._Element, backing: Sequence[ImageSource], *, is_terminated: bool) -> None:
    kept = dict(zip(read_backing(element)[0], _backing_levels(element), strict=True))
    for old in element.findall("backingStore"):
        xml_text.remove_indented(old)
    store = backing_element(backing, is_terminated=is_terminated)
    if store is None:
        return
    xml_text.insert_indented(element, position_before_target(element), store)
    for image, level in zip(backing, _backing_levels(element), strict=True):
        if image in kept:
            _keep_details(kept[image], level)


def _backing_levels(element: etree._Element) -> list[etree._Element]:
    """The `<backingStore>`s below `element` that name an image, nearest first."""
    return [level for level in element.iter("backingStore") if level.get("type")]


def _keep_details(old: etree._Element, new: etree._Element) -> None:
    """What else the definition says of an image that stays: its metadata cache, its security label."""
    for tag in ("format", "source"):
        there, here = old.find(tag), new.find(tag)
        if there is not None and here is not None:
            there.tail = here.tail
            new.replace(here, there)
