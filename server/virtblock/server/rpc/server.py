# SPDX-License-Identifier: Apache-2.0
"""One gRPC server per listener: the same services, with the listener's own idea of who calls.

Owns: `ListenerServer`: binding, start, health, stop. Invariants: a server has exactly one address, so what it knows
of its callers (`CallerRule`) holds for every call; a socket file is never there with wider rights than it ends with;
health says SERVING only between `start` and `announce_stop`. A connection's URI is a service of health's as well.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from virtblock.server.rpc import limits
from virtblock.server.rpc.block_job_servicer import BlockJobServicer
from virtblock.server.rpc.callers import CallerRule, Transport
from virtblock.server.rpc.connect_servicer import ConnectServicer
from virtblock.server.rpc.domain_servicer import DomainServicer
from virtblock.server.rpc.interceptors import CallLogInterceptor, ErrorInterceptor
from virtblock.server.rpc.servicing import Floor
from virtblock.server.rpc.tls import ServerTls
from virtblock.v1 import (
    block_job_service_pb2,
    block_job_service_pb2_grpc,
    connect_service_pb2,
    connect_service_pb2_grpc,
    domain_service_pb2,
    domain_service_pb2_grpc,
)

SERVICE_NAMES = (
    connect_service_pb2.DESCRIPTOR.services_by_name["ConnectService"].full_name,
    domain_service_pb2.DESCRIPTOR.services_by_name["DomainService"].full_name,
    block_job_service_pb2.DESCRIPTOR.services_by_name["BlockJobService"].full_name,
)
# Nobody but the owner, for the moment between bind and chmod. The execute bit stays: another thread may make a folder
# then.
_BIND_UMASK = 0o077


class BindFailed(Exception):
    """An address that cannot be listened on; the text names it."""


@dataclass(frozen=True)
class ListenerSpec:
    """One address and what holds for its calls. `address` is grpc's form, `unix:/path` or `host:port`."""

    address: str
    rule: CallerRule
    socket_mode: int = 0o660
    with_reflection: bool = True


class ListenerServer:
    """A grpc.aio server with one address. Made, bound, started and stopped on one event loop, in this order."""

    def __init__(self, floor: Floor, spec: ListenerSpec, tls: ServerTls | None = None) -> None:
        self.spec = spec
        self._tls = tls
        # The outermost is first: the log sees the code that the errors became.
        self._server = grpc.aio.server(
            interceptors=[CallLogInterceptor(spec.rule), ErrorInterceptor()],
            options=limits.SERVER_OPTIONS,
            maximum_concurrent_rpcs=limits.LISTENER_CALLS_MAX,
        )
        self._health = health.aio.HealthServicer()
        self._add_services(floor)

    async def bind(self) -> str:
        """Take the address, and say it with the port that was given. Raises BindFailed."""
        # grpc's health servicer begins as SERVING; nothing is served before `start`.
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            if self.spec.rule.transport is Transport.UNIX:
                self._bind_unix()
                return self.spec.address
            port = self._bind_tcp()
        except (RuntimeError, OSError) as error:
            raise BindFailed(f"cannot listen on {self.spec.address}: {error}") from error
        return f"{self.spec.address.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        """Answer calls."""
        await self._server.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def set_connection_health(self, uri: str, *, is_alive: bool) -> None:
        """Say of a connection whether its hypervisor can be reached. Nothing changes after `announce_stop`."""
        status = health_pb2.HealthCheckResponse
        await self._health.set(uri, status.SERVING if is_alive else status.NOT_SERVING)

    async def announce_stop(self) -> None:
        """Say NOT_SERVING to those who look, for good. Calls are still answered."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls at once, let those that run end within the grace, then cut them off."""
        await self._server.stop(grace_s)

    def _add_services(self, floor: Floor) -> None:
        rule = self.spec.rule
        connect_service_pb2_grpc.add_ConnectServiceServicer_to_server(ConnectServicer(floor, rule), self._server)
        domain_service_pb2_grpc.add_DomainServiceServicer_to_server(DomainServicer(floor, rule), self._server)
        block_job_service_pb2_grpc.add_BlockJobServiceServicer_to_server(BlockJobServicer(floor, rule), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self.spec.with_reflection:
            names = (*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *SERVICE_NAMES):
            await self._health.set(name, status)

    def _bind_unix(self) -> None:
        path = Path(self.spec.address.removeprefix("unix:"))
        umask = os.umask(_BIND_UMASK)
        try:
            self._server.add_insecure_port(self.spec.address)
        finally:
            os.umask(umask)
        path.chmod(self.spec.socket_mode)

    def _bind_tcp(self) -> int:
        if self._tls is None:
            return self._server.add_insecure_port(self.spec.address)
        return self._server.add_secure_port(self.spec.address, self._tls.credentials())


async def stop_all(servers: list[ListenerServer], grace_s: float) -> None:
    """Stop several servers within one grace."""
    await asyncio.gather(*(server.stop(grace_s) for server in servers))
