# SPDX-License-Identifier: Apache-2.0
"""The copy engine: images, dirty bitmaps and copying, without gRPC, libvirt or domains.

Owns the Python face of the C core in `core/`. Importing it loads no gRPC and starts no thread.
"""

from __future__ import annotations

from virtblock.engine._core import (
    CELL_COPYING,
    CELL_DIRTY_AGAIN,
    CELL_DONE,
    CELL_FAILED,
    CELL_TODO,
    CELL_ZERO,
    Bitmap,
    BitmapInfo,
    CancelFlag,
    Chain,
    Copy,
    CopyProgress,
    EngineError,
    ImageInfo,
    ImageWriter,
    Merge,
    PathPolicy,
    compare,
    create_image,
    digest,
    inspect,
    list_bitmaps,
    probe,
    resize_image,
)
from virtblock.engine.kinds import (
    BitmapState,
    Compression,
    CopyMode,
    CopyPhase,
    ErrorKind,
    ImageFormat,
    Preallocation,
    ReflinkMode,
)

__all__ = [
    "CELL_COPYING",
    "CELL_DIRTY_AGAIN",
    "CELL_DONE",
    "CELL_FAILED",
    "CELL_TODO",
    "CELL_ZERO",
    "Bitmap",
    "BitmapInfo",
    "BitmapState",
    "CancelFlag",
    "Chain",
    "Compression",
    "Copy",
    "CopyMode",
    "CopyPhase",
    "CopyProgress",
    "EngineError",
    "ErrorKind",
    "ImageFormat",
    "ImageInfo",
    "ImageWriter",
    "Merge",
    "PathPolicy",
    "Preallocation",
    "ReflinkMode",
    "compare",
    "create_image",
    "digest",
    "inspect",
    "list_bitmaps",
    "probe",
    "resize_image",
]
