//! What a task is. Pure: no I/O, no clock, no randomness.

pub mod apply;
pub mod apply_chain;
mod bill;
pub mod change;
pub mod level;
pub mod lost;
pub mod retry;
pub mod settings;

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::id::{CallerId, ConversationId, GroupId, NodeId, RequestId, SlotId, TaskId};
use crate::money::Microdollars;
use crate::pb;
use crate::trace::TraceContext;

pub use apply::{Conflict, TaskEvent, apply};
pub use bill::{Bill, add as add_usage};
pub use change::{Change, SavedSession};
pub use level::Level;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Waits for a slot.
    Queued,
    /// An attempt runs.
    Running,
    /// A cancel was accepted; the attempt is being ended.
    Cancelling,
    /// Ended with a result.
    Succeeded,
    /// Ended with a failure.
    Failed,
    /// Ended at the caller's wish.
    Cancelled,
    /// A chain's step that was never run.
    Skipped,
}

impl State {
    /// Every state.
    pub const ALL: [State; 7] = [
        State::Queued,
        State::Running,
        State::Cancelling,
        State::Succeeded,
        State::Failed,
        State::Cancelled,
        State::Skipped,
    ];

    /// Whether nothing can change any more.
    pub fn is_end(self) -> bool {
        match self {
            State::Queued | State::Running | State::Cancelling => false,
            State::Succeeded | State::Failed | State::Cancelled | State::Skipped => true,
        }
    }

    /// Whether an attempt is under way.
    pub fn is_active(self) -> bool {
        matches!(self, State::Running | State::Cancelling)
    }

    /// On the wire; the number is also what stores keep.
    pub fn to_proto(self) -> pb::TaskState {
        match self {
            State::Queued => pb::TaskState::Queued,
            State::Running => pb::TaskState::Running,
            State::Cancelling => pb::TaskState::Cancelling,
            State::Succeeded => pb::TaskState::Succeeded,
            State::Failed => pb::TaskState::Failed,
            State::Cancelled => pb::TaskState::Cancelled,
            State::Skipped => pb::TaskState::Skipped,
        }
    }

    /// From the wire's number; `None`: none of ours.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|s| s.to_proto() as i32 == number)
    }
}

/// The part of a task that changes: small, one row. What was asked is in
/// [`Spec`], what it gave in the result; both are written once.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its identity.
    pub id: TaskId,
    /// Counts changes; a change is conditional on it. Appending to the log is
    /// no change.
    pub version: u64,
    /// Who made it.
    pub caller: CallerId,
    /// Where it is in its life.
    pub state: State,
    /// Labels.
    pub tags: Vec<String>,
    /// The fan-out it came with.
    pub group: Option<GroupId>,
    /// The chain it is a step of.
    pub parent: Option<TaskId>,
    /// Its place in the fan-out or chain, from 0.
    pub place: u32,
    /// Who goes first: lower first, then the older one. 1; a begun chain's
    /// step: 0; a chain itself, which is never claimed: [`RANK_CHAIN`].
    pub rank: u8,
    /// The request that made it.
    pub request: Option<RequestId>,
    /// When it became durable.
    pub create_time: Timestamp,
    /// Not claimed before this time.
    pub ready_time: Timestamp,
    /// When its last attempt began.
    pub start_time: Option<Timestamp>,
    /// When it ended for good: set exactly in an end state.
    pub end_time: Option<Timestamp>,
    /// While queued: when it fails with QUEUE_TIMEOUT.
    pub queue_deadline: Option<Timestamp>,
    /// Whether it ends when no caller is attached.
    pub attached: bool,
    /// When it is cancelled because no attached caller is left.
    pub abandon_time: Option<Timestamp>,
    /// Number of the last attempt, from 1; 0: none yet. Every claim counts.
    pub attempt: u32,
    /// Attempts that count against the limit.
    pub burnt: u32,
    /// The slot of the last attempt.
    pub slot: Option<SlotId>,
    /// Who may write for the running attempt, and until when. Of an ended task:
    /// who ran its last attempt.
    pub lease: Option<Lease>,
    /// The session of the last attempt; written with the log.
    pub session_id: String,
    /// Whether its sessions are saved, so that they can be resumed.
    pub saves_session: bool,
    /// The node whose disk has the session that it may go on with.
    pub home: Option<NodeId>,
    /// Only nodes that carry this label run it; fixed.
    pub node_label: Option<String>,
    /// What a program must know to run it; fixed.
    pub level: Level,
    /// The conversation it goes on with. Of one caller's tasks of the same
    /// conversation one runs at a time, in order of their ids.
    pub conversation: Option<ConversationId>,
    /// Revision of the shared context that the last attempt saw.
    pub context_revision: u64,
    /// The most it may cost over all attempts.
    pub budget: Microdollars,
    /// Reserved for the running attempt.
    pub reserved: Microdollars,
    /// Settled cost of ended attempts.
    pub cost: Microdollars,
    /// Last known cost of the running attempt; written with the log.
    pub attempt_cost: Microdollars,
    /// Whether some settlement was an estimate.
    pub cost_estimated: bool,
    /// Tokens and cost of ended attempts, per model.
    pub usage: Vec<pb::ModelUsage>,
    /// By how much the agent's running total of the session is above what this
    /// task has cost, in microdollars: an earlier attempt without that session
    /// makes it negative. Written with the log.
    pub session_offset: i64,
    /// Whose trace it belongs to, if its caller said so.
    pub trace: Option<TraceContext>,
    /// What a crash does to it.
    pub recovery: Recovery,
    /// Sequence of the last entry of its log; kept by the store.
    pub last_sequence: u64,
}

/// The rank of a chain: its steps are tasks, it is never claimed itself.
pub const RANK_CHAIN: u8 = 255;

impl Task {
    /// A task as it begins.
    pub fn new(caller: &CallerId, now: Timestamp) -> Self {
        Self {
            id: TaskId::new(),
            version: 1,
            caller: caller.clone(),
            state: State::Queued,
            tags: Vec::new(),
            group: None,
            parent: None,
            place: 0,
            rank: 1,
            request: None,
            create_time: now,
            ready_time: now,
            start_time: None,
            end_time: None,
            queue_deadline: None,
            attached: false,
            abandon_time: None,
            attempt: 0,
            burnt: 0,
            slot: None,
            lease: None,
            session_id: String::new(),
            saves_session: false,
            home: None,
            node_label: None,
            level: Level::FIRST,
            conversation: None,
            context_revision: 0,
            budget: Microdollars::ZERO,
            reserved: Microdollars::ZERO,
            cost: Microdollars::ZERO,
            attempt_cost: Microdollars::ZERO,
            cost_estimated: false,
            usage: Vec::new(),
            session_offset: 0,
            trace: None,
            recovery: Recovery::Restart,
            last_sequence: 0,
        }
    }

    /// Whether it is a chain.
    pub fn is_chain(&self) -> bool {
        self.rank == RANK_CHAIN
    }

    /// Whether a program of that level knows what follows its end: always, but
    /// for the step of a chain.
    pub fn follows_at(&self, level: Level) -> bool {
        self.parent.is_none() || self.level <= level
    }

    /// The earliest moment at which the scheduler has to look at the task
    /// whatever the slots do.
    pub fn due_time(&self) -> Option<Timestamp> {
        let queue = match self.state {
            State::Queued => self.queue_deadline,
            _ => None,
        };
        let abandon = match self.state {
            State::Queued | State::Running => self.abandon_time,
            _ => None,
        };
        match (queue, abandon) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// What the next attempt may still cost.
    pub fn remaining_budget(&self) -> Microdollars {
        self.budget.saturating_sub(self.cost)
    }
}

/// The right to write for a running attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who has it.
    pub node: NodeId,
    /// Until when; `None`: as long as the node's lock on the store is held.
    pub until: Option<Timestamp>,
}

/// What a crash does to a running task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The next attempt starts over.
    Restart,
    /// The next attempt goes on with the conversation, if it was saved.
    Resume,
    /// It fails.
    Fail,
}

/// What was asked: written once.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Spec {
    /// As received.
    pub received: pb::TaskSpec,
    /// After merging pool and task settings.
    pub effective: pb::RunSettings,
    /// For a chain: its steps, expanded.
    pub chain: Option<pb::ChainSpec>,
}

impl Spec {
    /// The prompt; empty for an input of another kind.
    pub fn prompt(&self) -> &str {
        match &self.received.input {
            Some(pb::task_spec::Input::Prompt(text)) => text,
            None => "",
        }
    }
}

/// A task as read: the row and what was asked for of the rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The row.
    pub task: Task,
    /// What was asked, if it was read.
    pub spec: Option<Arc<Spec>>,
    /// What it gave, if it was read and the task has ended.
    pub result: Option<Arc<pb::TaskResult>>,
}

impl Record {
    /// About how many bytes it takes on the wire.
    pub fn bytes(&self) -> usize {
        use prost::Message;
        let spec = self.spec.as_ref().map_or(0, |spec| {
            let chain = spec.chain.as_ref().map_or(0, |chain| chain.encoded_len());
            spec.received.encoded_len() + spec.effective.encoded_len() + chain
        });
        let result = self.result.as_ref().map_or(0, |r| r.encoded_len());
        256 + spec + result
    }
}
