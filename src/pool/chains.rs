//! Chains: tasks that follow each other.
//!
//! A step is an ordinary task. When one ends for good, what follows (the next
//! step, its recovery, the chain's end) is committed in the same transaction,
//! so that no crash falls between.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::inner::Inner;
use super::submit::{self, Made};
use super::{Pool, admission};
use crate::chain::{self, Arguments, Ending, Next, Outcome, StepEnd};
use crate::error::{Error, Missing};
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::pb::{self, FailureReason, RequeueReason};
use crate::store::{Filter, Parts, Query, StoreError};
use crate::task::apply::{self, Requeue};
use crate::task::apply_chain::{ChainEvent, apply_chain};
use crate::task::settings::merge;
use crate::task::{Change, RANK_CHAIN, Record, Spec, State, Task, TaskEvent};

/// Most chains of one call.
const CHAINS_MAX: usize = 1_000;
/// Wait before the first retry of a step that names none.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait before a retry.
const BACKOFF_MAX: Duration = Duration::from_secs(3600);

/// Chains that a call wants.
struct Wish<'a> {
    caller: &'a CallerId,
    options: pb::ChainOptions,
    request: Option<RequestId>,
    fingerprint: [u8; 32],
    group: bool,
}

impl Pool {
    /// Makes a chain durable.
    pub async fn submit_chain(
        &self,
        steps: Vec<pb::ChainStep>,
        options: Option<pb::ChainOptions>,
        request: Option<RequestId>,
    ) -> Result<TaskId, Error> {
        let call = pb::SubmitChainRequest {
            steps,
            options,
            request_id: String::new(),
        };
        let fingerprint = fingerprint(b"chain", &call);
        if let Some(made) = submit::earlier(&self.inner, &self.caller, request, fingerprint).await?
        {
            return first(&made);
        }
        let spec = self.expand_chain(&call.steps, "steps", &mut None).await?;
        let wish = Wish {
            caller: &self.caller,
            options: call.options.unwrap_or_default(),
            request,
            fingerprint,
            group: false,
        };
        first(&make(&self.inner, wish, vec![("steps".to_owned(), spec)]).await?)
    }

    /// Makes many chains durable, all or none; ids in the order given.
    pub async fn fan_out_chains(
        &self,
        chains: Vec<pb::ChainRequest>,
        options: Option<pb::ChainOptions>,
        request: Option<RequestId>,
    ) -> Result<(GroupId, Vec<TaskId>), Error> {
        let call = pb::FanOutChainsRequest {
            chains,
            options,
            request_id: String::new(),
        };
        let fingerprint = fingerprint(b"chains", &call);
        let earlier = submit::earlier(&self.inner, &self.caller, request, fingerprint).await?;
        let made = match earlier {
            Some(made) => made,
            None => {
                if !(1..=CHAINS_MAX).contains(&call.chains.len()) {
                    return Err(Error::invalid(
                        "chains",
                        format!("must be 1 to {CHAINS_MAX}"),
                    ));
                }
                let mut room = None;
                let mut specs = Vec::with_capacity(call.chains.len());
                for (i, chain) in call.chains.iter().enumerate() {
                    let path = format!("chains[{i}].steps");
                    let spec = self.expand_chain(&chain.steps, &path, &mut room).await?;
                    specs.push((path, spec));
                }
                let wish = Wish {
                    caller: &self.caller,
                    options: call.options.unwrap_or_default(),
                    request,
                    fingerprint,
                    group: true,
                };
                make(&self.inner, wish, specs).await?
            }
        };
        let group = made.group.ok_or(Error::RequestIdReused)?;
        Ok((group, made.tasks))
    }

    /// Expands a workflow and makes the chain durable.
    pub async fn submit_workflow(
        &self,
        name: &str,
        arguments: Arguments,
        options: Option<pb::ChainOptions>,
        request: Option<RequestId>,
    ) -> Result<TaskId, Error> {
        let call = pb::SubmitWorkflowRequest {
            name: name.to_owned(),
            arguments,
            options,
            request_id: String::new(),
        };
        let fingerprint = fingerprint(b"workflow", &call);
        if let Some(made) = submit::earlier(&self.inner, &self.caller, request, fingerprint).await?
        {
            return first(&made);
        }
        let spec = self.expand_workflow(name, &call.arguments).await?;
        let wish = Wish {
            caller: &self.caller,
            options: call.options.unwrap_or_default(),
            request,
            fingerprint,
            group: false,
        };
        first(&make(&self.inner, wish, vec![("steps".to_owned(), spec)]).await?)
    }

    /// Cancels a chain: after its current step, or with it (`now`).
    pub async fn cancel_chain(&self, id: TaskId, now: bool) -> Result<(), Error> {
        let chain = self.own(id, Parts::ROW).await?.task;
        if !chain.is_chain() {
            return Err(Error::invalid("task_id", "is no chain"));
        }
        match self
            .inner
            .change(id, || TaskEvent::Cancel { by: "caller" })
            .await?
        {
            Ok(_) => cancel_steps(&self.inner, id, now).await,
            Err(conflict) => Err(Error::TaskFinished(conflict.state)),
        }
    }

    /// Makes a new chain from one that has ended, with the same steps.
    pub(super) async fn retry_chain(
        &self,
        record: &Record,
        request: Option<RequestId>,
    ) -> Result<TaskId, Error> {
        let spec = record.spec.clone().unwrap_or_default();
        let plan = spec.chain.clone().unwrap_or_default();
        let fingerprint = fingerprint(b"retry", &plan);
        if let Some(made) = submit::earlier(&self.inner, &self.caller, request, fingerprint).await?
        {
            return first(&made);
        }
        let received = spec.received.clone();
        let wish = Wish {
            caller: &self.caller,
            options: pb::ChainOptions {
                settings: received.settings,
                working_dir: received.working_dir,
                isolation: received.isolation,
                tags: received.tags,
                recovery: received.recovery,
            },
            request,
            fingerprint,
            group: false,
        };
        first(&make(&self.inner, wish, vec![("steps".to_owned(), plan)]).await?)
    }
}

fn first(made: &Made) -> Result<TaskId, Error> {
    made.tasks
        .first()
        .copied()
        .ok_or(Error::NotFound(Missing::DeletedTask))
}

fn fingerprint(kind: &[u8], call: &impl Message) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(kind);
    hash.update(call.encode_to_vec());
    hash.finalize().into()
}

async fn make(
    inner: &Arc<Inner>,
    wish: Wish<'_>,
    chains: Vec<(String, pb::ChainSpec)>,
) -> Result<Made, Error> {
    submit::may_take(inner, i64::try_from(chains.len()).unwrap_or(i64::MAX))?;
    let group = wish.group.then(GroupId::new);
    let mut changes = Vec::new();
    let mut tasks = Vec::new();
    let mut budget = Microdollars::ZERO;
    for (place, (path, spec)) in chains.into_iter().enumerate() {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let made = one(inner, &wish, group, place, &path, spec).await?;
        budget = budget.max(made.budget);
        tasks.push(made.chain);
        changes.extend(made.changes);
    }
    submit::may_afford(inner, budget).await?;
    let request = submit::remember(
        inner,
        wish.caller,
        wish.request.map(|id| (id, wish.fingerprint)),
        tasks.first().copied(),
        group,
    );
    match inner.commit(request, changes).await {
        Ok(_) => Ok(Made {
            tasks,
            group,
            now: true,
        }),
        Err(StoreError::RequestExists(made)) => {
            submit::repeat(inner, *made, wish.fingerprint).await
        }
        Err(error) => Err(error.into()),
    }
}

struct One {
    chain: TaskId,
    changes: Vec<Change>,
    /// The most that one of its steps may cost.
    budget: Microdollars,
}

/// A chain and its first step.
async fn one(
    inner: &Inner,
    wish: &Wish<'_>,
    group: Option<GroupId>,
    place: u32,
    path: &str,
    spec: pb::ChainSpec,
) -> Result<One, Error> {
    let now = inner.now();
    let options = &wish.options;
    let received = pb::TaskSpec {
        input: None,
        settings: options.settings.clone(),
        working_dir: options.working_dir.clone(),
        isolation: options.isolation,
        conversation: None,
        tags: options.tags.clone(),
        recovery: options.recovery,
    };
    let mut budget = Microdollars::ZERO;
    let mut effective = None;
    for (i, step) in spec.steps.iter().enumerate() {
        // Every step is held against limits and policy now, not when it runs.
        let task = step_spec(&received, step, "x".to_owned());
        let admitted = admission::admit(&task, &format!("{path}[{i}]."), &inner.options)?;
        budget = budget.max(admitted.budget);
        effective.get_or_insert(admitted.effective);
    }
    inner.roots.admit(&received.working_dir, "options.").await?;
    let mut chain = submit::new_task(wish.caller, now);
    chain.tags.clone_from(&options.tags);
    chain.rank = RANK_CHAIN;
    chain.group = group;
    chain.place = place;
    chain.request = wish.request;
    let id = chain.id;
    let spec = Arc::new(Spec {
        received,
        effective: effective.unwrap_or_default(),
        chain: Some(spec),
    });
    let mut changes = advance(inner, &chain, &spec, &[], 0)?;
    let submitted = apply::submit(chain, Arc::clone(&spec));
    // What follows is the chain's own end only if no step can begin.
    let own = changes.iter().position(|change| change.task.id == id);
    let submitted = match own {
        Some(at) => submitted.then(changes.swap_remove(at)),
        None => submitted,
    };
    changes.insert(0, submitted);
    Ok(One {
        chain: id,
        changes,
        budget,
    })
}

/// What a step's task is asked.
fn step_spec(chain: &pb::TaskSpec, step: &pb::ChainStep, prompt: String) -> pb::TaskSpec {
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
    let mut ended: Vec<Record> = steps(inner, id, Parts::RESULT).await?;
    ended.retain(|record| record.task.state.is_end() && record.task.id != step.task.id);
    let before = ended.len();
    ended.push(Record {
        task: step.task.clone(),
        spec: None,
        result: step.result.clone(),
    });
    advance(inner, &chain.task, &spec, &ended, before)
        .map_err(|error| StoreError::Unavailable(error.to_string()))
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

/// What follows when the tasks in `ended` have ended; the first `before` of
/// them had before.
fn advance(
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
    let end = match standing.next {
        Next::Run {
            step_index, prompt, ..
        } => {
            let step = plan
                .steps
                .get(step_index)
                .ok_or(Error::Internal("no such step".into()))?;
            changes.push(step_task(inner, chain, spec, step_index, step, prompt)?);
            None
        }
        Next::End(ending) => {
            let state = match ending {
                Ending::Succeeded => State::Succeeded,
                Ending::Failed => State::Failed,
                Ending::Cancelled => State::Cancelled,
            };
            let result = chain::result(plan, &ends, state == State::Cancelled, limit);
            Some((state, task_result(state, result, chain, now)))
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

/// The task of a step that is to run.
fn step_task(
    inner: &Inner,
    chain: &Task,
    spec: &Spec,
    index: usize,
    step: &pb::ChainStep,
    prompt: String,
) -> Result<Change, Error> {
    let received = step_spec(&spec.received, step, prompt);
    let admitted = admission::admit(&received, "", &inner.options)?;
    let now = inner.now();
    let mut task = submit::new_task(&chain.caller, now);
    task.parent = Some(chain.id);
    task.place = u32::try_from(index).unwrap_or(u32::MAX);
    // A chain that has begun goes before work that has not.
    task.rank = u8::from(index == 0 && chain.start_time.is_none());
    task.budget = admitted.budget;
    task.recovery = admitted.recovery;
    task.queue_deadline = admitted.queue_timeout.map(|wait| now.after(wait));
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
        output: result.output.as_str().into(),
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

fn task_result(
    state: State,
    chain: pb::ChainResult,
    row: &Task,
    now: crate::clock::Timestamp,
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
        chain: Some(chain),
        ..pb::TaskResult::default()
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
        cost: outcome.cost,
        estimated: outcome.estimated,
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

/// Deletes the steps of a chain that has ended.
pub(super) async fn delete_steps(inner: &Inner, chain: TaskId) -> Result<(), Error> {
    for record in steps(inner, chain, Parts::ROW).await? {
        match inner
            .store
            .delete(record.task.id, record.task.version)
            .await
        {
            // Deleted by another call meanwhile.
            Ok(()) | Err(StoreError::Conflict) => inner.hub.deleted(record.task.id),
            Err(error) => return Err(error.into()),
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
