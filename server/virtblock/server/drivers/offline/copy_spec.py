# SPDX-License-Identifier: Apache-2.0
"""What a copy job must know to begin, and to be taken up again by another process.

Owns: the form of `BlockJob.details`. Invariants: JSON values only; what is read back equals what was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from virtblock.server.core.model import BlockJob
from virtblock.server.drivers.offline.destination_options import NO_OPTIONS, DestinationOptions
from virtblock.server.drivers.offline.disk_xml import ImageSource

CopyMode = Literal["full", "top"]

PARTIAL_SUFFIX = ".virtblock-partial"


@dataclass(frozen=True)
class CopySpec:
    """One copy, fully decided.

    `layers`: (path, format) from the top, as far as the definition names them. `overlay_base`: what a new overlay
    records. `shown_backing`: the images below the destination in `<mirror>`, None when they are not shown.
    `given_backing`: those that the caller's XML named. `data_files`: (image, data file), of images on either side.
    `bitmap`: only what this bitmap of the source marks is copied. `is_pivoting`: by itself, when it is READY.
    """

    layers: tuple[tuple[str, str], ...]
    is_terminated: bool
    destination: ImageSource
    mode: CopyMode
    is_reused: bool
    overlay_base: tuple[str, str] | None = None
    shown_backing: tuple[ImageSource, ...] | None = ()
    given_backing: tuple[ImageSource, ...] = ()
    granule_bytes: int = 0
    options: DestinationOptions = NO_OPTIONS
    data_files: tuple[tuple[str, str], ...] = ()
    bitmap: str | None = None
    is_pivoting: bool = False

    @property
    def destination_path(self) -> str:
        """The destination's path as the caller gave it."""
        assert self.destination.path is not None  # it was made absolute and local by the checks
        return self.destination.path

    @property
    def reuses_chain(self) -> bool:
        """Whether the destination is the caller's own overlay, with a chain of its own."""
        return self.mode == "top" and self.is_reused

    def to_details(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "layers": [list(layer) for layer in self.layers],
            "is_terminated": self.is_terminated,
            "destination": image_to_json(self.destination),
            "mode": self.mode,
            "is_reused": self.is_reused,
            "overlay_base": list(self.overlay_base) if self.overlay_base else None,
            "shown_backing": None if self.shown_backing is None else [image_to_json(i) for i in self.shown_backing],
            "given_backing": [image_to_json(image) for image in self.given_backing],
            "granule_bytes": self.granule_bytes,
            "options": self.options.to_json(),
            "data_files": [list(pair) for pair in self.data_files],
            "bitmap": self.bitmap,
            "is_pivoting": self.is_pivoting,
        }


def spec_of(job: BlockJob) -> CopySpec:
    """What `to_details` once made of it."""
    details = job.details
    mode: CopyMode = "top" if details["mode"] == "top" else "full"
    base, shown = details["overlay_base"], details["shown_backing"]
    return CopySpec(
        layers=tuple((path, image_format) for path, image_format in details["layers"]),
        is_terminated=details["is_terminated"],
        destination=image_from_json(details["destination"]),
        mode=mode,
        is_reused=details["is_reused"],
        overlay_base=(base[0], base[1]) if base else None,
        shown_backing=None if shown is None else tuple(image_from_json(image) for image in shown),
        given_backing=tuple(image_from_json(image) for image in details["given_backing"]),
        granule_bytes=details["granule_bytes"],
        options=DestinationOptions(**details.get("options", {})),
        data_files=tuple((image, data_file) for image, data_file in details.get("data_files", ())),
        bitmap=details.get("bitmap"),
        is_pivoting=details.get("is_pivoting", False),
    )


def image_to_json(image: ImageSource) -> list[str | None]:
    """An image as JSON values."""
    return [image.type, image.path, image.format, image.data_file]


def image_from_json(value: list[Any]) -> ImageSource:
    """What `image_to_json` once made of it."""
    return ImageSource(*value)
