# SPDX-License-Identifier: Apache-2.0
"""Every case of the differential suite twice by the same Python calls: on libvirt-python, and on `virtblock.libvirt`.

`make test` runs every twenty-fourth case, `make live` all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from live.cases import CASES, Case
from live.comparing import Bench
from live.daemon import LiveDaemon
from live.differences import Difference, listed_differences
from live.dropin_sides import CALLS, ModuleSide
from live.guests import Guest
from live.hypervisor import PrivateLibvirtd
from live.sides import METHODS

import virtblock.libvirt

SHARE = 24
DIFFERENCES = listed_differences()


@dataclass(frozen=True)
class Pair:
    """Both sides on one libvirtd."""

    theirs: Bench
    ours: Bench


@pytest.fixture(scope="module")
def daemon_uri(libvirtd: PrivateLibvirtd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What our module opens: a daemon of ours in front of the same libvirtd."""
    daemon = LiveDaemon(libvirtd.uri, tmp_path_factory.mktemp("daemon"), "--strict-libvirt")
    yield f"virtblock+{daemon.target}"
    daemon.close()


@pytest.fixture(scope="module")
def pair(libvirtd: PrivateLibvirtd, daemon_uri: str) -> Iterator[Pair]:
    """Our module beside libvirt-python."""
    connection = libvirt.open(libvirtd.uri)
    theirs = ModuleSide("python", libvirt, libvirtd.uri)
    ours = ModuleSide("dropin", virtblock.libvirt, daemon_uri)
    yield Pair(Bench(theirs, libvirtd, connection), Bench(ours, libvirtd, connection))
    theirs.close()
    ours.close()
    connection.close()


def _parameters() -> list[object]:
    marks = [() if number % SHARE == 0 else (pytest.mark.oracle,) for number in range(len(CASES))]
    return [pytest.param(case, id=case.name, marks=mark) for case, mark in zip(CASES, marks, strict=True)]


@pytest.mark.parametrize("case", _parameters())
def test_our_answer_is_libvirt_pythons(pair: Pair, case: Case) -> None:
    theirs = pair.theirs.run(case, None)
    difference = DIFFERENCES.get(case.name)
    ours = pair.ours.run(case, len(theirs.events) if difference is None else None)
    if difference is not None:
        assert difference == Difference.between(theirs, ours)
        return
    assert ours.steps == theirs.steps
    assert ours.xml == theirs.xml
    assert ours.events == theirs.events
    assert ours.files == theirs.files


def test_every_call_of_the_cases_is_made() -> None:
    assert CALLS.keys() == METHODS


# Calls beside the cases' own, on (module, connection, domain, domain of a read-only connection), in this order.
MORE_CALLS: list[Callable[[Any, Any, Any, Any], Any]] = [
    lambda m, c, d, r: c.domainEventRegisterAny(None, 16, print, None),
    lambda m, c, d, r: c.domainEventRegisterAny(None, 16, id, None),
    lambda m, c, d, r: c.domainEventRegisterAny(d, 16, print, None),
    lambda m, c, d, r: c.domainEventRegisterAny(d, 16, print, None),
    lambda m, c, d, r: c.domainEventDeregisterAny(0),
    lambda m, c, d, r: c.domainEventRegisterAny(None, 16, print, None),
    lambda m, c, d, r: c.domainEventRegister(id, None),
    lambda m, c, d, r: c.domainEventRegisterAny(None, 0, print, None),
    lambda m, c, d, r: c.domainEventDeregister(id),
    lambda m, c, d, r: [c.domainEventDeregisterAny(number) for number in (1, 2, 4)],
    lambda m, c, d, r: c.domainEventDeregisterAny(77),
    lambda m, c, d, r: c.domainEventDeregisterAny(-1),
    lambda m, c, d, r: c.registerCloseCallback(print, None),
    lambda m, c, d, r: c.registerCloseCallback(print, None),
    lambda m, c, d, r: c.unregisterCloseCallback(),
    lambda m, c, d, r: c.unregisterCloseCallback(),
    lambda m, c, d, r: c.setKeepAlive(5, 3),
    lambda m, c, d, r: c.setKeepAlive(0, 0),
    lambda m, c, d, r: [c.isAlive(), c.isSecure(), c.isEncrypted(), c.getType(), c.getLibVersion(), c.getVersion()],
    lambda m, c, d, r: [c.getHostname(), type(c.getCapabilities()), type(c.listDomainsID()), type(c.numOfDomains())],
    lambda m, c, d, r: c.listAllDomains(1 << 30),
    lambda m, c, d, r: [d.maxMemory(), d.OSType(), d.info()[:4], d.isPersistent(), type(d.UUID())],
    lambda m, c, d, r: [c.lookupByID(d.ID()).name() == d.name(), c.lookupByUUID(d.UUID()).UUID() == d.UUID()],
    lambda m, c, d, r: c.lookupByName(""),
    lambda m, c, d, r: c.lookupByUUIDString(""),
    lambda m, c, d, r: c.lookupByUUID(bytes(16)),
    lambda m, c, d, r: c.defineXML(""),
    lambda m, c, d, r: c.createXML(""),
    lambda m, c, d, r: c.createXML("<domain/>", 1 << 20),
    lambda m, c, d, r: r.connect().defineXML("<domain/>"),
    lambda m, c, d, r: r.connect().createXML("<domain/>"),
    lambda m, c, d, r: r.suspend(),
    lambda m, c, d, r: r.create(),
    lambda m, c, d, r: r.createWithFlags(0),
    lambda m, c, d, r: r.destroy(),
    lambda m, c, d, r: r.destroyFlags(0),
    lambda m, c, d, r: r.shutdown(),
    lambda m, c, d, r: r.undefine(),
    lambda m, c, d, r: r.save("/x"),
    lambda m, c, d, r: r.detachDevice("<x/>"),
    lambda m, c, d, r: r.blockPull("vda"),
    lambda m, c, d, r: r.blockCommit("vda", None, None),
    lambda m, c, d, r: r.blockResize("vda", 1),
    lambda m, c, d, r: r.XMLDesc(m.VIR_DOMAIN_XML_SECURE),
    lambda m, c, d, r: d.create(),
    lambda m, c, d, r: d.undefine(),
    lambda m, c, d, r: d.revertToSnapshot(None),
    lambda m, c, d, r: d.revertToSnapshot("x"),
    lambda m, c, d, r: [d.destroy(), d.ID()],
    lambda m, c, d, r: d.destroy(),
    lambda m, c, d, r: d.XMLDesc(),
    lambda m, c, d, r: d.isActive(),
    lambda m, c, d, r: d.blockJobInfo("vda"),
]


def test_connections_and_look_ups_answer_alike(
    pair: Pair, libvirtd: PrivateLibvirtd, make_guest: Callable[..., Guest], daemon_uri: str
) -> None:
    told: list[list[Any]] = []
    modules: tuple[tuple[Any, str], ...] = ((libvirt, libvirtd.uri), (virtblock.libvirt, daemon_uri))
    for module, uri in modules:
        name = make_guest().name
        connection, reader = module.open(uri), module.openReadOnly(uri)
        domain, only_read = connection.lookupByName(name), reader.lookupByName(name)
        known = {name: "{name}", domain.UUIDString(): "{uuid}"}
        outcomes = [outcome(module, call, connection, domain, only_read) for call in MORE_CALLS]
        told.append([plain(each, known) for each in outcomes])
    for number, (theirs, ours) in enumerate(zip(*told, strict=True)):
        assert (number, ours) == (number, theirs)


def test_a_relative_name_is_the_programs_own(
    pair: Pair,
    libvirtd: PrivateLibvirtd,
    make_guest: Callable[..., Guest],
    daemon_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not the daemon's, which runs in another folder by now."""
    monkeypatch.chdir(tmp_path)
    modules: tuple[tuple[Any, str], ...] = ((libvirt, libvirtd.uri), (virtblock.libvirt, daemon_uri))
    told: list[str] = []
    for module, uri in modules:
        connection, name = module.open(uri), make_guest().name
        domain = connection.lookupByName(name)
        for save in (domain.save, domain.saveFlags):
            with pytest.raises(module.libvirtError) as refused:
                save("no folder/saved")
            told.append(str(refused.value))
    assert str(tmp_path) in told[0]
    assert told[:2] == told[2:]


def outcome(module: Any, call: Callable[[Any, Any, Any, Any], Any], *subjects: Any) -> str:
    """The answer with its type, or the exception with all that it holds."""
    try:
        answer = call(module, *subjects)
        return f"{type(answer).__name__} {answer!r}"
    except module.libvirtError as error:
        return f"libvirtError {error.err!r}"
    except (AttributeError, TypeError) as error:
        return f"{type(error).__name__} {error}"


def plain(text: str, known: dict[str, str]) -> str:
    """The text with a guest's own name and UUID replaced."""
    for value, word in known.items():
        text = text.replace(value, word)
    return text
