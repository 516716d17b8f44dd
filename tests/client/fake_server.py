# SPDX-License-Identifier: Apache-2.0
"""A gRPC server whose every answer the test scripts, on a unix socket and an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, message_factory
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from virtblock.v1 import (
    block_job_service_pb2,
    connect_service_pb2,
    domain_service_pb2,
    errors_pb2,
)

Handler = Callable[[Any, Any], Any]

SERVICES = (
    connect_service_pb2.DESCRIPTOR.services_by_name["ConnectService"],
    domain_service_pb2.DESCRIPTOR.services_by_name["DomainService"],
    block_job_service_pb2.DESCRIPTOR.services_by_name["BlockJobService"],
)
METHODS = {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}


class Refusal(Exception):
    """Ends the call with this status; the details as a server sends them."""

    def __init__(
        self,
        code: grpc.StatusCode,
        error: errors_pb2.VirError | None = None,
        *,
        reason: str = "",
        text: str = "",
    ) -> None:
        super().__init__(text)
        self.code = code
        self.text = text or (error.message if error else "refused")
        details = []
        if reason:
            details.append(error_details_pb2.ErrorInfo(reason=reason, domain="libvirt.org"))
        if error is not None:
            details.append(error)
        self.packed = [any_pb2.Any() for _ in details]
        for packed, detail in zip(self.packed, details, strict=True):
            packed.Pack(detail)

    async def end(self, context: Any) -> None:
        """Abort the call."""
        metadata: tuple[tuple[str, bytes], ...] = ()
        if self.packed:
            status = status_pb2.Status(code=self.code.value[0], message=self.text, details=self.packed)
            metadata = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(self.code, self.text, metadata)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def service(self, details: Any) -> Any:
        method = METHODS[details.method]
        handler = self._server.handlers.get(method.name)
        if handler is None:
            return None
        request_type = message_factory.GetMessageClass(method.input_type)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(handler),
                request_deserializer=request_type.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method.name, handler),
            request_deserializer=request_type.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _unary(self, name: str, handler: Handler) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, context: Any) -> Any:
            self._server.requests.append((name, request))
            try:
                answered = handler(request, context)
                return await answered if asyncio.iscoroutine(answered) else answered
            except Refusal as refusal:
                return await refusal.end(context)

        return answer

    def _streaming(self, handler: Handler) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async for message in handler(request, context):
                    yield message
            except Refusal as refusal:
                await refusal.end(context)

        return answer


class FakeServer:
    """Answers what `handlers` has under an RPC's name: a function of request and context, async for a stream.

    A handler ends its call with an error by raising `Refusal`. `requests` holds every unary request. Start it by
    `start`, again after `stop`, which leaves all clients alone at once.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.handlers: dict[str, Handler] = {}
        self.requests: list[tuple[str, Any]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-server", daemon=True)
        self._thread.start()
        self._server: Any = None

    @property
    def target(self) -> str:
        """What a client takes."""
        return f"unix:{self.socket}"

    def start(self) -> None:
        """Serve."""
        self._run(self._start())

    def stop(self) -> None:
        """Break all connections."""
        self._run(self._server.stop(None))

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)
