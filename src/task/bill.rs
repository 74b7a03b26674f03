//! What attempts came to in money, on its way to a task's row and the ledger.

use super::{Change, Task};
use crate::budget::Entry;
use crate::money::Microdollars;
use crate::pb::ModelUsage;

/// What an attempt came to in money.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bill {
    /// What it cost.
    pub cost: Microdollars,
    /// Whether that is only its last known cost: it ended without telling.
    pub estimated: bool,
    /// What earlier attempts had cost beyond what was booked for them, as the
    /// session told that it has resumed.
    pub correction: Microdollars,
    /// Tokens and cost of this attempt, per model.
    pub usage: Vec<ModelUsage>,
}

impl Bill {
    /// The last known cost of an attempt that ended without telling.
    pub fn estimate(cost: Microdollars) -> Self {
        Self {
            cost,
            estimated: true,
            ..Self::default()
        }
    }
}

impl Task {
    /// What earlier attempts cost beyond what was booked for them, if the
    /// conversation that they left says now that it has cost `total`. One that
    /// has forgotten some of it corrects nothing: what was seen was paid.
    pub fn correction(&self, total: Microdollars) -> Microdollars {
        let booked = self.session_offset.saturating_add(self.cost.0);
        total.saturating_sub(Microdollars(booked))
    }

    /// By how much the total of its conversation is above its own cost, if that
    /// is `total` as its attempt begins.
    pub fn offset(&self, total: Microdollars, correction: Microdollars) -> i64 {
        let cost = self.cost.saturating_add(correction);
        total.0.saturating_sub(cost.0)
    }
}

/// Books what the attempt under way came to, and releases its reservation.
pub(super) fn settle(change: &mut Change, bill: Bill) {
    let row = &mut change.task;
    change.ledger.push(Entry::Settle {
        reserved: row.reserved,
        cost: bill.cost,
        estimated: bill.estimated,
    });
    if bill.correction != Microdollars::ZERO {
        change.ledger.push(Entry::Correct(bill.correction));
    }
    row.reserved = Microdollars::ZERO;
    row.attempt_cost = Microdollars::ZERO;
    row.cost = row.cost.saturating_add(bill.cost);
    row.cost = row.cost.saturating_add(bill.correction);
    row.cost_estimated |= bill.estimated;
    for usage in bill.usage {
        add(&mut row.usage, usage);
    }
}

/// Most models that are told apart; what others used is in the cost alone.
const MODELS_MAX: usize = 100;

/// Adds what a model used to what the others, or itself, used before.
pub fn add(sum: &mut Vec<ModelUsage>, usage: ModelUsage) {
    let has_room = sum.len() < MODELS_MAX;
    match sum.iter_mut().find(|known| known.model == usage.model) {
        Some(known) => {
            known.input_tokens += usage.input_tokens;
            known.output_tokens += usage.output_tokens;
            known.cache_read_tokens += usage.cache_read_tokens;
            known.cache_write_tokens += usage.cache_write_tokens;
            known.cost_microdollars += usage.cost_microdollars;
        }
        None if has_room => sum.push(usage),
        None => {}
    }
}
