//! The only place where things happen.
//!
//! A [`Pool`] is a cheap handle; each method is one call of the wire contract,
//! without gRPC. Tasks are rows in the store: a call commits a change and wakes
//! the scheduler, and everything else follows from what is stored.

mod admission;
mod attach;
mod attempt;
mod builder;
mod catalog;
mod catch_up;
mod chain_steps;
mod chain_watch;
mod chains;
mod context;
mod conversation;
mod drain;
mod fan_out;
mod fingerprint;
mod hold;
mod inner;
mod isolation;
mod lease;
mod log;
mod nodes;
mod operate;
mod options;
mod outage;
mod outcome;
mod own;
mod page;
mod process;
mod queue;
mod recovery;
mod requirement;
mod retention;
mod scheduler;
mod second_chance;
mod shelf;
mod slot;
mod status;
mod submit;
mod upkeep;
mod watcher;
mod workspace;

use std::sync::Arc;
use std::time::Duration;

pub use attach::Attachment;
pub use builder::{BuildError, Builder};
pub use chain_watch::ChainWatch;
pub use drain::Drained;
pub use fan_out::FanOut;
pub use nodes::Answerer;
pub use operate::{Scale, Scaled};
pub use options::{DefaultSettings, Mode, Options, Policy, Retention};
pub use own::Page;
pub use status::StatusWatch;

use crate::agent::Agent;
use crate::clock::Clock;
use crate::error::{Error, Missing};
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::metrics::Metrics;
use crate::pb;
use crate::store::{Context, ContextValue, LogEntry, Parts};
use crate::stream::{self, Hub, Subscription};
use crate::task::{Level, Record, Task, TaskEvent};
use crate::trace::TraceContext;
use inner::Inner;
use own::end_of;
use submit::{Hear, Made, Wish};
use watcher::Watcher;

/// Longest wait for the store when the node leaves.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// Bytes of a piece of output.
const OUTPUT_PIECE: usize = 256 * 1024;

/// The pool. Cheap to clone; all clones are one pool.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
    caller: CallerId,
    /// Whether every caller's tasks are this one's to see.
    sees_all: bool,
    /// Whose trace new tasks belong to.
    trace: Option<TraceContext>,
}

/// Work to be done: a [`pb::TaskSpec`] and how the caller stands to it.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// What is to be done.
    pub spec: pb::TaskSpec,
    /// The caller's name for the call, which makes it safe to repeat.
    pub request: Option<RequestId>,
    /// Whether it goes on when the caller leaves.
    pub detach: bool,
}

impl From<&str> for Work {
    fn from(prompt: &str) -> Self {
        Self {
            spec: pb::TaskSpec {
                input: Some(pb::task_spec::Input::Prompt(prompt.to_owned())),
                ..pb::TaskSpec::default()
            },
            ..Self::default()
        }
    }
}

impl From<String> for Work {
    fn from(prompt: String) -> Self {
        Self::from(prompt.as_str())
    }
}

impl From<pb::TaskSpec> for Work {
    fn from(spec: pb::TaskSpec) -> Self {
        Self {
            spec,
            ..Self::default()
        }
    }
}

/// A task that the caller is attached to.
pub struct Running {
    /// The task.
    pub task: TaskId,
    /// The caller's hold; `None` with `detach`.
    pub attachment: Option<Attachment>,
    heard: Option<Subscription>,
}

/// A reader of one task's log: history, then live.
pub struct Tail {
    tail: stream::Tail,
    _watcher: Watcher,
}

impl Tail {
    /// The next entry; `None` after `finished`. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Option<LogEntry>, Error> {
        self.tail.next().await
    }
}

/// What to cancel.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// One task.
    Task(TaskId),
    /// Every unfinished task of a fan-out.
    Group(GroupId),
}

/// What a cancel did.
#[derive(Clone, Debug)]
pub struct Cancelled {
    /// The task as it is now; `None` for a group.
    pub task: Option<Record>,
    /// Tasks that this call cancelled or began to cancel.
    pub count: u32,
}

impl Pool {
    /// Builds a pool over an agent.
    pub fn builder(agent: impl Agent) -> Builder {
        Builder {
            agent: Arc::new(agent),
            store: None,
            options: Options::default(),
            node: None,
            clock: Clock::system(),
            seed: None,
            metrics: Metrics::new(),
            level: Level::OWN,
        }
    }

    fn over(inner: Arc<Inner>, caller: CallerId, trace: Option<TraceContext>) -> Self {
        Self {
            inner,
            caller,
            sees_all: false,
            trace,
        }
    }

    /// Whose view of it this is.
    pub fn caller(&self) -> &CallerId {
        &self.caller
    }

    /// The options in force.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// The same pool, seen by another caller: tasks belong to callers.
    pub fn for_caller(&self, caller: CallerId) -> Pool {
        Self::over(Arc::clone(&self.inner), caller, self.trace.clone())
    }

    /// The same pool: the tasks that it makes belong to this trace.
    pub fn in_trace(self, trace: Option<TraceContext>) -> Pool {
        Pool { trace, ..self }
    }

    /// The same, for a caller who sees and may touch every caller's tasks. What
    /// it makes is its own.
    pub fn for_operator(&self, caller: CallerId) -> Pool {
        Self {
            sees_all: true,
            ..self.for_caller(caller)
        }
    }

    /// Runs one prompt and gives the finished task with its result; a failed
    /// task is an `Ok` whose result's `success` is false. Dropping the future
    /// is leaving.
    pub async fn run(&self, work: impl Into<Work>) -> Result<Record, Error> {
        let running = self.start(work).await?;
        self.finish(running).await
    }

    /// Waits for the end of a task that the caller is attached to. Dropping the
    /// future is leaving.
    pub async fn finish(&self, running: Running) -> Result<Record, Error> {
        let record = match running.heard {
            Some(heard) => end_of(heard).await?,
            None => self.ended(running.task).await?,
        };
        if let Some(attachment) = running.attachment {
            attachment.is_over();
        }
        Ok(record)
    }

    /// Makes a task durable and stays attached to it.
    pub async fn start(&self, work: impl Into<Work>) -> Result<Running, Error> {
        self.start_heard(work.into(), Hub::await_end_of_new).await
    }

    async fn start_heard(&self, work: Work, hear: Hear) -> Result<Running, Error> {
        let wish = Wish {
            attached: !work.detach,
            hear: Some(hear),
            ..self.wish(work.request)
        };
        let made = submit::make(&self.inner, &self.caller, vec![work.spec], wish).await?;
        let task = made.first()?;
        let attachment = self.attach(&made, work.request, work.detach).await;
        Ok(Running {
            task,
            attachment,
            heard: made.heard,
        })
    }

    /// Makes a task durable.
    pub async fn submit(&self, work: impl Into<Work>) -> Result<TaskId, Error> {
        let work = work.into();
        let wish = self.wish(work.request);
        let made = submit::make(&self.inner, &self.caller, vec![work.spec], wish).await?;
        made.first()
    }

    /// Makes a new task from a finished one, with the same spec.
    pub async fn retry(&self, id: TaskId, request: Option<RequestId>) -> Result<TaskId, Error> {
        let made = fingerprint::of_retry(id);
        let made = submit::earlier(&self.inner, &self.caller, request, made).await?;
        if let Some(made) = made {
            return made.first();
        }
        let record = self.task(id).await?;
        if !record.task.state.is_end() {
            return Err(Error::TaskNotFinished(record.task.state));
        }
        if record.task.level > self.inner.level {
            // It would be another task: what is not known is not even read.
            return Err(Error::NewerServerNeeded);
        }
        if record.task.is_chain() {
            return self.retry_chain(&record, request).await;
        }
        let spec = record.spec.unwrap_or_default().received.clone();
        let wish = Wish {
            again: Some(id),
            ..self.wish(request)
        };
        let made = submit::make(&self.inner, &self.caller, vec![spec], wish).await?;
        made.first()
    }

    /// Makes many tasks durable, all or none, and stays attached to them.
    pub async fn fan_out(
        &self,
        specs: Vec<pb::TaskSpec>,
        request: Option<RequestId>,
        detach: bool,
    ) -> Result<FanOut, Error> {
        let watcher = Watcher::admit(&self.inner)?;
        let wish = Wish {
            attached: !detach,
            group: true,
            ..self.wish(request)
        };
        let made = submit::make(&self.inner, &self.caller, specs, wish).await?;
        let group = made.group.ok_or(Error::RequestIdReused)?;
        let attachment = self.attach(&made, request, detach).await;
        FanOut::new(&self.inner, group, made.tasks.into(), attachment, watcher).await
    }

    /// One task, whoever waits for it.
    fn wish(&self, request: Option<RequestId>) -> Wish {
        Wish {
            request,
            attached: false,
            group: false,
            again: None,
            hear: None,
            trace: self.trace.clone(),
        }
    }

    async fn attach(
        &self,
        made: &Made,
        request: Option<RequestId>,
        detach: bool,
    ) -> Option<Attachment> {
        if detach {
            return None;
        }
        let attachment = Attachment::new(&self.inner, made, request.is_some());
        if !made.now {
            attachment.recall().await;
        }
        Some(attachment)
    }

    /// The task, with its result if it ends within `wait`.
    pub async fn result(&self, id: TaskId, wait: Duration) -> Result<Record, Error> {
        if wait > Duration::ZERO {
            let ended = self.ended(id);
            if let Ok(record) = tokio::time::timeout(wait, ended).await {
                return record;
            }
        }
        self.own(id, Parts::RESULT).await
    }

    /// Waits for a task's end.
    async fn ended(&self, id: TaskId) -> Result<Record, Error> {
        // Before the look, so that nothing falls between.
        let subscription = self.inner.hub.await_end(id);
        let record = self.own(id, Parts::RESULT).await?;
        if record.task.state.is_end() {
            return Ok(record);
        }
        end_of(subscription).await
    }

    /// Reads a task's log after a sequence.
    pub async fn watch(&self, id: TaskId, after: u64) -> Result<Tail, Error> {
        let watcher = Watcher::admit(&self.inner)?;
        let tail = self.tail(id, after, watcher, None);
        self.own(id, Parts::ROW).await?;
        Ok(tail)
    }

    /// Makes a task durable, stays attached to it and reads its log after a
    /// sequence. With as many streams as there may be nothing is made.
    pub async fn start_watched(
        &self,
        work: impl Into<Work>,
        after: u64,
    ) -> Result<(Running, Tail), Error> {
        let watcher = Watcher::admit(&self.inner)?;
        let mut running = self.start_heard(work.into(), Hub::follow_new).await?;
        let heard = running.heard.take();
        // Whose it is need not be asked: a request is its caller's.
        let tail = self.tail(running.task, after, watcher, heard);
        Ok((running, tail))
    }

    /// `heard`: of a task that is new, since before it was made.
    fn tail(&self, id: TaskId, after: u64, watcher: Watcher, heard: Option<Subscription>) -> Tail {
        let store = Arc::clone(&self.inner.store);
        let tail = match heard {
            Some(heard) => stream::Tail::of_new(store, heard, after),
            None => stream::Tail::new(store, &self.inner.hub, id, after),
        };
        Tail {
            tail,
            _watcher: watcher,
        }
    }

    /// A piece of the whole final text of a finished task, from `offset`;
    /// empty at its end. Pieces end between characters.
    pub async fn output(&self, id: TaskId, offset: u64) -> Result<String, Error> {
        let record = self.own(id, Parts::RESULT).await?;
        if !record.task.state.is_end() {
            return Err(Error::TaskNotFinished(record.task.state));
        }
        let result = record.result.unwrap_or_default();
        let outside = || Error::invalid("offset", "must be 0 to output_bytes, between characters");
        let start = usize::try_from(offset).map_err(|_| outside())?;
        if !result.output_truncated {
            let rest = result.output.get(start..).ok_or_else(outside)?;
            return Ok(rest[..log::floor(rest, OUTPUT_PIECE)].to_owned());
        }
        if i64::try_from(offset).is_ok_and(|offset| offset == result.output_bytes) {
            return Ok(String::new());
        }
        let bytes = self
            .inner
            .store
            .output(id, offset, OUTPUT_PIECE)
            .await?
            .ok_or(Error::NotFound(Missing::DeletedTask))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            // The piece ends within a character; the next begins with it.
            Err(error) if error.valid_up_to() > 0 => {
                Ok(String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned())
            }
            Err(_) => Err(outside()),
        }
    }

    /// Cancels.
    pub async fn cancel(&self, target: Target) -> Result<Cancelled, Error> {
        match target {
            Target::Task(id) => {
                let task = self.own(id, Parts::ROW).await?.task;
                if task.is_chain() {
                    self.cancel_chain(id, true).await?;
                    return Ok(Cancelled {
                        task: Some(self.own(id, Parts::RESULT).await?),
                        count: 1,
                    });
                }
                let by = "caller";
                let event = || match task.follows_at(self.inner.level) {
                    true => TaskEvent::Cancel { by },
                    false => TaskEvent::CancelElsewhere { by },
                };
                match self.inner.change(id, event).await? {
                    Ok(changed) => Ok(Cancelled {
                        task: Some(self.own(id, Parts::RESULT).await?),
                        count: u32::from(changed.is_some()),
                    }),
                    Err(conflict) => Err(Error::TaskFinished(conflict.state)),
                }
            }
            Target::Group(group) => self.cancel_group(group).await,
        }
    }

    async fn cancel_group(&self, group: GroupId) -> Result<Cancelled, Error> {
        let members = self.inner.store.group(group, Parts::ROW).await?;
        let own: Vec<Task> = members
            .into_iter()
            .map(|record| record.task)
            .filter(|task| self.sees(task))
            .collect();
        if own.is_empty() {
            return Err(Error::NotFound(Missing::Group));
        }
        let event = || TaskEvent::Cancel { by: "caller" };
        let count = self.inner.change_all(&own, event).await?;
        for chain in own.iter().filter(|task| task.is_chain()) {
            chain_steps::cancel_steps(&self.inner, chain.id, true).await?;
        }
        Ok(Cancelled { task: None, count })
    }

    /// One task, whole.
    pub async fn task(&self, id: TaskId) -> Result<Record, Error> {
        self.own(id, Parts::ALL).await
    }

    /// Sets a key of the shared context; gives the new revision.
    pub async fn set_context(&self, key: &str, value: &str) -> Result<u64, Error> {
        context::change(&self.inner, key, Some(value)).await
    }

    /// A key of the shared context.
    pub async fn get_context(&self, key: &str) -> Result<ContextValue, Error> {
        let context = self.inner.context();
        let found = context.entries.get(key).cloned();
        found.ok_or(Error::NotFound(Missing::ContextKey))
    }

    /// Deletes a key of the shared context; gives the new revision.
    pub async fn delete_context(&self, key: &str) -> Result<u64, Error> {
        context::change(&self.inner, key, None).await
    }

    /// The whole shared context.
    pub async fn context(&self) -> Result<Arc<Context>, Error> {
        Ok(self.inner.context())
    }

    /// Refuses new work from now on; what runs finishes, or goes back to the
    /// queue at the deadline. Final. A repeat waits for the same drain.
    pub async fn drain(&self, deadline: Duration) -> Result<Drained, Error> {
        drain::drain(&self.inner, deadline).await
    }

    /// Wakes when a drain begins.
    pub async fn draining(&self) {
        self.inner.draining.cancelled().await;
    }

    /// Whether the store answers; wakes when that changes. While it does not, new
    /// work is refused.
    pub fn store_answers(&self) -> tokio::sync::watch::Receiver<bool> {
        self.inner.outage.subscribe()
    }

    /// Ends every process and closes the store. What still runs is handed back,
    /// now, or by the next server if the store does not answer.
    pub async fn shutdown(&self) {
        self.inner.hand_back.cancel();
        tokio::select! {
            biased;
            _ = self.drain(Duration::ZERO) => {}
            () = self.inner.outage.begun() => {}
        }
        self.inner.stop.cancel();
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
        if let Some((cluster, _)) = self.inner.cluster() {
            let left = tokio::time::timeout(LEAVE_MAX, cluster.leave()).await;
            if !matches!(left, Ok(Ok(()))) {
                tracing::warn!("this node could not leave: its lease has to pass");
            }
        }
        let closed = tokio::time::timeout(outage::ANSWER_MAX, self.inner.store.close());
        if closed.await.is_err() {
            tracing::error!("the store did not close");
        }
    }
}

#[cfg(test)]
mod tests;
