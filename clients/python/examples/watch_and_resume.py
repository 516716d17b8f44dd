# SPDX-License-Identifier: Apache-2.0
"""Prints every change of every block job. It misses none while the server restarts, and none while it is down itself.

    python watch_and_resume.py SERVER TOKEN_FILE [COUNT]

TOKEN_FILE remembers how far it came; start it again with the same file and it goes on there. COUNT: stop after that
many changes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from virtblock.client import BlockJobWatcher, Client, VirError


def remember(path: Path, token: str) -> None:
    """Replace the file in one step, so that a crash leaves either token and never half of one."""
    if not token:
        # Within a snapshot there is nothing to go on after; what was stored stays.
        return
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(token, encoding="utf-8")
    os.replace(fresh, path)


def follow(watcher: BlockJobWatcher, token_file: Path, count: int | None) -> None:
    """Handle each event, then remember it: after a crash the last one may come once more, and none is lost."""
    remember(token_file, watcher.resume_token)
    handled = 0
    for event in watcher:
        if event.job is not None:
            job, kind = event.job, "is" if event.is_snapshot else "changed to"
            print(f"{event.sequence}: {job.domain.name} {job.disk} {kind} {job.state.name}", flush=True)
            handled += 1
        remember(token_file, watcher.resume_token)
        if handled == count:
            return


def main() -> int:
    """Go on at the stored token; the first time begin with the jobs that there are."""
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    token_file = Path(sys.argv[2])
    token = token_file.read_text(encoding="utf-8") if token_file.exists() else ""
    count = int(sys.argv[3]) if len(sys.argv) > 3 else None
    try:
        with (
            Client(sys.argv[1]) as client,
            # A token that is too old is no end: jobs as they are now come first, and then what happens.
            client.watch_block_jobs(resume_token=token, include_snapshot=True, on_compacted="snapshot") as watcher,
        ):
            print(f"watching {client.target}", flush=True)
            follow(watcher, token_file, count)
    except VirError as error:
        print(f"error {error.number}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
