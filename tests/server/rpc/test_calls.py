# SPDX-License-Identifier: Apache-2.0
"""What surrounds a call: its errors, its end before its work's end, its bounds, its line in the log, the server's
stop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report
from virtblock.server.core.jobs import Origin
from virtblock.server.core.model import BlockJob, BlockJobType, JobState
from virtblock.server.rpc import limits
from virtblock.server.rpc.callers import CallerRule
from virtblock.server.rpc.server import ListenerServer, ListenerSpec
from virtblock.v1 import (
    block_job_pb2,
    block_job_service_pb2,
    block_job_service_pb2_grpc,
    common_pb2,
    connect_service_pb2,
    domain_block_pb2,
    domain_service_pb2,
)

GUEST = common_pb2.DomainSelector(name="guest")
XML_REQUEST = domain_service_pb2.GetXMLDescRequest(domain=GUEST)
TIMEOUT_S = 60


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in threads and in gRPC
            await asyncio.sleep(0.005)


def begin_job(stack: Any, disk: str = "vda") -> BlockJob:
    job = BlockJob(
        job_id="",
        connection_uri="fake:///",
        domain_uuid="0a0b0c0d-0000-4000-8000-000000000001",
        domain_name="guest",
        disk=disk,
        type=BlockJobType.COPY,
        state=JobState.NEW,
        source_path="/source",
        destination_path="/destination",
        destination_format="raw",
        flags=0,
        bandwidth_bytes_per_s=0,
    )
    begun: BlockJob = stack.jobs.begin(job, Origin())
    return begun


class TestErrors:
    async def test_a_drivers_error_arrives_whole(self, stack: Any, stubs: Any, told: Any) -> None:
        stack.driver.raising = VirError(
            38, "cannot open '/x': No such file or directory", domain=ErrorDomain.STORAGE, str1="%s", int1=2
        )
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stubs.domain.GetXMLDesc(XML_REQUEST)
        seen = told(failure.value)
        assert seen.code is grpc.StatusCode.NOT_FOUND
        assert failure.value.details() == "cannot open '/x': No such file or directory"
        assert (seen.error.number, seen.error.domain, seen.error.int1) == (38, ErrorDomain.STORAGE, 2)
        assert (seen.info.reason, seen.info.domain) == ("VIR_ERR_SYSTEM_ERROR", "libvirt.org")

    async def test_a_huge_path_in_an_error_arrives(self, stack: Any, stubs: Any, told: Any) -> None:
        path = "/" + "目" * 30_000 + "/end"
        stack.driver.raising = report(ErrorNumber.OPERATION_FAILED, f"cannot open '{path}'")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stubs.domain.GetXMLDesc(XML_REQUEST)
        assert told(failure.value).error.message.endswith("/end'")

    async def test_a_path_that_is_not_utf8_arrives(self, stack: Any, stubs: Any, told: Any) -> None:
        stack.driver.raising = report(ErrorNumber.OPERATION_FAILED, "cannot open '/\udcff'")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stubs.domain.GetXMLDesc(XML_REQUEST)
        assert "\\udcff" in told(failure.value).error.message

    @pytest.mark.parametrize("raised", [RuntimeError("a secret"), KeyError("a secret")])
    async def test_an_unforeseen_failure_is_told_by_its_incident_alone(
        self, stack: Any, stubs: Any, told: Any, caplog: pytest.LogCaptureFixture, raised: Exception
    ) -> None:
        stack.driver.raising = raised
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stubs.domain.GetXMLDesc(XML_REQUEST)
        seen = told(failure.value)
        assert (seen.code, seen.error.number) == (grpc.StatusCode.INTERNAL, ErrorNumber.INTERNAL_ERROR)
        assert "secret" not in f"{seen.status}{failure.value.debug_error_string()}"
        [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert vars(record)["fields"]["incident"] == seen.info.metadata["incident"]
        assert record.exc_info is not None
        assert record.exc_info[1] is raised

    async def test_an_error_in_a_stream_is_told_too(self, stubs: Any, told: Any) -> None:
        stream = stubs.block_job.WatchBlockMap(block_job_service_pb2.WatchBlockMapRequest(job_id="none"))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stream.read()
        seen = told(failure.value)
        assert (seen.code, seen.info.reason) == (grpc.StatusCode.NOT_FOUND, "BLOCK_JOB_NOT_FOUND")

    @pytest.mark.parametrize("is_stream", [False, True])
    async def test_what_is_no_message_is_a_bad_argument_and_has_its_line(
        self, stubs: Any, told: Any, caplog: pytest.LogCaptureFixture, is_stream: bool
    ) -> None:
        caplog.set_level(logging.INFO)
        if is_stream:
            call = stubs.channel.unary_stream("/virtblock.v1.BlockJobService/WatchBlockJobs")(b"\xff\xff").read()
        else:
            call = stubs.channel.unary_unary("/virtblock.v1.DomainService/GetXMLDesc")(b"\x0a\x03\x12\x01\xff")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        seen = told(failure.value)
        assert (seen.code, seen.error.number) == (grpc.StatusCode.INVALID_ARGUMENT, ErrorNumber.INVALID_ARG)
        await until(lambda: len(call_lines(caplog)) == 1)
        assert call_lines(caplog)[0]["code"] == "INVALID_ARGUMENT"

    @pytest.mark.parametrize(
        ("service", "method", "request_message"),
        [
            ("connect", "DomainLookupByName", connect_service_pb2.DomainLookupByNameRequest(name="guest\0")),
            ("domain", "GetXMLDesc", domain_service_pb2.GetXMLDescRequest(domain=common_pb2.DomainSelector(name="\0"))),
            ("domain", "BlockCopy", domain_block_pb2.BlockCopyRequest(params=[common_pb2.TypedParameter(field="x\0")])),
        ],
    )
    async def test_no_text_has_a_null_byte(
        self, stubs: Any, told: Any, service: str, method: str, request_message: Any
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await getattr(getattr(stubs, service), method)(request_message)
        seen = told(failure.value)
        assert (seen.code, seen.error.number) == (grpc.StatusCode.INVALID_ARGUMENT, ErrorNumber.INVALID_ARG)
        assert "null byte" in seen.error.message

    async def test_a_token_of_another_server_is_refused(self, stubs: Any, told: Any) -> None:
        stream = stubs.block_job.WatchBlockJobs(block_job_service_pb2.WatchBlockJobsRequest(resume_token="17"))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stream.read()
        assert (told(failure.value).code, told(failure.value).error.number) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            ErrorNumber.INVALID_ARG,
        )


class TestDeadlines:
    async def test_a_deadline_ends_the_call_and_not_the_work(self, stack: Any, stubs: Any) -> None:
        stack.driver.gate.clear()
        timeout_s = 0.2
        while True:  # until a call has got to the driver before its deadline
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stubs.domain.GetXMLDesc(XML_REQUEST, timeout=timeout_s)
            assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if stack.driver.entered.acquire(blocking=False):
                break
            timeout_s *= 2
        assert stack.driver.finished_count == 0
        stack.driver.gate.set()
        await until(lambda: stack.driver.finished_count >= 1)

    async def test_a_cancelled_call_ends_and_its_work_does_not(self, stack: Any, stubs: Any) -> None:
        stack.driver.gate.clear()
        call = stubs.domain.GetXMLDesc(XML_REQUEST)
        waiting = asyncio.ensure_future(call.code())
        await until(lambda: stack.driver.entered.acquire(blocking=False))
        call.cancel()
        assert await waiting is grpc.StatusCode.CANCELLED
        stack.driver.gate.set()
        await until(lambda: stack.driver.finished_count == 1)

    async def test_looking_works_while_every_blocking_worker_is_held(self, stack: Any, stubs: Any) -> None:
        stack.driver.gate.clear()
        # Requests that name their domains differently: those of one domain do not get all the workers.
        requests = [
            domain_service_pb2.GetXMLDescRequest(domain=common_pb2.DomainSelector(uuid=str(uuid4())))
            for _ in range(limits.BLOCKING_THREAD_COUNT + 4)
        ]
        held = [stubs.domain.GetXMLDesc(request) for request in requests]
        codes = [asyncio.ensure_future(call.code()) for call in held]
        for _ in range(limits.BLOCKING_THREAD_COUNT):
            await until(lambda: stack.driver.entered.acquire(blocking=False))
        answer = await stubs.connect.ListAllDomains(connect_service_pb2.ListAllDomainsRequest(), timeout=TIMEOUT_S)
        assert [domain.name for domain in answer.domains] == ["guest"]
        assert stack.driver.finished_count == 0
        stack.driver.gate.set()
        assert set(await asyncio.gather(*codes)) == {grpc.StatusCode.OK}

    async def test_one_domain_does_not_hold_every_worker(self, stack: Any, stubs: Any) -> None:
        stack.driver.gate.clear()
        held = [stubs.domain.GetXMLDesc(XML_REQUEST) for _ in range(limits.BLOCKING_THREAD_COUNT + 4)]
        codes = [asyncio.ensure_future(call.code()) for call in held]
        for _ in range(limits.DOMAIN_THREADS_MAX):
            await until(lambda: stack.driver.entered.acquire(blocking=False))
        other = domain_service_pb2.GetXMLDescRequest(domain=common_pb2.DomainSelector(uuid=str(uuid4())))
        call = asyncio.ensure_future(stubs.domain.GetXMLDesc(other).code())
        await until(lambda: stack.driver.entered.acquire(blocking=False))
        assert stack.driver.finished_count == 0
        stack.driver.gate.set()
        assert {await call, *await asyncio.gather(*codes)} == {grpc.StatusCode.OK}


class TestJobs:
    async def test_a_wait_ends_with_the_state_and_holds_no_worker(
        self, stack: Any, stubs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = begin_job(stack)
        begun: list[str] = []
        wait = stack.floor.jobs.wait

        def counted_wait(caller: Any, job_id: str, *rest: Any) -> Any:
            begun.append(job_id)
            return wait(caller, job_id, *rest)

        monkeypatch.setattr(stack.floor.jobs, "wait", counted_wait)
        waits = [
            stubs.block_job.WaitBlockJob(
                block_job_service_pb2.WaitBlockJobRequest(
                    job_id=job.job_id, states=[block_job_pb2.BLOCK_JOB_STATE_RUNNING]
                )
            )
            for _ in range(50)
        ]
        waiting = asyncio.gather(*waits)
        await until(lambda: len(begun) == len(waits) and stack.floor.pools.is_idle)
        stack.jobs.transition(job.job_id, JobState.RUNNING)
        answers = await asyncio.wait_for(waiting, TIMEOUT_S)
        assert all(answer.reached for answer in answers)
        assert {answer.job.state for answer in answers} == {block_job_pb2.BLOCK_JOB_STATE_RUNNING}

    async def test_a_wait_that_times_out_says_that_nothing_was_reached(self, stack: Any, stubs: Any) -> None:
        job = begin_job(stack)
        request = block_job_service_pb2.WaitBlockJobRequest(job_id=job.job_id, timeout_ms=20)
        answer = await stubs.block_job.WaitBlockJob(request)
        assert (answer.reached, answer.job.job_id) == (False, job.job_id)

    async def test_a_watch_resumes_where_it_was_and_misses_nothing(self, stack: Any, stubs: Any) -> None:
        begin_job(stack, "vda")
        request = block_job_service_pb2.WatchBlockJobsRequest(include_snapshot=True)
        stream = stubs.block_job.WatchBlockJobs(request)
        snapshot = (await stream.read()).event
        bookmark = (await stream.read()).event
        stream.cancel()
        assert (snapshot.job.disk, snapshot.resume_token) == ("vda", ""), "in a snapshot there is nothing to resume"
        assert bookmark.bookmark.snapshot_end
        begin_job(stack, "vdb")
        begin_job(stack, "vdc")
        resumed = stubs.block_job.WatchBlockJobs(
            block_job_service_pb2.WatchBlockJobsRequest(resume_token=bookmark.resume_token)
        )
        again, *events = [(await resumed.read()).event for _ in range(3)]
        resumed.cancel()
        assert (again.WhichOneof("payload"), again.sequence) == ("bookmark", bookmark.sequence)
        assert [event.job.disk for event in events] == ["vdb", "vdc"]
        assert bookmark.sequence < events[0].sequence < events[1].sequence


class TestBounds:
    async def test_a_request_that_is_too_large_is_refused(self, stubs: Any) -> None:
        request = connect_service_pb2.DomainDefineXMLRequest(xml="x" * (limits.REQUEST_BYTES_MAX + 1))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stubs.connect.DomainDefineXML(request)
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_headers_that_are_too_large_are_refused(self, stubs: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stubs.connect.GetType(
                connect_service_pb2.GetTypeRequest(),
                metadata=(("x-long", "x" * (limits.METADATA_BYTES_HARD + 1)),),
            )
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_a_connection_has_a_bound_of_streams(self, stack: Any, stubs: Any) -> None:
        streams = [
            stubs.block_job.WatchBlockJobs(block_job_service_pb2.WatchBlockJobsRequest())
            for _ in range(limits.CONNECTION_STREAMS_MAX)
        ]
        for stream in streams:
            assert (await stream.read()).event.HasField("bookmark")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stubs.connect.GetType(connect_service_pb2.GetTypeRequest(), timeout=0.5)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with grpc.aio.insecure_channel(stack.target, options=[("grpc.use_local_subchannel_pool", 1)]) as other:
            get_type = other.unary_unary(
                "/virtblock.v1.ConnectService/GetType",
                request_serializer=connect_service_pb2.GetTypeRequest.SerializeToString,
                response_deserializer=connect_service_pb2.GetTypeResponse.FromString,
            )
            assert (await get_type(connect_service_pb2.GetTypeRequest(), timeout=TIMEOUT_S)).type == "Fake"
        for stream in streams:
            stream.cancel()

    async def test_a_listener_has_a_bound_of_calls(
        self, tmp_path: Path, stack: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "LISTENER_CALLS_MAX", 2)
        server = ListenerServer(stack.floor, ListenerSpec(f"unix:{tmp_path}/small", CallerRule()))
        await server.bind()
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/small") as channel:
            stub: Any = block_job_service_pb2_grpc.BlockJobServiceStub(channel)
            streams = [stub.WatchBlockJobs(block_job_service_pb2.WatchBlockJobsRequest()) for _ in range(2)]
            for stream in streams:
                await stream.read()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.ListBlockJobs(block_job_service_pb2.ListBlockJobsRequest())
            assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            for stream in streams:
                stream.cancel()
        await server.stop(0)

    async def test_a_full_queue_is_told_as_busy(
        self, stack: Any, stubs: Any, told: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stack.driver.gate.clear()
        monkeypatch.setattr(stack.floor.pools.blocking, "_admitted_max", 1)
        held = asyncio.ensure_future(stubs.domain.GetXMLDesc(XML_REQUEST).code())
        await until(lambda: stack.driver.entered.acquire(blocking=False))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stubs.domain.GetXMLDesc(XML_REQUEST)
        assert told(failure.value).error.number == ErrorNumber.RESOURCE_BUSY
        stack.driver.gate.set()
        assert await held is grpc.StatusCode.OK


def call_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.name == "virtblock.call"]


class TestLog:
    async def test_a_call_leaves_one_line(self, stack: Any, stubs: Any, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "virtblock.call"):
            await stubs.domain.GetXMLDesc(XML_REQUEST)
            stack.driver.raising = report(ErrorNumber.OPERATION_INVALID, "x")
            with pytest.raises(grpc.aio.AioRpcError):
                await stubs.domain.GetXMLDesc(XML_REQUEST)
            # A line is written after the answer is sent, so the caller may be here before it.
            await until(lambda: len(call_lines(caplog)) == 2)
        lines = call_lines(caplog)
        assert [line["code"] for line in lines] == ["OK", "FAILED_PRECONDITION"]
        line = lines[0]
        assert (line["method"], line["domain"]) == ("DomainService/GetXMLDesc", "guest")
        assert (line["principal"], line["read_only"]) == ("unix", False)
        assert line["peer"].startswith("unix:")
        assert 0 <= line["duration_ms"] < TIMEOUT_S * 1000

    async def test_xml_is_not_logged(self, stubs: Any, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "virtblock"):
            with pytest.raises(grpc.aio.AioRpcError):
                await stubs.connect.DomainDefineXML(
                    connect_service_pb2.DomainDefineXMLRequest(xml="<passwd>hidden</passwd>")
                )
            await until(lambda: len(call_lines(caplog)) == 1)
        assert "hidden" not in "".join(str(vars(record)) for record in caplog.records)


class TestStop:
    async def test_streams_and_waits_are_told_to_come_again(self, stack: Any, stubs: Any, told: Any) -> None:
        job = begin_job(stack)
        stream = stubs.block_job.WatchBlockJobs(block_job_service_pb2.WatchBlockJobsRequest())
        events = stubs.connect.DomainEventRegisterAny(connect_service_pb2.DomainEventRegisterAnyRequest())
        assert (await stream.read()).event.HasField("bookmark")
        assert not (await events.read()).HasField("event")
        wait = stubs.block_job.WaitBlockJob(block_job_service_pb2.WaitBlockJobRequest(job_id=job.job_id))
        waiting = asyncio.gather(stream.read(), events.read(), wait, return_exceptions=True)
        await asyncio.sleep(0.05)
        stack.floor.stopping.set()
        failures = await asyncio.wait_for(waiting, TIMEOUT_S)
        assert len(failures) == 3
        for failure in failures:
            assert isinstance(failure, grpc.aio.AioRpcError)
            assert (told(failure).code, told(failure).error.number) == (grpc.StatusCode.UNAVAILABLE, ErrorNumber.RPC)
