# SPDX-License-Identifier: Apache-2.0
"""The live form of a definition: with the images below each source, and `<mirror>` where a copy or an
active commit runs.

Owns: what GetXMLDesc shows and the definition does not hold. Invariants: pure functions of the definition, the chains
and the jobs; nothing here opens a file or changes the definition. Every image of a domain has an index of its own:
the sources count from 1 in the order of the disks, then follow the images below them and then the mirrors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from lxml import etree

from virtblock.server.core.model import BlockJob, BlockJobType, JobState
from virtblock.server.drivers.offline import xml_text
from virtblock.server.drivers.offline.disk_xml import SOURCE_ATTRIBUTES, ImageSource
from virtblock.server.drivers.offline.domain_xml import (
    Definition,
    backing_element,
    element_of,
    position_before_target,
)

READY_ATTRIBUTES = {JobState.READY: "yes", JobState.ABORTING: "abort", JobState.PIVOTING: "pivot"}


@dataclass(frozen=True)
class Mirror:
    """What `<mirror>` says of a copy or of an active commit.

    Its destination, and the images below that (None: not shown, as for a new overlay). `position`: the destination is
    this image of the disk's own chain, counted from the source, and has that one's index; 0: it has one of its own.
    """

    job: BlockJob
    destination: ImageSource
    backing: tuple[ImageSource, ...] | None
    position: int = 0


def source_index(definition: Definition, target: str) -> int:
    """The index of a disk's own source, from 1; 0 for an empty drive. It names the job: `copy-vda-libvirt-1-format`."""
    sources = [disk.target for disk in definition.disks if disk.source is not None]
    return sources.index(target) + 1 if target in sources else 0


def live_xml(
    definition: Definition, chains: Mapping[str, tuple[ImageSource, ...]], mirrors: Mapping[str, Mirror]
) -> str:
    """The XML with chains and mirrors. `chains`: by target, the images below the source; a target that is missing has a
    chain that cannot be read, and is shown as defined."""
    root = definition.tree()
    indexes = image_indexes(definition, chains)
    others = count(1 + sum(len(own) for own in indexes.values()))
    for disk in definition.disks:
        if disk.source is None:
            continue
        element, own = element_of(root, disk.target), indexes[disk.target]
        _set_index(element, own[0])
        if disk.target in chains:
            _show_chain(element, chains[disk.target], own[1:])
        if disk.target in mirrors:
            _show_mirror(element, mirrors[disk.target], own, others)
    return xml_text.serialize(root)


def image_indexes(definition: Definition, chains: Mapping[str, tuple[ImageSource, ...]]) -> dict[str, tuple[int, ...]]:
    """By target, the index of the source and of each image below it. `chains` as for `live_xml`."""
    below = count(source_index_count(definition) + 1)
    return {
        disk.target: (
            source_index(definition, disk.target),
            *(next(below) for _ in chains.get(disk.target, ())),
        )
        for disk in definition.disks
        if disk.source is not None
    }


def source_index_count(definition: Definition) -> int:
    """How many disks have a source."""
    return sum(disk.source is not None for disk in definition.disks)


def mirror_element(mirror: Mirror) -> etree._Element:
    """`<mirror>` without indexes."""
    destination = mirror.destination
    attribute = SOURCE_ATTRIBUTES[destination.type]
    element = etree.Element("mirror", type=destination.type)
    if destination.type == "file" and mirror.job.type == BlockJobType.COPY:
        # libvirt still writes its oldest form beside the new one.
        element.set("file", destination.path or "")
        element.set("format", destination.format)
    element.set("job", "copy" if mirror.job.type == BlockJobType.COPY else "active-commit")
    ready = READY_ATTRIBUTES.get(mirror.job.state)
    if ready is not None:
        element.set("ready", ready)
    etree.SubElement(element, "format", type=destination.format)
    etree.SubElement(element, "source").set(attribute, destination.path or "")
    if mirror.backing is not None:
        store = backing_element(mirror.backing, is_terminated=True)
        assert store is not None  # a terminated chain always has an element
        element.append(store)
    return element


def _show_chain(element: etree._Element, images: tuple[ImageSource, ...], indexes: Iterable[int]) -> None:
    for old in element.findall("backingStore"):
        xml_text.remove_indented(old)
    store = backing_element(images, is_terminated=True)
    assert store is not None  # a terminated chain always has an element
    levels = (level for level in store.iter("backingStore") if level.get("type") is not None)
    for level, index in zip(levels, indexes, strict=True):
        level.set("index", str(index))
    xml_text.insert_indented(element, position_before_target(element), store)


def _show_mirror(element: etree._Element, mirror: Mirror, own: tuple[int, ...], indexes: Iterator[int]) -> None:
    shown = mirror_element(mirror)
    _set_index(shown, own[mirror.position] if 0 < mirror.position < len(own) else next(indexes))
    for level in shown.iter("backingStore"):
        if level.get("type") is not None:
            level.set("index", str(next(indexes)))
    xml_text.insert_indented(element, position_before_target(element), shown)


def _set_index(element: etree._Element, index: int) -> None:
    source = element.find("source")
    assert source is not None  # only disks with a source come here
    source.set("index", str(index))
