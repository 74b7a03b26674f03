//! Which of the ready tasks a claim takes: the same in every store.

use std::collections::BTreeSet;

use super::{ClaimRequest, Claimed, StoreError};
use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::id::{CallerId, ConversationId, SlotId};
use crate::money::Microdollars;
use crate::task::apply::Claim;
use crate::task::{Change, Task, TaskEvent, apply};

/// Ready tasks that one claim looks past because the budget does not cover
/// them. A limit, so that a queue nobody can pay for is not read as a whole.
const LOOK_PAST_MAX: usize = 64;

/// A claim in the making: is offered ready tasks in their order.
pub(super) struct Choice<'a> {
    request: &'a ClaimRequest,
    funds: Funds,
    /// Until when the claims hold.
    lease_until: Option<Timestamp>,
    /// What was taken, by the place of its slot.
    taken: Vec<(usize, Change)>,
    free: BTreeSet<usize>,
    passed: Vec<Task>,
    passed_conversation: bool,
}

impl<'a> Choice<'a> {
    /// Leases run from this moment.
    pub(super) fn new(request: &'a ClaimRequest, funds: Funds, from: Timestamp) -> Self {
        Self {
            request,
            funds,
            lease_until: request.lease.map(|lease| from.after(lease)),
            taken: Vec::new(),
            free: (0..request.slots.len()).collect(),
            passed: Vec::new(),
            passed_conversation: false,
        }
    }

    /// Whether it makes sense to offer another one.
    pub(super) fn wants_more(&self) -> bool {
        !self.free.is_empty() && self.passed.len() < LOOK_PAST_MAX
    }

    /// How many more it could take.
    #[cfg(feature = "postgres")]
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// The slot for a task: the one that keeps its conversation, else the first
    /// that keeps none, else the first.
    fn slot_for(&self, task: &Task) -> Option<usize> {
        let keeps = |place: &usize| {
            let slot = self.request.slots.get(*place)?;
            self.request.keeps.get(slot)
        };
        let ours = |place: &usize| {
            keeps(place).is_some_and(|(caller, conversation)| {
                *caller == task.caller && Some(conversation) == task.conversation.as_ref()
            })
        };
        let mut free = self.free.iter().copied();
        let kept = self.free.iter().copied().find(|place| ours(place));
        let bare = || self.free.iter().copied().find(|p| keeps(p).is_none());
        kept.or_else(bare).or_else(|| free.next())
    }

    /// Whether the node knows what the task needs and carries the label that it
    /// asks for, if any.
    pub(super) fn suits(&self, task: &Task) -> bool {
        let label = task.node_label.as_ref();
        let carries = label.is_none_or(|label| self.request.labels.contains(label));
        carries && task.level <= self.request.level
    }

    /// Passes a task by whose conversation is another task's now.
    pub(super) fn pass_conversation(&mut self) {
        self.passed_conversation = true;
    }

    /// Whether a task of this conversation was taken already.
    pub(super) fn has_taken(&self, caller: &CallerId, conversation: &ConversationId) -> bool {
        self.taken.iter().any(|(_, change)| {
            change.task.caller == *caller && change.task.conversation.as_ref() == Some(conversation)
        })
    }

    /// Takes the task for the slot that suits it, or passes it by.
    pub(super) fn offer(&mut self, task: Task) -> Result<(), StoreError> {
        let Some(place) = self.slot_for(&task) else {
            return Ok(());
        };
        let slot = &self.request.slots[place];
        if !self.funds.covers(task.remaining_budget()) {
            self.passed.push(task);
            return Ok(());
        }
        let claim = Claim {
            slot: slot.clone(),
            node: self.request.node.clone(),
            lease_until: self.lease_until,
            context_revision: self.request.context_revision,
        };
        match apply(&task, TaskEvent::Claim(claim), self.request.now) {
            Ok(Some(change)) => {
                self.funds = change.ledger.iter().fold(self.funds, |f, e| f.after(*e));
                self.free.remove(&place);
                self.taken.push((place, change));
                Ok(())
            }
            Ok(None) | Err(_) => Err(StoreError::Corrupt(format!(
                "task {} is in the ready queue but cannot be claimed: it is {:?}",
                task.id, task.state
            ))),
        }
    }

    /// The changes to commit, and the claim as far as it is known without them.
    pub(super) fn finish(mut self) -> (Vec<(SlotId, Change)>, Claimed) {
        // What is reserved comes back in part: only without it is "not now" a "never".
        let never = self.funds.reserved == Microdollars::ZERO;
        let claimed = Claimed {
            waits_for_budget: !never && !self.passed.is_empty(),
            waits_for_conversation: self.passed_conversation,
            unaffordable: if never { self.passed } else { Vec::new() },
            ..Claimed::default()
        };
        self.taken.sort_by_key(|(place, _)| *place);
        let slots = &self.request.slots;
        let taken = self.taken.into_iter();
        let taken = taken.map(|(place, change)| (slots[place].clone(), change));
        (taken.collect(), claimed)
    }
}
