//! The steps of chains: what follows when one ends, and when one is tried again.

mod result;

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::inner::Inner;
use super::{admission, isolation};
use crate::chain::{self, Ending, Next, Outcome, StepEnd};
use crate::error::Error;
use crate::id::TaskId;
use crate::pb::{self, FailureReason, RequeueReason};
use crate::store::{Filter, Parts, Query, StoreError};
use crate::task::apply::{self, Requeue};
use crate::task::apply_chain::{ChainEvent, apply_chain};
use crate::task::settings::merge;
use crate::task::{Change, Record, Spec, State, Task, TaskEvent};

/// Wait before the first retry of a step that names none.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait before a retry.
const BACKOFF_MAX: Duration = Duration::from_secs(3600);

/// What a step's task is asked.
pub(super) fn step_spec(
    chain: &pb::TaskSpec,
    step: &pb::ChainStep,
    prompt: String,
) -> pb::TaskSpec {
    let base = chain.settings.clone().unwrap_or_default();
    let settings = merge(&base, &step.settings.clone().unwrap_or_default());
    pb::TaskSpec {
        input: Some(pb::task_spec::Input::Prompt(prompt)),
        settings: Some(settings),
        tags: Vec::new(),
        ..chain.clone()
    }
}

/// What the end of a step's task brings with it, to be committed with it.
pub(super) async fn follow(inner: &Inner, step: &Change) -> Result<Vec<Change>, StoreError> {
    let Some(id) = step.task.parent.filter(|_| step.task.state.is_end()) else {
        return Ok(Vec::new());
    };
    let Some(chain) = inner.store.record(id, Parts::ALL).await? else {
        return Ok(Vec::new());
    };
    let Some(spec) = chain.spec.filter(|_| !chain.task.state.is_end()) else {
        return Ok(Vec::new());
    };
    if chain.task.level > inner.level && chain.task.state != State::Cancelling {
        // Nothing here ends such a step: see `TaskEvent::CancelElsewhere`.
        let unknown = "what follows in this chain is known to newer servers only";
        return Err(StoreError::Unavailable(unknown.to_owned()));
    }
    let last = Record {
        task: step.task.clone(),
        spec: None,
        result: step.result.clone(),
    };
    let needed = (spec.chain.as_ref()).map(|plan| chain::needs(plan, step.task.place as usize));
    let needed = needed.unwrap_or_default();
    let earlier = |parts| async move {
        let mut earlier = steps(inner, id, parts).await?;
        earlier.retain(|record| record.task.state.is_end() && record.task.id != step.task.id);
        Ok::<_, StoreError>(earlier)
    };
    let what_follows = |mut ended: Vec<Record>| {
        let before = ended.len();
        ended.push(last.clone());
        advance(inner, &chain.task, &spec, &ended, before)
            .map_err(|error| StoreError::Unavailable(error.to_string()))
    };
    let mut ended = earlier(Parts::ROW).await?;
    for record in &mut ended {
        if needed.contains(&(record.task.place as usize)) {
            let whole = inner.store.record(record.task.id, Parts::RESULT).await?;
            record.result = whole.and_then(|whole| whole.result);
        }
    }
    let changes = what_follows(ended)?;
    match changes
        .iter()
        .any(|change| change.task.id == id && change.task.state.is_end())
    {
        false => Ok(changes),
        // What the chain gives tells of every step.
        true => what_follows(earlier(Parts::RESULT).await?),
    }
}

/// The tasks of a chain's steps, in order of their making.
async fn steps(inner: &Inner, chain: TaskId, parts: Parts) -> Result<Vec<Record>, StoreError> {
    let query = Query {
        filter: Filter {
            parent: Some(chain),
            ..Filter::default()
        },
        before: None,
        // Each step runs at most once, and its recovery at most once.
        limit: 2 * chain::STEPS_MAX,
        parts,
    };
    let mut steps = inner.store.list(&query).await?;
    steps.reverse();
    Ok(steps)
}

/// The last ref that a chain's steps have left, so that the next goes on from it.
pub(super) async fn last_ref(inner: &Inner, chain: TaskId) -> Result<Option<String>, StoreError> {
    for step in steps(inner, chain, Parts::ROW).await?.iter().rev() {
        let whole = inner.store.record(step.task.id, Parts::RESULT).await?;
        if let Some(git) = isolation::latest(whole.as_slice()) {
            return Ok(Some(git.r#ref));
        }
    }
    Ok(None)
}

/// What follows when the tasks in `ended` have ended; the first `before` of
/// them had before.
pub(super) fn advance(
    inner: &Inner,
    chain: &Task,
    spec: &Spec,
    ended: &[Record],
    before: usize,
) -> Result<Vec<Change>, Error> {
    let Some(plan) = &spec.chain else {
        return Ok(Vec::new());
    };
    let now = inner.now();
    let limit = inner.options.policy.prompt_bytes_max;
    let cancelling = chain.state == State::Cancelling;
    let ends: Vec<StepEnd> = ended
        .iter()
        .enumerate()
        .map(|(i, r)| step_end(r, &ended[..i]))
        .collect();
    let told = match before {
        0 => 0,
        _ => chain::standing(plan, &ends[..before], false, limit)
            .steps
            .len(),
    };
    let standing = chain::standing(plan, &ends, cancelling, limit);
    let finished = standing.steps.get(told..).unwrap_or_default().to_vec();
    let mut changes = Vec::new();
    let end_as = |state: State| {
        let whole = chain::result(plan, &ends, state == State::Cancelled, limit);
        result::task_result(state, whole, chain, ended, now)
    };
    let end = match standing.next {
        Next::Run {
            step_index, prompt, ..
        } => {
            let step = plan
                .steps
                .get(step_index)
                .ok_or(Error::Internal("no such step".into()))?;
            let last = ended.last().map(|record| &record.task);
            match step_task(inner, chain, spec, last, (step_index, step, prompt)) {
                Ok(task) => {
                    changes.push(task);
                    None
                }
                // It was accepted, and the operator's policy is another since.
                Err(error) => {
                    let mut result = end_as(State::Failed);
                    if let Some(failure) = &mut result.failure {
                        failure.message = format!("step {} may not run: {error}", step.name);
                    }
                    Some((State::Failed, Box::new(result)))
                }
            }
        }
        Next::End(ending) => {
            let state = match ending {
                Ending::Succeeded => State::Succeeded,
                Ending::Failed => State::Failed,
                Ending::Cancelled => State::Cancelled,
            };
            Some((state, Box::new(end_as(state))))
        }
    };
    if !finished.is_empty() || end.is_some() {
        let event = ChainEvent::Advance {
            steps: finished,
            end,
        };
        let change = apply_chain(chain, event, now);
        changes.extend(change.map_err(|conflict| Error::TaskFinished(conflict.state))?);
    }
    Ok(changes)
}

/// The label that a node must carry to run a task, if it asks for one.
pub(super) fn node_label(spec: &pb::TaskSpec) -> Option<String> {
    Some(spec.node_label.clone()).filter(|label| !label.is_empty())
}

/// The task of a step that is to run.
fn step_task(
    inner: &Inner,
    chain: &Task,
    spec: &Spec,
    last: Option<&Task>,
    (index, step, prompt): (usize, &pb::ChainStep, String),
) -> Result<Change, Error> {
    let received = step_spec(&spec.received, step, prompt);
    let admitted = admission::admit(&received, "", &inner.options)?;
    let now = inner.now();
    let mut task = Task::new(&chain.caller, now);
    task.parent = Some(chain.id);
    task.level = chain.level;
    task.trace.clone_from(&chain.trace);
    task.place = u32::try_from(index).unwrap_or(u32::MAX);
    // A chain that has begun goes before work that has not.
    task.rank = u8::from(index == 0 && chain.start_time.is_none());
    task.budget = admitted.budget;
    task.recovery = admitted.recovery;
    task.saves_session = admitted.saves_session;
    task.queue_deadline = admitted.queue_timeout.map(|wait| now.after(wait));
    task.node_label = node_label(&received);
    if received.isolation() == pb::Isolation::Worktree {
        // What the step before has made is in a repository of its node.
        let lease = last.and_then(|last| last.lease.as_ref());
        task.home = lease.map(|lease| lease.node.clone());
    }
    let spec = Spec {
        received,
        effective: admitted.effective,
        chain: None,
    };
    Ok(apply::submit(task, Arc::new(spec)))
}

fn step_end(record: &Record, earlier: &[Record]) -> StepEnd {
    let task = &record.task;
    let result = record.result.clone().unwrap_or_default();
    let failure = result.failure.as_ref();
    StepEnd {
        step_index: task.place as usize,
        recovery: earlier.iter().any(|other| other.task.place == task.place),
        task: task.id,
        outcome: match task.state {
            State::Succeeded => Outcome::Succeeded,
            State::Cancelled | State::Skipped => Outcome::Cancelled,
            State::Failed | State::Queued | State::Running | State::Cancelling => Outcome::Failed {
                reason: failure.map_or(FailureReason::Unspecified, pb::Failure::reason),
                message: failure.map(|f| f.message.clone()).unwrap_or_default(),
            },
        },
        output: record
            .result
            .as_ref()
            .map(|result| result.output.as_str().into()),
        structured: (!result.structured_output_json.is_empty())
            .then(|| result.structured_output_json.as_str().into()),
        cost: task.cost,
        duration: result
            .duration
            .as_ref()
            .and_then(admission::duration)
            .unwrap_or_default(),
        retries_used: task.burnt,
    }
}

/// Notes in the chain's log that a step's attempt began.
pub(super) async fn step_started(inner: &Inner, step: &Task) {
    let Some(id) = step.parent else { return };
    loop {
        let noted = async {
            let Some(chain) = inner.store.record(id, Parts::ALL).await? else {
                return Ok(());
            };
            let plan = chain.spec.as_ref().and_then(|spec| spec.chain.as_ref());
            let name = plan.and_then(|plan| plan.steps.get(step.place as usize));
            let event = ChainEvent::StepStarted {
                index: step.place,
                name: name.map(|step| step.name.clone()).unwrap_or_default(),
                task: step.id,
            };
            match apply_chain(&chain.task, event, inner.now()) {
                Ok(Some(change)) => inner.commit(None, vec![change]).await.map(drop),
                Ok(None) | Err(_) => Ok(()),
            }
        };
        match noted.await {
            Err(StoreError::Conflict) => {}
            Err(error) => {
                // It is told again by the step's end.
                warn!(?error, "a step's begin was not noted");
                return;
            }
            Ok(()) => return,
        }
    }
}

/// Whether a failed attempt of a step is to be tried again: the event instead of
/// the task's end.
pub(super) async fn retry(
    inner: &Inner,
    step: &Task,
    outcome: &apply::Outcome,
) -> Option<TaskEvent> {
    let chain = inner.store.record(step.parent?, Parts::ALL).await.ok()??;
    if outcome.result.success || chain.task.state != State::Running {
        return None;
    }
    let plan = chain.spec.as_ref()?.chain.as_ref()?;
    let policy = plan.steps.get(step.place as usize)?.on_failure.as_ref()?;
    let tries = u32::try_from(policy.retries).unwrap_or(0);
    let siblings = steps(inner, chain.task.id, Parts::ROW).await.ok()?;
    let is_recovery = siblings
        .iter()
        .any(|r| r.task.place == step.place && r.task.id < step.id);
    if step.burnt >= tries || is_recovery {
        return None;
    }
    let first = policy
        .backoff
        .as_ref()
        .and_then(admission::duration)
        .unwrap_or(BACKOFF);
    let wait = first
        .saturating_mul(1 << step.burnt.min(16))
        .min(BACKOFF_MAX);
    let failure = outcome.result.failure.as_ref();
    Some(TaskEvent::Requeue(Requeue {
        attempt: outcome.attempt,
        reason: RequeueReason::Retry,
        burn: true,
        ready_time: inner.now().after(wait),
        bill: outcome.bill.clone(),
        failure_reason: failure.map_or(FailureReason::Unspecified, pb::Failure::reason),
        message: failure.map(|f| f.message.clone()).unwrap_or_default(),
    }))
}

/// Ends what a cancelled chain still has to run: a step that waits, and with
/// `now` also the one that runs. The chain ends with it.
pub(super) async fn cancel_steps(inner: &Inner, chain: TaskId, now: bool) -> Result<(), Error> {
    for record in steps(inner, chain, Parts::ROW).await? {
        let task = record.task;
        if task.state == State::Queued || (now && !task.state.is_end()) {
            // Ended meanwhile? Then the chain has moved on by itself.
            let _ = inner
                .change(task.id, || TaskEvent::Cancel { by: "chain" })
                .await?;
        }
    }
    Ok(())
}

/// Ends what chains that were being cancelled at a crash still had to run.
pub(super) async fn recover(inner: &Inner, cancelling: &[TaskId]) -> Result<(), Error> {
    for chain in cancelling {
        cancel_steps(inner, *chain, false).await?;
    }
    Ok(())
}
