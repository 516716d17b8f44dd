# SPDX-License-Identifier: Apache-2.0
"""What virsh's test driver cannot answer: texts, calls and JSON over the fake client.

The expected texts were taken from virsh 9.0 on a running guest.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli.command_line import DOMAIN_XML, Ran, Virtblock
from cli.fake_client import MIB, RUNNING, T1, FakeClient, FakeStream, job_record, vir_error

from virtblock.cli import interrupts
from virtblock.cli.global_options import GlobalOptions
from virtblock.cli.runner import open_client
from virtblock.client import (
    BlockInfo,
    BlockJobInfo,
    BlockJobState,
    BlockJobStatus,
    BlockJobStatusEvent,
    BlockJobType,
    BlockStats,
    Capabilities,
    ConnectionCapabilities,
    DomainEvent,
    DomainEventId,
    DomainEventType,
    DomainState,
    DomainStateReason,
    ErrorNumber,
    LifecycleEvent,
    Snapshot,
    VirError,
)


def job_info(bandwidth: int = 0, cur: int = 16 * MIB, end: int = 256 * MIB) -> BlockJobInfo:
    """A copy's figures."""
    return BlockJobInfo(BlockJobType.COPY, bandwidth, cur, end)


@pytest.mark.parametrize(
    ("words", "info", "ran", "flags"),
    [
        ("", None, Ran(0, "No current block job for vda\n", ""), 1),
        ("--raw", None, Ran(0, "\n", ""), 0),
        (
            "",
            job_info(MIB),
            Ran(0, "    Bandwidth limit: 1048576 bytes/s (1.000 MiB/s)\n\n", "\rBlock Copy: [  6 %]"),
            1,
        ),
        ("--info", job_info(0, 256 * MIB), Ran(0, "\n\n", "\rBlock Copy: [100 %]"), 1),
        ("--bytes", job_info(0, 256 * MIB - 1), Ran(0, "\n\n", "\rBlock Copy: [ 99 %]"), 1),
        ("--raw", job_info(1), Ran(0, f" type=Block Copy\n bandwidth=1\n cur={16 * MIB}\n end={256 * MIB}\n\n", ""), 0),
        (
            "--raw --bytes",
            job_info(7),
            Ran(0, f" type=Block Copy\n bandwidth=7\n cur={16 * MIB}\n end={256 * MIB}\n\n", ""),
            1,
        ),
    ],
)
def test_blockjob_tells(
    virtblock: Virtblock, client: FakeClient, words: str, info: BlockJobInfo | None, ran: Ran, flags: int
) -> None:
    client.answers["get_block_job_info"] = info
    assert virtblock("blockjob", "t1", "vda", *words.split()) == ran
    assert client.called("get_block_job_info") == [{"domain": T1, "disk": "vda", "flags": flags}]


@pytest.mark.parametrize(
    ("words", "method", "given"),
    [
        ("--abort", "block_job_abort", {"flags": 0}),
        ("--pivot", "block_job_abort", {"flags": 2}),
        ("--async --abort", "block_job_abort", {"flags": 1}),
        ("--async --pivot", "block_job_abort", {"flags": 3}),
        ("5", "block_job_set_speed", {"bandwidth": 5, "flags": 0}),
        ("5M --bytes", "block_job_set_speed", {"bandwidth": 5 * MIB, "flags": 1}),
        ("--bandwidth 0 --abort", "block_job_set_speed", {"bandwidth": 0, "flags": 0}),
    ],
)
def test_blockjob_acts(
    virtblock: Virtblock, client: FakeClient, words: str, method: str, given: dict[str, int]
) -> None:
    client.answers |= {"block_job_abort": job_record(BlockJobState.CANCELED), "block_job_set_speed": None}
    assert virtblock("blockjob", "t1", "vda", *words.split()) == Ran(0, "\n", "")
    assert client.called(method) == [{"domain": T1, "disk": "vda", **given}]


@pytest.mark.parametrize(
    ("size", "given"),
    [
        ("10", (10, 0)),
        ("1G", (MIB, 0)),
        ("1025b", (1025, 1)),
        ("2048b", (2, 0)),
        ("1KB", (1000, 1)),
        ("300M", (307200, 0)),
    ],
)
def test_blockresize(virtblock: Virtblock, client: FakeClient, size: str, given: tuple[int, int]) -> None:
    client.answers["block_resize"] = None
    assert virtblock("blockresize", "t1", "vda", size) == Ran(0, "Block device 'vda' is resized\n", "")
    (call,) = client.called("block_resize")
    assert (call["size"], call["flags"]) == given


def test_a_resize_that_fails_takes_two_lines(virtblock: Virtblock, client: FakeClient) -> None:
    client.answers["block_resize"] = vir_error(ErrorNumber.BLOCK_COPY_ACTIVE, "domain has active block copy job")
    ran = virtblock("blockresize", "t1", "vda", "10")
    assert ran.err == "error: Failed to resize block device 'vda'\nerror: domain has active block copy job\n"
    assert (ran.exit_code, ran.out) == (1, "\n")


@pytest.mark.parametrize(
    ("domain", "words", "method", "flags"),
    [
        ("t1", "", "detach_device", None),
        ("t1", "--current", "detach_device_flags", 0),
        ("t1", "--config", "detach_device_flags", 2),
        ("t1", "--persistent", "detach_device_flags", 2),
        ("test", "--persistent", "detach_device_flags", 3),
        ("test", "--live", "detach_device_flags", 1),
    ],
)
def test_detach_disk(
    virtblock: Virtblock, client: FakeClient, domain: str, words: str, method: str, flags: int | None
) -> None:
    client.answers |= {"detach_device": None, "detach_device_flags": None}
    assert virtblock("detach-disk", domain, "sdb", *words.split()) == Ran(0, "Disk detached successfully\n\n", "")
    (call,) = client.called(method)
    assert call.get("flags") == flags
    assert '<target dev="sdb" bus="scsi"/>' in call["xml"]
    assert client.called("get_xml_desc")[0]["flags"] == (2 if flags in (2, 3) else 0)


def test_snapshot_create_as(virtblock: Virtblock, client: FakeClient) -> None:
    client.answers["snapshot_create_xml"] = Snapshot("s1", "<domainsnapshot/>")
    words = ["snapshot-create-as", "t1", "s1", "--disk-only", "--atomic", "--no-metadata", "--reuse-external"]
    assert virtblock(*words, "--diskspec", "vda,file=/x") == Ran(0, "Domain snapshot s1 created\n", "")
    (call,) = client.called("snapshot_create_xml")
    assert call["flags"] == 16 | 128 | 4 | 32
    assert "<source file='/x'/>" in call["xml"]
    assert virtblock("-q", *words) == Ran(0, "", "")


def lifecycle(event: int, detail: int) -> DomainEvent:
    """A change in t1's life."""
    return DomainEvent(DomainEventId.LIFECYCLE, T1, lifecycle=LifecycleEvent(DomainEventType(event), detail))


def job_event(event_id: int, disk: str, status: int) -> DomainEvent:
    """A change of a copy."""
    told = BlockJobStatusEvent(disk, BlockJobType.COPY, BlockJobStatus(status))
    return DomainEvent(DomainEventId(event_id), T1, block_job=told)


def test_event_waits_for_one(virtblock: Virtblock, client: FakeClient) -> None:
    client.answers["domain_events"] = FakeStream(job_event(16, "vda", 3), job_event(16, "vda", 0))
    ran = virtblock("event", "--event", "block-job-2", "--domain", "t1")
    assert ran == Ran(0, "event 'block-job-2' for domain 't1': Block Copy for vda ready\nevents received: 1\n\n", "")
    assert client.called("domain_events") == [{"event_ids": [16], "domain": T1}]


def test_event_loops_over_all_until_the_time_is_over(
    virtblock: Virtblock, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = frozenset({"event:0", "event:8", "event:16", "offline-copy"})
    connection = ConnectionCapabilities("embedded:///", 0, 0, frozenset(), {}, features)
    client.answers["get_capabilities"] = Capabilities("", "", "v1", connection)
    told = [lifecycle(0, 0), lifecycle(5, 1), lifecycle(6, 2), lifecycle(99, 1), lifecycle(1, 77)]
    told += [job_event(8, "/img/a", 0), job_event(16, "vda", 1), job_event(16, "vda", 2), job_event(16, "vda", 9)]
    stream = FakeStream(*told, DomainEvent(DomainEventId.REBOOT, RUNNING))
    client.answers["domain_events"] = stream
    clock = SimpleNamespace(monotonic=lambda: 2.0 if stream.is_drained.is_set() else 0.0)
    monkeypatch.setattr(interrupts, "time", clock)
    ran = virtblock("event", "--all", "--loop", "--timeout", "1")
    assert client.called("domain_events") == [{"event_ids": [0, 8, 16], "domain": None}]
    assert (ran.exit_code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "event 'lifecycle' for domain 't1': Defined Added",
        "event 'lifecycle' for domain 't1': Stopped Destroyed",
        "event 'lifecycle' for domain 't1': Shutdown Finished after host request",
        "event 'lifecycle' for domain 't1': unknown unknown",
        "event 'lifecycle' for domain 't1': Undefined unknown",
        "event 'block-job' for domain 't1': Block Copy for /img/a completed",
        "event 'block-job-2' for domain 't1': Block Copy for vda failed",
        "event 'block-job-2' for domain 't1': Block Copy for vda canceled",
        "event 'block-job-2' for domain 't1': Block Copy for vda unknown",
        "event 'reboot' for domain 'test'",
        "event loop timed out",
        "events received: 10",
        "",
    ]


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_event_in_vain(virtblock: Virtblock, virsh: Virtblock, client: FakeClient, quiet: list[str]) -> None:
    client.answers["domain_events"] = FakeStream()
    words = [*quiet, "event", "--event", "lifecycle", "--timeout", "1"]
    assert virtblock(*words) == virsh(*words)


def test_event_all_of_a_server_that_names_none(virtblock: Virtblock, client: FakeClient) -> None:
    connection = ConnectionCapabilities("embedded:///", 0, 0, frozenset(), {}, frozenset({"raw"}))
    client.answers["get_capabilities"] = Capabilities("", "", "v1", connection)
    client.answers["domain_events"] = FakeStream(lifecycle(0, 0))
    assert virtblock("event", "--all").exit_code == 0
    assert client.called("domain_events")[0]["event_ids"] == [0, 8, 16]


def test_event_ends_with_ctrl_c(virtblock: Virtblock, client: FakeClient) -> None:
    class Interrupting(FakeStream):
        def __iter__(self) -> Iterator[Any]:
            os.kill(os.getpid(), signal.SIGINT)
            return super().__iter__()

    client.answers["domain_events"] = Interrupting()
    ran = virtblock("event", "--event", "lifecycle", "--loop")
    assert ran == Ran(1, "event loop interrupted\nevents received: 0\n\n", "")


def test_event_of_a_server_that_goes_away(virtblock: Virtblock, client: FakeClient) -> None:
    gone = vir_error(ErrorNumber.RPC, "the server stops")
    client.answers["domain_events"] = FakeStream(lifecycle(0, 0), gone)
    ran = virtblock("event", "--event", "lifecycle", "--loop")
    assert ran == Ran(1, "event 'lifecycle' for domain 't1': Defined Added\n\n", "error: the server stops\n")
    client.answers["domain_events"] = FakeStream(ends=True)
    assert virtblock("event", "--event", "lifecycle").err == "error: the server ended the stream of events\n"


def test_event_with_a_timestamp(virtblock: Virtblock, client: FakeClient) -> None:
    client.answers["domain_events"] = FakeStream(lifecycle(0, 0))
    line = virtblock("event", "--event", "lifecycle", "--timestamp").out.splitlines()[0]
    stamp, _, text = line.partition(": ")
    assert text == "event 'lifecycle' for domain 't1': Defined Added"
    assert len(stamp) == len("2026-11-23 06:21:59.758+0000")
    assert stamp.endswith("+0000")


def test_a_lookup_that_fails_otherwise_says_why(virtblock: Virtblock, client: FakeClient) -> None:
    client.answers["domain_lookup_by_name"] = vir_error(ErrorNumber.ACCESS_DENIED, "access denied")
    assert virtblock("dumpxml", "t1").err == "error: failed to get domain 't1'\nerror: access denied\n"


def json_of(ran: Ran) -> Any:
    """The one value that was printed."""
    assert (ran.exit_code, ran.err) == (0, "")
    assert ran.out.count("\n") == 1
    return json.loads(ran.out)


def test_every_command_answers_in_json(virtblock: Virtblock, client: FakeClient, tmp_path: Path) -> None:
    file = tmp_path / "t1.xml"
    file.write_text(DOMAIN_XML)
    client.answers |= {
        "domain_define_xml": T1,
        "undefine": None,
        "detach_device": None,
        "block_resize": None,
        "snapshot_create_xml": Snapshot("s1", "<domainsnapshot/>"),
        "get_block_info": BlockInfo(3, 2, 1),
        "get_block_job_info": job_info(MIB),
        "block_job_abort": job_record(BlockJobState.CANCELED),
        "block_job_set_speed": None,
        "domain_events": FakeStream(lifecycle(0, 0)),
    }
    assert json_of(virtblock("--json", "define", str(file)))["domain"]["name"] == "t1"
    assert json_of(virtblock("undefine", "t1", "--json"))["domain"]["uuid"] == T1.uuid
    listed = json_of(virtblock("list", "--all", "--json"))
    assert [(each["name"], each["state"], each["id"]) for each in listed] == [
        ("test", "RUNNING", 1),
        ("t1", "SHUTOFF", -1),
    ]
    assert json_of(virtblock("dumpxml", "t1", "--json"))["xml"] == DOMAIN_XML
    disks = json_of(virtblock("--json", "domblklist", "t1"))
    assert disks[2] == {"type": "file", "device": "cdrom", "target": "hda", "source": ""}
    info = json_of(virtblock("--json", "domblkinfo", "t1", "vda"))
    assert info == {"device": "vda", "capacity_bytes": 3, "allocation_bytes": 2, "physical_bytes": 1}
    assert json_of(virtblock("--json", "domblkinfo", "t1", "--all"))[2] == {"device": "hda"}
    assert json_of(virtblock("--json", "detach-disk", "t1", "vda"))["flags"] == 0
    assert json_of(virtblock("--json", "snapshot-create-as", "t1"))["name"] == "s1"
    assert json_of(virtblock("--json", "blockresize", "t1", "vda", "1M"))["size_bytes"] == MIB
    assert json_of(virtblock("--json", "blockjob", "t1", "vda"))["job"]["percent"] == 6
    assert json_of(virtblock("--json", "blockjob", "t1", "vda", "--abort"))["job"]["state"] == "CANCELED"
    assert json_of(virtblock("--json", "blockjob", "t1", "vda", "7"))["unit"] == "MiB/s"
    assert "blockcopy" in json_of(virtblock("--json", "help"))["help"]
    event, end = virtblock("--json", "event", "--event", "lifecycle").out.splitlines()
    assert (json.loads(event)["event"], json.loads(end)["events_received"]) == ("lifecycle", 1)


@pytest.mark.parametrize(
    ("words", "number", "message", "context"),
    [
        (["--json", "blockresize", "t1", "vda", "1"], 83, "busy", "Failed to resize block device 'vda'"),
        (["--json", "nocmd"], None, "unknown command: 'nocmd'", ""),
        (["list", "x", "--json"], None, "unexpected data 'x'", ""),
        (["--json", "--bogus"], None, "unsupported option '--bogus'. See --help.", ""),
        (["--json", "help", "nocmd"], None, "command or command group 'nocmd' doesn't exist", ""),
        (["--json", "event"], None, "one of --list, --all, or --event <type> is required", ""),
    ],
)
def test_errors_in_json(
    virtblock: Virtblock, client: FakeClient, words: list[str], number: int | None, message: str, context: str
) -> None:
    client.answers["block_resize"] = vir_error(ErrorNumber.BLOCK_COPY_ACTIVE, "busy")
    ran = virtblock(*words)
    error = json.loads(ran.err)["error"]
    assert (ran.exit_code, ran.out) == (1, "")
    assert (error["number"], error["message"], error["context"]) == (number, message, context)


def test_the_global_options_make_the_client(tmp_path: Path) -> None:
    options = GlobalOptions(server=f"unix:{tmp_path}/sock", connection_uri="embedded:///", read_only=True)
    with open_client(options) as client:
        assert str(client.target) == f"unix:{tmp_path}/sock-ro"
        assert client.connection_uri == "embedded:///"
    with pytest.raises(VirError, match="TLS file '/nonexistent'"):
        open_client(GlobalOptions(server="localhost:1", tls_ca="/nonexistent"))


def test_help_and_version_need_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import metadata

    from virtblock.cli.main import main

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{metadata.version('virtblock')}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "--server=TARGET" in text
    assert "blockcopy" in text
    assert main([]) == 1
    assert capsys.readouterr().err == "error: no command was given. See --help.\n"
    assert main(["dumpxml", "\udcff"]) == 1
    assert "is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "method", "said"),
    [
        (("save", "test", "/x"), "save", "\nDomain 'test' saved to /x\n\n"),
        (("save", "1", "/x", "--running"), "save_flags", "\nDomain '1' saved to /x\n\n"),
        (("managedsave", "test", "--paused"), "managed_save", "\nDomain 'test' state saved by libvirt\n\n"),
    ],
)
def test_a_saved_domain_is_told_as_by_virsh(
    virtblock: Virtblock, client: FakeClient, words: tuple[str, ...], method: str, said: str
) -> None:
    """virsh itself is not asked: where saving is quick, it sometimes waits for ever."""
    client.answers[method] = None
    assert virtblock(*words) == Ran(0, said, "")
    [call] = client.called(method)
    assert call["domain"].name == "test"
    assert call.get("flags", 0) == {"save": 0, "save_flags": 2, "managed_save": 4}[method]


def test_block_statistics_show_what_is_known(virtblock: Virtblock, client: FakeClient) -> None:
    client.answers["block_stats"] = BlockStats(1, 2, 3, 4, -1)
    assert (
        virtblock("domblkstat", "test", "vda").out == "vda rd_req 1\nvda rd_bytes 2\nvda wr_req 3\nvda wr_bytes 4\n\n"
    )
    assert '"error_count": -1' in virtblock("domblkstat", "test", "vda", "--json").out


@pytest.mark.parametrize(("state", "reason", "text"), [(1, 1, "running (booted)"), (5, 8, "shut off (daemon)")])
def test_a_state_has_its_reason(virtblock: Virtblock, client: FakeClient, state: int, reason: int, text: str) -> None:
    client.answers["get_state"] = DomainStateReason(DomainState(state), reason)
    assert virtblock("domstate", "test", "--reason").out == f"{text}\n\n"
    client.answers["get_state"] = DomainStateReason(DomainState(state), 99)
    assert virtblock("domstate", "test", "--reason").out == f"{text.partition(' (')[0]} (unknown)\n\n"
