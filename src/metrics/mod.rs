//! What is counted, and how it is shown: OpenMetrics text.
//!
//! A [`Metrics`] is made once by whoever builds a server and handed to its parts;
//! there is nothing global. Counters and histograms are kept here as things
//! happen; what can be read off the pool (states, money, memory) is not kept but
//! [`Observed`] when it is asked for. No label holds anything that a caller chose,
//! but for the names of models, which are few by force.
//!
//! `docs/metrics.md` says what each means; a test holds it to this.

mod families;
mod process;
mod shown;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use self::families::Families;
use crate::clock::{Clock, Timestamp};
use crate::money::Microdollars;
use crate::pb;

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Most models that are told apart; what others cost is counted as `other`.
const MODELS_MAX: usize = 64;
/// Longest name of a model, in characters.
const MODEL_CHARS_MAX: usize = 100;

/// Counts what happens. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    families: Families,
    registry: Registry,
    /// The models that are told apart.
    models: Mutex<BTreeSet<String>>,
    /// When the process began to count.
    start_time: Timestamp,
}

/// How an attempt ended, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptEnd {
    /// `succeeded`, `failed`, `requeued` or `lost`.
    pub outcome: &'static str,
    /// The wire's word for why, without its prefix; `NONE`: there is none.
    pub reason: &'static str,
}

/// What is read off a pool at the moment when it is asked for.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Its status. Without `totals`: its tasks and money are not known.
    pub status: pb::PoolStatus,
    /// Whether the store was asked with success.
    pub totals: bool,
    /// How long the longest ready task has waited; `None`: none waits.
    pub oldest_ready: Option<Duration>,
    /// Processes standing by for every slot.
    pub spares: usize,
    /// Whether the store answers what would write.
    pub store_answers: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let families = Families::default();
        let mut registry = Registry::default();
        families.register(&mut registry);
        Self(Arc::new(Shared {
            families,
            registry,
            models: Mutex::default(),
            start_time: Clock::system().now(),
        }))
    }

    /// Everything as OpenMetrics text. `ready`: whether the server wants traffic;
    /// `observed`: `None` without a pool.
    pub fn text(&self, ready: bool, observed: Option<&Observed>) -> String {
        let mut now = Registry::default();
        shown::register(&mut now, ready, observed);
        process::register(&mut now, self.0.start_time);
        let mut text = String::with_capacity(32 * 1024);
        // Writing to a string cannot fail.
        let _ = encode_registry(&mut text, &self.0.registry)
            .and_then(|()| encode_registry(&mut text, &now))
            .and_then(|()| encode_eof(&mut text));
        text
    }

    /// A call came in. `method` is one of ours, or `_OTHER`.
    pub fn call_began(&self, method: &'static str) {
        let calls = &self.0.families.calls_active;
        calls.get_or_create(&[("rpc_method", method)]).inc();
    }

    /// A call ended with the gRPC code `code`.
    pub fn call_ended(&self, method: &'static str, code: &'static str, took: Duration) {
        let families = &self.0.families;
        let of = [("rpc_method", method)];
        families.calls_active.get_or_create(&of).dec();
        let of = [("rpc_method", method), ("rpc_response_status_code", code)];
        let calls = families.calls.get_or_create(&of);
        calls.observe(took.as_secs_f64());
    }

    /// A task was made; a chain and its steps are tasks too.
    pub fn task_submitted(&self) {
        self.0.families.tasks_submitted.inc();
    }

    /// A task ended for good. `reason`: why it failed, or `NONE`.
    pub fn task_ended(&self, state: pb::TaskState, reason: &'static str) {
        let of = [("state", task_state(state)), ("reason", reason)];
        self.0.families.tasks_ended.get_or_create(&of).inc();
    }

    /// A task's attempt begins after a wait in the queue.
    pub fn attempt_began(&self, waited: Duration) {
        self.0.families.queue.observe(waited.as_secs_f64());
    }

    /// An attempt ended.
    pub fn attempt_ended(&self, end: AttemptEnd, took: Duration) {
        let families = &self.0.families;
        let of = [("outcome", end.outcome), ("reason", end.reason)];
        families.attempts.get_or_create(&of).inc();
        let of = [("outcome", end.outcome)];
        let attempts = families.attempt_durations.get_or_create(&of);
        attempts.observe(took.as_secs_f64());
    }

    /// An attempt got its process.
    pub fn process_acquired(&self, origin: pb::ProcessOrigin) {
        let of = [("origin", word(origin.as_str_name(), "PROCESS_ORIGIN_"))];
        self.0.families.acquired.get_or_create(&of).inc();
    }

    /// A process was started, or did not start.
    pub fn launched(&self, ok: bool, took: Duration) {
        let launches = &self.0.families.launches;
        launches
            .get_or_create(&result(ok))
            .observe(took.as_secs_f64());
    }

    /// A process was made to forget, or did not.
    pub fn reset(&self, ok: bool, took: Duration) {
        let resets = &self.0.families.resets;
        resets
            .get_or_create(&result(ok))
            .observe(took.as_secs_f64());
    }

    /// What an attempt used and cost. What no model is named for is `unknown`'s.
    pub fn paid(&self, usage: &[pb::ModelUsage], cost: Microdollars) {
        let families = &self.0.families;
        let mut rest = cost.0;
        for used in usage {
            let model = self.model(&used.model);
            for (kind, count) in [
                ("input", used.input_tokens),
                ("output", used.output_tokens),
                ("cache_read", used.cache_read_tokens),
                ("cache_write", used.cache_write_tokens),
            ] {
                if let Ok(count) = u64::try_from(count) {
                    let of = [("kind", kind.to_owned()), ("model", model.clone())];
                    families.tokens.get_or_create(&of).inc_by(count);
                }
            }
            self.costs(model, used.cost_microdollars);
            rest = rest.saturating_sub(used.cost_microdollars);
        }
        if rest > 0 {
            self.costs("unknown".to_owned(), rest);
        }
    }

    fn costs(&self, model: String, microdollars: i64) {
        let cost = self.0.families.cost.get_or_create(&[("model", model)]);
        // A counter that goes down is none.
        cost.inc_by(Microdollars(microdollars.max(0)).dollars());
    }

    /// A model's name as a label.
    fn model(&self, name: &str) -> String {
        let name: String = name.chars().take(MODEL_CHARS_MAX).collect();
        if name.is_empty() {
            return "unknown".to_owned();
        }
        let mut models = self.0.models.lock().unwrap_or_else(PoisonError::into_inner);
        if models.len() >= MODELS_MAX && !models.contains(&name) {
            return "other".to_owned();
        }
        models.insert(name.clone());
        name
    }

    /// The store answered a call, or did not. `error`: its kind.
    pub fn store_called(&self, call: &'static str, took: Duration, error: Option<&'static str>) {
        let families = &self.0.families;
        let calls = families.store_calls.get_or_create(&[("call", call)]);
        calls.observe(took.as_secs_f64());
        if let Some(error) = error {
            let of = [("error", error)];
            families.store_errors.get_or_create(&of).inc();
        }
    }

    /// So many changes were committed at once.
    pub fn committed(&self, changes: usize) {
        self.0.families.commits.observe(changes as f64);
    }
}

fn result(ok: bool) -> [(&'static str, &'static str); 1] {
    [("result", if ok { "ok" } else { "failed" })]
}

/// The wire's word without its prefix.
pub fn word(name: &'static str, prefix: &str) -> &'static str {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => "NONE",
        word => word,
    }
}

fn task_state(state: pb::TaskState) -> &'static str {
    word(state.as_str_name(), "TASK_STATE_")
}

#[cfg(test)]
mod tests;
