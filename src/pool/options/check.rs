//! Which values cannot be used.

use std::time::Duration;

use super::Options;

impl Options {
    /// One sentence per value that cannot be used.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |ok: bool, what: &str| {
            if !ok {
                found.push(what.to_owned());
            }
        };
        check(
            (1..=self.max_slots).contains(&self.min_slots) && self.max_slots <= 1000,
            "min_slots and max_slots must be 1 to 1000, in that order",
        );
        check(
            (self.min_slots..=self.max_slots).contains(&self.slots),
            "slots must be min_slots to max_slots",
        );
        check(self.spares <= 100, "spares must be 0 to 100");
        check(
            self.budget_usd.is_none_or(|b| b.is_finite() && b >= 0.0),
            "budget_usd must be 0 or more",
        );
        check(
            self.default_task_budget_usd.is_finite() && self.default_task_budget_usd >= 0.0,
            "default_task_budget_usd must be 0 or more",
        );
        check(
            self.policy.task_budget_max_usd.is_finite() && self.policy.task_budget_max_usd >= 0.0,
            "policy.task_budget_max_usd must be 0 or more",
        );
        check(
            (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.stall_timeout),
            "stall_timeout must be 1s to 1h",
        );
        check(
            self.process_lease.is_none_or(|lease| {
                (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&lease)
            }),
            "process_lease must be 1s to 1h",
        );
        check(
            (Duration::from_secs(1)..=Duration::from_secs(300)).contains(&self.node_lease),
            "node_lease must be 1s to 5m",
        );
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        check(
            self.node_id.len() <= 128 && self.node_id.chars().all(good),
            "node_id must be at most 128 letters, digits, \".\", \"_\" or \"-\"",
        );
        check(
            self.node_labels.len() <= 64
                && self
                    .node_labels
                    .iter()
                    .all(|l| (1..=128).contains(&l.len())),
            "node_labels must be at most 64 of 1 to 128 bytes",
        );
        check(
            self.run_timeout >= Duration::from_secs(1),
            "run_timeout must be 1s or more",
        );
        check(
            self.session_retention >= Duration::from_secs(1),
            "session_retention must be 1s or more",
        );
        check(
            self.retention.shortest() >= Duration::from_secs(1),
            "retention.succeeded, .failed and .cancelled must be 1s or more",
        );
        check(
            self.log_bytes_max >= 4096,
            "log_bytes_max must be 4096 or more",
        );
        check(
            (1..=15 * 1024 * 1024).contains(&self.policy.prompt_bytes_max),
            "policy.prompt_bytes_max must be 1 to 15 MiB",
        );
        check(
            (1..=100).contains(&self.attempts_max),
            "attempts_max must be 1 to 100",
        );
        check(
            self.process_attempts_max >= 1,
            "process_attempts_max must be 1 or more",
        );
        check(
            (Duration::from_secs(1)..=Duration::from_secs(900)).contains(&self.limit_wait),
            "limit_wait must be 1s to 15m",
        );
        check(self.max_restarts <= 1000, "max_restarts must be 0 to 1000");
        found
    }
}
