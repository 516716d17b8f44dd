// SPDX-License-Identifier: Apache-2.0

//! One call: completed, repeated where that does no thing twice, bounded by deadline and close, its failure a [`VirError`].

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::v1::{RETRY_ATTEMPT_COUNT_MAX, RETRY_BACKOFF_FIRST_MS, RETRY_BACKOFF_MAX_MS, RETRY_CODES, RETRY_MULTIPLIER};
use crate::{VirError, target::Target};

/// Stands for no deadline. Many years, but few enough to be added to any instant.
pub(crate) const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The messages of a stream, in order, read ahead by one. It ends after an error. Dropping it ends the call.
pub type Messages<T> = ReceiverStream<Result<T, VirError>>;

/// A request whose empty fields the client fills in: the connection, and the request_id of a call that starts a job, without
/// which a repeat after a lost answer could not be told from a second job.
pub(crate) trait Request: Message + Clone + 'static {
    fn complete(&mut self, connection_uri: &str);
}

pub(crate) trait Answer: Message + Default + 'static {}
impl<T: Message + Default + 'static> Answer for T {}

pub(crate) fn new_request_id() -> String {
    format!("{:016x}{:016x}", random(), random())
}

/// The kernel seeds RandomState for every thread, and each one made after it differs.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// Waits after the given failure in a row. Half of it at random, so that all clients of a restarted server do not come back at the
/// same moment.
pub(crate) async fn pause(failure_count: u32, first_ms: u64, max_ms: u64) {
    let longest_ms = first_ms.saturating_mul(RETRY_MULTIPLIER.saturating_pow(failure_count - 1)).min(max_ms);
    sleep(Duration::from_millis(longest_ms / 2 + random() % (longest_ms / 2 + 1))).await;
}

/// The way to the server, and what holds for every call on it. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) grpc: Grpc<Channel>,
    pub(crate) server: Target,
    pub(crate) connection_uri: String,
    pub(crate) timeout: Duration,
    pub(crate) stop: CancellationToken,
    pub(crate) runtime: Handle,
}

impl Link {
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout.min(FOREVER)
    }

    pub(crate) async fn unary<Q: Request, A: Answer>(&self, path: &'static str, repeatable: bool, mut request: Q) -> Result<A, VirError> {
        request.complete(&self.connection_uri);
        let deadline = self.deadline();
        let repeated = async {
            for attempt in 1.. {
                match self.unary_once(path, request.clone(), deadline).await {
                    Err(error) if repeatable && attempt < RETRY_ATTEMPT_COUNT_MAX && RETRY_CODES.contains(&error.code()) => (),
                    outcome => return outcome,
                }
                pause(attempt, RETRY_BACKOFF_FIRST_MS, RETRY_BACKOFF_MAX_MS).await;
            }
            unreachable!("the last attempt returns")
        };
        self.bounded(path, deadline, repeated).await
    }

    /// A stream of one message, and the status that follows it.
    async fn unary_once<Q: Request, A: Answer>(&self, path: &'static str, request: Q, deadline: Instant) -> Result<A, VirError> {
        let mut stream = self.open(path, request, deadline).await?;
        let answer = self.next(path, &mut stream).await?;
        self.next(path, &mut stream).await?;
        answer.ok_or_else(|| self.error(path, Status::internal("the answer is missing")))
    }

    /// Asks now, not when the messages are first looked at: what happens meanwhile is among them.
    pub(crate) fn stream<Q: Request, A: Answer>(&self, path: &'static str, mut request: Q) -> Messages<A> {
        request.complete(&self.connection_uri);
        let (link, deadline) = (self.clone(), self.deadline());
        self.produce(path, deadline, |sender| async move {
            let mut stream = link.open(path, request, deadline).await?;
            while let Some(message) = link.next(path, &mut stream).await? {
                sender.send(Ok(message)).await.ok();
            }
            Ok(())
        })
    }

    /// Runs a source of messages until it ends, fails, or nobody listens any more.
    pub(crate) fn produce<T, F>(
        &self,
        path: &'static str,
        deadline: Instant,
        source: impl FnOnce(mpsc::Sender<Result<T, VirError>>) -> F,
    ) -> Messages<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), VirError>> + Send + 'static,
    {
        let (link, (sender, receiver)) = (self.clone(), mpsc::channel(1));
        let source = source(sender.clone());
        self.runtime.spawn(async move {
            let ended = tokio::select! {
                ended = link.bounded(path, deadline, source) => ended,
                () = sender.closed() => return,
            };
            if let Err(error) = ended {
                sender.send(Err(error)).await.ok();
            }
        });
        receiver.into()
    }

    pub(crate) async fn open<Q: Request, A: Answer>(
        &self,
        path: &'static str,
        request: Q,
        deadline: Instant,
    ) -> Result<Streaming<A>, VirError> {
        let mut request = tonic::Request::new(request);
        if self.timeout < FOREVER {
            request.set_timeout(deadline - Instant::now());
        }
        let opened = async {
            let mut grpc = self.grpc.clone();
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            grpc.server_streaming(request, PathAndQuery::from_static(path), ProstCodec::default()).await
        };
        opened.await.map(Response::into_inner).map_err(|status| self.error(path, status))
    }

    pub(crate) async fn next<A: Answer>(&self, path: &str, stream: &mut Streaming<A>) -> Result<Option<A>, VirError> {
        stream.message().await.map_err(|status| self.error(path, status))
    }

    pub(crate) fn error(&self, path: &str, status: Status) -> VirError {
        VirError::from_call(status, &self.server, path.rsplit('/').next().unwrap_or_default())
    }

    /// The outcome of a call, or the error of a deadline or a close that came first.
    async fn bounded<T>(&self, path: &str, deadline: Instant, call: impl Future<Output = Result<T, VirError>>) -> Result<T, VirError> {
        let late = |_| Err(self.error(path, Status::deadline_exceeded("the deadline passed")));
        let timed = async { timeout_at(deadline, call).await.unwrap_or_else(late) };
        let closed = || Err(self.error(path, Status::cancelled("closed by the caller")));
        self.stop.run_until_cancelled(timed).await.unwrap_or_else(closed)
    }
}
