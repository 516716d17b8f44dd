# SPDX-License-Identifier: Apache-2.0
"""`event`: libvirt's own events, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from virtblock.cli.event_texts import EVENT_NAMES, event_line, event_name
from virtblock.cli.failures import CommandError
from virtblock.cli.grammar import Invocation
from virtblock.cli.interrupts import INTERRUPTED, TIMED_OUT, Inbox, Woken, caught_interrupt
from virtblock.cli.output import printable
from virtblock.cli.records import plain
from virtblock.client import Domain, DomainEvent, DomainEventId

if TYPE_CHECKING:
    from virtblock.cli.session import Session

_FEATURE_PREFIX = "event:"
# What every server has, should it not tell.
_EVERYWHERE = (DomainEventId.LIFECYCLE, DomainEventId.BLOCK_JOB, DomainEventId.BLOCK_JOB_2)
_ENDINGS = {INTERRUPTED: "event loop interrupted\n", TIMED_OUT: "event loop timed out\n"}


def run_event(session: Session, invocation: Invocation) -> None:
    """Print events until there was one, or with `--loop` until the time limit or Ctrl-C; or list the kinds."""
    for first, second in (("all", "event"), ("list", "all"), ("list", "event")):
        invocation.exclude(first, second)
    wanted = invocation.text("event")
    if invocation.has("list"):
        session.output.result(list(EVENT_NAMES), "".join(f"{name}\n" for name in EVENT_NAMES))
        return
    event_ids = _event_ids(session, wanted, wants_all=invocation.has("all"))
    timeout_s = invocation.timeout_s()
    domain = session.domain(invocation) if invocation.has("domain") else None
    inbox: Inbox[DomainEvent] = Inbox(timeout_s)
    with caught_interrupt(inbox.interrupt):
        inbox.feed(lambda: _events(session, event_ids, domain))
        count, ending = _print_events(session, invocation, inbox)
    session.output.result(
        {"events_received": count, "ending": ending.text if ending else "received"},
        (_ENDINGS[ending] if ending else "") + f"events received: {count}\n",
    )
    if count == 0:
        raise CommandError


def _event_ids(session: Session, wanted: str | None, *, wants_all: bool) -> list[int]:
    if wanted is not None:
        if wanted not in EVENT_NAMES:
            raise CommandError(f"unknown event type {wanted}")
        return [EVENT_NAMES.index(wanted)]
    if not wants_all:
        raise CommandError("one of --list, --all, or --event <type> is required")
    features = session.client.get_capabilities().connection.features
    numbers = [feature.removeprefix(_FEATURE_PREFIX) for feature in features if feature.startswith(_FEATURE_PREFIX)]
    return sorted(int(number) for number in numbers if number.isdecimal()) or list(_EVERYWHERE)


def _events(session: Session, event_ids: list[int], domain: Domain | None) -> Iterator[DomainEvent]:
    with session.client.domain_events(event_ids, domain) as events:
        yield from events
    raise CommandError("the server ended the stream of events")


def _print_events(session: Session, invocation: Invocation, inbox: Inbox[DomainEvent]) -> tuple[int, Woken | None]:
    """How many were printed, and why the wait ended; None: the one that was waited for came."""
    count = 0
    while True:
        event = inbox.get()
        if isinstance(event, Woken):
            return count, event
        assert event is not None, "a wait without a limit of its own ends with an event"
        count += 1
        _print_event(session, event, with_time=invocation.has("timestamp"))
        if not invocation.has("loop"):
            return count, None


def _print_event(session: Session, event: DomainEvent, *, with_time: bool) -> None:
    now = datetime.now(UTC)
    stamp = f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03}+0000: " if with_time else ""
    data = {"event": event_name(event.event_id), "received": now.isoformat(), **plain(event)}
    session.output.result(data, f"{stamp}{printable(event_line(event))}\n")
