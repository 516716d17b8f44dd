# SPDX-License-Identifier: Apache-2.0
"""Callbacks of `virtblock.libvirt`: their arguments and order, loops of the program's own, and the end of a connection.

An event loop is for ever in a process, as libvirt's is, so each case runs in a process of its own.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from client.daemon import Daemon

from virtblock.client.errors import timed_out
from virtblock.libvirt import VIR_CONNECT_CLOSE_REASON_KEEPALIVE
from virtblock.libvirt.keepalive import Keepalive

START = """
import os, sys, threading, time
from virtblock import libvirt
libvirt.registerErrorHandler(lambda context, error: None, None)
uri, folder = sys.argv[1:]
COPY, PIVOT = 8, 2
seen = []

def until(condition, what):
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, (what, seen)
        time.sleep(0.01)

def loop():
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=lambda: [libvirt.virEventRunDefaultImpl() for _ in iter(int, 1)], daemon=True).start()
"""


def run(daemon: Daemon, tmp_path: Path, program: str) -> str:
    """What a program prints."""
    command = [sys.executable, "-W", "error", "-c", START + program, f"virtblock+{daemon.target}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_callbacks_have_libvirts_arguments_in_its_order(daemon: Daemon, guest: Any, tmp_path: Path) -> None:
    printed = run(
        daemon,
        tmp_path,
        """
loop()
connection = libvirt.open(uri)
domain = connection.lookupByName("guest")

def told(conn, dom, disk, kind, status, opaque):
    assert conn is connection and type(dom) is libvirt.virDomain and dom.UUID() == domain.UUID()
    seen.append((opaque, disk, kind, status))

def lived(conn, dom, event, detail, opaque):
    assert conn is connection
    seen.append((opaque, dom.name(), event, detail))

numbers = [
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB, told, "path"),
    connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, told, "target"),
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lived, "life"),
]
assert numbers == [0, 1, 2], numbers
domain.blockRebase("vda", folder + "/copy", 0, COPY)
until(lambda: ("target", "vda", 2, 3) in seen, "READY")
domain.blockJobAbort("vda", PIVOT)
until(lambda: ("target", "vda", 2, 0) in seen, "COMPLETED")
connection.domainEventDeregisterAny(numbers[0])
domain.blockRebase("vda", folder + "/copy2", 0, COPY)
until(lambda: seen.count(("target", "vda", 2, 3)) == 2, "READY again")
domain.blockJobAbort("vda", 0)
until(lambda: ("target", "vda", 2, 2) in seen, "CANCELED")
domain.undefine()
until(lambda: seen[-1][0] == "life", "UNDEFINED")
for each in seen:
    print(each)
""",
    )
    assert printed.splitlines() == [
        str(each)
        for each in [
            ("path", str(guest.top), 2, 3),
            ("target", "vda", 2, 3),
            ("path", f"{tmp_path}/copy", 2, 0),
            ("target", "vda", 2, 0),
            ("target", "vda", 2, 3),
            ("target", "vda", 2, 2),
            ("life", "guest", 1, 0),
        ]
    ]


def test_a_callback_may_make_calls_and_fail(daemon: Daemon, guest: Any, tmp_path: Path) -> None:
    """Pivoting from inside the callback, as backup programs do; a callback that raises keeps nothing from the next."""
    printed = run(
        daemon,
        tmp_path,
        """
loop()
sys.excepthook = lambda kind, error, trace: seen.append(repr(error))
connection = libvirt.open(uri)
domain = connection.lookupByName("guest")

def pivot(conn, dom, disk, kind, status, opaque):
    if status == libvirt.VIR_DOMAIN_BLOCK_JOB_READY:
        dom.blockJobAbort(disk, PIVOT)

connection.domainEventRegisterAny(None, 16, lambda *a: 1 / 0, None)
connection.domainEventRegisterAny(None, 8, pivot, None)
domain.blockRebase("vda", folder + "/copy", 0, COPY)
until(lambda: folder + "/copy" in domain.XMLDesc() and domain.blockJobInfo("vda") == {}, "the pivot")
until(lambda: len(seen) == 2, "both exceptions")
print(seen)
""",
    )
    assert printed == "[\"ZeroDivisionError('division by zero')\", \"ZeroDivisionError('division by zero')\"]\n"


def test_what_cannot_be_registered_is_refused(daemon: Daemon, guest: Any, tmp_path: Path) -> None:
    printed = run(
        daemon,
        tmp_path,
        """
connection = libvirt.open(uri)
def show(call):
    try:
        print(call())
    except Exception as error:
        print(type(error).__name__, getattr(error, "err", None), error)

show(lambda: connection.domainEventRegisterAny(None, 16, print, None))
show(lambda: connection.setKeepAlive(5, 3))
libvirt.virResetLastError()
show(lambda: libvirt.virEventAddHandle(0, 1, print, None))
loop()
show(lambda: connection.domainEventRegisterAny(None, 99, print, None))
show(lambda: connection.domainEventRegisterAny("x", 16, print, None))
show(lambda: connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, print, None))
show(lambda: connection.domainEventDeregisterAny(7))
show(lambda: connection.domainEventDeregisterAny(-1))
show(lambda: connection.domainEventRegisterAny(None, 16, print, 1))
show(lambda: connection.domainEventRegisterAny(None, 16, id, 2))
show(lambda: connection.domainEventDeregisterAny(0))
show(lambda: connection.registerCloseCallback(print, None))
show(lambda: connection.registerCloseCallback(print, None))
show(connection.unregisterCloseCallback)
show(connection.unregisterCloseCallback)
show(lambda: connection.close())
""",
    ).splitlines()
    assert printed[0].endswith("internal error: could not initialize domain event timer")
    assert printed[1].startswith("libvirtError (")
    assert printed[2] == "libvirtError None virEventAddHandle() failed"
    assert printed[3] == "libvirtError None virConnectDomainEventRegisterAny() failed"
    assert printed[4] == "AttributeError None 'str' object has no attribute '_o'"
    assert printed[5].startswith("libvirtError (3, ")
    assert printed[6].endswith("invalid argument: event callback id 7 not registered")
    assert printed[7].endswith("callbackID in virConnectDomainEventDeregisterAny must be zero or greater")
    assert printed[8] == "0"
    assert printed[9].endswith("invalid argument: event callback already tracked")
    assert printed[10:12] == ["None", "0"]
    assert printed[12].startswith(
        "libvirtError (55, 13, 'Requested operation is not valid: A close callback is already"
    )
    assert printed[13] == "None"
    assert printed[14].startswith("libvirtError (55, 13, 'Requested operation is not valid: A different callback")
    assert printed[15] == "0"


def test_the_default_loop_serves_handles_and_timers(daemon: Daemon, tmp_path: Path) -> None:
    run(
        daemon,
        tmp_path,
        """
assert libvirt.virEventRegisterDefaultImpl() == 0
read, write = os.pipe()
watch = libvirt.virEventAddHandle(read, libvirt.VIR_EVENT_HANDLE_READABLE, lambda *a: seen.append(a), "handle")
timer = libvirt.virEventAddTimeout(0, lambda *a: seen.append(a), "timer")
os.write(write, b"x")
assert libvirt.virEventRunDefaultImpl() == 0
assert sorted(seen, key=len) == [(timer, "timer"), (watch, read, 1, "handle")], seen
assert libvirt.virEventUpdateHandle(watch, 0) is None
seen.clear()
libvirt.virEventRunDefaultImpl()
assert seen == [(timer, "timer")], seen
assert libvirt.virEventRemoveTimeout(timer) == libvirt.virEventRemoveHandle(watch) == 0
for call in (libvirt.virEventRemoveTimeout, libvirt.virEventRemoveHandle):
    try:
        call(timer)
        raise SystemExit("removed twice")
    except libvirt.libvirtError as error:
        assert error.err is None
libvirt.virEventAddTimeout(1, lambda *a: seen.append(a), "again")
while ("again",) not in [each[1:] for each in seen]:
    libvirt.virEventRunDefaultImpl()
""",
    )


def test_a_loop_of_the_programs_own(daemon: Daemon, guest: Any, tmp_path: Path) -> None:
    """Its functions get what libvirt-python gives them: a function to call back, and the opaque for it."""
    run(
        daemon,
        tmp_path,
        """
import select
handles = {}

def add(fd, events, cb, opaque):
    handles[fd] = (cb, opaque)
    return fd

def remove(watch):
    libvirt.virEventInvokeFreeCallback(handles.pop(watch)[1])
    return 0

nothing = lambda *a: None
libvirt.virEventRegisterImpl(add, nothing, remove, lambda *a: 1, nothing, nothing)
connection = libvirt.open(uri)
domain = connection.lookupByName("guest")
number = connection.domainEventRegisterAny(None, 16, lambda *a: seen.append(a[2:]), "opaque")
domain.blockRebase("vda", folder + "/copy", 0, COPY)
while ("vda", 2, 3, "opaque") not in seen:
    for fd in select.select(list(handles), [], [], 60)[0]:
        cb, opaque = handles[fd]
        cb(fd, fd, 1, opaque)
domain.blockJobAbort("vda")
del domain
connection.domainEventDeregisterAny(number)
seen.clear()
assert connection.close() == 0
assert handles == {}
""",
    )


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_lost_server_is_told(daemon: Daemon, guest: Any, tmp_path: Path, signal_number: int) -> None:
    program = """
loop()
connection = libvirt.open(uri)
domain = connection.lookupByName("guest")
connection.registerCloseCallback(lambda *a: seen.append(a), "opaque")
connection.setKeepAlive(60, 5)
print("registered", flush=True)
until(lambda: seen, "the close callback")
assert seen[0][0] is connection and seen[0][1:] == (libvirt.VIR_CONNECT_CLOSE_REASON_EOF, "opaque"), seen
assert connection.isAlive() == 0
try:
    domain.XMLDesc()
    raise SystemExit("a dead connection answered")
except libvirt.libvirtError as error:
    assert error.err[:3] == (1, 7, "internal error: client socket is closed"), error.err
"""
    command = [sys.executable, "-W", "error", "-c", START + program, f"virtblock+{daemon.target}", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "registered\n"
        daemon.stop(signal.Signals(signal_number))
        assert running.communicate(timeout=100)[0] == ""
    assert running.returncode == 0


def test_a_silent_server_is_lost_after_interval_times_count() -> None:
    waited_s: list[float] = []
    reasons: list[int] = []
    lost = threading.Event()

    def be_silent(timeout_s: float) -> str:
        waited_s.append(timeout_s)
        raise timed_out("GetURI", timeout_s)

    def lose(reason: int) -> None:
        reasons.append(reason)
        link.is_lost = True
        lost.set()

    link: Any = SimpleNamespace(client=SimpleNamespace(get_uri=be_silent), is_lost=False, lose=lose)
    keepalive = Keepalive(link, 1, 3)
    assert lost.wait(60)
    keepalive.stop()
    assert (waited_s, reasons) == ([3.0], [VIR_CONNECT_CLOSE_REASON_KEEPALIVE])
