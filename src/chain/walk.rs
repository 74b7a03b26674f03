//! What one step comes to, from its tasks and the steps before it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::next::{Ending, Outcome, StepEnd};
use super::template::{Expanded, Reference};
use super::{STEP_OUTPUT_BYTES_MAX, beginning, variables};
use crate::money::Microdollars;
use crate::pb::{self, FailureReason, chain_step::Action};

/// Most bytes of a failure's message, wherever it goes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What one step comes to.
pub(super) enum Step {
    /// It, or its recovery, is to be run.
    Run { recovery: bool, prompt: String },
    /// It would be run, were the chain not cancelled.
    NeverRun,
    /// It ended; with `ending`, the chain with it.
    Ended {
        result: pb::StepResult,
        ending: Option<Ending>,
    },
}

/// A step that succeeded, for those that refer to it.
struct Past<'a> {
    name: &'a str,
    output: &'a str,
    variables: BTreeMap<String, String>,
}

struct Fault {
    reason: FailureReason,
    message: String,
}

/// What one task of a step, or the lack of it, means.
enum Run<'a> {
    Due(String),
    Good(&'a StepEnd, BTreeMap<String, String>),
    Bad(Fault),
    Cancelled,
}

/// Goes through a chain's steps in order; what each gave is for the later ones.
pub(super) struct Walk<'a> {
    spec: &'a pb::ChainSpec,
    ended: &'a [StepEnd],
    cancelling: bool,
    limit: usize,
    past: Vec<Past<'a>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        spec: &'a pb::ChainSpec,
        ended: &'a [StepEnd],
        cancelling: bool,
        limit: usize,
    ) -> Self {
        Self {
            spec,
            ended,
            cancelling,
            limit,
            past: Vec::new(),
        }
    }

    /// What the next step comes to. Steps are asked for in order, each once.
    pub(super) fn step(&mut self, index: usize) -> Step {
        let step = &self.spec.steps[index];
        let begun = |recovery| self.end(index, recovery).is_some();
        if self.cancelling && !begun(false) && !begun(true) {
            return Step::NeverRun;
        }
        let (recovery, fault) = match self.run(index, None) {
            Run::Due(prompt) => {
                return Step::Run {
                    recovery: false,
                    prompt,
                };
            }
            Run::Good(end, variables) => return self.succeeded(index, end, variables),
            Run::Cancelled => return self.cancelled(index),
            Run::Bad(fault) => (recovery_prompt(step), fault),
        };
        if recovery.is_empty() {
            return self.failed(index, fault);
        }
        match self.run(index, Some(&fault)) {
            Run::Due(_) if self.cancelling => self.failed(index, fault),
            Run::Due(prompt) => Step::Run {
                recovery: true,
                prompt,
            },
            Run::Good(end, variables) => self.succeeded(index, end, variables),
            Run::Cancelled => self.cancelled(index),
            Run::Bad(second) => {
                let message = format!(
                    "{}; the recovery prompt was tried because of: {}",
                    second.message, fault.message
                );
                self.failed(
                    index,
                    Fault {
                        reason: second.reason,
                        message,
                    },
                )
            }
        }
    }

    /// A step's run, or with the fault of that, its recovery's.
    fn run(&self, index: usize, fault: Option<&Fault>) -> Run<'a> {
        let recovery = fault.is_some();
        let Some(end) = self.end(index, recovery) else {
            return match self.prompt(index, fault) {
                Ok(prompt) => Run::Due(prompt),
                Err(fault) => Run::Bad(fault),
            };
        };
        match &end.outcome {
            Outcome::Cancelled => Run::Cancelled,
            Outcome::Failed { reason, message } => Run::Bad(Fault {
                reason: *reason,
                message: beginning(message, MESSAGE_BYTES_MAX).to_owned(),
            }),
            Outcome::Succeeded => {
                let Some(output) = &end.output else {
                    return Run::Good(end, BTreeMap::new());
                };
                let wanted = &self.spec.steps[index].output_vars;
                match variables(wanted, end.structured.as_deref(), output) {
                    Ok(variables) => Run::Good(end, variables),
                    Err(message) => Run::Bad(Fault {
                        reason: FailureReason::Schema,
                        message,
                    }),
                }
            }
        }
    }

    fn succeeded(
        &mut self,
        index: usize,
        end: &'a StepEnd,
        variables: BTreeMap<String, String>,
    ) -> Step {
        self.past.push(Past {
            name: &self.spec.steps[index].name,
            output: text(end),
            variables,
        });
        Step::Ended {
            result: pb::StepResult {
                success: true,
                recovered: end.recovery,
                ..self.facts(index)
            },
            ending: None,
        }
    }

    fn failed(&self, index: usize, fault: Fault) -> Step {
        Step::Ended {
            result: pb::StepResult {
                failure_reason: fault.reason as i32,
                failure_message: beginning(&fault.message, 2 * MESSAGE_BYTES_MAX).to_owned(),
                ..self.facts(index)
            },
            ending: Some(Ending::Failed),
        }
    }

    fn cancelled(&self, index: usize) -> Step {
        Step::Ended {
            result: pb::StepResult {
                failure_message: "the step was cancelled".to_owned(),
                ..self.facts(index)
            },
            ending: Some(Ending::Cancelled),
        }
    }

    /// What holds however the step ended: sums over its tasks, the last one's
    /// text.
    fn facts(&self, index: usize) -> pb::StepResult {
        let ends: Vec<&StepEnd> = [false, true]
            .into_iter()
            .filter_map(|recovery| self.end(index, recovery))
            .collect();
        let last = ends.last();
        let output = last.map_or("", |end| text(end));
        let shown = beginning(output, STEP_OUTPUT_BYTES_MAX);
        let cost = ends
            .iter()
            .fold(Microdollars::ZERO, |sum, end| sum.saturating_add(end.cost));
        let duration: Duration = ends
            .iter()
            .fold(Duration::ZERO, |sum, end| sum.saturating_add(end.duration));
        let retries: u32 = ends
            .iter()
            .fold(0, |sum, end| sum.saturating_add(end.retries_used));
        pb::StepResult {
            name: self.spec.steps[index].name.clone(),
            step_index: number(index),
            task_id: last.map(|end| end.task.to_string()).unwrap_or_default(),
            output: shown.to_owned(),
            output_bytes: i64::try_from(output.len()).unwrap_or(i64::MAX),
            output_truncated: shown.len() < output.len(),
            cost_microdollars: cost.0,
            duration: last.and_then(|_| prost_types::Duration::try_from(duration).ok()),
            retries_used: i32::try_from(retries).unwrap_or(i32::MAX),
            ..pb::StepResult::default()
        }
    }

    fn end(&self, index: usize, recovery: bool) -> Option<&'a StepEnd> {
        self.ended
            .iter()
            .find(|end| end.step_index == index && end.recovery == recovery)
    }

    /// The prompt of a step, or with a fault, of its recovery.
    fn prompt(&self, index: usize, fault: Option<&Fault>) -> Result<String, Fault> {
        let step = &self.spec.steps[index];
        let template = template(step, fault.is_some());
        let places = self.spec.references.iter().filter_map(|place| {
            let here =
                usize::try_from(place.step_index) == Ok(index) && place.recovery == fault.is_some();
            here.then(|| range(place))?
        });
        let unusable = |message: String| Fault {
            reason: FailureReason::InvalidRequest,
            message,
        };
        let prompt = Expanded::from_parts(template.to_owned(), places)
            .render(self.limit, |reference| self.value(reference, fault))
            .map_err(|e| unusable(format!("the step's prompt is too long: {e}")))?;
        if prompt.trim().is_empty() {
            return Err(unusable("the step's prompt is blank".to_owned()));
        }
        Ok(prompt)
    }

    fn value<'s>(
        &'s self,
        reference: Reference<'_>,
        fault: Option<&'s Fault>,
    ) -> Option<Cow<'s, str>> {
        let past = |name: &str| self.past.iter().find(|past| past.name == name);
        let value = match reference {
            Reference::PreviousOutput => self.past.last()?.output,
            Reference::Step(name) => past(name)?.output,
            Reference::Variable(name, variable) => past(name)?.variables.get(variable)?,
            Reference::Error => &fault?.message,
            Reference::Argument(_) => return None,
        };
        Some(Cow::Borrowed(value))
    }
}

/// What a step's task said, as far as it was read.
fn text(end: &StepEnd) -> &str {
    end.output.as_deref().unwrap_or_default()
}

/// A step's prompt, or its recovery's.
fn template(step: &pb::ChainStep, recovery: bool) -> &str {
    match &step.action {
        _ if recovery => recovery_prompt(step),
        Some(Action::Prompt(prompt)) => prompt,
        Some(Action::Skill(_)) | None => "",
    }
}

fn range(place: &pb::ChainReference) -> Option<Range<usize>> {
    let start = usize::try_from(place.offset).ok()?;
    let length = usize::try_from(place.length).ok()?;
    Some(start..start.checked_add(length)?)
}

/// What a place of a chain's prompts refers to.
pub(super) fn reference<'s>(
    spec: &'s pb::ChainSpec,
    place: &pb::ChainReference,
) -> Option<Reference<'s>> {
    let step = spec.steps.get(usize::try_from(place.step_index).ok()?)?;
    let inner = template(step, place.recovery).get(range(place)?)?;
    Reference::parse(inner.strip_prefix('{')?.strip_suffix('}')?)
}

fn recovery_prompt(step: &pb::ChainStep) -> &str {
    step.on_failure
        .as_ref()
        .map_or("", |policy| policy.recovery_prompt.as_str())
}

pub(super) fn number(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}
