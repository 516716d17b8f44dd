# SPDX-License-Identifier: Apache-2.0
"""A guest that writes while its disk is mirrored: nothing that it wrote is lost, on either side."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from live.guests import Guest
from live.hypervisor import content
from live.stack import CALLER, Stack, selector, until
from live.writer import GuestWriter

from virtblock.server.core.flags import BlockJobAbortFlags, BlockRebaseFlags
from virtblock.server.core.model import JobState

pytestmark = pytest.mark.oracle

SIZE_BYTES = 16 << 20
WRITES_BEFORE, WRITES_IN_READY = 300, 700
COPY = int(BlockRebaseFlags.COPY)
PIVOT = int(BlockJobAbortFlags.PIVOT)


@pytest.mark.parametrize("flags", [0, PIVOT], ids=["abort", "pivot"])
@pytest.mark.parametrize("shallow", [0, int(BlockRebaseFlags.SHALLOW)], ids=["full", "shallow"])
def test_every_write_is_where_it_must_be(
    stack: Stack, make_guest: Callable[..., Guest], flags: int, shallow: int
) -> None:
    guest = make_guest(depth=2)
    path = str(guest.images[0].parent / f"{guest.name}-copy.qcow2")
    writer = GuestWriter(guest.domain, SIZE_BYTES, content(guest.images[0]), seed=flags + shallow)
    writer.start()
    until(lambda: writer.done_count >= WRITES_BEFORE // 3, "the first writes")
    job = stack.blocks.block_rebase(CALLER, selector(guest.uuid), "vda", path, 1, COPY | shallow)
    until(lambda: writer.done_count >= WRITES_BEFORE or writer.failure is not None, "writes before READY")
    stack.blocks.block_job_set_speed(CALLER, selector(guest.uuid), "vda", 0, 0)
    stack.wait_for(job.job_id, JobState.READY)
    in_ready = writer.done_count
    until(lambda: writer.done_count >= in_ready + WRITES_IN_READY or writer.failure is not None, "writes in READY")
    count_before = writer.done_count
    done = stack.blocks.block_job_abort(CALLER, selector(guest.uuid), "vda", flags)
    count_after = writer.done_count + 1
    assert done is not None
    assert done.state is (JobState.COMPLETED if flags else JobState.CANCELED)
    after_end = writer.done_count
    until(lambda: writer.done_count >= after_end + 50 or writer.failure is not None, "writes after the end")
    writer.stop()
    guest.domain.destroy()
    disk, other = (path, str(guest.images[0])) if flags else (str(guest.images[0]), path)
    assert content(disk) == writer.content(writer.done_count), "the domain's disk lacks a write"
    left = content(other)
    versions = range(count_before, count_after + 1)
    assert any(left == writer.content(count) for count in versions), "what was left is no point in time of the end"
