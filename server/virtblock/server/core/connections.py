# SPDX-License-Identifier: Apache-2.0
"""The connections that this server offers, by URI. Signatures first; the bodies follow."""

from __future__ import annotations

from collections.abc import Sequence

from virtblock.server.core.driver import Driver


class Connections:
    """`drivers`: the first is the default. Each has `uri` and any subset of `driver.Driver`, and the class attribute
    `flag_masks: dict[str, int]` from driver method names to the flags they accept."""

    def __init__(self, drivers: Sequence[object]) -> None: ...
    @property
    def uris(self) -> list[str]:
        raise NotImplementedError

    @property
    def default_uri(self) -> str:
        raise NotImplementedError

    def resolve(self, uri: str) -> Driver:
        raise NotImplementedError


def offers(driver: object, method_name: str) -> bool:
    """Whether the driver's own class (not the Protocol) defines the method."""
    raise NotImplementedError
