//! An attempt that was cut off: nobody knows how far it came, so the task's
//! recovery policy decides what becomes of it. Pure.

use std::time::Duration;

use super::apply::{Requeue, bare_result, end, failed, hand_back};
use super::bill::{Bill, settle};
use super::{Change, Recovery, State, Task};
use crate::clock::Timestamp;
use crate::pb::{FailureReason, ProcessOrigin, RequeueReason};

/// Attempts that may be cut off before a task fails: a task that takes the
/// server down must not do so for ever.
pub const CRASHES_MAX: u32 = 3;

/// An attempt that was cut off while its server lives.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The attempt.
    pub attempt: u32,
    /// What is known of its cost.
    pub bill: Bill,
    /// For people.
    pub message: &'static str,
}

/// What is to become of a task whose attempt was cut off.
pub(super) fn lose(task: &Task, lost: Lost, now: Timestamp) -> Change {
    let bare = |state, result, bill| {
        let mut change = Change::of(task);
        settle(&mut change, bill);
        end(change, state, result, ProcessOrigin::Unspecified, now)
    };
    if task.state == State::Cancelling {
        return bare(State::Cancelled, bare_result(), lost.bill);
    }
    let message = lost.message.to_owned();
    if task.recovery == Recovery::Fail || task.burnt + 1 >= CRASHES_MAX {
        let failure = failed(FailureReason::Interrupted, message, true);
        return bare(State::Failed, failure, lost.bill);
    }
    let again = Requeue {
        attempt: lost.attempt,
        reason: RequeueReason::Interrupted,
        burn: true,
        ready_time: now,
        bill: lost.bill,
        failure_reason: FailureReason::Interrupted,
        message,
    };
    hand_back(task, again, now)
}

/// What a server makes of a task that it finds at its start. `None`: nothing.
pub(super) fn recover(task: &Task, grace: Duration, now: Timestamp) -> Option<Change> {
    let mut change = match task.state {
        State::Running | State::Cancelling => {
            let lost = Lost {
                attempt: task.attempt,
                bill: Bill::estimate(task.attempt_cost),
                message: "the server stopped while it ran",
            };
            lose(task, lost, now)
        }
        State::Queued => Change::of(task),
        State::Succeeded | State::Failed | State::Cancelled | State::Skipped => return None,
    };
    // No caller is attached to a server that has just started.
    let row = &mut change.task;
    let orphaned = row.attached && !row.state.is_end() && row.abandon_time.is_none();
    if orphaned {
        row.abandon_time = Some(now.after(grace));
    }
    (orphaned || task.state != State::Queued).then_some(change)
}
