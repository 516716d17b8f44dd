# SPDX-License-Identifier: Apache-2.0
"""Runs a program unchanged with the overlay installed: `python -m virtblock.overlay SCRIPT [ARGUMENT...]`."""

from __future__ import annotations

import sys

from virtblock import overlay
from virtblock.libvirt.program import run_program

USAGE = "usage: python -m virtblock.overlay SCRIPT [ARGUMENT...] | -m MODULE [ARGUMENT...]"


def main() -> None:
    """Install the overlay and run the program."""
    overlay.install()
    run_program(sys.argv[1:], USAGE)


if __name__ == "__main__":
    main()
