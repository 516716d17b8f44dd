# SPDX-License-Identifier: Apache-2.0
"""Ends of jobs while their domain's definition cannot be had, or is another one than it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import House, disk_xml

from virtblock.engine import EngineError, PathPolicy, create_image, resize_image
from virtblock.server.core.errors import ConnectionLost, ErrorNumber, VirError, report
from virtblock.server.core.flags import BlockCommitFlags, BlockJobAbortFlags
from virtblock.server.core.model import JobState
from virtblock.server.drivers.embedded.definitions import StoredDefinitions

MIB = 1 << 20
PIVOT = int(BlockJobAbortFlags.PIVOT)
FAILURES = 2


class Losing:
    """`save_with` of a connection that is lost for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: VirError, failures: int = FAILURES) -> None:
        self.left = failures
        self._error = error
        self._save = StoredDefinitions.save_with

        def replaced(owner: StoredDefinitions, *arguments: Any) -> None:
            self.save(owner, *arguments)

        monkeypatch.setattr(StoredDefinitions, "save_with", replaced)

    def save(self, owner: StoredDefinitions, *arguments: Any) -> None:
        """The real one, after the failures."""
        if self.left:
            self.left -= 1
            raise self._error
        self._save(owner, *arguments)


def lost() -> ConnectionLost:
    """What the binding says of a connection that is gone."""
    return ConnectionLost(ErrorNumber.INTERNAL_ERROR, "internal error: client socket is closed")


def make_chain(tmp_path: Path) -> tuple[Path, Path]:
    """Top and base."""
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    create_image(str(base), "qcow2", MIB, PathPolicy())
    create_image(str(top), "qcow2", MIB, PathPolicy(), backing_path=str(base), backing_format="qcow2")
    return top, base


def chain_xml(base: Path) -> str:
    """`<backingStore>` for it."""
    return f"<backingStore type='file'><format type='qcow2'/><source file='{base}'/><backingStore/></backingStore>"


def test_a_pivot_waits_for_a_definition_that_cannot_be_had(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, _ = make_chain(tmp_path)
    domain = house.define(disk_xml(top))
    job_id = house.copied(domain, tmp_path / "copy.qcow2")
    losing = Losing(monkeypatch, lost())
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert (losing.left, house.jobs.get(job_id).state) == (0, JobState.COMPLETED)
    assert "copy.qcow2" in house.xml(domain)


def test_a_pull_waits_for_a_definition_that_cannot_be_had(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, base = make_chain(tmp_path)
    domain = house.define(disk_xml(top, more=chain_xml(base)))
    losing = Losing(monkeypatch, lost())
    house.wait(house.pull(domain), JobState.COMPLETED)
    assert losing.left == 0
    assert str(base) not in house.xml(domain)


def test_a_server_that_stops_meanwhile_leaves_the_pivot_to_the_next(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, _ = make_chain(tmp_path)
    domain = house.define(disk_xml(top))
    job_id = house.copied(domain, tmp_path / "copy.qcow2")
    with monkeypatch.context() as patched:
        Losing(patched, lost(), failures=1 << 30)
        house.driver.domain_block_job_abort(domain, "vda", PIVOT | int(BlockJobAbortFlags.ASYNC))
        house.stop()
    house.start()
    assert house.jobs.get(job_id).state is JobState.COMPLETED
    assert "copy.qcow2" in house.xml(domain)


def test_a_pivot_that_is_refused_can_be_asked_for_again(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, base = make_chain(tmp_path)
    domain = house.define(disk_xml(top))
    job_id = house.commit(domain, flags=int(BlockCommitFlags.ACTIVE))
    house.wait_ready(job_id)
    Losing(monkeypatch, report(ErrorNumber.OPERATION_INVALID, "no"), failures=1)
    with pytest.raises(VirError) as caught:
        house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert caught.value.number == ErrorNumber.OPERATION_FAILED
    assert house.jobs.get(job_id).state is JobState.READY
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert house.disk(domain).find("source").get("file") == str(base)


def test_a_pull_whose_definition_is_refused_tells_it(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain on disk is another one already, so the job is no failure."""
    top, base = make_chain(tmp_path)
    domain = house.define(disk_xml(top, more=chain_xml(base)))
    Losing(monkeypatch, report(ErrorNumber.OPERATION_INVALID, "no"), failures=1)
    job = house.wait(house.pull(domain), JobState.COMPLETED)
    assert "could not be changed" in job.reason


def make_deep_chain(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Top, middle and base."""
    middle, base = make_chain(tmp_path)
    top = tmp_path / "overlay.qcow2"
    create_image(str(top), "qcow2", MIB, PathPolicy(), backing_path=str(middle), backing_format="qcow2")
    return top, middle, base


def deep_xml(middle: Path, base: Path) -> str:
    """`<backingStore>` for both."""
    return chain_xml(middle).replace("<backingStore/>", chain_xml(base))


def test_a_commit_deletes_nothing_that_the_definition_goes_on_to_name(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The domain would not start any more."""
    top, middle, base = make_deep_chain(tmp_path)
    domain = house.define(disk_xml(top, more=deep_xml(middle, base)))
    Losing(monkeypatch, report(ErrorNumber.OPERATION_INVALID, "no"), failures=1)
    job_id = house.commit(domain, top=middle, flags=int(BlockCommitFlags.DELETE))
    house.wait(job_id, JobState.COMPLETED)
    house.stop()  # the thread of the job has done what it does after the end
    house.start()
    assert (str(middle) in house.xml(domain), middle.exists()) == (True, True)


def test_a_chain_is_locked_until_the_definition_has_followed_it(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever started the domain in between would run on the chain that was."""
    top, middle, base = make_deep_chain(tmp_path)
    domain = house.define(disk_xml(top, more=deep_xml(middle, base)))
    losing = Losing(monkeypatch, lost())
    refusals: list[str] = []

    def save(owner: StoredDefinitions, *arguments: Any) -> None:
        with pytest.raises(EngineError) as caught:
            resize_image(str(top), "qcow2", 2 * MIB, PathPolicy())
        refusals.append(caught.value.kind)
        Losing.save(losing, owner, *arguments)

    monkeypatch.setattr(losing, "save", save)
    house.wait(house.commit(domain, top=middle), JobState.COMPLETED)
    assert refusals == ["locked"] * (FAILURES + 1)
    assert str(middle) not in house.xml(domain)
    resize_image(str(top), "qcow2", 2 * MIB, PathPolicy())


@pytest.mark.parametrize("feature", ["<encryption format='luks'/>", "<slices><slice type='storage'/></slices>"])
def test_images_that_only_a_hypervisor_can_read_are_refused(house: House, tmp_path: Path, feature: str) -> None:
    top, _ = make_chain(tmp_path)
    disk = disk_xml(top).replace(f"<source file='{top}'/>", f"<source file='{top}'>{feature}</source>")
    domain = house.define(disk)
    with pytest.raises(VirError) as caught:
        house.rebase(domain, tmp_path / "copy.qcow2")
    assert caught.value.number == ErrorNumber.OPERATION_UNSUPPORTED
    with pytest.raises(VirError) as caught:
        house.copy(domain, disk.replace(str(top), str(tmp_path / "copy.qcow2")))
    assert caught.value.number == ErrorNumber.OPERATION_UNSUPPORTED
    assert not (tmp_path / "copy.qcow2").exists()
