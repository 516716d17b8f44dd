# SPDX-License-Identifier: Apache-2.0
"""The disks that conformance cases are run on.

Owns: `Guest`, a defined domain with one disk, and what a case needs to judge what became of it: a flattened copy made
by qemu-img before the job, and the bytes of every source file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conformance.routes import Refused, Route

KIB = 1024
MIB = 1024 * KIB

SHALLOW, REUSE_EXT, RAW, COPY, RELATIVE, COPY_DEV, BYTES = 1, 2, 4, 8, 16, 32, 64
ASYNC, PIVOT = 1, 2
INTERNAL_ERROR, INVALID_ARG, SYSTEM_ERROR, OPERATION_INVALID, CONFIG_UNSUPPORTED = 1, 8, 38, 55, 67
ARGUMENT_UNSUPPORTED, OVERFLOW, BLOCK_COPY_ACTIVE, ACCESS_DENIED = 74, 82, 83, 88

# A job that must not end, nor become READY, before the test lets it: its first chunk alone takes hours.
STANDING_STILL_BYTES_PER_S = 1


class Guest:
    """A defined domain `guest` with one disk `vda`, and all that a row needs to judge what became of it."""

    def __init__(self, route: Route, qemu_img: Any, folder: Path, files: tuple[Path, ...], image_format: str) -> None:
        self.route = route
        self.qemu_img = qemu_img
        self.folder = folder
        self.files = files
        self.top = files[-1]
        self.format = image_format
        self.size_bytes = int(qemu_img.info(self.top, image_format=image_format)["virtual-size"])
        self.golden = folder / "golden.raw"
        qemu_img("convert", "-f", image_format, "-O", "raw", self.top, self.golden)
        self.content = {path: path.read_bytes() for path in files}
        self.destination = folder / "copy.img"

    @property
    def has_backing(self) -> bool:
        return len(self.files) > 1

    def copy(self, flags: int, bandwidth: int = 0) -> str:
        return self.route.rebase("guest", "vda", str(self.destination), bandwidth, flags)

    def copy_and_pivot(self, flags: int) -> None:
        job = self.copy(flags)
        self.route.wait_ready(job)
        self.route.abort("guest", "vda", PIVOT)
        assert self.route.job(job)[0] == "completed"

    def disk_source(self) -> tuple[str, str]:
        """(path, format) of vda in the definition."""
        disk = ElementTree.fromstring(self.route.xml("guest", 2)).find("./devices/disk[target]")
        assert disk is not None
        source, driver = disk.find("source"), disk.find("driver")
        assert source is not None and driver is not None
        return source.get("file") or source.get("dev") or "", driver.get("type") or ""

    def assert_source_untouched(self) -> None:
        for path, content in self.content.items():
            assert path.read_bytes() == content, f"{path} was changed"

    def assert_result(self, image_format: str, *, backing: str | None = None, check: bool = True) -> None:
        """The disk is now the destination, in this format, and reads as the source did."""
        assert self.disk_source() == (str(self.destination), image_format)
        assert self.qemu_img.is_same(self.golden, "raw", self.destination, image_format)
        info = self.qemu_img.info(self.destination, image_format=image_format)
        assert info["virtual-size"] == self.size_bytes
        assert info.get("backing-filename") == backing
        if backing is not None:
            assert info["backing-filename-format"] == self.format
        if check and image_format == "qcow2":
            self.qemu_img.check(self.destination)
        self.assert_source_untouched()

    def assert_refused(self, number: int, call: Callable[[], object], text: str = "") -> Refused:
        """The call is refused with this number, and nothing came of it."""
        with pytest.raises(Refused) as refusal:
            call()
        assert refusal.value.number == number, refusal.value
        assert text in refusal.value.message
        assert self.route.info("guest", "vda") is None
        assert self.disk_source() == (str(self.top), self.format)
        self.assert_source_untouched()
        return refusal.value
