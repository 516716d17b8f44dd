# SPDX-License-Identifier: Apache-2.0
"""The commands that start, pause, stop and save a domain: from `create` and `start` to `save` and `managedsave`.

Invariant: what they print names the domain as virsh does: `create` and `start` by its name, the others as it was typed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from virtblock.cli.failures import CommandError
from virtblock.cli.files import absolute, read_text
from virtblock.cli.grammar import Invocation
from virtblock.cli.records import plain
from virtblock.client.flags import DomainCreateFlags, DomainDestroyFlags, DomainSaveRestoreFlags

if TYPE_CHECKING:
    from virtblock.cli.session import Session
    from virtblock.client import Domain

_CREATE_FLAGS = {
    "paused": DomainCreateFlags.START_PAUSED,
    "bypass-cache": DomainCreateFlags.START_BYPASS_CACHE,
    "force-boot": DomainCreateFlags.START_FORCE_BOOT,
    "validate": DomainCreateFlags.START_VALIDATE,
    "reset-nvram": DomainCreateFlags.START_RESET_NVRAM,
}
_DESTROY_FLAGS = {"graceful": DomainDestroyFlags.GRACEFUL, "remove-logs": DomainDestroyFlags.REMOVE_LOGS}
_SAVE_FLAGS = {
    "bypass-cache": DomainSaveRestoreFlags.BYPASS_CACHE,
    "running": DomainSaveRestoreFlags.RUNNING,
    "paused": DomainSaveRestoreFlags.PAUSED,
}


def run_create(session: Session, invocation: Invocation) -> None:
    """Create and start a transient domain from a file."""
    path = invocation.required("file")
    xml = read_text(path)
    with session.explain(f"Failed to create domain from {path}"):
        domain = session.client.domain_create_xml(xml, invocation.flags_of(_CREATE_FLAGS))
    session.output.result({"domain": plain(domain)}, extra=f"Domain '{domain.name}' created from {path}\n")


def run_start(session: Session, invocation: Invocation) -> None:
    """Start a domain that is defined."""
    domain = session.domain(invocation, by=("uuid", "name"))
    if domain.active:
        raise CommandError("Domain is already active")
    with session.explain(f"Failed to start domain '{domain.name}'"):
        domain = session.client.create(domain, invocation.flags_of(_CREATE_FLAGS))
    session.output.result({"domain": plain(domain)}, extra=f"Domain '{domain.name}' started\n")


def run_suspend(session: Session, invocation: Invocation) -> None:
    """Pause a domain's processors."""
    _change(session, invocation, "suspend", "suspended", session.client.suspend)


def run_resume(session: Session, invocation: Invocation) -> None:
    """Let a paused domain go on."""
    _change(session, invocation, "resume", "resumed", session.client.resume)


def run_shutdown(session: Session, invocation: Invocation) -> None:
    """Ask the guest to shut down."""
    _change(session, invocation, "shutdown", "is being shutdown", session.client.shutdown)


def run_destroy(session: Session, invocation: Invocation) -> None:
    """Stop a domain at once."""
    flags = invocation.flags_of(_DESTROY_FLAGS)
    _change(session, invocation, "destroy", "destroyed", lambda domain: session.client.destroy(domain, flags))


def _change(session: Session, invocation: Invocation, verb: str, done: str, change: Callable[[Domain], object]) -> None:
    domain, typed = session.domain(invocation), invocation.required("domain")
    with session.explain(f"Failed to {verb} domain '{typed}'"):
        change(domain)
    session.output.result({"domain": plain(domain)}, extra=f"Domain '{typed}' {done}\n")


def run_save(session: Session, invocation: Invocation) -> None:
    """Write a running domain's memory into a file and stop it."""
    domain, typed, path = session.domain(invocation), invocation.required("domain"), invocation.required("file")
    flags, xml_path = invocation.flags_of(_SAVE_FLAGS), invocation.text("xml")
    xml = None if xml_path is None else read_text(xml_path)
    with session.explain(f"Failed to save domain '{typed}' to {path}"):
        if flags or xml is not None:
            session.client.save_flags(domain, absolute(path), xml, flags)
        else:
            session.client.save(domain, absolute(path))
    session.output.result({"domain": plain(domain), "file": path}, extra=f"\nDomain '{typed}' saved to {path}\n")


def run_managedsave(session: Session, invocation: Invocation) -> None:
    """Write a running domain's memory where libvirt keeps it, and stop it."""
    domain, typed = session.domain(invocation), invocation.required("domain")
    with session.explain(f"Failed to save domain '{typed}' state"):
        session.client.managed_save(domain, invocation.flags_of(_SAVE_FLAGS))
    session.output.result({"domain": plain(domain)}, extra=f"\nDomain '{typed}' state saved by libvirt\n")
