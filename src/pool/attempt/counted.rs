//! What an attempt leaves in metrics and traces.

use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::metrics::{AttemptEnd, word};
use crate::pb::{Failure, FailureReason, RequeueReason};
use crate::pool::inner::Inner;
use crate::pool::slot::Slot;
use crate::task::{Bill, Task, TaskEvent};
use crate::trace;

/// The span of an attempt that begins now, in the trace of its task's caller.
pub(super) fn span(inner: &Inner, slot: &Slot, task: &Task) -> Span {
    let now = inner.now();
    inner.metrics.attempt_began(now.since(task.ready_time));
    let span = info_span!(
        "attempt",
        task_id = %task.id,
        attempt = task.attempt,
        slot_id = %slot.id,
        trace_id = Empty,
    );
    if let Some(parent) = &task.trace {
        span.record("trace_id", parent.trace_id());
        trace::adopt(&span, parent);
        trace::waited(parent, &task.id.to_string(), task.ready_time, now);
    }
    span
}

/// Counts an attempt by its end and what it cost: once, whatever becomes of the
/// commit.
pub(super) fn count(inner: &Inner, task: &Task, event: &TaskEvent) {
    let Some((end, bill)) = end(event) else {
        return;
    };
    let took = task.start_time.map(|start| inner.now().since(start));
    inner.metrics.attempt_ended(end, took.unwrap_or_default());
    inner.metrics.paid(&bill.usage, bill.cost);
}

fn end(event: &TaskEvent) -> Option<(AttemptEnd, &Bill)> {
    let failed = |reason: FailureReason| word(reason.as_str_name(), "FAILURE_REASON_");
    let (outcome, reason, bill) = match event {
        TaskEvent::Finish(end) => match &end.result.failure {
            None => ("succeeded", failed(FailureReason::Unspecified), &end.bill),
            Some(failure) => ("failed", failed(Failure::reason(failure)), &end.bill),
        },
        TaskEvent::Requeue(end) => {
            let reason = match end.reason {
                RequeueReason::Retry => failed(end.failure_reason),
                reason => word(reason.as_str_name(), "REQUEUE_REASON_"),
            };
            ("requeued", reason, &end.bill)
        }
        TaskEvent::Lost(end) => ("lost", "LEASE_EXPIRED", &end.bill),
        TaskEvent::Claim(_)
        | TaskEvent::Cancel { .. }
        | TaskEvent::CancelElsewhere { .. }
        | TaskEvent::Expire { .. }
        | TaskEvent::Abandon(_)
        | TaskEvent::Recover { .. } => return None,
    };
    Some((AttemptEnd { outcome, reason }, bill))
}
