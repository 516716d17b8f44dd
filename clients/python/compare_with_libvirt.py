# SPDX-License-Identifier: Apache-2.0
"""Prints what `virtblock.libvirt` lacks of libvirt-python: names that are not there, and calls that are not offered.

    .venv/bin/python clients/python/compare_with_libvirt.py

Needs libvirt-python. A call that is not offered is there and raises libvirtError VIR_ERR_NO_SUPPORT (3).
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator

import libvirt

from virtblock import libvirt as ours
from virtblock.libvirt.gen import not_offered

# What libvirt-python's module has because of how it is made.
INCIDENTAL = {"Any", "Callable", "Optional", "TracebackType", "TypeVar", "Union", "overload", "libvirtmod"}


def public(holder: object) -> list[str]:
    """The names that programs use."""
    return [name for name in dir(holder) if not name.startswith("_") and name not in INCIDENTAL]


def missing() -> Iterator[str]:
    """Names of libvirt-python, also of its classes, that are not here at all."""
    for name in public(libvirt):
        if not hasattr(ours, name):
            yield name
            continue
        theirs = getattr(libvirt, name)
        if inspect.isclass(theirs):
            yield from (f"{name}.{each}" for each in public(theirs) if not hasattr(getattr(ours, name), each))


def refused(class_name: str) -> list[str]:
    """The calls of a class that are here and not offered."""
    found = getattr(ours, class_name)
    owner = vars(getattr(not_offered, f"{class_name}NotOffered", found))
    names = public(getattr(libvirt, class_name))
    return [name for name in names if name in owner and getattr(found, name) is owner[name]]


def main() -> None:
    """Print both lists."""
    names = list(missing())
    print(f"missing names: {len(names)}", *names)
    for name in public(libvirt):
        theirs = getattr(libvirt, name)
        if inspect.isclass(theirs) and name.startswith("vir"):
            calls, lacking = public(theirs), refused(name)
            print(f"{name}: {len(calls) - len(lacking)} of {len(calls)} calls offered")
            if 0 < len(lacking) < len(calls):
                print(
                    textwrap.fill("not offered: " + " ".join(lacking), 118, initial_indent="  ", subsequent_indent="  ")
                )


if __name__ == "__main__":
    main()
