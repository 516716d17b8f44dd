# SPDX-License-Identifier: Apache-2.0
"""Starting and ending jobs through the public layer: what reaches the driver, and request ids."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from server.core.samples import CALLER, READ_ONLY, SELECTOR, UUID, Apis, MemoryDriver

from virtblock.server.core.errors import VirError
from virtblock.server.core.jobs import RequestIdReused
from virtblock.server.core.model import Caller, DomainSelector, JobState, ParameterType, TypedParameter


def _rebase(apis: Apis, request_id: str = "", caller: Caller = CALLER, **changes: Any) -> Any:
    arguments: dict[str, Any] = {"disk": "vda", "base": "/new", "bandwidth": 5, "flags": 8} | changes
    return apis.block.block_rebase(caller, SELECTOR, request_id=request_id, **arguments)


def test_the_call_reaches_the_driver_as_it_was_made(apis: Apis) -> None:
    job = _rebase(apis, "r-1", flags=8 | 0x4000, caller=Caller(principal="tls:CN=x"))
    assert ("rebase", "vda", "/new", 5, 8 | 0x4000) in apis.driver.calls
    assert (job.state, job.principal, job.request_id) == (JobState.RUNNING, "tls:CN=x", "r-1")


def test_a_repeat_gets_the_first_job(apis: Apis) -> None:
    first = _rebase(apis, "r-1")
    assert _rebase(apis, "r-1").job_id == first.job_id
    apis.core.jobs.transition(first.job_id, JobState.CANCELED)
    assert _rebase(apis, "r-1").state is JobState.CANCELED
    assert [call[0] for call in apis.driver.calls] == ["rebase"]


def test_a_repeat_outlives_the_domain(apis: Apis, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _rebase(apis, "r-1")
    monkeypatch.setattr(MemoryDriver, "_found", staticmethod(lambda found: pytest.fail("looked up again")))
    assert _rebase(apis, "r-1").job_id == first.job_id


def test_without_an_id_every_call_is_a_new_one(apis: Apis) -> None:
    _rebase(apis)
    with pytest.raises(VirError) as caught:
        _rebase(apis)
    assert caught.value.number == 83


@pytest.mark.parametrize("changes", [{"disk": "vdb"}, {"base": "/other"}, {"bandwidth": 6}, {"flags": 9}, {"base": ""}])
def test_an_id_belongs_to_its_arguments(apis: Apis, changes: dict[str, Any]) -> None:
    _rebase(apis, "r-1")
    with pytest.raises(RequestIdReused):
        _rebase(apis, "r-1", **changes)
    with pytest.raises(RequestIdReused):
        apis.block.block_rebase(CALLER, DomainSelector(uuid=UUID), "vda", "/new", 5, 8, "r-1")


def test_parameters_are_part_of_the_arguments(apis: Apis) -> None:
    def copy(value: int) -> str:
        parameters = [TypedParameter("bandwidth", ParameterType.ULLONG, value)]
        return apis.block.block_copy(CALLER, SELECTOR, "vda", "<disk/>", parameters, 0, "r-1").job_id

    assert copy(1) == copy(1)
    with pytest.raises(RequestIdReused):
        copy(2)


def test_an_id_belongs_to_its_caller(apis: Apis) -> None:
    first = _rebase(apis, "r-1")
    with pytest.raises(VirError) as caught:
        _rebase(apis, "r-1", caller=Caller(principal="tls:CN=other"))
    assert caught.value.number == 83
    other = _rebase(apis, "r-1", caller=Caller(principal="tls:CN=other"), disk="vdb")
    assert other.job_id != first.job_id


def test_a_read_only_caller_gets_no_repeat(apis: Apis) -> None:
    _rebase(apis, "r-1")
    with pytest.raises(VirError) as caught:
        _rebase(apis, "r-1", caller=READ_ONLY)
    assert caught.value.number == 29


def test_a_refused_call_uses_up_no_id(apis: Apis) -> None:
    with pytest.raises(VirError):
        _rebase(apis, "r-1", base=None)
    assert _rebase(apis, "r-1").state is JobState.RUNNING


def test_two_equal_requests_at_once_start_one_job(apis: Apis, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()
    start = MemoryDriver.domain_block_rebase

    def slow(*arguments: Any) -> str:
        entered.set()
        assert go_on.wait(60)
        return start(*arguments)

    monkeypatch.setattr(MemoryDriver, "domain_block_rebase", slow)
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(_rebase(apis, "r-1").job_id)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert entered.wait(60)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert apis.block._turns._turns == {}


@pytest.mark.parametrize(("bandwidth", "flags"), [(-1, 8), (1 << 64, 8), (0, -1), (0, 1 << 32 | 8)])
def test_numbers_that_no_wire_carries(apis: Apis, bandwidth: int, flags: int) -> None:
    with pytest.raises(VirError) as caught:
        _rebase(apis, bandwidth=bandwidth, flags=flags)
    assert caught.value.number == 82
    assert apis.driver.calls == []


def test_a_long_request_id(apis: Apis) -> None:
    assert _rebase(apis, "é" * 64).request_id == "é" * 64
    with pytest.raises(VirError) as caught:
        _rebase(apis, "é" * 64 + "x", disk="vdb")
    assert caught.value.number == 8


def test_abort_answers_the_ended_job(apis: Apis) -> None:
    job = _rebase(apis)
    ended = apis.block.block_job_abort(CALLER, SELECTOR, "/images/vda.qcow2", 0)
    assert ended is not None
    assert (ended.job_id, ended.state) == (job.job_id, JobState.CANCELED)
    assert apis.block.get_block_job_info(READ_ONLY, SELECTOR, "vda", 0) is None


def test_pivot_persistent_is_not_offered(apis: Apis) -> None:
    with pytest.raises(VirError) as caught:
        apis.block.block_copy(CALLER, SELECTOR, "vda", "<disk/>", [], 0, pivot_persistent=True)
    assert caught.value.number == 3


def test_a_domain_is_named_once(apis: Apis) -> None:
    with pytest.raises(VirError) as caught:
        apis.domain.is_active(CALLER, DomainSelector(name="test", id=1))
    assert (caught.value.number, caught.value.domain) == (8, 20)
    for selector in (DomainSelector(name="test"), DomainSelector(uuid=UUID), DomainSelector(id=1)):
        assert apis.domain.is_active(READ_ONLY, selector)
        assert apis.domain.is_persistent(READ_ONLY, selector)
