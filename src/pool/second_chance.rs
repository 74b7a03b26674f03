//! What a failed attempt means for its task and for the pool: another try,
//! a hold, or the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::info;

use super::chain_steps;
use super::inner::Inner;
use crate::clock::Timestamp;
use crate::pb::{self, FailureReason, RequeueReason};
use crate::task::apply::{Outcome, Requeue};
use crate::task::retry::{Verdict, verdict};
use crate::task::{Bill, Task, TaskEvent};

/// Looks at the event that an attempt's end is; gives the one that it becomes.
pub(super) async fn consider(inner: &Inner, task: &Task, event: TaskEvent) -> TaskEvent {
    let TaskEvent::Finish(outcome) = &event else {
        let_another_probe(inner, task);
        return event;
    };
    let failure = outcome.result.failure.as_ref();
    let reason = failure.map_or(FailureReason::Unspecified, pb::Failure::reason);
    match reason {
        FailureReason::RateLimited => {
            let message = failure.map(|f| f.message.as_str()).unwrap_or_default();
            limited(inner, task, None, message);
        }
        // It had nothing left to spend: nobody was asked.
        FailureReason::Budget if outcome.bill == Bill::default() => let_another_probe(inner, task),
        // The provider has answered.
        FailureReason::Unspecified
        | FailureReason::InvalidRequest
        | FailureReason::Budget
        | FailureReason::MaxTurns
        | FailureReason::Schema
        | FailureReason::Refused => lifted(inner),
        _ => let_another_probe(inner, task),
    }
    if outcome.result.success {
        return event;
    }
    if reason != FailureReason::RateLimited
        && let Some(again) = chain_steps::retry(inner, task, outcome).await
    {
        return again;
    }
    match verdict(
        reason,
        task.burnt,
        inner.options.attempts_max,
        inner.chance(),
    ) {
        Verdict::Fail => event,
        Verdict::Retry(wait) => again(inner, outcome, RequeueReason::Retry, true, wait),
        Verdict::Hold => again(
            inner,
            outcome,
            RequeueReason::RateLimited,
            false,
            Duration::ZERO,
        ),
    }
}

fn again(
    inner: &Inner,
    outcome: &Outcome,
    reason: RequeueReason,
    burn: bool,
    wait: Duration,
) -> TaskEvent {
    let failure = outcome.result.failure.as_ref();
    TaskEvent::Requeue(Requeue {
        attempt: outcome.attempt,
        reason,
        burn,
        ready_time: inner.now().after(wait),
        bill: outcome.bill.clone(),
        failure_reason: failure.map_or(FailureReason::Unspecified, pb::Failure::reason),
        message: failure.map(|f| f.message.clone()).unwrap_or_default(),
    })
}

/// The provider limits: from its first word on nobody else starts.
pub(super) fn limited(inner: &Inner, task: &Task, lifts: Option<Timestamp>, message: &str) {
    inner.hold.limited(task.id, lifts, message, inner.now());
    inner.hold_changed();
    info!(task_id = %task.id, "the provider limits; the pool holds");
    inner.status_changed();
    // So that the scheduler sets its alarm.
    inner.wake.notify_one();
}

fn lifted(inner: &Inner) {
    if inner.hold.lifted() {
        inner.hold_changed();
        info!("the provider answers; the pool goes on");
        inner.status_changed();
        inner.may_wait.store(true, Ordering::SeqCst);
        inner.wake.notify_one();
    }
}

fn let_another_probe(inner: &Inner, task: &Task) {
    if inner.hold.ended(task.id) {
        inner.hold_changed();
        inner.may_wait.store(true, Ordering::SeqCst);
        inner.wake.notify_one();
    }
}
