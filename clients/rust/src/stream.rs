//! A task's events over however many connections.

use std::time::Duration;

use claudepool::pb::pool_service_client::PoolServiceClient;
use claudepool::pb::{
    Event, RunStreamRequest, RunStreamResponse, TaskResult, TaskSpec, WatchTaskRequest,
    WatchTaskResponse, event, run_stream_response, watch_task_response,
};
use tokio::time::Instant;
use tonic::{Request, Streaming};

use crate::{Error, FIRST_PAUSE, LONGEST_PAUSE, Transport, request_id};

/// Longest time for which a broken stream is taken up again without an answer.
const RECONNECT: Duration = Duration::from_secs(30);
/// The same before the server has answered at all.
const CONNECT: Duration = Duration::from_secs(5);

/// A task's events, each once. Dropping it ends the call.
pub struct TaskStream {
    pool: PoolServiceClient<Transport>,
    call: Call,
    open: Option<Open>,
    task_id: String,
    deadline: Option<Instant>,
    attached: bool,
    ended: bool,
    pause: Duration,
    broken_at: Option<Instant>,
}

enum Call {
    Run(Box<RunStreamRequest>),
    Watch(WatchTaskRequest),
}

enum Open {
    Run(Streaming<RunStreamResponse>),
    Watch(Streaming<WatchTaskResponse>),
}

/// A message of either RPC; neither: silence.
#[derive(Default)]
struct Item {
    accepted: Option<String>,
    event: Option<Event>,
}

impl TaskStream {
    pub(crate) fn run(pool: PoolServiceClient<Transport>, task: TaskSpec) -> Self {
        let request = RunStreamRequest {
            task: Some(task),
            request_id: request_id(),
            ..RunStreamRequest::default()
        };
        Self::new(pool, Call::Run(Box::new(request)), String::new())
    }

    pub(crate) fn watch(pool: PoolServiceClient<Transport>, task_id: String, after: u64) -> Self {
        let request = WatchTaskRequest {
            task_id: task_id.clone(),
            after_sequence: after,
            heartbeat_interval: None,
        };
        Self::new(pool, Call::Watch(request), task_id)
    }

    fn new(pool: PoolServiceClient<Transport>, call: Call, task_id: String) -> Self {
        Self {
            pool,
            call,
            open: None,
            task_id,
            deadline: None,
            attached: false,
            ended: false,
            pause: FIRST_PAUSE,
            broken_at: None,
        }
    }

    /// Gives it a deadline for all of it. A task that was run is cancelled then.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.deadline = Some(Instant::now() + timeout);
        self
    }

    /// The task's id; empty until the server has told it.
    pub fn task_id(&self) -> &str {
        &self.task_id
    }

    /// The result, past all events.
    pub async fn result(mut self) -> Result<TaskResult, Error> {
        while let Some(event) = self.next().await? {
            if let Some(event::Kind::Finished(end)) = event.kind {
                return Ok(end.result.unwrap_or_default());
            }
        }
        Err(Error::ended_early())
    }

    /// The next event; `None` after the end. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        match self.deadline {
            Some(at) => tokio::time::timeout_at(at, self.follow())
                .await
                .unwrap_or_else(|_| Err(Error::deadline())),
            None => self.follow().await,
        }
    }

    async fn follow(&mut self) -> Result<Option<Event>, Error> {
        while !self.ended {
            let item = match self.item().await {
                Ok(item) => item,
                Err(error) => {
                    self.open = None;
                    let answered = !error.reason.is_empty();
                    // A server that restarts says so, and is worth waiting for.
                    self.attached |= error.is_passing();
                    let hopeless = !error.is_broken() || (answered && !self.attached);
                    let patience = if self.attached { RECONNECT } else { CONNECT };
                    let broken_at = *self.broken_at.get_or_insert_with(Instant::now);
                    if hopeless || broken_at.elapsed() > patience {
                        self.ended = true;
                        return Err(error);
                    }
                    let pause = self.pause.max(error.retry_after.unwrap_or_default());
                    self.pause = (2 * self.pause).min(LONGEST_PAUSE);
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            (self.attached, self.pause, self.broken_at) = (true, FIRST_PAUSE, None);
            if let Some(task_id) = item.accepted {
                self.task_id = task_id;
            }
            if let Some(event) = item.event.filter(|e| e.sequence > *self.sequence()) {
                *self.sequence() = event.sequence;
                if let Some(event::Kind::Finished(_)) = event.kind {
                    self.ended = true;
                    self.open = None;
                }
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The sequence of the last event seen.
    fn sequence(&mut self) -> &mut u64 {
        match &mut self.call {
            Call::Run(request) => &mut request.after_sequence,
            Call::Watch(request) => &mut request.after_sequence,
        }
    }

    /// The next message, of a new call if there is none.
    async fn item(&mut self) -> Result<Item, Error> {
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let opened = match &self.call {
                    Call::Run(request) => {
                        let request = timed(*request.clone(), self.deadline);
                        Open::Run(self.pool.run_stream(request).await?.into_inner())
                    }
                    Call::Watch(request) => {
                        let request = timed(request.clone(), self.deadline);
                        Open::Watch(self.pool.watch_task(request).await?.into_inner())
                    }
                };
                none.insert(opened)
            }
        };
        let mut item = Item::default();
        match open {
            Open::Run(stream) => match stream.message().await?.ok_or_else(Error::ended_early)?.item
            {
                Some(run_stream_response::Item::Accepted(it)) => item.accepted = Some(it.task_id),
                Some(run_stream_response::Item::Event(event)) => item.event = Some(event),
                _ => {}
            },
            Open::Watch(stream) => {
                let message = stream.message().await?.ok_or_else(Error::ended_early)?;
                if let Some(watch_task_response::Item::Event(event)) = message.item {
                    item.event = Some(event);
                }
            }
        }
        Ok(item)
    }
}

/// A request that tells the server its deadline.
fn timed<M>(message: M, deadline: Option<Instant>) -> Request<M> {
    let mut request = Request::new(message);
    if let Some(at) = deadline {
        request.set_timeout(at.saturating_duration_since(Instant::now()));
    }
    request
}
