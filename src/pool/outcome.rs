//! What an attempt came to, as the task sees it. Pure.

use std::sync::Arc;
use std::time::Duration;

use super::attempt::{lost, requeue};
use super::log::{cut, cut_piece};
use crate::agent::{AgentError, Observation, ProcessEnd, TurnEnd, TurnError};
use crate::clock::Timestamp;
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::pb::{self, Failure, FailureReason, ProcessOrigin, RequeueReason};
use crate::task::apply::Outcome;
use crate::task::retry::{Facts, classify, is_retryable};
use crate::task::{Task, TaskEvent};

/// Longest text in a result; all of it can be read apart.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Longest structured output and message of a failure in a result.
const DETAIL_BYTES_MAX: usize = 4 * 1024;
/// Most denials and models in a result.
const DENIALS_MAX: usize = 100;
/// Longest name in a result.
const NAME_BYTES_MAX: usize = 1024;

/// Why we ended an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A cancel.
    Cancel,
    /// A drain's deadline, or the pool stops.
    HandBack,
    /// The slot's process is to be replaced.
    Restart,
    /// It ran too long.
    RunTimeout,
    /// It was silent too long.
    Stalled,
    /// It cost too much.
    Budget,
    /// It took too many turns.
    MaxTurns,
    /// The provider refuses the credentials.
    Authentication,
    /// Another has taken the task.
    Fenced,
}

/// How an attempt ended.
pub struct Ended {
    how: How,
    /// Last known cost, where the turn itself does not tell.
    cost: Microdollars,
    /// What was done in a directory of the attempt's own, or why it could not
    /// be kept as a ref.
    work: Result<Option<pb::GitResult>, String>,
}

enum How {
    Turn(Box<TurnEnd>, Duration),
    Stopped(Stop, Option<(Box<TurnEnd>, Duration)>),
    Died(ProcessEnd),
    Violation(String),
    NoProcess(AgentError),
    Workspace(String),
}

impl Ended {
    pub fn turn(end: TurnEnd, duration: Duration) -> Self {
        Self::new(How::Turn(Box::new(end), duration), Microdollars::ZERO)
    }

    pub fn stopped(stop: Stop, turn: Option<(TurnEnd, Duration)>, cost: Microdollars) -> Self {
        let turn = turn.map(|(end, duration)| (Box::new(end), duration));
        Self::new(How::Stopped(stop, turn), cost)
    }

    pub fn died(end: ProcessEnd, cost: Microdollars) -> Self {
        Self::new(How::Died(end), cost)
    }

    pub fn violation(what: String, cost: Microdollars) -> Self {
        Self::new(How::Violation(what), cost)
    }

    pub fn no_process(error: AgentError) -> Self {
        Self::new(How::NoProcess(error), Microdollars::ZERO)
    }

    pub fn workspace(what: String) -> Self {
        Self::new(How::Workspace(what), Microdollars::ZERO)
    }

    fn new(how: How, cost: Microdollars) -> Self {
        Self {
            how,
            cost,
            work: Ok(None),
        }
    }

    /// With what was done in a directory of the attempt's own.
    pub fn with_work(self, work: Result<Option<pb::GitResult>, String>) -> Self {
        Self { work, ..self }
    }

    /// Whether the turn ended by itself.
    pub fn is_turn(&self) -> bool {
        matches!(self.how, How::Turn(..))
    }

    /// Whether the session to go on with is gone.
    pub fn is_no_session(&self) -> bool {
        matches!(self.how, How::NoProcess(AgentError::NoSession))
    }

    /// Whether the process may be fit for another attempt, if a reset says so.
    pub fn process_is_usable(&self) -> bool {
        match &self.how {
            // It was silent once without a reason that we know.
            How::Stopped(Stop::Stalled, _) => false,
            How::Turn(..) | How::Stopped(_, Some(_)) | How::Workspace(_) => true,
            How::NoProcess(error) => matches!(error, AgentError::Refused { .. }),
            How::Stopped(_, None) | How::Died(_) | How::Violation(_) => false,
        }
    }

    /// For the log.
    pub fn describe(&self) -> String {
        match &self.how {
            How::Turn(..) => "the turn ended".to_owned(),
            How::Stopped(stop, _) => format!("it was stopped: {stop:?}"),
            How::Died(end) => format!("it died, exit code {:?}", end.exit_code),
            How::Violation(what) => what.clone(),
            How::NoProcess(error) => error.to_string(),
            How::Workspace(what) => what.clone(),
        }
    }
}

/// What the end of an attempt means for its task.
pub fn event(task: &Task, ended: Ended, origin: ProcessOrigin, now: Timestamp) -> TaskEvent {
    let Ended { how, cost, work } = ended;
    let (turn, failure) = match how {
        How::Turn(end, duration) => {
            let failure = turn_failure(&end);
            (Some((end, duration)), failure)
        }
        How::Stopped(stop, turn) => {
            let (reason, message) = match stop {
                // The task is being cancelled, or is not ours: apply decides.
                Stop::Cancel | Stop::Fenced => (FailureReason::Interrupted, "it was cancelled"),
                Stop::HandBack | Stop::Restart => {
                    let known = turn.map_or(cost, |(end, _)| end.cost.max(cost));
                    let reason = match stop {
                        Stop::HandBack => RequeueReason::Drained,
                        _ => RequeueReason::SlotLost,
                    };
                    return requeue(task, reason, known, now);
                }
                Stop::RunTimeout => (FailureReason::RunTimeout, "it ran longer than run_timeout"),
                Stop::Stalled => (
                    FailureReason::Stalled,
                    "the agent said nothing for longer than stall_timeout",
                ),
                Stop::Budget => (FailureReason::Budget, "the task's budget is spent"),
                Stop::MaxTurns => (FailureReason::MaxTurns, "the limit of turns was reached"),
                Stop::Authentication => (
                    FailureReason::Authentication,
                    "the model provider refuses the credentials",
                ),
            };
            (turn, Some(failure(reason, message)))
        }
        How::Died(end) if end.lease_expired => return lost(task, cost),
        How::Died(end) => {
            let message = match end.exit_code {
                Some(code) => format!("the agent's process ended with exit code {code}"),
                None => "the agent's process ended".to_owned(),
            };
            (
                None,
                Some(Failure {
                    exit_code: end.exit_code,
                    stderr_tail: end.stderr_tail,
                    ..failure(FailureReason::ProcessDied, &message)
                }),
            )
        }
        How::Violation(what) => (None, Some(failure(FailureReason::Protocol, &what))),
        How::NoProcess(AgentError::Refused { setting, message }) => (
            None,
            Some(failure(
                FailureReason::InvalidRequest,
                &format!("the agent refuses settings.{setting}: {message}"),
            )),
        ),
        How::NoProcess(error @ AgentError::NoSession) => (
            None,
            Some(failure(FailureReason::SessionUnusable, &error.to_string())),
        ),
        How::NoProcess(error) => (
            None,
            Some(failure(FailureReason::Launch, &error.to_string())),
        ),
        How::Workspace(what) => (None, Some(failure(FailureReason::Workspace, &what))),
    };
    let estimated = turn.is_none() && cost != Microdollars::ZERO;
    let cost = turn.as_ref().map_or(cost, |(end, _)| end.cost.max(cost));
    let (mut result, output) = match turn {
        Some((end, duration)) => turn_result(*end, duration),
        None => Default::default(),
    };
    let failure = match work {
        Ok(git) => {
            result.git = git;
            failure
        }
        Err(message) => failure.or_else(|| Some(self::failure(FailureReason::Workspace, &message))),
    };
    result.success = failure.is_none();
    result.failure = failure;
    TaskEvent::Finish(Outcome {
        attempt: task.attempt,
        result,
        output,
        cost,
        estimated,
        origin,
    })
}

/// An answer without the object that was asked for is a failure, though the
/// agent calls it success; so is an object that no result can hold.
pub fn hold_to_schema(end: &mut TurnEnd, settings: &pb::RunSettings) {
    let given = end.structured_output.take();
    let too_large = given.as_ref().is_some_and(|o| o.len() > OUTPUT_BYTES_MAX);
    end.structured_output = given.filter(|_| !too_large);
    if settings.json_schema.is_some() && end.error.is_none() && end.structured_output.is_none() {
        let message = match too_large {
            true => "the answer's object is larger than 1 MiB",
            false => "the answer does not satisfy json_schema",
        };
        end.error = Some(TurnError {
            subtype: "error_max_structured_output_retries".to_owned(),
            message: message.to_owned(),
            ..TurnError::default()
        });
    }
}

fn failure(reason: FailureReason, message: &str) -> Failure {
    Failure {
        reason: reason as i32,
        message: cut(message.to_owned(), DETAIL_BYTES_MAX).0,
        retryable: is_retryable(reason),
        ..Failure::default()
    }
}

fn turn_failure(end: &TurnEnd) -> Option<Failure> {
    let error = end.error.as_ref()?;
    let reason = classify(Facts {
        subtype: &error.subtype,
        terminal_reason: &error.terminal_reason,
        api_status: error.api_status,
        stop_reason: &end.stop_reason,
    });
    Some(Failure {
        api_status: error.api_status,
        ..failure(reason, &error.message)
    })
}

fn turn_result(end: TurnEnd, duration: Duration) -> (pb::TaskResult, Option<Arc<str>>) {
    let output_bytes = i64::try_from(end.output.len()).unwrap_or(i64::MAX);
    let truncated = end.output.len() > OUTPUT_BYTES_MAX;
    let whole = truncated.then(|| Arc::from(end.output.as_str()));
    let (output, _) = cut(end.output, OUTPUT_BYTES_MAX);
    let result = pb::TaskResult {
        output,
        output_bytes,
        output_truncated: truncated,
        structured_output_json: end.structured_output.unwrap_or_default(),
        usage: end.usage.into_iter().take(DENIALS_MAX).collect(),
        turns_used: end.turns,
        duration: prost_types::Duration::try_from(duration).ok(),
        session_id: end.session_id,
        model: cut(end.model, NAME_BYTES_MAX).0,
        permission_denials: end
            .permission_denials
            .into_iter()
            .take(DENIALS_MAX)
            .map(|denial| pb::PermissionDenial {
                tool_input_json: cut(denial.tool_input_json, DETAIL_BYTES_MAX).0,
                tool_name: cut(denial.tool_name, NAME_BYTES_MAX).0,
                tool_use_id: cut(denial.tool_use_id, NAME_BYTES_MAX).0,
            })
            .collect(),
        ..pb::TaskResult::default()
    };
    (result, whole)
}

/// What an observation leaves in the log; `None`: nothing.
pub fn log_entry(said: Observation, now: Timestamp) -> Option<Kind> {
    Some(match said {
        Observation::TextDelta {
            text,
            parent_tool_use_id,
        } => Kind::TextDelta(pb::TextDelta {
            text,
            parent_tool_use_id,
        }),
        Observation::ThinkingDelta {
            text,
            parent_tool_use_id,
        } => Kind::ThinkingDelta(pb::ThinkingDelta {
            text,
            parent_tool_use_id,
        }),
        Observation::ToolUse {
            id,
            name,
            input_json,
            parent_tool_use_id,
        } => {
            let (input_json, input_truncated) = cut_piece(input_json);
            Kind::ToolUse(pb::ToolUse {
                tool_use_id: id,
                name,
                input_json,
                input_truncated,
                parent_tool_use_id,
            })
        }
        Observation::ToolResult {
            id,
            is_error,
            output,
        } => {
            let (output, output_truncated) = cut_piece(output);
            Kind::ToolResult(pb::ToolResult {
                tool_use_id: id,
                is_error,
                output,
                output_truncated,
            })
        }
        Observation::Message {
            id,
            model,
            stop_reason,
            input_tokens,
            output_tokens,
        } => Kind::Message(pb::MessageFinished {
            message_id: id,
            model,
            stop_reason,
            input_tokens,
            output_tokens,
        }),
        Observation::Retrying {
            retry,
            max_retries,
            delay,
            api_status,
            error,
        } => Kind::Retrying(pb::Retrying {
            retry,
            max_retries,
            delay: prost_types::Duration::try_from(delay).ok(),
            api_status,
            error,
        }),
        Observation::RateLimited { resets_at, message } => Kind::RateLimited(pb::RateLimited {
            until: Some(
                resets_at
                    .map_or(now.after(Duration::from_secs(60)), |seconds| {
                        Timestamp(seconds.saturating_mul(1_000_000))
                    })
                    .to_proto(),
            ),
            estimated: resets_at.is_none(),
            message,
        }),
        Observation::Cost(cost) => Kind::Usage(pb::UsageUpdate {
            cost_microdollars: cost.0,
            usage: Vec::new(),
        }),
        Observation::TurnStarted { .. }
        | Observation::TurnEnded(_)
        | Observation::ProcessEnded(_)
        | Observation::Violation(_)
        | Observation::Alive => return None,
    })
}
