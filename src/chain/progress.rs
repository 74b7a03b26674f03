//! A chain's log, folded into what its callers see.

use super::{STEP_OUTPUT_BYTES_MAX, ending};
use crate::pb::{self, ChainStatus, TaskState, event::Kind};

/// A chain's progress, kept up by the entries of its log: a snapshot after any
/// entry depends on the log alone, so every reader sees the same ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    now: pb::ChainProgress,
    cancelling: bool,
}

impl Progress {
    /// Before the log's first entry.
    pub fn new(task_id: &str, spec: &pb::ChainSpec) -> Self {
        Self {
            now: pb::ChainProgress {
                task_id: task_id.to_owned(),
                total_steps: i32::try_from(spec.steps.len()).unwrap_or(i32::MAX),
                status: ChainStatus::Queued as i32,
                ..pb::ChainProgress::default()
            },
            cancelling: false,
        }
    }

    /// Takes the next entry; true if it changed more than the number, so that
    /// watchers get a snapshot. An entry seen before changes nothing.
    pub fn apply(&mut self, event: &pb::Event) -> bool {
        let now = &mut self.now;
        if event.sequence <= now.sequence {
            return false;
        }
        now.sequence = event.sequence;
        match &event.kind {
            Some(Kind::StepStarted(step)) => {
                now.current_step = step.step_index;
                now.current_step_name = step.name.clone();
                now.current_step_task_id = step.task_id.clone();
                now.current_step_start_time = event.time;
                if !self.cancelling {
                    now.status = ChainStatus::Running as i32;
                }
            }
            Some(Kind::StepFinished(step)) => {
                let Some(result) = &step.result else {
                    return false;
                };
                now.current_step = result.step_index.saturating_add(1).min(now.total_steps);
                self.no_step();
                self.now.completed_steps.push(result.clone());
            }
            Some(Kind::Cancelling(_)) => {
                self.cancelling = true;
                now.status = ChainStatus::Cancelling as i32;
            }
            Some(Kind::Finished(end)) => {
                now.current_step = now.total_steps;
                now.status = match end.state() {
                    TaskState::Succeeded => ChainStatus::Succeeded,
                    TaskState::Cancelled => ChainStatus::Cancelled,
                    TaskState::Failed
                    | TaskState::Skipped
                    | TaskState::Unspecified
                    | TaskState::Queued
                    | TaskState::Running
                    | TaskState::Cancelling => ChainStatus::Failed,
                } as i32;
                if let Some(chain) = end.result.as_ref().and_then(|r| r.chain.as_ref()) {
                    now.completed_steps = chain.steps.clone();
                }
                self.no_step();
            }
            // Not said of chains, or newer than this program.
            Some(
                Kind::Queued(_)
                | Kind::Requeued(_)
                | Kind::Started(_)
                | Kind::LogTruncated(_)
                | Kind::TextDelta(_)
                | Kind::ThinkingDelta(_)
                | Kind::ToolUse(_)
                | Kind::ToolResult(_)
                | Kind::Message(_)
                | Kind::Usage(_)
                | Kind::RateLimited(_)
                | Kind::Retrying(_),
            )
            | None => return false,
        }
        true
    }

    /// The snapshot, without the current step's text.
    pub fn snapshot(&self) -> &pb::ChainProgress {
        &self.now
    }

    /// The snapshot for a watcher, without any text.
    pub fn without_text(&self) -> pb::ChainProgress {
        let mut now = self.now.clone();
        for step in &mut now.completed_steps {
            step.output_truncated = step.output_bytes > 0;
            step.output = String::new();
        }
        now
    }

    /// The snapshot with the current step's text so far, cut to its end.
    pub fn with_text(&self, so_far: &str) -> pb::ChainProgress {
        let mut now = self.now.clone();
        if !now.current_step_task_id.is_empty() {
            now.partial_output = ending(so_far, STEP_OUTPUT_BYTES_MAX).to_owned();
        }
        now
    }

    fn no_step(&mut self) {
        self.now.current_step_name = String::new();
        self.now.current_step_task_id = String::new();
        self.now.current_step_start_time = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64, kind: Kind) -> pb::Event {
        pb::Event {
            sequence,
            time: Some(prost_types::Timestamp {
                seconds: sequence as i64,
                nanos: 0,
            }),
            kind: Some(kind),
        }
    }

    fn started(step_index: i32) -> Kind {
        Kind::StepStarted(pb::StepStarted {
            step_index,
            name: format!("s{step_index}"),
            task_id: format!("t{step_index}"),
        })
    }

    fn finished(step_index: i32) -> pb::StepResult {
        pb::StepResult {
            step_index,
            success: true,
            output: "text".into(),
            output_bytes: 4,
            ..pb::StepResult::default()
        }
    }

    fn two_steps() -> Progress {
        let spec = pb::ChainSpec {
            steps: vec![pb::ChainStep::default(); 2],
            ..pb::ChainSpec::default()
        };
        Progress::new("chain", &spec)
    }

    #[test]
    fn a_snapshot_says_which_step_is_under_way() {
        let mut progress = two_steps();
        assert!(!progress.apply(&event(1, Kind::Queued(pb::Queued {}))));
        assert_eq!(progress.snapshot().status(), ChainStatus::Queued);

        assert!(progress.apply(&event(2, started(0))));
        let now = progress.with_text("so far");
        assert_eq!(now.status(), ChainStatus::Running);
        assert_eq!((now.sequence, now.current_step), (2, 0));
        assert_eq!(now.current_step_task_id, "t0");
        assert_eq!(now.current_step_start_time.map(|t| t.seconds), Some(2));
        assert_eq!(now.partial_output, "so far");

        let end = Kind::StepFinished(pb::StepFinished {
            result: Some(finished(0)),
        });
        assert!(progress.apply(&event(3, end.clone())));
        assert!(!progress.apply(&event(3, end)), "seen before");
        let now = progress.with_text("nothing is under way");
        assert_eq!((now.current_step, now.partial_output.as_str()), (1, ""));
        assert_eq!(now.completed_steps, [finished(0)]);
        let quiet = progress.without_text();
        assert_eq!(quiet.completed_steps[0].output, "");
        assert!(quiet.completed_steps[0].output_truncated);
    }

    #[test]
    fn the_end_shows_the_result_and_a_cancel_is_not_overwritten() {
        let mut progress = two_steps();
        progress.apply(&event(1, started(0)));
        progress.apply(&event(2, Kind::Cancelling(pb::Cancelling::default())));
        assert_eq!(progress.snapshot().status(), ChainStatus::Cancelling);
        let skipped = pb::StepResult {
            step_index: 1,
            skipped: true,
            ..pb::StepResult::default()
        };
        let steps = vec![finished(0), skipped];
        progress.apply(&event(
            3,
            Kind::Finished(pb::Finished {
                state: TaskState::Cancelled as i32,
                result: Some(pb::TaskResult {
                    chain: Some(pb::ChainResult {
                        steps: steps.clone(),
                        ..pb::ChainResult::default()
                    }),
                    ..pb::TaskResult::default()
                }),
                ..pb::Finished::default()
            }),
        ));
        let now = progress.snapshot();
        assert_eq!(now.status(), ChainStatus::Cancelled);
        assert_eq!((now.current_step, now.total_steps), (2, 2));
        assert_eq!(now.completed_steps, steps);
        assert_eq!(now.current_step_task_id, "");
    }
}
