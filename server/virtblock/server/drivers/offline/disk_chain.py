# SPDX-License-Identifier: Apache-2.0
"""A disk's chain as a caller names its images: base and top of a pull or commit.

Owns: libvirt's ways to name an image of a chain (path, name relative to the image above, `vda[3]`), its errors for
names that lead nowhere, and backing references that stay relative. Invariants: positions count from the top, which
is 0; a file is compared by what its name leads to, so links do not matter; nothing here opens a file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.drivers.offline.disk_xml import ImageSource

INDEX_MAX = 2**32 - 1
_INDEXED = re.compile(r"(?P<target>[^\[]*)\[[ \t]*\+?(?P<index>[0-9]+)\]")


@dataclass(frozen=True)
class DiskChain:
    """The images of the disk `target`, from the top; none for an empty drive.

    `indexes`: the numbers that live XML shows. `references`: what each image records as its backing file.
    """

    target: str
    images: tuple[ImageSource, ...]
    indexes: tuple[int, ...]
    references: tuple[str | None, ...]

    def find_top(self, name: str | None) -> int:
        """The position of a commit's top: the disk's own source for None and for the disk's target. 8 (storage)."""
        return 0 if name in (None, self.target) else self._find(name, 0)

    def find_below(self, name: str | None, above: int) -> int:
        """The position of an image below the one at `above`; None names the last one. 8 (storage)."""
        return self._find(name, above + 1)

    def relative_reference(self, holder: int, base: int) -> str | None:
        """What the image at `holder` records for the one at `base` so that nothing in it is absolute.

        None when a reference on the way is absolute already, or the name would lead to another file.
        """
        reference = ""
        for recorded in self.references[holder:base]:
            if recorded is None or recorded.startswith("/"):
                return None
            reference = os.path.join(os.path.dirname(reference), recorded)
        return reference if self._leads_to(reference, base, holder) else None

    def path(self, position: int) -> str:
        """The path of an image as errors tell it."""
        return self.images[position].path or "" if self.images else "<null>"

    def _find(self, name: str | None, first: int) -> int:
        if name is None:
            if first >= len(self.images):
                raise _not_found(f"could not find base image in chain for '{self.target}'")
            return len(self.images) - 1
        indexed = _INDEXED.fullmatch(name)
        if indexed is not None and 0 < int(indexed["index"]) <= INDEX_MAX:
            return self._find_indexed(indexed["target"], int(indexed["index"]), first)
        for position in range(first, len(self.images)):
            if self._leads_to(name, position, position - 1):
                return position
        place = f" beneath '{self.path(first - 1)}'" if first > 0 else ""
        raise _not_found(f"could not find image '{name}'{place} in chain for '{self.target}'")

    def _find_indexed(self, target: str, index: int, first: int) -> int:
        if target != self.target:
            raise _not_found(f"requested target '{target}' does not match target '{self.target}'")
        if index not in self.indexes[first:]:
            raise _not_found(f"could not find backing store index '{index}' in chain for '{self.target}'")
        return self.indexes.index(index)

    def _leads_to(self, name: str, position: int, holder: int) -> bool:
        """Whether `name`, in the folder of the image at `holder` when it is relative, is the image at `position`."""
        path = self.images[position].path
        if not name.startswith("/"):
            if holder < 0 or not name:
                return False
            name = os.path.join(os.path.dirname(self.path(holder)), name)
        try:
            return path is not None and os.path.realpath(name) == os.path.realpath(path)
        except ValueError:  # a NUL in the name
            return False


def _not_found(detail: str) -> VirError:
    return report(ErrorNumber.INVALID_ARG, detail, domain=ErrorDomain.STORAGE)
