# SPDX-License-Identifier: Apache-2.0
"""Runs conformance cases through the Python client, as tests/conformance/PROBE.md defines it.

Every call goes through the client's own method, which makes the request and reads the answer into a record; the bytes
of the answer are noted on their way.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from virtblock.client import (
    BlockJobEvent,
    BlockJobFilter,
    BlockJobWatcher,
    Client,
    DomainSelector,
    Stream,
    TlsOptions,
    TypedParameter,
    VirError,
)
from virtblock.client.calls.call import Call
from virtblock.client.enums import TypedParameterType
from virtblock.v1 import block_job_service_pb2, connect_service_pb2, domain_service_pb2

T = TypeVar("T")

SERVICES = {
    service.name: service
    for module in (connect_service_pb2, domain_service_pb2, block_job_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}
METHOD_NAMES = {"DomainEventRegisterAny": "domain_events"}
MS_PER_S = 1000


class NotedClient(Client):
    """Keeps the bytes of the last answer or message."""

    noted = b""

    def _read(self, call: Call[T], data: bytes) -> T:
        self.noted = data
        return super()._read(call, data)


def method_name(rpc: str) -> str:
    """`GetXMLDesc` is `get_xml_desc`."""
    return METHOD_NAMES.get(rpc) or re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", rpc).lower()


def arguments(request: Message) -> dict[str, Any]:
    """The method's keyword arguments for what a request has; what it does not have is the client's to fill in."""
    given: dict[str, Any] = {}
    for field in request.DESCRIPTOR.fields:
        if field.name == "connection_uri":
            continue
        value = getattr(request, field.name)
        if field.message_type is not None and field.message_type.name == "DomainSelector":
            given[field.name] = selector(value)
        elif field.message_type is not None and field.message_type.name == "BlockJobFilter":
            given[field.name] = job_filter(value) if request.HasField(field.name) else None
        elif field.message_type is not None:
            given[field.name] = [typed_parameter(each) for each in value]
        elif field.has_presence:
            given[field.name] = value if request.HasField(field.name) else None
        elif field.name == "request_id":
            given[field.name] = value or None
        elif field.name.endswith("_ms"):
            given[field.name.removesuffix("_ms") + "_s"] = value / MS_PER_S if value else None
        else:
            given[field.name] = value
    if given.get("interval_s", 0) is None:
        del given["interval_s"]
    return given


def selector(message: Any) -> DomainSelector:
    """The domain that a request names, perhaps by nothing."""
    chosen = message.WhichOneof("domain")
    named = {chosen: getattr(message, chosen)} if chosen else {}
    return DomainSelector(connection_uri=message.connection_uri, **named)


def job_filter(message: Any) -> BlockJobFilter:
    """Which jobs a request is about."""
    return BlockJobFilter(
        connection_uri=message.connection_uri,
        domain_uuid=message.domain_uuid,
        disk=message.disk,
        states=tuple(message.states),
    )


def typed_parameter(message: Any) -> TypedParameter:
    """A parameter with its type."""
    chosen = message.WhichOneof("value")
    return TypedParameter(
        message.field, getattr(message, chosen), TypedParameterType[chosen.removesuffix("_value").upper()]
    )


class Probe:
    """What the commands made so far."""

    def __init__(self) -> None:
        self._clients: dict[str, NotedClient] = {}
        self._streams: dict[str, tuple[NotedClient, Stream[Any] | BlockJobWatcher]] = {}

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to one command."""
        action: Callable[..., dict[str, Any]] = getattr(self, "_" + command.pop("op"))
        try:
            return action(**command)
        except VirError as error:
            names = ("number", "domain", "level", "message", "str1", "str2", "str3", "int1", "int2", "reason")
            return {"error": {name: getattr(error, name) for name in names}}
        except Exception as error:
            # A defect of the client, which the runner reports.
            return {"crash": f"{type(error).__name__}: {error}"}

    def _dial(self, client: str, target: str, tls: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        trust = TlsOptions(**{key: value or None for key, value in tls.items()}) if tls is not None else None
        made = self._clients[client] = NotedClient(target, tls=trust, **options)
        return {"target": str(made.target)}

    def _call(
        self, client: str, method: str, request: str, timeout_ms: int = 0, cancel_after_ms: int = 0
    ) -> dict[str, Any]:
        caller = self._clients[client]
        # A blocking call is given up by closing its client.
        timer = threading.Timer(cancel_after_ms / MS_PER_S, caller.close) if cancel_after_ms else None
        if timer is not None:
            timer.start()
        given = self._arguments(method, request)
        if timeout_ms:
            given["timeout_s"] = timeout_ms / MS_PER_S
        try:
            getattr(caller, method_name(method.partition(".")[2]))(**given)
        finally:
            if timer is not None:
                timer.cancel()
        return {"response": base64.b64encode(caller.noted).decode()}

    @staticmethod
    def _arguments(method: str, request: str) -> dict[str, Any]:
        service, _, rpc = method.partition(".")
        kind = SERVICES[service].methods_by_name[rpc].input_type._concrete_class
        return arguments(kind.FromString(base64.b64decode(request)))

    def _open(self, client: str, stream: str, method: str, request: str) -> dict[str, Any]:
        caller = self._clients[client]
        opened = getattr(caller, method_name(method.partition(".")[2]))(**self._arguments(method, request))
        self._streams[stream] = caller, opened
        return {}

    def _watch(self, client: str, stream: str, request: str) -> dict[str, Any]:
        caller = self._clients[client]
        given = self._arguments("BlockJobService.WatchBlockJobs", request)
        given["progress_interval_s"] = given["progress_interval_s"] or 0
        watch = caller.watch_block_jobs(**given)
        watch.__enter__()
        self._streams[stream] = caller, watch
        return {}

    def _next(self, stream: str) -> dict[str, Any]:
        caller, opened = self._streams[stream]
        try:
            item = next(iter(opened))
        except StopIteration:
            return {"end": True}
        if isinstance(opened, BlockJobWatcher):
            return {"response": event_bytes(item), "token": opened.resume_token}
        return {"response": base64.b64encode(caller.noted).decode()}

    def _close_stream(self, stream: str) -> dict[str, Any]:
        self._streams.pop(stream)[1].close()
        return {}

    def _close(self, client: str) -> dict[str, Any]:
        self._clients[client].close()
        return {}


def event_bytes(event: BlockJobEvent) -> str:
    """What a watch shows, as the contract words it: a watch holds events back, so the last bytes may be another's."""
    message = block_job_service_pb2.BlockJobEvent(sequence=event.sequence, resume_token=event.resume_token)
    if event.job is not None:
        message.job.job_id, message.job.disk = event.job.job_id, event.job.disk
        message.job.state = int(event.job.state)  # type: ignore[assignment]
        message.job.domain.name = event.job.domain.name
    if event.progress is not None:
        message.progress.job_id = event.progress.job_id
    return base64.b64encode(message.SerializeToString()).decode()


def main() -> None:
    """Answer command after command."""
    probe = Probe()
    for line in sys.stdin:
        print(json.dumps(probe.run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
