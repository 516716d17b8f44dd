# SPDX-License-Identifier: Apache-2.0
"""What may be defined. Numbers, domains and texts are those that libvirt 9.0's QEMU driver gave for the same XML."""

from __future__ import annotations

from typing import Any

import pytest
from lxml import etree
from server.embedded.house import UUID, disk_xml, domain_xml

from virtblock.server.core.errors import VirError
from virtblock.server.drivers.offline.disk_xml import ImageSource
from virtblock.server.drivers.offline.domain_xml import (
    element_of,
    parse_definition,
    with_backing,
    with_source,
    without_disk,
)
from virtblock.server.drivers.offline.xml_text import DOCUMENT_MAX_BYTES

NO_DISKS = domain_xml()

REFUSALS = {
    "garbage": ("garbage", 35, 20, "(domain_definition):1: Start tag expected, '<' not found\ngarbage\n^"),
    "empty": ("", 35, 20, "(domain_definition):1: Document is empty\n(null)\n^"),
    "truncated": (
        "<domain type='qemu'><name>x</name>",
        35,
        20,
        "(domain_definition):1: Premature end of data in tag domain line 1\n"
        "<domain type='qemu'><name>x</name>\n----------------------------------^",
    ),
    "attribute": (
        "<a>\n<b c=d/></a>",
        35,
        20,
        "(domain_definition):2: AttValue: \" or ' expected\n<b c=d/></a>\n-----^",
    ),
    "entity": ("<a>&b;</a>", 35, 20, "(domain_definition):1: Entity 'b' not defined\n<a>&b;</a>\n------^"),
    "root": ("<foo/>", 27, 5, "XML error: expecting root element of 'domain', not 'foo'"),
    "no type": ("<domain><name>x</name></domain>", 1, 20, "internal error: missing domain type attribute"),
    "type": (
        "<domain type='blah'><name>x</name></domain>",
        67,
        20,
        "unsupported configuration: invalid domain type blah",
    ),
    "no name": ("<domain type='qemu'/>", 21, 20, "missing name information"),
    "empty name": (domain_xml(name=""), 21, 20, "missing name information"),
    "slash": (domain_xml(name="a/b"), 27, 20, "XML error: name a/b cannot contain '/'"),
    "newline": (domain_xml(name="a\nb"), 35, 5, "invalid char in name: \n"),
    "uuid": (domain_xml(uuid="xyz"), 1, 20, "internal error: malformed uuid element"),
    "no target": (
        domain_xml("<disk type='file'><source file='/a'/></disk>"),
        20,
        20,
        "missing target information for device /a",
    ),
    "no target, no source": (domain_xml("<disk><target/></disk>"), 20, 20, "missing target information for device"),
    "empty target": (
        domain_xml(disk_xml("/a", target="")),
        27,
        20,
        "XML error: Unknown disk name '' and no address specified",
    ),
    "unknown target": (
        domain_xml(disk_xml("/a", target="../vda")),
        27,
        20,
        "XML error: Unknown disk name '../vda' and no address specified",
    ),
    "partition": (
        domain_xml(disk_xml("/a", target="vda1")),
        67,
        10,
        "unsupported configuration: invalid disk target 'vda1', partitions can't appear in disk targets",
    ),
    "twice": (
        domain_xml(disk_xml("/a"), disk_xml("/b")),
        27,
        20,
        "XML error: target 'vda' duplicated for disk sources '/a' and '/b'",
    ),
    "no source": (domain_xml(disk_xml(None)), 19, 20, "missing source information for device vda"),
    "empty source": (domain_xml(disk_xml("")), 19, 20, "missing source information for device vda"),
    "block with file": (
        domain_xml("<disk type='block'><source file='/dev/zz'/><target dev='vda'/></disk>"),
        19,
        20,
        "missing source information for device vda",
    ),
    "disk type": (
        domain_xml(disk_xml("/a", attributes="type='foo'")),
        27,
        5,
        "XML error: Invalid value for attribute 'type' in element 'disk': 'foo'.",
    ),
    "device": (
        domain_xml(disk_xml("/a", attributes="type='file' device='foo'")),
        27,
        5,
        "XML error: Invalid value for attribute 'device' in element 'disk': 'foo'.",
    ),
    "bus": (
        domain_xml("<disk><source file='/a'/><target dev='vda' bus='foo'/></disk>"),
        27,
        5,
        "XML error: Invalid value for attribute 'bus' in element 'target': 'foo'.",
    ),
    "format": (
        domain_xml(disk_xml("/a", "bogus")),
        67,
        20,
        "unsupported configuration: unknown driver format value 'bogus'",
    ),
    "no format": (
        domain_xml(disk_xml("/a", "none")),
        67,
        20,
        "unsupported configuration: unknown driver format value 'none'",
    ),
    "lun": (
        domain_xml(disk_xml("/a", attributes="type='file' device='lun'")),
        67,
        20,
        "unsupported configuration: disk device='lun' is only valid for block type disk source",
    ),
    "transient": (
        domain_xml(disk_xml("/a", more="<transient/><readonly/>")),
        67,
        10,
        "unsupported configuration: transient disk 'vda' must not be read-only",
    ),
    "backing format": (
        domain_xml(disk_xml("/a", more="<backingStore type='file'><source file='/x'/></backingStore>")),
        27,
        20,
        "XML error: missing disk backing store format",
    ),
    "backing bad format": (
        domain_xml(
            disk_xml("/a", more="<backingStore type='file'><format type='zz'/><source file='/x'/></backingStore>")
        ),
        27,
        20,
        "XML error: unknown storage source format 'zz'",
    ),
    "backing source": (
        domain_xml(disk_xml("/a", more="<backingStore type='file'><format type='raw'/></backingStore>")),
        27,
        20,
        "XML error: missing disk backing store source",
    ),
    "backing type": (
        domain_xml(disk_xml("/a", more="<backingStore type='zz'><format type='raw'/></backingStore>")),
        27,
        20,
        "XML error: unknown storage source type 'zz'",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_with_libvirts_answer(case: str) -> None:
    xml, number, domain, message = REFUSALS[case]
    with pytest.raises(VirError) as caught:
        parse_definition(xml)
    assert (caught.value.number, caught.value.domain, caught.value.message) == (number, domain, message)


@pytest.mark.parametrize(
    "prolog",
    [
        "<!DOCTYPE d>",
        "<?xml version='1.0'?><!-- <b> --> <!DOCTYPE d [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>",
        "<!DOCTYPE d [<!ENTITY a 'x'><!ENTITY b '&a;&a;'>]>",
    ],
)
def test_document_type_is_refused(prolog: Any) -> None:
    with pytest.raises(VirError, match="document type declarations are not accepted") as caught:
        parse_definition(prolog + NO_DISKS)
    assert caught.value.number == 27


def test_hostile_prolog_costs_one_pass() -> None:
    with pytest.raises(VirError):
        parse_definition("<?a?><!-- - -->" * 100_000)


def test_too_long_is_refused() -> None:
    with pytest.raises(VirError, match="more than the limit") as caught:
        parse_definition(NO_DISKS + " " * DOCUMENT_MAX_BYTES)
    assert caught.value.number == 27


def test_uuid_is_made_when_absent_and_canonical_when_given() -> None:
    made = parse_definition(domain_xml(uuid=None))
    assert len(made.uuid) == 36
    assert f"<uuid>{made.uuid}</uuid>" in made.xml
    assert parse_definition(domain_xml(uuid="ABCDEF00" * 4)).uuid == "abcdef00-abcd-ef00-abcd-ef00abcdef00"


def test_what_is_not_understood_is_kept() -> None:
    extra = (
        "<metadata><q:x xmlns:q='http://example.org/q' a=\"it's\"/></metadata><!-- note -->"
        "<devices><disk type='network' device='disk'><driver name='qemu' type='raw' cache='none'/>"
        "<source protocol='nbd' name='x'><host name='localhost' port='1'/></source>"
        "<target dev='vdb' bus='virtio'/><serial>S</serial></disk></devices></domain>"
    )
    definition = parse_definition(
        NO_DISKS.replace("<devices>", "<devices2>").replace("</devices>", "</devices2>").replace("</domain>", extra)
    )
    assert "<q:x xmlns:q='http://example.org/q' a='it&apos;s'/>" in definition.xml
    assert "<!-- note -->" in definition.xml
    assert "<host name='localhost' port='1'/>" in definition.xml
    assert "cache='none'" in definition.xml
    assert definition.disks[0].source == ImageSource("network", None, "raw")
    assert not definition.disks[0].source.can_be_copied


def test_live_parts_never_enter_a_definition() -> None:
    live = domain_xml(
        "<disk type='file'><driver name='qemu' type='qcow2'/><source file='/a' index='5'/>"
        "<backingStore type='file' index='6'><format type='raw'/><source file='/b'/><backingStore/></backingStore>"
        "<mirror type='file' file='/x' format='qcow2' job='copy' ready='yes'><source file='/x' index='7'/></mirror>"
        "<target dev='vda'/></disk>"
    ).replace("<domain ", "<domain id='3' ")
    xml = parse_definition(live).xml
    for part in ("mirror", "index", "id='3'"):
        assert part not in xml
    assert "<backingStore type='file'>" in xml


def test_reading_what_was_stored_changes_nothing() -> None:
    definition = parse_definition(domain_xml(disk_xml("/a"), disk_xml("/b", "raw", target="vdb")))
    assert parse_definition(definition.xml) == definition


def test_disks_as_they_are_understood() -> None:
    definition = parse_definition(
        domain_xml(
            "<disk><source file='/a'/><target dev='vda'/></disk>",
            disk_xml(None, None, target="hdc", attributes="type='file' device='cdrom'"),
            disk_xml("/dev/x", "aio", target="sdb", attributes="type='block' device='disk'", more="<shareable/>"),
            disk_xml("/c", target="xvda", more="<backingStore/>"),
        )
    )
    plain, cdrom, block, terminated = definition.disks
    assert (plain.source, plain.bus, plain.device) == (ImageSource("file", "/a", "raw"), "virtio", "disk")
    assert (cdrom.source, cdrom.bus, cdrom.is_read_only) == (None, "ide", True)
    assert (block.source, block.bus, block.is_shareable) == (ImageSource("block", "/dev/x", "raw"), "scsi", True)
    assert (terminated.backing, terminated.is_terminated, terminated.bus) == ((), True, "xen")
    assert definition.find_disk("/dev/x") is block
    assert definition.find_disk("hdc") is cdrom
    assert definition.find_disk("") is None


def disk_of(definition: Any, target: Any = "vda") -> Any:
    root = etree.fromstring(definition.xml)
    return etree.tostring(element_of(root, target), encoding="unicode", with_tail=False).replace('"', "'")


def test_new_source_stands_where_the_old_one_stood() -> None:
    definition = parse_definition(
        f"""<domain type='qemu'>
  <name>vm</name>
  <uuid>{UUID}</uuid>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/a' startupPolicy='optional'/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""
    )
    changed = with_source(definition, "vda", ImageSource("block", "/dev/b", "raw"), is_terminated=True)
    assert (
        disk_of(changed)
        == """<disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source dev='/dev/b' startupPolicy='optional'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
    </disk>"""
    )
    back = with_source(changed, "vda", ImageSource("file", "/a", "qcow2"), backing=[ImageSource("file", "/c", "raw")])
    assert (
        disk_of(back)
        == """<disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/a' startupPolicy='optional'/>
      <backingStore type='file'>
        <format type='raw'/>
        <source file='/c'/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>"""
    )
    assert back.disks[0].backing == (ImageSource("file", "/c", "raw"),)


def test_source_without_driver_gets_one() -> None:
    definition = parse_definition(domain_xml("<disk><source file='/a'/><target dev='vda'/></disk>"))
    changed = with_source(definition, "vda", ImageSource("file", "/b", "qcow2"))
    assert changed.disks[0].source == ImageSource("file", "/b", "qcow2")


def test_removed_disk_leaves_the_others() -> None:
    definition = parse_definition(domain_xml(disk_xml("/a"), disk_xml("/b", target="vdb")))
    left = without_disk(definition, "vda")
    assert [disk.target for disk in left.disks] == ["vdb"]
    assert "memballoon" in left.xml
    assert without_disk(left, "vdb").disks == ()


def test_what_a_definition_says_of_images_that_stay_is_kept() -> None:
    """Only what changes is written anew: not the metadata cache of a backing image, nor a section of text."""
    details = "<format type='qcow2'><metadata_cache><max_size unit='bytes'>65536</max_size></metadata_cache></format>"
    source = "<source file='/{}'><seclabel model='dac' relabel='no'/></source>"
    level = "<backingStore type='file'>" + details + source + "{}</backingStore>"
    chain = level.format("middle", level.format("base", "<backingStore/>"))
    note = "<metadata><app:note xmlns:app='urn:app'><![CDATA[a > <b c=\"d\">]]></app:note></metadata>"
    xml = domain_xml(disk_xml("/top").replace("<target", f"{chain}<target")).replace("<vcpu>", f"{note}<vcpu>")
    definition = parse_definition(xml)
    backing = definition.disks[0].backing
    copied = with_source(definition, "vda", ImageSource("file", "/copy", "qcow2"), backing=backing, is_terminated=True)
    assert copied.xml == definition.xml.replace("/top", "/copy")
    assert note in copied.xml
    merged = with_backing(definition, "vda", backing[1:], is_terminated=True)
    [kept] = element_of(merged.tree(), "vda").findall("backingStore")
    assert etree.tostring(kept).decode().count("metadata_cache>") == 2
    [source_element] = kept.findall("source")
    assert (source_element.get("file"), [child.tag for child in source_element]) == ("/base", ["seclabel"])
