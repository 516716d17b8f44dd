# SPDX-License-Identifier: Apache-2.0
"""Makes the inputs that the fuzz targets start from, with the real qemu-img: seeds.py FOLDER.

Owns FOLDER/<target>/*. Images have small clusters, so that a mutation has a chance to hit a table. What precedes the
image or the stream in an input is said at the head of each target.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from random import Random

INPLACE_CONTROLS = (
    bytes.fromhex("0200068514017d00"),  # write, zero near the end, write; as a destination
    bytes.fromhex("02000100050a1e01"),  # zero, zero, write; as a tool's image
)
CLUSTER_BITS_OF_CONTROL = 9
COMPRESSED_FLAG = 1 << 62
OFFSET_MASK = 0x00FFFFFFFFFFFE00


def run(*arguments: str | Path) -> None:
    subprocess.run([str(argument) for argument in arguments], check=True, stdout=subprocess.DEVNULL)


def make_content(path: Path, size_bytes: int) -> None:
    """Text that compresses, bytes that do not, and zeros, in turn."""
    noise = bytes(value * value * 31 % 251 for value in range(512))
    block = b"virtual disk " * 80 + noise * 2 + bytes(2048)
    path.write_bytes((block * (size_bytes // len(block) + 1))[:size_bytes])


def make_images(scratch: Path) -> list[Path]:
    content = scratch / "content.raw"
    base = scratch / "base.qcow2"
    make_content(content, 24 * 1024)
    run("qemu-img", "convert", "-O", "qcow2", "-o", "cluster_size=512", content, base)
    images = [base]
    conversions = {
        "version2": ["-o", "compat=0.10,cluster_size=1k"],
        "clusters4k": ["-o", "cluster_size=4k"],
        "refcount1": ["-o", "cluster_size=512,refcount_bits=1"],
        "refcount64": ["-o", "cluster_size=512,refcount_bits=64,lazy_refcounts=on"],
        "deflate": ["-c", "-o", "cluster_size=512"],
        "deflate4k": ["-c", "-o", "cluster_size=4k"],
        "zstd": ["-c", "-o", "cluster_size=512,compression_type=zstd"],
        "zstd2k": ["-c", "-o", "cluster_size=2k,compression_type=zstd"],
    }
    for name, options in conversions.items():
        images.append(scratch / f"{name}.qcow2")
        run("qemu-img", "convert", "-O", "qcow2", *options, content, images[-1])
    creations = {"empty": "cluster_size=512", "metadata": "cluster_size=512,preallocation=metadata"}
    for name, creation in creations.items():
        images.append(scratch / f"{name}.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", creation, images[-1], "20000")
    images.append(scratch / "large.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", images[-1], "8G")
    images.append(scratch / "extended.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=16k,extended_l2=on", images[-1], "80k")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 1k 2k", "-c", "write -z 4k 1k", images[-1])
    for version in ("0.10", "1.1"):
        images.append(scratch / f"overlay{version}.qcow2")
        creation = f"cluster_size=512,compat={version}"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", creation, "-b", base.name, "-F", "qcow2", images[-1])
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 512 3k", "-c", "write -z 8k 2k", images[-1])
    for name in ("snapshot", "bitmap"):
        images.append(scratch / f"{name}.qcow2")
        shutil.copy(base, images[-1])
    run("qemu-img", "snapshot", "-c", "before", images[-2])
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 1k 2k", images[-2])
    run("qemu-img", "bitmap", "--add", "-g", "512", images[-1], "changes")
    images.append(scratch / "recorded.qcow2")
    shutil.copy(images[-2], images[-1])
    run("qemu-img", "bitmap", "--add", "--disable", "-g", "64k", images[-1], "off")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 3 1k 2k", images[-1])
    return images


def compressed_streams(image: bytes) -> list[tuple[int, int, bytes]]:
    """(cluster bits, compression type, stream) of every compressed cluster that the first L2 table names."""
    (cluster_bits,) = struct.unpack_from(">I", image, 20)
    (l1_offset,) = struct.unpack_from(">Q", image, 40)
    is_version3 = struct.unpack_from(">I", image, 4)[0] == 3
    (l1_entry,) = struct.unpack_from(">Q", image, l1_offset)
    shift = 62 - (cluster_bits - 8)
    streams: list[tuple[int, int, bytes]] = []
    if l1_entry == 0:
        return streams
    for (entry,) in struct.iter_unpack(">Q", image[l1_entry & OFFSET_MASK :][: 1 << cluster_bits]):
        if entry & COMPRESSED_FLAG:
            offset = entry & ((1 << shift) - 1)
            end = (offset // 512 + ((entry & (COMPRESSED_FLAG - 1)) >> shift) + 1) * 512
            streams.append((cluster_bits, image[104] if is_version3 else 0, image[offset:end]))
    return streams


def write_seeds(folder: Path, inputs: list[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, content in enumerate(inputs):
        (folder / f"seed-{index:03}").write_bytes(content)


def compressed_inputs(images: list[bytes]) -> list[bytes]:
    inputs = []
    for image in images:
        for cluster_bits, compression, stream in compressed_streams(image)[:3]:
            inputs.append(bytes([(cluster_bits - CLUSTER_BITS_OF_CONTROL) << 1 | compression, 37]) + stream)
    if {content[0] & 1 for content in inputs} != {0, 1}:
        raise SystemExit("seeds.py: qemu-img compressed no cluster by deflate or none by zstd")
    return inputs


def content_inputs() -> list[bytes]:
    """For the encoder: text, numbers, one byte over and over, and records that differ in a little."""
    text = b"".join(b"line %d of a file\n" % (number * number % 97) for number in range(200))
    records = b"".join(struct.pack("<IHHQ", number, 7, number % 5, 1 << number % 40) for number in range(300))
    return [bytes([level, room, level % 3]) + content for level in (0, 5, 8) for room in (0, 3)
            for content in (b"", text, records, bytes([9]) * 5000, bytes(range(256)) * 20)]  # fmt: skip


def damaged_image(cluster_bits: int, l1_offset: int, refcount_table_offset: int, refcount_order: int = 4) -> bytearray:
    """A version 3 header with one L1 entry and one cluster of refcount table."""
    image = bytearray(112)
    sizes = (cluster_bits, 24576, 0, 1, l1_offset, refcount_table_offset, 1)
    struct.pack_into(">IIQIIQIIQQI", image, 0, 0x514649FB, 3, 0, 0, *sizes)
    struct.pack_into(">II", image, 96, refcount_order, 112)
    return image


def put(image: bytearray, offset: int, content: bytes) -> None:
    image.extend(bytes(max(0, offset + len(content) - len(image))))
    image[offset : offset + len(content)] = content


def damaged_inplace_inputs() -> list[bytes]:
    """Images that once made the writer lose data, destroy the header, or take memory without end."""
    uncounted = damaged_image(9, 0x600, 0x200)  # an L2 entry names a cluster that has no refcount
    for offset, content in ((0x200, "0400"), (0x600, "8000000000000800"), (0x848, "0a00")):
        put(uncounted, offset, int(content, 16).to_bytes(8, "big"))
    put(uncounted, 0x400, struct.pack(">5H", *[1] * 5))
    put(uncounted, 0x9FF, bytes(1))
    no_table = damaged_image(9, 0x600, 0x200)  # an L1 entry of COPIED alone
    put(no_table, 0x200, struct.pack(">Q", 0x400))
    put(no_table, 0x400, struct.pack(">4H", *[1] * 4))
    put(no_table, 0x600, struct.pack(">Q", 1 << 63))
    endless = damaged_image(16, 3 << 16, 1 << 16, refcount_order=0)  # counts a cluster far behind the file's end
    put(endless, (1 << 16) + 8191 * 8, struct.pack(">Q", 2 << 16))
    put(endless, (2 << 16) + 65535, b"\x80")
    put(endless, 3 << 16, bytes(8))
    return [
        bytes.fromhex("0100060801000000") + uncounted,
        bytes.fromhex("0000060000000000") + no_table,
        bytes(8) + endless,
    ]


# A compressed cluster that begins where the file ends.
STREAM_AT_THE_END = bytes.fromhex("0e25")


def journal_inputs() -> list[bytes]:
    """Flags, counts and no patches; then both slots: a sum, and words as runs of zeros, of ones, and of others."""
    runs = {
        (4, 0): bytes([4 * 4]),
        (4, 3): bytes([2 * 4 + 1, 2 * 4 + 2]) + bytes(range(16)) + bytes([3 * 4]),
        (300, 1): bytes([0xB0, 0x09, 4 + 2]) + bytes(8),
        (0, 0): b"",
    }
    inputs = []
    for flags in (0, 1, 2, 4):
        for (todo_count, written_count), packed in runs.items():
            payload = bytes(range(16)) + packed
            slot = struct.pack("<H", len(payload)) + payload
            inputs.append(struct.pack("<BHHH", flags, todo_count, written_count, 0) + slot + slot)
    return inputs


def stream_inputs() -> list[bytes]:
    """The length that a stream decodes to, and the stream: every kind of block, long enough for the quick way."""
    random = Random(3)
    contents = [
        b"",
        bytes(8000),
        random.randbytes(3000),
        bytes(random.choices(b"etaoin shrdlu", k=6000)),
        b"".join(b"%x " % random.getrandbits(random.choice((8, 8, 40))) for _ in range(2500)),
        b"".join(bytes([random.randrange(9)]) * random.randrange(1, 90) for _ in range(200)),
    ]
    inputs = []
    for content in contents:
        for level, strategy in ((0, 0), (6, 0), (6, zlib.Z_FIXED), (6, zlib.Z_HUFFMAN_ONLY)):
            packer = zlib.compressobj(level, zlib.DEFLATED, -12, 9, strategy)
            inputs.append(struct.pack(">H", len(content)) + packer.compress(content) + packer.flush())
    return inputs


def bitmap_inputs() -> list[bytes]:
    inputs = []
    for granules in (0, 1, 8, 63, 64, 65, 1000, 5000):
        bits = bytearray(0xA5 >> index % 3 for index in range((granules + 7) // 8))
        if granules % 8:
            bits[-1] &= (1 << granules % 8) - 1
        inputs.append(bytes([granules % 5, granules % 7]) + struct.pack("<H", granules) + bytes(bits))
    return inputs


def main() -> None:
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        images = [path.read_bytes() for path in make_images(Path(scratch))]
    write_seeds(folder / "fuzz_header", images)
    write_seeds(folder / "fuzz_map", images)
    seeds = [control + image for image in images for control in INPLACE_CONTROLS]
    write_seeds(folder / "fuzz_inplace", [*seeds, *damaged_inplace_inputs()])
    seeds = [bytes([courses, 0, 0, 0, 0, 0, 0, 0]) + image for image in images for courses in (0x24, 0x06, 0x19)]
    write_seeds(folder / "fuzz_qcow2_bitmaps", seeds)
    seeds = [bytes.fromhex(steps) + image for image in images for steps in ("00040a0220230b00", "00251c82a0441d03")]
    write_seeds(folder / "fuzz_refcounts", seeds)
    write_seeds(folder / "fuzz_compressed", [*compressed_inputs(images), STREAM_AT_THE_END])
    write_seeds(folder / "fuzz_bitmap", bitmap_inputs())
    write_seeds(folder / "fuzz_deflate", content_inputs())
    write_seeds(folder / "fuzz_inflate", stream_inputs())
    write_seeds(folder / "fuzz_journal", journal_inputs())


if __name__ == "__main__":
    main()
