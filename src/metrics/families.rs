//! Every counter and histogram, with its name and what it says.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::word;
use crate::pb::{ProcessOrigin, TaskState};

/// Values of our own choosing.
type Words<const N: usize> = [(&'static str, &'static str); N];
/// Values of which one is a model's name.
type Names<const N: usize> = [(&'static str, String); N];
/// Histograms by their labels.
type Histograms<const N: usize> = Family<Words<N>, Histogram, fn() -> Histogram>;

pub(super) struct Families {
    pub calls: Histograms<2>,
    pub calls_active: Family<Words<1>, Gauge>,
    pub tasks_submitted: Counter,
    pub tasks_ended: Family<Words<2>, Counter>,
    pub queue: Histogram,
    pub attempts: Family<Words<2>, Counter>,
    pub attempt_durations: Histograms<1>,
    pub acquired: Family<Words<1>, Counter>,
    pub launches: Histograms<1>,
    pub resets: Histograms<1>,
    pub cost: Family<Names<1>, Counter<f64, AtomicU64>>,
    pub tokens: Family<Names<2>, Counter>,
    pub store_calls: Histograms<1>,
    pub store_errors: Family<Words<1>, Counter>,
    pub commits: Histogram,
}

/// From a millisecond to half an hour: calls answer at once or follow a task.
fn calls() -> Histogram {
    Histogram::new([
        0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 1800.0,
    ])
}

/// From a tenth of a second to an hour: work.
fn work() -> Histogram {
    Histogram::new([
        0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
    ])
}

/// From 5 ms to a minute: what is asked of a process.
fn process() -> Histogram {
    Histogram::new([0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0])
}

/// From a tenth of a millisecond to half a minute: what is asked of the store.
fn store() -> Histogram {
    Histogram::new([
        0.0001, 0.0005, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0,
    ])
}

fn family<const N: usize>(make: fn() -> Histogram) -> Histograms<N> {
    Family::new_with_constructor(make)
}

impl Default for Families {
    /// What is known to come is there from the beginning, at zero: a rate needs
    /// to see the first of it.
    fn default() -> Self {
        let families = Self {
            calls: family(calls),
            calls_active: Family::default(),
            tasks_submitted: Counter::default(),
            tasks_ended: Family::default(),
            queue: work(),
            attempts: Family::default(),
            attempt_durations: family(work),
            acquired: Family::default(),
            launches: family(process),
            resets: family(process),
            cost: Family::default(),
            tokens: Family::default(),
            store_calls: family(store),
            store_errors: Family::default(),
            commits: Histogram::new([1.0, 2.0, 5.0, 10.0, 100.0, 1000.0, 10_000.0]),
        };
        for state in [
            TaskState::Succeeded,
            TaskState::Failed,
            TaskState::Cancelled,
            TaskState::Skipped,
        ] {
            let of = [("state", super::task_state(state)), ("reason", "NONE")];
            families.tasks_ended.get_or_create_owned(&of);
        }
        for outcome in ["succeeded", "failed", "requeued", "lost"] {
            families
                .attempt_durations
                .get_or_create_owned(&[("outcome", outcome)]);
        }
        let of = [("outcome", "succeeded"), ("reason", "NONE")];
        families.attempts.get_or_create_owned(&of);
        for origin in [
            ProcessOrigin::Reset,
            ProcessOrigin::Spare,
            ProcessOrigin::Launch,
            ProcessOrigin::Kept,
        ] {
            let of = [("origin", word(origin.as_str_name(), "PROCESS_ORIGIN_"))];
            families.acquired.get_or_create_owned(&of);
        }
        for ok in [true, false] {
            families.launches.get_or_create_owned(&super::result(ok));
            families.resets.get_or_create_owned(&super::result(ok));
        }
        for error in ["unavailable", "damaged", "corrupt"] {
            families
                .store_errors
                .get_or_create_owned(&[("error", error)]);
        }
        families
    }
}

impl Families {
    pub fn register(&self, registry: &mut Registry) {
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "rpc_server_call_duration",
            "Calls from their headers to the last byte of their answer, streams included, \
             by method and gRPC code",
            seconds(),
            self.calls.clone(),
        );
        registry.register(
            "rpc_server_active_calls",
            "Calls that are being answered, streams included, by method",
            self.calls_active.clone(),
        );
        registry.register(
            "claudepool_tasks_submitted",
            "Tasks made durable; a chain and each of its steps are tasks",
            self.tasks_submitted.clone(),
        );
        registry.register(
            "claudepool_tasks_ended",
            "Tasks that ended for good, by state and, of failed ones, reason",
            self.tasks_ended.clone(),
        );
        registry.register_with_unit(
            "claudepool_queue_duration",
            "Waits of tasks from the moment when they were ready to their attempt",
            seconds(),
            self.queue.clone(),
        );
        registry.register(
            "claudepool_attempts",
            "Attempts that ended, by outcome and reason",
            self.attempts.clone(),
        );
        registry.register_with_unit(
            "claudepool_attempt_duration",
            "Attempts from their claim to their end, by outcome",
            seconds(),
            self.attempt_durations.clone(),
        );
        registry.register(
            "claudepool_processes_acquired",
            "Attempts that got a process, by where it came from",
            self.acquired.clone(),
        );
        registry.register_with_unit(
            "claudepool_launch_duration",
            "Starts of processes, by result",
            seconds(),
            self.launches.clone(),
        );
        registry.register_with_unit(
            "claudepool_reset_duration",
            "Resets of processes after an attempt, by result",
            seconds(),
            self.resets.clone(),
        );
        registry.register_with_unit(
            "claudepool_cost",
            "What attempts on this server cost, as the CLI estimates it, by model",
            Unit::Other("usd".to_owned()),
            self.cost.clone(),
        );
        registry.register(
            "claudepool_tokens",
            "Tokens that attempts on this server used, by kind and model",
            self.tokens.clone(),
        );
        registry.register_with_unit(
            "claudepool_store_call_duration",
            "Calls of the store, by kind",
            seconds(),
            self.store_calls.clone(),
        );
        registry.register(
            "claudepool_store_errors",
            "Calls that the store failed, by error",
            self.store_errors.clone(),
        );
        registry.register(
            "claudepool_store_commit_changes",
            "Changes of tasks committed at once",
            self.commits.clone(),
        );
    }
}
