# SPDX-License-Identifier: Apache-2.0
"""virsh is the judge: the same words, the same texts on both streams, the same exit code.

virsh talks to libvirt's own test driver, which has a domain `test`; so has the fake client, and both get the same `t1`.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from cli.command_line import DOMAIN_XML, Ran, Virtblock
from cli.fake_client import FakeClient, vir_error

from virtblock.cli.command_tables import COMMANDS
from virtblock.client import BlockInfo, DomainState, DomainStateReason, ErrorNumber

MISTAKES = [
    ["nocmd"],
    ["list", "x"],
    ["list", "--al"],
    ["list", "--all=x"],
    ["list", "--all", "--all"],
    ["list", "--", "--all"],
    ["list", "--table", "--name"],
    ["list", "--uuid", "--id", "--table", "--name"],
    ["list", "--table", "--uuid", "--id"],
    ["dumpxml"],
    ["dumpxml", ""],
    ["dumpxml", "--domain"],
    ["dumpxml", "--domain", "test", "--domain", "test"],
    ["dumpxml", "test", "--domain=test"],
    ["dumpxml", "nope"],
    ["dumpxml", "7"],
    ["dumpxml", "6695eb01-f6a4-8304-79aa-97f2502e193e"],
    ["define"],
    ["define", ""],
    ["define", "/nonexistent.xml"],
    ["define", "/tmp"],
    ["undefine", "nope"],
    ["undefine", "nope", "--nvram", "--keep-nvram"],
    ["domblklist", "nope"],
    ["domblkinfo"],
    ["domblkinfo", "test"],
    ["domblkinfo", "test", ""],
    ["domblkinfo", "test", "vda", "--all"],
    *([verb] for verb in ("start", "create", "destroy", "suspend", "save", "domid", "domname", "domuuid", "domstate")),
    *([verb, "nope"] for verb in ("start", "destroy", "shutdown", "suspend", "resume", "managedsave", "domblkstat")),
    *([verb, "7"] for verb in ("start", "destroy", "domid", "domname", "domuuid", "domstate")),
    ["start", ""],
    ["start", "1"],
    ["start", "test", "--paused", "--force-boot"],
    ["start", "6695eb01-f6a4-8304-79aa-97f2502e193f"],
    ["create", "/nonexistent.xml", "--paused"],
    ["create", "/tmp"],
    ["save", "test"],
    ["save", "nope", "/x"],
    ["domid", "1"],
    ["domname", "test"],
    ["domuuid", "6695eb01-f6a4-8304-79aa-97f2502e193f"],
    ["detach-disk", "test"],
    ["detach-disk", "test", "vdz"],
    ["detach-disk", "nope", "vda"],
    ["detach-disk", "test", "", "--current", "--live"],
    ["detach-disk", "test", "vda", "--current", "--config"],
    ["detach-disk", "test", "vda", "--current", "--persistent"],
    ["snapshot-create-as", "nope", ""],
    ["snapshot-create-as", "test", ""],
    ["snapshot-create-as", "test", "--diskspec", "vda,bogus=1"],
    ["snapshot-create-as", "test", "--diskspec", "vda,file=/a,file=/b"],
    ["snapshot-create-as", "test", "--diskspec", "vda,stype=zzz,file=/x"],
    ["snapshot-create-as", "test", "--diskspec", ",x=1"],
    ["snapshot-create-as", "test", "--memspec", "bogus=/a"],
    ["snapshot-create-as", "test", "--memspec", "/a,file=/b"],
    ["snapshot-create-as", "test", "--memspec", ""],
    ["blockcopy"],
    ["blockcopy", "test"],
    ["blockcopy", "test", "vda"],
    ["blockcopy", "test", "", "/x"],
    ["blockcopy", "test", "vda", "--dest="],
    ["blockcopy", "test", "vda", "--timeout"],
    ["blockcopy", "test", "vda", "/x", "--bogus=5"],
    ["blockcopy", "test", "vda", "/x", "--raw=1"],
    ["blockcopy", "test", "vda", "/x", "--raw", "--format", "qcow2"],
    ["blockcopy", "test", "vda", "/x", "--format", "raw", "--raw"],
    ["blockcopy", "test", "vda", "/x", "10", "qcow2", "extra"],
    ["blockcopy", "test", "vda", "--xml", "/nonexistent.xml"],
    ["blockcopy", "test", "vda", "/x", "--format", "qcow2", "--bandwidth", "9999999999999999"],
    *(["blockcopy", "test", "vda", "/x", "--timeout", text] for text in ("0", "-1", "1.5", "2147484", "", "x")),
    *(["blockcopy", "test", "vda", "/x", "--granularity", text] for text in ("-1", "3x", "4294967296")),
    *(["blockcopy", "test", "vda", "/x", "--buf-size", text] for text in ("1M", "18446744073709551616")),
    *(
        ["blockcopy", "nope", "vda", "/x", "--bandwidth", text]
        for text in ("q", "", "1Q", "99999999999999999999", "1e9")
    ),
    *(["blockcopy", "nope", "vda", "/x", "--bandwidth", text] for text in ("-1", "10", "10M", "+5", " 7")),
    ["blockpull"],
    ["blockpull", "test", ""],
    ["blockpull", "test", "vda", "--top", "x"],
    ["blockpull", "test", "vda", "1", "/b", "extra"],
    *(
        [command, "nope", "vda", "--bandwidth", text]
        for command in ("blockpull", "blockcommit")
        for text in ("q", "-1", "5M")
    ),
    *(
        [command, "nope", "vda", "--timeout", text]
        for command in ("blockpull", "blockcommit")
        for text in ("0", "x", "7")
    ),
    ["blockcommit", "test"],
    ["blockcommit", "test", "vda", "1", "/b", "/t", "extra"],
    ["blockcommit", "test", "vda", "--shallow=1"],
    ["blockjob", "test", ""],
    ["blockjob", "nope", "vda"],
    ["blockjob", "nope", "vda", "--bandwidth", "10Q"],
    ["blockresize", "test", "vda"],
    ["blockresize", "test", "", "5"],
    *(["blockresize", "nope", "vda", text] for text in ("abc", "-1", "10Q", "10b", "1.5G", "0x10", "010", "+5", " 5")),
    *(["blockresize", "nope", "vda", text] for text in ("99999999999999999999", "18446744073709551615", "16EiB")),
    *(
        ["blockresize", "nope", "vda", text]
        for text in ("1PB", "10 MiB", "5kib", "5bytes", "5byte", "", "300Mi", "1ZB")
    ),
    ["event"],
    ["event", "--event", "bogus"],
    ["event", "--event", "LIFECYCLE"],
    ["event", "--event", ""],
    ["event", "--event", "lifecycle", "--all"],
    ["event", "--list", "--all"],
    ["event", "--list", "--event", "x"],
    ["event", "--event", "lifecycle", "--timeout", "0"],
    ["event", "--event", "lifecycle", "--domain", "nope"],
    ["event", "--domain", "nope", "--event", "bogus"],
    ["event", "--domain", "nope", "--timeout", "q"],
    ["help", "nocmd"],
    ['list --name "'],
    ["list; nocmd"],
    ["dumpxml nope; dumpxml"],
]


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_gets_virshs_texts(virsh: Virtblock, virtblock: Virtblock, words: list[str]) -> None:
    assert virtblock(*words) == virsh(*words)


BLOCKJOB_OPTIONS = ("--abort", "--async", "--pivot", "--info", "--raw", "--bytes", "--bandwidth=1", "--bandwidth=q")
BLOCKCOPY_OPTIONS = (
    "--xml=/x",
    "--format=raw",
    "--dest=/x",
    "--blockdev",
    "--pivot",
    "--finish",
    "--verbose",
    "--async",
    "--bandwidth=q",
    "--granularity=q",
    "--buf-size=q",
    "--timeout=q",
)

BLOCKPULL_OPTIONS = (
    "--base=",
    "--bandwidth=q",
    "--timeout=q",
    "--wait",
    "--verbose",
    "--async",
    "--keep-relative",
)
BLOCKCOMMIT_OPTIONS = (
    "--base=",
    "--top=",
    "--bandwidth=q",
    "--timeout=q",
    "--pivot",
    "--keep-overlay",
    "--active",
    "--shallow",
    "--verbose",
    "--async",
)
OPTIONS = {
    "blockjob": BLOCKJOB_OPTIONS,
    "blockcopy": BLOCKCOPY_OPTIONS,
    "blockpull": BLOCKPULL_OPTIONS,
    "blockcommit": BLOCKCOMMIT_OPTIONS,
}


def _combinations(command: str, options: tuple[str, ...]) -> list[str]:
    chosen = [picked for count in (1, 2, 3) for picked in itertools.combinations(options, count)]
    # The same option twice is another mistake, tried above.
    unique = [picked for picked in chosen if len({option.partition("=")[0] for option in picked}) == len(picked)]
    return [f"{command} nope vda {' '.join(picked)}" for picked in unique]


@pytest.mark.parametrize(("command", "options"), OPTIONS.items())
def test_of_several_mistakes_the_same_one_is_told(
    virsh: Virtblock, virtblock: Virtblock, command: str, options: tuple[str, ...]
) -> None:
    """Every one, two and three of these options, in one run; the domain does not exist, so each is refused."""
    lines = _combinations(command, options)
    theirs = virsh("; ".join(lines)).err.splitlines()
    ours = virtblock("; ".join(lines)).err.splitlines()
    assert len(theirs) == len(lines)
    assert list(zip(lines, ours, strict=True)) == list(zip(lines, theirs, strict=True))


# Of these virsh has options that are left out here, or virsh 9.0 lacks one of ours.
OTHER_HELP = {"undefine", "list", "dumpxml", "blockcopy", "create", "start", "shutdown", "save", "managedsave"}
# Commands that virsh has not.
OWN_COMMANDS = {name for name in COMMANDS if name.startswith("bitmap-")}
OWN_COMMANDS |= {"attach", "completion", "jobs", "map", "top"}


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - OTHER_HELP - OWN_COMMANDS))
def test_help_of_a_command_is_virshs(virsh: Virtblock, virtblock: Virtblock, name: str) -> None:
    assert virtblock("help", name) == virsh("help", name)
    assert virtblock(name, "--help") == virsh(name, "--help")


@pytest.mark.parametrize("name", sorted(OTHER_HELP))
def test_every_line_of_other_help_is_virshs(virsh: Virtblock, virtblock: Virtblock, name: str) -> None:
    """What is there is in virsh's words and order; only the lines of options may be fewer."""
    theirs = virsh("help", name).out.splitlines()
    shown = virtblock("help", name).out.splitlines()
    own = ("--dest-is-zero", "--bitmap", "what this persistent bitmap marks")
    ours = [line for line in shown if not any(word in line for word in own) and not line.startswith(f"    {name} [")]
    ours = [line for line in ours if not line.startswith(f"    {name} <")]
    theirs_left = iter(theirs)
    assert all(line in theirs_left for line in ours)


def test_help_of_a_group_has_virshs_form(virsh: Virtblock, virtblock: Virtblock) -> None:
    assert virtblock("help", "events") == virsh("help", "events")
    theirs = set(virsh("help").out.splitlines())
    ours = virtblock("help").out.splitlines()
    added = {line for line in ours if line not in theirs and line.split()[0] not in OWN_COMMANDS}
    titles = {"Bitmap": "bitmap", "Block Job": "job", "virtblock itself": "virtblock"}
    assert added == {f" {title} (help keyword '{keyword}'):" for title, keyword in titles.items()}


@pytest.fixture
def same_domain(tmp_path: Path, client: FakeClient, virsh: Virtblock) -> Path:
    """A file with the XML of t1. The fake client answers what libvirt made of it."""
    file = tmp_path / "t1.xml"
    file.write_text(DOMAIN_XML)
    client.answers["get_xml_desc"] = virsh("-q", f"define {file}; dumpxml t1").out
    client.answers["domain_define_xml"] = client.domains[1]
    client.answers["undefine"] = None
    client.answers |= dict.fromkeys(("suspend", "resume", "shutdown", "destroy"))
    client.answers["create"] = client.domains[1]
    client.answers["get_state"] = DomainStateReason(DomainState.SHUTOFF, 0)
    # What libvirt's test driver makes of every disk.
    client.answers["get_block_info"] = BlockInfo(1099506450432, 1099511627776, 1099511627776)
    return file


@pytest.mark.parametrize("quiet", [[], ["-q"]], ids=["", "quiet"])
@pytest.mark.parametrize(
    "command",
    [
        "list",
        "list --all",
        "list --inactive",
        "list --state-running --inactive",
        "list --all --name",
        "list --all --uuid",
        "list --id --all",
        "list --id --all --name --uuid",
        "list --inactive --id",
        "list --table",
        "domblklist t1",
        "domblklist t1 --details --inactive",
        "domblklist test",
        "domblkinfo t1 vda",
        "domblkinfo t1 --all",
        "domblkinfo --device vda --domain t1 --human",
        "domblkinfo t1 --all --human",
        "undefine t1",
        "undefine 7cc73cc3-e997-4669-ace9-e93f689e55a8",
        "domid t1; domid test; domname 1; domuuid t1; domuuid 1",
        "domstate t1 --reason; domstate 7cc73cc3-e997-4669-ace9-e93f689e55a8",
        "suspend 6695eb01-f6a4-8304-79aa-97f2502e193f",
        "destroy test --graceful",
        "destroy 1",
        "shutdown test",
        "start t1",
        "start 7cc73cc3-e997-4669-ace9-e93f689e55a8",
        "detach-disk t1 vdz",
        "detach-disk t1 --print-xml vda",
        "detach-disk t1 /dev/sdx --config --print-xml",
        "event --list",
        "help blockjob; help nope; list --name",
        "blockcopy t1 vda /x --print-xml",
        "blockcopy t1 vda --dest '/x&<' --print-xml --format qcow2",
        "blockcopy t1 vda /x --blockdev --raw --print-xml --wait",
        "snapshot-create-as t1 --print-xml",
        "snapshot-create-as t1 s1 'a <desc' --print-xml --diskspec vda,snapshot=external,file=/x --disk-only",
        "snapshot-create-as t1 s1 d --print-xml vda,file=/a,,b,driver=qcow2 sdb --memspec /m",
        "snapshot-create-as t1 s1 d --print-xml --memspec snapshot=no,file=/x --diskspec vda,stype=block,file=/dev/x",
        'snapshot-create-as t1 --print-xml --diskspec "v\'d&a" --diskspec vdb,snapshot= --diskspec vdc,file=',
    ],
)
def test_answers_are_laid_out_as_virshs(
    virsh: Virtblock, virtblock: Virtblock, same_domain: Path, client: FakeClient, quiet: list[str], command: str
) -> None:
    """After the same define. `test` of the test driver has one disk, at a path of libvirt's own."""
    if command == "domblklist test":
        client.answers["get_xml_desc"] = virsh("-q", "dumpxml", "test").out
    words = [*quiet, f"define {same_domain}; {command}"]
    assert virtblock(*words) == virsh(*words)


def test_a_domains_xml_is_printed_as_it_is(virsh: Virtblock, virtblock: Virtblock, client: FakeClient) -> None:
    for quiet in ([], ["-q"]):
        client.answers["get_xml_desc"] = virsh("-q", "dumpxml", "test").out
        for name in ("test", "1", "6695eb01-f6a4-8304-79aa-97f2502e193f"):
            assert virtblock(*quiet, "dumpxml", name) == virsh(*quiet, "dumpxml", name)


def test_a_failed_definition_takes_two_lines(
    virsh: Virtblock, virtblock: Virtblock, client: FakeClient, tmp_path: Path
) -> None:
    file = tmp_path / "bad.xml"
    file.write_text("<domain type='test'><name>t1</name></domain>")
    theirs = virsh("define", str(file))
    first, second = theirs.err.splitlines()
    client.answers["domain_define_xml"] = _error_of(second)
    assert virtblock("define", str(file)) == theirs
    assert first == f"error: Failed to define domain from {file}"


def _error_of(line: str) -> Exception:
    return vir_error(ErrorNumber.XML_ERROR, line.removeprefix("error: "))


def test_without_a_server_there_are_two_lines_and_no_more(
    virtblock: Virtblock, virsh: Virtblock, client: FakeClient
) -> None:
    theirs: Ran = virsh("-c", "qemu+unix:///system?socket=/nonexistent", "list")
    client.answers["get_uri"] = _error_of(theirs.err.splitlines()[1])
    assert virtblock("list; list") == theirs
