# SPDX-License-Identifier: Apache-2.0
"""One `<disk>` of a definition: what it says, and libvirt's errors for what it must not say.

Owns: reading the host's side of a disk (source, format, backing chain). Invariants: records are frozen and hold what
the XML says, not what the images say; formats and source types are libvirt's names, and which of them can be copied
is asked with `can_be_copied`, never assumed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lxml import etree

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report

NO_TARGET = 20  # VIR_ERR_NO_TARGET
CHAIN_DEPTH_MAX = 200

SOURCE_ATTRIBUTES = {"file": "file", "block": "dev", "dir": "dir"}
SOURCE_TYPES = frozenset({*SOURCE_ATTRIBUTES, "network", "volume", "nvme", "vhostuser", "vhostvdpa"})
DEVICES = frozenset({"disk", "cdrom", "floppy", "lun"})
BUSES = frozenset({"ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata", "sd"})
BUS_OF_PREFIX = {"fd": "fdc", "hd": "ide", "vd": "virtio", "sd": "scsi", "xvd": "xen", "ubd": "uml"}
FORMATS = frozenset(
    [
        "raw",
        "dir",
        "bochs",
        "cloop",
        "dmg",
        "iso",
        "vpc",
        "vdi",
        "fat",
        "vhd",
        "ploop",
        "cow",
        "qcow",
        "qcow2",
        "qed",
        "vmdk",
    ]
)
COPIED_FORMATS = frozenset({"raw", "qcow2"})
# What makes an image read as something else than its file's content, or asks for more than opening it.
_UNREAD_FEATURES = frozenset({"encryption", "slices", "reservations", "initiator", "auth", "cookies", "ssl"})
_TARGET = re.compile(r"(fd|hd|vd|sd|xvd|ubd)([a-z]+)([0-9]*)")


@dataclass(frozen=True)
class ImageSource:
    """Where one image lies, as XML says it: source type, path (None: not a local file or device) and format.

    `data_file`: where a qcow2 image keeps its data, if not in itself. `unread_feature`: an element that only a
    hypervisor honours, such as `encryption`.
    """

    type: str
    path: str | None
    format: str
    data_file: str | None = None
    unread_feature: str | None = None

    @property
    def can_be_copied(self) -> bool:
        """Whether the engine reads it: a local raw or qcow2 image without more to it."""
        is_local = self.type in ("file", "block") and self.path is not None
        return is_local and self.format in COPIED_FORMATS and self.unread_feature is None


@dataclass(frozen=True)
class DiskDefinition:
    """One disk. `source` is None for an empty drive. `backing` is what the XML says of the images below, from the top.

    `is_terminated`: an empty `<backingStore/>` says that nothing lies below the last of them.
    """

    target: str
    device: str
    bus: str
    source_type: str
    source: ImageSource | None
    backing: tuple[ImageSource, ...] = ()
    is_terminated: bool = False
    is_read_only: bool = False
    is_shareable: bool = False
    is_transient: bool = False


def read_disk(element: etree._Element) -> DiskDefinition:
    """A `<disk>` that belongs to a definition: it has a good target, and a source unless the drive may be empty."""
    disk = read_disk_loosely(element)
    _check_target(element, disk.target)
    if disk.device in ("disk", "lun") and not has_source(element, disk.source_type):
        raise _no_source(disk.target)
    if disk.device == "lun" and disk.source_type == "file":
        detail = "disk device='lun' is only valid for block type disk source"
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail, domain=ErrorDomain.DOMAIN)
    if disk.is_transient and disk.is_read_only:
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, f"transient disk '{disk.target}' must not be read-only")
    return disk


def read_disk_loosely(element: etree._Element) -> DiskDefinition:
    """A `<disk>` that names one of a domain's disks (detach): only its target must be there."""
    source_type = _attribute(element, "type", "file", SOURCE_TYPES)
    device = _attribute(element, "device", "disk", DEVICES)
    source = read_source(element, source_type)
    target = _target_name(element, source)
    backing, is_terminated = read_backing(element)
    return DiskDefinition(
        target=target,
        device=device,
        bus=_bus(element, target),
        source_type=source_type,
        source=source,
        backing=backing,
        is_terminated=is_terminated,
        is_read_only=device == "cdrom" or element.find("readonly") is not None,
        is_shareable=element.find("shareable") is not None,
        is_transient=element.find("transient") is not None,
    )


def source_type_of(element: etree._Element) -> str:
    """The `type` of a `<disk>`, checked."""
    return _attribute(element, "type", "file", SOURCE_TYPES)


def driver_format(element: etree._Element) -> str | None:
    """`<driver type=…>`, checked; None when it is not given."""
    driver = element.find("driver")
    value = None if driver is None else driver.get("type")
    if not value:
        return None
    if value == "aio":  # an old name that libvirt still reads
        return "raw"
    if value not in FORMATS:
        detail = f"unknown driver format value '{value}'"
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail, domain=ErrorDomain.DOMAIN)
    return value


def has_source(element: etree._Element, source_type: str) -> bool:
    """Whether the element names a source of this type: for a local one its attribute must be there and not be empty."""
    attribute = SOURCE_ATTRIBUTES.get(source_type)
    source = element.find("source")
    return source is not None and (attribute is None or bool(source.get(attribute)))


def read_source(element: etree._Element, source_type: str) -> ImageSource | None:
    """The source of a `<disk>`; None when it has none. A format that is not given is raw, as libvirt decides."""
    image_format = driver_format(element) or "raw"
    if not has_source(element, source_type):
        return None
    return _image(element, source_type, image_format)


def data_files_of(images: Iterable[ImageSource]) -> dict[str, str]:
    """The data files that are named for these images, by the images' paths."""
    return {image.path: image.data_file for image in images if image.path is not None and image.data_file is not None}


def read_backing(element: etree._Element) -> tuple[tuple[ImageSource, ...], bool]:
    """The `<backingStore>`s below `element`, nearest first, and whether an empty one ends them."""
    images: list[ImageSource] = []
    store = element.find("backingStore")
    while store is not None:
        source_type = store.get("type")
        if not source_type:
            return tuple(images), True
        if len(images) >= CHAIN_DEPTH_MAX:
            detail = f"backing chains more than {CHAIN_DEPTH_MAX} layers deep are not supported"
            raise report(ErrorNumber.OPERATION_UNSUPPORTED, detail)
        images.append(_backing_image(store, source_type))
        store = store.find("backingStore")
    return tuple(images), False


def _backing_image(store: etree._Element, source_type: str) -> ImageSource:
    if source_type not in SOURCE_TYPES:
        raise _xml_error(f"unknown storage source type '{source_type}'")
    format_element = store.find("format")
    image_format = None if format_element is None else format_element.get("type")
    if not image_format:
        raise _xml_error("missing disk backing store format")
    if image_format not in FORMATS:
        raise _xml_error(f"unknown storage source format '{image_format}'")
    if store.find("source") is None:
        raise _xml_error("missing disk backing store source")
    return _image(store, source_type, image_format)


def _image(element: etree._Element, source_type: str, image_format: str) -> ImageSource:
    """The image of a `<disk>` or `<backingStore>`. `<encryption>` and `<auth>` may stand beside `<source>`."""
    names = [str(child.tag) for parent in (element, element.find("source")) if parent is not None for child in parent]
    feature = next((name for name in names if name in _UNREAD_FEATURES), None)
    path = _source_path(element, source_type)
    return ImageSource(source_type, path, image_format, _data_file(element, image_format), feature)


def _data_file(element: etree._Element, image_format: str) -> str | None:
    """`<dataStore>` of an image's `<source>`: a raw file, for a qcow2 image only."""
    store = element.find("source/dataStore")
    if store is None:
        return None
    source_type = store.get("type")
    if not source_type:
        raise _xml_error("missing 'type' of the disk data store")
    if source_type not in SOURCE_TYPES:
        raise _xml_error(f"unknown storage source type '{source_type}'")
    if image_format != "qcow2":
        raise _unsupported("'<dataStore>' is only supported with 'qcow2' images")
    format_element = store.find("format")
    if format_element is None or format_element.get("type") != "raw":
        raise _unsupported("'<dataStore>' is only supported with format 'raw'")
    if source_type != "file" or not has_source(store, source_type):
        raise _unsupported("'<dataStore>' is only supported with a local file")
    return _source_path(store, source_type)


def _source_path(element: etree._Element, source_type: str) -> str | None:
    source = element.find("source")
    attribute = SOURCE_ATTRIBUTES.get(source_type)
    return None if source is None or attribute is None else source.get(attribute)


def _target_name(element: etree._Element, source: ImageSource | None) -> str:
    target = element.find("target")
    name = None if target is None else target.get("dev")
    if name is not None:
        return name
    template = "missing target information for device"
    if source is None or source.path is None:
        raise VirError(NO_TARGET, template, domain=ErrorDomain.DOMAIN, str1=template)
    raise VirError(
        NO_TARGET, f"{template} {source.path}", domain=ErrorDomain.DOMAIN, str1=f"{template} %s", str2=source.path
    )


def _check_target(element: etree._Element, target: str) -> None:
    parsed = _TARGET.fullmatch(target)
    if parsed is None and element.find("address") is None:
        raise _xml_error(f"Unknown disk name '{target}' and no address specified")
    if parsed is not None and parsed.group(3):
        detail = f"invalid disk target '{target}', partitions can't appear in disk targets"
        raise report(ErrorNumber.CONFIG_UNSUPPORTED, detail)


def _bus(element: etree._Element, target: str) -> str:
    target_element = element.find("target")
    assert target_element is not None  # its name was read before
    if target_element.get("bus") is not None:
        return _attribute(target_element, "bus", "", BUSES)
    parsed = _TARGET.fullmatch(target)
    return BUS_OF_PREFIX[parsed.group(1)] if parsed else ""


def _attribute(element: etree._Element, name: str, default: str, allowed: frozenset[str]) -> str:
    value = element.get(name)
    if value is None:
        return default
    if value not in allowed:
        tag = etree.QName(element).localname
        detail = f"Invalid value for attribute '{name}' in element '{tag}': '{value}'."
        raise report(ErrorNumber.XML_ERROR, detail, domain=ErrorDomain.XML)
    return value


def _no_source(target: str) -> VirError:
    return report(ErrorNumber.NO_SOURCE, target, domain=ErrorDomain.DOMAIN)


def _unsupported(detail: str) -> VirError:
    return report(ErrorNumber.CONFIG_UNSUPPORTED, detail, domain=ErrorDomain.DOMAIN)


def _xml_error(detail: str) -> VirError:
    return report(ErrorNumber.XML_ERROR, detail, domain=ErrorDomain.DOMAIN)
