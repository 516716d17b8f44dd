# SPDX-License-Identifier: Apache-2.0
"""The commands on jobs by their id, which virsh has not: `jobs`, `attach`, `map` and `top`.

Invariant: none of them changes a job; Ctrl-C ends the looking and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from virtblock.cli.block_map_drawing import MARKS, ddrescue_text, map_lines, svg_text
from virtblock.cli.event_texts import job_type_text
from virtblock.cli.failures import CommandError
from virtblock.cli.grammar import INT32_MAX, Invocation
from virtblock.cli.interrupts import INTERRUPTED, TIMED_OUT, Inbox, Woken, caught_interrupt
from virtblock.cli.output import printable, table_text, width_of
from virtblock.cli.progress import can_encode, columns_of, duration_text, make_display, percent_of, rate_text
from virtblock.cli.records import plain
from virtblock.client import BlockJob, BlockJobFilter, BlockJobProgress, BlockJobState, VirError
from virtblock.client.model import BlockMap

if TYPE_CHECKING:
    from virtblock.cli.progress import Display
    from virtblock.cli.session import Session

PAGE_SIZE = 1000
CELL_COUNT_MAX = 65536
MAP_COLUMNS = 64
MAP_LINES = 16
PROGRESS_INTERVAL_S = 0.5
TOP_INTERVAL_S = 1.0
CLEAR_SCREEN = "\x1b[H\x1b[J"
_TOP_HEADER = ("Job", "Domain", "Disk", "Type", "State", "Done", "Rate", "Left", "Re-dirtied")
# What a terminal that is too narrow goes without, one after the other: `jobs` has the ids.
_TOP_DISPENSABLE = ("Job", "Type", "Re-dirtied")


def run_jobs(session: Session, invocation: Invocation) -> None:
    """Print the jobs there are, with `--all` ended ones too, newest first."""
    jobs = list(_jobs(session, invocation, include_ended=invocation.has("all")))
    if invocation.has("id"):
        session.output.result([job.job_id for job in jobs], "".join(f"{job.job_id}\n" for job in jobs))
        return
    rows = [[*_identity(job), _done_text(job), job.destination_path or "-", _why(job)] for job in jobs]
    header = ("Job", "Domain", "Disk", "Type", "State", "Done", "Destination", "Reason")
    session.output.table([plain(job) for job in jobs], header, rows)


def _jobs(session: Session, invocation: Invocation, *, include_ended: bool) -> Iterator[BlockJob]:
    wanted = BlockJobFilter()
    if invocation.has("domain"):
        wanted = BlockJobFilter(domain_uuid=session.domain(invocation).uuid)
    token = ""
    while True:
        page = session.client.list_block_jobs(
            wanted, include_ended=include_ended, page_size=PAGE_SIZE, page_token=token
        )
        yield from page.jobs
        token = page.next_page_token
        if not token:
            return


def _identity(job: BlockJob) -> list[str]:
    state = job.state.name.lower() + (" (paused)" if job.paused else "")
    return [job.job_id, job.domain.name, job.disk, job_type_text(job.type), state]


def _done_text(job: BlockJob) -> str:
    return f"{percent_of(job.cur, job.end)} %"


def _why(job: BlockJob) -> str:
    return (job.error.message if job.error is not None else job.reason) or "-"


def run_attach(session: Session, invocation: Invocation) -> None:
    """Show a job's progress until it is READY or has ended. Ctrl-C leaves the job as it is."""
    job = _job(session, invocation)
    output = session.output
    display = None if output.as_json or output.quiet else make_display(output.err, job_type_text(job.type))
    inbox: Inbox[BlockJob | BlockJobProgress] = Inbox(invocation.timeout_s())
    with caught_interrupt(inbox.interrupt):
        inbox.feed(lambda: _news_of(session, job.job_id))
        try:
            job, woken = _follow(inbox, job, display)
        finally:
            if display is not None:
                display.leave()
    if woken is not None:
        result = "timed-out" if woken is TIMED_OUT else "detached"
        output.result({"result": result, "job": plain(job)}, extra=f"Left job {job.job_id}, which goes on\n")
        raise CommandError
    _tell_end(session, job)


def _job(session: Session, invocation: Invocation) -> BlockJob:
    job_id = invocation.required("job")
    with session.explain(f"failed to get job '{job_id}'"):
        return session.client.get_block_job(job_id)


def _news_of(session: Session, job_id: str) -> Iterator[BlockJob | BlockJobProgress]:
    with session.client.watch_block_jobs(progress_interval_s=PROGRESS_INTERVAL_S) as events:
        # What happened before the watch was there.
        yield session.client.get_block_job(job_id)
        for event in events:
            if event.job is not None and event.job.job_id == job_id:
                yield event.job
            elif event.progress is not None and event.progress.job_id == job_id:
                yield event.progress


def _follow(
    inbox: Inbox[BlockJob | BlockJobProgress], job: BlockJob, display: Display | None
) -> tuple[BlockJob, Woken | None]:
    """The job when it was READY or over, or as it was last seen and why the looking ended."""
    while not (job.is_final or job.state is BlockJobState.READY):
        news = inbox.get()
        if isinstance(news, Woken):
            return job, news
        if isinstance(news, BlockJob):
            job = news
        if news is not None and display is not None and not job.is_final:
            display.show(news.cur, news.end, news.rate_bytes_per_s, news.eta_s)
    if display is not None and job.state in (BlockJobState.READY, BlockJobState.COMPLETED):
        display.finish()
    return job, None


def _tell_end(session: Session, job: BlockJob) -> None:
    state = job.state.name.lower()
    text = f"Job {job.job_id} is {state}" + (f": {_why(job)}" if _why(job) != "-" else "") + "\n"
    session.output.result({"result": state, "job": plain(job)}, extra=text)
    if job.state in (BlockJobState.FAILED, BlockJobState.CANCELED):
        problem = CommandError()
        if job.error is not None:
            problem.__cause__ = VirError(job.error)
        raise problem


def run_map(session: Session, invocation: Invocation) -> None:
    """Draw what a job has done of its disk: live on a terminal, once elsewhere, or into files."""
    files = {name: path for name in ("svg", "ddrescue") if (path := invocation.text(name)) is not None}
    job = _job(session, invocation)
    columns, lines = _map_size(session)
    cell_count = invocation.whole_number("cells", CELL_COUNT_MAX) or (CELL_COUNT_MAX if files else columns * lines)
    title = f"{job.job_id}  {job.domain.name} {job.disk}"
    inbox: Inbox[BlockMap] = Inbox()
    with caught_interrupt(inbox.interrupt):
        inbox.feed(lambda: _pictures(session, job.job_id, cell_count))
        picture = inbox.get()
        if isinstance(picture, BlockMap) and not files and _is_live(session, invocation):
            _draw_live(session, inbox, picture, title, columns)
            return
    if not isinstance(picture, BlockMap):
        raise CommandError
    for name, path in files.items():
        _write(path, svg_text(picture, title) if name == "svg" else ddrescue_text(picture))
    written = "".join(f"Map of job {job.job_id} written to {path}\n" for path in files.values())
    session.output.result(plain(picture), "" if files else _drawing(session, picture, title, columns), extra=written)


def _pictures(session: Session, job_id: str, cell_count: int) -> Iterator[BlockMap]:
    with session.client.watch_block_map(job_id, cell_count=cell_count) as pictures:
        yield from pictures
    raise CommandError("the job has ended")


def _map_size(session: Session) -> tuple[int, int]:
    out = session.output.out
    if not out.isatty():
        return MAP_COLUMNS, MAP_LINES
    return max(columns_of(out) - 1, 1), MAP_LINES


def _is_live(session: Session, invocation: Invocation) -> bool:
    return _can_redraw(session) and not invocation.has("once")


def _can_redraw(session: Session) -> bool:
    output = session.output
    return output.out.isatty() and not output.as_json and os.environ.get("TERM", "dumb") != "dumb"


def _drawing(session: Session, picture: BlockMap, title: str, columns: int) -> str:
    out = session.output.out
    is_coloured = _can_redraw(session) and "NO_COLOR" not in os.environ
    lines = map_lines(picture, columns, is_unicode=can_encode(out, MARKS), is_coloured=is_coloured)
    return "\n".join([printable(f"{title}  {picture.job_state.name.lower()}"), *lines, ""])


def _draw_live(session: Session, inbox: Inbox[BlockMap], picture: BlockMap, title: str, columns: int) -> None:
    """Until the job has ended, or Ctrl-C."""
    while True:
        session.output.text(CLEAR_SCREEN + _drawing(session, picture, title, columns))
        try:
            news = inbox.get()
        except CommandError:
            return  # the stream is over with the job, whose last picture is drawn
        if not isinstance(news, BlockMap):
            return
        picture = news


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandError(f"Failed to write file '{path}': {reason}") from None


def run_top(session: Session, invocation: Invocation) -> None:
    """Print all jobs that go on, over and over on a terminal, until Ctrl-C or `--count` times."""
    count = invocation.whole_number("count", INT32_MAX) or (0 if _can_redraw(session) else 1)
    shown = 0
    inbox: Inbox[None] = Inbox()
    with caught_interrupt(inbox.interrupt):
        while True:
            _show_top(session, list(_jobs(session, invocation, include_ended=False)))
            shown += 1
            if shown == count or inbox.get(at_most_s=TOP_INTERVAL_S) is INTERRUPTED:
                return


def _show_top(session: Session, jobs: list[BlockJob]) -> None:
    if session.output.as_json:
        rows = [{**plain(job), "redirtied_bytes": _redirtied_bytes(job)} for job in jobs]
        session.output.result({"time": datetime.now(UTC).isoformat(), "jobs": rows})
        return
    table = [list(_TOP_HEADER), *(_top_row(job) for job in jobs)]
    if _can_redraw(session):
        # A line that wraps would tear the table.
        columns = columns_of(session.output.out) - 1
        lines = _narrowed(table, columns).splitlines()
        session.output.text(CLEAR_SCREEN + "".join(f"{line[:columns]}\n" for line in lines))
    else:
        session.output.text(table_text(table[0], table[1:]))


def _narrowed(table: list[list[str]], columns: int) -> str:
    """The table, with as few columns left out as its width asks for."""
    text = table_text(table[0], table[1:])
    for name in _TOP_DISPENSABLE:
        if max(width_of(line) for line in text.splitlines()) <= columns:
            break
        place = table[0].index(name)
        table = [[*row[:place], *row[place + 1 :]] for row in table]
        text = table_text(table[0], table[1:])
    return text


def _top_row(job: BlockJob) -> list[str]:
    redirtied_bytes = _redirtied_bytes(job)
    return [
        *_identity(job),
        _done_text(job),
        f"{rate_text(job.rate_bytes_per_s)}/s" if job.rate_bytes_per_s else "-",
        duration_text(job.eta_s) if job.eta_s >= 0 else "-",
        "-" if redirtied_bytes is None else rate_text(redirtied_bytes),
    ]


def _redirtied_bytes(job: BlockJob) -> int | None:
    """What the guest wrote over again since it was copied: data beyond the plan. None: the plan is not known.

    Zeroes are left out, for holes are among them that were never in the plan.
    """
    if min(job.total_bytes, job.copied_bytes, job.remaining_bytes) < 0:
        return None
    return max(job.copied_bytes + job.remaining_bytes - job.total_bytes, 0)
