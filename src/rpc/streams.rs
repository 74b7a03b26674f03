//! Sources of messages as response streams.
//!
//! A stream is polled by the connection and has no task and no buffer of its
//! own: a slow reader holds nothing but its place.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tonic::{Response, Status};

use super::handle::Handle;
use crate::clock::Clock;
use crate::error::Error;
use crate::event::wire;
use crate::id::TaskId;
use crate::pb;
use crate::pool::{Attachment, ChainWatch, FanOut, Pool, Running, StatusWatch, Tail};

/// What a streaming method returns.
pub type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Where a stream's messages come from.
pub trait Source: Send + 'static {
    /// What is sent.
    type Message: Send + 'static;
    /// Whether it waits for work, so that it ends when the server has drained.
    const WAITS: bool;

    /// The next message; `None`: the end. Safe to drop and call again.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Message>, Error>> + Send;

    /// The message of a quiet stream.
    fn heartbeat(beat: pb::Heartbeat) -> Self::Message;
}

/// Streams a source, with a heartbeat after each silence of `interval`.
pub fn stream<S: Source>(
    source: S,
    interval: Duration,
    handle: &Handle,
) -> Response<Messages<S::Message>> {
    let handle = handle.clone();
    Response::new(Box::pin(unfold(Some(source), move |source| {
        let in_vain = handle.in_vain();
        async move {
            let mut source = source?;
            tokio::select! {
                biased;
                next = source.next() => match next {
                    Ok(message) => Some((Ok(message?), Some(source))),
                    Err(error) => Some((Err(error.into()), None)),
                },
                () = in_vain, if S::WAITS => Some((Err(Error::Draining.into()), None)),
                () = tokio::time::sleep(interval) => {
                    let time = Some(Clock::system().now().to_proto());
                    Some((Ok(S::heartbeat(pb::Heartbeat { time })), Some(source)))
                }
            }
        }
    })))
}

/// A task's log.
pub struct Log(pub Tail);

impl Source for Log {
    type Message = wire::WatchTaskResponse;
    const WAITS: bool = true;

    async fn next(&mut self) -> Result<Option<Self::Message>, Error> {
        let entry = self.0.next().await?;
        Ok(entry.map(|entry| wire::WatchTaskResponse {
            event: Some(entry.bytes),
            heartbeat: None,
        }))
    }

    fn heartbeat(beat: pb::Heartbeat) -> Self::Message {
        wire::WatchTaskResponse {
            event: None,
            heartbeat: Some(beat),
        }
    }
}

/// A task that was started: its id, then its log. The caller is attached as
/// long as this lives.
pub struct Run {
    /// The id, until it is sent.
    accepted: Option<TaskId>,
    tail: Tail,
    /// The caller's hold, if it has one.
    attachment: Option<Attachment>,
}

impl Run {
    /// `tail` is the task's log.
    pub fn new(running: Running, tail: Tail) -> Self {
        Self {
            accepted: Some(running.task),
            tail,
            attachment: running.attachment,
        }
    }
}

impl Source for Run {
    type Message = wire::RunStreamResponse;
    const WAITS: bool = true;

    async fn next(&mut self) -> Result<Option<Self::Message>, Error> {
        let mut message = wire::RunStreamResponse::default();
        if let Some(task) = self.accepted.take() {
            message.accepted = Some(pb::RunAccepted {
                task_id: task.to_string(),
            });
            return Ok(Some(message));
        }
        message.event = match self.tail.next().await? {
            Some(entry) => Some(entry.bytes),
            None => {
                if let Some(attachment) = self.attachment.take() {
                    attachment.is_over();
                }
                return Ok(None);
            }
        };
        Ok(Some(message))
    }

    fn heartbeat(beat: pb::Heartbeat) -> Self::Message {
        wire::RunStreamResponse {
            heartbeat: Some(beat),
            ..Default::default()
        }
    }
}

/// A fan-out: its ids, then its tasks as they end.
pub struct Items {
    /// The ids, until they are sent.
    pub accepted: Option<pb::FanOutAccepted>,
    /// The tasks, with the caller's hold.
    pub fan_out: FanOut,
}

impl Source for Items {
    type Message = pb::FanOutResponse;
    const WAITS: bool = true;

    async fn next(&mut self) -> Result<Option<Self::Message>, Error> {
        use pb::fan_out_response::Item;
        let item = match self.accepted.take() {
            Some(accepted) => Item::Accepted(accepted),
            None => match self.fan_out.next().await? {
                Some((index, record)) => {
                    Item::Finished(super::convert::fan_out_item(index, record))
                }
                None => return Ok(None),
            },
        };
        Ok(Some(pb::FanOutResponse { item: Some(item) }))
    }

    fn heartbeat(beat: pb::Heartbeat) -> Self::Message {
        pb::FanOutResponse {
            item: Some(pb::fan_out_response::Item::Heartbeat(beat)),
        }
    }
}

/// A chain's progress.
pub struct Chain(pub ChainWatch);

impl Source for Chain {
    type Message = pb::WatchChainResponse;
    const WAITS: bool = true;

    async fn next(&mut self) -> Result<Option<Self::Message>, Error> {
        let progress = self.0.next().await?;
        Ok(progress.map(|progress| pb::WatchChainResponse {
            item: Some(pb::watch_chain_response::Item::Progress(progress)),
        }))
    }

    fn heartbeat(beat: pb::Heartbeat) -> Self::Message {
        pb::WatchChainResponse {
            item: Some(pb::watch_chain_response::Item::Heartbeat(beat)),
        }
    }
}

/// A finished task's whole text.
pub struct Output {
    /// Where it is read.
    pub pool: Pool,
    /// The task.
    pub task: TaskId,
    /// The next byte to send.
    pub offset: u64,
    /// What was read ahead, to know whether the task is there.
    pub first: Option<String>,
}

impl Source for Output {
    type Message = pb::ReadOutputResponse;
    const WAITS: bool = false;

    async fn next(&mut self) -> Result<Option<Self::Message>, Error> {
        let text = match self.first.take() {
            Some(text) => text,
            None => self.pool.output(self.task, self.offset).await?,
        };
        if text.is_empty() {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += text.len() as u64;
        Ok(Some(pb::ReadOutputResponse {
            item: Some(pb::read_output_response::Item::Chunk(pb::OutputChunk {
                offset: i64::try_from(offset).unwrap_or(i64::MAX),
                text,
            })),
        }))
    }

    fn heartbeat(beat: pb::Heartbeat) -> Self::Message {
        pb::ReadOutputResponse {
            item: Some(pb::read_output_response::Item::Heartbeat(beat)),
        }
    }
}

/// The pool's status.
pub struct Statuses {
    /// Where it comes from.
    pub watch: StatusWatch,
}

impl Source for Statuses {
    type Message = pb::WatchStatusResponse;
    const WAITS: bool = false;

    async fn next(&mut self) -> Result<Option<Self::Message>, Error> {
        let status = self.watch.next().await?;
        Ok(Some(pb::WatchStatusResponse {
            item: Some(pb::watch_status_response::Item::Status(status)),
        }))
    }

    fn heartbeat(beat: pb::Heartbeat) -> Self::Message {
        pb::WatchStatusResponse {
            item: Some(pb::watch_status_response::Item::Heartbeat(beat)),
        }
    }
}
