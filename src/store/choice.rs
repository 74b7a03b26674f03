//! Which of the ready tasks a claim takes: the same in every store.

use super::{ClaimRequest, Claimed, StoreError};
use crate::budget::Funds;
use crate::id::SlotId;
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
    taken: Vec<(SlotId, Change)>,
    passed: Vec<Task>,
}

impl<'a> Choice<'a> {
    pub(super) fn new(request: &'a ClaimRequest, funds: Funds) -> Self {
        Self {
            request,
            funds,
            taken: Vec::new(),
            passed: Vec::new(),
        }
    }

    /// Whether it makes sense to offer another one.
    pub(super) fn wants_more(&self) -> bool {
        self.taken.len() < self.request.slots.len() && self.passed.len() < LOOK_PAST_MAX
    }

    /// Takes the task for the next slot, or passes it by.
    pub(super) fn offer(&mut self, task: Task) -> Result<(), StoreError> {
        let Some(slot) = self.request.slots.get(self.taken.len()) else {
            return Ok(());
        };
        if !self.funds.covers(task.remaining_budget()) {
            self.passed.push(task);
            return Ok(());
        }
        let claim = Claim {
            slot: slot.clone(),
            node: self.request.node.clone(),
            lease_until: self.request.lease_until,
            context_revision: self.request.context_revision,
        };
        match apply(&task, TaskEvent::Claim(claim), self.request.now) {
            Ok(Some(change)) => {
                self.funds = change.ledger.iter().fold(self.funds, |f, e| f.after(*e));
                self.taken.push((slot.clone(), change));
                Ok(())
            }
            Ok(None) | Err(_) => Err(StoreError::Corrupt(format!(
                "task {} is in the ready queue but cannot be claimed: it is {:?}",
                task.id, task.state
            ))),
        }
    }

    /// The changes to commit, and the claim as far as it is known without them.
    pub(super) fn finish(self) -> (Vec<(SlotId, Change)>, Claimed) {
        // What is reserved comes back in part: only without it is "not now" a "never".
        let never = self.funds.reserved == Microdollars::ZERO;
        let claimed = Claimed {
            waits_for_budget: !never && !self.passed.is_empty(),
            unaffordable: if never { self.passed } else { Vec::new() },
            ..Claimed::default()
        };
        (self.taken, claimed)
    }
}
