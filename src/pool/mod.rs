//! The only place where things happen.
//!
//! A [`Pool`] is a cheap handle; each method is one call of the wire contract,
//! without gRPC. Tasks are rows in the store: a call commits a change and wakes
//! the scheduler, and everything else follows from what is stored.

mod builder;
mod options;

use std::sync::Arc;
use std::time::Duration;

pub use builder::{BuildError, Builder};
pub use options::{DefaultSettings, Mode, Options, Policy};

use crate::agent::Agent;
use crate::clock::Clock;

use crate::error::Error;
use crate::id::{CallerId, GroupId, NodeId, RequestId, SlotId, TaskId};
use crate::pb;
use crate::store::{Context, ContextValue, Filter, LogEntry};
use crate::task::Record;

/// The pool. Cheap to clone; all clones are one pool.
#[derive(Clone)]
pub struct Pool {}

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

/// A caller's hold on a task or a group: while it lives the caller is attached.
/// Dropping it is leaving: without `detach` the work is cancelled, at once or
/// after `reattach_grace` if it has a request.
pub struct Attachment {}

/// A task that the caller is attached to.
pub struct Running {
    /// The task.
    pub task: TaskId,
    /// The caller's hold.
    pub attachment: Attachment,
}

/// A fan-out that the caller is attached to.
pub struct FanOut {
    /// The group.
    pub group: GroupId,
    /// Its tasks, in the order given.
    pub tasks: Vec<TaskId>,
    /// The caller's hold.
    pub attachment: Attachment,
}

impl FanOut {
    /// The next task that ended: its place and what there is to know. `None`
    /// after the last. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Option<(u32, Record)>, Error> {
        todo!()
    }
}

/// A reader of one task's log: history, then live.
pub struct Tail {}

impl Tail {
    /// The next entry; `None` after `finished`. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Option<LogEntry>, Error> {
        todo!()
    }
}

/// A reader of the pool's status.
pub struct StatusWatch {}

impl StatusWatch {
    /// The status at first, then whenever it changed. Safe to drop and call
    /// again.
    pub async fn next(&mut self) -> Result<pb::PoolStatus, Error> {
        todo!()
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

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The tasks, newest first.
    pub tasks: Vec<Record>,
    /// To go on with; empty: there are no more.
    pub next_page_token: String,
}

/// What a drain did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Tasks that finished since the server started.
    pub tasks_completed: u64,
    /// Money settled since the server started.
    pub cost: crate::money::Microdollars,
    /// Tasks left in the queue.
    pub tasks_left: u64,
}

#[allow(unused_variables)]
impl Pool {
    /// Builds a pool over an agent.
    pub fn builder(agent: impl Agent) -> Builder {
        Builder {
            agent: Arc::new(agent),
            store: None,
            options: Options::default(),
            node: NodeId(format!("node-{}", std::process::id())),
            clock: Clock::system(),
        }
    }

    async fn build(builder: Builder) -> Result<Pool, BuildError> {
        todo!()
    }

    /// The options in force.
    pub fn options(&self) -> &Options {
        todo!()
    }

    /// The same pool, seen by another caller: tasks belong to callers.
    pub fn for_caller(&self, caller: CallerId) -> Pool {
        todo!()
    }

    /// Runs one prompt and gives the finished task with its result; a failed
    /// task is an `Ok` whose result's `success` is false. Dropping the future
    /// is leaving.
    pub async fn run(&self, work: impl Into<Work>) -> Result<Record, Error> {
        todo!()
    }

    /// Makes a task durable and stays attached to it.
    pub async fn start(&self, work: impl Into<Work>) -> Result<Running, Error> {
        todo!()
    }

    /// Makes a task durable.
    pub async fn submit(&self, work: impl Into<Work>) -> Result<TaskId, Error> {
        todo!()
    }

    /// Makes many tasks durable, all or none, and stays attached to them.
    pub async fn fan_out(
        &self,
        specs: Vec<pb::TaskSpec>,
        request: Option<RequestId>,
        detach: bool,
    ) -> Result<FanOut, Error> {
        todo!()
    }

    /// The task, with its result if it ends within `wait`.
    pub async fn result(&self, id: TaskId, wait: Duration) -> Result<Record, Error> {
        todo!()
    }

    /// Reads a task's log after a sequence.
    pub async fn watch(&self, id: TaskId, after: u64) -> Result<Tail, Error> {
        todo!()
    }

    /// A piece of the whole final text of a finished task, from `offset`;
    /// empty at its end. Pieces end between characters.
    pub async fn output(&self, id: TaskId, offset: u64) -> Result<String, Error> {
        todo!()
    }

    /// Cancels.
    pub async fn cancel(&self, target: Target) -> Result<Cancelled, Error> {
        todo!()
    }

    /// One task, whole.
    pub async fn task(&self, id: TaskId) -> Result<Record, Error> {
        todo!()
    }

    /// A page of the caller's tasks. `full`: with spec and result.
    pub async fn tasks(
        &self,
        filter: Filter,
        page_size: usize,
        page_token: &str,
        full: bool,
    ) -> Result<Page, Error> {
        todo!()
    }

    /// Deletes a finished task.
    pub async fn delete_task(&self, id: TaskId) -> Result<(), Error> {
        todo!()
    }

    /// Sets a key of the shared context; gives the new revision.
    pub async fn set_context(&self, key: &str, value: &str) -> Result<u64, Error> {
        todo!()
    }

    /// A key of the shared context.
    pub async fn get_context(&self, key: &str) -> Result<ContextValue, Error> {
        todo!()
    }

    /// Deletes a key of the shared context; gives the new revision.
    pub async fn delete_context(&self, key: &str) -> Result<u64, Error> {
        todo!()
    }

    /// The whole shared context.
    pub async fn context(&self) -> Result<Context, Error> {
        todo!()
    }

    /// The pool's status now.
    pub async fn status(&self) -> Result<pb::PoolStatus, Error> {
        todo!()
    }

    /// Watches the pool's status, at most one snapshot per `interval`.
    pub async fn watch_status(&self, interval: Duration) -> Result<StatusWatch, Error> {
        todo!()
    }

    /// The slots, by id.
    pub fn slots(&self) -> Vec<pb::Slot> {
        todo!()
    }

    /// One slot.
    pub fn slot(&self, id: &SlotId) -> Result<pb::Slot, Error> {
        todo!()
    }

    /// Refuses new work from now on; what runs finishes, or goes back to the
    /// queue at the deadline. Final. A repeat waits for the same drain.
    pub async fn drain(&self, deadline: Duration) -> Result<Drained, Error> {
        todo!()
    }

    /// Wakes when a drain begins.
    pub async fn draining(&self) {
        todo!()
    }

    /// Ends every process and closes the store. What still runs is handed back.
    pub async fn shutdown(&self) {
        todo!()
    }
}
