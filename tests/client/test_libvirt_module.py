# SPDX-License-Identifier: Apache-2.0
"""`virtblock.libvirt` against the real daemon: what programs written for libvirt-python do, and are answered."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client.daemon import Daemon

from virtblock import libvirt

COPY, PIVOT = libvirt.VIR_DOMAIN_BLOCK_REBASE_COPY, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT
WAIT_S = 60


@pytest.fixture
def connection(daemon: Daemon, guest: Any) -> Iterator[libvirt.virConnect]:
    """A connection whose errors are not printed."""
    libvirt.registerErrorHandler(lambda context, error: None, None)
    made = libvirt.open(f"virtblock+{daemon.target}")
    yield made
    if made._o is not None:
        made.close()
    libvirt.registerErrorHandler(None, None)


def until(condition: Callable[[], Any], what: str) -> Any:
    """What the condition answers once it is true."""
    deadline_s = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"waited for: {what}"
        time.sleep(0.01)
    return found


def refused(call: Callable[..., Any], *arguments: Any) -> libvirt.libvirtError:
    """The error of a call that must fail."""
    with pytest.raises(libvirt.libvirtError) as caught:
        call(*arguments)
    return caught.value


def is_ready(domain: libvirt.virDomain) -> bool:
    info = domain.blockJobInfo("vda")
    return bool(info) and info["cur"] == info["end"] > 0


def test_look_ups_and_answers_have_libvirts_types(connection: libvirt.virConnect, guest: Any) -> None:
    domain = connection.lookupByName("guest")
    assert type(domain) is libvirt.virDomain
    assert domain.name() == "guest"
    assert domain.UUID() == uuid.UUID(domain.UUIDString()).bytes
    for found in (
        connection.lookupByUUIDString(domain.UUIDString()),
        connection.lookupByUUID(domain.UUID()),
        *connection.listAllDomains(),
    ):
        assert (found.name(), found.UUIDString(), found == domain) == ("guest", domain.UUIDString(), False)
        assert found.connect() is connection
    assert domain.state() == [libvirt.VIR_DOMAIN_SHUTOFF, domain.state()[1]]
    assert domain.info()[:1] + domain.info()[3:] == [libvirt.VIR_DOMAIN_SHUTOFF, 1, 0]
    assert (domain.isActive(), domain.isPersistent(), domain.ID(), domain.OSType()) == (0, 1, -1, "hvm")
    assert domain.maxMemory() == 64 * 1024
    assert "<name>guest</name>" in domain.XMLDesc()
    capacity, allocation, physical = domain.blockInfo("vda")
    assert capacity == guest.size_bytes
    assert allocation > 0
    assert physical > 0
    assert type(domain.blockInfo("vda")) is list
    assert domain.blockJobInfo("vda") == {}
    assert (connection.listDefinedDomains(), connection.numOfDefinedDomains()) == (["guest"], 1)
    assert (connection.listDomainsID(), connection.numOfDomains()) == ([], 0)


def test_a_connection_says_what_it_is(connection: libvirt.virConnect) -> None:
    assert connection.getURI() == "embedded:///"
    assert connection.getType() == "Embedded"
    assert connection.getLibVersion() == libvirt.getVersion()
    assert (connection.isAlive(), connection.isSecure(), connection.isEncrypted()) == (1, 1, 0)
    assert connection.getCapabilities().startswith("<capabilities>")
    assert connection.getHostname()


def test_copy_and_pivot(connection: libvirt.virConnect, guest: Any, tmp_path: Path, qemu_img: Any) -> None:
    domain, copy = connection.lookupByName("guest"), tmp_path / "copy.qcow2"
    assert domain.blockRebase("vda", str(copy), 0, COPY) == 0
    until(lambda: is_ready(domain), "the copy is READY")
    info = domain.blockJobInfo("vda", 0)
    assert list(info) == ["type", "bandwidth", "cur", "end"]
    assert info["type"] == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY
    assert domain.blockJobSetSpeed("vda", 7) == 0
    assert domain.blockJobInfo("vda")["bandwidth"] == 7
    assert domain.blockJobInfo("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)["bandwidth"] == 7 << 20
    busy = refused(domain.blockRebase, "vda", str(tmp_path / "other"), 0, COPY)
    assert busy.get_error_code() == libvirt.VIR_ERR_BLOCK_COPY_ACTIVE
    assert domain.blockJobAbort("vda", PIVOT) == 0
    assert domain.blockJobInfo("vda") == {}
    assert str(copy) in domain.XMLDesc(0)
    assert qemu_img.is_same(guest.top, "qcow2", copy, "qcow2")


def test_block_copy_pull_commit_and_resize(connection: libvirt.virConnect, guest: Any, tmp_path: Path) -> None:
    domain, copy = connection.lookupByName("guest"), tmp_path / "copy.raw"
    xml = f"<disk type='file'><driver type='raw'/><source file='{copy}'/></disk>"
    assert domain.blockCopy("vda", xml, {"bandwidth": 0, "granularity": 65536}, 0) == 0
    until(lambda: is_ready(domain), "the copy is READY")
    assert domain.blockJobAbort("vda") == 0
    commit_top = str(guest.files[1])
    assert domain.blockCommit("vda", None, commit_top, 0, 0) == 0
    until(lambda: domain.blockJobInfo("vda") == {}, "the commit is over")
    assert domain.blockPull("vda") == 0
    until(lambda: domain.blockJobInfo("vda") == {}, "the pull is over")
    assert "<backingStore/>" in domain.XMLDesc() or "backingStore" not in domain.XMLDesc()
    size_bytes = guest.size_bytes * 2
    assert domain.blockResize("vda", size_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES) == 0
    assert domain.blockInfo("vda")[0] == size_bytes


def test_errors_are_libvirts(connection: libvirt.virConnect) -> None:
    missing = refused(connection.lookupByName, "nobody")
    assert (missing.get_error_code(), missing.get_error_level()) == (libvirt.VIR_ERR_NO_DOMAIN, 2)
    assert str(missing) == missing.get_error_message() == "Domain not found: no domain with matching name 'nobody'"
    assert missing.args == (str(missing),)
    assert missing.err == libvirt.virGetLastError() == connection.virConnGetLastError()
    assert libvirt.virGetLastErrorMessage() == str(missing)
    connection.getURI()
    assert libvirt.virGetLastError() is None
    assert connection.virConnGetLastError() == missing.err
    not_offered = refused(connection.lookupByName("guest").abortJob)
    assert not_offered.err == (
        3, 20, "this function is not supported by the connection driver: virDomainAbortJob", 2,
        "this function is not supported by the connection driver: %s", "virDomainAbortJob", None, -1, -1,
    )  # fmt: skip
    assert refused(connection.listAllNetworks).get_error_domain() == libvirt.VIR_FROM_NETWORK
    inactive = refused(connection.lookupByName("guest").destroy)
    assert inactive.get_error_code() in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_SUPPORT)


def test_errors_are_told_to_the_handler_or_printed(
    connection: libvirt.virConnect, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Any] = []
    assert libvirt.registerErrorHandler(lambda context, error: told.append((context, error)), "context") == 1
    error = refused(connection.lookupByName, "nobody")
    assert told == [("context", error.err)]
    libvirt.registerErrorHandler(None, None)
    refused(connection.lookupByName("guest").abortJob)
    text = "this function is not supported by the connection driver: virDomainAbortJob"
    assert capsys.readouterr().err == f"libvirt: Domain Config error : {text}\n"


def test_read_only_connections_change_nothing(daemon: Daemon, connection: libvirt.virConnect, tmp_path: Path) -> None:
    uri = f"virtblock+{daemon.target}"
    for read_only in (libvirt.openReadOnly(uri), libvirt.openAuth(uri, [[], None, None], libvirt.VIR_CONNECT_RO)):
        domain = read_only.lookupByName("guest")
        error = refused(domain.blockRebase, "vda", str(tmp_path / "x"), 0, COPY)
        assert error.err == (
            29, 20, "operation forbidden: read only access prevents virDomainBlockRebase", 2,
            "operation forbidden: %s", "read only access prevents virDomainBlockRebase", None, -1, -1,
        )  # fmt: skip
        assert domain.blockJobInfo("vda") == {}
        read_only.close()
    assert libvirt.openAuth(uri, [[], None, None], 0).close() == 0
    assert refused(libvirt.openAuth, uri, None, 8).get_error_code() == libvirt.VIR_ERR_INVALID_ARG


def test_define_and_undefine(connection: libvirt.virConnect, tmp_path: Path) -> None:
    xml = connection.lookupByName("guest").XMLDesc()
    other = xml.replace("guest", "other").replace(connection.lookupByName("guest").UUIDString(), str(uuid.uuid4()))
    disk = other[other.index("<disk") : other.index("</disk>") + len("</disk>")]
    domain = connection.defineXML(other.replace(disk, ""))
    assert (domain.name(), domain.isPersistent()) == ("other", 1)
    assert connection.defineXMLFlags(domain.XMLDesc(), 0).UUID() == domain.UUID()
    assert domain.undefine() == 0
    gone = f"Domain not found: no domain with matching uuid '{domain.UUIDString()}' (other)"
    assert str(refused(domain.XMLDesc)) == gone
    assert refused(domain.revertToSnapshot, None).get_error_code() == libvirt.VIR_ERR_INVALID_DOMAIN_SNAPSHOT


def test_any_other_uri_goes_to_the_server_of_the_environment(
    daemon: Daemon, guest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirt.registerErrorHandler(lambda context, error: None, None)
    monkeypatch.setenv("VIRTBLOCK_SERVER", daemon.target)
    with libvirt.open("embedded:///") as connection:
        assert connection.getURI() == "embedded:///"
    with libvirt.open() as connection:
        assert connection.getURI() == "embedded:///"
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", f"virtblock+{daemon.target}?connect=embedded:///")
    monkeypatch.delenv("VIRTBLOCK_SERVER")
    assert libvirt.open(None).lookupByName("guest").name() == "guest"
    unknown = refused(libvirt.open, f"virtblock+{daemon.target}?connect=foo:///x")
    assert (unknown.get_error_code(), str(unknown)) == (5, "no connection driver available for foo:///x")
    for uri in (
        f"virtblock+{daemon.target}?conect=embedded:///",
        "virtblock+unix://host/path",
        "virtblock+tls://host",
        "virtblock+tls://host:1/path",
        "virtblock+tcp://198.51.100.1:16514/",
    ):
        assert refused(libvirt.open, uri).get_error_code() == libvirt.VIR_ERR_INVALID_ARG
    nobody = refused(libvirt.open, "virtblock+unix:///nowhere/socket")
    assert nobody.err is not None
    assert nobody.err[:2] + nobody.err[7:8] == (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, 2)


def test_objects_can_be_wrapped_and_subclassed(connection: libvirt.virConnect) -> None:
    class Mine(libvirt.virDomain):
        def name(self) -> str:
            return f"my {super().name()}"

    domain = connection.lookupByName("guest")
    assert Mine(connection, _obj=domain._o).name() == "my guest"
    for name in dir(libvirt.virDomain):
        if callable(getattr(domain, name)) and not name.startswith("_"):
            setattr(domain, name, getattr(domain, name))
    assert domain.name() == "guest"
    connection.lookupByName("guest").__del__()
    assert len({domain, connection.lookupByName("guest")}) == 2
