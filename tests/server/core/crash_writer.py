# SPDX-License-Identifier: Apache-2.0
"""Runs jobs to their end over and over until it is killed; prints the log's sequence after each step that returned."""

from __future__ import annotations

import sys
from pathlib import Path

from server.core.samples import DOMAIN, URI, UUID, Core

from virtblock.server.core.model import BlockJobStatus, JobState
from virtblock.server.core.store import DomainRecord


def main() -> None:
    core = Core.open(Path(sys.argv[1]))
    if core.store.get_domain(URI, UUID) is None:
        with core.store.transaction() as transaction:
            transaction.put_domain(DomainRecord(URI, UUID, "test", ""))
    for left in core.jobs.list_active():
        core.jobs.transition(left.job_id, JobState.FAILED)
    while True:
        job_id = core.begin().job_id
        for state, status, xml in (
            (JobState.RUNNING, None, None),
            (JobState.READY, BlockJobStatus.READY, None),
            (JobState.PIVOTING, None, None),
            (JobState.COMPLETED, BlockJobStatus.COMPLETED, job_id),
        ):
            core.jobs.transition(job_id, state, status=status, domain=DOMAIN, event_path="/p", domain_xml=xml)
            print(core.events.last_sequence, flush=True)


if __name__ == "__main__":
    main()
