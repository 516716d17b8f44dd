# SPDX-License-Identifier: Apache-2.0
"""What virConnectGetCapabilities, GetVersion and GetHostname answer for embedded domains.

Owns: the server's version as libvirt encodes versions, and a host description without hypervisors. Invariants: it
promises nothing that the driver does not do: there is no guest that could be started.
"""

from __future__ import annotations

import platform
import re
import socket
from importlib import metadata

from lxml import etree

from virtblock.server.drivers.offline import xml_text

DISTRIBUTION = "virtblock"


def encoded_version() -> int:
    """The server's version as major * 1000000 + minor * 1000 + release."""
    try:
        text = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return 0
    numbers = [int(number) for number in re.findall(r"\d+", text)[:3]]
    major, minor, release = (*numbers, 0, 0, 0)[:3]
    return major * 1_000_000 + minor * 1_000 + release


def host_name() -> str:
    """The host's name as the kernel has it: a look-up in the network could hold the call for seconds."""
    return socket.gethostname()


def capabilities_xml() -> str:
    """`<capabilities>` with the host's architecture."""
    root = etree.Element("capabilities")
    cpu = etree.SubElement(etree.SubElement(root, "host"), "cpu")
    etree.SubElement(cpu, "arch").text = platform.machine()
    etree.indent(root, space="  ")
    return xml_text.serialize(root)
