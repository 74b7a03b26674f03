//! What a turn cost: differences of running totals.

use std::collections::BTreeMap;

use super::super::protocol::{Outcome, Usage};
use super::Turn;
use crate::agent::{TurnEnd, TurnError};
use crate::money::Microdollars;
use crate::pb::ModelUsage;

/// Running totals of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    pub dollars: f64,
    pub models: BTreeMap<String, Usage>,
}

impl Totals {
    pub(super) fn take(&mut self, outcome: &Outcome) {
        if let Some(dollars) = outcome.total_dollars {
            self.dollars = dollars;
            self.models.clone_from(&outcome.total);
        }
    }
}

/// The end of `turn`, and with it the new `base`.
pub(super) fn turn_end(turn: &Turn, outcome: Outcome, base: &mut Totals) -> TurnEnd {
    let spent = match &outcome.since_last {
        Some(models) => models.clone(),
        None => difference(&outcome.total, &base.models),
    };
    let dollars = match (&outcome.since_last, outcome.total_dollars) {
        (Some(models), _) => models.values().map(|usage| usage.dollars).sum(),
        (None, Some(total)) => total - base.dollars,
        (None, None) => 0.0,
    };
    base.take(&outcome);
    // A provider's failure is a "success" that is an error.
    let failed = outcome.is_error || outcome.subtype != "success";
    let error = failed.then(|| TurnError {
        subtype: outcome.subtype,
        terminal_reason: outcome.terminal_reason,
        api_status: outcome.api_status,
        message: match outcome.errors.is_empty() {
            true => outcome.text.clone(),
            false => outcome.errors.join("; "),
        },
    });
    TurnEnd {
        output: if failed { String::new() } else { outcome.text },
        error,
        structured_output: outcome.structured_output.map(|value| value.to_string()),
        cost: Microdollars::from_dollars(dollars),
        usage: spent.into_iter().map(model_usage).collect(),
        turns: turn.messages,
        session_id: outcome.session_id,
        model: turn.model.clone(),
        permission_denials: outcome.permission_denials,
        stop_reason: outcome.stop_reason,
    }
}

pub(super) fn difference(
    total: &BTreeMap<String, Usage>,
    base: &BTreeMap<String, Usage>,
) -> BTreeMap<String, Usage> {
    let since = |(model, now): (&String, &Usage)| {
        let then = base.get(model).copied().unwrap_or_default();
        let usage = Usage {
            input: now.input - then.input,
            output: now.output - then.output,
            cache_read: now.cache_read - then.cache_read,
            cache_write: now.cache_write - then.cache_write,
            dollars: now.dollars - then.dollars,
        };
        (*now != then).then(|| (model.clone(), usage))
    };
    total.iter().filter_map(since).collect()
}

pub(super) fn model_usage((model, usage): (String, Usage)) -> ModelUsage {
    ModelUsage {
        model,
        input_tokens: usage.input,
        output_tokens: usage.output,
        cache_read_tokens: usage.cache_read,
        cache_write_tokens: usage.cache_write,
        cost_microdollars: Microdollars::from_dollars(usage.dollars).0,
    }
}
