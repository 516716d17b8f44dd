# SPDX-License-Identifier: Apache-2.0
"""What a pull or commit must know to begin, and to be taken up again by another process.

Owns: the form of `BlockJob.details` of these jobs. Invariants: JSON values only; what is read back equals what was
written; the chain is complete and as it was when the job began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from virtblock.server.core.model import BlockJob, BlockJobType
from virtblock.server.drivers.offline.copy_spec import image_from_json, image_to_json
from virtblock.server.drivers.offline.disk_xml import ImageSource

MERGE_TYPES = frozenset({BlockJobType.PULL, BlockJobType.COMMIT, BlockJobType.ACTIVE_COMMIT})


@dataclass(frozen=True)
class MergeSpec:
    """One pull or commit, fully decided: the data of some images moves into another image of the chain.

    `images`: the whole chain from the top. A pull moves what lies between 0 and `base_index` (None: all below) into
    the top; a commit moves `top_index` and what lies between into `base_index`. `reference`: what the image above
    those that were moved then records for its backing file, None for that one's own name. `node_index` names the job.
    """

    type: BlockJobType
    images: tuple[ImageSource, ...]
    top_index: int
    base_index: int | None
    reference: str | None = None
    node_index: int = 0
    is_deleting: bool = False

    @property
    def layers(self) -> tuple[tuple[str, str], ...]:
        """As the engine takes them."""
        return tuple((image.path or "", image.format) for image in self.images)

    @property
    def is_idle(self) -> bool:
        """A pull of a disk with nothing below: there is nothing to do, and libvirt takes it."""
        return len(self.images) == 1

    @property
    def written(self) -> ImageSource:
        """The image that the data moves into."""
        return self.images[0 if self.type is BlockJobType.PULL else self._base]

    @property
    def holder_index(self) -> int | None:
        """The image whose backing reference changes; None for an active commit."""
        if self.type is BlockJobType.ACTIVE_COMMIT:
            return None
        return 0 if self.type is BlockJobType.PULL else self.top_index - 1

    @property
    def written_paths(self) -> list[str]:
        """The files that change: the data's new place, and the image whose reference does."""
        holder = [] if self.holder_index is None else [self.images[self.holder_index]]
        return [image.path or "" for image in (self.written, *holder)]

    @property
    def final_reference(self) -> str | None:
        """What that image records in the end; None: nothing, or there is no such image."""
        if self.base_index is None or self.holder_index is None:
            return None
        return self.reference or self.images[self.base_index].path

    @property
    def removed(self) -> range:
        """The positions that are no part of the chain afterwards."""
        if self.type is BlockJobType.PULL:
            return range(1, len(self.images) if self.base_index is None else self.base_index)
        return range(self.top_index, self._base)

    @property
    def _base(self) -> int:
        assert self.base_index is not None  # only a pull has none
        return self.base_index

    def to_details(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "images": [image_to_json(image) for image in self.images],
            "top_index": self.top_index,
            "base_index": self.base_index,
            "reference": self.reference,
            "node_index": self.node_index,
            "is_deleting": self.is_deleting,
        }


def merge_spec_of(job: BlockJob) -> MergeSpec:
    """What `to_details` once made of it."""
    details = job.details
    return MergeSpec(
        type=job.type,
        images=tuple(image_from_json(image) for image in details["images"]),
        top_index=details["top_index"],
        base_index=details["base_index"],
        reference=details["reference"],
        node_index=details["node_index"],
        is_deleting=details["is_deleting"],
    )
