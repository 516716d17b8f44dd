# SPDX-License-Identifier: Apache-2.0
"""`bitmap-list` and its kin, and `blockcopy --bitmap`, over the fake client."""

from __future__ import annotations

import json

import pytest
from cli.command_line import Ran, Virtblock
from cli.fake_client import T1, FakeClient, job_record, vir_error

from virtblock.client import BlockBitmap, BlockBitmapState, BlockJobState, ErrorNumber

KIB = 1024
NIGHTLY = BlockBitmap("nightly", 64 * KIB, True, BlockBitmapState.USABLE, 192 * KIB)
BROKEN = BlockBitmap("old", 4 * KIB, False, BlockBitmapState.INCONSISTENT, -1)


def test_list(client: FakeClient, virtblock: Virtblock) -> None:
    client.answers["list_block_bitmaps"] = (NIGHTLY, BROKEN)
    ran = virtblock("bitmap-list", "t1", "vda")
    assert ran == Ran(
        0,
        " Name      Granularity   Records   State          Dirty\n"
        "---------------------------------------------------------------\n"
        " nightly   64.000 KiB    yes       usable         192.000 KiB\n"
        " old       4.000 KiB     no        inconsistent   -\n\n",
        "",
    )
    assert client.called("list_block_bitmaps") == [{"domain": T1, "disk": "vda"}]
    assert virtblock("-q", "bitmap-list", "t1", "vda", "--name").out == "nightly\nold\n"


def test_list_for_programs(client: FakeClient, virtblock: Virtblock) -> None:
    client.answers["list_block_bitmaps"] = (NIGHTLY,)
    said = json.loads(virtblock("--json", "bitmap-list", "t1", "vda").out)
    bitmap = {
        "name": "nightly",
        "granularity_bytes": 65536,
        "enabled": True,
        "state": "USABLE",
        "dirty_bytes": 196608,
    }
    assert said == {"domain": "t1", "disk": "vda", "bitmaps": [bitmap]}


@pytest.mark.parametrize(("words", "size"), [("", 0), ("--granularity 512", 512), ("--granularity 1M", 1 << 20)])
def test_add(client: FakeClient, virtblock: Virtblock, words: str, size: int) -> None:
    client.answers["add_block_bitmap"] = NIGHTLY
    ran = virtblock(f"bitmap-add t1 vda nightly {words} --disabled")
    assert ran == Ran(0, "Bitmap 'nightly' added to disk 'vda'\n\n", "")
    (call,) = client.called("add_block_bitmap")
    assert (call["disk"], call["name"], call["granularity_bytes"], call["disabled"]) == ("vda", "nightly", size, True)


def test_remove_and_clear(client: FakeClient, virtblock: Virtblock) -> None:
    client.answers |= {"remove_block_bitmap": None, "clear_block_bitmap": None}
    assert virtblock("bitmap-remove", "t1", "vda", "b") == Ran(0, "Bitmap 'b' removed from disk 'vda'\n\n", "")
    assert virtblock("bitmap-clear", "t1", "vda", "b") == Ran(0, "Bitmap 'b' of disk 'vda' cleared\n\n", "")
    assert (
        virtblock("--json", "bitmap-clear", "t1", "vda", "b").out == '{"domain": "t1", "disk": "vda", "bitmap": "b"}\n'
    )


def test_what_the_server_refuses(client: FakeClient, virtblock: Virtblock) -> None:
    message = "Domain checkpoint not found: The image has no bitmap 'c'; it has 'b': '/d/disk.qcow2'"
    client.answers["clear_block_bitmap"] = vir_error(ErrorNumber.NO_DOMAIN_CHECKPOINT, message)
    ran = virtblock("bitmap-clear", "t1", "vda", "c")
    assert ran.exit_code == 1
    assert ran.err == f"error: Failed to clear bitmap 'c' of disk 'vda'\nerror: {message}\n"
    assert virtblock("bitmap-add", "t1", "vda").err.startswith("error: command 'bitmap-add' requires <bitmap> option")
    assert "malformed or out of range" in virtblock("bitmap-add", "t1", "vda", "b", "--granularity", "many").err


def test_blockcopy(client: FakeClient, virtblock: Virtblock) -> None:
    client.answers["block_copy"] = job_record(BlockJobState.RUNNING)
    ran = virtblock("blockcopy t1 vda /img/copy --bitmap b")
    assert ran == Ran(1, "\n", "error: --bitmap updates an earlier copy and needs --reuse-external\n")
    assert virtblock("blockcopy t1 vda /img/copy --reuse-external --bitmap b").exit_code == 0
    (call,) = client.called("block_copy")
    assert call["params"] == {"virtblock.bitmap": "b"}
    assert call["flags"] == 2
