# SPDX-License-Identifier: Apache-2.0
"""Runs a program of somebody else in this process, as Python's own command line does."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence


def run_program(arguments: Sequence[str], usage: str) -> None:
    """Run `SCRIPT ARGUMENT...`, or `-m MODULE ARGUMENT...`. Exits by `usage` when neither is given."""
    if not arguments or arguments[0] in ("-h", "--help") or (arguments[0] == "-m" and len(arguments) < 2):
        raise SystemExit(usage)
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = list(arguments)
    sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
    runpy.run_path(arguments[0], run_name="__main__")
