# SPDX-License-Identifier: Apache-2.0
"""The two clients: the same methods, once for asyncio and once blocking."""

from __future__ import annotations

from virtblock.client.gen.async_calls import AsyncBlockJobCalls, AsyncConnectCalls, AsyncDomainCalls
from virtblock.client.gen.blocking_calls import BlockJobCalls, ConnectCalls, DomainCalls


class AsyncClient(AsyncConnectCalls, AsyncDomainCalls, AsyncBlockJobCalls):
    """virtblockd's calls for asyncio, a method for each RPC.

    async with AsyncClient("unix:/run/virtblock/virtblock-sock") as client: job = await client.block_rebase("guest",
    "vda", "/images/copy.qcow2", flags=BlockRebaseFlags.COPY) await client.wait_block_job(job.job_id,
    [BlockJobState.READY]) await client.block_job_abort("guest", "vda", BlockJobAbortFlags.PIVOT)

    `target` is `unix:PATH`, an absolute path or `HOST:PORT`; None: what $VIRTBLOCK_SERVER says, else the system's
    socket, else the user's own. `connection_uri` is the hypervisor connection that calls are about ("qemu:///system");
    empty: the server's default. `read_only` takes the socket PATH-ro beside, which refuses what changes anything. A
    HOST:PORT is spoken to over TLS, with the system's authorities or those of `tls`; `insecure` leaves encryption out,
    to this machine only. Nothing is dialled before the first call; one client serves any number of calls at a time.

    Every failed call raises VirError. `timeout_s` of a call, in seconds, ends the call and never a job; None: no limit.
    """


class Client(ConnectCalls, DomainCalls, BlockJobCalls):
    """virtblockd's calls, blocking, a method for each RPC. Threads may share one client.

    with Client("unix:/run/virtblock/virtblock-sock") as client: job = client.block_rebase("guest", "vda",
    "/images/copy.qcow2", flags=BlockRebaseFlags.COPY) client.wait_block_job(job.job_id, [BlockJobState.READY])
    client.block_job_abort("guest", "vda", BlockJobAbortFlags.PIVOT)

    `target` is `unix:PATH`, an absolute path or `HOST:PORT`; None: what $VIRTBLOCK_SERVER says, else the system's
    socket, else the user's own. `connection_uri` is the hypervisor connection that calls are about ("qemu:///system");
    empty: the server's default. `read_only` takes the socket PATH-ro beside, which refuses what changes anything. A
    HOST:PORT is spoken to over TLS, with the system's authorities or those of `tls`; `insecure` leaves encryption out,
    to this machine only. Nothing is dialled before the first call.

    Every failed call raises VirError. `timeout_s` of a call, in seconds, ends the call and never a job; None: no limit.
    """
