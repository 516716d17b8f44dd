# SPDX-License-Identifier: Apache-2.0
"""A guest that writes while its disk is mirrored: nothing that it wrote is lost, on either side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from live.guests import Guest
from live.hypervisor import content
from live.stack import CALLER, Stack, selector, until
from live.writer import GuestWriter

from virtblock.server.core.flags import BlockJobAbortFlags, BlockRebaseFlags
from virtblock.server.core.model import JobState

SIZE_BYTES = 16 << 20
COPY = int(BlockRebaseFlags.COPY)
PIVOT = int(BlockJobAbortFlags.PIVOT)


@dataclass(frozen=True)
class Amount:
    """How many writes are waited for in each phase, at least."""

    before_ready: int
    in_ready: int
    after_end: int


FEW, MANY = Amount(45, 60, 10), Amount(300, 700, 50)


@pytest.mark.parametrize("amount", [FEW, pytest.param(MANY, marks=pytest.mark.oracle)], ids=["few", "many"])
@pytest.mark.parametrize("flags", [0, PIVOT], ids=["abort", "pivot"])
@pytest.mark.parametrize("shallow", [0, int(BlockRebaseFlags.SHALLOW)], ids=["full", "shallow"])
def test_every_write_is_where_it_must_be(
    stack: Stack, make_guest: Callable[..., Guest], flags: int, shallow: int, amount: Amount
) -> None:
    guest = make_guest(depth=2)
    path = str(guest.images[0].parent / f"{guest.name}-copy.qcow2")
    writer = GuestWriter(guest.domain, SIZE_BYTES, content(guest.images[0]), seed=flags + shallow)
    writer.start()
    until(lambda: writer.done_count >= amount.before_ready // 3, "the first writes")
    job = stack.blocks.block_rebase(CALLER, selector(guest.uuid), "vda", path, 1, COPY | shallow)
    until(lambda: writer.done_count >= amount.before_ready or writer.failure is not None, "writes before READY")
    stack.blocks.block_job_set_speed(CALLER, selector(guest.uuid), "vda", 0, 0)
    stack.wait_for(job.job_id, JobState.READY)
    in_ready = writer.done_count
    until(lambda: writer.done_count >= in_ready + amount.in_ready or writer.failure is not None, "writes in READY")
    count_before = writer.done_count
    done = stack.blocks.block_job_abort(CALLER, selector(guest.uuid), "vda", flags)
    count_after = writer.done_count + 1
    assert done is not None
    assert done.state is (JobState.COMPLETED if flags else JobState.CANCELED)
    after_end = writer.done_count
    until(
        lambda: writer.done_count >= after_end + amount.after_end or writer.failure is not None, "writes after the end"
    )
    writer.stop()
    guest.domain.destroy()
    disk, other = (path, str(guest.images[0])) if flags else (str(guest.images[0]), path)
    assert content(disk) == writer.content(writer.done_count), "the domain's disk lacks a write"
    left = content(other)
    versions = range(count_before, count_after + 1)
    assert any(left == writer.content(count) for count in versions), "what was left is no point in time of the end"
