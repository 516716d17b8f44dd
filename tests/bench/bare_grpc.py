# SPDX-License-Identifier: Apache-2.0
"""gRPC with nothing behind it: a server of grpcio that only waits, which says what no such server can go below.

Run as a script it is the server; `BareServer` starts it and calls it. Its one method sleeps in a worker thread, as a
call of a hypervisor would, for as many seconds as the request says (a C double).
"""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc

METHOD = "/bench.Bare/Wait"
SECONDS = struct.Struct("=d")


class BareServer:
    """A process of its own on a unix socket, and a channel to it."""

    def __init__(self, folder: Path) -> None:
        target = f"unix:{folder / 'bare'}"
        self._process = subprocess.Popen([sys.executable, __file__, target], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it listens
        self._channel = grpc.insecure_channel(target)
        self._method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(METHOD)

    def wait(self, wait_s: float) -> None:
        """A call that waits so long."""
        self._method(SECONDS.pack(wait_s))

    def close(self) -> None:
        """Ends it."""
        self._channel.close()
        self._process.kill()
        self._process.communicate()


class _Handler(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(_wait)


async def _wait(request: bytes, _context: object) -> bytes:
    (wait_s,) = SECONDS.unpack(request)
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, wait_s)
    return b""


async def _serve(target: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handler(),))
    server.add_insecure_port(target)
    await server.start()
    print("listening", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
