# SPDX-License-Identifier: Apache-2.0
"""The cases of the differential suite: what is done to a guest, as data.

Owns: `Case` and the lists of them. Invariants: `{dir}` in an argument is the side's own folder of images and `{name}`
the guest's name; a step that fails is an outcome like any other, and the next one is done all the same; a case says
nothing of what should come out, because libvirt says that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SHALLOW, REUSE_EXT, COPY_RAW, COPY, RELATIVE, COPY_DEV, BANDWIDTH_BYTES = 1, 2, 4, 8, 16, 32, 64
ASYNC, PIVOT = 1, 2
COPY_SHALLOW, COPY_REUSE, COPY_TRANSIENT, COPY_SYNC = 1, 2, 4, 8
COMMIT_SHALLOW, COMMIT_DELETE, COMMIT_ACTIVE, COMMIT_RELATIVE, COMMIT_BYTES = 1, 2, 4, 8, 16
LLONG_MAX = (1 << 63) - 1
ULLONG_MAX = (1 << 64) - 1
MIB_MAX = LLONG_MAX >> 20

# Shapes of guests: a chain of two images on vda each (`{dir}/{name}-1.qcow2` on `{dir}/{name}-0.qcow2`), and an empty
# CD-ROM hdc. A persistent one runs; one that is running or paused is transient.
RUNNING, PAUSED, PERSISTENT, SHUT_OFF = "running", "paused", "persistent", "shut off"

Step = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """One case. `files` are made before, as (name, qemu-img arguments)."""

    name: str
    shape: str
    steps: tuple[Step, ...]
    files: tuple[tuple[str, tuple[str, ...]], ...] = ()


COPY_PATH = "{dir}/{name}-copy"
END_COPY: tuple[Step, ...] = (
    ("wait", "settled", "vda"),
    ("info", "vda", 0),
    ("abort", "vda", 0),
    ("wait", "gone", "vda"),
)
END_PIVOT: tuple[Step, ...] = (("wait", "settled", "vda"), ("abort", "vda", PIVOT), ("wait", "gone", "vda"))
QCOW2_16M = ("create", "-q", "-f", "qcow2", "{dir}/{name}-copy", "16M")
RAW_16M = ("create", "-q", "-f", "raw", "{dir}/{name}-copy", "16M")
NETWORK_DISK = "<disk type='network'><source protocol='nbd' name='x'><host name='127.0.0.1' port='1'/></source></disk>"
# Without a target libvirt 9.0's daemon crashes on it.
NO_SUCH_DISK = "<disk type='file' device='disk'><source file='/nope'/><target dev='vdz' bus='virtio'/></disk>"


def rebase_flags() -> Iterator[Case]:
    """All 128 flag combinations of BlockRebase, and those that succeed to their end."""
    for flags in range(128):
        base = COPY_PATH if flags & COPY else None
        files = (("{name}-copy", QCOW2_16M),) if flags & REUSE_EXT and flags & COPY else ()
        end = END_PIVOT if flags % 3 == 0 else END_COPY
        yield Case(f"rebase-flags-{flags:03d}", PAUSED, (("rebase", "vda", base, 0, flags), *end), files)
    for flags in (0, COPY, COPY | SHALLOW, COPY | REUSE_EXT, RELATIVE, 128, 1 << 31):
        for shape in (RUNNING, PERSISTENT, SHUT_OFF):
            yield Case(f"rebase-flags-{flags:03d}-{shape}", shape, (("rebase", "vda", COPY_PATH, 0, flags), *END_COPY))


def rebase_arguments() -> Iterator[Case]:
    """Disks, bases, bandwidths and destinations."""
    for disk in ("vda", "{dir}/{name}-1.qcow2", "{dir}/{name}-0.qcow2", "vdb", "hdc", "", "/nope", "vda[1]", "ünï"):
        yield Case(f"rebase-disk-{disk}", PAUSED, (("rebase", disk, COPY_PATH, 0, COPY), *END_COPY))
        yield Case(f"rebase-pull-disk-{disk}", PAUSED, (("rebase", disk, None, 0, 0), ("wait", "gone", "vda")))
    for bandwidth in (1, 1000, MIB_MAX, MIB_MAX + 1, ULLONG_MAX):
        for flags in (COPY, COPY | BANDWIDTH_BYTES, 0, BANDWIDTH_BYTES):
            start = ("rebase", "vda", COPY_PATH if flags & COPY else None, bandwidth, flags)
            is_slow = bool(flags & BANDWIDTH_BYTES) and bandwidth <= 1000
            # What is not slow may be over before one can look: then READY is waited for, or a pull's end.
            look: tuple[Step, ...] = (("limit", "vda", 1), ("abort", "vda", 0)) if flags & COPY or is_slow else ()
            if flags & COPY and not is_slow:
                look = (("wait", "settled", "vda"), *look)
            yield Case(f"rebase-bandwidth-{bandwidth}-{flags}", PAUSED, (start, *look, ("wait", "gone", "vda")))
    for base in (
        None,
        "",
        "relative",
        "/nope/dir/x",
        "{dir}",
        "{dir}/{name}-1.qcow2",
        "{dir}/{name}-0.qcow2",
        "/dev/null",
    ):
        yield Case(f"rebase-destination-{base}", PAUSED, (("rebase", "vda", base, 0, COPY), *END_COPY))
        yield Case(f"rebase-reuse-{base}", PAUSED, (("rebase", "vda", base, 0, COPY | REUSE_EXT), *END_COPY))
    for base in (
        "{dir}/{name}-0.qcow2",
        "{dir}/{name}-1.qcow2",
        "{name}-0.qcow2",
        "vda[1]",
        "vda[2]",
        "vda[9]",
        "vdb[1]",
        "x",
    ):
        for flags in (0, RELATIVE):
            yield Case(
                f"rebase-base-{base}-{flags}", PAUSED, (("rebase", "vda", base, 0, flags), ("wait", "gone", "vda"))
            )


def destinations() -> Iterator[Case]:
    """What is at the destination before."""
    shapes = {
        "empty": ("create", "-q", "-f", "raw", "{dir}/{name}-copy", "0"),
        "folder": ("mkdir",),
        "text": ("text", "no image at all\n"),
        "odd-size": ("create", "-q", "-f", "raw", "{dir}/{name}-copy", "16777215"),
        "raw": RAW_16M,
        "qcow2": QCOW2_16M,
        "smaller": ("create", "-q", "-f", "qcow2", "{dir}/{name}-copy", "8M"),
        "larger": ("create", "-q", "-f", "qcow2", "{dir}/{name}-copy", "32M"),
        "overlay": (
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            "{dir}/{name}-0.qcow2",
            "{dir}/{name}-copy",
            "16M",
        ),
    }
    for label, make in shapes.items():
        for flags in (COPY, COPY | REUSE_EXT, COPY | REUSE_EXT | SHALLOW, COPY | REUSE_EXT | COPY_RAW):
            steps = (("rebase", "vda", COPY_PATH, 0, flags), *END_COPY)
            yield Case(f"destination-{label}-{flags}", PAUSED, steps, (("{name}-copy", make),))
        for format_name in ("qcow2", "raw"):
            for flags in (0, COPY_REUSE, COPY_REUSE | COPY_SHALLOW):
                xml = copy_xml(f"<driver type='{format_name}'/>")
                steps = (("copy", "vda", xml, {}, flags | COPY_TRANSIENT), *END_PIVOT)
                yield Case(
                    f"destination-{label}-{format_name}-copy-{flags}", PERSISTENT, steps, (("{name}-copy", make),)
                )


def copy_xml(
    inner: str = "<driver type='qcow2'/>", source: str = "file='{dir}/{name}-copy'", kind: str = "file"
) -> str:
    """BlockCopy's destination."""
    return f"<disk type='{kind}'><source {source}/>{inner}</disk>"


def copies() -> Iterator[Case]:
    """BlockCopy: flags, parameters, XML."""
    for flags in range(16):
        files = (("{name}-copy", QCOW2_16M),) if flags & COPY_REUSE else ()
        for shape in (PAUSED, PERSISTENT, SHUT_OFF, *([RUNNING] if flags in (0, 1, 8) else [])):
            end = END_PIVOT if flags % 2 else END_COPY
            yield Case(f"copy-flags-{flags}-{shape}", shape, (("copy", "vda", copy_xml(), {}, flags), *end), files)
    for flags in (16, 32, 1 << 31):
        yield Case(f"copy-flags-{flags}", PAUSED, (("copy", "vda", copy_xml(), {}, flags), *END_COPY))
    for parameters in (
        {"bandwidth": 1},
        {"bandwidth": LLONG_MAX},
        {"bandwidth": LLONG_MAX + 1},
        {"granularity": 65536},
        {"granularity": 3},
        {"granularity": 256},
        {"granularity": 1 << 27},
        {"buf-size": 1 << 20},
        {"buf-size": LLONG_MAX + 1},
        {"nonsense": 1},
        {"bandwidth": 0, "granularity": 0, "buf-size": 0},
    ):
        steps = (
            ("copy", "vda", copy_xml(), parameters, 0),
            *([] if parameters == {"bandwidth": 1} else [("wait", "settled", "vda")]),
            ("limit", "vda", 1),
            ("abort", "vda", 0),
            ("wait", "gone", "vda"),
        )
        yield Case(f"copy-parameters-{parameters}", PAUSED, steps)
    for label, xml in {
        "empty": "", "text": "nonsense", "other": "<domain/>", "bare": "<disk/>", "no-source": "<disk type='file'/>",
        "empty-source": "<disk type='file'><source/></disk>", "block": copy_xml(source="dev='/dev/null'", kind="block"),
        "network": NETWORK_DISK,
        "bad-type": copy_xml(kind="nonsense"), "bad-format": copy_xml("<driver type='nonsense'/>"),
        "raw": copy_xml("<driver type='raw'/>"), "no-format": copy_xml(""), "relative": copy_xml(source="file='x'"),
        "vmdk": copy_xml("<driver type='vmdk'/>"), "null": None,
        "own-options": copy_xml("<driver type='qcow2'/><v:destination xmlns:v='urn:virtblock:1' cluster-size='4096'/>"),
    }.items():  # fmt: skip
        yield Case(f"copy-xml-{label}", PAUSED, (("copy", "vda", xml, {}, 0), *END_COPY))
    for disk in ("vdb", "hdc", "", None):
        yield Case(f"copy-disk-{disk}", PAUSED, (("copy", disk, copy_xml(), {}, 0), *END_COPY))


def pulls_and_commits() -> Iterator[Case]:
    """BlockPull and BlockCommit."""
    for flags in (0, 64, 1, 2, 128):
        yield Case(f"pull-flags-{flags}", PAUSED, (("pull", "vda", 0, flags), ("wait", "gone", "vda")))
    for disk in ("vdb", "hdc", "", None, "{dir}/{name}-1.qcow2"):
        yield Case(f"pull-disk-{disk}", PAUSED, (("pull", disk, 0, 0), ("wait", "gone", "vda")))
        yield Case(f"commit-disk-{disk}", PAUSED, (("commit", disk, None, None, 0, COMMIT_ACTIVE), *END_COPY))
    for bandwidth in (1, MIB_MAX + 1, ULLONG_MAX):
        yield Case(f"pull-bandwidth-{bandwidth}", PAUSED, (("pull", "vda", bandwidth, 0), ("wait", "gone", "vda")))
        yield Case(
            f"commit-bandwidth-{bandwidth}",
            PAUSED,
            (("commit", "vda", None, None, bandwidth, COMMIT_ACTIVE), *END_COPY),
        )
    for flags in range(32):
        end = END_PIVOT if flags % 2 else END_COPY
        yield Case(f"commit-flags-{flags}", PAUSED, (("commit", "vda", None, None, 0, flags), *end))
    names = (None, "{dir}/{name}-1.qcow2", "{dir}/{name}-0.qcow2", "vda[1]", "vda[2]", "/nope", "")
    for base in names:
        for top in names:
            yield Case(f"commit-{base}-{top}", PAUSED, (("commit", "vda", base, top, 0, COMMIT_ACTIVE), *END_COPY))
    for shape in (PERSISTENT, RUNNING, SHUT_OFF):
        yield Case(f"pull-{shape}", shape, (("pull", "vda", 0, 0), ("wait", "gone", "vda")))
        yield Case(f"commit-{shape}", shape, (("commit", "vda", None, None, 0, COMMIT_ACTIVE), *END_PIVOT))


def ends() -> Iterator[Case]:
    """BlockJobAbort, GetBlockJobInfo, BlockJobSetSpeed."""
    for flags in range(5):
        yield Case(f"abort-nothing-{flags}", PAUSED, (("abort", "vda", flags),))
        yield Case(f"abort-nothing-persistent-{flags}", PERSISTENT, (("abort", "vda", flags),))
        start = ("rebase", "vda", COPY_PATH, 0, COPY)
        steps = (
            start,
            ("wait", "settled", "vda"),
            ("abort", "vda", flags),
            *([("abort", "vda", 0)] if flags > 3 else []),
        )
        yield Case(f"abort-ready-{flags}", PAUSED, (*steps, ("wait", "gone", "vda")))
        slow = ("rebase", "vda", COPY_PATH, 1, COPY | BANDWIDTH_BYTES)
        # What is refused leaves the job, which would take days at this speed.
        last = () if flags in (0, ASYNC) else (("abort", "vda", 0),)
        yield Case(f"abort-running-{flags}", PAUSED, (slow, ("abort", "vda", flags), *last, ("wait", "gone", "vda")))
    for disk in ("vda", "vdb", "hdc", "", None):
        yield Case(f"abort-disk-{disk}", PAUSED, (("abort", disk, 0),))
        yield Case(f"info-disk-{disk}", PAUSED, (("info", disk, 0),))
        yield Case(f"ends-{disk}-shut off", SHUT_OFF, (("abort", disk, 0), ("info", disk, 0), ("speed", disk, 1, 0)))
        yield Case(f"speed-disk-{disk}", PAUSED, (("speed", disk, 1, 0),))
    for flags in (1, 2, 1 << 31):
        yield Case(f"info-flags-{flags}", PAUSED, (("info", "vda", flags),))
        yield Case(f"speed-flags-{flags}", PAUSED, (("speed", "vda", 1, flags),))
    for bandwidth in (0, 1, 5, MIB_MAX, MIB_MAX + 1, LLONG_MAX, ULLONG_MAX):
        for flags in (0, 1):
            steps = (
                ("rebase", "vda", COPY_PATH, 0, COPY), ("wait", "settled", "vda"), ("speed", "vda", bandwidth, flags),
                ("info", "vda", 1), ("info", "vda", 0), ("abort", "vda", 0), ("wait", "gone", "vda"),
            )  # fmt: skip
            yield Case(f"speed-{bandwidth}-{flags}", PAUSED, steps)


def guarded() -> Iterator[Case]:
    """What a running copy forbids, and what it does not."""
    start = (("rebase", "vda", COPY_PATH, 0, COPY), ("wait", "settled", "vda"))
    end = (("abort", "vda", 0), ("wait", "gone", "vda"))
    own_disk = (
        "<disk type='file' device='disk'><source file='{dir}/{name}-1.qcow2'/><target dev='vda' bus='virtio'/></disk>"
    )
    snapshot = (
        "<domainsnapshot><disks><disk name='vda'><source file='{dir}/{name}-snap'/></disk></disks></domainsnapshot>"
    )
    steps: dict[str, Step] = {
        "second-copy": ("rebase", "vda", COPY_PATH + "2", 0, COPY),
        "second-same": ("rebase", "vda", COPY_PATH, 0, COPY),
        "pull": ("pull", "vda", 0, 0),
        "commit": ("commit", "vda", None, None, 0, COMMIT_ACTIVE),
        "copy": ("copy", "vda", copy_xml(source="file='{dir}/{name}-copy2'"), {}, 0),
        "snapshot": ("snapshot", snapshot, 16),
        "save": ("save", "{dir}/{name}-saved"),
        "save-flags": ("save_flags", "{dir}/{name}-saved", None, 0),
        "managed-save": ("managed_save", 0),
        "detach": ("detach", own_disk, 1),
        "resize": ("resize", "vda", 32 * 1024, 0),
        "resize-bytes": ("resize", "vda", 32 << 20, 1),
        "suspend": ("suspend",),
        "info-by-path": ("info", "{dir}/{name}-1.qcow2", 0),
        "revert": ("revert", "nope", 0),
    }
    for label, step in steps.items():
        yield Case(f"guarded-{label}", RUNNING, (*start, step, *end))
    yield Case("guarded-undefine", PAUSED, (*start, ("undefine", 0), *end))
    yield Case("destroyed-in-ready", PAUSED, (*start, ("destroy", 0), ("info", "vda", 0)))
    yield Case("resumed-in-ready", PAUSED, (*start, ("resume",), ("state", 0), ("suspend",), *end))


def read_only() -> Iterator[Case]:
    """Every changing call on a read-only connection."""
    steps: tuple[Step, ...] = (
        ("rebase@ro", "vda", COPY_PATH, 0, COPY),
        ("copy@ro", "vda", copy_xml(), {}, 0),
        ("pull@ro", "vda", 0, 0),
        ("commit@ro", "vda", None, None, 0, 0),
        ("abort@ro", "vda", 0),
        ("speed@ro", "vda", 1, 0),
        ("resize@ro", "vda", 1, 0),
        ("info@ro", "vda", 0),
        ("xml@ro", 0),
        ("xml@ro", 1),
        ("destroy@ro", 0),
        ("suspend@ro",),
        ("undefine@ro", 0),
        ("save@ro", "{dir}/x"),
        ("managed_save@ro", 0),
        ("snapshot@ro", "<domainsnapshot/>", 0),
        ("detach@ro", NO_SUCH_DISK, 1),
        ("rebase@ro", None, COPY_PATH, 0, COPY),
        ("copy@ro", "vda", None, {}, 0),
        ("define@ro", "<domain/>", 0),
    )
    for step in steps:
        yield Case(f"read-only-{step[0]}-{step[1:3]}", PAUSED, (step,))


def domains() -> Iterator[Case]:
    """The calls around the jobs."""
    for shape in (RUNNING, PAUSED, PERSISTENT, SHUT_OFF):
        for step in (
            ("state", 0), ("state", 1), ("is_active",), ("is_persistent",), ("xml", 0), ("xml", 2), ("xml", 1 << 31),
            ("block_info", "vda", 0), ("block_info", "vdb", 0), ("block_info", "hdc", 0), ("block_info", "", 0),
            ("stats", "vda"), ("stats", "vdb"), ("resize", "vda", 17 * 1024, 0), ("resize", "vdb", 1, 0),
            ("resize", "vda", LLONG_MAX, 0), ("resize", "vda", 0, 4), ("create", 0), ("undefine", 1 << 20),
            ("define", "<domain/>", 0), ("define", "", 0), ("detach", NO_SUCH_DISK, 1), ("snapshot", "nonsense", 0),
            ("revert", "nope", 0), ("suspend",), ("destroy", 8),
        ):  # fmt: skip
            yield Case(f"domain-{step[0]}-{step[1:]}-{shape}", shape, (step,))
    for size, flags in ((ULLONG_MAX, 0), (ULLONG_MAX, 4), (LLONG_MAX + 1, 1), (ULLONG_MAX, 1)):
        yield Case(f"resize-{size}-{flags}", PAUSED, (("resize", "vda", size, flags),))
    yield Case("save-with-empty-xml", PAUSED, (("save_flags", "{dir}/{name}-saved", "", 0), ("state", 0)))
    yield Case("create-autodestroy", SHUT_OFF, (("create", 2),))
    yield Case("revert-both-ways", PAUSED, (("revert", "nope", 3),))


CASES: tuple[Case, ...] = tuple(
    case
    for group in (
        rebase_flags, rebase_arguments, destinations, copies, pulls_and_commits, ends, guarded, read_only, domains,
    )
    for case in group()
)  # fmt: skip
