//! Failure classes, from facts and never from text. Pure.

use std::time::Duration;

use crate::pb::FailureReason;

/// What is known of a turn that failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The result's subtype.
    pub subtype: &'a str,
    /// Why the turn ended, in the agent's word.
    pub terminal_reason: &'a str,
    /// HTTP status of the provider, if that failed.
    pub api_status: Option<i32>,
    /// Why the last message stopped, in the provider's word.
    pub stop_reason: &'a str,
}

/// The class of a failure. Statuses as seen on the CLI: an API failure is
/// `terminal_reason: api_error` with the status, or without one if the
/// connection broke.
pub fn classify(facts: Facts<'_>) -> FailureReason {
    match (facts.subtype, facts.terminal_reason) {
        ("error_max_turns", _) | (_, "max_turns") => return FailureReason::MaxTurns,
        ("error_max_budget_usd", _) | (_, "budget_exhausted") => return FailureReason::Budget,
        ("error_max_structured_output_retries", _) => return FailureReason::Schema,
        (_, "prompt_too_long") => return FailureReason::InvalidRequest,
        _ => {}
    }
    if facts.stop_reason == "refusal" {
        return FailureReason::Refused;
    }
    match facts.api_status {
        Some(429) => FailureReason::RateLimited,
        Some(401 | 403) => FailureReason::Authentication,
        Some(408) => FailureReason::Connection,
        Some(400..=499) => FailureReason::InvalidRequest,
        Some(500..=599) => FailureReason::Overloaded,
        Some(_) => FailureReason::Agent,
        None if facts.terminal_reason == "api_error" => FailureReason::Connection,
        None => FailureReason::Agent,
    }
}

/// What a failed attempt means for its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The task has failed.
    Fail,
    /// It is tried again after a wait; the attempt counts.
    Retry(Duration),
    /// It is tried again when the provider's limit lifts; the attempt does not
    /// count.
    Hold,
}

/// First wait after a failure of the provider; doubled each time.
const PROVIDER_WAIT: Duration = Duration::from_secs(2);

/// What the failure of an attempt means when `burnt` attempts had counted
/// before it. `attempts_max`: how many may count in all. `jitter`: 0 to 1,
/// takes up to half off the wait, so that tasks that failed together do not
/// come back together.
pub fn verdict(reason: FailureReason, burnt: u32, attempts_max: u32, jitter: f64) -> Verdict {
    match reason {
        FailureReason::RateLimited => Verdict::Hold,
        FailureReason::Overloaded | FailureReason::Connection if burnt + 1 < attempts_max => {
            let wait = PROVIDER_WAIT.saturating_mul(1 << burnt.min(8));
            Verdict::Retry(wait.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0))
        }
        // A process may die of bad luck once, not of the same task twice.
        FailureReason::ProcessDied if burnt == 0 && attempts_max > 1 => {
            Verdict::Retry(Duration::ZERO)
        }
        _ => Verdict::Fail,
    }
}

/// Whether the same task may succeed later.
pub fn is_retryable(reason: FailureReason) -> bool {
    match reason {
        FailureReason::ProcessDied
        | FailureReason::Stalled
        | FailureReason::Protocol
        | FailureReason::QueueTimeout
        | FailureReason::Launch
        | FailureReason::RateLimited
        | FailureReason::Overloaded
        | FailureReason::Connection
        | FailureReason::Interrupted
        | FailureReason::Workspace => true,
        FailureReason::Unspecified
        | FailureReason::RunTimeout
        | FailureReason::Authentication
        | FailureReason::InvalidRequest
        | FailureReason::Budget
        | FailureReason::BudgetExhausted
        | FailureReason::MaxTurns
        | FailureReason::Schema
        | FailureReason::Refused
        | FailureReason::StepFailed
        | FailureReason::SessionUnusable
        | FailureReason::Agent => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(status: Option<i32>) -> Facts<'static> {
        Facts {
            subtype: "success",
            terminal_reason: "api_error",
            api_status: status,
            stop_reason: "",
        }
    }

    #[test]
    fn an_api_failure_that_calls_itself_success_is_classed_by_its_status() {
        for (status, reason) in [
            (Some(429), FailureReason::RateLimited),
            (Some(401), FailureReason::Authentication),
            (Some(403), FailureReason::Authentication),
            (Some(404), FailureReason::InvalidRequest),
            (Some(400), FailureReason::InvalidRequest),
            (Some(500), FailureReason::Overloaded),
            (Some(529), FailureReason::Overloaded),
            (None, FailureReason::Connection),
        ] {
            assert_eq!(classify(api(status)), reason, "{status:?}");
        }
    }

    #[test]
    fn each_class_has_its_verdict() {
        let verdict = |reason, burnt| verdict(reason, burnt, 3, 0.0);
        let seconds = |s| Verdict::Retry(Duration::from_secs(s));
        assert_eq!(verdict(FailureReason::RateLimited, 9), Verdict::Hold);
        assert_eq!(verdict(FailureReason::Overloaded, 0), seconds(2));
        assert_eq!(verdict(FailureReason::Connection, 1), seconds(4));
        assert_eq!(verdict(FailureReason::Overloaded, 2), Verdict::Fail);
        assert_eq!(verdict(FailureReason::ProcessDied, 0), seconds(0));
        assert_eq!(verdict(FailureReason::ProcessDied, 1), Verdict::Fail);
        for reason in [
            FailureReason::Authentication,
            FailureReason::InvalidRequest,
            FailureReason::Budget,
            FailureReason::MaxTurns,
            FailureReason::Schema,
        ] {
            assert_eq!(verdict(reason, 0), Verdict::Fail, "{reason:?}");
        }
    }

    #[test]
    fn limits_of_the_agent_itself_are_told_apart() {
        let facts = |subtype, terminal_reason| Facts {
            subtype,
            terminal_reason,
            ..Facts::default()
        };
        assert_eq!(
            classify(facts("error_max_turns", "max_turns")),
            FailureReason::MaxTurns
        );
        assert_eq!(
            classify(facts("error_max_budget_usd", "budget_exhausted")),
            FailureReason::Budget
        );
        assert_eq!(
            classify(facts("error_during_execution", "")),
            FailureReason::Agent
        );
    }
}
