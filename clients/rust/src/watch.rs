// SPDX-License-Identifier: Apache-2.0

//! A watch of block jobs over as many streams as it takes.

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::call::{Link, Messages, Request, pause};
use crate::v1::{BlockJobBookmark, BlockJobEvent, WatchBlockJobsRequest, WatchBlockJobsResponse, block_job_event::Payload};
use crate::{REASON_SLOW_READER, VirError};

const PATH: &str = "/virtblock.v1.BlockJobService/WatchBlockJobs";
const PAUSE_FIRST_MS: u64 = 100;
const PAUSE_MAX_MS: u64 = 5000;

pub(crate) async fn open(link: &Link, mut request: WatchBlockJobsRequest) -> Result<Messages<BlockJobEvent>, VirError> {
    request.complete(&link.connection_uri);
    let (deadline, (established, is_established)) = (link.deadline(), oneshot::channel());
    let mut events = link.produce(PATH, deadline, |sender| {
        let (link, established) = (link.clone(), Some(established));
        let reader = Reader { link, request, deadline, sender, established, reached: false, last_sequence: -1, failure_count: 0 };
        reader.follow()
    });
    match is_established.await {
        Ok(()) => Ok(events),
        Err(_) => Err(events.next().await.and_then(Result::err).unwrap_or_else(|| link.error(PATH, Status::internal("no events")))),
    }
}

/// The side of a watch that reads the streams.
struct Reader {
    link: Link,
    /// Asks for what comes after all that was received: for a snapshot until one is whole.
    request: WatchBlockJobsRequest,
    deadline: Instant,
    sender: mpsc::Sender<Result<BlockJobEvent, VirError>>,
    established: Option<oneshot::Sender<()>>,
    reached: bool,
    last_sequence: i64,
    failure_count: u32,
}

impl Reader {
    async fn follow(mut self) -> Result<(), VirError> {
        loop {
            match self.follow_once().await {
                Err(error) if !self.reached || !helps_to_retry(&error) => return Err(error),
                _ => self.failure_count += 1,
            }
            pause(self.failure_count, PAUSE_FIRST_MS, PAUSE_MAX_MS).await;
        }
    }

    /// Shows what one stream gives. A snapshot counts only as a whole, because a token from its middle would lose the rest of it.
    async fn follow_once(&mut self) -> Result<(), VirError> {
        let mut stream = self.link.open(PATH, self.request.clone(), self.deadline).await?;
        let mut snapshot = Vec::new();
        while let Some(answer) = self.link.next::<WatchBlockJobsResponse>(PATH, &mut stream).await? {
            let mut event = answer.event.unwrap_or_default();
            (self.reached, self.failure_count) = (true, 0);
            let in_snapshot = self.request.include_snapshot && self.request.resume_token.is_empty();
            match event.payload {
                Some(Payload::Bookmark(BlockJobBookmark { snapshot_end: true })) => (),
                Some(Payload::Job(_)) if in_snapshot => {
                    event.resume_token.clear();
                    snapshot.push(event);
                    continue;
                }
                _ if in_snapshot => continue,
                // The reader has this change, as a bookmark or an earlier stream told; its token would lead back.
                Some(Payload::Job(_)) if event.sequence <= self.last_sequence => continue,
                _ => (),
            }
            self.go_on_after(&mut event);
            snapshot.push(event);
            for event in snapshot.drain(..).filter(|event| matches!(event.payload, Some(Payload::Job(_) | Payload::Progress(_)))) {
                self.sender.send(Ok(event)).await.ok();
            }
        }
        Ok(())
    }

    fn go_on_after(&mut self, event: &mut BlockJobEvent) {
        self.established.take().map(|established| established.send(()));
        self.request.include_snapshot = false;
        if event.resume_token.is_empty() {
            event.resume_token.clone_from(&self.request.resume_token);
        }
        self.request.resume_token.clone_from(&event.resume_token);
        if !matches!(event.payload, Some(Payload::Progress(_))) {
            self.last_sequence = self.last_sequence.max(event.sequence);
        }
    }
}

fn helps_to_retry(error: &VirError) -> bool {
    match error.code() {
        Code::Unavailable => true,
        // A server that stops cancels its streams; one that is full refuses new ones. Neither says so as libvirt.
        Code::Cancelled | Code::ResourceExhausted if error.reason.is_empty() => true,
        _ => error.reason == REASON_SLOW_READER,
    }
}
