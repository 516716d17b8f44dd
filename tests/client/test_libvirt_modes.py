# SPDX-License-Identifier: Apache-2.0
"""The other ways in which a program meets `virtblock.libvirt`: unchanged, from asyncio, and as an overlay.

Each case runs in a process of its own: an event loop, and what stands in for a module, are for ever in one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from client.daemon import Daemon

UNTIL = """
import sys, threading, time
def until(condition, what):
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)
"""


def run(daemon: Daemon, command: list[str]) -> str:
    """What a program prints that has the daemon as its server."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=os.environ | {"VIRTBLOCK_SERVER": daemon.target},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.mark.parametrize("as_module", [False, True], ids=["script", "module"])
def test_a_program_runs_unchanged(daemon: Daemon, guest: Any, tmp_path: Path, as_module: bool) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nimport libvirt, libvirtaio\nimport helper\n"
        "connection = libvirt.open('embedded:///')\n"
        "print(sys.argv[1:], connection.lookupByName('guest').name(), helper.NAME, __name__)\n"
        "print(libvirt.__name__, libvirtaio.getCurrentImpl())\n"
    )
    (tmp_path / "helper.py").write_text("NAME = 'beside'\n")
    if as_module:
        command = ["-c", f"import os, runpy; os.chdir({str(tmp_path)!r}); import sys; "
                   "sys.argv = ['', '-m', 'program', 'a', '-b']; "
                   "runpy.run_module('virtblock.libvirt', run_name='__main__', alter_sys=True)"]  # fmt: skip
    else:
        command = ["-m", "virtblock.libvirt", str(program), "a", "-b"]
    assert run(daemon, command) == "['a', '-b'] guest beside __main__\nvirtblock.libvirt None\n"


@pytest.mark.parametrize("module", ["virtblock.libvirt", "virtblock.overlay"])
def test_without_a_program_the_usage_is_told(module: str) -> None:
    for arguments in ([], ["-m"], ["--help"]):
        done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
        assert done.stderr.startswith(f"usage: python -m {module} SCRIPT")
        assert done.returncode == 1


def test_asyncio_calls_back(daemon: Daemon, guest: Any, tmp_path: Path) -> None:
    program = """
import asyncio, sys
from virtblock import libvirt, libvirtaio

async def main(folder):
    implementation = libvirtaio.virEventRegisterAsyncIOImpl()
    assert libvirtaio.getCurrentImpl() is implementation and implementation.is_idle()
    ticks, told = [], asyncio.Queue()
    timer = libvirt.virEventAddTimeout(1, lambda number, opaque: ticks.append((number, opaque)), "tick")
    connection = libvirt.open()
    domain = connection.lookupByName("guest")
    number = connection.domainEventRegisterAny(domain, 16, lambda *a: told.put_nowait(a[2:]), "opaque")
    domain.blockRebase("vda", folder + "/copy", 0, libvirt.VIR_DOMAIN_BLOCK_REBASE_COPY)
    assert await asyncio.wait_for(told.get(), 60) == ("vda", 2, 3, "opaque")
    domain.blockJobAbort("vda", 0)
    assert await asyncio.wait_for(told.get(), 60) == ("vda", 2, 2, "opaque")
    while len(ticks) < 2:
        await asyncio.sleep(0.01)
    assert ticks[0] == (timer, "tick")
    connection.domainEventDeregisterAny(number)
    libvirt.virEventRemoveTimeout(timer)
    del domain
    assert connection.close() == 0
    assert not implementation.is_idle()
    await asyncio.wait_for(implementation.drain(), 60)
    assert implementation.is_idle()

asyncio.run(main(sys.argv[1]))
"""
    assert run(daemon, ["-c", program, str(tmp_path)]) == ""


OVERLAY = (
    UNTIL
    + """
import libvirt
from virtblock import overlay
from virtblock.client import Client

target, folder = sys.argv[1:]
libvirt.registerErrorHandler(lambda context, error: None, None)
libvirt.virEventRegisterDefaultImpl()
# A loop that has something to do never waits for ever, so that the thread sees new handles.
libvirt.virEventAddTimeout(20, lambda *a: None, None)
threading.Thread(target=lambda: [libvirt.virEventRunDefaultImpl() for _ in iter(int, 1)], daemon=True).start()
with Client(target) as client:
    xml = client.get_xml_desc("guest").replace("type='qemu'", "type='test'")
originals = dict(vars(libvirt.virDomain)), dict(vars(libvirt.virConnect)), libvirt.openReadOnly
overlay.install(target, connection_uri="embedded:///")
overlay.install("unix:/nowhere", connection_uri="other:///")
connection = libvirt.open("test:///default")
domain = connection.defineXML(xml)
seen = []

def refused(call, *arguments):
    try:
        call(*arguments)
    except libvirt.libvirtError as error:
        return error
    raise SystemExit(f"{call} was not refused")
"""
)


def test_the_overlay_sends_block_jobs_to_the_server(daemon: Daemon, guest: Any, tmp_path: Path, qemu_img: Any) -> None:
    program = """
def told(conn, dom, disk, kind, status, opaque):
    assert conn is connection and type(dom) is libvirt.virDomain and dom.UUID() == domain.UUID()
    seen.append((disk, kind, status, opaque))
    if status == libvirt.VIR_DOMAIN_BLOCK_JOB_READY:
        dom.blockJobAbort(disk, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)

number = connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, told, "opaque")
lifecycle = connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, told, None)
assert number > lifecycle == 0
assert domain.blockJobInfo("vda") == {}
assert domain.blockRebase("vda", folder + "/copy.qcow2", 0, libvirt.VIR_DOMAIN_BLOCK_REBASE_COPY) == 0
until(lambda: ("vda", 2, 0, "opaque") in seen, "the pivot")
assert seen == [("vda", 2, 3, "opaque"), ("vda", 2, 0, "opaque")], seen
connection.domainEventDeregisterAny(number)
connection.domainEventDeregisterAny(lifecycle)
assert refused(connection.domainEventDeregisterAny, number).get_error_code() == libvirt.VIR_ERR_INVALID_ARG
missing = refused(domain.blockJobAbort, "vdz")
assert type(missing).__mro__[1] is libvirt.libvirtError and missing.get_error_code() == 8, missing.err
assert missing.args == (missing.get_error_message(),)
null = refused(domain.blockCopy, "vda", None)
text = "destxml in virDomainBlockCopy must not be NULL"
assert null.err == (8, 20, text, 2, "virDomainBlockCopy", "destxml", None, 0, 0), null.err
for opened in (
    libvirt.openReadOnly("test:///default"),
    libvirt.openAuth("test:///default", [[], None, None], libvirt.VIR_CONNECT_RO),
):
    only_read = opened.lookupByName("guest")
    assert only_read.blockJobInfo("vda") == {}
    error = refused(only_read.blockRebase, "vda", folder + "/x", 0, libvirt.VIR_DOMAIN_BLOCK_REBASE_COPY)
    assert error.get_error_code() == libvirt.VIR_ERR_OPERATION_DENIED, error
"""
    run(daemon, ["-c", OVERLAY + program, daemon.target, str(tmp_path)])
    assert qemu_img.is_same(guest.top, "qcow2", tmp_path / "copy.qcow2", "qcow2")


def test_the_overlay_leaves_as_it_came(daemon: Daemon, guest: Any, tmp_path: Path) -> None:
    program = """
assert type(refused(domain.blockResize, "vda", 1)) is libvirt.libvirtError
overlay.uninstall()
overlay.uninstall()
assert (dict(vars(libvirt.virDomain)), dict(vars(libvirt.virConnect)), libvirt.openReadOnly) == originals
assert refused(domain.blockJobInfo, "vda").get_error_code() == libvirt.VIR_ERR_NO_SUPPORT
overlay.install(target, connection_uri="embedded:///")
assert domain.blockJobInfo("vda") == {}
"""
    assert run(daemon, ["-c", OVERLAY + program, daemon.target, str(tmp_path)]) == ""
