# SPDX-License-Identifier: Apache-2.0
"""The words that the engine takes and gives, as types: what the compiled module cannot export itself."""

from __future__ import annotations

from typing import Literal

ImageFormat = Literal["raw", "qcow2"]
CopyMode = Literal["full", "top"]
Compression = Literal["none", "zlib", "zstd"]
ReflinkMode = Literal["auto", "never", "always"]
Preallocation = Literal["off", "metadata", "falloc", "full"]
ErrorKind = Literal[
    "system",
    "invalid",
    "format",
    "unsupported",
    "denied",
    "locked",
    "backing",
    "backing-format",
    "size",
    "space",
    "cancelled",
    "memory",
    "exists",
    "same-file",
    "internal",
    "no-bitmap",
    "bitmap",
    "changed",
]
BitmapState = Literal["usable", "in-use", "inconsistent", "wrong-size"]
CopyPhase = Literal["new", "planning", "copying", "flushing", "done", "failed"]
