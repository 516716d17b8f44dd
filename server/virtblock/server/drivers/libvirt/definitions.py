# SPDX-License-Identifier: Apache-2.0
"""The persistent definitions of libvirt's domains, for jobs on those that are shut off.

Owns: reading and rewriting them. Invariants: what is written is what libvirt gave, with passwords, but for the disk of
the job; nothing is kept here, so the definition that a job ends with is the one that libvirt has then.
"""

from __future__ import annotations

from collections.abc import Callable

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, report
from virtblock.server.core.model import Domain
from virtblock.server.drivers.libvirt.binding import Binding
from virtblock.server.drivers.offline.domain_xml import Definition, parse_definition

XML_SECURE, XML_INACTIVE = 1, 2  # VIR_DOMAIN_XML_*


class LibvirtDefinitions:
    """The definitions of one connection's domains."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def load(self, domain: Domain) -> Definition:
        """What the domain will be when it is started next."""
        return parse_definition(
            self._binding.on_domain(domain.uuid, lambda found: str(found.XMLDesc(XML_INACTIVE | XML_SECURE)))
        )

    def require_not_saved(self, uuid: str) -> None:
        """55 for a domain with a managed save image: it goes on with the disks and the memory of then."""
        if self._binding.on_domain(uuid, lambda found: bool(found.hasManagedSaveImage(0))):
            detail = "domain has a managed save image, with which it would go on with its old disk"
            raise report(ErrorNumber.OPERATION_INVALID, detail, domain=ErrorDomain.DOMAIN)

    def save_with(self, definition: Definition, complete: Callable[[str | None], None]) -> None:
        """virDomainDefineXMLFlags, then the job's end. 55 when the domain runs or was saved: with the old disk."""
        if self._binding.on_domain(definition.uuid, lambda found: bool(found.isActive())):
            raise report(ErrorNumber.OPERATION_INVALID, "domain is running", domain=ErrorDomain.DOMAIN)
        self.require_not_saved(definition.uuid)
        self._binding.on_domain(definition.uuid, lambda found: found.connect().defineXMLFlags(definition.xml, 0))
        complete(None)
