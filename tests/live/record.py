# SPDX-License-Identifier: Apache-2.0
"""Asks libvirt every case and keeps its outcomes: `make record-live`; `CASES='pull-* commit-1'` for some of them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import libvirt
from live import recording
from live.cases import CASES
from live.comparing import Bench
from live.hypervisor import PrivateLibvirtd
from live.sides import LibvirtSide


def main(patterns: Sequence[str]) -> None:
    """Writes `recording.FILE`. `patterns`: of the cases to ask; the others keep what this version answered before."""
    known = {case.name for case in CASES}
    chosen = [case for case in CASES if any(fnmatch(case.name, one) for one in patterns) or not patterns]
    folder = Path(tempfile.mkdtemp(prefix="virtblock-live-"))
    daemon = PrivateLibvirtd(folder)
    daemon.start()
    side = LibvirtSide(daemon.uri)
    connection = libvirt.open(daemon.uri)
    try:
        bench = Bench(side, daemon, connection)
        kept = recording.load(connection) if patterns else {}
        outcomes = {name: outcome for name, outcome in kept.items() if name in known}
        for number, case in enumerate(chosen, 1):
            outcomes[case.name] = bench.run(case, None)
            print(f"{number} of {len(chosen)}: {case.name}", file=sys.stderr, flush=True)
        recording.save(connection, outcomes)
    finally:
        side.close()
        connection.close()
        daemon.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
