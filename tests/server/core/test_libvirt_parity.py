# SPDX-License-Identifier: Apache-2.0
"""The public layer's checks beside libvirt's own: each case is one call of its library and the same call of ours.

Every case fails before a driver decides, or because `test:///default` and our bare driver both lack the call; so the
answers must be equal in every field.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
from server.core.libvirt_library import Libvirt, Told
from server.core.samples import CALLER, READ_ONLY, SELECTOR, Apis

from virtblock.server.core.errors import VirError
from virtblock.server.core.model import DomainSelector, ParameterType, TypedParameter

NOBODY = DomainSelector()
Ours = Callable[[Apis], Any]
Theirs = Callable[[Libvirt], Told | None]
Case = tuple[Theirs, Ours]


@pytest.fixture(scope="session")
def libvirt() -> Libvirt:
    """libvirt's library; no daemon is needed."""
    try:
        return Libvirt()
    except OSError as error:
        pytest.skip(f"libvirt's library is not installed: {error}")


def _lookups() -> dict[str, Case]:
    uuids = ["zz", "", "6-695eb01f6a4830479aa97f2502e193f", "6695eb01f6a4830479aa97f2502e193f-"]
    uuids += [
        "6695eb01f6a4830479aa97f2502e193fa",
        "6695eb01f6a4830479aa97f2502e193",
        "00000000-0000-0000-0000-000000000009",
    ]
    cases: dict[str, Case] = {f"uuid {text!r}": _uuid_case(text) for text in uuids}
    return cases | {
        "uuid NULL": (
            lambda v: v.told("virDomainLookupByUUIDString", v.conn, None),
            lambda a: a.connect.domain_lookup_by_uuid(CALLER, "", None),
        ),
        "name NULL": (
            lambda v: v.told("virDomainLookupByName", v.conn, None),
            lambda a: a.connect.domain_lookup_by_name(CALLER, "", None),
        ),
        "id below 0": (
            lambda v: v.told("virDomainLookupByID", v.conn, -1),
            lambda a: a.connect.domain_lookup_by_id(CALLER, "", -1),
        ),
        "define NULL": (
            lambda v: v.told("virDomainDefineXMLFlags", v.conn, None, 0),
            lambda a: a.connect.domain_define_xml(CALLER, "", None, 0),
        ),
        "define NULL read-only": (
            lambda v: v.told("virDomainDefineXMLFlags", v.ro_conn, None, 0),
            lambda a: a.connect.domain_define_xml(READ_ONLY, "", None, 0),
        ),
        "create NULL read-only": (
            lambda v: v.told("virDomainCreateXML", v.ro_conn, None, 0),
            lambda a: a.connect.domain_create_xml(READ_ONLY, "", None, 0),
        ),
        "create read-only": (
            lambda v: v.told("virDomainCreateXML", v.ro_conn, b"<x/>", 0),
            lambda a: a.connect.domain_create_xml(READ_ONLY, "", "<x/>", 0),
        ),
        "event id": (
            lambda v: v.told("virConnectDomainEventRegisterAny", v.conn, None, -1, v._quiet, None, None),
            lambda a: _first_event(a, -1),
        ),
        "event id too large": (
            lambda v: v.told("virConnectDomainEventRegisterAny", v.conn, None, 800, v._quiet, None, None),
            lambda a: _first_event(a, 800),
        ),
    }


def _uuid_case(text: str) -> Case:
    return (
        lambda v: v.told("virDomainLookupByUUIDString", v.conn, text.encode()),
        lambda a: a.connect.domain_lookup_by_uuid(CALLER, "", text),
    )


def _rebase_case(flags: int) -> Case:
    return (
        lambda v: v.told("virDomainBlockRebase", v.dom, b"vda", None, 0, flags),
        lambda a: a.block.block_rebase(CALLER, SELECTOR, "vda", None, 0, flags),
    )


def _snapshot_case(flags: int) -> Case:
    return (
        lambda v: v.told("virDomainSnapshotCreateXML", v.dom, b"<s/>", flags),
        lambda a: a.domain.snapshot_create_xml(CALLER, SELECTOR, "<s/>", flags),
    )


def _first_event(apis: Apis, event_id: int) -> None:
    stream = apis.jobs.watch_domain_events(CALLER, "", None, [event_id])
    step = anext(stream).__await__()
    next(step)


def _read_only_calls() -> dict[str, Case]:
    def simple(function: str, call: Callable[[Apis], Any], *arguments: Any) -> Case:
        return (lambda v: v.told(function, v.ro_dom, *arguments), call)

    return {
        "suspend": simple("virDomainSuspend", lambda a: a.domain.suspend(READ_ONLY, SELECTOR)),
        "resume": simple("virDomainResume", lambda a: a.domain.resume(READ_ONLY, SELECTOR)),
        "shutdown": simple("virDomainShutdown", lambda a: a.domain.shutdown(READ_ONLY, SELECTOR)),
        "create": simple("virDomainCreateWithFlags", lambda a: a.domain.create(READ_ONLY, SELECTOR, 0), 0),
        "destroy": simple("virDomainDestroyFlags", lambda a: a.domain.destroy(READ_ONLY, SELECTOR, 0), 0),
        "undefine": simple("virDomainUndefineFlags", lambda a: a.domain.undefine(READ_ONLY, SELECTOR, 0), 0),
        "managed save": simple("virDomainManagedSave", lambda a: a.domain.managed_save(READ_ONLY, SELECTOR, 6), 6),
        "save": simple("virDomainSave", lambda a: a.domain.save(READ_ONLY, SELECTOR, None), None),
        "save flags": simple(
            "virDomainSaveFlags", lambda a: a.domain.save_flags(READ_ONLY, SELECTOR, None, None, 6), None, None, 6
        ),
        "detach NULL": simple(
            "virDomainDetachDevice", lambda a: a.domain.detach_device(READ_ONLY, SELECTOR, None), None
        ),
        "detach": simple(
            "virDomainDetachDevice", lambda a: a.domain.detach_device(READ_ONLY, SELECTOR, "<a/>"), b"<a/>"
        ),
        "detach flags": simple(
            "virDomainDetachDeviceFlags",
            lambda a: a.domain.detach_device_flags(READ_ONLY, SELECTOR, "<a/>", 0),
            b"<a/>",
            0,
        ),
        "snapshot NULL": simple(
            "virDomainSnapshotCreateXML", lambda a: a.domain.snapshot_create_xml(READ_ONLY, SELECTOR, None, 0), None, 0
        ),
        "snapshot": simple(
            "virDomainSnapshotCreateXML",
            lambda a: a.domain.snapshot_create_xml(READ_ONLY, SELECTOR, "<s/>", 2),
            b"<s/>",
            2,
        ),
        "revert": (
            lambda v: v.told("virDomainRevertToSnapshot", v.ro_snap, 3),
            lambda a: a.domain.revert_to_snapshot(READ_ONLY, SELECTOR, "s1", 3),
        ),
        "resize": simple(
            "virDomainBlockResize",
            lambda a: a.domain.block_resize(READ_ONLY, SELECTOR, None, 1, 0),
            None,
            ctypes.c_ulonglong(1),
            0,
        ),
        "secure XML": simple("virDomainGetXMLDesc", lambda a: a.domain.get_xml_desc(READ_ONLY, SELECTOR, 1), 1),
        "migratable XML": simple("virDomainGetXMLDesc", lambda a: a.domain.get_xml_desc(READ_ONLY, SELECTOR, 8), 8),
        "rebase": simple(
            "virDomainBlockRebase",
            lambda a: a.block.block_rebase(READ_ONLY, SELECTOR, None, None, 0, 0, "r-1"),
            None,
            None,
            0,
            0,
        ),
        "copy": simple(
            "virDomainBlockCopy",
            lambda a: a.block.block_copy(READ_ONLY, SELECTOR, None, None, [], 0),
            None,
            None,
            None,
            0,
            0,
        ),
        "pull": simple("virDomainBlockPull", lambda a: a.block.block_pull(READ_ONLY, SELECTOR, None, 0, 0), None, 0, 0),
        "commit": simple(
            "virDomainBlockCommit",
            lambda a: a.block.block_commit(READ_ONLY, SELECTOR, None, None, None, 0, 0),
            None,
            None,
            None,
            0,
            0,
        ),
        "abort": simple(
            "virDomainBlockJobAbort", lambda a: a.block.block_job_abort(READ_ONLY, SELECTOR, None, 0), None, 0
        ),
        "set speed": simple(
            "virDomainBlockJobSetSpeed",
            lambda a: a.block.block_job_set_speed(READ_ONLY, SELECTOR, None, 0, 0),
            None,
            0,
            0,
        ),
        "info NULL": simple(
            "virDomainGetBlockJobInfo",
            lambda a: a.block.get_block_job_info(READ_ONLY, SELECTOR, None, 0),
            None,
            None,
            0,
        ),
    }


def _argument_checks() -> dict[str, Case]:
    size = ctypes.c_ulonglong(1)
    cases: dict[str, Case] = {
        f"rebase {flags}": _rebase_case(flags) for flags in (0, 1, 2, 4, 8, 16, 32, 64, 4 | 0x80, 0x80, 8 | 16, 1 | 64)
    }
    cases |= {
        f"snapshot {flags}": _snapshot_case(flags) for flags in (2, 2 | 4, 2 | 8, 1 | 4, 1 | 8, 1 | 4 | 8, 1 | 2 | 4)
    }
    return cases | {
        "no domain": (
            lambda v: v.told("virDomainBlockRebase", None, None, None, 0, 8),
            lambda a: a.block.block_rebase(CALLER, NOBODY, None, None, 0, 8),
        ),
        "no domain for the state": (
            lambda v: v.told("virDomainGetState", None, v.out, None, 0),
            lambda a: a.domain.get_state(CALLER, NOBODY, 0),
        ),
        "save NULL": (
            lambda v: v.told("virDomainSave", v.dom, None),
            lambda a: a.domain.save(CALLER, SELECTOR, None),
        ),
        "save NULL and flags": (
            lambda v: v.told("virDomainSaveFlags", v.dom, None, None, 6),
            lambda a: a.domain.save_flags(CALLER, SELECTOR, None, None, 6),
        ),
        "save flags": (
            lambda v: v.told("virDomainSaveFlags", v.dom, b"/tmp/x", None, 6),
            lambda a: a.domain.save_flags(CALLER, SELECTOR, "/tmp/x", None, 6),
        ),
        "managed save flags": (
            lambda v: v.told("virDomainManagedSave", v.dom, 6),
            lambda a: a.domain.managed_save(CALLER, SELECTOR, 6),
        ),
        "snapshot NULL": (
            lambda v: v.told("virDomainSnapshotCreateXML", v.dom, None, 2),
            lambda a: a.domain.snapshot_create_xml(CALLER, SELECTOR, None, 2),
        ),
        "snapshot name NULL": (
            lambda v: v.told("virDomainSnapshotLookupByName", v.dom, None, 0),
            lambda a: a.domain.revert_to_snapshot(CALLER, SELECTOR, None, 0),
        ),
        "detach": (
            lambda v: v.told("virDomainDetachDevice", v.dom, b""),
            lambda a: a.domain.detach_device(CALLER, SELECTOR, ""),
        ),
        "detach flags": (
            lambda v: v.told("virDomainDetachDeviceFlags", v.dom, b"<a/>", 0xFFFF),
            lambda a: a.domain.detach_device_flags(CALLER, SELECTOR, "<a/>", 0xFFFF),
        ),
        "resize NULL": (
            lambda v: v.told("virDomainBlockResize", v.dom, None, size, 0),
            lambda a: a.domain.block_resize(CALLER, SELECTOR, None, 1, 0),
        ),
        "resize": (
            lambda v: v.told("virDomainBlockResize", v.dom, b"", size, 0),
            lambda a: a.domain.block_resize(CALLER, SELECTOR, "", 1, 0),
        ),
        "block info NULL": (
            lambda v: v.told("virDomainGetBlockInfo", v.dom, None, v.out, 0),
            lambda a: a.domain.get_block_info(CALLER, SELECTOR, None, 0),
        ),
        "block info empty": (
            lambda v: v.told("virDomainGetBlockInfo", v.dom, b"", v.out, 0),
            lambda a: a.domain.get_block_info(CALLER, SELECTOR, "", 0),
        ),
        "stats NULL": (
            lambda v: v.told("virDomainBlockStats", v.dom, None, v.out, 40),
            lambda a: a.domain.block_stats(CALLER, SELECTOR, None),
        ),
        "rebase disk NULL": (
            lambda v: v.told("virDomainBlockRebase", v.dom, None, None, 0, 8),
            lambda a: a.block.block_rebase(CALLER, SELECTOR, None, None, 0, 8),
        ),
        "copy NULL": (
            lambda v: v.told("virDomainBlockCopy", v.dom, b"vda", None, None, 0, 0),
            lambda a: a.block.block_copy(CALLER, SELECTOR, "vda", None, [], 0),
        ),
        "copy": (
            lambda v: v.told("virDomainBlockCopy", v.dom, b"vda", b"x", None, 0, 0x80),
            lambda a: a.block.block_copy(
                CALLER, SELECTOR, "vda", "x", [TypedParameter("bogus", ParameterType.INT, 1)], 0x80
            ),
        ),
        "pull NULL": (
            lambda v: v.told("virDomainBlockPull", v.dom, None, 0, 0),
            lambda a: a.block.block_pull(CALLER, SELECTOR, None, 0, 0),
        ),
        "pull": (
            lambda v: v.told("virDomainBlockPull", v.dom, b"vda", 0, 0),
            lambda a: a.block.block_pull(CALLER, SELECTOR, "vda", 0, 0),
        ),
        "commit": (
            lambda v: v.told("virDomainBlockCommit", v.dom, b"vda", None, None, 0, 0),
            lambda a: a.block.block_commit(CALLER, SELECTOR, "vda", None, None, 0, 0),
        ),
        "abort": (
            lambda v: v.told("virDomainBlockJobAbort", v.dom, b"vda", 0),
            lambda a: a.block.block_job_abort(CALLER, SELECTOR, "vda", 0),
        ),
        "info": (
            lambda v: v.told("virDomainGetBlockJobInfo", v.dom, b"vda", v.out, 0),
            lambda a: a.block.get_block_job_info(CALLER, SELECTOR, "vda", 0),
        ),
        "set speed": (
            lambda v: v.told("virDomainBlockJobSetSpeed", v.dom, b"vda", 0, 0),
            lambda a: a.block.block_job_set_speed(CALLER, SELECTOR, "vda", 0, 0),
        ),
    }


GROUPS = {"look-up": _lookups(), "read-only": _read_only_calls(), "argument": _argument_checks()}
CASES = {f"{group}: {name}": case for group, cases in GROUPS.items() for name, case in cases.items()}


@pytest.mark.parametrize("name", list(CASES))
def test_the_same_answer(libvirt: Libvirt, bare_apis: Apis, name: str) -> None:
    theirs, ours = CASES[name]
    expected = theirs(libvirt)
    assert expected is not None, "libvirt accepts this call"
    with pytest.raises(VirError) as caught:
        ours(bare_apis)
    assert Told.of(caught.value) == expected


@pytest.mark.parametrize(
    "text",
    [
        "6695eb01-f6a4-8304-79aa-97f2502e193f",
        "6695EB01f6a4830479aa97f2502e193f",
        "6695-eb01-f6a4-8304-79aa-97f2502e193f",
        " \t6695eb01--f6a4 8304-79aa-97f2502e193f\n ",
        "-6695eb01f6a4830479aa97f2502e193f",
    ],
)
def test_the_same_uuids_are_accepted(libvirt: Libvirt, bare_apis: Apis, text: str) -> None:
    assert libvirt.told("virDomainLookupByUUIDString", libvirt.conn, text.encode()) is None
    assert bare_apis.connect.domain_lookup_by_uuid(CALLER, "", text).name == "test"
    assert bare_apis.driver.calls == [("by_uuid", "6695eb01-f6a4-8304-79aa-97f2502e193f")]
