# SPDX-License-Identifier: Apache-2.0
"""The commands on persistent bitmaps, which virsh has not: `bitmap-list`, `-add`, `-remove` and `-clear`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtblock.cli.grammar import Invocation
from virtblock.cli.records import plain
from virtblock.cli.sizes import scaled_option, size_text
from virtblock.client.enums import BlockBitmapState

if TYPE_CHECKING:
    from virtblock.cli.session import Session
    from virtblock.client.model import BlockBitmap

_STATE_TEXTS = {
    BlockBitmapState.USABLE: "usable",
    BlockBitmapState.IN_USE: "in use",
    BlockBitmapState.INCONSISTENT: "inconsistent",
    BlockBitmapState.WRONG_SIZE: "wrong size",
}
_GRANULARITY_BYTES_MAX = 1 << 62  # what a granularity may be is the server's to say; this is what the wire carries


def run_bitmap_list(session: Session, invocation: Invocation) -> None:
    """Print the bitmaps of a disk: as a table, or their names."""
    domain, path = session.domain(invocation), invocation.required("path")
    with session.explain(f"Failed to list bitmaps of disk '{path}'"):
        bitmaps = session.client.list_block_bitmaps(domain, path)
    data = {"domain": domain.name, "disk": path, "bitmaps": [plain(bitmap) for bitmap in bitmaps]}
    if invocation.has("name"):
        session.output.result(data, "".join(f"{bitmap.name}\n" for bitmap in bitmaps))
        return
    rows = [_row(bitmap) for bitmap in bitmaps]
    session.output.table(data, ("Name", "Granularity", "Records", "State", "Dirty"), rows)


def _row(bitmap: BlockBitmap) -> list[str]:
    return [
        bitmap.name,
        size_text(bitmap.granularity_bytes),
        "yes" if bitmap.enabled else "no",
        _STATE_TEXTS.get(bitmap.state, "-"),
        "-" if bitmap.dirty_bytes < 0 else size_text(bitmap.dirty_bytes),
    ]


def run_bitmap_add(session: Session, invocation: Invocation) -> None:
    """Give a disk's image a new bitmap."""
    path, name = invocation.required("path"), invocation.required("bitmap")
    granularity_bytes = 0
    if invocation.has("granularity"):
        granularity_bytes = scaled_option(invocation, "granularity", 1, _GRANULARITY_BYTES_MAX)
    domain = session.domain(invocation)
    with session.explain(f"Failed to add bitmap '{name}' to disk '{path}'"):
        bitmap = session.client.add_block_bitmap(
            domain, path, name, granularity_bytes=granularity_bytes, disabled=invocation.has("disabled")
        )
    data = {"domain": domain.name, "disk": path, "bitmap": plain(bitmap)}
    session.output.result(data, extra=f"Bitmap '{name}' added to disk '{path}'\n")


def run_bitmap_remove(session: Session, invocation: Invocation) -> None:
    """Take a bitmap from a disk's image."""
    path, name = invocation.required("path"), invocation.required("bitmap")
    domain = session.domain(invocation)
    with session.explain(f"Failed to remove bitmap '{name}' from disk '{path}'"):
        session.client.remove_block_bitmap(domain, path, name)
    data = {"domain": domain.name, "disk": path, "bitmap": name}
    session.output.result(data, extra=f"Bitmap '{name}' removed from disk '{path}'\n")


def run_bitmap_clear(session: Session, invocation: Invocation) -> None:
    """Let a bitmap mark nothing."""
    path, name = invocation.required("path"), invocation.required("bitmap")
    domain = session.domain(invocation)
    with session.explain(f"Failed to clear bitmap '{name}' of disk '{path}'"):
        session.client.clear_block_bitmap(domain, path, name)
    data = {"domain": domain.name, "disk": path, "bitmap": name}
    session.output.result(data, extra=f"Bitmap '{name}' of disk '{path}' cleared\n")
