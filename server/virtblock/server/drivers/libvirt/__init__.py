# SPDX-License-Identifier: Apache-2.0
"""Running domains, through libvirt: every call is passed on, every answer and error comes back as libvirt gave it."""

from __future__ import annotations

from virtblock.server.drivers.libvirt.driver import LibvirtDriver

__all__ = ["LibvirtDriver"]
