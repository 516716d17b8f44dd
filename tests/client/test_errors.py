# SPDX-License-Identifier: Apache-2.0
"""What a failed call raises: the server's error field for field, and libvirt's own numbers where none came."""

from __future__ import annotations

import asyncio
import errno
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from client.fake_server import FakeServer, Refusal
from client.front_ends import FrontEnd

from virtblock.client import AsyncClient, Client, ErrorDomain, ErrorLevel, ErrorNumber, VirError, errors
from virtblock.v1 import connect_service_pb2, domain_service_pb2, errors_pb2, libvirt_enums_pb2


def _refuse(server: FakeServer, rpc: str, refusal: Refusal) -> None:
    def handler(request: Any, context: Any) -> Any:
        raise refusal

    server.handlers[rpc] = handler


def test_servers_error_arrives_field_for_field(server: FakeServer, front_end: FrontEnd) -> None:
    sent = errors_pb2.VirError(
        number=libvirt_enums_pb2.ERR_SYSTEM_ERROR,
        domain=libvirt_enums_pb2.FROM_QEMU,
        level=libvirt_enums_pb2.ERR_ERROR,
        message="cannot open '/x': No such file or directory",
        str1="%s",
        str2="cannot open '/x': No such file or directory",
        int1=2,
        int2=-1,
    )
    _refuse(server, "GetXMLDesc", Refusal(grpc.StatusCode.NOT_FOUND, sent, reason="VIR_ERR_SYSTEM_ERROR"))
    with pytest.raises(VirError) as caught:
        front_end.call(server.target, "get_xml_desc", "guest")
    error = caught.value
    assert (error.number, error.domain, error.level) == (ErrorNumber.SYSTEM_ERROR, ErrorDomain.QEMU, ErrorLevel.ERROR)
    assert str(error) == error.message == "cannot open '/x': No such file or directory"
    assert (error.str1, error.str2, error.str3) == ("%s", error.message, None)
    assert (error.int1, error.int2) == (2, -1)
    assert (error.reason, error.code) == ("VIR_ERR_SYSTEM_ERROR", grpc.StatusCode.NOT_FOUND)
    assert isinstance(error.__cause__, grpc.RpcError)


def test_number_of_a_newer_libvirt_is_kept(server: FakeServer, front_end: FrontEnd) -> None:
    sent = errors_pb2.VirError(number=4711, domain=815, message="new", int1=-1)  # type: ignore[arg-type]
    _refuse(server, "Suspend", Refusal(grpc.StatusCode.INTERNAL, sent))
    with pytest.raises(VirError) as caught:
        front_end.call(server.target, "suspend", "guest")
    assert (caught.value.number, caught.value.domain) == (4711, 815)
    assert caught.value.number.name == "UNKNOWN_4711"


def test_is_knows_numbers_and_reasons(server: FakeServer, front_end: FrontEnd) -> None:
    sent = errors_pb2.VirError(number=8, message="no such job")  # type: ignore[arg-type]
    _refuse(server, "GetBlockJob", Refusal(grpc.StatusCode.NOT_FOUND, sent, reason="BLOCK_JOB_NOT_FOUND"))
    with pytest.raises(VirError) as caught:
        front_end.call(server.target, "get_block_job", "j")
    assert errors.is_(caught.value, errors.BLOCK_JOB_NOT_FOUND)
    assert errors.is_(caught.value, ErrorNumber.NO_DOMAIN, ErrorNumber.INVALID_ARG)
    assert not errors.is_(caught.value, ErrorNumber.NO_DOMAIN, errors.COMPACTED)
    assert not errors.is_(ValueError(), ErrorNumber.INVALID_ARG)


def test_unreadable_detail_is_no_detail(server: FakeServer, front_end: FrontEnd) -> None:
    async def handler(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "boom", (("grpc-status-details-bin", b"\xff\xff\xff"),))

    server.handlers["Suspend"] = handler
    with pytest.raises(VirError, match="INTERNAL: boom") as caught:
        front_end.call(server.target, "suspend", "guest")
    assert (caught.value.number, caught.value.domain) == (ErrorNumber.RPC, ErrorDomain.RPC)


def test_error_survives_pickling(server: FakeServer, front_end: FrontEnd) -> None:
    sent = errors_pb2.VirError(number=42, message="gone")  # type: ignore[arg-type]
    _refuse(server, "Suspend", Refusal(grpc.StatusCode.NOT_FOUND, sent, reason="VIR_ERR_NO_DOMAIN"))
    with pytest.raises(VirError) as caught:
        front_end.call(server.target, "suspend", "guest")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.record, copy.reason, copy.code) == (caught.value.record, caught.value.reason, caught.value.code)


@pytest.mark.parametrize("method", ["get_uri", "list_connections"])
def test_no_server_is_38_from_7_and_says_what_to_do(socket_dir: Path, front_end: FrontEnd, method: str) -> None:
    target = f"unix:{socket_dir}/none"
    with pytest.raises(VirError) as caught:
        front_end.call(target, method)
    error = caught.value
    assert (error.number, error.domain, error.level) == (38, 7, 2)
    assert error.int1 == errno.ENOENT
    assert str(error) == (
        f"cannot connect to virtblockd at {target}: No such file or directory; is it running? "
        f"start it with: virtblockd --listen {target}"
    )
    assert error.code is grpc.StatusCode.UNAVAILABLE


def test_a_socket_that_is_not_for_this_user_says_whose_it_is() -> None:
    """To start another server would help nobody."""
    details = "failed to connect to all addresses; last error: UNKNOWN: unix:/s: Permission denied"
    call: Any = SimpleNamespace(code=lambda: grpc.StatusCode.UNAVAILABLE, details=lambda: details)
    error = errors._without_detail(call, server="unix:/s", rpc="GetURI", timeout_s=None)
    assert (error.number, error.int1) == (38, errno.EACCES)
    assert str(error) == (
        "cannot connect to virtblockd at unix:/s: Permission denied; "
        "the socket is for root and the daemon's group, the read-only one beside it for everybody"
    )


def test_server_that_goes_away_is_38_from_7(server: FakeServer, front_end: FrontEnd) -> None:
    async def handler(request: Any, context: Any) -> Any:
        asyncio.get_running_loop().call_later(0.1, asyncio.ensure_future, server._server.stop(None))
        await asyncio.sleep(60)

    server.handlers["Suspend"] = handler
    with pytest.raises(VirError, match="is it running") as caught:
        front_end.call(server.target, "suspend", "guest")
    assert (caught.value.number, caught.value.domain) == (38, 7)


def test_call_that_an_older_server_lacks(server: FakeServer, front_end: FrontEnd) -> None:
    with pytest.raises(VirError, match="does not know the call ListDisks") as caught:
        front_end.call(server.target, "list_disks", "guest")
    assert caught.value.number == ErrorNumber.NO_SUPPORT


def test_deadline_ends_the_call(server: FakeServer, front_end: FrontEnd) -> None:
    async def handler(request: Any, context: Any) -> Any:
        await asyncio.sleep(60)

    server.handlers["GetXMLDesc"] = handler
    start_s = time.monotonic()
    with pytest.raises(VirError, match=r"GetXMLDesc: .* did not answer within 0.2 s") as caught:
        front_end.call(server.target, "get_xml_desc", "guest", timeout_s=0.2)
    assert time.monotonic() - start_s < 5
    assert (caught.value.number, caught.value.code) == (
        ErrorNumber.OPERATION_TIMEOUT,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    )


@pytest.mark.parametrize(
    ("method", "arguments", "rpc", "deadline_s"),
    [
        ("get_xml_desc", ("guest",), "GetXMLDesc", 30.0),
        ("block_job_abort", ("guest", "vda"), "BlockJobAbort", None),
        ("wait_block_job", ("j",), "WaitBlockJob", None),
        ("save", ("guest", "/x"), "Save", None),
    ],
)
def test_default_deadlines(
    server: FakeServer,
    front_end: FrontEnd,
    method: str,
    arguments: tuple[str, ...],
    rpc: str,
    deadline_s: float | None,
) -> None:
    seen: list[float | None] = []

    def handler(request: Any, context: Any) -> Any:
        seen.append(context.time_remaining())
        raise Refusal(grpc.StatusCode.INTERNAL)

    server.handlers[rpc] = handler
    with pytest.raises(VirError):
        front_end.call(server.target, method, *arguments)
    [left_s] = seen
    if deadline_s is None:
        assert left_s is None
    else:
        assert left_s is not None
        assert deadline_s - 5 < left_s < deadline_s + 1


def test_reads_and_starts_are_repeated_with_the_same_request_id(server: FakeServer, front_end: FrontEnd) -> None:
    seen: list[str] = []

    def handler(request: Any, context: Any) -> Any:
        seen.append(request.request_id)
        raise Refusal(grpc.StatusCode.UNAVAILABLE)

    server.handlers["BlockRebase"] = handler
    with pytest.raises(VirError):
        front_end.call(server.target, "block_rebase", "guest", "vda", "/copy")
    assert len(seen) > 1
    assert len(set(seen)) == 1
    assert seen[0]
    first = seen[0]
    with pytest.raises(VirError):
        front_end.call(server.target, "block_rebase", "guest", "vda", "/copy")
    assert seen[-1] != first


def test_what_changes_things_is_not_repeated(server: FakeServer, front_end: FrontEnd) -> None:
    _refuse(server, "BlockJobAbort", Refusal(grpc.StatusCode.UNAVAILABLE))
    with pytest.raises(VirError):
        front_end.call(server.target, "block_job_abort", "guest", "vda")
    assert len(server.requests) == 1


def test_unreadable_answer_is_an_error(server: FakeServer, front_end: FrontEnd) -> None:
    # A string field whose bytes are not UTF-8, which protobuf refuses to read.
    class Garbage:
        def SerializeToString(self) -> bytes:
            return b"\x0a\x02\xff\xff"

    server.handlers["GetURI"] = lambda request, context: Garbage()
    with pytest.raises(VirError, match="cannot be read") as caught:
        front_end.call(server.target, "get_uri")
    assert caught.value.number == ErrorNumber.RPC


def test_closed_client_says_so(server: FakeServer) -> None:
    client = Client(server.target)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.get_uri()


async def test_closed_async_client_says_so(server: FakeServer) -> None:
    client = AsyncClient(server.target)
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.get_uri()


async def test_cancelling_a_call_cancels_it_at_the_server(server: FakeServer) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def handler(request: Any, context: Any) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            loop.call_soon_threadsafe(ended.set)

    server.handlers["BlockJobAbort"] = handler
    async with AsyncClient(server.target) as client:
        call = asyncio.ensure_future(client.block_job_abort("guest", "vda"))
        await asyncio.sleep(0.2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(ended.wait(), 10)


def test_async_client_may_be_made_before_its_loop(server: FakeServer) -> None:
    server.handlers["GetURI"] = lambda request, context: connect_service_pb2.GetURIResponse(uri="embedded:///")
    client = AsyncClient(server.target)

    async def run() -> str:
        async with client:
            return await client.get_uri()

    assert asyncio.run(run()) == "embedded:///"


def test_threads_share_a_client(server: FakeServer) -> None:
    server.handlers["GetXMLDesc"] = lambda request, context: domain_service_pb2.GetXMLDescResponse(
        xml=request.domain.name
    )
    names = [f"guest{number}" for number in range(50)]
    with Client(server.target) as client, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(client.get_xml_desc, names)) == names
