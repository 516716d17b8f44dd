# SPDX-License-Identifier: Apache-2.0
"""Runs a program unchanged: what it imports as libvirt and libvirtaio are this package's.

python -m virtblock.libvirt SCRIPT [ARGUMENT...]
python -m virtblock.libvirt -m MODULE [ARGUMENT...]
"""

from __future__ import annotations

import sys

from virtblock import libvirt, libvirtaio
from virtblock.libvirt.program import run_program

USAGE = "usage: python -m virtblock.libvirt SCRIPT [ARGUMENT...] | -m MODULE [ARGUMENT...]"


def main() -> None:
    """Stand in for both modules and run the program."""
    sys.modules["libvirt"] = libvirt
    sys.modules["libvirtaio"] = libvirtaio
    run_program(sys.argv[1:], USAGE)


if __name__ == "__main__":
    main()
