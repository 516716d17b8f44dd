# SPDX-License-Identifier: Apache-2.0
"""Every refusal of a copy, in libvirt's numbers, texts and order; and nothing is made by a call that fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import House, disk_xml

from virtblock.engine import PathPolicy
from virtblock.server.core.errors import VirError
from virtblock.server.core.jobs import JobFilter, Origin
from virtblock.server.core.model import Domain, JobState, ParameterType, TypedParameter

MIB = 1024 * 1024
COPY, SHALLOW, REUSE, RAW, RELATIVE, DEVICE, BYTES = 8, 1, 2, 4, 16, 32, 64
LLONG_MAX = 2**63 - 1


@pytest.fixture
def chain(make_chain: Any) -> Any:
    return make_chain()


@pytest.fixture
def domain(house: House, chain: Any) -> Any:
    return house.define(
        disk_xml(chain.top),
        disk_xml(None, None, target="hdc", attributes="type='file' device='cdrom'"),
        disk_xml("/x", "raw", target="vdt", more="<transient/>"),
        disk_xml("/x", "vmdk", target="vdv"),
        "<disk type='file'><source file='/x'/><target dev='sda' bus='sd'/></disk>",
        "<disk type='network'><source protocol='nbd' name='x'/><target dev='vdn'/></disk>",
    )


@pytest.fixture
def nothing_made(tmp_path: Path, house: House, domain: Domain) -> Iterator[Any]:
    """After the call the folders are as they were before it, and no job is left."""
    before = sorted(tmp_path.rglob("*"))
    yield
    assert sorted(tmp_path.rglob("*")) == before
    assert house.jobs.list_active() == []


INVALID = "invalid argument: "
UNSUPPORTED = "Operation not supported: "
CONFIG = "unsupported configuration: "
BANDWIDTH = f"bandwidth must be less than '{LLONG_MAX}' bytes/s (8796093022207 MiB/s)"

REBASE_REFUSALS = {
    "MiB overflow before anything": (
        ("nope", "relative", COPY | RELATIVE, 8796093022208),
        (82, 10, "numerical overflow: bandwidth must be less than 8796093022207"),
    ),
    "relative backing before the disk": (
        ("nope", "relative", COPY | RELATIVE, 0),
        (74, 10, "argument unsupported: Relative backing during copy not supported yet"),
    ),
    "relative path": (("nope", "x", COPY, 0), (8, 10, f"{INVALID}absolute path must be used as block copy target")),
    "empty path": (("nope", "", COPY, 0), (8, 10, f"{INVALID}absolute path must be used as block copy target")),
    "bytes/s overflow": (("nope", "/x", COPY | BYTES, LLONG_MAX + 1), (8, 10, INVALID + BANDWIDTH)),
    "unknown disk": (("nope", "/x", COPY, 0), (8, 10, f"{INVALID}disk 'nope' not found in domain")),
    "no name": (("", "/x", COPY, 0), (8, 10, f"{INVALID}disk '' not found in domain")),
    "unknown path": (("/nope", "/x", COPY, 0), (8, 10, f"{INVALID}disk '/nope' not found in domain")),
    "bus sd": (
        ("sda", "/x", COPY, 0),
        (84, 10, f"{UNSUPPORTED}block jobs are not supported on disk 'sda' using bus 'sd'"),
    ),
    "transient": (
        ("vdt", "/x", COPY, 0),
        (84, 10, f"{UNSUPPORTED}block jobs are not supported on transient disk 'vdt'"),
    ),
    "network": (
        ("vdn", "/x", COPY, 0),
        (84, 10, f"{UNSUPPORTED}block jobs are not supported on disk 'vdn' with a source of type 'network'"),
    ),
    "format": (
        ("vdv", "/x", COPY, 0),
        (67, 10, f"{CONFIG}block jobs are not supported on disk 'vdv' with an image of format 'vmdk'"),
    ),
    "empty drive": (
        ("hdc", "/nope/x", COPY, 0),
        (1, 10, "internal error: failed to update capacity data for disk 'hdc': it has no source"),
    ),
    "raw overlay": (
        ("vda", "/nope/x", COPY | SHALLOW | RAW, 0),
        (67, 10, f"{CONFIG}shallow copy of disk 'vda' into a raw file is not possible"),
    ),
    "missing reused": (
        ("vda", "/nope/x", COPY | REUSE, 0),
        (38, 10, "missing destination file for disk vda: /nope/x: No such file or directory"),
    ),
    "missing device": (
        ("vda", "/nope/x", COPY | DEVICE, 0),
        (38, 10, "missing destination file for disk vda: /nope/x: No such file or directory"),
    ),
    "missing folder": (
        ("vda", "/nope/x", COPY, 0),
        (38, 10, "failed to create copy target '/nope/x': No such file or directory"),
    ),
    "pull of an unknown disk": (("nope", None, 0, 0), (8, 10, f"{INVALID}disk 'nope' not found in domain")),
    "relative pull": (
        ("nope", None, RELATIVE, 0),
        (8, 10, f"{INVALID}flag VIR_DOMAIN_BLOCK_REBASE_RELATIVE is valid only with non-null base"),
    ),
}


@pytest.mark.parametrize("case", REBASE_REFUSALS)
def test_rebase_refusals(
    house: House, domain: Domain, refused: Callable[..., VirError], nothing_made: Any, case: str
) -> None:
    (disk, base, flags, bandwidth), expected = REBASE_REFUSALS[case]
    refused(expected, house.driver.domain_block_rebase, domain, disk, base, bandwidth, flags, Origin())


def destination(path: Any, image_format: Any = "qcow2", *, kind: Any = "file", more: Any = "") -> Any:
    driver = f"<driver type='{image_format}'/>" if image_format else ""
    attribute = "dev" if kind == "block" else "file"
    return f"<disk type='{kind}'>{driver}<source {attribute}='{path}'/>{more}</disk>"


BELOW = "<backingStore type='file'><format type='qcow2'/><source file='/b'/></backingStore>"
COPY_REFUSALS = {
    "garbage": ("foo", (35, 20, "(disk_definition):1: Start tag expected, '<' not found\nfoo\n^")),
    "root": ("<foo/>", (27, 5, "XML error: expecting root element of 'disk', not 'foo'")),
    "no source": ("<disk type='file'/>", (19, 20, "missing source information for device")),
    "empty source": (destination(""), (19, 20, "missing source information for device")),
    "file in block": (
        "<disk type='block'><source file='/x'/></disk>",
        (19, 20, "missing source information for device"),
    ),
    "format": (destination("/x", "bogus"), (67, 20, f"{CONFIG}unknown driver format value 'bogus'")),
    "type": (
        destination("/x", kind="zz"),
        (27, 5, "XML error: Invalid value for attribute 'type' in element 'disk': 'zz'."),
    ),
    "network": (
        "<disk type='network'><source protocol='nbd' name='x'/></disk>",
        (84, 10, f"{UNSUPPORTED}block copy to a destination of type 'network' is not supported"),
    ),
    "vmdk": (
        destination("/nope/x", "vmdk"),
        (67, 10, f"{CONFIG}block copy into an image of format 'vmdk' is not supported"),
    ),
    "relative": (destination("x"), (8, 10, f"{INVALID}absolute path must be used as block copy target")),
    "backing": (
        destination("/x", more=BELOW),
        (8, 10, f"{INVALID}backingStore of mirror without VIR_DOMAIN_BLOCK_COPY_SHALLOW doesn't make sense"),
    ),
    "missing device": (
        destination("/nope/x", kind="block"),
        (38, 10, "missing destination file for disk vda: /nope/x: No such file or directory"),
    ),
}


@pytest.mark.parametrize("case", COPY_REFUSALS)
def test_copy_refusals(
    house: House, domain: Domain, refused: Callable[..., VirError], nothing_made: Any, case: str
) -> None:
    xml, expected = COPY_REFUSALS[case]
    refused(expected, house.copy, domain, xml)


def parameter(name: Any, value: Any, kind: Any = ParameterType.ULLONG) -> Any:
    return TypedParameter(name, kind, value)


PARAMETER_REFUSALS = {
    "unknown": ([parameter("foo", 1)], (74, 0, "argument unsupported: parameter 'foo' not supported")),
    "type": (
        [parameter("bandwidth", 1, ParameterType.UINT)],
        (8, 0, f"{INVALID}invalid type 'uint' for parameter 'bandwidth', expected 'ullong'"),
    ),
    "twice": (
        [parameter("bandwidth", 1), parameter("bandwidth", 1)],
        (8, 0, f"{INVALID}parameter 'bandwidth' occurs multiple times"),
    ),
    "granularity": (
        [parameter("granularity", 3, ParameterType.UINT)],
        (8, 10, f"{INVALID}granularity must be power of 2"),
    ),
    "bandwidth": ([parameter("bandwidth", 2**63)], (8, 10, INVALID + BANDWIDTH)),
    "small granularity": (
        [parameter("granularity", 4, ParameterType.UINT)],
        (
            1,
            10,
            "internal error: unable to execute QEMU command 'blockdev-mirror': "
            "Parameter 'granularity' expects a value in range [512B, 64MB]",
        ),
    ),
}


@pytest.mark.parametrize("case", PARAMETER_REFUSALS)
def test_parameter_refusals(
    house: House, domain: Domain, refused: Callable[..., VirError], nothing_made: Any, tmp_path: Path, case: str
) -> None:
    parameters, expected = PARAMETER_REFUSALS[case]
    refused(expected, house.copy, domain, destination(tmp_path / "x"), 0, *parameters)
    assert not (tmp_path / "x").exists()


def test_parameters_before_the_domain_and_the_xml(
    house: House, domain: Domain, refused: Callable[..., VirError]
) -> None:
    house.driver.domain_undefine(domain, 0)
    refused(
        (74, 0, "argument unsupported: parameter 'foo' not supported"),
        house.copy,
        domain,
        "foo",
        0,
        parameter("foo", 1),
    )
    message = f"Domain not found: no domain with matching uuid '{domain.uuid}' (vm)"
    refused((42, 10, message), house.copy, domain, destination("/x"))


def test_accepted_parameters_count(house: House, domain: Domain, tmp_path: Path) -> None:
    job_id = house.copy(
        domain,
        destination(tmp_path / "x"),
        4 | 8,
        parameter("bandwidth", 12345),
        parameter("granularity", 1 << 20, ParameterType.UINT),
        parameter("buf-size", 1 << 20),
    )
    job = house.jobs.get(job_id)
    assert (job.bandwidth_bytes_per_s, job.details["granule_bytes"]) == (12345, 1 << 20)


def test_destination_that_exists(
    house: House, domain: Domain, refused: Callable[..., VirError], chain: Any, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"x")
    text = "external destination file for disk vda already exists and is not a block device:"
    refused((67, 10, f"{CONFIG}{text} {there}"), house.rebase, domain, there)
    refused((67, 10, f"{CONFIG}{text} {tmp_path}"), house.rebase, domain, tmp_path)
    refused((67, 10, f"{CONFIG}{text} {chain.top}"), house.rebase, domain, chain.top)
    message = f"{INVALID}blockdev flag requested for disk vda, but file '{there}' is not a block device"
    refused((8, 10, message), house.rebase, domain, there, COPY | DEVICE | REUSE)
    assert there.read_bytes() == b"x"


def test_empty_file_is_filled_and_keeps_its_owner_when_the_call_fails(
    house: House, domain: Domain, chain: Any, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    empty.chmod(0o640)
    chain.base.rename(tmp_path / "away")
    with pytest.raises(VirError):
        house.rebase(domain, empty)
    assert empty.stat().st_size == 0
    (tmp_path / "away").rename(chain.base)
    house.copied(domain, empty)
    assert empty.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("which", ["top", "snap1", "base", "link"])
def test_source_as_destination_by_any_name(
    house: House, domain: Domain, chain: Any, sha256_of: Callable[[Path], str], tmp_path: Path, which: Any
) -> None:
    path = tmp_path / "link" if which == "link" else getattr(chain, which)
    if which == "link":
        path.symlink_to(chain.base)
    digests = [sha256_of(file) for file in chain.files]
    with pytest.raises(VirError) as caught:
        house.rebase(domain, path, COPY | REUSE)
    assert caught.value.number == 1
    assert str(chain.base.parent) in caught.value.message
    assert [sha256_of(file) for file in chain.files] == digests


@pytest.mark.parametrize("size_mib", [16, 64])
def test_size_mismatch_names_both_sizes(
    house: House, domain: Domain, chain: Any, make_image: Callable[..., Path], tmp_path: Path, size_mib: Any
) -> None:
    path = make_image(tmp_path / "other.qcow2", "qcow2", size_mib * MIB)
    with pytest.raises(VirError) as caught:
        house.rebase(domain, path, COPY | REUSE)
    assert caught.value.number == 67
    assert str(size_mib * MIB) in caught.value.message
    assert str(chain.size_bytes) in caught.value.message
    (job,) = house.jobs.list_jobs(JobFilter())[0]
    assert (job.state, job.error.message) == (JobState.FAILED, caught.value.message)
    assert house.block_events() == []


def test_destination_of_another_job(
    house: House,
    domain: Domain,
    chain: Any,
    make_image: Callable[..., Path],
    tmp_path: Path,
    refused: Callable[..., VirError],
) -> None:
    other = make_image(tmp_path / "r.raw", "raw", MIB)
    second = house.define(disk_xml(other, "raw"), name="vm2", uuid="22222222-2222-2222-2222-222222222222")
    path = tmp_path / "copy.qcow2"
    house.rebase(domain, path, is_held=True)
    detail = f"destination '{path}' is in use by the block job on disk 'vda' of domain 'vm'"
    refused((83, 10, f"block copy still active: {detail}"), house.rebase, second, path)
    hard = tmp_path / "hard"
    os.link(path, hard)
    detail = f"destination '{hard}' is in use by the block job on disk 'vda' of domain 'vm'"
    refused((83, 10, f"block copy still active: {detail}"), house.rebase, second, hard)


def test_missing_backing_file_in_libvirts_words(house: House, domain: Domain, chain: Any, tmp_path: Path) -> None:
    chain.base.unlink()
    with pytest.raises(VirError) as caught:
        house.rebase(domain, tmp_path / "copy")
    ids = f"(as uid:{os.geteuid()}, gid:{os.getegid()})"
    expected = f"Cannot access backing file '{chain.base}' of storage file '{chain.snap1}' {ids}"
    assert caught.value.message == f"{expected}: No such file or directory"
    assert (caught.value.number, caught.value.domain, caught.value.int1) == (38, 18, 2)
    (job,) = house.jobs.list_jobs(JobFilter())[0]
    assert (job.state, job.reason) == (JobState.FAILED, caught.value.message)
    assert not (tmp_path / "copy").exists()


def test_garbage_source(house: House, tmp_path: Path) -> None:
    image = tmp_path / "garbage"
    image.write_bytes(os.urandom(70000))
    domain = house.define(disk_xml(image))
    with pytest.raises(VirError, match="not in qcow2 format") as caught:
        house.rebase(domain, tmp_path / "copy")
    assert caught.value.number == 1
    assert str(image) in caught.value.message
    assert not (tmp_path / "copy").exists()


def test_shared_disk_needs_a_raw_destination(
    house: House, make_image: Callable[..., Path], tmp_path: Path, refused: Callable[..., VirError]
) -> None:
    image = make_image(tmp_path / "s.qcow2", "qcow2", MIB)
    domain = house.define(disk_xml(image, more="<shareable/>"))
    message = f"{UNSUPPORTED}can't pivot a shared disk to a storage volume not supporting sharing"
    refused((84, 10, message), house.rebase, domain, tmp_path / "x")
    house.copied(domain, tmp_path / "x", COPY | RAW)


def test_outside_the_allowed_folders(
    make_house: Callable[..., House], make_chain: Any, make_image: Callable[..., Path], tmp_path: Path
) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    outside.mkdir()
    chain = make_chain("allowed")
    house = make_house(policy=PathPolicy([str(allowed)]))
    domain = house.define(disk_xml(chain.top))
    (allowed / "door").symlink_to(outside)
    for path in (outside / "x", allowed / ".." / "outside" / "x", allowed / "door" / "x", "/etc/passwd"):
        for flags in (COPY, COPY | REUSE):
            with pytest.raises(VirError) as caught:
                house.rebase(domain, path, flags)
            assert caught.value.number == 88, caught.value.message
    assert list(outside.iterdir()) == []
    house.copied(domain, allowed / "x")


def test_backing_file_outside_the_allowed_folders(
    make_house: Callable[..., House], make_image: Callable[..., Path], tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    secret = make_image(tmp_path / "secret.raw", "raw", MIB)
    top = make_image(allowed / "top.qcow2", "qcow2", backing=secret, backing_format="raw")
    house = make_house(policy=PathPolicy([str(allowed)]))
    domain = house.define(disk_xml(top))
    with pytest.raises(VirError) as caught:
        house.rebase(domain, allowed / "x")
    assert caught.value.number == 88
    assert str(secret) in caught.value.message


def test_no_room(
    house: House, tmp_path: Path, make_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(tmp_path / "big.raw", "raw", 8 * MIB, writes=[(0, 8 * MIB, 1)])
    domain = house.define(disk_xml(image, "raw"))
    real = os.statvfs

    def little(path: Any) -> Any:
        found = list(real(path))
        found[4] = 1  # f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", little)
    with pytest.raises(VirError, match="No space left on device") as caught:
        house.rebase(domain, tmp_path / "x")
    assert (caught.value.number, caught.value.int1) == (38, 28)
    assert not (tmp_path / "x").exists()


STRICT = (55, 20, "Requested operation is not valid: domain is not running")


def test_strict_server_answers_as_libvirt(
    make_house: Callable[..., House], make_chain: Any, refused: Callable[..., VirError], tmp_path: Path
) -> None:
    chain = make_chain()
    house = make_house(strict_libvirt=True)
    domain = house.define(disk_xml(chain.top))
    driver = house.driver
    refused(STRICT, house.rebase, domain, tmp_path / "x")
    refused(STRICT, house.copy, domain, destination(tmp_path / "x"))
    refused(STRICT, driver.domain_block_job_abort, domain, "nope", 0)
    refused(STRICT, driver.domain_get_block_job_info, domain, "nope", 0)
    refused(STRICT, driver.domain_block_job_set_speed, domain, "nope", 1, 0)
    refused(STRICT, driver.domain_block_resize, domain, "nope", 1, 0)
    # What libvirt checks before it looks whether the domain runs.
    message = "argument unsupported: Relative backing during copy not supported yet"
    refused((74, 10, message), house.rebase, domain, "/x", COPY | RELATIVE)
    message = "numerical overflow: bandwidth must be less than 8796093022207"
    refused((82, 10, message), driver.domain_block_job_set_speed, domain, "nope", 8796093022208, 0)


def test_calls_on_a_disk_without_a_job(house: House, domain: Domain, refused: Callable[..., VirError]) -> None:
    driver = house.driver
    answer = (8, 10, f"{INVALID}disk vda does not have an active block job")
    for flags in (0, 1, 2, 3):
        refused(answer, driver.domain_block_job_abort, domain, "vda", flags)
    refused(answer, driver.domain_block_job_set_speed, domain, "vda", 1, 0)
    assert driver.domain_get_block_job_info(domain, "vda", 0) is None
    unknown = (8, 10, f"{INVALID}disk 'vdz' not found in domain")
    refused(unknown, driver.domain_block_job_abort, domain, "vdz", 0)
    refused(unknown, driver.domain_get_block_job_info, domain, "vdz", 0)
    refused(unknown, driver.domain_block_job_set_speed, domain, "vdz", 1, 0)
