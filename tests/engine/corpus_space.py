# SPDX-License-Identifier: Apache-2.0
"""What an image can be, and the ways of copying it: the corpus' axes, and what qemu or the engine refuses together.

Owns: the names of the values. The first value of each axis is what qemu-img does by itself.
"""

from __future__ import annotations

from engine.covering import Rule, Space

FLAT, RAW, SHALLOW, REUSE, REUSE_SHALLOW, REUSE_RAW = WAYS = (
    "flat", "raw", "shallow", "reuse", "reuse shallow", "reuse raw",
)  # fmt: skip
NEW_QCOW2 = (FLAT, SHALLOW)
REUSED_QCOW2 = (REUSE, REUSE_SHALLOW)
OFF, ON, NONE, INHERIT = "off", "on", "none", "inherit"
PREALLOCATIONS = (OFF, "metadata", "falloc", "full")
SMALL_CLUSTERS = ("512", "1024", "2048", "4096", "8192")  # too small for extended L2 entries
EMPTY_DISK = "0"

# Options of `qemu-img create`, by their own names.
OPTIONS = {
    "compat": ("1.1", "0.10"),
    "extended_l2": (OFF, ON),
    "cluster_size": ("65536", *(str(512 << shift) for shift in range(13) if shift != 7)),
    "preallocation": PREALLOCATIONS,
    "refcount_bits": ("16", "1", "2", "4", "8", "32", "64"),
    "lazy_refcounts": (OFF, ON),
    "compression_type": ("zlib", "zstd"),
    "data_file": (NONE, "named", "named, raw"),
    "nocow": (OFF, ON),
    "extent_size_hint": (NONE, "1M"),
}
# How a disk gets its content: written by a guest, or `qemu-img convert` with these arguments.
WRITTEN, NOTHING = "written", "nothing"
CONVERTED = {
    "convert": (),
    "convert -c": ("-c",),
    "convert -c -W": ("-c", "-W", "-m", "16"),
    "convert -S 0": ("-S", "0"),
    "convert -S 512": ("-S", "512"),
    "convert -S 1M": ("-S", "1M"),
    "convert -W": ("-W", "-m", "16"),
    "convert -C": ("-C",),
    "convert -n": ("-n",),
    "convert -n --target-is-zero": ("-n", "--target-is-zero"),
    "convert -l": ("-l", "snapshot.name=old"),
    "convert --bitmaps": ("--bitmaps",),
}
COMPRESSED = ("convert -c", "convert -c -W")
# What lies below the disk; the makers are in corpus_images.
BELOW = (
    NONE, "raw", "short raw", "v2 with snapshots", "longer, zstd", "extended", "data file", "dirty and corrupt",
    "3 deep", "64 deep",
)  # fmt: skip
STATES = ("clean", "snapshots", "bitmaps", "bitmap in use", "dirty", "corrupt", "dirty and corrupt")
# The image that is reused, full of something else: "same" has the source's own options.
REUSED = (
    "same", "v2 of 512", "2M", "extended", "refcount 1", "refcount 64", "lazy", "zlib", "zstd", "metadata", "full",
    "snapshots", "bitmaps",
)  # fmt: skip

AXES = {
    "way": WAYS,
    **OPTIONS,
    "size": (str(4 << 20), str((4 << 20) + 7 * 512), str((3 << 20) - 777), "512", EMPTY_DISK),
    "below": BELOW,
    "content": (WRITTEN, NOTHING, *CONVERTED),
    "state": STATES,
    "new cluster_size": (INHERIT, "512", "4096", "65536", "131072", "2097152"),
    "new extended_l2": (INHERIT, OFF, ON),
    "new compression": (NONE, "zlib", "zstd"),
    "new preallocation": PREALLOCATIONS,
    "reused": REUSED,
}

OF_QEMU = (
    *(
        Rule(("compat", axis), lambda compat, value, plain=plain: compat == "0.10" and value not in plain)
        for axis, plain in (
            ("extended_l2", (OFF,)),
            ("refcount_bits", ("16",)),
            ("lazy_refcounts", (OFF,)),
            ("compression_type", ("zlib",)),
            ("data_file", (NONE,)),
            ("state", ("clean", "snapshots")),
        )
    ),
    Rule(("extended_l2", "cluster_size"), lambda extended, size: extended == ON and size in SMALL_CLUSTERS),
    Rule(
        ("extended_l2", "preallocation", "below"),
        lambda extended, preallocation, below: extended == OFF and preallocation != OFF and below != NONE,
    ),
    Rule(("data_file", "below"), lambda data_file, below: data_file == "named, raw" and below != NONE),
    Rule(("data_file", "state"), lambda data_file, state: data_file != NONE and state == "snapshots"),
    Rule(("refcount_bits", "state"), lambda bits, state: bits == "1" and state == "snapshots"),
    # What shares a cluster with other compressed data counts several times, and once more for each snapshot.
    Rule(
        ("refcount_bits", "state", "content"),
        lambda bits, state, content: bits in ("2", "4", "8") and state == "snapshots" and content in COMPRESSED,
    ),
    Rule(("lazy_refcounts", "state"), lambda lazy, state: lazy == OFF and state.startswith("dirty")),
    # qemu loses the bitmaps of a disk of no length.
    Rule(("size", "state"), lambda size, state: size == EMPTY_DISK and "bitmap" in state),
    Rule(("size", "content"), lambda size, content: size == EMPTY_DISK and content == "convert --bitmaps"),
    Rule(("compat", "content"), lambda compat, content: compat == "0.10" and content == "convert --bitmaps"),
    Rule(("preallocation", "content"), lambda preallocation, content: preallocation != OFF and content in COMPRESSED),
    Rule(("data_file", "content"), lambda data_file, content: data_file != NONE and content in COMPRESSED),
)
OF_THE_ENGINE = (
    *(
        Rule(("way", axis), lambda way, value, ways=ways, plain=plain: way not in ways and value not in plain)
        for axis, ways, plain in (
            ("new cluster_size", NEW_QCOW2, (INHERIT,)),
            ("new extended_l2", NEW_QCOW2, (INHERIT,)),
            ("new compression", NEW_QCOW2, (NONE,)),
            ("new preallocation", (*NEW_QCOW2, RAW), (OFF,)),
            ("reused", REUSED_QCOW2, ("same",)),
        )
    ),
    Rule(("way", "new preallocation"), lambda way, preallocation: way == RAW and preallocation == "metadata"),
    Rule(("new cluster_size", "new extended_l2"), lambda size, extended: size in SMALL_CLUSTERS and extended == ON),
    Rule(("new extended_l2", "new compression"), lambda extended, method: extended == ON and method != NONE),
    Rule(("new compression", "new preallocation"), lambda method, prealloc: method != NONE and prealloc != OFF),
    # An image over a backing file is preallocated only with extended L2 entries, asked for or inherited.
    Rule(
        ("way", "below", "new preallocation", "new extended_l2"),
        lambda way, below, preallocation, extended: (
            way == SHALLOW and below != NONE and preallocation != OFF and extended != ON
        ),
    ),
)

SPACE = Space(AXES, (*OF_QEMU, *OF_THE_ENGINE))


def name_of(row: dict[str, str]) -> str:
    """What differs from the plain values, as a test's name."""
    return ", ".join(
        value if axis == "way" else f"{axis}={value}"
        for axis, value in row.items()
        if axis == "way" or value != AXES[axis][0]
    )
