# SPDX-License-Identifier: Apache-2.0
"""`snapshot-create-as`: a snapshot from options instead of XML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtblock.cli.domain_xml import snapshot_xml
from virtblock.cli.grammar import Invocation
from virtblock.client.flags import DomainSnapshotCreateFlags

if TYPE_CHECKING:
    from virtblock.cli.session import Session

_FLAGS = {
    "no-metadata": DomainSnapshotCreateFlags.NO_METADATA,
    "halt": DomainSnapshotCreateFlags.HALT,
    "disk-only": DomainSnapshotCreateFlags.DISK_ONLY,
    "reuse-external": DomainSnapshotCreateFlags.REUSE_EXT,
    "quiesce": DomainSnapshotCreateFlags.QUIESCE,
    "atomic": DomainSnapshotCreateFlags.ATOMIC,
    "live": DomainSnapshotCreateFlags.LIVE,
    "validate": DomainSnapshotCreateFlags.VALIDATE,
}


def run_snapshot_create_as(session: Session, invocation: Invocation) -> None:
    """Take a snapshot, or print its XML."""
    domain = session.domain(invocation)
    name, description = invocation.text("name"), invocation.text("description")
    xml = snapshot_xml(name, description, invocation.text("memspec"), invocation.lists.get("diskspec", []))
    if invocation.has("print-xml"):
        session.output.result({"xml": xml}, f"{xml}\n")
        return
    snapshot = session.client.snapshot_create_xml(domain, xml, invocation.flags_of(_FLAGS))
    # virsh ends the line by the empty line after the command.
    session.output.result(
        {"domain": domain.name, "name": snapshot.name, "xml": snapshot.xml},
        extra=f"Domain snapshot {snapshot.name} created",
    )
