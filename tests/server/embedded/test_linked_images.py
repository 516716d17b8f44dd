# SPDX-License-Identifier: Apache-2.0
"""Images that are named by links stay named so: where `/dev/vg/lv` leads may be another device after a boot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import House, disk_xml

from virtblock.server.core.model import Domain, JobState

MIB = 1024 * 1024
COPY, SHALLOW, ACTIVE, PIVOT = 8, 1, 4, 2


class Linked:
    """`lv`, a link to the base, under `middle` and `top`."""

    def __init__(self, folder: Path, make_image: Callable[..., Path], *, is_relative: bool) -> None:
        (folder / "dev").mkdir()
        base = make_image(folder / "dev/dm-3", "qcow2", MIB, writes=[(0, 65536, 1)])
        self.lv = folder / "lv"
        self.lv.symlink_to(base)
        self.middle, self.top = folder / "middle.qcow2", folder / "top.qcow2"
        for image, below in ((self.middle, self.lv), (self.top, self.middle)):
            name = below.name if is_relative else str(below)
            make_image(image, "qcow2", backing=name, backing_format="qcow2", writes=[(65536, 4096, 2)])


@pytest.fixture(params=[False, True], ids=["absolute", "relative"])
def linked(tmp_path: Path, make_image: Callable[..., Path], request: pytest.FixtureRequest) -> Linked:
    return Linked(tmp_path, make_image, is_relative=request.param)


@pytest.fixture
def domain(house: House, linked: Linked) -> Domain:
    return house.define(disk_xml(linked.top))


def test_a_commit_records_the_link(house: House, domain: Domain, linked: Linked, qemu_img: Any) -> None:
    house.wait(house.commit(domain, top=linked.middle), JobState.COMPLETED)
    assert qemu_img.info(linked.top)["backing-filename"] == str(linked.lv)


def test_a_pull_records_the_link(house: House, domain: Domain, linked: Linked, qemu_img: Any) -> None:
    house.wait(house.pull(domain, linked.lv), JobState.COMPLETED)
    assert qemu_img.info(linked.top)["backing-filename"] == str(linked.lv)
    assert house.disk(domain).find("backingStore/source").get("file") == str(linked.lv)


def test_a_new_overlay_records_the_link(house: House, linked: Linked, qemu_img: Any, tmp_path: Path) -> None:
    domain = house.define(disk_xml(linked.middle))
    house.copied(domain, tmp_path / "copy.qcow2", COPY | SHALLOW)
    assert qemu_img.info(tmp_path / "copy.qcow2")["backing-filename"] == str(linked.lv)


def test_an_active_commit_pivots_to_the_link(house: House, domain: Domain, linked: Linked, qemu_img: Any) -> None:
    job_id = house.commit(domain, flags=ACTIVE)
    house.wait_ready(job_id)
    house.restart()
    house.driver.domain_block_job_abort(domain, "vda", PIVOT)
    assert house.disk(domain, flags=2).find("source").get("file") == str(linked.lv)
    assert qemu_img.is_same(linked.lv, "qcow2", linked.top, "qcow2")
