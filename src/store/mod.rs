//! The truth: tasks, their logs, the ledger, the shared context.
//!
//! The store *is* the queue. It holds no rules: it commits a [`Change`] under its
//! precondition, claims the oldest ready tasks, and reads. `now` is always an
//! argument. Nothing is acknowledged before it is committed, and everything in
//! memory can be rebuilt from here.

mod attempt;
mod catalog;
mod choice;
pub mod cluster;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod failure;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
mod kept;
pub mod layer;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
mod query;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod row;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use attempt::{Fence, Note, SessionNote, SessionRef};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::id::{CallerId, ConversationId, GroupId, NodeId, RequestId, SlotId, TaskId};
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::task::{Change, Level, Record, SavedSession, Spec, State, Task};

pub use catalog::{CatalogEntry, CatalogKind};
pub use cluster::Cluster;
pub use failure::{OpenError, StoreError};
pub use query::{Filter, Query};

/// What is committed in one transaction: all of it or nothing.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The request that makes these tasks. If the same caller's request is
    /// there already and has not expired: [`StoreError::RequestExists`].
    pub request: Option<Request>,
    /// The changes.
    pub changes: Vec<Change>,
    /// Dates the log entries.
    pub now: Timestamp,
}

/// A call that made work, remembered so that its repeat makes none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who called.
    pub caller: CallerId,
    /// The caller's name for the call.
    pub id: RequestId,
    /// SHA-256 of what was asked.
    pub fingerprint: [u8; 32],
    /// What it made: one task, or the first of a group's.
    pub task: TaskId,
    /// The group it made.
    pub group: Option<GroupId>,
    /// Forgotten after this time.
    pub expire_time: Timestamp,
    /// Whether the task was deleted since: a repeat must not run again.
    pub deleted: bool,
}

impl Request {
    /// Whether it still stands in the way of its repeat.
    pub fn is_remembered(&self, now: Timestamp) -> bool {
        now <= self.expire_time
    }
}

/// An entry of a log as stored: `bytes` is an encoded `claudepool.v1.Event`,
/// the same for every reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number, from 1.
    pub sequence: u64,
    /// The encoded event.
    pub bytes: Bytes,
}

/// What a commit added to one task's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// The task.
    pub task: TaskId,
    /// Its state now.
    pub state: State,
    /// The entries, in order.
    pub entries: Vec<LogEntry>,
}

/// A wish to claim tasks.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The slots that want one task each, in order of preference.
    pub slots: Vec<SlotId>,
    /// The conversations that slots keep: preferred for it, last for others.
    pub keeps: BTreeMap<SlotId, (CallerId, ConversationId)>,
    /// Their node.
    pub node: NodeId,
    /// The labels that it carries.
    pub labels: BTreeSet<String>,
    /// What it knows: tasks that need more are passed by.
    pub level: Level,
    /// How long a claim holds without renewal, by the store's clock if it is
    /// shared, else from `now`; `None`: no limit.
    pub lease: Option<Duration>,
    /// Revision of the shared context that the attempts see.
    pub context_revision: u64,
    /// Now: tasks whose ready time is later are not ready.
    pub now: Timestamp,
}

/// What a claim gave.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// One entry per claimed task, in order of `ClaimRequest::slots`.
    pub tasks: Vec<ClaimedTask>,
    /// Ready tasks that the budget does not cover and, with nothing reserved,
    /// never will: to be ended by the pool.
    pub unaffordable: Vec<Task>,
    /// Whether ready tasks were left that the budget does not cover now.
    pub waits_for_budget: bool,
    /// Whether ready tasks were left whose conversation is another task's now.
    pub waits_for_conversation: bool,
    /// The earliest ready time after now among queued tasks.
    pub next_ready: Option<Timestamp>,
}

/// A task that was claimed.
#[derive(Clone, Debug)]
pub struct ClaimedTask {
    /// The slot it was claimed for.
    pub slot: SlotId,
    /// The row after the claim.
    pub task: Task,
    /// What is to be done.
    pub spec: Arc<Spec>,
    /// What the claim added to its log.
    pub committed: Committed,
}

/// Which parts of a task are read besides the row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// What was asked.
    pub spec: bool,
    /// What it gave.
    pub result: bool,
}

impl Parts {
    /// The row alone.
    pub const ROW: Self = Self {
        spec: false,
        result: false,
    };
    /// The row and the result.
    pub const RESULT: Self = Self {
        spec: false,
        result: true,
    };
    /// Everything.
    pub const ALL: Self = Self {
        spec: true,
        result: true,
    };
}

/// Tasks whose time has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Due {
    /// Tasks whose `due_time` is not after now, at most the limit, oldest due
    /// first.
    pub tasks: Vec<Task>,
    /// The earliest `due_time` after now.
    pub next: Option<Timestamp>,
}

/// Counts and money.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Tasks by state, without chains' steps; states that have none may be
    /// absent.
    pub tasks: BTreeMap<State, u64>,
    /// Money.
    pub funds: Funds,
    /// The earliest ready time of a queued task, chains left out; it may be to
    /// come. `None`: there is none.
    pub first_ready: Option<Timestamp>,
}

/// The shared context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// Counts changes.
    pub revision: u64,
    /// Values by key.
    pub entries: BTreeMap<String, ContextValue>,
}

/// A value of the shared context.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextValue {
    /// The text.
    pub value: String,
    /// When it was set.
    pub update_time: Timestamp,
}

/// Opens the store that `url` names: `memory`, `sqlite:PATH`, `postgres://…`.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, OpenError> {
    if url == "memory" {
        return Ok(Arc::new(memory::Memory::new()));
    }
    match url.split_once(':') {
        #[cfg(feature = "sqlite")]
        Some(("sqlite", path)) => Ok(Arc::new(
            sqlite::Sqlite::open(path.strip_prefix("//").unwrap_or(path)).await?,
        )),
        #[cfg(not(feature = "sqlite"))]
        Some(("sqlite", _)) => Err(OpenError(
            "this claudepool was built without SQLite: build it with the feature `sqlite`, or use `memory`".to_owned(),
        )),
        #[cfg(feature = "postgres")]
        Some(("postgres" | "postgresql", _)) => Ok(Arc::new(postgres::Postgres::open(url).await?)),
        #[cfg(not(feature = "postgres"))]
        Some(("postgres" | "postgresql", _)) => Err(OpenError(
            "this claudepool was built without PostgreSQL: build it with the feature `postgres`, or use `sqlite:PATH`".to_owned(),
        )),
        // Whatever it is may hold a password, so it is not repeated.
        _ => Err(OpenError(
            "that names no store: say `memory`, `sqlite:PATH` or `postgres://…`".to_owned(),
        )),
    }
}

/// Where everything is kept.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Commits a batch, all or nothing; returns what each change added to its
    /// task's log, in order of the changes. What the store keeps of a row is
    /// `last_sequence`; caller, tags, group, parent, place, request, trace and
    /// create time as first written; and what an append has noted while the attempt
    /// goes on. `Conflict` too if the budget does not cover a reservation.
    async fn commit(&self, batch: Batch) -> Result<Vec<Committed>, StoreError>;

    /// Claims ready tasks for slots: lowest rank first, then the earliest
    /// ready time, then the older id, as far as the budget covers them. Passed
    /// by is a task whose conversation has an active task or, of the same
    /// caller, an unfinished one with a lower id; one that asks for a label that
    /// the node does not carry; one that needs more than the node knows; and one that goes on with a session of another
    /// node that lives. Each claim is `task::apply` with `TaskEvent::Claim`, in
    /// one transaction. `Fenced` if this is a node's handle and its lease has
    /// passed.
    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError>;

    /// Appends to the log of a running attempt, and notes what is told of it.
    /// `Fenced` unless that attempt is the one under way.
    async fn append(
        &self,
        fence: Fence,
        events: Vec<Kind>,
        note: Note,
        now: Timestamp,
    ) -> Result<Committed, StoreError>;

    /// One task.
    async fn record(&self, id: TaskId, parts: Parts) -> Result<Option<Record>, StoreError>;

    /// A page of tasks, newest first.
    async fn list(&self, query: &Query) -> Result<Vec<Record>, StoreError>;

    /// Every member of a group, by place: row and what `parts` says.
    async fn group(&self, id: GroupId, parts: Parts) -> Result<Vec<Record>, StoreError>;

    /// A remembered request that has not expired.
    async fn request(
        &self,
        caller: &CallerId,
        id: RequestId,
        now: Timestamp,
    ) -> Result<Option<Request>, StoreError>;

    /// Entries of a log after a sequence, in order, up to about `bytes_max`
    /// bytes but at least one if there is any.
    async fn log(
        &self,
        id: TaskId,
        after: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StoreError>;

    /// Bytes of a task's log.
    async fn log_bytes(&self, id: TaskId) -> Result<u64, StoreError>;

    /// A piece of a task's whole final text, if it was kept apart from the
    /// result: at most `len` bytes from `offset`.
    async fn output(
        &self,
        id: TaskId,
        offset: u64,
        len: usize,
    ) -> Result<Option<Bytes>, StoreError>;

    /// Deletes an ended task with its log and output, and a chain with its
    /// steps, if it is still at `version` and its steps have ended, else
    /// `Conflict`; its request becomes a tombstone, what the ledger says of it
    /// stays spent. One task of a fan-out makes a tombstone of the request of
    /// all: its repeat could not give every outcome any more. Gives the ids of
    /// all that is gone: from now on nobody sees them, and [`Store::sweep`]
    /// gives back the room they take.
    async fn delete(&self, id: TaskId, version: u64) -> Result<Vec<TaskId>, StoreError>;

    /// Ended tasks in each state that ended before the moment given for it,
    /// the earliest end first, at most `limit` in all. Without the steps of
    /// chains, which go with their chain, and the members of a fan-out of which
    /// one has not ended.
    async fn outdated(
        &self,
        ended: &[(State, Timestamp)],
        limit: usize,
    ) -> Result<Vec<Task>, StoreError>;

    /// Forgets requests that have expired, at most `limit`; how many.
    async fn expire_requests(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Gives back a little of the room that deleted tasks took, in a short
    /// transaction; whether there is more to give back.
    async fn sweep(&self) -> Result<bool, StoreError>;

    /// Tasks whose time has come; without the steps of chains that need more
    /// than `level`: who does not know it cannot say what follows.
    async fn due(&self, now: Timestamp, level: Level, limit: usize) -> Result<Due, StoreError>;

    /// A saved session of this caller.
    async fn session(
        &self,
        caller: &CallerId,
        which: &SessionRef,
    ) -> Result<Option<SavedSession>, StoreError>;

    /// Forgets a saved session; harmless if it is not there.
    async fn forget_session(&self, id: &str) -> Result<(), StoreError>;

    /// Forgets sessions last used before a moment, unless an unfinished task
    /// goes on with them; the longest unused first. Gives their ids.
    async fn expire_sessions(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<String>, StoreError>;

    /// Counts and money now.
    async fn totals(&self) -> Result<Totals, StoreError>;

    /// Sets the most that may be spent.
    async fn set_budget(&self, limit: Option<Microdollars>) -> Result<Funds, StoreError>;

    /// The shared context.
    async fn context(&self) -> Result<Context, StoreError>;

    /// Sets (`Some`) or removes (`None`) a key, if the context is still at
    /// `revision`; returns the new revision.
    async fn set_context(
        &self,
        revision: u64,
        key: &str,
        value: Option<&str>,
        now: Timestamp,
    ) -> Result<u64, StoreError>;

    /// A stored skill or workflow.
    async fn catalog_entry(
        &self,
        kind: CatalogKind,
        name: &str,
    ) -> Result<Option<CatalogEntry>, StoreError>;

    /// Stored skills or workflows whose names come after `after`, by name, up to
    /// about `bytes_max` bytes but at least one if there is any.
    async fn catalog(
        &self,
        kind: CatalogKind,
        after: &str,
        bytes_max: usize,
    ) -> Result<Vec<CatalogEntry>, StoreError>;

    /// Makes or replaces a skill or workflow; false, and nothing is changed, if
    /// it is a new one and there are `most` of the kind already.
    async fn put_catalog(
        &self,
        kind: CatalogKind,
        entry: CatalogEntry,
        most: usize,
    ) -> Result<bool, StoreError>;

    /// Deletes a stored skill or workflow; whether it was there.
    async fn delete_catalog(&self, kind: CatalogKind, name: &str) -> Result<bool, StoreError>;

    /// Whether work can be kept now: writes as much as a large commit, to disk
    /// where there is one, and takes it back; reads a little. `thorough`: also
    /// whether what is stored is whole, however long that takes; dropping the
    /// call ends it.
    async fn probe(&self, thorough: bool) -> Result<(), StoreError>;

    /// Finishes what is under way and closes. Later calls are `Unavailable`.
    async fn close(&self);

    /// What keeps many servers together; `None`: this store has one.
    fn cluster(&self) -> Option<&dyn Cluster> {
        None
    }
}
