//! What is read off the server at the moment of a scrape.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::{Observed, task_state, word};
use crate::money::Microdollars;
use crate::pb::{SlotState, TaskState};

type Real = Gauge<f64, AtomicU64>;

pub(super) fn register(registry: &mut Registry, ready: bool, observed: Option<&Observed>) {
    let version = env!("CARGO_PKG_VERSION");
    let agent = observed.map_or("", |observed| observed.status.agent_version.as_str());
    registry.register(
        "claudepool_build",
        "Versions of the server and of the CLI that it runs",
        Info::new([
            ("version", version.to_owned()),
            ("agent_version", agent.to_owned()),
        ]),
    );
    count(
        registry,
        "claudepool_ready",
        "1 when the server wants traffic, else 0: the truth of /readyz",
        i64::from(ready),
    );
    let Some(observed) = observed else { return };
    let status = &observed.status;
    slots(registry, observed);
    holds(registry, observed);
    count(
        registry,
        "claudepool_spares",
        "Processes standing by that have run nothing",
        i64::try_from(observed.spares).unwrap_or(i64::MAX),
    );
    count(
        registry,
        "claudepool_watchers",
        "Streams that read logs, results or the status",
        status.watchers,
    );
    count(
        registry,
        "claudepool_store_up",
        "1 when the store answers, else 0",
        i64::from(observed.store_answers),
    );
    if observed.totals {
        totals(registry, observed);
    }
}

fn slots(registry: &mut Registry, observed: &Observed) {
    let slots = &observed.status.slots;
    let states = Family::<[(&str, &str); 1], Gauge>::default();
    for state in (1..100).map_while(|number| SlotState::try_from(number).ok()) {
        let found = slots.iter().filter(|slot| slot.state() == state).count();
        let of = [("state", word(state.as_str_name(), "SLOT_STATE_"))];
        let found = i64::try_from(found).unwrap_or(i64::MAX);
        states.get_or_create(&of).set(found);
    }
    registry.register("claudepool_slots", "Slots of this server, by state", states);
    let memory = slots.iter().filter_map(|slot| slot.memory_bytes).sum();
    registry.register_with_unit(
        "claudepool_slots_memory",
        "Resident memory of the slots' processes and all below them",
        Unit::Bytes,
        gauge(memory),
    );
}

fn holds(registry: &mut Registry, observed: &Observed) {
    let status = &observed.status;
    let holds = Family::<[(&str, &str); 1], Gauge>::default();
    for (reason, holds_now) in [
        ("draining", status.draining),
        ("paused", status.paused),
        ("rate_limit", status.hold.is_some()),
        ("store", !observed.store_answers),
    ] {
        let hold = holds.get_or_create(&[("reason", reason)]);
        hold.set(i64::from(holds_now));
    }
    registry.register(
        "claudepool_held",
        "1 for each reason that keeps new attempts from starting, else 0",
        holds,
    );
}

/// What only the store knows.
fn totals(registry: &mut Registry, observed: &Observed) {
    let status = &observed.status;
    let tasks = Family::<[(&str, &str); 1], Gauge>::default();
    for state in (1..100).map_while(|number| TaskState::try_from(number).ok()) {
        let found = status.tasks.iter().find(|count| count.state() == state);
        let tasks = tasks.get_or_create(&[("state", task_state(state))]);
        tasks.set(found.map_or(0, |found| found.count));
    }
    registry.register(
        "claudepool_tasks",
        "Tasks in the store, by state; chains count as one",
        tasks,
    );
    let oldest = observed.oldest_ready.unwrap_or_default();
    let age = Real::default();
    age.set(oldest.as_secs_f64());
    registry.register_with_unit(
        "claudepool_queue_oldest_age",
        "How long the task that is ready the longest has waited; 0: none waits",
        Unit::Seconds,
        age,
    );
    let mut money = |name, help: &str, microdollars: i64| {
        let gauge = Real::default();
        gauge.set(Microdollars(microdollars).dollars());
        registry.register_with_unit(name, help, Unit::Other("usd".to_owned()), gauge);
    };
    money(
        "claudepool_spent",
        "What was spent in all, as the ledger has it",
        status.spent_microdollars,
    );
    money(
        "claudepool_reserved",
        "What is set aside for running attempts",
        status.reserved_microdollars,
    );
    if let Some(budget) = status.budget_microdollars {
        money(
            "claudepool_budget",
            "The most that may be spent; absent: no limit",
            budget,
        );
    }
}

fn count(registry: &mut Registry, name: &str, help: &str, value: i64) {
    registry.register(name, help, gauge(value));
}

fn gauge(value: i64) -> Gauge {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    gauge
}
