# SPDX-License-Identifier: Apache-2.0
"""Finding the domain that a request names.

Owns: libvirt's three look-ups with the checks of its public layer, and the domain selector of our own requests.
Invariants: a selector that names nothing is libvirt's bad domain pointer; a look-up is allowed to read-only callers.
"""

from __future__ import annotations

import re
import uuid as uuid_module

from virtblock.server.core.connections import Connections, require
from virtblock.server.core.driver import Driver
from virtblock.server.core.errors import (
    ErrorDomain,
    ErrorNumber,
    VirError,
    argument_check,
    must_not_be_null,
    read_only,
    report,
)
from virtblock.server.core.model import Caller, Domain, DomainSelector

# As libvirt parses it: sixteen pairs of digits, dashes and spaces between pairs, nothing but spaces after the last.
_UUID = re.compile(r"[ \t\n\v\f\r]*(?:[- ]*[0-9a-fA-F]{2}){16}[ \t\n\v\f\r]*", re.ASCII)


class DomainLookup:
    """Look-ups over all connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def by_name(self, uri: str, name: str | None, *, is_brief: bool = False) -> Domain:
        """virDomainLookupByName. `is_brief`: see `driver.ConnectOps`."""
        driver = self._connections.resolve(uri)
        if name is None:
            raise must_not_be_null("name", "virDomainLookupByName")
        require(driver, "domain_lookup_by_name", "virDomainLookupByName")
        return driver.domain_lookup_by_name(name, is_brief=is_brief)

    def by_uuid(self, uri: str, uuid: str | None, *, is_brief: bool = False) -> Domain:
        """virDomainLookupByUUIDString."""
        driver = self._connections.resolve(uri)
        function = "virDomainLookupByUUIDString"
        if uuid is None:
            raise must_not_be_null("uuidstr", function)
        if not _UUID.fullmatch(uuid):
            raise argument_check(function, "uuidstr", "Invalid UUID")
        # libvirt goes on with its call for raw UUIDs, so that is the one a driver lacks.
        require(driver, "domain_lookup_by_uuid", "virDomainLookupByUUID")
        digits = re.sub("[^0-9a-fA-F]", "", uuid)
        return driver.domain_lookup_by_uuid(str(uuid_module.UUID(digits)), is_brief=is_brief)

    def by_id(self, uri: str, domain_id: int, *, is_brief: bool = False) -> Domain:
        """virDomainLookupByID."""
        driver = self._connections.resolve(uri)
        function = "virDomainLookupByID"
        if domain_id < 0:
            raise argument_check(function, "id", f"id in {function} must be zero or greater")
        require(driver, "domain_lookup_by_id", function)
        return driver.domain_lookup_by_id(domain_id, is_brief=is_brief)

    def select(self, selector: DomainSelector, function: str, *, is_brief: bool = True) -> tuple[Driver, Domain]:
        """The domain that a request for the public libvirt function names, by default in brief, and its driver.

        None of name, UUID and id: INVALID_DOMAIN (7); more than one: INVALID_ARG (8).
        """
        uri = selector.connection_uri
        driver = self._connections.resolve(uri)
        named = [value for value in (selector.name, selector.uuid, selector.id) if value is not None]
        if not named:
            raise report(ErrorNumber.INVALID_DOMAIN, function, domain=ErrorDomain.DOM)
        if len(named) > 1:
            detail = "a domain is named by exactly one of name, uuid and id"
            raise report(ErrorNumber.INVALID_ARG, detail, domain=ErrorDomain.DOMAIN)
        if selector.name is not None:
            return driver, self.by_name(uri, selector.name, is_brief=is_brief)
        if selector.uuid is not None:
            return driver, self.by_uuid(uri, selector.uuid, is_brief=is_brief)
        return driver, self.by_id(uri, -1 if selector.id is None else selector.id, is_brief=is_brief)


def refuse_read_only(caller: Caller, function: str, *, domain: int = ErrorDomain.DOMAIN) -> None:
    """OPERATION_DENIED (29) for a changing call of a read-only caller."""
    if caller.read_only:
        raise read_only(function, domain=domain)


def given(value: str | None, argument: str, function: str, *, domain: int = ErrorDomain.DOMAIN) -> str:
    """The value; INVALID_ARG (8) where libvirt's caller passed NULL."""
    if value is None:
        raise must_not_be_null(argument, function, domain=domain)
    return value


def check_unsigned(value: int, argument: str, *, bit_count: int) -> int:
    """The value as C carries it. OVERFLOW (82) for what an unsigned integer of this width cannot hold."""
    if not 0 <= value < 1 << bit_count:
        detail = f"{argument} {value} does not fit into {bit_count} unsigned bits"
        raise report(ErrorNumber.OVERFLOW, detail, domain=ErrorDomain.DOMAIN)
    return value


def mutually_exclusive(flag: str, other: str, function: str, *, domain: int = ErrorDomain.DOMAIN) -> VirError:
    """`VIR_EXCLUSIVE_FLAGS_GOTO`; the argument's name is libvirt's own slip."""
    text = f"Flags '{flag}' and '{other}' are mutually exclusive"
    return argument_check(function, "ctl", text, domain=domain)
