# SPDX-License-Identifier: Apache-2.0
"""ABORT and PIVOT: plain and ASYNC, before READY and after, twice, without a job; and the same jobs through BlockCopy.

What is before READY is held there by a low speed limit, never by luck.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conformance.guests import (
    ARGUMENT_UNSUPPORTED,
    ASYNC,
    BLOCK_COPY_ACTIVE,
    BYTES,
    CONFIG_UNSUPPORTED,
    COPY,
    INVALID_ARG,
    OPERATION_INVALID,
    OVERFLOW,
    PIVOT,
    RAW,
    REUSE_EXT,
    SHALLOW,
    STANDING_STILL_BYTES_PER_S,
    Guest,
)
from conformance.routes import Refused, Route


def slow_copy(guest: Guest) -> str:
    """A copy that is far from READY for as long as a test needs."""
    return guest.copy(COPY | BYTES, STANDING_STILL_BYTES_PER_S)


def mirror_of(guest: Guest) -> ElementTree.Element | None:
    return ElementTree.fromstring(guest.route.xml("guest")).find("./devices/disk/mirror")


def assert_number(number: int, call: Callable[[], object], text: str = "") -> None:
    with pytest.raises(Refused) as refusal:
        call()
    assert refusal.value.number == number, refusal.value
    assert text in refusal.value.message


def assert_no_good_image(guest: Guest) -> None:
    """What lies at the destination cannot be taken for the copy, and no partial file is left."""
    assert not list(guest.folder.glob("*.virtblock-partial"))
    if guest.destination.exists():
        done = guest.qemu_img("compare", "-f", "raw", "-F", guest.format, guest.golden, guest.destination, check=False)
        assert done.returncode != 0
        info = guest.qemu_img("info", "--output=json", "-f", guest.format, guest.destination, check=False)
        assert info.returncode != 0 or f'"virtual-size": {guest.size_bytes}' not in info.stdout


@pytest.mark.parametrize("flags", [0, ASYNC])
def test_abort_before_ready(guest: Guest, flags: int) -> None:
    job = slow_copy(guest)
    guest.route.wait(job, "running")
    guest.route.abort("guest", "vda", flags)
    guest.route.wait(job, "canceled")
    assert guest.route.info("guest", "vda") is None
    assert mirror_of(guest) is None
    assert guest.disk_source() == (str(guest.top), guest.format)
    guest.assert_source_untouched()
    assert_no_good_image(guest)


def test_abort_before_ready_of_a_reused_destination(guest: Guest) -> None:
    guest.qemu_img.create(guest.destination, guest.format, guest.size_bytes)
    job = guest.copy(COPY | REUSE_EXT | BYTES, STANDING_STILL_BYTES_PER_S)
    guest.route.wait(job, "running")
    guest.route.abort("guest", "vda")
    guest.route.wait(job, "canceled")
    assert guest.destination.exists()
    assert_no_good_image(guest)
    guest.copy_and_pivot(COPY | REUSE_EXT)
    guest.assert_result(guest.format)


@pytest.mark.parametrize("flags", [0, ASYNC])
def test_abort_after_ready_keeps_a_complete_copy(guest: Guest, flags: int) -> None:
    job = guest.copy(COPY)
    guest.route.wait_ready(job)
    guest.route.abort("guest", "vda", flags)
    guest.route.wait(job, "canceled")
    assert guest.disk_source() == (str(guest.top), guest.format)
    assert guest.qemu_img.is_same(guest.golden, "raw", guest.destination, guest.format)
    guest.assert_source_untouched()


@pytest.mark.parametrize("flags", [PIVOT, PIVOT | ASYNC])
def test_pivot_before_ready(guest: Guest, flags: int) -> None:
    job = slow_copy(guest)
    assert_number(BLOCK_COPY_ACTIVE, lambda: guest.route.abort("guest", "vda", flags), "not ready for pivot yet")
    assert guest.route.job(job)[0] in ("new", "running")
    guest.route.abort("guest", "vda")
    guest.assert_source_untouched()


@pytest.mark.parametrize("flags", [PIVOT, PIVOT | ASYNC])
def test_pivot_after_ready(guest: Guest, flags: int) -> None:
    job = guest.copy(COPY)
    guest.route.wait_ready(job)
    guest.route.abort("guest", "vda", flags)
    guest.route.wait(job, "completed")
    assert guest.route.info("guest", "vda") is None
    assert mirror_of(guest) is None
    guest.assert_result(guest.format)


@pytest.mark.parametrize("flags", [0, ASYNC, PIVOT, PIVOT | ASYNC])
def test_end_without_a_job(guest: Guest, flags: int) -> None:
    guest.assert_refused(
        INVALID_ARG,
        lambda: guest.route.abort("guest", "vda", flags),
        "disk vda does not have an active block job",
    )


@pytest.mark.parametrize("first", [0, PIVOT])
@pytest.mark.parametrize("second", [0, PIVOT])
def test_end_twice(guest: Guest, first: int, second: int) -> None:
    job = guest.copy(COPY)
    guest.route.wait_ready(job)
    guest.route.abort("guest", "vda", first)
    assert_number(INVALID_ARG, lambda: guest.route.abort("guest", "vda", second))


def test_end_twice_async(guest: Guest) -> None:
    """The second call finds the job still being ended (55), or gone (8)."""
    job = guest.copy(COPY)
    guest.route.wait_ready(job)
    guest.route.abort("guest", "vda", ASYNC)
    with pytest.raises(Refused) as refusal:
        guest.route.abort("guest", "vda", ASYNC)
    assert refusal.value.number in (OPERATION_INVALID, INVALID_ARG)
    guest.route.wait(job, "canceled")


@pytest.mark.parametrize("flags", [0, PIVOT])
@pytest.mark.parametrize("disk", ["vdz", "", "/no/such/image"])
def test_end_on_an_unknown_disk(guest: Guest, disk: str, flags: int) -> None:
    guest.assert_refused(
        INVALID_ARG, lambda: guest.route.abort("guest", disk, flags), f"disk '{disk}' not found in domain"
    )


def test_unknown_abort_flags(raw_guest: Guest) -> None:
    raw_guest.assert_refused(
        INVALID_ARG,
        lambda: raw_guest.route.abort("guest", "vda", 4),
        "unsupported flags (0x4) in function qemuDomainBlockJobAbort",
    )


def test_the_disk_may_be_named_by_its_source(guest: Guest) -> None:
    job = guest.route.rebase("guest", str(guest.top), str(guest.destination), 0, COPY)
    guest.route.wait_ready(job)
    guest.route.abort("guest", str(guest.top), PIVOT)
    guest.assert_result(guest.format)
    assert_number(INVALID_ARG, lambda: guest.route.info("guest", str(guest.top)), "not found in domain")


def test_second_job_on_the_disk(guest: Guest) -> None:
    slow_copy(guest)
    other = guest.folder / "other.img"
    assert_number(
        BLOCK_COPY_ACTIVE,
        lambda: guest.route.rebase("guest", "vda", str(other), 0, COPY),
        "disk 'vda' already in active block job",
    )
    assert not other.exists()
    guest.route.abort("guest", "vda")


def test_progress_and_mirror_xml(guest: Guest) -> None:
    job = slow_copy(guest)
    info = guest.route.info("guest", "vda", 1)
    assert info is not None
    assert info.type == 2
    assert info.bandwidth == STANDING_STILL_BYTES_PER_S
    assert info.cur < info.end
    mirror = mirror_of(guest)
    assert mirror is not None
    assert mirror.get("job") == "copy"
    assert mirror.get("ready") is None
    assert mirror.get("file") == str(guest.destination)
    assert mirror.find("format[@type]") is not None
    guest.route.set_speed("guest", "vda", 0)
    guest.route.wait_ready(job)
    info = guest.route.info("guest", "vda")
    assert info is not None
    assert 0 < info.cur == info.end <= guest.size_bytes
    mirror = mirror_of(guest)
    assert mirror is not None and mirror.get("ready") == "yes"
    definition = ElementTree.fromstring(guest.route.xml("guest", 2))
    assert definition.find("./devices/disk/mirror") is None
    guest.route.abort("guest", "vda")


def test_what_would_harm_the_job_is_refused(chain_guest: Guest, domain_xml: Callable[..., str]) -> None:
    """Start, undefine, a definition that changes the disk, detach, snapshot and resize: 83 with the text of 2012."""
    guest, route = chain_guest, chain_guest.route
    slow_copy(guest)
    snapshot = "<domainsnapshot><name>s</name><disks><disk name='vda' snapshot='external'/></disks></domainsnapshot>"
    detach = f"<disk type='file' device='disk'><source file='{guest.top}'/><target dev='vda' bus='virtio'/></disk>"
    harmful: list[Callable[[], object]] = [
        lambda: route.create("guest"),
        lambda: route.undefine("guest"),
        lambda: route.define(_with_uuid(route, domain_xml(("vda", guest.files[0], "qcow2")))),
        lambda: route.detach("guest", detach),
        lambda: route.snapshot("guest", snapshot, 16),
        lambda: route.resize("guest", "vda", 2 * guest.size_bytes, 1),
    ]
    for call in harmful:
        assert_number(BLOCK_COPY_ACTIVE, call, "block copy still active: ")
    route.abort("guest", "vda")
    assert guest.disk_source() == (str(guest.top), "qcow2")
    guest.assert_source_untouched()


def _with_uuid(route: Route, xml: str) -> str:
    """The definition under the UUID that the server gave the domain, so that it replaces the old one."""
    uuid = ElementTree.fromstring(route.xml("guest")).findtext("uuid")
    return xml.replace("</name>", f"</name><uuid>{uuid}</uuid>")


def test_speed_limit_overflow(raw_guest: Guest) -> None:
    """The MiB/s form overflows with 82, for the copy before anything else is looked at, as libvirt."""
    text = "bandwidth must be less than 8796093022207"
    raw_guest.assert_refused(OVERFLOW, lambda: raw_guest.copy(COPY, 8796093022208), text)
    raw_guest.assert_refused(
        INVALID_ARG,
        lambda: raw_guest.copy(COPY | BYTES, 1 << 63),
        "bandwidth must be less than '9223372036854775807' bytes/s (8796093022207 MiB/s)",
    )


@pytest.mark.parametrize("base", ["image", "./image", "../image", ""])
def test_relative_destination(raw_guest: Guest, base: str) -> None:
    raw_guest.assert_refused(
        INVALID_ARG,
        lambda: raw_guest.route.rebase("guest", "vda", base, 0, COPY),
        "absolute path must be used as block copy target",
    )


def test_no_destination(raw_guest: Guest) -> None:
    raw_guest.assert_refused(
        INVALID_ARG,
        lambda: raw_guest.route.rebase("guest", "vda", None, 0, COPY),
        "base in virDomainBlockRebase must not be NULL",
    )


# The same through BlockCopy.

COPY_SHALLOW, COPY_REUSE_EXT, TRANSIENT_JOB, SYNCHRONOUS_WRITES = 1, 2, 4, 8


def destination_xml(path: Path, image_format: str | None = None, kind: str = "file") -> str:
    driver = f"<driver type='{image_format}'/>" if image_format else ""
    attribute = "file" if kind == "file" else "dev"
    return f"<disk type='{kind}'><source {attribute}='{path}'/>{driver}</disk>"


def copy_and_pivot(guest: Guest, xml: str, params: list[tuple[str, str, Any]], flags: int) -> None:
    job = guest.route.copy("guest", "vda", xml, params, flags)
    guest.route.wait_ready(job)
    guest.route.abort("guest", "vda", PIVOT)


@pytest.mark.parametrize("flags", [0, TRANSIENT_JOB, TRANSIENT_JOB | SYNCHRONOUS_WRITES])
def test_blockcopy(guest: Guest, flags: int) -> None:
    copy_and_pivot(guest, destination_xml(guest.destination), [], flags)
    guest.assert_result(guest.format)


def test_blockcopy_to_raw(guest: Guest) -> None:
    copy_and_pivot(guest, destination_xml(guest.destination, "raw"), [], 0)
    guest.assert_result("raw")


def test_blockcopy_raw_disk_to_qcow2(raw_guest: Guest) -> None:
    copy_and_pivot(raw_guest, destination_xml(raw_guest.destination, "qcow2"), [], 0)
    raw_guest.assert_result("qcow2")


def test_blockcopy_shallow(chain_guest: Guest) -> None:
    copy_and_pivot(chain_guest, destination_xml(chain_guest.destination, "qcow2"), [], COPY_SHALLOW)
    chain_guest.assert_result("qcow2", backing=str(chain_guest.files[1]))


def test_blockcopy_shallow_raw_is_refused(chain_guest: Guest) -> None:
    chain_guest.assert_refused(
        CONFIG_UNSUPPORTED,
        lambda: chain_guest.route.copy(
            "guest", "vda", destination_xml(chain_guest.destination, "raw"), [], COPY_SHALLOW
        ),
        "shallow copy of disk 'vda' into a raw file is not possible",
    )


def test_blockcopy_reuse_ext(guest: Guest) -> None:
    guest.qemu_img.create(guest.destination, guest.format, guest.size_bytes)
    copy_and_pivot(guest, destination_xml(guest.destination, guest.format), [], COPY_REUSE_EXT)
    guest.assert_result(guest.format)


def test_blockcopy_parameters(guest: Guest) -> None:
    params: list[tuple[str, str, Any]] = [
        ("bandwidth", "ullong", 1 << 30),
        ("granularity", "uint", 65536),
        ("buf-size", "ullong", 1 << 20),
    ]
    job = guest.route.copy("guest", "vda", destination_xml(guest.destination), params, 0)
    guest.route.wait_ready(job)
    info = guest.route.info("guest", "vda", 1)
    assert info is not None and info.bandwidth == 1 << 30
    guest.route.abort("guest", "vda", PIVOT)
    guest.assert_result(guest.format)


@pytest.mark.parametrize(
    ("params", "number", "text"),
    [
        ([("foo", "uint", 1)], ARGUMENT_UNSUPPORTED, "parameter 'foo' not supported"),
        ([("granularity", "ullong", 65536)], INVALID_ARG, "invalid type 'ullong' for parameter 'granularity'"),
        ([("granularity", "uint", 1234)], INVALID_ARG, "granularity must be power of 2"),
        (
            [("bandwidth", "ullong", 1), ("bandwidth", "ullong", 2)],
            INVALID_ARG,
            "parameter 'bandwidth' occurs multiple times",
        ),
        ([("bandwidth", "ullong", 1 << 63)], INVALID_ARG, "bandwidth must be less than"),
    ],
)
def test_blockcopy_bad_parameters(raw_guest: Guest, params: list[tuple[str, str, Any]], number: int, text: str) -> None:
    xml = destination_xml(raw_guest.destination)
    raw_guest.assert_refused(number, lambda: raw_guest.route.copy("guest", "vda", xml, params, 0), text)


@pytest.mark.parametrize(
    ("xml", "number", "text"),
    [
        (None, INVALID_ARG, "destxml in virDomainBlockCopy must not be NULL"),
        ("<disk", 35, ""),
        ("<foo/>", 27, "expecting root element of 'disk', not 'foo'"),
        ("<disk type='file'/>", 19, "missing source information for device"),
        ("<disk type='file'><source file='/x'/><driver type='bogus'/></disk>", 67, "bogus"),
        ("<disk type='file'><source file='x'/></disk>", INVALID_ARG, "absolute path must be used"),
    ],
)
def test_blockcopy_bad_xml(raw_guest: Guest, xml: str | None, number: int, text: str) -> None:
    raw_guest.assert_refused(number, lambda: raw_guest.route.copy("guest", "vda", xml), text)


@pytest.mark.parametrize("bit", range(4, 32))
def test_blockcopy_unknown_bits(raw_guest: Guest, bit: int) -> None:
    refusal = raw_guest.assert_refused(
        INVALID_ARG,
        lambda: raw_guest.route.copy("guest", "vda", destination_xml(raw_guest.destination), [], 1 << bit),
    )
    assert refusal.message == f"unsupported flags (0x{1 << bit:x}) in function qemuDomainBlockCopy"


def test_raw_flag_of_rebase_is_no_flag_of_blockcopy(raw_guest: Guest) -> None:
    """4 is TRANSIENT_JOB there: the destination keeps the source's format."""
    copy_and_pivot(raw_guest, destination_xml(raw_guest.destination), [], RAW)
    raw_guest.assert_result("raw")


def test_shallow_and_reuse_values_are_shared() -> None:
    """The one trap of the two flag sets that is none: 1 and 2 mean the same in both."""
    assert (SHALLOW, REUSE_EXT) == (COPY_SHALLOW, COPY_REUSE_EXT)
