# SPDX-License-Identifier: Apache-2.0
"""Pull and commit over both routes, judged by qemu-img: content, backing files, what is left of the chain."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conformance.guests import BLOCK_COPY_ACTIVE, BYTES, KIB, MIB, PIVOT, RELATIVE, STANDING_STILL_BYTES_PER_S, Guest
from conformance.routes import JobInfo, Refused, Route

SHALLOW, DELETE, ACTIVE, COMMIT_RELATIVE, COMMIT_BYTES = 1, 2, 4, 8, 16
OPERATION_UNSUPPORTED = 84
INTERNAL_ERROR, INVALID_ARG = 1, 8
INACTIVE = 2


class Merged:
    """`base <- snap1 <- snap2 <- snap3`, and what is to be said of it afterwards."""

    def __init__(self, route: Route, qemu_img: Any, files: list[Path], golden: Path) -> None:
        self.route = route
        self.qemu_img = qemu_img
        self.files = files
        self.golden = golden

    @property
    def top(self) -> Path:
        return self.files[-1]

    def disk(self, flags: int = 0) -> ElementTree.Element:
        disk = ElementTree.fromstring(self.route.xml("guest", flags)).find("./devices/disk[target]")
        assert disk is not None
        return disk

    def chain(self, flags: int = 0) -> list[str]:
        """The images that the XML names, from the top; "end" where it says that nothing lies below."""
        names: list[str] = []
        element: ElementTree.Element | None = self.disk(flags)
        while element is not None:
            source = element.find("source")
            names.append(os.path.basename(source.get("file") or "") if source is not None else "end")
            element = element.find("backingStore")
        return names

    def wait(self, job: str) -> None:
        self.route.wait(job, "completed")
        assert self.route.info("guest", "vda") is None

    def assert_content(self, top: Path, *below: Path) -> None:
        """The disk reads as it did, through exactly these images, none of them damaged."""
        files = [top, *below]
        assert self.chain() == [file.name for file in files] + ["end"]
        assert self.qemu_img.is_same(self.golden, "raw", top, "qcow2")
        for file, backing in zip(files, [*below, None], strict=True):
            self.qemu_img.check(file)
            assert self.backing_of(file) == (None if backing is None else os.path.realpath(backing))

    def backing_of(self, file: Path) -> str | None:
        """Where the recorded backing reference leads to."""
        recorded = self.qemu_img.info(file).get("backing-filename")
        return None if recorded is None else os.path.realpath(os.path.join(file.parent, recorded))


@pytest.fixture(params=["unnamed", "named"])
def merged(
    request: pytest.FixtureRequest,
    route: Route,
    qemu_img: Any,
    make_chain: Any,
    make_image: Any,
    tmp_path: Path,
    domain_xml: Callable[..., str],
) -> Merged:
    """The chain in the definition by its top alone, and with every image named."""
    chain = make_chain()
    writes = [(512 * KIB, MIB, 0x41), (26 * MIB, 64 * KIB, 0x42)]
    top = make_image(
        chain.base.with_name("snap3.qcow2"), "qcow2", backing=chain.top, backing_format="qcow2", writes=writes
    )
    files = [*chain.files, top]
    named = "<backingStore/>"
    for file in files[:-1]:
        named = f"<backingStore type='file'><format type='qcow2'/><source file='{file}'/>{named}</backingStore>"
    more = named if request.param == "named" else ""
    route.define(
        domain_xml(
            f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{top}'/>{more}"
            "<target dev='vda' bus='virtio'/></disk>"
        )
    )
    golden = tmp_path / "golden.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", top, golden)
    return Merged(route, qemu_img, files, golden)


def expected_definition(merged: Merged, *files: Path) -> list[str]:
    """What the definition must name: as before only what it named."""
    names = [file.name for file in files]
    return [*names, "end"] if merged.chain(INACTIVE)[-1] == "end" else names[:1]


def test_pull_everything(merged: Merged) -> None:
    expected = expected_definition(merged, merged.top)
    merged.wait(merged.route.pull("guest", "vda"))
    merged.assert_content(merged.top)
    assert merged.chain(INACTIVE) == expected


@pytest.mark.parametrize("position", [0, 1, 2])
def test_pull_down_to_a_base(merged: Merged, position: int) -> None:
    below = merged.files[: position + 1][::-1]
    expected = expected_definition(merged, merged.top, *below)
    untouched = {file: file.read_bytes() for file in merged.files[:-1]}
    merged.wait(merged.route.rebase("guest", "vda", str(merged.files[position])))
    merged.assert_content(merged.top, *below)
    assert merged.chain(INACTIVE) == expected
    assert merged.qemu_img.info(merged.top)["backing-filename"] == str(merged.files[position])
    assert merged.qemu_img.info(merged.top)["backing-filename-format"] == "qcow2"
    assert {file: file.read_bytes() for file in untouched} == untouched


def test_base_by_the_index_of_live_xml(merged: Merged) -> None:
    shown = merged.disk().find("backingStore/backingStore")
    assert shown is not None
    merged.wait(merged.route.rebase("guest", "vda", f"vda[{shown.get('index')}]"))
    merged.assert_content(merged.top, merged.files[1], merged.files[0])


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_pull_with_nothing_below_is_done_at_once(
    route: Route, make_image: Any, tmp_path: Path, domain_xml: Callable[..., str], image_format: str
) -> None:
    image = make_image(tmp_path / "one", image_format, 4 * MIB, writes=[(0, MIB, 1)])
    content = image.read_bytes()
    route.define(domain_xml(("vda", image, image_format)))
    job = route.pull("guest", "vda")
    route.wait(job, "completed")
    assert image.read_bytes() == content
    assert route.info("guest", "vda") is None


@pytest.mark.parametrize(
    ("top", "base", "left"),
    [
        ("snap1", "base", ["snap3", "snap2", "base"]),
        ("snap2", "base", ["snap3", "base"]),
        ("snap2", "snap1", ["snap3", "snap1", "base"]),
    ],
)
@pytest.mark.parametrize("flags", [0, DELETE])
def test_commit_in_the_middle(merged: Merged, top: str, base: str, left: list[str], flags: int) -> None:
    by_name = {file.stem: file for file in merged.files}
    files = [by_name[name] for name in left]
    expected = expected_definition(merged, *files)
    merged.wait(merged.route.commit("guest", "vda", str(by_name[base]), str(by_name[top]), 0, flags))
    merged.assert_content(*files)
    assert merged.chain(INACTIVE) == expected
    gone = set(merged.files) - set(files)
    assert gone
    if flags & DELETE:
        merged.route.wait_until(lambda: not any(file.exists() for file in gone))
    else:
        assert all(file.exists() for file in gone)


def test_commit_shallow_goes_into_the_next_image(merged: Merged) -> None:
    merged.wait(merged.route.commit("guest", "vda", None, str(merged.files[2]), 0, SHALLOW))
    merged.assert_content(merged.top, merged.files[1], merged.files[0])


@pytest.mark.parametrize(
    ("base", "flags", "left"), [(None, 0, 1), (None, DELETE, 1), (None, SHALLOW, 3), ("snap1", DELETE, 2)]
)
def test_active_commit(merged: Merged, base: str | None, flags: int, left: int) -> None:
    files = merged.files[:left][::-1]
    expected = expected_definition(merged, *files)
    path = None if base is None else str(merged.top.with_name(f"{base}.qcow2"))
    before = merged.chain(INACTIVE)
    job = merged.route.commit("guest", "vda", path, None, 0, ACTIVE | flags)
    merged.route.wait_ready(job)
    info = merged.route.info("guest", "vda")
    assert info is not None
    assert (info.type, info.cur) == (4, info.end)
    mirror, source = merged.disk().find("mirror"), merged.disk().find("mirror/source")
    assert mirror is not None and source is not None
    assert mirror.attrib == {"type": "file", "job": "active-commit", "ready": "yes"}
    # The base is one image, here and in the chain, and has one index.
    stores = [store for store in merged.disk().iter("backingStore") if store.get("type")]
    indexes = {store.find("source").get("file"): store.get("index") for store in stores}  # type: ignore[union-attr]
    assert source.get("file") == str(files[0])
    assert source.get("index") == indexes[str(files[0])]
    assert merged.chain(INACTIVE) == before
    merged.route.abort("guest", "vda", PIVOT)
    assert merged.route.job(job)[0] == "completed"
    merged.assert_content(*files)
    assert merged.chain(INACTIVE) == expected
    assert all(file.exists() != bool(flags & DELETE) for file in merged.files[left:])


def test_aborted_active_commit_leaves_the_definition_and_every_file(merged: Merged) -> None:
    before = merged.route.xml("guest", INACTIVE)
    job = merged.route.commit("guest", "vda", None, None, 0, ACTIVE | DELETE)
    merged.route.wait_ready(job)
    merged.route.abort("guest", "vda")
    assert merged.route.job(job)[0] == "canceled"
    assert merged.route.xml("guest", INACTIVE) == before
    merged.assert_content(*merged.files[::-1])


def test_commit_grows_a_smaller_raw_base(
    route: Route, qemu_img: Any, make_image: Any, tmp_path: Path, domain_xml: Callable[..., str]
) -> None:
    base = make_image(tmp_path / "base.raw", "raw", 4 * MIB, writes=[(0, MIB, 1)])
    writes = [(6 * MIB, MIB, 3)]
    top = make_image(tmp_path / "top", "qcow2", 8 * MIB, backing=base, backing_format="raw", writes=writes)
    golden = tmp_path / "golden"
    qemu_img("convert", "-O", "raw", top, golden)
    route.define(domain_xml(("vda", top, "qcow2")))
    job = route.commit("guest", "vda", flags=ACTIVE)
    route.wait_ready(job)
    route.abort("guest", "vda", PIVOT)
    assert qemu_img.is_same(golden, "raw", base, "raw")
    disk = ElementTree.fromstring(route.xml("guest", INACTIVE)).find("./devices/disk")
    assert disk is not None
    source, driver = disk.find("source"), disk.find("driver")
    assert source is not None and driver is not None
    assert (source.get("file"), driver.get("type")) == (str(base), "raw")


def test_nothing_to_commit_is_one_of_one(
    route: Route, make_image: Any, tmp_path: Path, domain_xml: Callable[..., str]
) -> None:
    base = make_image(tmp_path / "base", "qcow2", 4 * MIB)
    top = make_image(tmp_path / "top", "qcow2", backing=base, backing_format="qcow2")
    route.define(domain_xml(("vda", top, "qcow2")))
    job = route.commit("guest", "vda", flags=ACTIVE)
    route.wait_ready(job)
    assert route.info("guest", "vda") == JobInfo(4, 0, 1, 1)


# RELATIVE: a reference stays relative only where all on the way are.


@pytest.fixture
def relative(route: Route, qemu_img: Any, make_image: Any, tmp_path: Path, domain_xml: Callable[..., str]) -> Merged:
    """top.qcow2 -> ../low/mid.qcow2 -> ../lower/base.qcow2, each in a folder of its own."""
    size, files, backing = 8 * MIB, [], None
    for number, name in enumerate(("lower/base", "low/mid", "high/top", "high/topmost")):
        path = tmp_path / f"{name}.qcow2"
        path.parent.mkdir(exist_ok=True)
        options: dict[str, Any] = {} if backing is None else {"backing": backing, "backing_format": "qcow2"}
        writes = [(number * MIB, 2 * MIB, number + 1)]
        make_image(path, "qcow2", size, writes=writes, **options)
        files.append(path)
        next_folder = tmp_path / ("low" if name == "lower/base" else "high")
        backing = os.path.relpath(path, next_folder)
    golden = tmp_path / "golden"
    qemu_img("convert", "-O", "raw", files[-1], golden)
    route.define(domain_xml(("vda", files[-1], "qcow2")))
    return Merged(route, qemu_img, files, golden)


def test_pull_keeps_a_relative_reference(relative: Merged) -> None:
    relative.wait(relative.route.rebase("guest", "vda", str(relative.files[0]), 0, RELATIVE))
    assert relative.qemu_img.info(relative.top)["backing-filename"] == "../low/../lower/base.qcow2"
    relative.assert_content(relative.top, relative.files[0])


def test_commit_keeps_a_relative_reference(relative: Merged) -> None:
    top, base = str(relative.files[2]), str(relative.files[1])
    relative.wait(relative.route.commit("guest", "vda", base, top, 0, COMMIT_RELATIVE))
    assert relative.qemu_img.info(relative.top)["backing-filename"] == "../low/mid.qcow2"
    relative.assert_content(relative.top, relative.files[1], relative.files[0])


def test_without_relative_the_reference_is_absolute(relative: Merged) -> None:
    relative.wait(relative.route.commit("guest", "vda", str(relative.files[0]), str(relative.files[1])))
    as_found = f"{relative.top.parent}/../low/../lower/base.qcow2"
    assert relative.qemu_img.info(relative.files[2])["backing-filename"] == as_found


def test_an_absolute_reference_on_the_way_is_no_relative_relationship(relative: Merged) -> None:
    base = relative.files[0]
    relative.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base, relative.files[1])
    with pytest.raises(Refused) as refusal:
        relative.route.rebase("guest", "vda", str(base), 0, RELATIVE)
    assert (refusal.value.number, refusal.value.domain) == (55, 10)
    relative.wait(relative.route.rebase("guest", "vda", str(relative.files[1]), 0, RELATIVE))
    assert relative.qemu_img.info(relative.top)["backing-filename"] == "../low/mid.qcow2"


# A job that takes its time: what else is refused meanwhile, and how.


def slow_pull(guest: Guest) -> str:
    return guest.route.pull("guest", "vda", STANDING_STILL_BYTES_PER_S, BYTES)


def slow_commit(guest: Guest) -> str:
    return guest.route.commit("guest", "vda", None, str(guest.files[1]), STANDING_STILL_BYTES_PER_S, COMMIT_BYTES)


def slow_active_commit(guest: Guest) -> str:
    return guest.route.commit("guest", "vda", None, None, STANDING_STILL_BYTES_PER_S, ACTIVE | COMMIT_BYTES)


SLOW = {"pull": (slow_pull, 1, 84), "commit": (slow_commit, 3, 84), "active commit": (slow_active_commit, 4, 83)}
NAMES = {"pull": "pull-vda-libvirt-1-format", "commit": "commit-vda-libvirt-2-format"}
NAMES["active commit"] = "commit-vda-libvirt-1-format"


@pytest.mark.parametrize("kind", SLOW)
def test_another_start_while_it_runs(chain_guest: Guest, kind: str) -> None:
    start, number_of_type, busy = SLOW[kind]
    guest, route = chain_guest, chain_guest.route
    job = start(guest)
    info = route.info("guest", "vda", 1)
    assert info is not None
    assert (info.type, info.bandwidth) == (number_of_type, STANDING_STILL_BYTES_PER_S)
    assert info.cur < info.end
    others: dict[str, Callable[[], object]] = {
        "pull": lambda: route.pull("guest", "vda"),
        "rebase before its name": lambda: route.rebase("guest", "vda", "/nope"),
        "commit": lambda: route.commit("guest", "vda", flags=ACTIVE),
        "commit before its flags": lambda: route.commit("guest", "vda"),
        "copy": lambda: route.rebase("guest", "vda", str(guest.destination), 0, 8),
    }
    for name, call in others.items():
        with pytest.raises(Refused) as refusal:
            call()
        assert (refusal.value.number, refusal.value.domain) == (busy, 10), name
        assert refusal.value.message.endswith(": disk 'vda' already in active block job")
    with pytest.raises(Refused) as refusal:  # libvirt finds base and top first
        route.commit("guest", "vda", "/nope", None, 0, ACTIVE)
    assert (refusal.value.number, refusal.value.domain) == (INVALID_ARG, 18)
    with pytest.raises(Refused) as refusal:
        route.abort("guest", "vda", PIVOT)
    text = f"block copy still active: block job '{NAMES[kind]}' not ready for pivot yet"
    assert (refusal.value.number, refusal.value.message) == (BLOCK_COPY_ACTIVE, text)
    assert not guest.destination.exists()
    route.abort("guest", "vda")
    assert route.job(job)[0] == "canceled"
    assert guest.disk_source() == (str(guest.top), "qcow2")
    assert guest.qemu_img.is_same(guest.golden, "raw", guest.top, "qcow2")
    for file in guest.files:
        guest.qemu_img.check(file)


def test_speed_is_changed_on_the_way(chain_guest: Guest) -> None:
    job = slow_pull(chain_guest)
    chain_guest.route.set_speed("guest", "vda", 0)
    chain_guest.route.wait(job, "completed")
    assert chain_guest.qemu_img.is_same(chain_guest.golden, "raw", chain_guest.top, "qcow2")


def test_images_in_use_are_refused_by_the_call(chain_guest: Guest) -> None:
    """A copy that reads the chain keeps a second domain's commit out of it."""
    route = chain_guest.route
    route.wait_ready(route.rebase("guest", "vda", str(chain_guest.destination), 0, 8))
    xml = route.xml("guest", INACTIVE)
    uuid = ElementTree.fromstring(xml).findtext("uuid") or ""
    route.define(xml.replace("<name>guest<", "<name>other<").replace(uuid, "11111111-2222-3333-4444-555555555555"))
    with pytest.raises(Refused) as refusal:
        route.commit("other", "vda", flags=ACTIVE)
    assert refusal.value.number == INTERNAL_ERROR
    assert "lock" in refusal.value.message
    newest = route.newest_job()
    assert newest is not None
    assert route.wait(newest, "failed")[1] is not None
    chain_guest.assert_source_untouched()
