# SPDX-License-Identifier: Apache-2.0
"""The calls of `DomainService` on whole domains. Those on disks are in `disk.py`."""

from __future__ import annotations

from virtblock.client import decode, encode
from virtblock.client.calls.call import DEFAULT_TIMEOUT_S, DOMAIN_SERVICE, Call, answer, nothing
from virtblock.client.flags import (
    DomainCreateFlags,
    DomainDestroyFlags,
    DomainDeviceModifyFlags,
    DomainSaveRestoreFlags,
    DomainSnapshotCreateFlags,
    DomainUndefineFlags,
    DomainXmlFlags,
    SnapshotRevertFlags,
)
from virtblock.client.model import Domain, DomainInfo, DomainLike, DomainStateReason, Snapshot
from virtblock.v1 import domain_service_pb2 as pb

SERVICE = DOMAIN_SERVICE


def get_xml_desc(
    default_uri: str,
    domain: DomainLike,
    flags: DomainXmlFlags | int = 0,
    *,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[str]:
    """Returns the XML; while a copy runs it shows the destination as `<mirror>`."""
    request = pb.GetXMLDescRequest(domain=encode.selector(default_uri, domain), flags=flags)
    return Call(SERVICE, "GetXMLDesc", request, answer(pb.GetXMLDescResponse, lambda r: r.xml), timeout_s)


def get_state(
    default_uri: str, domain: DomainLike, flags: int = 0, *, timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[DomainStateReason]:
    """Returns both; `flags` is unused, 0."""
    request = pb.GetStateRequest(domain=encode.selector(default_uri, domain), flags=flags)
    return Call(SERVICE, "GetState", request, answer(pb.GetStateResponse, decode.domain_state), timeout_s)


def get_info(default_uri: str, domain: DomainLike, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[DomainInfo]:
    """Returns memory in KiB and processor time in nanoseconds."""
    request = pb.GetInfoRequest(domain=encode.selector(default_uri, domain))
    return Call(SERVICE, "GetInfo", request, answer(pb.GetInfoResponse, decode.domain_info), timeout_s)


def is_active(default_uri: str, domain: DomainLike, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[bool]:
    """Returns True while it has a running or paused instance."""
    request = pb.IsActiveRequest(domain=encode.selector(default_uri, domain))
    return Call(SERVICE, "IsActive", request, answer(pb.IsActiveResponse, lambda r: r.active), timeout_s)


def is_persistent(default_uri: str, domain: DomainLike, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[bool]:
    """Returns True when it has such a definition."""
    request = pb.IsPersistentRequest(domain=encode.selector(default_uri, domain))
    return Call(SERVICE, "IsPersistent", request, answer(pb.IsPersistentResponse, lambda r: r.persistent), timeout_s)


def create(
    default_uri: str, domain: DomainLike, flags: DomainCreateFlags | int = 0, *, timeout_s: float | None = None
) -> Call[Domain]:
    """Returns the started domain. Without a deadline by default: it may restore a saved memory."""
    request = pb.CreateRequest(domain=encode.selector(default_uri, domain), flags=flags)
    return Call(SERVICE, "Create", request, answer(pb.CreateResponse, lambda r: decode.domain(r.domain)), timeout_s)


def destroy(
    default_uri: str,
    domain: DomainLike,
    flags: DomainDestroyFlags | int = 0,
    *,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[None]:
    """Returns when the domain is stopped."""
    request = pb.DestroyRequest(domain=encode.selector(default_uri, domain), flags=flags)
    return Call(SERVICE, "Destroy", request, nothing(pb.DestroyResponse), timeout_s)


def shutdown(default_uri: str, domain: DomainLike, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[None]:
    """Returns when the guest was asked."""
    request = pb.ShutdownRequest(domain=encode.selector(default_uri, domain))
    return Call(SERVICE, "Shutdown", request, nothing(pb.ShutdownResponse), timeout_s)


def undefine(
    default_uri: str,
    domain: DomainLike,
    flags: DomainUndefineFlags | int = 0,
    *,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[None]:
    """Returns when the definition is gone. No image is deleted."""
    request = pb.UndefineRequest(domain=encode.selector(default_uri, domain), flags=flags)
    return Call(SERVICE, "Undefine", request, nothing(pb.UndefineResponse), timeout_s)


def suspend(default_uri: str, domain: DomainLike, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[None]:
    """Returns when the domain is paused."""
    request = pb.SuspendRequest(domain=encode.selector(default_uri, domain))
    return Call(SERVICE, "Suspend", request, nothing(pb.SuspendResponse), timeout_s)


def resume(default_uri: str, domain: DomainLike, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Call[None]:
    """Returns when the domain runs."""
    request = pb.ResumeRequest(domain=encode.selector(default_uri, domain))
    return Call(SERVICE, "Resume", request, nothing(pb.ResumeResponse), timeout_s)


def save(default_uri: str, domain: DomainLike, to: str | None, *, timeout_s: float | None = None) -> Call[None]:
    """Takes an absolute path on the hypervisor's host. Without a deadline by default: it writes the domain's memory."""
    request = pb.SaveRequest(domain=encode.selector(default_uri, domain), to=to)
    return Call(SERVICE, "Save", request, nothing(pb.SaveResponse), timeout_s)


def save_flags(
    default_uri: str,
    domain: DomainLike,
    to: str | None,
    dxml: str | None = None,
    flags: DomainSaveRestoreFlags | int = 0,
    *,
    timeout_s: float | None = None,
) -> Call[None]:
    """Takes an absolute path on the hypervisor's host, and the XML to use at restore; None: the domain's own. Without a
    deadline by default: it writes the domain's memory.
    """
    request = pb.SaveFlagsRequest(domain=encode.selector(default_uri, domain), to=to, dxml=dxml, flags=flags)
    return Call(SERVICE, "SaveFlags", request, nothing(pb.SaveFlagsResponse), timeout_s)


def managed_save(
    default_uri: str, domain: DomainLike, flags: DomainSaveRestoreFlags | int = 0, *, timeout_s: float | None = None
) -> Call[None]:
    """Without a deadline by default: it writes the domain's memory."""
    request = pb.ManagedSaveRequest(domain=encode.selector(default_uri, domain), flags=flags)
    return Call(SERVICE, "ManagedSave", request, nothing(pb.ManagedSaveResponse), timeout_s)


def snapshot_create_xml(
    default_uri: str,
    domain: DomainLike,
    xml: str,
    flags: DomainSnapshotCreateFlags | int = 0,
    *,
    timeout_s: float | None = None,
) -> Call[Snapshot]:
    """Takes the snapshot's XML; returns its name and XML. Without a deadline by default: it may write the memory."""
    request = pb.SnapshotCreateXMLRequest(domain=encode.selector(default_uri, domain), xml=xml, flags=flags)
    parse = answer(pb.SnapshotCreateXMLResponse, decode.snapshot)
    return Call(SERVICE, "SnapshotCreateXML", request, parse, timeout_s)


def revert_to_snapshot(
    default_uri: str,
    domain: DomainLike,
    snapshot_name: str,
    flags: SnapshotRevertFlags | int = 0,
    *,
    timeout_s: float | None = None,
) -> Call[None]:
    """Takes the snapshot's name. Without a deadline by default: it may read the memory."""
    selector = encode.selector(default_uri, domain)
    request = pb.RevertToSnapshotRequest(domain=selector, snapshot_name=snapshot_name, flags=flags)
    return Call(SERVICE, "RevertToSnapshot", request, nothing(pb.RevertToSnapshotResponse), timeout_s)


def detach_device(
    default_uri: str, domain: DomainLike, xml: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S
) -> Call[None]:
    """Takes the device's XML; for a disk its target is enough: `<disk><target dev='vda'/></disk>`."""
    request = pb.DetachDeviceRequest(domain=encode.selector(default_uri, domain), xml=xml)
    return Call(SERVICE, "DetachDevice", request, nothing(pb.DetachDeviceResponse), timeout_s)


def detach_device_flags(
    default_uri: str,
    domain: DomainLike,
    xml: str,
    flags: DomainDeviceModifyFlags | int = 0,
    *,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Call[None]:
    """Takes the device's XML; the flags say whether the running instance, the definition, or both lose it."""
    request = pb.DetachDeviceFlagsRequest(domain=encode.selector(default_uri, domain), xml=xml, flags=flags)
    return Call(SERVICE, "DetachDeviceFlags", request, nothing(pb.DetachDeviceFlagsResponse), timeout_s)
