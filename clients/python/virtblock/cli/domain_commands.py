# SPDX-License-Identifier: Apache-2.0
"""The commands on a domain's definition: `define`, `undefine`, `dumpxml`, `detach-disk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtblock.cli.domain_xml import find_disk_xml
from virtblock.cli.files import read_text
from virtblock.cli.grammar import Invocation
from virtblock.cli.records import plain
from virtblock.client.flags import DomainDefineFlags, DomainDeviceModifyFlags, DomainUndefineFlags, DomainXmlFlags

if TYPE_CHECKING:
    from virtblock.cli.session import Session

_XML_FLAGS = {
    "inactive": DomainXmlFlags.INACTIVE,
    "security-info": DomainXmlFlags.SECURE,
    "update-cpu": DomainXmlFlags.UPDATE_CPU,
    "migratable": DomainXmlFlags.MIGRATABLE,
}
_UNDEFINE_FLAGS = {
    "managed-save": DomainUndefineFlags.MANAGED_SAVE,
    "snapshots-metadata": DomainUndefineFlags.SNAPSHOTS_METADATA,
    "checkpoints-metadata": DomainUndefineFlags.CHECKPOINTS_METADATA,
    "nvram": DomainUndefineFlags.NVRAM,
    "keep-nvram": DomainUndefineFlags.KEEP_NVRAM,
    "tpm": DomainUndefineFlags.TPM,
    "keep-tpm": DomainUndefineFlags.KEEP_TPM,
}


def run_define(session: Session, invocation: Invocation) -> None:
    """Define a domain from a file."""
    path = invocation.required("file")
    xml = read_text(path)
    flags = invocation.flags_of({"validate": DomainDefineFlags.VALIDATE})
    with session.explain(f"Failed to define domain from {path}"):
        domain = session.client.domain_define_xml(xml, flags)
    session.output.result({"domain": plain(domain)}, extra=f"Domain '{domain.name}' defined from {path}\n")


def run_undefine(session: Session, invocation: Invocation) -> None:
    """Remove a domain's definition. Its images stay."""
    invocation.exclude("nvram", "keep-nvram")
    invocation.exclude("tpm", "keep-tpm")
    domain, typed = session.domain(invocation), invocation.required("domain")
    with session.explain(f"Failed to undefine domain '{typed}'"):
        session.client.undefine(domain, invocation.flags_of(_UNDEFINE_FLAGS))
    session.output.result({"domain": plain(domain)}, extra=f"Domain '{typed}' has been undefined\n")


def run_dumpxml(session: Session, invocation: Invocation) -> None:
    """Print a domain's XML."""
    domain = session.domain(invocation)
    xml = session.client.get_xml_desc(domain, invocation.flags_of(_XML_FLAGS))
    session.output.result({"domain": domain.name, "xml": xml}, xml if xml.endswith("\n") else f"{xml}\n")


def run_detach_disk(session: Session, invocation: Invocation) -> None:
    """Take a disk out of a domain, its definition, or both."""
    invocation.exclude("persistent", "current")
    invocation.exclude("current", "live")
    invocation.exclude("current", "config")
    wanted = invocation.required("target")
    domain = session.domain(invocation)
    flags = DomainDeviceModifyFlags.CURRENT
    if invocation.has("config") or invocation.has("persistent"):
        flags |= DomainDeviceModifyFlags.CONFIG
    if invocation.has("live") or (invocation.has("persistent") and domain.active):
        flags |= DomainDeviceModifyFlags.LIVE
    # What is changed in the definition is described by the definition, which may differ from what runs.
    xml_flags = DomainXmlFlags.INACTIVE if flags & DomainDeviceModifyFlags.CONFIG else DomainXmlFlags.NONE
    xml = find_disk_xml(session.client.get_xml_desc(domain, xml_flags), wanted)
    if invocation.has("print-xml"):
        session.output.result({"xml": xml}, xml)
        return
    with session.explain("Failed to detach disk"):
        if flags or invocation.has("current"):
            session.client.detach_device_flags(domain, xml, flags)
        else:
            session.client.detach_device(domain, xml)
    session.output.result(
        {"domain": domain.name, "target": wanted, "flags": int(flags)}, extra="Disk detached successfully\n"
    )
