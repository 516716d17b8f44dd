# SPDX-License-Identifier: Apache-2.0
"""`virtblock.libvirt` beside libvirt-python, without a hypervisor: names, numbers, signatures, wrong arguments."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client.daemon import Daemon

from virtblock import libvirt as ours

theirs = pytest.importorskip("libvirt")

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "clients" / "python" / "README.md"
GENERATOR = ROOT / "clients" / "python" / "generate_libvirt_names.py"
COMPARISON = ROOT / "clients" / "python" / "compare_with_libvirt.py"
# What libvirt-python's module has because of how it is made.
INCIDENTAL = {"Any", "Callable", "Optional", "TracebackType", "TypeVar", "Union", "overload", "libvirtmod"}
PUBLIC = sorted(name for name in set(dir(theirs)) - INCIDENTAL if not name.startswith("_"))
CLASSES = [name for name in PUBLIC if inspect.isclass(getattr(theirs, name))]
BIG = 1 << 70


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Neither module prints what a test provokes."""
    for module in (theirs, ours):
        module.registerErrorHandler(lambda context, error: None, None)
    yield
    ours.registerErrorHandler(None, None)


def test_every_public_name_is_there() -> None:
    assert len(PUBLIC) > 1200
    assert [name for name in PUBLIC if not hasattr(ours, name)] == []


def test_every_constant_has_libvirts_value() -> None:
    constants = [name for name in PUBLIC if name.startswith("VIR_")]
    assert {name: getattr(ours, name) for name in constants} == {name: getattr(theirs, name) for name in constants}


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_is_there_with_its_parameters(name: str) -> None:
    there, here = getattr(theirs, name), getattr(ours, name)
    names = [each for each in dir(there) if not each.startswith("_")]
    assert [each for each in names if not hasattr(here, each)] == []
    methods = [each for each in names if inspect.isfunction(getattr(there, each))]
    assert {each: _parameters(getattr(here, each)) for each in methods} == {
        each: _parameters(getattr(there, each)) for each in methods
    }


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isfunction(getattr(theirs, name))])
def test_every_function_has_its_parameters(name: str) -> None:
    assert _parameters(getattr(ours, name)) == _parameters(getattr(theirs, name))


def _parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


def test_the_generated_names_are_those_of_the_generator(tmp_path: Path) -> None:
    """The checked-in files are what the generator writes, with the release of libvirt that they are made for."""
    if theirs.getVersion() // 1000 != ours.getVersion() // 1000:
        pytest.skip(f"libvirt {theirs.getVersion()} is not the one whose names these are")
    program = (
        f"import sys; sys.path.insert(0, {str(GENERATOR.parent)!r})\nimport generate_libvirt_names as made\n"
        "stale = [str(p) for p, t in made.render().items() if p.read_text(encoding='utf-8') != t]\nprint(stale)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]", "run clients/python/generate_libvirt_names.py"


def test_the_comparison_prints_what_is_not_offered() -> None:
    done = subprocess.run([sys.executable, str(COMPARISON)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "missing names: 0"
    readme = README.read_text(encoding="utf-8")
    for line in (line for line in lines if line.startswith(("virConnect: ", "virDomain: ", "virDomainSnapshot: "))):
        assert line in readme, "bring clients/python/README.md up to date"


def test_unset_errors_and_objects_made_by_hand_are_alike() -> None:
    for module in (theirs, ours):
        module.virResetLastError()
        error = module.libvirtError("text")
        assert (str(error), error.args, error.err, error.get_error_code(), error.get_str1(), error.get_int2()) == (
            "text", ("text",), None, None, None, None,
        )  # fmt: skip
        assert module.virGetLastErrorMessage() == "no error"
        assert (module.virGetLastError(), module.virGetLastErrorCode(), module.virGetLastErrorDomain()) == (None, 0, 0)
    by_hand: list[Callable[[Any], Any]] = [lambda m: m.virDomain(None, 3), lambda m: m.virNetwork(None)]
    for call in by_hand:
        # The message alone: an object of theirs that was not finished complains once more when it goes.
        kind, message = outcome(ours, call, ours)
        assert (kind, message.split(" got ")[0]) == (Exception, "Expected a wrapped C Object but")


# Calls on a domain that fail before any driver is asked.
DOMAIN_CALLS: list[Callable[[Any], Any]] = [
    lambda d: d.blockRebase(1, "/x"),
    lambda d: d.blockRebase("vda", 5),
    lambda d: d.blockRebase("vda", b"x"),
    lambda d: d.blockRebase("v\0da", "/x"),
    lambda d: d.blockRebase("vda", "/x", "1"),
    lambda d: d.blockRebase("vda", "/x", 1.0),
    lambda d: d.blockRebase("vda", "/x", 1 << 63),
    lambda d: d.blockRebase("vda", "/x", -(1 << 63) - 1),
    lambda d: d.blockRebase("vda", "/x", 0, None),
    lambda d: d.blockRebase("vda", "/x", 0, "1"),
    lambda d: d.blockRebase("vda", "/x", 0, True),
    lambda d: d.blockRebase("vda", "/x", 0, (1 << 32) | 1),
    lambda d: d.blockRebase(None, "/x", 0, 8),
    lambda d: d.blockRebase("vda", None, 0, 8),
    lambda d: d.blockResize("vda", 1 << 64),
    lambda d: d.blockResize("vda", "x"),
    lambda d: d.blockResize(None, 1),
    lambda d: d.blockCopy("vda", None),
    lambda d: d.blockCopy(None, "<disk/>"),
    lambda d: d.blockCopy("vda", "<disk/>", {"bandwidth": -1}),
    lambda d: d.blockCopy("vda", "<disk/>", {"bandwidth": 1 << 64}),
    lambda d: d.blockCopy("vda", "<disk/>", {"bandwidth": 1.5}),
    lambda d: d.blockCopy("vda", "<disk/>", {"bandwidth": "x"}),
    lambda d: d.blockCopy("vda", "<disk/>", {"granularity": 1 << 32}),
    lambda d: d.blockCopy("vda", "<disk/>", {"granularity": -1}),
    lambda d: d.blockCopy("vda", "<disk/>", {"foo": None}),
    lambda d: d.blockCopy("vda", "<disk/>", {1: 1}),
    lambda d: d.blockCopy("vda", "<disk/>", [1]),
    lambda d: d.blockCopy("vda", "<disk/>", []),
    lambda d: d.blockPull(None),
    lambda d: d.blockCommit(None, None, None),
    lambda d: d.blockCommit("vda", 1, None),
    lambda d: d.blockCommit("vda", None, 1),
    lambda d: d.blockJobAbort(None),
    lambda d: d.blockJobInfo(None),
    lambda d: d.blockJobInfo(3),
    lambda d: d.blockJobSetSpeed(None, 0),
    lambda d: d.blockJobSetSpeed("vda", BIG),
    lambda d: d.blockInfo(None),
    lambda d: d.blockInfo(""),
    lambda d: d.blockStats(None),
    lambda d: d.XMLDesc("x"),
    lambda d: d.save(None),
    lambda d: d.saveFlags(None, 3),
    lambda d: d.snapshotCreateXML(None),
    lambda d: d.detachDevice(None),
    lambda d: d.detachDeviceFlags(None, 0),
    lambda d: d.abortJob(),
    lambda d: d.migrateGetMaxSpeed(),
]
# Calls on a connection, likewise.
CONNECT_CALLS: list[Callable[[Any], Any]] = [
    lambda c: c.lookupByName(None),
    lambda c: c.lookupByName(1),
    lambda c: c.lookupByUUIDString("zz"),
    lambda c: c.lookupByUUIDString(None),
    lambda c: c.lookupByID(-1),
    lambda c: c.lookupByID("x"),
    lambda c: c.lookupByID(1 << 31),
    lambda c: c.lookupByID(-(1 << 31) - 1),
    lambda c: c.listAllDomains("x"),
    lambda c: c.defineXML(None),
    lambda c: c.defineXMLFlags(None),
    lambda c: c.createXML(None),
    lambda c: c.domainEventDeregisterAny("x"),
    lambda c: c.setIdentity({}),
    lambda c: c.compareCPU("<x/>"),
    lambda c: c.secretLookupByUUIDString("f695eb01-f6a4-8304-79aa-97f2502e193f") and None,
]


def outcome(module: Any, call: Callable[[Any], Any], subject: Any) -> Any:
    """The exception of a call with all that it holds."""
    try:
        return "answer", call(subject)
    except module.libvirtError as error:
        return "libvirtError", error.err, error.args, module.virGetLastError()
    except Exception as error:
        return type(error), str(error)


def test_wrong_arguments_are_refused_alike(daemon: Daemon, guest: Any) -> None:
    their_connection, our_connection = theirs.open("test:///default"), ours.open(f"virtblock+{daemon.target}")
    their_domain, our_domain = their_connection.lookupByName("test"), our_connection.lookupByName("guest")
    for number, call in enumerate(DOMAIN_CALLS):
        assert (number, outcome(ours, call, our_domain)) == (number, outcome(theirs, call, their_domain))
    for number, call in enumerate(CONNECT_CALLS[:-1]):
        assert (number, outcome(ours, call, our_connection)) == (number, outcome(theirs, call, their_connection))
    assert (our_domain.connect(), our_domain._conn) == (our_connection, our_connection)


def test_closed_connections_answer_alike(daemon: Daemon, guest: Any) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda c: c.close(),
        lambda c: c.close(),
        lambda c: c.getURI(),
        lambda c: c.isAlive(),
        lambda c: c.lookupByName("guest"),
        lambda c: c.listAllDomains(),
    ]
    for does_hold in (False, True):
        pairs = []
        for module, uri, name in (
            (theirs, "test:///default", "test"),
            (ours, f"virtblock+{daemon.target}", "guest"),
        ):
            connection = module.open(uri)
            held = connection.lookupByName(name) if does_hold else None
            pairs.append([outcome(module, call, connection) for call in calls])
            if held is not None:
                assert "<domain" in held.XMLDesc()
                assert held.connect() is connection
        assert pairs[1] == pairs[0]
