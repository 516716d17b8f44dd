# SPDX-License-Identifier: Apache-2.0
"""The commands that look: `list`, `domid`, `domname`, `domuuid`, `domstate`, and on disks `domblk…`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtblock.cli.domain_xml import disks_of
from virtblock.cli.failures import CommandError
from virtblock.cli.grammar import Invocation
from virtblock.cli.records import plain
from virtblock.cli.sizes import size_text
from virtblock.client import DomainState
from virtblock.client.flags import DomainListFlags, DomainXmlFlags

if TYPE_CHECKING:
    from virtblock.cli.session import Session
    from virtblock.client.model import BlockInfo, Domain

_LIST_FILTERS = {
    "transient": DomainListFlags.TRANSIENT,
    "persistent": DomainListFlags.PERSISTENT,
    "with-snapshot": DomainListFlags.HAS_SNAPSHOT,
    "without-snapshot": DomainListFlags.NO_SNAPSHOT,
    "with-checkpoint": DomainListFlags.HAS_CHECKPOINT,
    "without-checkpoint": DomainListFlags.NO_CHECKPOINT,
    "state-running": DomainListFlags.RUNNING,
    "state-paused": DomainListFlags.PAUSED,
    "state-shutoff": DomainListFlags.SHUTOFF,
    "state-other": DomainListFlags.OTHER,
    "autostart": DomainListFlags.AUTOSTART,
    "no-autostart": DomainListFlags.NO_AUTOSTART,
    "with-managed-save": DomainListFlags.MANAGEDSAVE,
    "without-managed-save": DomainListFlags.NO_MANAGEDSAVE,
}
_STATES = ("no state", "running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended")
_UNKNOWN = "unknown"
# By state and number, from 1 on; 0 is unknown everywhere.
_REASONS: dict[int, tuple[str, ...]] = {
    DomainState.RUNNING: (
        "booted",
        "migrated",
        "restored",
        "from snapshot",
        "unpaused",
        "migration canceled",
        "save canceled",
        "event wakeup",
        "crashed",
        "post-copy",
        "post-copy failed",
    ),
    DomainState.PAUSED: (
        "user",
        "migrating",
        "saving",
        "dumping",
        "I/O error",
        "watchdog",
        "from snapshot",
        "shutting down",
        "creating snapshot",
        "crashed",
        "starting up",
        "post-copy",
        "post-copy failed",
    ),
    DomainState.SHUTDOWN: ("user",),
    DomainState.SHUTOFF: (
        "shutdown",
        "destroyed",
        "crashed",
        "migrated",
        "saved",
        "failed",
        "from snapshot",
        "daemon",
    ),
    DomainState.CRASHED: ("panicked",),
}
# Fields of BlockStats: virsh's short name and its text for people.
_STATISTICS = {
    "read_request_count": ("rd_req", "number of read operations:"),
    "read_bytes": ("rd_bytes", "number of bytes read:"),
    "write_request_count": ("wr_req", "number of write operations:"),
    "write_bytes": ("wr_bytes", "number of bytes written:"),
    "error_count": ("errs", "error count:"),
}
_NOTHING = "-"


def run_list(session: Session, invocation: Invocation) -> None:
    """Print the domains: as a table, or names, UUIDs and ids."""
    for name in ("name", "uuid", "id"):
        invocation.exclude("table", name)
    with session.explain("Failed to list domains"):
        domains = sorted(session.client.list_all_domains(_list_flags(invocation)), key=_list_order)
    data = [plain(domain) for domain in domains]
    if not invocation.has("name") and not invocation.has("uuid") and not invocation.has("id"):
        rows = [[_id_text(domain), domain.name, state_text(domain.state)] for domain in domains]
        session.output.table(data, ("Id", "Name", "State"), rows)
        return
    lines = [_list_line(domain, invocation) for domain in domains]
    session.output.result(data, "".join(f"{line}\n" for line in lines if line is not None))


def _list_flags(invocation: Invocation) -> int:
    """As virsh: the active ones, unless `--inactive`, `--all` or a state says otherwise."""
    active, inactive = DomainListFlags.ACTIVE, DomainListFlags.INACTIVE
    flags = inactive if invocation.has("inactive") else active
    if invocation.has("all"):
        flags = active | inactive
    elif invocation.has("state-shutoff"):
        flags |= inactive
    return int(flags | invocation.flags_of(_LIST_FILTERS))


def _list_order(domain: Domain) -> tuple[bool, int, str]:
    """Active ones by id, then the others by name."""
    return (domain.id < 0, domain.id, domain.name)


def _list_line(domain: Domain, invocation: Invocation) -> str | None:
    """UUID, id and name, those that are wanted. The id alone of a domain that has none is no line."""
    wanted = [name for name in ("uuid", "id", "name") if invocation.has(name)]
    if wanted == ["id"] and domain.id < 0:
        return None
    texts = {"uuid": domain.uuid, "id": _id_text(domain), "name": domain.name}
    return " ".join(texts[name] for name in wanted)


def _id_text(domain: Domain) -> str:
    return _NOTHING if domain.id < 0 else str(domain.id)


def state_text(state: int) -> str:
    """A domain's state in virsh's words."""
    return _STATES[state] if 0 <= state < len(_STATES) else _STATES[0]


def reason_text(state: int, reason: int) -> str:
    """Why a domain is in its state, in virsh's words."""
    reasons = _REASONS.get(state, ())
    return reasons[reason - 1] if 0 < reason <= len(reasons) else _UNKNOWN


def run_domid(session: Session, invocation: Invocation) -> None:
    """Print the id of a domain, which it has while it runs."""
    domain = session.domain(invocation, by=("uuid", "name"))
    session.output.result({"domain": plain(domain)}, f"{_id_text(domain)}\n")


def run_domname(session: Session, invocation: Invocation) -> None:
    """Print the name of a domain."""
    domain = session.domain(invocation, by=("id", "uuid"))
    session.output.result({"domain": plain(domain)}, f"{domain.name}\n")


def run_domuuid(session: Session, invocation: Invocation) -> None:
    """Print the UUID of a domain."""
    domain = session.domain(invocation, by=("id", "name"))
    session.output.result({"domain": plain(domain)}, f"{domain.uuid}\n")


def run_domstate(session: Session, invocation: Invocation) -> None:
    """Print the state of a domain, with `--reason` also why it is in it."""
    domain = session.domain(invocation)
    answer = session.client.get_state(domain)
    text = state_text(answer.state)
    reason = reason_text(answer.state, answer.reason)
    if invocation.has("reason"):
        text += f" ({reason})"
    data = {"domain": domain.name, "state": plain(answer.state), "reason": answer.reason, "reason_text": reason}
    session.output.result(data, f"{text}\n")


def run_domblkstat(session: Session, invocation: Invocation) -> None:
    """Print how much a guest read and wrote."""
    domain, device = session.domain(invocation), invocation.texts.get("device", "")
    stats = session.client.block_stats(domain, device)
    shown = [(plain_name, told, getattr(stats, name)) for name, (plain_name, told) in _STATISTICS.items()]
    if invocation.has("human"):
        lines = [f"Device: {device}", *(f" {told:<31} {value}" for _, told, value in shown if value >= 0)]
    else:
        lines = [f"{device} {plain_name} {value}" for plain_name, _, value in shown if value >= 0]
    session.output.result({"device": device, **plain(stats)}, "".join(f"{line}\n" for line in lines))


def run_domblklist(session: Session, invocation: Invocation) -> None:
    """Print targets and sources of a domain's disks, read from its XML as virsh does."""
    domain = session.domain(invocation)
    flags = DomainXmlFlags.INACTIVE if invocation.has("inactive") else 0
    disks = disks_of(session.client.get_xml_desc(domain, flags))
    data = [plain(disk) for disk in disks]
    if invocation.has("details"):
        rows = [[disk.type, disk.device, disk.target, disk.source or _NOTHING] for disk in disks]
        session.output.table(data, ("Type", "Device", "Target", "Source"), rows)
    else:
        session.output.table(data, ("Target", "Source"), [[disk.target, disk.source or _NOTHING] for disk in disks])


def run_domblkinfo(session: Session, invocation: Invocation) -> None:
    """Print the sizes of one disk, or with `--all` of each."""
    invocation.exclude("all", "device")
    domain = session.domain(invocation)
    human = invocation.has("human")
    if invocation.has("all"):
        _all_disks(session, domain, human=human)
        return
    device = invocation.texts.get("device")
    if not device:
        raise CommandError("command 'domblkinfo' requires <device> option")
    info = session.client.get_block_info(domain, device)
    capacity, allocation, physical = _info_cells(info, human=human)
    session.output.result(
        {"device": device, **plain(info)},
        f"{'Capacity:':<15} {capacity}\n{'Allocation:':<15} {allocation}\n{'Physical:':<15} {physical}\n",
    )


def _all_disks(session: Session, domain: Domain, *, human: bool) -> None:
    data, rows = [], []
    for disk in disks_of(session.client.get_xml_desc(domain, 0)):
        # A drive without a medium has no sizes, which is no error.
        info = session.client.get_block_info(domain, disk.target) if disk.source else None
        data.append({"device": disk.target, **(plain(info) if info else {})})
        rows.append([disk.target, *(_info_cells(info, human=human) if info else [_NOTHING] * 3)])
    session.output.table(data, ("Target", "Capacity", "Allocation", "Physical"), rows)


def _info_cells(info: BlockInfo, *, human: bool) -> list[str]:
    numbers = (info.capacity_bytes, info.allocation_bytes, info.physical_bytes)
    return [size_text(number) if human else str(number) for number in numbers]
