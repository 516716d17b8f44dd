# SPDX-License-Identifier: Apache-2.0
"""Where callers may have libvirt write, when the server's folders are bounded.

Owns: the check of the files that a call has libvirt make: copies of running domains, saved states, external snapshots.
Invariants: what cannot be told to lie in an allowed folder is refused, before libvirt hears of it; without folders
nothing is looked at. On another host only names are compared, links there cannot be followed. libvirt opens the path a
moment later and by itself, and of an image that is there it opens what that names: both are bounded by the rights of
the hypervisor's user. So is what a domain's definition names; see docs/daemon.md.
"""

from __future__ import annotations

import os

from lxml import etree

from virtblock.engine import EngineError, PathPolicy
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.drivers.offline.engine_errors import vir_error

# What `<source>` says beside where the image is.
_PLAIN_ATTRIBUTES = frozenset({"file", "dev", "index", "startupPolicy"})
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True)


class AllowedDestinations:
    """The files that one connection's callers may have made."""

    def __init__(self, policy: PathPolicy, *, is_local: bool) -> None:
        """`is_local`: whether the hypervisor is on this host."""
        self._policy = policy
        self._is_local = is_local

    def require_path(self, path: str | None) -> None:
        """88 for BlockRebase's destination outside the folders, 8 for a relative one. None is libvirt's to refuse."""
        if not self._policy.folders or path is None:
            return
        if not path.startswith("/"):
            raise report(ErrorNumber.INVALID_ARG, "absolute path must be used as block copy target")
        if not self._is_local:
            self._require_name(path)
            return
        try:
            self._policy.check(path)
        except EngineError as error:
            if error.kind == "denied":
                raise vir_error(error) from None  # of a file that cannot be made libvirt tells why

    def require_xml(self, disk_xml: str) -> None:
        """88 when BlockCopy's destination, or the chain that its XML names, is anything but files and block devices in
        the folders. XML that cannot be read is libvirt's to refuse."""
        root = self._read(disk_xml)
        if root is not None:
            self._require_sources(root)

    def require_snapshot(self, snapshot_xml: str) -> None:
        """As `require_xml`, for the images of an external snapshot and the file of its memory. What libvirt names by
        itself lies beside the disk."""
        root = self._read(snapshot_xml)
        if root is None:
            return
        for disk in root.iterfind("{*}disks/{*}disk"):
            self._require_sources(disk)
        for memory in root.iterfind("{*}memory"):
            self.require_path(memory.get("file"))

    def require_saved(self, path: str) -> None:
        """As `require_path`, for a file whose relative name libvirt takes from the current folder."""
        self.require_path(os.path.abspath(path))

    def _read(self, xml: str) -> etree._Element | None:
        """The root; None where nothing is bounded, and for what libvirt will refuse."""
        if not self._policy.folders:
            return None
        try:
            root = etree.fromstring(xml.encode(), _PARSER)
        except etree.XMLSyntaxError:
            return None
        if root.getroottree().docinfo.internalDTD is not None:
            raise _denied("A document type in a destination may hide its path")
        return root

    def _require_sources(self, element: etree._Element) -> None:
        for source in element.iter("{*}source"):
            if not _PLAIN_ATTRIBUTES.issuperset(source.keys()):
                raise _denied("The destination is neither a file nor a block device")
            for attribute in ("file", "dev"):
                self.require_path(source.get(attribute))

    def _require_name(self, path: str) -> None:
        plain = os.path.normpath(path)
        if not any(plain.startswith(f"{folder.rstrip('/')}/") for folder in self._policy.folders):
            raise _denied(f"The path lies outside every allowed folder: '{path}'")


def _denied(detail: str) -> VirError:
    return report(ErrorNumber.ACCESS_DENIED, detail, domain=ErrorDomain.ACCESS)
