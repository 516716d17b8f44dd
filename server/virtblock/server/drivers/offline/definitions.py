# SPDX-License-Identifier: Apache-2.0
"""Where the definitions of shut-off domains come from and go to.

Owns: the seam between jobs and the drivers. Invariants: callers hold the domain's lock from `load` to `save_with`;
what `load` returns is the definition at this moment, never a remembered one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from virtblock.server.core.model import Domain
from virtblock.server.drivers.offline.domain_xml import Definition


class Definitions(Protocol):
    """The definitions of one connection's domains."""

    def load(self, domain: Domain) -> Definition:
        """The definition of a domain that was looked up before; 42 when it is gone.

        Both methods may raise `ConnectionLost`.
        """

    def save_with(self, definition: Definition, complete: Callable[[str | None], None]) -> None:
        """Makes a changed definition durable, and then at the latest the job's end, which `complete` records.

        `complete` takes the XML that goes into the job's own transaction, or None for what is kept elsewhere and is
        durable already. 55 when the domain runs by now. A crash in between leaves the job PIVOTING, or with a chain
        that is the final one: doing it again gives the same.
        """
