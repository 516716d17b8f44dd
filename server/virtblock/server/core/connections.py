# SPDX-License-Identifier: Apache-2.0
"""The connections that this server offers, by URI.

Owns: which driver answers for which URI. Invariants: the first driver given is the default; whether a driver offers a
call is read from its class, never from a list somebody keeps by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from virtblock.server.core.driver import BitmapOps, BlockJobOps, ConnectOps, DomainOps, Driver
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, no_support, report

# What a class inherits from these is a promise of the type checker's, not an offer.
_PROTOCOLS = frozenset({ConnectOps, DomainOps, BlockJobOps, BitmapOps, Driver, Protocol, object})


class Connections:
    """The drivers, each with `uri` and any subset of the methods of `driver.Driver`.

    Its class may also have `flag_masks` and `refusals` (see `driver.Driver`).
    """

    def __init__(self, drivers: Sequence[object]) -> None:
        if not drivers:
            raise ValueError("a server has at least one connection")
        self._drivers = {cast(Driver, driver).uri: cast(Driver, driver) for driver in drivers}
        if len(self._drivers) != len(drivers):
            raise ValueError("two connections have the same URI")

    @property
    def uris(self) -> list[str]:
        """The URIs, the default one first."""
        return list(self._drivers)

    @property
    def default_uri(self) -> str:
        """The connection that an empty URI means."""
        return next(iter(self._drivers))

    def resolve(self, uri: str) -> Driver:
        """The driver of a connection. NO_CONNECT for one that this server does not offer.

        Typed as a whole driver; ask `offers` or call `require` before a method is used.
        """
        driver = self._drivers.get(uri or self.default_uri)
        if driver is None:
            raise report(ErrorNumber.NO_CONNECT, uri, domain=ErrorDomain.NONE)
        return driver


def offers(driver: object, method_name: str) -> bool:
    """Whether the driver's class, or a base of it that is not the bare Protocol, defines the method."""
    for owner in type(driver).__mro__:
        if method_name in vars(owner):
            return owner not in _PROTOCOLS and callable(vars(owner)[method_name])
    return False


def require(driver: object, method_name: str, function: str, *, domain: int = ErrorDomain.DOMAIN) -> None:
    """NO_SUPPORT with libvirt's public name of the call when the driver lacks it."""
    if not offers(driver, method_name):
        raise no_support(function, domain=domain)
