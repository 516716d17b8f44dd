# SPDX-License-Identifier: Apache-2.0
"""`embedded:///`: domains that this server keeps itself, and whose disks its own engine copies."""

from __future__ import annotations

from virtblock.server.drivers.embedded.driver import EmbeddedDriver

__all__ = ["EmbeddedDriver"]
