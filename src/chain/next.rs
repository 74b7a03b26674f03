//! What follows a step.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::template::Reference;
use super::walk::{Step, Walk, number, reference};
use crate::id::TaskId;
use crate::money::Microdollars;
use crate::pb::{self, FailureReason};

/// How a step's task ended for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Succeeded,
    /// With a failure.
    Failed {
        /// The machine's word.
        reason: FailureReason,
        /// One sentence: what `{error}` stands for.
        message: String,
    },
    /// At the caller's wish.
    Cancelled,
}

/// One task of a chain that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepEnd {
    /// The step, from 0.
    pub step_index: usize,
    /// Whether it ran the recovery prompt.
    pub recovery: bool,
    /// The task.
    pub task: TaskId,
    /// How it ended.
    pub outcome: Outcome,
    /// Its whole final text. `None`: it was not read, as [`needs`] allows.
    pub output: Option<Arc<str>>,
    /// Its structured output as JSON text; `None` without a schema.
    pub structured: Option<Arc<str>>,
    /// Cost of all its attempts.
    pub cost: Microdollars,
    /// How long its attempts ran, all told.
    pub duration: Duration,
    /// Further attempts it took.
    pub retries_used: u32,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A step is to be run.
    Run {
        /// The step, from 0.
        step_index: usize,
        /// Whether it is its recovery.
        recovery: bool,
        /// What the agent is given.
        prompt: String,
    },
    /// Nothing: the chain has ended.
    End(Ending),
}

/// How a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every step succeeded.
    Succeeded,
    /// A step failed.
    Failed,
    /// Cancelled.
    Cancelled,
}

/// Where a chain is.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The steps that ended, in order. A step whose recovery is still to run
    /// has not ended.
    pub steps: Vec<pb::StepResult>,
    /// What follows.
    pub next: Next,
}

/// The steps whose whole texts decide what follows when one has ended: itself,
/// and those that its recovery prompt and the next step's prompts refer to. Of
/// any other it is known that it succeeded, and its text is wanted only when the
/// chain ends.
pub fn needs(spec: &pb::ChainSpec, ended: usize) -> BTreeSet<usize> {
    let mut needed = BTreeSet::from([ended]);
    for place in &spec.references {
        let Ok(at) = usize::try_from(place.step_index) else {
            continue;
        };
        if !(ended..=ended + 1).contains(&at) {
            continue;
        }
        match reference(spec, place) {
            Some(Reference::PreviousOutput) => needed.extend(at.checked_sub(1)),
            Some(Reference::Step(name) | Reference::Variable(name, _)) => {
                needed.extend(spec.steps.iter().position(|step| step.name == name));
            }
            Some(Reference::Error | Reference::Argument(_)) | None => {}
        }
    }
    needed
}

/// What follows the steps that ended; see [`standing`].
pub fn next(spec: &pb::ChainSpec, ended: &[StepEnd], cancelling: bool, limit: usize) -> Next {
    standing(spec, ended, cancelling, limit).next
}

/// Where a chain is, given the tasks that ended, in any order.
///
/// `cancelling` says that a cancel was accepted: then nothing more is run, and
/// the end is CANCELLED even if the last step had begun and succeeded. `limit`
/// is the longest prompt in bytes; a step whose prompt would be longer, or is
/// blank once filled in, fails without a task.
///
/// Each step is asked for at most once, and its recovery at most once, so a
/// chain of n steps ends after at most 2n tasks.
pub fn standing(
    spec: &pb::ChainSpec,
    ended: &[StepEnd],
    cancelling: bool,
    limit: usize,
) -> Standing {
    let mut walk = Walk::new(spec, ended, cancelling, limit);
    let mut steps = Vec::new();
    for index in 0..spec.steps.len() {
        match walk.step(index) {
            Step::Run { recovery, prompt } => {
                return Standing {
                    steps,
                    next: Next::Run {
                        step_index: index,
                        recovery,
                        prompt,
                    },
                };
            }
            Step::NeverRun => {
                return Standing {
                    steps,
                    next: Next::End(Ending::Cancelled),
                };
            }
            Step::Ended { result, ending } => {
                steps.push(result);
                if let Some(ending) = ending {
                    return Standing {
                        steps,
                        next: Next::End(if cancelling {
                            Ending::Cancelled
                        } else {
                            ending
                        }),
                    };
                }
            }
        }
    }
    Standing {
        steps,
        next: Next::End(if cancelling {
            Ending::Cancelled
        } else {
            Ending::Succeeded
        }),
    }
}

/// What a chain that has ended gives: every step in order, those that never
/// ran as skipped.
pub fn result(
    spec: &pb::ChainSpec,
    ended: &[StepEnd],
    cancelled: bool,
    limit: usize,
) -> pb::ChainResult {
    let now = standing(spec, ended, cancelled, limit);
    let mut steps = match now.next {
        // It ended for another reason: the recovery will not come any more.
        Next::Run { recovery: true, .. } => standing(spec, ended, true, limit).steps,
        Next::Run { .. } | Next::End(_) => now.steps,
    };
    for (index, step) in spec.steps.iter().enumerate().skip(steps.len()) {
        steps.push(pb::StepResult {
            name: step.name.clone(),
            step_index: number(index),
            skipped: true,
            ..pb::StepResult::default()
        });
    }
    pb::ChainResult {
        final_output: steps
            .iter()
            .rfind(|s| s.success)
            .map(|s| s.output.clone())
            .unwrap_or_default(),
        total_cost_microdollars: steps
            .iter()
            .fold(0, |sum: i64, s| sum.saturating_add(s.cost_microdollars)),
        success: steps.iter().all(|s| s.success),
        steps,
    }
}

#[cfg(test)]
mod tests;
