//! From the plan to the words of the wire.

use claudepool::pb;
use claudepool::pool::Work;

use super::plan::{Call, Chain, Job};

fn ms(ms: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: (ms / 1000) as i64,
        nanos: (ms % 1000) as i32 * 1_000_000,
    }
}

fn prompt(marker: &str, script: &[String]) -> String {
    let lines = std::iter::once(marker).chain(script.iter().map(String::as_str));
    lines.collect::<Vec<_>>().join("\n")
}

pub fn spec(job: &Job) -> pb::TaskSpec {
    use pb::conversation::Kind;
    let kind = match (&job.conversation, job.new_process) {
        (Some(key), _) => Some(Kind::ContinueConversation(pb::ContinueConversation {
            key: key.clone(),
        })),
        (None, true) => Some(Kind::NewProcess(pb::NewProcess {})),
        (None, false) => None,
    };
    pb::TaskSpec {
        input: Some(pb::task_spec::Input::Prompt(prompt(
            &job.marker,
            &job.script,
        ))),
        settings: Some(pb::RunSettings {
            budget_microdollars: job.budget,
            queue_timeout: job.queue_timeout.map(ms),
            run_timeout: job.run_timeout.map(ms),
            ..pb::RunSettings::default()
        }),
        conversation: kind.map(|kind| pb::Conversation { kind: Some(kind) }),
        tags: vec![job.marker.clone()],
        recovery: job.recovery as i32,
        ..pb::TaskSpec::default()
    }
}

pub fn work(call: &Call, job: &Job, detach: bool) -> Work {
    Work {
        spec: spec(job),
        request: call.request,
        detach,
    }
}

/// The marker of a chain's step.
pub fn step_marker(chain: &str, place: usize, rescue: bool) -> String {
    format!("{chain}s{place}{}", if rescue { "r" } else { "" })
}

pub fn steps(chain: &Chain) -> Vec<pb::ChainStep> {
    let steps = chain.steps.iter().enumerate().map(|(place, step)| {
        let marker = |rescue| step_marker(&chain.marker, place, rescue);
        let recovery_prompt = match &step.rescue {
            Some(script) => prompt(&marker(true), script),
            None => String::new(),
        };
        pb::ChainStep {
            name: format!("s{place}"),
            action: Some(pb::chain_step::Action::Prompt(prompt(
                &marker(false),
                &step.script,
            ))),
            on_failure: Some(pb::FailurePolicy {
                retries: step.retries,
                backoff: None,
                recovery_prompt,
            }),
            ..pb::ChainStep::default()
        }
    });
    steps.collect()
}

pub fn chain_options(chain: &Chain) -> pb::ChainOptions {
    pb::ChainOptions {
        tags: vec![chain.marker.clone()],
        recovery: chain.recovery as i32,
        ..pb::ChainOptions::default()
    }
}
