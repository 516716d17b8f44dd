# SPDX-License-Identifier: Apache-2.0
"""The checks that drivers share: bandwidth, typed parameters, what a job forbids. Texts are libvirt 9.0's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.core.samples import sample_job

from virtblock.server.core import checks
from virtblock.server.core.errors import VirError
from virtblock.server.core.flags import BlockJobAbortFlags
from virtblock.server.core.model import BlockJobType, JobState, ParameterType, TypedParameter

MIB_MAX = 8796093022207
LLONG_MAX = 9223372036854775807
PIVOT, ASYNC = BlockJobAbortFlags.PIVOT, BlockJobAbortFlags.ASYNC
ULLONG, UINT, INT = ParameterType.ULLONG, ParameterType.UINT, ParameterType.INT


def _told(call: Callable[[], Any]) -> tuple[int, int, str]:
    with pytest.raises(VirError) as caught:
        call()
    return caught.value.number, caught.value.domain, caught.value.str2


def test_the_largest_bandwidth_in_mib_is_accepted() -> None:
    """libvirt's text says "less than", its check does not."""
    assert checks.bandwidth_bytes_per_s(MIB_MAX, is_bytes=False) == MIB_MAX << 20
    too_much = _told(lambda: checks.bandwidth_bytes_per_s(MIB_MAX + 1, is_bytes=False))
    assert too_much == (82, 10, "bandwidth must be less than 8796093022207")
    assert checks.bandwidth_bytes_per_s(2**64 - 1, is_bytes=True) == 2**64 - 1


def test_a_copys_bandwidth_in_bytes() -> None:
    checks.check_copy_bandwidth(LLONG_MAX)
    text = "bandwidth must be less than '9223372036854775807' bytes/s (8796093022207 MiB/s)"
    assert _told(lambda: checks.check_copy_bandwidth(LLONG_MAX + 1)) == (8, 10, text)


def test_a_speed_in_bytes() -> None:
    checks.check_speed_bandwidth(LLONG_MAX)
    text = "argument key 'speed' must not be negative"
    assert _told(lambda: checks.check_speed_bandwidth(LLONG_MAX + 1)) == (1, 0, text)


@pytest.mark.parametrize(
    ("bytes_per_s", "mib_per_s"), [(0, 0), (1500000, 2), (12345, 1), (1 << 20, 1), (LLONG_MAX, 8796093022208)]
)
def test_bandwidth_is_reported_rounded_up(bytes_per_s: int, mib_per_s: int) -> None:
    assert checks.reported_bandwidth(bytes_per_s, is_bytes=False) == mib_per_s
    assert checks.reported_bandwidth(bytes_per_s, is_bytes=True) == bytes_per_s


@given(st.integers(0, MIB_MAX))
def test_what_was_given_in_mib_is_reported_in_mib(bandwidth: int) -> None:
    in_bytes = checks.bandwidth_bytes_per_s(bandwidth, is_bytes=False)
    assert checks.reported_bandwidth(in_bytes, is_bytes=False) == bandwidth


def test_copy_parameters_are_taken() -> None:
    taken = checks.copy_parameters(
        [
            TypedParameter("granularity", UINT, 65536),
            TypedParameter("bandwidth", ULLONG, LLONG_MAX + 1),
            TypedParameter("buf-size", ULLONG, 1 << 20),
        ]
    )
    assert taken == checks.CopyParameters(LLONG_MAX + 1, 65536, 1 << 20)
    assert checks.copy_parameters([]) == checks.CopyParameters()
    assert checks.copy_parameters([TypedParameter("granularity", UINT, 0)]) == checks.CopyParameters()


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ([("foo", INT, 1)], (74, 0, "parameter 'foo' not supported")),
        (
            [("granularity", ULLONG, 4096)],
            (8, 0, "invalid type 'ullong' for parameter 'granularity', expected 'uint'"),
        ),
        ([("bandwidth", ULLONG, 1)] * 2, (8, 0, "parameter 'bandwidth' occurs multiple times")),
        ([("granularity", UINT, 1234)], (8, 10, "granularity must be power of 2")),
        # Of two mistakes libvirt tells the one whose name sorts first.
        (
            [("zz", INT, 1), ("bandwidth", INT, 1)],
            (8, 0, "invalid type 'int' for parameter 'bandwidth', expected 'ullong'"),
        ),
        ([("bandwidth", INT, 1), ("a", INT, 1)], (74, 0, "parameter 'a' not supported")),
        ([("granularity", UINT, 3), ("zz", INT, 1)], (74, 0, "parameter 'zz' not supported")),
    ],
)
def test_copy_parameters_are_refused(
    parameters: list[tuple[str, ParameterType, int]], told: tuple[int, int, str]
) -> None:
    assert _told(lambda: checks.copy_parameters([TypedParameter(*parts) for parts in parameters])) == told


@pytest.mark.parametrize("granularity_bytes", [0, 512, 65536, 64 << 20])
def test_sizes_that_qemu_takes(granularity_bytes: int) -> None:
    checks.check_copy_sizes(checks.CopyParameters(granularity_bytes=granularity_bytes, buffer_bytes=LLONG_MAX))


@pytest.mark.parametrize("granularity_bytes", [4, 256, 128 << 20])
def test_sizes_that_qemu_refuses(granularity_bytes: int) -> None:
    number, domain, text = _told(
        lambda: checks.check_copy_sizes(checks.CopyParameters(granularity_bytes=granularity_bytes))
    )
    assert (number, domain) == (1, 10)
    assert text.endswith("Parameter 'granularity' expects a value in range [512B, 64MB]")


def test_a_buffer_that_qemu_refuses() -> None:
    text = "unable to execute QEMU command 'blockdev-mirror': Invalid parameter 'buf-size'"
    assert _told(lambda: checks.check_copy_sizes(checks.CopyParameters(buffer_bytes=LLONG_MAX + 1))) == (1, 10, text)


def test_what_a_job_forbids() -> None:
    assert _told(lambda: _raise(checks.domain_busy())) == (83, 10, "domain has active block copy job")
    text = "disk 'vda' already in active block job"
    assert _told(lambda: _raise(checks.disk_busy(sample_job()))) == (83, 10, text)
    assert _told(lambda: _raise(checks.disk_busy(sample_job(type=BlockJobType.PULL)))) == (84, 10, text)


@pytest.mark.parametrize("state", [state for state in JobState if not state.is_final])
@pytest.mark.parametrize("flags", [0, ASYNC, PIVOT, PIVOT | ASYNC])
@pytest.mark.parametrize("kind", [BlockJobType.COPY, BlockJobType.PULL])
def test_ending_a_job(state: JobState, flags: int, kind: BlockJobType) -> None:
    job = sample_job(state=state, job_id="vb-1", type=kind)
    if state in (JobState.ABORTING, JobState.PIVOTING):
        text = "block job on disk 'vda' is still being ended"
        assert _told(lambda: checks.check_abort(job, "vda", flags)) == (55, 10, text)
    elif flags & PIVOT and state is not JobState.READY:
        text = "block job 'vb-1' not ready for pivot yet"
        assert _told(lambda: checks.check_abort(job, "vda", flags)) == (83, 10, text)
    else:
        assert checks.check_abort(job, "vda", flags) is job


def test_ending_no_job() -> None:
    told = _told(lambda: checks.check_abort(None, "vda", PIVOT))
    assert told == (8, 10, "disk vda does not have an active block job")


def _raise(error: VirError) -> None:
    raise error
