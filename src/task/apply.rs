//! The state machine, nowhere else.
//!
//! ```text
//! QUEUED ─claim→ RUNNING ─→ SUCCEEDED | FAILED
//!   ▲  │            │ ├─ cancel → CANCELLING → CANCELLED
//!   │  └ cancel →   │ └─ lost ─┐
//!   │   CANCELLED   └──────────┤
//!   └──────────────────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::apply_chain::{ChainEvent, apply_chain};
use super::bill::{Bill, settle};
use super::level::needed;
use super::lost::{Lost, lose, recover};
use super::{Change, Lease, SavedSession, Spec, State, Task};
use crate::budget::Entry;
use crate::clock::Timestamp;
use crate::id::{NodeId, SlotId};
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::pb::{self, FailureReason, ProcessOrigin, RequeueReason};

/// What happens to a task.
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time, for as long as a decision takes"
)]
#[derive(Clone, Debug)]
pub enum TaskEvent {
    /// A slot takes it.
    Claim(Claim),
    /// The running attempt ended and decides the task.
    Finish(Outcome),
    /// The running attempt ended and the task goes back to the queue.
    Requeue(Requeue),
    /// Somebody wants it to end: `caller`, `abandoned`, `chain`.
    Cancel {
        /// Who.
        by: &'static str,
    },
    /// The same, of a step whose chain this program does not know: whoever does
    /// ends it and says what follows.
    CancelElsewhere {
        /// Who.
        by: &'static str,
    },
    /// It ends without ever having run (again): queue timeout, budget.
    Expire {
        /// Why.
        reason: FailureReason,
        /// For people.
        message: String,
    },
    /// A caller attached (`None`) or the last one left: it is cancelled then.
    Abandon(Option<Timestamp>),
    /// The running attempt was cut off and nobody knows how far it came.
    Lost(Lost),
    /// A server found it after a crash.
    Recover {
        /// How long an attached caller has to come back.
        grace: Duration,
    },
}

/// Who takes a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The slot.
    pub slot: SlotId,
    /// Its node.
    pub node: NodeId,
    /// Until when the claim holds without renewal; `None`: no limit.
    pub lease_until: Option<Timestamp>,
    /// Revision of the shared context that the attempt sees.
    pub context_revision: u64,
}

/// How an attempt that decides its task ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The attempt: a late outcome of an earlier one is refused.
    pub attempt: u32,
    /// What it gave. Cost and usage are filled in here, from the ledger's view.
    pub result: pb::TaskResult,
    /// The whole text, if the result holds only its beginning.
    pub output: Option<Arc<str>>,
    /// What the attempt cost.
    pub bill: Bill,
    /// How it got its process.
    pub origin: ProcessOrigin,
}

/// How an attempt that goes back to the queue ended.
#[derive(Clone, Debug)]
pub struct Requeue {
    /// The attempt.
    pub attempt: u32,
    /// Why.
    pub reason: RequeueReason,
    /// Whether it counts against the limit of attempts.
    pub burn: bool,
    /// Not claimed before.
    pub ready_time: Timestamp,
    /// What the attempt cost.
    pub bill: Bill,
    /// How it failed, if it did.
    pub failure_reason: FailureReason,
    /// For people.
    pub message: String,
}

/// The event does not fit the state; nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state:?} cannot do that")]
pub struct Conflict {
    /// The state it is in.
    pub state: State,
}

/// A task that becomes durable.
pub fn submit(mut task: Task, spec: Arc<Spec>) -> Change {
    task.level = task.level.max(needed(&spec));
    Change {
        task,
        from: None,
        expect: None,
        spec: Some(spec),
        result: None,
        output: None,
        events: vec![Kind::Queued(pb::Queued {})],
        ledger: Vec::new(),
        session: None,
    }
}

/// What `event` does to `task`. Pure; the caller commits the change. `None`:
/// it is so already.
pub fn apply(task: &Task, event: TaskEvent, now: Timestamp) -> Result<Option<Change>, Conflict> {
    let conflict = Conflict { state: task.state };
    if task.is_chain() {
        return match event {
            TaskEvent::Cancel { by } => apply_chain(task, ChainEvent::Cancel { by }, now),
            // Nothing runs for it: its steps are what a crash interrupts.
            TaskEvent::Recover { .. } | TaskEvent::Abandon(_) => Ok(None),
            TaskEvent::Claim(_)
            | TaskEvent::Finish(_)
            | TaskEvent::Requeue(_)
            | TaskEvent::Lost(_)
            | TaskEvent::CancelElsewhere { .. }
            | TaskEvent::Expire { .. } => Err(conflict),
        };
    }
    match event {
        TaskEvent::Claim(claim) => match task.state {
            State::Queued => Ok(Some(begin(task, claim, now))),
            _ => Err(conflict),
        },
        TaskEvent::Finish(outcome) => match task.state {
            State::Running | State::Cancelling if outcome.attempt == task.attempt => {
                Ok(Some(finish(task, outcome, now)))
            }
            _ => Err(conflict),
        },
        TaskEvent::Requeue(requeue) => match task.state {
            State::Running if requeue.attempt == task.attempt => {
                Ok(Some(hand_back(task, requeue, now)))
            }
            // The cancel wins: what would have been tried again ends here.
            State::Cancelling if requeue.attempt == task.attempt => {
                let mut change = Change::of(task);
                settle(&mut change, requeue.bill);
                Ok(Some(end(
                    change,
                    State::Cancelled,
                    bare_result(),
                    ProcessOrigin::Unspecified,
                    now,
                )))
            }
            _ => Err(conflict),
        },
        TaskEvent::Cancel { by } => match task.state {
            State::Queued => Ok(Some(end(
                Change::of(task),
                State::Cancelled,
                bare_result(),
                ProcessOrigin::Unspecified,
                now,
            ))),
            State::Running => Ok(Some(cancelling(task, by))),
            State::Cancelling | State::Cancelled => Ok(None),
            State::Succeeded | State::Failed | State::Skipped => Err(conflict),
        },
        // Active, and nobody's: what is left behind when a server is gone.
        TaskEvent::CancelElsewhere { by } => match task.state {
            State::Queued => Ok(Some(cancelling(task, by))),
            _ => apply(task, TaskEvent::Cancel { by }, now),
        },
        TaskEvent::Expire { reason, message } => match task.state {
            State::Queued => Ok(Some(end(
                Change::of(task),
                State::Failed,
                failed(reason, message, false),
                ProcessOrigin::Unspecified,
                now,
            ))),
            _ => Err(conflict),
        },
        TaskEvent::Abandon(time) => match task.state {
            State::Queued | State::Running if task.attached && task.abandon_time != time => {
                let mut change = Change::of(task);
                change.task.abandon_time = time;
                Ok(Some(change))
            }
            _ => Ok(None),
        },
        TaskEvent::Lost(lost) => match task.state {
            State::Running | State::Cancelling if lost.attempt == task.attempt => {
                Ok(Some(lose(task, lost, now)))
            }
            _ => Err(conflict),
        },
        TaskEvent::Recover { grace } => Ok(recover(task, grace, now)),
    }
}

/// A cancel that waits for something to end.
pub(super) fn cancelling(task: &Task, by: &str) -> Change {
    let mut change = Change::of(task);
    change.task.state = State::Cancelling;
    change.task.abandon_time = None;
    let by = by.to_owned();
    change.events.push(Kind::Cancelling(pb::Cancelling { by }));
    change
}

fn begin(task: &Task, claim: Claim, now: Timestamp) -> Change {
    let mut change = Change::of(task);
    let reserve = task.remaining_budget();
    let row = &mut change.task;
    row.state = State::Running;
    row.attempt += 1;
    row.start_time = Some(now);
    row.slot = Some(claim.slot.clone());
    row.lease = Some(Lease {
        node: claim.node.clone(),
        until: claim.lease_until,
    });
    if row.saves_session {
        row.home = Some(claim.node.clone());
    }
    row.context_revision = claim.context_revision;
    row.reserved = reserve;
    row.attempt_cost = Microdollars::ZERO;
    change.ledger.push(Entry::Reserve(reserve));
    change.events.push(Kind::Started(pb::Started {
        attempt: i32::try_from(change.task.attempt).unwrap_or(i32::MAX),
        slot_id: claim.slot.0,
        node_id: claim.node.0,
    }));
    change
}

fn finish(task: &Task, outcome: Outcome, now: Timestamp) -> Change {
    let mut change = Change::of(task);
    settle(&mut change, outcome.bill);
    if !outcome.result.session_id.is_empty() {
        change.task.session_id = outcome.result.session_id.clone();
    }
    match task.state {
        // Money spent stays spent; an outcome never overwrites a cancel.
        State::Cancelling => {
            let mut result = bare_result();
            result.session_id = outcome.result.session_id;
            result.duration = outcome.result.duration;
            result.git = outcome.result.git;
            end(change, State::Cancelled, result, outcome.origin, now)
        }
        _ => {
            let state = if outcome.result.success {
                State::Succeeded
            } else {
                State::Failed
            };
            change.output = outcome.output;
            end(change, state, outcome.result, outcome.origin, now)
        }
    }
}

pub(super) fn hand_back(task: &Task, requeue: Requeue, now: Timestamp) -> Change {
    let mut change = Change::of(task);
    settle(&mut change, requeue.bill);
    let row = &mut change.task;
    row.state = State::Queued;
    row.ready_time = requeue.ready_time.max(now);
    row.lease = None;
    row.burnt += u32::from(requeue.burn);
    // What has run once has had its slot: only the first wait is limited.
    row.queue_deadline = None;
    // Only an interrupted attempt is gone on with; this one is tried anew.
    let anew = [RequeueReason::Retry, RequeueReason::RateLimited];
    if anew.contains(&requeue.reason) {
        change.leave_session(now);
    }
    change.events.push(Kind::Requeued(pb::Requeued {
        reason: requeue.reason as i32,
        ready_time: Some(change.task.ready_time.to_proto()),
        failure_reason: requeue.failure_reason as i32,
        message: requeue.message,
    }));
    change
}

pub(super) fn end(
    mut change: Change,
    state: State,
    mut result: pb::TaskResult,
    origin: ProcessOrigin,
    now: Timestamp,
) -> Change {
    let row = &mut change.task;
    row.state = state;
    row.end_time = Some(now);
    row.abandon_time = None;
    result.cost_microdollars = row.cost.0;
    result.cost_estimated = row.cost_estimated;
    result.usage.clone_from(&row.usage);
    change.session = SavedSession::of(row, now);
    change.events.push(Kind::Finished(pb::Finished {
        state: state.to_proto() as i32,
        result: Some(result.clone()),
        process_origin: origin as i32,
    }));
    change.result = Some(Arc::new(result));
    change
}

pub(super) fn bare_result() -> pb::TaskResult {
    pb::TaskResult::default()
}

pub(super) fn failed(reason: FailureReason, message: String, retryable: bool) -> pb::TaskResult {
    pb::TaskResult {
        failure: Some(pb::Failure {
            reason: reason as i32,
            message,
            retryable,
            ..pb::Failure::default()
        }),
        ..pb::TaskResult::default()
    }
}
