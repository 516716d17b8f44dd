# SPDX-License-Identifier: Apache-2.0
"""What happens around every call of the contract: its errors become a status, and it leaves one line in the log.

Owns: the one place where an exception becomes a gRPC status (`ErrorInterceptor`), for unary calls and for the
generators of streams alike. Invariants: an `AbortError` passes untouched, a cancellation passes untouched; what is
not a VirError is told to the caller only by an id; the context is not touched once the call may be over. grpc closes a
stream's generator only after it has freed the call, and then asking the context for the peer reads freed memory. Health
and reflection, which are grpc's own, are left alone.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias, cast

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]

from virtblock.server.core.errors import VirError
from virtblock.server.rpc.callers import CallerRule
from virtblock.server.rpc.requests import Undecodable, check_request, decoding
from virtblock.server.rpc.status import status_of, unforeseen

Context = grpc.aio.ServicerContext[Any, Any]
UnaryMethod = Callable[[Any, Context], Awaitable[Any]]
StreamMethod = Callable[[Any, Context], AsyncGenerator[Any, None]]
# Quoted: generic for the type checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"

_OUR_METHODS = "/virtblock.v1."

logger = logging.getLogger("virtblock.rpc")
call_logger = logging.getLogger("virtblock.call")


class _WrappingInterceptor(grpc.aio.ServerInterceptor):
    """Replaces a handler of ours by the same handler with something around it."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        # No handler: an RPC that no servicer has, which grpc answers itself.
        if handler is None or not method.startswith(_OUR_METHODS):
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self.around_stream(method, cast(StreamMethod, handler.unary_stream)),
                request_deserializer=decoding(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self.around_unary(method, cast(UnaryMethod, handler.unary_unary)),
            request_deserializer=decoding(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def around_unary(self, method: str, behavior: UnaryMethod) -> UnaryMethod:
        raise NotImplementedError

    def around_stream(self, method: str, behavior: StreamMethod) -> StreamMethod:
        raise NotImplementedError


class ErrorInterceptor(_WrappingInterceptor):
    """Turns what a servicer raises into the status of the contract."""

    def around_unary(self, method: str, behavior: UnaryMethod) -> UnaryMethod:
        async def call(request: Any, context: Context) -> Any:
            try:
                check_request(request)
                return await behavior(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await context.abort_with_status(rpc_status.to_status(_status_for(method, error)))

        return call

    def around_stream(self, method: str, behavior: StreamMethod) -> StreamMethod:
        async def call(request: Any, context: Context) -> AsyncGenerator[Any, None]:
            is_call_over = False
            try:
                check_request(request)
                async with aclosing(behavior(request, context)) as responses:
                    try:
                        async for response in responses:
                            yield response
                    except GeneratorExit:
                        is_call_over = True
                        raise
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                status = _status_for(method, error)
                if not is_call_over:
                    await context.abort_with_status(rpc_status.to_status(status))

        return call


class CallLogInterceptor(_WrappingInterceptor):
    """One line per call, at its end: who, what, on which disk, how it went and how long it took.

    Of the arguments only the names of domain, disk and job are told.
    """

    def __init__(self, rule: CallerRule) -> None:
        self._rule = rule

    def around_unary(self, method: str, behavior: UnaryMethod) -> UnaryMethod:
        async def call(request: Any, context: Context) -> Any:
            entry = _CallEntry(method, request, context, self._rule)
            try:
                response = await behavior(request, context)
                entry.outcome = "OK"
                return response
            except Exception:
                entry.outcome = _code_name(context)
                raise
            finally:
                asyncio.get_running_loop().call_soon(entry.write)  # when the answer is on its way

        return call

    def around_stream(self, method: str, behavior: StreamMethod) -> StreamMethod:
        async def call(request: Any, context: Context) -> AsyncGenerator[Any, None]:
            entry = _CallEntry(method, request, context, self._rule)
            try:
                async with aclosing(behavior(request, context)) as responses:
                    async for response in responses:
                        yield response
                entry.outcome = "OK"
            except Exception:
                entry.outcome = _code_name(context)
                raise
            finally:
                entry.write()

        return call


class _CallEntry:
    """What the log will say of a call; all that the context knows is asked at the begin (see the invariants)."""

    def __init__(self, method: str, request: Any, context: Context, rule: CallerRule) -> None:
        caller = rule.caller_of(context)
        self._fields: dict[str, object] = {
            "peer": context.peer(),
            "principal": caller.principal,
            "read_only": caller.read_only,
            "method": method.removeprefix(_OUR_METHODS),
            **_subject(request),
        }
        self._begin_s = time.monotonic()
        # What stands when neither an answer nor an error ended the call: its caller, or its deadline, did.
        self.outcome = "CANCELLED"

    def write(self) -> None:
        duration_ms = round((time.monotonic() - self._begin_s) * 1000, 1)
        call_logger.info("call", extra={"fields": {**self._fields, "code": self.outcome, "duration_ms": duration_ms}})


def _status_for(method: str, error: Exception) -> status_pb2.Status:
    if isinstance(error, VirError):
        return status_of(error)
    incident = secrets.token_hex(4)
    logger.error("call failed in a way that was not foreseen", exc_info=error, extra={"fields": {
        "method": method.removeprefix(_OUR_METHODS),
        "incident": incident,
    }})  # fmt: skip
    return unforeseen(incident)


def _code_name(context: Context) -> str:
    # Typed as StatusCode, and in truth the bare number.
    code: object = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), str(code))


def _subject(request: Any) -> dict[str, object]:
    """Which domain, disk or job a request is about, as it names them."""
    subject: dict[str, object] = {}
    if isinstance(request, Undecodable):
        return subject
    names = request.DESCRIPTOR.fields_by_name
    if "domain" in names and request.HasField("domain"):
        chosen = request.domain.WhichOneof("domain")
        if chosen is not None:
            subject["domain"] = getattr(request.domain, chosen)
    subject |= {key: getattr(request, key) for key in ("name", "uuid", "disk", "job_id") if key in names}
    return {key: value for key, value in subject.items() if value != ""}
