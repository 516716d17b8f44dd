# SPDX-License-Identifier: Apache-2.0
"""An empty qcow2 image on a block device, for a copy that does not reuse what the device holds.

Owns: putting a format onto a device. Invariants: the device is locked and claimed while it is written, is none of the
source's images, and large enough for all that the copy will write; what is put there carries the mark of an
unfinished copy from its first byte on, so it opens as a good image only when the copy has completed it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from virtblock.engine import EngineError, ImageInfo, ImageWriter, PathPolicy, create_image, inspect
from virtblock.server.core.errors import ErrorNumber, report, system_error
from virtblock.server.drivers.embedded.engine_errors import vir_error

UNFINISHED_MAGIC = b"VBpf"  # the engine's mark, where a qcow2 image has its own
BLOCK_BYTES = 1024 * 1024
CLUSTER_BYTES = 65536


def format_device(
    path: str,
    source: tuple[ImageInfo, ...],
    base: tuple[str, str] | None,
    required_bytes: int,
    policy: PathPolicy,
) -> None:
    """Puts an empty qcow2 image of the source's size and cluster size onto the device, over `base` if there is one.

    `required_bytes`: what the copy will occupy. VirError: 1 for a device of the source's, 38 with ENOSPC for one too
    small.
    """
    try:
        _check_device(path, source, required_bytes, policy)
        with tempfile.TemporaryDirectory(prefix="virtblock-") as folder:
            image = Path(folder) / "empty.qcow2"
            _make_empty(image, source[0], base)
            _write_marked(image, path, policy)
    except EngineError as error:
        raise vir_error(error) from None


def _check_device(path: str, source: tuple[ImageInfo, ...], required_bytes: int, policy: PathPolicy) -> None:
    device_number = os.stat(path).st_rdev
    for layer in source:
        # Locks do not tell: one device may have many names, each with locks of its own.
        if layer.is_block_device and os.stat(layer.path).st_rdev == device_number:
            detail = f"the destination '{path}' is the source or one of its backing images: '{layer.path}'"
            raise report(ErrorNumber.INTERNAL_ERROR, detail)
    size_bytes = inspect(path, "raw", policy).file_size_bytes
    if required_bytes > size_bytes:
        detail = f"the copy needs {required_bytes} bytes, block device '{path}' has {size_bytes}"
        raise system_error(errno.ENOSPC, detail)


def _make_empty(image: Path, top: ImageInfo, base: tuple[str, str] | None) -> None:
    create_image(
        str(image),
        "qcow2",
        top.virtual_size_bytes,
        PathPolicy(),
        backing_path=base[0] if base else None,
        backing_format=("raw" if base[1] == "raw" else "qcow2") if base else None,
        cluster_size_bytes=top.cluster_size_bytes or CLUSTER_BYTES,
    )


def _write_marked(image: Path, path: str, policy: PathPolicy) -> None:
    """The empty image's bytes onto the device, in order, the first block with the mark instead of the magic."""
    with image.open("rb") as file, ImageWriter(path, "raw", policy) as writer:
        offset_bytes = 0
        while block := file.read(BLOCK_BYTES):
            if offset_bytes == 0:
                block = UNFINISHED_MAGIC + block[len(UNFINISHED_MAGIC) :]
            writer.write(offset_bytes, block)
            offset_bytes += len(block)
