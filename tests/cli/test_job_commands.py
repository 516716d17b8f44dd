# SPDX-License-Identifier: Apache-2.0
"""`jobs`, `attach`, `map` and `top` over a fake client, and the forms of a map on any map."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from cli.command_line import Ran, Virtblock
from cli.fake_client import MIB, T1, FakeClient, FakeStream, job_record, vir_error
from hypothesis import given
from hypothesis import strategies as st

from virtblock.cli.block_map_drawing import ddrescue_text, map_lines, svg_text
from virtblock.cli.job_commands import _narrowed
from virtblock.client import (
    BlockJob,
    BlockJobEvent,
    BlockJobPage,
    BlockJobState,
    BlockMap,
    BlockMapCellState,
    BlockMapRun,
    ErrorNumber,
    ErrorRecord,
)

RUNNING = job_record(
    BlockJobState.RUNNING,
    cur=25 * MIB,
    total_bytes=100 * MIB,
    copied_bytes=25 * MIB,
    zero_bytes=900 * MIB,
    remaining_bytes=80 * MIB,
    rate_bytes_per_s=10 * MIB,
    eta_s=8,
)
READY = job_record(BlockJobState.READY, cur=100 * MIB)
NO_SPACE = ErrorRecord(ErrorNumber.SYSTEM_ERROR, "cannot write: No space left")
FAILED = dataclasses.replace(job_record(BlockJobState.FAILED), job_id="job-2", error=NO_SPACE)
CELL = BlockMapCellState
PICTURE = BlockMap(
    "job-1",
    6 * MIB - 512,
    MIB,
    (
        BlockMapRun(CELL.DONE, 1),
        BlockMapRun(CELL.ZERO, 1),
        BlockMapRun(CELL.COPYING, 1),
        BlockMapRun(CELL.TODO, 1),
        BlockMapRun(CELL.FAILED, 1),
        BlockMapRun(CELL.DIRTY_AGAIN, 1),
    ),
    BlockJobState.RUNNING,
)


def state_event(job: BlockJob) -> BlockJobEvent:
    return BlockJobEvent(1, "", None, job=job)


@pytest.fixture
def jobs(client: FakeClient) -> FakeClient:
    """Two pages of jobs, of which the second has one that ended."""

    def page(include_ended: bool, page_token: str, **_: Any) -> BlockJobPage:
        if not page_token:
            return BlockJobPage((RUNNING,), "2" if include_ended else "")
        return BlockJobPage((FAILED,), "")

    client.answers |= {"list_block_jobs": page, "get_block_job": RUNNING}
    return client


def test_jobs_that_go_on(virtblock: Virtblock, jobs: FakeClient) -> None:
    ran = virtblock("jobs")
    lines = ran.out.splitlines()
    assert (ran.exit_code, len(lines)) == (0, 4)
    assert lines[0].split() == ["Job", "Domain", "Disk", "Type", "State", "Done", "Destination", "Reason"]
    assert lines[2].split() == ["job-1", "t1", "vda", "Block", "Copy", "running", "25", "%", "/img/copy", "-"]


def test_jobs_that_have_ended_with_their_reasons(virtblock: Virtblock, jobs: FakeClient) -> None:
    last = virtblock("jobs", "--all").out.splitlines()[-2]
    assert last.split()[:3] == ["job-2", "t1", "vda"]
    assert last.endswith("cannot write: No space left")
    assert virtblock("-q", "jobs", "--all", "--id").out == "job-1\njob-2\n"
    [said] = map(json.loads, virtblock("jobs", "--all", "--json").out.splitlines())
    assert [job["state"] for job in said] == ["RUNNING", "FAILED"]
    assert virtblock("jobs", "--domain", "t1").exit_code == 0
    assert jobs.called("list_block_jobs")[-1]["filter"].domain_uuid == T1.uuid


@pytest.mark.parametrize(
    ("end", "exit_code", "text"),
    [
        (READY, 0, "Job job-1 is ready\n\n"),
        (job_record(BlockJobState.COMPLETED), 0, "Job job-1 is completed\n\n"),
        (job_record(BlockJobState.CANCELED), 1, "Job job-1 is canceled\n\n"),
    ],
)
def test_attach_ends_with_the_job(
    virtblock: Virtblock, jobs: FakeClient, end: BlockJob, exit_code: int, text: str
) -> None:
    jobs.answers["watch_block_jobs"] = FakeStream(state_event(end))
    ran = virtblock("attach", "job-1")
    assert (ran.exit_code, ran.out) == (exit_code, text)
    assert ran.err.startswith("\rBlock Copy: [ 25 %]")
    jobs.answers["watch_block_jobs"] = FakeStream(state_event(end))
    assert json.loads(virtblock("attach", "job-1", "--json").out)["result"] == end.state.name.lower()


def test_attach_tells_why_a_job_failed(virtblock: Virtblock, jobs: FakeClient) -> None:
    jobs.answers["get_block_job"] = FAILED
    jobs.answers["watch_block_jobs"] = FakeStream()
    ran = virtblock("attach", "job-2")
    assert (ran.exit_code, ran.out) == (1, "Job job-2 is failed: cannot write: No space left\n\n")
    assert ran.err.endswith("error: cannot write: No space left\n")


class Interrupting(FakeStream):
    """Ctrl-C as soon as somebody listens."""

    def __iter__(self) -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGINT)
        return super().__iter__()


def test_ctrl_c_leaves_the_job_alone(virtblock: Virtblock, jobs: FakeClient) -> None:
    jobs.answers["watch_block_jobs"] = Interrupting()
    ran = virtblock("attach", "job-1")
    assert (ran.exit_code, ran.out) == (1, "Left job job-1, which goes on\n\n")
    assert {name for name, _ in jobs.calls} <= {"get_uri", "get_block_job", "watch_block_jobs"}


def test_a_job_that_there_is_not(virtblock: Virtblock, client: FakeClient) -> None:
    client.answers["get_block_job"] = vir_error(ErrorNumber.INVALID_ARG, "no block job 'x'")
    for command in ("attach", "map"):
        assert virtblock(command, "x") == Ran(1, "\n", "error: failed to get job 'x'\nerror: no block job 'x'\n")


def test_a_map_is_drawn_once_where_there_is_no_terminal(virtblock: Virtblock, jobs: FakeClient) -> None:
    jobs.answers["watch_block_map"] = FakeStream(PICTURE)
    lines = virtblock("map", "job-1").out.splitlines()
    assert lines[0] == "job-1  t1 vda  running"
    assert lines[1] == "█·▓░✗▒"
    assert "█ done 16 %" in lines[2] and "✗ failed 16 %" in lines[2]
    jobs.answers["watch_block_map"] = FakeStream(PICTURE)
    said = json.loads(virtblock("map", "job-1", "--json", "--cells", "6").out)
    assert (said["size_bytes"], said["runs"][0]) == (PICTURE.size_bytes, {"state": "DONE", "cell_count": 1})
    assert jobs.called("watch_block_map")[-1]["cell_count"] == 6


def test_a_map_is_written_to_files(virtblock: Virtblock, jobs: FakeClient, tmp_path: Path) -> None:
    jobs.answers["watch_block_map"] = FakeStream(PICTURE)
    picture, rescue = tmp_path / "map.svg", tmp_path / "map"
    ran = virtblock("map", "job-1", "--svg", str(picture), "--ddrescue", str(rescue))
    assert ran.exit_code == 0, ran.err
    assert rescue.read_text().splitlines()[1:] == [
        "# current_pos  current_status  current_pass",
        "0x00200000     ?               1",
        "#      pos        size  status",
        "0x00000000  0x00200000  +",
        "0x00200000  0x00200000  ?",
        "0x00400000  0x00100000  -",
        "0x00500000  0x000FFE00  ?",
    ]
    assert ElementTree.fromstring(picture.read_text()).tag == "{http://www.w3.org/2000/svg}svg"
    jobs.answers["watch_block_map"] = FakeStream(PICTURE)
    ran = virtblock("map", "job-1", "--svg", str(tmp_path / "no" / "map"))
    assert ran == Ran(1, "\n", f"error: Failed to write file '{tmp_path}/no/map': No such file or directory\n")


def test_the_map_of_a_job_that_has_ended(virtblock: Virtblock, jobs: FakeClient) -> None:
    jobs.answers["watch_block_map"] = vir_error(ErrorNumber.OPERATION_INVALID, "block job 'job-1' is not active")
    assert virtblock("map", "job-1") == Ran(1, "\n", "error: block job 'job-1' is not active\n")


def test_top_shows_rate_time_and_what_was_written_again(virtblock: Virtblock, jobs: FakeClient) -> None:
    lines = virtblock("top").out.splitlines()
    assert lines[0].split()[-4:] == ["Done", "Rate", "Left", "Re-dirtied"]
    assert lines[2].split()[-7:] == ["25", "%", "10.0", "MiB/s", "0:08", "5.00", "MiB"]
    [said] = map(json.loads, virtblock("top", "--json").out.splitlines())
    assert said["jobs"][0]["redirtied_bytes"] == 5 * MIB
    assert datetime.fromisoformat(said["time"]).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("columns", "gone"), [(200, set()), (79, {"Job"}), (68, {"Job", "Type"}), (50, {"Job", "Type", "Re-dirtied"})]
)
def test_a_narrow_top_keeps_rate_and_time_left(columns: int, gone: set[str]) -> None:
    header = ["Job", "Domain", "Disk", "Type", "State", "Done", "Rate", "Left", "Re-dirtied"]
    row = ["vb-0660f950bb514e164d171db849", "guest", "vda", "Block Copy", "running", "25 %", "10 MiB/s", "0:08", "0 B"]
    lines = _narrowed([header, row], columns).splitlines()
    assert set(header) - set(lines[0].split()) == gone
    assert "10 MiB/s   0:08" in lines[2]
    assert columns == 50 or max(map(len, lines)) <= columns


def test_top_of_a_hypervisors_job_knows_no_plan(virtblock: Virtblock, client: FakeClient) -> None:
    unknown = dataclasses.replace(RUNNING, total_bytes=-1, copied_bytes=-1, zero_bytes=-1, remaining_bytes=-1)
    client.answers["list_block_jobs"] = BlockJobPage((unknown,), "")
    assert virtblock("top").out.splitlines()[2].endswith("   -")


def _map_of(runs: list[BlockMapRun], cell_bytes: int, cut_bytes: int) -> BlockMap:
    """The last cell is cut by the disk's end."""
    size_bytes = sum(run.cell_count for run in runs) * cell_bytes - cut_bytes % cell_bytes
    return BlockMap("j", size_bytes, cell_bytes, tuple(runs), BlockJobState.RUNNING)


_RUNS = st.lists(st.builds(BlockMapRun, st.sampled_from([*CELL][1:]), st.integers(1, 50)), min_size=1, max_size=20)
MAPS = st.builds(_map_of, _RUNS, st.sampled_from([512, 65536, MIB]), st.integers(0, MIB))


@given(MAPS)
def test_a_map_file_covers_the_disk_once(picture: BlockMap) -> None:
    rows = [line.split() for line in ddrescue_text(picture).splitlines() if not line.startswith("#")][1:]
    position = 0
    for begin, length, _ in rows:
        assert int(begin, 16) == position
        position += int(length, 16)
    assert position == picture.size_bytes
    statuses = [row[2] for row in rows]
    assert all(one != other for one, other in itertools.pairwise(statuses))


@given(MAPS, st.integers(1, 100))
def test_every_cell_is_drawn_once(picture: BlockMap, columns: int) -> None:
    count = sum(run.cell_count for run in picture.runs)
    lines = map_lines(picture, columns, is_unicode=False, is_coloured=False)
    assert sum(map(len, lines[:-1])) == count
    assert all(len(line) <= columns for line in lines[:-1])
    drawing = ElementTree.fromstring(svg_text(picture, "<a & b>"))
    legend = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert sum(int((text or "").rpartition(" ")[2]) for text in legend) == count
