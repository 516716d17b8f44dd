# SPDX-License-Identifier: Apache-2.0
"""The contract's numbers are libvirt's: every mirrored enumeration is compared with libvirt's own installed headers.

The headers are the judge (Debian: libvirt-dev). Both ways: no value may be missing from the contract, and none may be
in it that libvirt lacks, but for the zero values that protobuf needs (`..._NONE`) and the listed ones of newer
releases. With headers newer than the mirrored release a value may be missing, but none may differ.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from virtblock.v1 import libvirt_enums_pb2

HEADER_FOLDER = Path("/usr/include/libvirt")
PROTO_FOLDER = Path(__file__).parents[2] / "proto" / "virtblock" / "v1"
MIRRORED_RELEASE = (9, 0)

# Enumeration of the contract -> libvirt's typedef.
MIRRORED = {
    "BlockCommitFlags": "virDomainBlockCommitFlags",
    "BlockCopyFlags": "virDomainBlockCopyFlags",
    "BlockJobAbortFlags": "virDomainBlockJobAbortFlags",
    "BlockJobInfoFlags": "virDomainBlockJobInfoFlags",
    "BlockJobSetSpeedFlags": "virDomainBlockJobSetSpeedFlags",
    "BlockJobStatus": "virConnectDomainEventBlockJobStatus",
    "BlockJobType": "virDomainBlockJobType",
    "BlockPullFlags": "virDomainBlockPullFlags",
    "BlockRebaseFlags": "virDomainBlockRebaseFlags",
    "BlockResizeFlags": "virDomainBlockResizeFlags",
    "DomainCreateFlags": "virDomainCreateFlags",
    "DomainDefineFlags": "virDomainDefineFlags",
    "DomainDestroyFlags": "virDomainDestroyFlagsValues",
    "DomainDeviceModifyFlags": "virDomainDeviceModifyFlags",
    "DomainEventCrashedDetailType": "virDomainEventCrashedDetailType",
    "DomainEventDefinedDetailType": "virDomainEventDefinedDetailType",
    "DomainEventId": "virDomainEventID",
    "DomainEventPmsuspendedDetailType": "virDomainEventPMSuspendedDetailType",
    "DomainEventResumedDetailType": "virDomainEventResumedDetailType",
    "DomainEventShutdownDetailType": "virDomainEventShutdownDetailType",
    "DomainEventStartedDetailType": "virDomainEventStartedDetailType",
    "DomainEventStoppedDetailType": "virDomainEventStoppedDetailType",
    "DomainEventSuspendedDetailType": "virDomainEventSuspendedDetailType",
    "DomainEventType": "virDomainEventType",
    "DomainEventUndefinedDetailType": "virDomainEventUndefinedDetailType",
    "DomainListFlags": "virConnectListAllDomainsFlags",
    "DomainModificationImpact": "virDomainModificationImpact",
    "DomainSaveRestoreFlags": "virDomainSaveRestoreFlags",
    "DomainSnapshotCreateFlags": "virDomainSnapshotCreateFlags",
    "DomainState": "virDomainState",
    "DomainUndefineFlags": "virDomainUndefineFlagsValues",
    "DomainXmlFlags": "virDomainXMLFlags",
    "ErrorDomain": "virErrorDomain",
    "ErrorLevel": "virErrorLevel",
    "ErrorNumber": "virErrorNumber",
    "SnapshotRevertFlags": "virDomainSnapshotRevertFlags",
    "TypedParameterType": "virTypedParameterType",
}
# Values that libvirt got after the mirrored release.
NEWER = {"BlockCopyFlags": {"DOMAIN_BLOCK_COPY_TARGET_ZEROED": 16}}
CALL_DECLARATION = re.compile(r"\b(vir[A-Z]\w+)\s*\(")


@cache
def _headers() -> str:
    """All of libvirt's headers without comments, preprocessor lines and the sentinels that count values."""
    if not (HEADER_FOLDER / "virterror.h").is_file():
        pytest.skip("libvirt's headers are not installed (Debian: libvirt-dev)")
    # By stem, so that libvirt-domain comes before libvirt-domain-snapshot, which uses its names.
    paths = sorted(HEADER_FOLDER.glob("*.h"), key=lambda path: path.stem)
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"#\s*ifdef VIR_ENUM_SENTINELS.*?#\s*endif", " ", text, flags=re.DOTALL)
    text = re.sub(r"\b(\d+)[uU]\b", r"\1", text)
    return re.sub(r"^\s*#(?!\s*define LIBVIR_VERSION_NUMBER).*$", " ", text, flags=re.MULTILINE)


@cache
def _header_release() -> tuple[int, int]:
    match = re.search(r"LIBVIR_VERSION_NUMBER\s+(\d+)", _headers())
    assert match, "the headers do not say which release they are of"
    number = int(match[1])
    return number // 1_000_000, number // 1_000 % 1_000


@cache
def _header_enums() -> dict[str, dict[str, int]]:
    """typedef -> {name: value}; a value may be a number, a shift, or the names of values before it."""
    known: dict[str, int] = {}
    enums: dict[str, dict[str, int]] = {}
    for body, name in re.findall(r"typedef enum\s*\{([^}]*)\}\s*(\w+)\s*;", _headers()):
        values: dict[str, int] = {}
        following = 0
        for item in filter(None, (part.strip() for part in body.split(","))):
            key, _, expression = (part.strip() for part in item.partition("="))
            value = eval(expression, {"__builtins__": {}}, known) if expression else following
            known[key] = values[key] = value
            following = value + 1
        enums[name] = values
    return enums


def _contract_enum(name: str) -> dict[str, int]:
    return {value.name: value.number for value in libvirt_enums_pb2.DESCRIPTOR.enum_types_by_name[name].values}


def _without_prefix(values: dict[str, int]) -> dict[str, int]:
    return {name.removeprefix("VIR_"): value for name, value in values.items()}


def test_every_enumeration_of_the_file_is_compared() -> None:
    assert set(libvirt_enums_pb2.DESCRIPTOR.enum_types_by_name) == set(MIRRORED)


@pytest.mark.parametrize("name", sorted(MIRRORED))
def test_values_equal_those_of_the_headers(name: str) -> None:
    theirs = _without_prefix(_header_enums()[MIRRORED[name]])
    ours = _contract_enum(name)
    assert theirs, f"{MIRRORED[name]} was not found in the headers"

    shared = theirs.keys() & ours.keys()
    assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}
    if _header_release() <= MIRRORED_RELEASE:
        assert theirs.keys() - ours.keys() == set()

    own = {key: ours[key] for key in ours.keys() - theirs.keys()}
    zeros = {key for key, value in own.items() if value == 0 and key.endswith("_NONE") and 0 not in theirs.values()}
    newer = {key for key, value in own.items() if NEWER.get(name, {}).get(key) == value}
    assert own.keys() - zeros - newer == set()


def test_every_mirrored_call_exists_in_libvirt() -> None:
    declared = set(CALL_DECLARATION.findall(_headers()))
    mirrored = set()
    for path in PROTO_FOLDER.glob("*_service.proto"):
        mirrored |= set(re.findall(r"^  // Mirrors (vir\w+)\.$", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert "virDomainBlockRebase" in mirrored
    assert mirrored - declared == set()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ERR_BLOCK_COPY_ACTIVE", 83),
        ("ERR_OPERATION_INVALID", 55),
        ("ERR_NO_DOMAIN", 42),
        ("ERR_DOM_EXIST", 28),
        ("FROM_QEMU", 10),
        ("FROM_DOMAIN", 20),
        ("DOMAIN_BLOCK_REBASE_COPY", 8),
        ("DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES", 8),
        ("DOMAIN_BLOCK_COPY_TARGET_ZEROED", 16),
        ("DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES", 64),
        ("DOMAIN_BLOCK_JOB_ABORT_PIVOT", 2),
        ("DOMAIN_BLOCK_JOB_READY", 3),
        ("DOMAIN_EVENT_ID_BLOCK_JOB_2", 16),
    ],
)
def test_well_known_numbers_hold_without_headers_too(name: str, number: int) -> None:
    assert getattr(libvirt_enums_pb2, name) == number
