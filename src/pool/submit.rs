//! From a call to durable tasks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::warn;

use super::admission::{self, Admitted};
use super::chain_steps;
use super::conversation;
use super::fingerprint;
use super::hold::Gate;
use super::inner::Inner;
use super::isolation;
use super::queue::Coming;
use super::scheduler;
use super::slot::Slot;
use crate::clock::Timestamp;
use crate::error::{Error, Missing};
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::pb;
use crate::store::{ClaimedTask, Request, StoreError};
use crate::stream::{Hub, Subscription};
use crate::task::apply::{Claim, submit};
use crate::task::{Change, Spec, Task, TaskEvent, apply};
use crate::trace::{self, TraceContext};

/// Most tasks of one fan-out.
pub const FAN_OUT_MAX: usize = 10_000;

/// What a call made, or had made before.
pub(super) struct Made {
    pub tasks: Vec<TaskId>,
    pub group: Option<GroupId>,
    /// Whether this very call made it.
    pub now: bool,
    /// What is heard of the one task since before it was made; `None`: nobody
    /// wished that, or a call before had made it.
    pub heard: Option<Subscription>,
}

/// What a caller is going to hear of its task.
pub(super) type Hear = fn(&Hub, TaskId) -> Subscription;

impl Made {
    /// The one task of a call that makes one.
    pub fn first(&self) -> Result<TaskId, Error> {
        let first = self.tasks.first().copied();
        let first = first.ok_or(Error::NotFound(Missing::DeletedTask))?;
        trace::about(first);
        Ok(first)
    }
}

/// How a call wants its tasks.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub request: Option<RequestId>,
    /// Whether the work ends when no caller is attached.
    pub attached: bool,
    /// Whether the specs are a fan-out.
    pub group: bool,
    /// The task that is done again: then it is what was asked for.
    pub again: Option<TaskId>,
    /// What its caller hears of a single task, from its first change on: then
    /// nothing of it has to be read from the store.
    pub hear: Option<Hear>,
    /// Whose trace they belong to.
    pub trace: Option<TraceContext>,
}

/// Makes tasks durable, all or none; a repeat of a request makes none.
pub(super) async fn make(
    inner: &Arc<Inner>,
    caller: &CallerId,
    specs: Vec<pb::TaskSpec>,
    wish: Wish,
) -> Result<Made, Error> {
    let fingerprint = wish.request.map(|_| fingerprint::of_wish(&specs, &wish));
    let known = fingerprint.unwrap_or_default();
    if let Some(made) = earlier(inner, caller, wish.request, known).await? {
        return Ok(made);
    }
    let _coming = may_take(inner, caller, specs.len())?;
    let new = admit(inner, caller, specs, &wish).await?;
    let now = inner.now();
    let group = wish.group.then(GroupId::new);
    let mut changes = Vec::with_capacity(new.len());
    for (place, (spec, admitted)) in new.into_iter().enumerate() {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        changes.push(first_change(
            caller, spec, admitted, &wish, group, place, now,
        ));
    }
    let tasks: Vec<TaskId> = changes.iter().map(|change| change.task.id).collect();
    let heard = match (wish.hear, tasks.as_slice()) {
        (Some(hear), [task]) => Some(hear(&inner.hub, *task)),
        _ => None,
    };
    let request = wish.request.zip(fingerprint);
    let request = remember(inner, caller, request, tasks.first().copied(), group);
    match commit(inner, request, changes).await {
        Ok(()) => Ok(Made {
            tasks,
            group,
            now: true,
            heard,
        }),
        Err(StoreError::RequestExists(made)) => {
            // The same call, at the same time, came first.
            repeat(inner, *made, known).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn admit(
    inner: &Inner,
    caller: &CallerId,
    specs: Vec<pb::TaskSpec>,
    wish: &Wish,
) -> Result<Vec<(pb::TaskSpec, Admitted)>, Error> {
    if !(1..=FAN_OUT_MAX).contains(&specs.len()) {
        return Err(Error::invalid(
            "tasks",
            format!("must be 1 to {FAN_OUT_MAX}"),
        ));
    }
    let mut new = Vec::with_capacity(specs.len());
    let mut wrong = Vec::new();
    for (i, spec) in specs.into_iter().enumerate() {
        let path = if wish.group {
            format!("tasks[{i}].")
        } else {
            "task.".to_owned()
        };
        match admission::admit(&spec, &path, &inner.options) {
            Ok(mut admitted) => {
                let dir = inner.roots.admit(&spec.working_dir, &path).await?;
                isolation::admit(inner, &spec, &dir, &path).await?;
                conversation::admit(inner, caller, &spec, &path, &mut admitted).await?;
                new.push((spec, admitted));
            }
            // Every wrong field of the call is told at once, up to a sane many.
            Err(Error::Invalid(violations)) if wrong.len() < 100 => wrong.extend(violations),
            Err(Error::Invalid(_)) => break,
            Err(error) => return Err(error),
        }
    }
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong));
    }
    let most = new.iter().map(|(_, admitted)| admitted.budget).max();
    may_afford(inner, most.unwrap_or_default()).await?;
    Ok(new)
}

/// Whether so much more work is taken now; to be kept until it is committed.
pub(super) fn may_take<'a>(
    inner: &'a Inner,
    caller: &CallerId,
    count: usize,
) -> Result<Coming<'a>, Error> {
    if inner.draining.is_cancelled() {
        return Err(Error::Draining);
    }
    if inner.pause_reason().is_some() {
        return Err(Error::Paused);
    }
    inner.outage.check()?;
    inner.queue.take(caller, count, &inner.options)
}

/// Whether the pool's budget could cover a task that may cost so much.
pub(super) async fn may_afford(inner: &Inner, budget: Microdollars) -> Result<(), Error> {
    if inner.budget_limited() && !inner.store.totals().await?.funds.could_ever_cover(budget) {
        return Err(Error::BudgetExhausted);
    }
    Ok(())
}

/// What the same request made before, if it did.
pub(super) async fn earlier(
    inner: &Inner,
    caller: &CallerId,
    request: Option<RequestId>,
    fingerprint: [u8; 32],
) -> Result<Option<Made>, Error> {
    let Some(id) = request else { return Ok(None) };
    // A repeat is answered also when new work would be refused.
    match inner.store.request(caller, id, inner.now()).await? {
        Some(made) => repeat(inner, made, fingerprint).await.map(Some),
        None => Ok(None),
    }
}

/// What is remembered of a call that has a request.
pub(super) fn remember(
    inner: &Inner,
    caller: &CallerId,
    request: Option<(RequestId, [u8; 32])>,
    first: Option<TaskId>,
    group: Option<GroupId>,
) -> Option<Request> {
    let (id, fingerprint) = request?;
    Some(Request {
        caller: caller.clone(),
        id,
        fingerprint,
        task: first?,
        group,
        expire_time: inner.now().after(inner.options.request_ttl),
        deleted: false,
    })
}

fn first_change(
    caller: &CallerId,
    spec: pb::TaskSpec,
    admitted: Admitted,
    wish: &Wish,
    group: Option<GroupId>,
    place: u32,
    now: Timestamp,
) -> Change {
    let mut task = Task::new(caller, now);
    task.tags.clone_from(&spec.tags);
    task.group = group;
    task.place = place;
    task.request = wish.request;
    task.queue_deadline = admitted.queue_timeout.map(|wait| now.after(wait));
    task.attached = wish.attached;
    task.budget = admitted.budget;
    task.recovery = admitted.recovery;
    task.saves_session = admitted.saves_session;
    task.conversation = admitted.conversation;
    task.trace.clone_from(&wish.trace);
    task.node_label = chain_steps::node_label(&spec);
    let spec = Arc::new(Spec {
        received: spec,
        effective: admitted.effective,
        chain: None,
    });
    submit(task, spec)
}

/// Commits new tasks. A single one that finds a free slot while nothing waits
/// is submitted and claimed in one change.
async fn commit(
    inner: &Arc<Inner>,
    request: Option<Request>,
    mut changes: Vec<Change>,
) -> Result<(), StoreError> {
    // With a budget the claim has to ask what is left, in one transaction; with
    // a conversation, whose turn it is.
    let alone = |change: &Change| change.task.conversation.is_none();
    let direct = changes.len() == 1
        && changes.iter().all(alone)
        && inner.pause_reason().is_none()
        && inner.hold.gate(inner.now()) == Gate::Open
        && !inner.budget_limited()
        && !inner.may_wait.load(Ordering::SeqCst)
        && !inner.looks.load(Ordering::SeqCst)
        && !inner.draining.is_cancelled()
        // Of many nodes another may have older ones waiting, and the lease is
        // asked after at a claim.
        && inner.member.is_none()
        && (changes.iter()).all(|change| change.suits(&inner.options.node_labels, inner.level));
    let slot = if direct {
        inner.slots.take_free(1).pop()
    } else {
        None
    };
    let Some(slot) = slot else {
        inner.may_wait.store(true, Ordering::SeqCst);
        return inner.commit(request, changes).await.map(drop);
    };
    let Some(submitted) = changes.pop() else {
        slot.release(inner);
        return Ok(());
    };
    // On its own: a caller who leaves now must not leave a claimed task
    // without its slot.
    let shared = Arc::clone(inner);
    let committed = inner
        .tracker
        .spawn(async move { commit_claimed(&shared, &slot, request, submitted).await })
        .await;
    committed.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
}

async fn commit_claimed(
    inner: &Inner,
    slot: &Slot,
    request: Option<Request>,
    submitted: Change,
) -> Result<(), StoreError> {
    let claim = TaskEvent::Claim(Claim {
        slot: slot.id.clone(),
        node: inner.node.clone(),
        lease_until: None,
        context_revision: inner.context().revision,
    });
    let spec = submitted.spec.clone();
    let unclaimed = submitted.clone();
    let change = match apply(&submitted.task, claim, inner.now()) {
        Ok(Some(claimed)) => submitted.then(claimed),
        // A new task is queued, so it can be claimed.
        Ok(None) | Err(_) => submitted,
    };
    let mut task = change.task.clone();
    // Until the slot is given back: a claim that was not answered is looked for.
    let under_way = inner.outage.under_way();
    let committed = match inner.commit(request.clone(), vec![change]).await {
        Ok(committed) => committed,
        // A budget was set meanwhile and does not cover it: it waits its turn.
        Err(StoreError::Conflict) => {
            slot.release(inner);
            return inner.commit(request, vec![unclaimed]).await.map(drop);
        }
        Err(error) => {
            slot.release(inner);
            inner.wake.notify_one();
            return Err(error);
        }
    };
    drop(under_way);
    match (committed.into_iter().next(), spec) {
        (Some(committed), Some(spec)) => {
            task.last_sequence = committed.entries.last().map_or(0, |last| last.sequence);
            let claimed = ClaimedTask {
                slot: slot.id.clone(),
                task,
                spec,
                committed,
            };
            scheduler::assign(inner, slot, claimed).await;
        }
        _ => {
            warn!("a commit told nothing of its change");
            slot.release(inner);
        }
    }
    Ok(())
}

/// What the same request made before.
pub(super) async fn repeat(
    inner: &Inner,
    made: Request,
    fingerprint: [u8; 32],
) -> Result<Made, Error> {
    if made.fingerprint != fingerprint {
        return Err(Error::RequestIdReused);
    }
    if made.deleted {
        return Err(Error::NotFound(Missing::DeletedTask));
    }
    let tasks = match made.group {
        None => vec![made.task],
        Some(group) => inner
            .store
            .group(group, Default::default())
            .await?
            .into_iter()
            .map(|record| record.task.id)
            .collect(),
    };
    Ok(Made {
        tasks,
        group: made.group,
        now: false,
        heard: None,
    })
}
