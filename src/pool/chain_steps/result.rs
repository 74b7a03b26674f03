//! What a chain gives in the end. Pure.

use crate::clock::Timestamp;
use crate::pb::{self, FailureReason};
use crate::pool::isolation;
use crate::task::{Record, State, Task, add_usage};

/// What steps used, per model.
fn usage(ended: &[Record]) -> Vec<pb::ModelUsage> {
    let mut sum = Vec::new();
    for usage in ended.iter().flat_map(|step| &step.task.usage) {
        add_usage(&mut sum, usage.clone());
    }
    sum
}

/// What a chain gives that ends now, `row` being itself and `ended` its steps.
pub(super) fn task_result(
    state: State,
    chain: pb::ChainResult,
    row: &Task,
    ended: &[Record],
    now: Timestamp,
) -> pb::TaskResult {
    let failed = chain
        .steps
        .iter()
        .find(|step| !step.success && !step.skipped);
    let failure = (state == State::Failed).then(|| pb::Failure {
        reason: FailureReason::StepFailed as i32,
        message: failed.map_or_else(String::new, |step| {
            format!("step {} failed: {}", step.name, step.failure_message)
        }),
        ..pb::Failure::default()
    });
    let begun = row.start_time.unwrap_or(row.create_time);
    pb::TaskResult {
        output_bytes: i64::try_from(chain.final_output.len()).unwrap_or(i64::MAX),
        output: chain.final_output.clone(),
        success: state == State::Succeeded,
        cost_microdollars: chain.total_cost_microdollars,
        duration: prost_types::Duration::try_from(now.since(begun)).ok(),
        failure,
        git: isolation::latest(ended),
        cost_estimated: ended.iter().any(|step| step.task.cost_estimated),
        usage: usage(ended),
        chain: Some(chain),
        ..pb::TaskResult::default()
    }
}
