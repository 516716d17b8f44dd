# SPDX-License-Identifier: Apache-2.0
"""The event log of a server as the contract describes it, which breaks streams where the test says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from virtblock.v1 import block_job_pb2, block_job_service_pb2

TOKEN = "at-"


@dataclass
class FakeLog:
    """Changes of state number 1 to `head`, one job each. A job has ended when its number is in `ended`."""

    head: int = 0
    oldest: int = 1
    ended: set[int] = field(default_factory=set)

    def job(self, number: int) -> block_job_pb2.BlockJob:
        """The job whose change has this number."""
        return block_job_pb2.BlockJob(job_id=f"job-{number}", state=block_job_pb2.BLOCK_JOB_STATE_RUNNING)

    def messages(
        self, request: block_job_service_pb2.WatchBlockJobsRequest, *, overlap: int = 0
    ) -> Iterator[block_job_service_pb2.WatchBlockJobsResponse]:
        """What a stream sends until it has caught up; `overlap` changes are sent again although the reader has them.

        Raises LookupError when changes after the token are no longer kept, ValueError for a token never given.
        """
        if request.resume_token:
            position = int(request.resume_token.removeprefix(TOKEN))
            if position > self.head:
                raise ValueError(request.resume_token)
            if position + 1 < self.oldest:
                raise LookupError(request.resume_token)
            yield self._bookmark(position)
        else:
            position = self.head
            if request.include_snapshot:
                for number in range(1, position + 1):
                    if number not in self.ended:
                        yield self._change(number, position, token="")
            yield self._bookmark(position, snapshot_end=request.include_snapshot)
        while position < self.head:
            for number in range(max(position + 1 - overlap, self.oldest), position + 2):
                yield self._change(number, number, token=f"{TOKEN}{number}")
            position += 1
            if request.progress_interval_ms > 0:
                yield self._progress(position)
            yield self._bookmark(position)

    def _change(self, number: int, sequence: int, *, token: str) -> block_job_service_pb2.WatchBlockJobsResponse:
        event = block_job_service_pb2.BlockJobEvent(sequence=sequence, resume_token=token, job=self.job(number))
        return block_job_service_pb2.WatchBlockJobsResponse(event=event)

    def _progress(self, sequence: int) -> block_job_service_pb2.WatchBlockJobsResponse:
        event = block_job_service_pb2.BlockJobEvent(
            sequence=sequence,
            resume_token=f"{TOKEN}{sequence}",
            progress=block_job_service_pb2.BlockJobProgress(job_id=f"job-{sequence}", cur=5, end=9),
        )
        return block_job_service_pb2.WatchBlockJobsResponse(event=event)

    def _bookmark(self, sequence: int, *, snapshot_end: bool = False) -> block_job_service_pb2.WatchBlockJobsResponse:
        event = block_job_service_pb2.BlockJobEvent(
            sequence=sequence,
            resume_token=f"{TOKEN}{sequence}",
            bookmark=block_job_service_pb2.BlockJobBookmark(snapshot_end=snapshot_end),
        )
        return block_job_service_pb2.WatchBlockJobsResponse(event=event)
