# SPDX-License-Identifier: Apache-2.0
"""The interceptors on their own: what they may ask of a context, and when.

grpc closes a stream's generator after it has freed the call. A context that is asked for the peer then reads freed
memory, which ends the process now and then; the one here ends the test always.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest

from virtblock.server.core.errors import ErrorNumber, report
from virtblock.server.rpc.callers import CallerRule, Transport
from virtblock.server.rpc.interceptors import CallLogInterceptor, ErrorInterceptor
from virtblock.v1 import block_job_service_pb2 as messages

METHOD = "/virtblock.v1.BlockJobService/WatchBlockJobs"
REQUEST = messages.WatchBlockJobsRequest()
TIMEOUT_S = 60


class CallContext:
    """Answers while the call lives."""

    def __init__(self) -> None:
        self.is_over = False
        self.aborted_with: Any = None

    def _ask(self) -> None:
        assert not self.is_over, "the call is over, and grpc has freed it"

    def peer(self) -> str:
        self._ask()
        return "unix:"

    def auth_context(self) -> dict[str, list[bytes]]:
        self._ask()
        return {"x509_common_name": [b"one"]}

    def code(self) -> int:
        return 9

    async def abort_with_status(self, status: Any) -> None:
        self._ask()
        self.aborted_with = status
        raise grpc.aio.AbortError("aborted")


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.name == "virtblock.call"]


def wrapped(behavior: Any) -> Any:
    """As on a server: the log around the errors."""
    log = CallLogInterceptor(CallerRule(Transport.TLS))
    return log.around_stream(METHOD, ErrorInterceptor().around_stream(METHOD, behavior))


@pytest.mark.parametrize("is_failing_at_the_end", [False, True])
async def test_a_stream_that_is_closed_late_leaves_the_context_alone(
    caplog: pytest.LogCaptureFixture, is_failing_at_the_end: bool
) -> None:
    closed = []

    async def behavior(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        try:
            while True:
                yield messages.WatchBlockJobsResponse()
        finally:
            closed.append(True)
            if is_failing_at_the_end:
                raise report(ErrorNumber.OPERATION_FAILED, "while it was closed")

    context = CallContext()
    stream = wrapped(behavior)(REQUEST, context)
    await anext(stream)
    context.is_over = True
    with caplog.at_level(logging.INFO, "virtblock"):
        await stream.aclose()
    assert closed == [True]
    assert context.aborted_with is None
    [line] = logged(caplog)
    assert (line["peer"], line["principal"], line["code"]) == ("unix:", "tls:CN=one", "CANCELLED")


async def test_a_stream_that_fails_while_it_lives_is_aborted(caplog: pytest.LogCaptureFixture) -> None:
    async def behavior(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        yield messages.WatchBlockJobsResponse()
        raise report(ErrorNumber.OPERATION_INVALID, "x")

    context = CallContext()
    stream = wrapped(behavior)(REQUEST, context)
    await anext(stream)
    with caplog.at_level(logging.INFO, "virtblock"), pytest.raises(grpc.aio.AbortError):
        await anext(stream)
    assert context.aborted_with.code is grpc.StatusCode.FAILED_PRECONDITION
    assert [line["code"] for line in logged(caplog)] == ["FAILED_PRECONDITION"]


async def test_a_deliberate_abort_passes() -> None:
    async def behavior(request: Any, context: Any) -> Any:
        raise grpc.aio.AbortError("deliberate")

    context: Any = CallContext()
    with pytest.raises(grpc.aio.AbortError, match="deliberate"):
        await ErrorInterceptor().around_unary(METHOD, behavior)(REQUEST, context)
    assert context.aborted_with is None


async def test_many_streams_that_are_cut_off_leave_a_line_each(stubs: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "virtblock.call"):
        for _ in range(60):
            stream = stubs.block_job.WatchBlockJobs(REQUEST)
            await stream.read()
            stream.cancel()
        async with asyncio.timeout(TIMEOUT_S):
            while len(logged(caplog)) < 60:
                gc.collect()
                await asyncio.sleep(0.01)
    assert {line["code"] for line in logged(caplog)} == {"CANCELLED"}
