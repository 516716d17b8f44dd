# SPDX-License-Identifier: Apache-2.0
"""The domains that this server keeps: define, look up, list, undefine.

Owns: the rules of names and UUIDs, and the life-cycle events of definitions. Invariants: a definition and its event
become durable together; embedded domains are always persistent and shut off; errors have libvirt's numbers and texts.
"""

from __future__ import annotations

import threading
import uuid as uuid_module
from collections.abc import Callable

from virtblock.server.core.errors import (
    ErrorDomain,
    ErrorNumber,
    VirError,
    argument_check,
    report,
    unsupported_flags,
)
from virtblock.server.core.events import DomainEvents
from virtblock.server.core.model import Domain
from virtblock.server.core.store import DomainRecord, Transaction
from virtblock.server.drivers.offline import guards
from virtblock.server.drivers.offline.context import Context
from virtblock.server.drivers.offline.domain_xml import Definition, parse_definition

DEFINE_FLAGS = 1  # VALIDATE
UNDEFINE_FLAGS = 0x7F
LIST_FLAGS = 0xFFFF

# virConnectListAllDomainsFlags in groups: of a group with any bit set, an embedded domain must have the one that it is.
_LIST_GROUPS = (
    (1 | 2, 2),  # INACTIVE
    (4 | 8, 4),  # PERSISTENT
    (16 | 32 | 64 | 128, 64),  # SHUTOFF
    (256 | 512, 512),  # NO_MANAGEDSAVE
    (1024 | 2048, 2048),  # NO_AUTOSTART
    (4096 | 8192, 8192),  # NO_SNAPSHOT
    (16384 | 32768, 32768),  # NO_CHECKPOINT
)


class StoredDefinitions:
    """The stored domains of one connection."""

    def __init__(self, context: Context, domain_events: DomainEvents) -> None:
        self._context = context
        self._domain_events = domain_events
        self._names = threading.Lock()  # held while a name is chosen and stored

    def define(self, xml: str, flags: int) -> Domain:
        """virDomainDefineXMLFlags: adds a domain, or replaces the definition of the same name and UUID."""
        if flags & ~DEFINE_FLAGS:
            raise unsupported_flags(flags, DEFINE_FLAGS, "qemuDomainDefineXMLFlags")
        definition = parse_definition(xml)
        with self._context.locks.hold(definition.uuid), self._names:
            old = self._find_for_update(definition)
            if old is not None:
                guards.require_unchanged_busy_disks(self._context, old, definition)
            with self._context.store.transaction() as transaction:
                self.put(transaction, definition)
                domain = self._domain(definition.name, definition.uuid)
                self._domain_events.defined(transaction, domain, is_update=old is not None)
        return domain

    def undefine(self, domain: Domain, flags: int) -> None:
        """virDomainUndefineFlags. Images are not touched."""
        if flags & ~UNDEFINE_FLAGS:
            raise unsupported_flags(flags, UNDEFINE_FLAGS, "qemuDomainUndefineFlags")
        with self._context.locks.hold(domain.uuid):
            self.load(domain)
            guards.require_no_job(self._context, domain.uuid)
            with self._context.store.transaction() as transaction:
                transaction.delete_domain(self._context.uri, domain.uuid)
                self._domain_events.undefined(transaction, self._domain(domain.name, domain.uuid))

    def load(self, domain: Domain) -> Definition:
        """The definition of a domain that was looked up before; 42 when it is gone."""
        record = self._context.store.get_domain(self._context.uri, domain.uuid)
        if record is None:
            raise _no_domain(f"no domain with matching uuid '{domain.uuid}' ({domain.name})")
        return parse_definition(record.xml)

    def save(self, definition: Definition) -> None:
        """Stores an edited definition of a domain that exists, with its event."""
        with self._context.store.transaction() as transaction:
            self.put(transaction, definition)
            domain = self._domain(definition.name, definition.uuid)
            self._domain_events.defined(transaction, domain, is_update=True)

    def save_with(self, definition: Definition, complete: Callable[[str | None], None]) -> None:
        """The definition and the job's end in one transaction."""
        complete(definition.xml)

    def put(self, transaction: Transaction, definition: Definition) -> None:
        """Writes a definition inside the caller's transaction."""
        transaction.put_domain(DomainRecord(self._context.uri, definition.uuid, definition.name, definition.xml))

    def find_by_name(self, name: str) -> Domain:
        """virDomainLookupByName."""
        record = self._context.store.find_domain_by_name(self._context.uri, name)
        if record is None:
            raise _no_domain(f"no domain with matching name '{name}'")
        return self._domain(record.name, record.uuid)

    def find_by_uuid(self, uuid: str) -> Domain:
        """virDomainLookupByUUIDString; any spelling of the UUID."""
        try:
            uuid = str(uuid_module.UUID(uuid))
        except ValueError:
            raise argument_check("virDomainLookupByUUIDString", "uuidstr", "Invalid UUID") from None
        record = self._context.store.get_domain(self._context.uri, uuid)
        if record is None:
            raise _no_domain(f"no domain with matching uuid '{uuid}'")
        return self._domain(record.name, record.uuid)

    def find_by_id(self, domain_id: int) -> Domain:
        """virDomainLookupByID: only running domains have an id, so there is never one."""
        raise _no_domain(f"no domain with matching id {domain_id}")

    def list_all(self, flags: int) -> list[Domain]:
        """virConnectListAllDomains, by name."""
        if flags & ~LIST_FLAGS:
            raise unsupported_flags(flags, LIST_FLAGS, "qemuConnectListAllDomains")
        if any(flags & group and not flags & own for group, own in _LIST_GROUPS):
            return []
        return [
            self._domain(record.name, record.uuid) for record in self._context.store.list_domains(self._context.uri)
        ]

    def _find_for_update(self, definition: Definition) -> Definition | None:
        """The definition that is replaced, None for a new domain; 9 when name or UUID belong to another one."""
        store, uri = self._context.store, self._context.uri
        same_uuid = store.get_domain(uri, definition.uuid)
        if same_uuid is not None:
            if same_uuid.name != definition.name:
                detail = f"domain '{same_uuid.name}' is already defined with uuid {definition.uuid}"
                raise report(ErrorNumber.OPERATION_FAILED, detail, domain=ErrorDomain.DOMAIN)
            return parse_definition(same_uuid.xml)
        same_name = store.find_domain_by_name(uri, definition.name)
        if same_name is not None:
            detail = f"domain '{definition.name}' already exists with uuid {same_name.uuid}"
            raise report(ErrorNumber.OPERATION_FAILED, detail, domain=ErrorDomain.DOMAIN)
        return None

    def _domain(self, name: str, uuid: str) -> Domain:
        return Domain(self._context.uri, name, uuid)


def _no_domain(detail: str) -> VirError:
    return report(ErrorNumber.NO_DOMAIN, detail)
