//! Chains: tasks that follow each other.
//!
//! A step is an ordinary task. When one ends for good, what follows (the next
//! step, its recovery, the chain's end) is committed in the same transaction,
//! so that no crash falls between.

use std::sync::Arc;

use super::chain_steps::{advance, cancel_steps, step_spec};
use super::inner::Inner;
use super::submit::{self, Made};
use super::{Pool, admission, fingerprint, isolation};
use crate::chain::Arguments;
use crate::error::Error;
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::pb;
use crate::store::{Parts, StoreError};
use crate::task::apply;
use crate::task::{Change, RANK_CHAIN, Record, Spec, Task, TaskEvent};
use crate::trace::TraceContext;

/// Most chains of one call.
const CHAINS_MAX: usize = 1_000;

/// Chains that a call wants.
struct Wish<'a> {
    caller: &'a CallerId,
    trace: Option<&'a TraceContext>,
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
        let fingerprint = fingerprint::of_call(b"chain", &call);
        if let Some(made) = submit::earlier(&self.inner, &self.caller, request, fingerprint).await?
        {
            return made.first();
        }
        let spec = self.expand_chain(&call.steps, "steps", &mut None).await?;
        let wish = Wish {
            caller: &self.caller,
            trace: self.trace.as_ref(),
            options: call.options.unwrap_or_default(),
            request,
            fingerprint,
            group: false,
        };
        let made = make(&self.inner, wish, vec![("steps".to_owned(), spec)]).await?;
        made.first()
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
        let fingerprint = fingerprint::of_call(b"chains", &call);
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
                    trace: self.trace.as_ref(),
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
        let fingerprint = fingerprint::of_call(b"workflow", &call);
        if let Some(made) = submit::earlier(&self.inner, &self.caller, request, fingerprint).await?
        {
            return made.first();
        }
        let spec = self.expand_workflow(name, &call.arguments).await?;
        let wish = Wish {
            caller: &self.caller,
            trace: self.trace.as_ref(),
            options: call.options.unwrap_or_default(),
            request,
            fingerprint,
            group: false,
        };
        let made = make(&self.inner, wish, vec![("steps".to_owned(), spec)]).await?;
        made.first()
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
        let received = spec.received.clone();
        let wish = Wish {
            caller: &self.caller,
            trace: self.trace.as_ref(),
            options: pb::ChainOptions {
                settings: received.settings,
                working_dir: received.working_dir,
                isolation: received.isolation,
                tags: received.tags,
                recovery: received.recovery,
                node_label: received.node_label,
            },
            request,
            fingerprint: fingerprint::of_retry(record.task.id),
            group: false,
        };
        let made = make(&self.inner, wish, vec![("steps".to_owned(), plan)]).await?;
        made.first()
    }
}

async fn make(
    inner: &Arc<Inner>,
    wish: Wish<'_>,
    chains: Vec<(String, pb::ChainSpec)>,
) -> Result<Made, Error> {
    let _coming = submit::may_take(inner, wish.caller, chains.len())?;
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
            heard: None,
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
    let dir = inner.roots.admit(&options.working_dir, "options.").await?;
    let mut received = pb::TaskSpec {
        input: None,
        settings: options.settings.clone(),
        working_dir: options.working_dir.clone(),
        isolation: options.isolation,
        conversation: None,
        tags: options.tags.clone(),
        recovery: options.recovery,
        node_label: options.node_label.clone(),
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
    match received.isolation() {
        // Decided now, so that every step does the same.
        pb::Isolation::Unspecified => {
            received.isolation = isolation::default_of_chain(inner, &dir).await? as i32;
        }
        _ => isolation::admit(inner, &received, &dir, "options.").await?,
    }
    let mut chain = Task::new(wish.caller, now);
    chain.tags.clone_from(&options.tags);
    chain.rank = RANK_CHAIN;
    chain.group = group;
    chain.place = place;
    chain.request = wish.request;
    chain.trace = wish.trace.cloned();
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
