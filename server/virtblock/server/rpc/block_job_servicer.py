# SPDX-License-Identifier: Apache-2.0
"""BlockJobService: jobs by id, waits and streams, and the bitmaps of disks.

Each method decodes, makes one call of the core, and encodes.
Invariant: a token that is sent inside a snapshot is empty, because what follows it in the snapshot has no number of
its own: a reader that was cut off there begins anew.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from virtblock.server.core.block_job_api import Bookmark
from virtblock.server.rpc import convert
from virtblock.server.rpc.servicing import Context, Servicing
from virtblock.v1 import block_bitmap_pb2 as bitmaps
from virtblock.v1 import block_job_service_pb2 as messages
from virtblock.v1 import block_job_service_pb2_grpc


class BlockJobServicer(Servicing, block_job_service_pb2_grpc.BlockJobServiceServicer):
    """What libvirt lacks."""

    async def GetBlockJob(self, request: messages.GetBlockJobRequest, context: Context) -> messages.GetBlockJobResponse:
        job = await self._cheap(self._floor.jobs.get, self._caller(context), request.job_id)
        return messages.GetBlockJobResponse(job=convert.job_message(job))

    async def ListBlockJobs(
        self, request: messages.ListBlockJobsRequest, context: Context
    ) -> messages.ListBlockJobsResponse:
        jobs, next_page_token = await self._cheap(
            self._floor.jobs.list,
            self._caller(context),
            convert.filter_of(request.filter),
            include_ended=request.include_ended,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return messages.ListBlockJobsResponse(jobs=map(convert.job_message, jobs), next_page_token=next_page_token)

    async def WaitBlockJob(
        self, request: messages.WaitBlockJobRequest, context: Context
    ) -> messages.WaitBlockJobResponse:
        states = convert.states_of(request.states)
        timeout_s = convert.wait_timeout_s(request)
        waiting = self._floor.jobs.wait(self._caller(context), request.job_id, states, timeout_s)
        job = await self._unless_stopped(waiting)
        return messages.WaitBlockJobResponse(job=convert.job_message(job), reached=convert.is_reached(job, states))

    async def PauseBlockJob(
        self, request: messages.PauseBlockJobRequest, context: Context
    ) -> messages.PauseBlockJobResponse:
        job = await self._blocking(self._floor.jobs.pause, self._caller(context), request.job_id)
        return messages.PauseBlockJobResponse(job=convert.job_message(job))

    async def ResumeBlockJob(
        self, request: messages.ResumeBlockJobRequest, context: Context
    ) -> messages.ResumeBlockJobResponse:
        job = await self._blocking(self._floor.jobs.resume, self._caller(context), request.job_id)
        return messages.ResumeBlockJobResponse(job=convert.job_message(job))

    async def WatchBlockJobs(
        self, request: messages.WatchBlockJobsRequest, context: Context
    ) -> AsyncGenerator[messages.WatchBlockJobsResponse, None]:
        after = convert.resume_sequence(request.resume_token)
        in_snapshot = after is None and request.include_snapshot
        items = self._floor.jobs.watch(
            self._caller(context),
            after,
            convert.filter_of(request.filter),
            include_snapshot=in_snapshot,
            progress_interval_s=convert.seconds_of(request.progress_interval_ms),
        )
        async for item in self._until_stopped(items):
            in_snapshot = in_snapshot and not isinstance(item, Bookmark)
            yield convert.watch_message(item, "" if in_snapshot else convert.resume_token(item.sequence))

    async def WatchBlockMap(
        self, request: messages.WatchBlockMapRequest, context: Context
    ) -> AsyncGenerator[messages.WatchBlockMapResponse, None]:
        pictures = self._floor.jobs.watch_map(
            self._caller(context),
            request.job_id,
            request.cell_count or convert.DEFAULT_MAP_CELL_COUNT,
            convert.seconds_of(request.interval_ms or convert.DEFAULT_MAP_INTERVAL_MS),
        )
        async for picture in self._until_stopped(pictures):
            yield convert.map_message(picture)

    async def ListBlockBitmaps(
        self, request: bitmaps.ListBlockBitmapsRequest, context: Context
    ) -> bitmaps.ListBlockBitmapsResponse:
        selector = convert.selector_of(request.domain)
        found = await self._blocking(self._floor.bitmaps.list, self._caller(context), selector, request.disk)
        return bitmaps.ListBlockBitmapsResponse(bitmaps=map(convert.bitmap_message, found))

    async def AddBlockBitmap(
        self, request: bitmaps.AddBlockBitmapRequest, context: Context
    ) -> bitmaps.AddBlockBitmapResponse:
        made = await self._blocking(
            self._floor.bitmaps.add,
            self._caller(context),
            convert.selector_of(request.domain),
            request.disk,
            request.name,
            request.granularity_bytes,
            disabled=request.disabled,
        )
        return bitmaps.AddBlockBitmapResponse(bitmap=convert.bitmap_message(made))

    async def RemoveBlockBitmap(
        self, request: bitmaps.RemoveBlockBitmapRequest, context: Context
    ) -> bitmaps.RemoveBlockBitmapResponse:
        api, selector = self._floor.bitmaps, convert.selector_of(request.domain)
        await self._blocking(api.remove, self._caller(context), selector, request.disk, request.name)
        return bitmaps.RemoveBlockBitmapResponse()

    async def ClearBlockBitmap(
        self, request: bitmaps.ClearBlockBitmapRequest, context: Context
    ) -> bitmaps.ClearBlockBitmapResponse:
        api, selector = self._floor.bitmaps, convert.selector_of(request.domain)
        await self._blocking(api.clear, self._caller(context), selector, request.disk, request.name)
        return bitmaps.ClearBlockBitmapResponse()
