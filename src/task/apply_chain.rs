//! What happens to a chain itself; its steps are ordinary tasks.

use std::sync::Arc;

use super::apply::{Conflict, cancelling};
use super::{Change, State, Task};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::money::Microdollars;
use crate::pb;
use crate::pb::event::Kind;

/// What happens to a chain.
#[derive(Clone, Debug)]
pub enum ChainEvent {
    /// A step's attempt began.
    StepStarted {
        /// Its place, from 0.
        index: u32,
        /// Its name.
        name: String,
        /// The task that runs it.
        task: TaskId,
    },
    /// Steps ended, and perhaps the chain with them.
    Advance {
        /// The steps that ended.
        steps: Vec<pb::StepResult>,
        /// How the chain ended, and what it gives.
        end: Option<(State, Box<pb::TaskResult>)>,
    },
    /// Somebody wants it to end; it does when its current step has ended.
    Cancel {
        /// Who.
        by: &'static str,
    },
}

/// What `event` does to a chain. `None`: it is so already.
pub fn apply_chain(
    chain: &Task,
    event: ChainEvent,
    now: Timestamp,
) -> Result<Option<Change>, Conflict> {
    let conflict = Conflict { state: chain.state };
    match (chain.state, event) {
        (State::Queued | State::Running, ChainEvent::Cancel { by }) => {
            Ok(Some(cancelling(chain, by)))
        }
        (State::Cancelling | State::Cancelled, ChainEvent::Cancel { .. }) => Ok(None),
        (
            State::Queued | State::Running | State::Cancelling,
            ChainEvent::StepStarted { index, name, task },
        ) => {
            let mut change = Change::of(chain);
            let row = &mut change.task;
            if row.state == State::Queued {
                row.state = State::Running;
            }
            row.start_time.get_or_insert(now);
            change.events.push(Kind::StepStarted(pb::StepStarted {
                step_index: i32::try_from(index).unwrap_or(i32::MAX),
                name,
                task_id: task.to_string(),
            }));
            Ok(Some(change))
        }
        (
            State::Queued | State::Running | State::Cancelling,
            ChainEvent::Advance { steps, end },
        ) => {
            let mut change = Change::of(chain);
            let booked = &mut change.task.cost;
            *booked = steps.iter().fold(*booked, |sum, step| {
                sum.saturating_add(Microdollars(step.cost_microdollars))
            });
            let finished = steps.into_iter().map(|result| {
                Kind::StepFinished(pb::StepFinished {
                    result: Some(result),
                })
            });
            change.events.extend(finished);
            if let Some((state, result)) = end {
                change.task.state = state;
                change.task.cost_estimated = result.cost_estimated;
                change.task.end_time = Some(now);
                change.events.push(Kind::Finished(pb::Finished {
                    state: state.to_proto() as i32,
                    result: Some(pb::TaskResult::clone(&result)),
                    process_origin: pb::ProcessOrigin::Unspecified as i32,
                }));
                change.result = Some(Arc::from(result));
            }
            Ok(Some(change))
        }
        (State::Succeeded | State::Failed | State::Cancelled | State::Skipped, _) => Err(conflict),
    }
}
