# SPDX-License-Identifier: Apache-2.0
"""What libvirt 9.0 with QEMU 7.2 answered to every mistake in a pull or commit of a running domain, by name.

The texts were taken from there, call by call; only paths and the indexes of images are this machine's. `{top}`,
`{mid}` and `{base}` are the images of vda. vdb is a single qcow2, vdc raw, vdd on an SD bus, vde transient, hdc empty.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conformance.routes import Refused, Route

KIB, MIB = 1024, 1024 * 1024
SHALLOW, DELETE, ACTIVE, COMMIT_RELATIVE, COMMIT_BYTES = 1, 2, 4, 8, 16
RELATIVE, BYTES = 16, 64
PIVOT = 2
MIB_LIMIT_PASSED, MINUS_ONE = 8796093022208, 2**64 - 1

UNSUPPORTED_FLAGS = "unsupported flags (0x{:x}) in function {}"
BAD = "invalid argument: "
OVERFLOW = (82, 10, "numerical overflow: bandwidth must be less than 8796093022207")
NEGATIVE_SPEED = (1, 0, "internal error: argument key 'speed' must not be negative")
NULL_DEVICE = (1, 0, "internal error: argument key 'device' must not have null value")
NOT_RELATIVE = (55, 10, "Requested operation is not valid: can't keep relative backing relationship")


def not_found(name: str, beneath: str = "", target: str = "vda") -> tuple[int, int, str]:
    """A name that leads to no image of the chain."""
    place = f" beneath '{beneath}'" if beneath else ""
    return 8, 18, f"{BAD}could not find image '{name}'{place} in chain for '{target}'"


def no_index(index: int, target: str = "vda") -> tuple[int, int, str]:
    """An index that no image has."""
    return 8, 18, f"{BAD}could not find backing store index '{index}' in chain for '{target}'"


def other_target(target: str) -> tuple[int, int, str]:
    """An index of another disk."""
    return 8, 18, f"{BAD}requested target '{target}' does not match target 'vda'"


def no_base(target: str) -> tuple[int, int, str]:
    """Nothing lies below the top."""
    return 8, 18, f"{BAD}could not find base image in chain for '{target}'"


def unsupported_disk(text: str) -> tuple[int, int, str]:
    """No block job works on the disk."""
    return 84, 10, f"Operation not supported: block jobs are not supported on {text}"


# disk, base, bandwidth, flags
REBASE: dict[str, tuple[tuple[str, str | None, int, int], tuple[int, int, str]]] = {
    "unknown disk": (("vdx", None, 0, 0), (8, 10, f"{BAD}disk 'vdx' not found in domain")),
    "bandwidth too large": (("vda", None, MIB_LIMIT_PASSED, 0), OVERFLOW),
    "bandwidth -1": (("vda", None, MINUS_ONE, 0), OVERFLOW),
    "bytes -1": (("vda", None, MINUS_ONE, BYTES), NEGATIVE_SPEED),
    "empty drive": (("hdc", None, 0, 0), NULL_DEVICE),
    "empty drive, bytes -1": (("hdc", None, MINUS_ONE, BYTES), NULL_DEVICE),
    "empty drive with a base": (("hdc", "/x", 0, 0), not_found("/x", "<null>", "hdc")),
    "no such base": (("vda", "/nope", 0, 0), not_found("/nope", "{top}")),
    "no such relative base": (("vda", "nope", 0, 0), not_found("nope", "{top}")),
    "empty base": (("vda", "", 0, 0), not_found("", "{top}")),
    "base is the top": (("vda", "{top}", 0, 0), not_found("{top}", "{top}")),
    "base is the target": (("vda", "vda", 0, 0), not_found("vda", "{top}")),
    "base of another disk": (("vdb", "{base}", 0, 0), not_found("{base}", "{single}", "vdb")),
    "index 0 is a name": (("vda", "vda[0]", 0, 0), not_found("vda[0]", "{top}")),
    "index of the top": (("vda", "vda[1]", 0, 0), no_index(1)),
    "index of nothing": (("vda", "vda[9]", 0, 0), no_index(9)),
    "index of another disk": (("vda", "vdb[2]", 0, 0), other_target("vdb")),
    "index without a disk": (("vda", "[2]", 0, 0), other_target("")),
    "index of a single image": (("vdb", "vdb[2]", 0, 0), no_index(2, "vdb")),
    "index is no number": (("vda", "vda[x]", 0, 0), not_found("vda[x]", "{top}")),
    "index is not closed": (("vda", "vda[5", 0, 0), not_found("vda[5", "{top}")),
    "index with more": (("vda", "vda[6]x", 0, 0), not_found("vda[6]x", "{top}")),
    "two indexes": (("vda", "vda[6][7]", 0, 0), not_found("vda[6][7]", "{top}")),
    "index below 0": (("vda", "vda[-1]", 0, 0), not_found("vda[-1]", "{top}")),
    "index is empty": (("vda", "vda[]", 0, 0), not_found("vda[]", "{top}")),
    "index in hexadecimal": (("vda", "vda[0x6]", 0, 0), not_found("vda[0x6]", "{top}")),
    "index with a space behind": (("vda", "vda[6 ]", 0, 0), not_found("vda[6 ]", "{top}")),
    "index of 33 bits": (("vda", "vda[4294967302]", 0, 0), not_found("vda[4294967302]", "{top}")),
    "protocol": (("vda", "nbd://x/y", 0, 0), not_found("nbd://x/y", "{top}")),
    "name before bandwidth": (("vda", "/nope", MIB_LIMIT_PASSED, 0), not_found("/nope", "{top}")),
    "bandwidth after a good name": (("vda", "{base}", MIB_LIMIT_PASSED, 0), OVERFLOW),
    "relative without base": (
        ("vdx", None, MIB_LIMIT_PASSED, RELATIVE),
        (8, 10, f"{BAD}flag VIR_DOMAIN_BLOCK_REBASE_RELATIVE is valid only with non-null base"),
    ),
    "relative in an absolute chain": (("vda", "{base}", 0, RELATIVE), NOT_RELATIVE),
    "relative to the next image": (("vda", "{mid}", 0, RELATIVE), NOT_RELATIVE),
    "relative before bandwidth": (("vda", "{base}", MIB_LIMIT_PASSED, RELATIVE), NOT_RELATIVE),
    "relative after the name": (("vda", "/nope", 0, RELATIVE), not_found("/nope", "{top}")),
    "sd bus": (("vdd", None, MIB_LIMIT_PASSED, 0), unsupported_disk("disk 'vdd' using bus 'sd'")),
    "sd bus before the name": (("vdd", "/nope", 0, 0), unsupported_disk("disk 'vdd' using bus 'sd'")),
    "transient": (("vde", "/nope", 0, 0), unsupported_disk("transient disk 'vde'")),
}

# disk, bandwidth, flags
PULL: dict[str, tuple[tuple[str, int, int], tuple[int, int, str]]] = {
    "flags": (("vda", 0, 1), (8, 10, UNSUPPORTED_FLAGS.format(1, "qemuDomainBlockPull"))),
    "flags before the disk": (("vdx", 0, 0x80 | BYTES), (8, 10, UNSUPPORTED_FLAGS.format(0x80, "qemuDomainBlockPull"))),
    "unknown disk": (("vdx", MIB_LIMIT_PASSED, 0), (8, 10, f"{BAD}disk 'vdx' not found in domain")),
    "bandwidth too large": (("vda", MIB_LIMIT_PASSED, 0), OVERFLOW),
    "bytes -1": (("vda", MINUS_ONE, BYTES), NEGATIVE_SPEED),
    "empty drive": (("hdc", 0, 0), NULL_DEVICE),
}


class Commit(NamedTuple):
    """Arguments of BlockCommit."""

    disk: str = "vda"
    base: str | None = None
    top: str | None = None
    bandwidth: int = 0
    flags: int = 0


def needs_active(disk: str) -> tuple[int, int, str]:
    """The top is the disk's own image, and ACTIVE was not given."""
    return 8, 10, f"{BAD}commit of '{disk}' active layer requires active flag"


def no_backing(top: str, disk: str) -> tuple[int, int, str]:
    """A top that is the last image."""
    return 8, 10, f"{BAD}top '{top}' in chain for '{disk}' has no backing file"


def not_next(base: str, top: str) -> tuple[int, int, str]:
    """SHALLOW with a base farther below."""
    return 8, 10, f"{BAD}base '{base}' is not immediately below '{top}' in chain for '{{top}}'"


COMMIT: dict[str, tuple[Commit, tuple[int, int, str]]] = {
    "flags": (
        Commit(disk="vdx", bandwidth=MIB_LIMIT_PASSED, flags=0x40),
        (8, 10, UNSUPPORTED_FLAGS.format(0x40, "qemuDomainBlockCommit")),
    ),
    "bandwidth before the disk": (Commit(disk="vdx", bandwidth=MIB_LIMIT_PASSED), OVERFLOW),
    "unknown disk": (Commit(disk="vdx"), (8, 10, f"{BAD}disk 'vdx' not found in domain")),
    "no active flag": (Commit(), needs_active("vda")),
    "no active flag, top by path": (Commit(top="{top}"), needs_active("vda")),
    "no active flag, top by target": (Commit(top="vda"), needs_active("vda")),
    "no active flag, top by index": (Commit(top="vda[1]"), needs_active("vda")),
    "no such top": (Commit(top="/nope"), not_found("/nope")),
    "no such relative top": (Commit(top="nope"), not_found("nope")),
    "top by a name in the folder": (Commit(top="snap2.qcow2"), not_found("snap2.qcow2")),
    "empty top": (Commit(top=""), not_found("")),
    "index of nothing": (Commit(top="vda[9]"), no_index(9)),
    "index 0 is a name": (Commit(top="vda[0]"), not_found("vda[0]")),
    "index of another disk": (Commit(base="vdb[2]", flags=ACTIVE), other_target("vdb")),
    "base of no index": (Commit(base="vda[9]", flags=ACTIVE), no_index(9)),
    "index of the top as base": (Commit(base="vda[6]", top="{mid}"), no_index(6)),
    "top is the bottom": (Commit(top="{base}"), no_base("vda")),
    "top is the bottom, shallow": (Commit(top="{base}", flags=SHALLOW), no_backing("{base}", "{top}")),
    "top is the base": (Commit(base="{base}", top="{base}"), not_found("{base}", "{base}")),
    "top is the base in the middle": (Commit(base="{mid}", top="{mid}"), not_found("{mid}", "{mid}")),
    "base above the top": (Commit(base="{top}", top="{mid}"), not_found("{top}", "{mid}")),
    "no such base": (Commit(base="/nope", top="{mid}"), not_found("/nope", "{mid}")),
    "no such base of the active image": (Commit(base="/nope"), not_found("/nope", "{top}")),
    "empty base": (Commit(base=""), not_found("", "{top}")),
    "top before base": (Commit(base="/nope", top="/no"), not_found("/no")),
    "active with a top that is not": (
        Commit(top="{mid}", flags=ACTIVE),
        (8, 10, f"{BAD}active commit requested but '{{mid}}' is not active"),
    ),
    "active with the bottom": (
        Commit(top="{base}", flags=ACTIVE | SHALLOW),
        (8, 10, f"{BAD}active commit requested but '{{base}}' is not active"),
    ),
    "shallow to the bottom": (Commit(base="{base}", flags=ACTIVE | SHALLOW), not_next("{base}", "{top}")),
    "shallow to the bottom without active": (
        Commit(base="{base}", flags=SHALLOW),
        needs_active("vda"),
    ),
    "raw disk": (Commit(disk="vdc", flags=ACTIVE), no_base("vdc")),
    "raw disk, shallow": (Commit(disk="vdc", flags=ACTIVE | SHALLOW), no_backing("{raw}", "{raw}")),
    "single image": (Commit(disk="vdb"), no_base("vdb")),
    "single image, shallow": (Commit(disk="vdb", flags=ACTIVE | SHALLOW), no_backing("{single}", "{single}")),
    "single image, shallow, no active flag": (
        Commit(disk="vdb", flags=SHALLOW),
        needs_active("vdb"),
    ),
    "empty drive": (Commit(disk="hdc", flags=ACTIVE), no_base("hdc")),
    "empty drive, shallow": (
        Commit(disk="hdc", flags=ACTIVE | SHALLOW),
        (67, 10, "unsupported configuration: disk hdc has no source file to be committed"),
    ),
    "empty drive with a top": (Commit(disk="hdc", top="/x", flags=SHALLOW), not_found("/x", target="hdc")),
    "relative in an absolute chain": (Commit(top="{mid}", flags=COMMIT_RELATIVE), NOT_RELATIVE),
    "relative before bytes -1": (
        Commit(top="{mid}", bandwidth=MINUS_ONE, flags=COMMIT_RELATIVE | COMMIT_BYTES),
        NOT_RELATIVE,
    ),
    "bytes -1": (Commit(top="{mid}", bandwidth=MINUS_ONE, flags=COMMIT_BYTES), NEGATIVE_SPEED),
    "active, bytes -1": (Commit(bandwidth=MINUS_ONE, flags=ACTIVE | COMMIT_BYTES), NEGATIVE_SPEED),
    "bandwidth -1": (Commit(top="{mid}", bandwidth=MINUS_ONE), OVERFLOW),
    "transient after the name": (Commit(disk="vde", base="/nope"), not_found("/nope", "{overlay}", "vde")),
    "transient": (Commit(disk="vde"), unsupported_disk("transient disk 'vde'")),
    "sd bus": (Commit(disk="vdd", flags=ACTIVE), unsupported_disk("disk 'vdd' using bus 'sd'")),
}


class Bench:
    """A domain with a disk of every kind, and the paths by name."""

    def __init__(self, route: Route, paths: dict[str, Path]) -> None:
        self.route = route
        self.paths = paths
        self.content = {path: path.read_bytes() for path in paths.values()}

    def filled(self, text: str) -> str:
        for name, path in self.paths.items():
            text = text.replace(f"{{{name}}}", str(path))
        return text

    def check(self, expected: tuple[int, int, str], call: Callable[..., Any], *arguments: Any) -> None:
        """The call is refused with exactly this, begins no job, and changes no file."""
        given = [self.filled(argument) if isinstance(argument, str) else argument for argument in arguments]
        with pytest.raises(Refused) as refusal:
            call("guest", *given)
        error = refusal.value
        assert (error.number, error.domain, error.message) == (*expected[:2], self.filled(expected[2]))
        assert self.route.newest_job() == self.newest
        assert {path: path.read_bytes() for path in self.paths.values()} == self.content

    @property
    def newest(self) -> str | None:
        return self._newest

    def __enter__(self) -> Bench:
        self._newest = self.route.newest_job()
        return self

    def __exit__(self, *_: object) -> None:
        self.route.undefine("guest")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_image: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    made = {"base": make_image(folder / "base.qcow2", "qcow2", MIB, writes=[(0, 64 * KIB, 1)])}
    for name, file, below in (("mid", "snap1", "base"), ("top", "snap2", "mid"), ("overlay", "overlay", "base")):
        made[name] = make_image(folder / f"{file}.qcow2", "qcow2", backing=made[below], backing_format="qcow2")
    made["single"] = make_image(folder / "single.qcow2", "qcow2", MIB)
    made["raw"] = make_image(folder / "disk.raw", "raw", MIB)
    return made


def disk_xml(target: str, path: Path, image_format: str = "qcow2", bus: str = "virtio", more: str = "") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{image_format}'/><source file='{path}'/>"
        f"<target dev='{target}' bus='{bus}'/>{more}</disk>"
    )


@pytest.fixture
def bench(route: Route, images: dict[str, Path], domain_xml: Callable[..., str]) -> Iterator[Bench]:
    disks = [
        disk_xml("vda", images["top"]),
        disk_xml("vdb", images["single"]),
        disk_xml("vdc", images["raw"], "raw"),
        disk_xml("vdd", images["overlay"], bus="sd"),
        disk_xml("vde", images["overlay"], more="<transient/>"),
        "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>",
    ]
    route.define(domain_xml(*disks))
    with Bench(route, images) as made:
        yield made


@pytest.mark.parametrize("name", REBASE)
def test_rebase_without_copy(bench: Bench, name: str) -> None:
    arguments, expected = REBASE[name]
    bench.check(expected, bench.route.rebase, *arguments)


@pytest.mark.parametrize("name", PULL)
def test_pull(bench: Bench, name: str) -> None:
    arguments, expected = PULL[name]
    bench.check(expected, bench.route.pull, *arguments)


@pytest.mark.parametrize("name", COMMIT)
def test_commit(bench: Bench, name: str) -> None:
    arguments, expected = COMMIT[name]
    bench.check(expected, bench.route.commit, *arguments)


# Every way to name an image that libvirt takes; a bandwidth or flag that is judged later shows that the name was found.

NAMES_OF_BASE = ["{base}", "base.qcow2", "./base.qcow2", "{folder}/../{name}/base.qcow2", "{folder}//base.qcow2"]
NAMES_OF_BASE += ["{link}", "link.qcow2", "{link_folder}/base.qcow2", "vda[7]", "vda[ 7]", "vda[+7]", "vda[07]"]


@pytest.mark.parametrize("name", NAMES_OF_BASE)
def test_names_that_lead_to_the_base(bench: Bench, images: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = images["base"].parent
    (tmp_path / "folder").symlink_to(folder)
    (tmp_path / "link").symlink_to(images["base"])
    if not os.path.lexists(folder / "link.qcow2"):
        (folder / "link.qcow2").symlink_to(images["base"])
    filled = bench.filled(name).replace("{folder}", str(folder)).replace("{name}", folder.name)
    filled = filled.replace("{link}", str(tmp_path / "link")).replace("{link_folder}", str(tmp_path / "folder"))
    bench.check(OVERFLOW, bench.route.rebase, "vda", filled, MIB_LIMIT_PASSED, 0)
    expected = needs_active("vda")
    bench.check(expected, bench.route.commit, "vda", filled, None, 0, 0)
    bench.check(no_base("vda"), bench.route.commit, "vda", None, filled, 0, 0)
