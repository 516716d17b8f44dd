# SPDX-License-Identifier: Apache-2.0
"""What a new destination shall be beyond its format: an element of our own in BlockCopy's destination XML.

Owns: `<virtblock:destination xmlns:virtblock="urn:virtblock:1" cluster-size=… extended-l2=… compression=…
preallocation=…/>` as a child of `<disk>`: libvirt's XML has no words for these, and ignores elements of other
namespaces. Invariants: an attribute or value that is not known is refused, never ignored; what is not given is
decided as libvirt does: cluster size and extended L2 entries are the source's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

from lxml import etree

from virtblock.engine import Compression, Preallocation
from virtblock.server.core.checks import OWN_NAMESPACE
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report

CLUSTER_SIZES = frozenset(512 << shift for shift in range(13))
_YES_NO = {"yes": True, "no": False}
_COMPRESSIONS = frozenset({"none", "zlib", "zstd"})
_PREALLOCATIONS = frozenset({"off", "metadata", "falloc", "full"})
_ATTRIBUTES = frozenset({"cluster-size", "extended-l2", "compression", "preallocation"})


@dataclass(frozen=True)
class DestinationOptions:
    """0 and None: the source's. The words are the engine's."""

    cluster_size_bytes: int = 0
    extended_l2: bool | None = None
    compression: Compression = "none"
    preallocation: Preallocation = "off"

    @property
    def are_of_qcow2(self) -> bool:
        """Whether a raw image cannot have them."""
        return bool(
            self.cluster_size_bytes
            or self.extended_l2 is not None
            or self.compression != "none"
            or self.preallocation == "metadata"
        )

    def for_engine(self) -> dict[str, Any]:
        """As arguments of `engine.Copy`."""
        return asdict(self)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, which make the same options again."""
        return asdict(self)


NO_OPTIONS = DestinationOptions()


def read_options(disk: etree._Element) -> DestinationOptions:
    """The options that a `<disk>` names; 27 for what is not known."""
    elements = [element for element in disk if _is_ours(element)]
    for element in elements:
        name = etree.QName(element).localname
        if name != "destination" or len(elements) > 1 or len(element):
            raise _xml_error(f"unexpected element '{name}' of namespace '{OWN_NAMESPACE}'")
    return _read(elements[0]) if elements else NO_OPTIONS


def _is_ours(element: etree._Element) -> bool:
    # Comments have no name.
    return isinstance(element.tag, str) and etree.QName(element).namespace == OWN_NAMESPACE


def _read(element: etree._Element) -> DestinationOptions:
    for name in element.attrib:
        if str(name) not in _ATTRIBUTES:
            raise _xml_error(f"unknown attribute '{etree.QName(name).localname}' in element 'destination'")
    return DestinationOptions(
        cluster_size_bytes=_cluster_size(element),
        extended_l2=_extended_l2(element),
        compression=cast("Compression", _word(element, "compression", _COMPRESSIONS, "none")),
        preallocation=cast("Preallocation", _word(element, "preallocation", _PREALLOCATIONS, "off")),
    )


def _cluster_size(element: etree._Element) -> int:
    text = element.get("cluster-size")
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) in CLUSTER_SIZES):
        raise _invalid_value("cluster-size", text)
    return int(text)


def _extended_l2(element: etree._Element) -> bool | None:
    text = element.get("extended-l2")
    if text is not None and text not in _YES_NO:
        raise _invalid_value("extended-l2", text)
    return None if text is None else _YES_NO[text]


def _word(element: etree._Element, name: str, allowed: frozenset[str], default: str) -> str:
    text = element.get(name, default)
    if text not in allowed:
        raise _invalid_value(name, text)
    return text


def _invalid_value(name: str, text: str) -> VirError:
    return _xml_error(f"Invalid value for attribute '{name}' in element 'destination': '{text}'.")


def _xml_error(detail: str) -> VirError:
    return report(ErrorNumber.XML_ERROR, detail, domain=ErrorDomain.XML)
