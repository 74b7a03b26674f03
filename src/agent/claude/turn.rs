//! What the lines of a process mean: turns, resets, and whether the process is
//! still fit for another task. Pure: lines in, observations out.

use std::collections::{BTreeMap, VecDeque};

use self::cost::{difference, model_usage, turn_end};
use self::message::Turn;
use super::protocol::{Block, Init, Line, Outcome, Usage};
use crate::agent::{Observation, Spent};
use crate::money::Microdollars;

mod cost;
mod message;

pub(crate) use self::cost::Totals;

/// Tools of which nothing outlives a reset. Any other, also one that a later
/// release adds, makes the process unclean.
///
/// Subagents (`Agent`, `Task`) are among them: their tool calls are told like all
/// others.
const CLEAN_TOOLS: [&str; 15] = [
    "Agent",
    "Bash",
    "Edit",
    "Glob",
    "Grep",
    "LS",
    "MultiEdit",
    "NotebookEdit",
    "Read",
    "StructuredOutput",
    "Task",
    "TodoWrite",
    "WebFetch",
    "WebSearch",
    "Write",
];

/// What is in force, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InForce {
    /// `None`: the CLI's default, not told yet.
    pub model: Option<String>,
    pub permission_mode: String,
    pub working_dir: Option<String>,
}

impl InForce {
    /// What `init` says otherwise.
    fn mismatch(&self, init: &Init, working_dir: bool) -> Option<String> {
        let differs = |what, wanted: Option<&str>, is: &str| {
            wanted
                .filter(|wanted| *wanted != is)
                .map(|wanted| format!("the {what} is {is}, not {wanted}"))
        };
        differs("model", self.model.as_deref(), &init.model)
            .or_else(|| {
                let mode = Some(self.permission_mode.as_str());
                differs("permission mode", mode, &init.permission_mode)
            })
            .or_else(|| {
                let dir = self.working_dir.as_deref().filter(|_| working_dir);
                differs("working directory", dir, &init.working_dir)
            })
    }
}

/// The state of one process's conversation.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    pub in_force: InForce,
    pub base: Totals,
    /// What of the totals was there when the process resumed its conversation.
    pub restored: f64,
    session_id: String,
    phase: Phase,
    turns: u32,
    /// It goes on with what another process began.
    resumed: bool,
    unclean: Option<String>,
    /// Something may have started processes since the last reset.
    may_have_children: bool,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Turn(Box<Turn>),
    Reset(Box<Reset>),
}

/// A reset under way: what has been seen of it.
#[derive(Debug, Default)]
struct Reset {
    message: String,
    forgotten: bool,
    background: Option<usize>,
    init: Option<Init>,
    outcome: Option<Outcome>,
}

impl Conversation {
    /// The process goes on with what another one began.
    pub(crate) fn resumed(&mut self) {
        self.resumed = true;
    }

    /// Whether there was a turn before, which may have left something that
    /// begins another one by itself.
    pub(crate) fn has_past(&self) -> bool {
        self.turns > 0 || self.resumed || self.unclean.is_some()
    }

    /// Whether a turn is under way.
    pub(crate) fn in_turn(&self) -> bool {
        matches!(self.phase, Phase::Turn(_))
    }

    /// Whether neither a turn nor a reset is under way.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether the turn under way has told its start.
    pub(crate) fn has_started(&self) -> bool {
        matches!(&self.phase, Phase::Turn(turn) if turn.started)
    }

    /// The message of ours whose turn is under way.
    pub(crate) fn current(&self) -> Option<&String> {
        match &self.phase {
            Phase::Turn(turn) => Some(&turn.message),
            _ => None,
        }
    }

    /// Notes why the process is not fit for another task; the first reason stays.
    pub(crate) fn taint(&mut self, reason: impl Into<String>) {
        self.unclean.get_or_insert_with(|| reason.into());
    }

    /// Why the process is not fit for another task.
    pub(crate) fn unclean(&self) -> Option<&str> {
        self.unclean.as_deref()
    }

    /// Whether a tool call, or a turn that did not end by itself, may have left
    /// processes behind since the last reset. Nothing else starts any.
    pub(crate) fn may_have_children(&self) -> bool {
        self.may_have_children
    }

    /// A message of ours with this id begins a turn.
    pub(crate) fn begin(&mut self, message: &str) {
        self.turns += 1;
        self.phase = Phase::Turn(Box::new(Turn::of(message)));
    }

    /// A message of ours with this id begins a reset.
    pub(crate) fn begin_reset(&mut self, message: &str) {
        self.phase = Phase::Reset(Box::new(Reset {
            message: message.to_owned(),
            ..Reset::default()
        }));
    }

    /// `None`: the reset is not over. An error is a reason to recycle.
    pub(crate) fn reset_result(&mut self) -> Option<Result<(), String>> {
        let Phase::Reset(reset) = &self.phase else {
            return Some(Err("no reset is under way".into()));
        };
        reset.outcome.as_ref()?;
        let Phase::Reset(reset) = std::mem::take(&mut self.phase) else {
            return None;
        };
        let verdict = self.judge(*reset);
        if let Err(reason) = &verdict {
            self.taint(reason.clone());
        }
        Some(verdict)
    }

    fn judge(&mut self, reset: Reset) -> Result<(), String> {
        let outcome = reset.outcome.unwrap_or_default();
        let init = reset.init.ok_or("the reset began no conversation")?;
        if let Some(reason) = &self.unclean {
            return Err(reason.clone());
        }
        if !reset.forgotten {
            return Err("the reset was not confirmed".into());
        }
        if outcome.is_error || outcome.local_command.as_deref() != Some("clear") {
            return Err("the reset was not done".into());
        }
        if init.session_id == self.session_id || init.session_id != outcome.session_id {
            return Err("the conversation is the old one".into());
        }
        if reset.background != Some(0) {
            return Err("background tasks outlived the reset".into());
        }
        if let Some(mismatch) = self.in_force.mismatch(&init, true) {
            return Err(mismatch);
        }
        if outcome.total_dollars.unwrap_or_default() != 0.0 {
            return Err("the reset kept the running totals".into());
        }
        self.session_id = init.session_id;
        self.base = Totals::default();
        self.restored = 0.0;
        self.turns = 0;
        self.may_have_children = false;
        Ok(())
    }

    /// What this process has spent on its conversation up to its last result.
    pub(crate) fn spent(&self) -> Microdollars {
        Microdollars::from_dollars(self.base.dollars - self.restored)
    }

    /// What this conversation cost since its last result.
    pub(crate) fn spent_since(&self, total: f64, models: &BTreeMap<String, Usage>) -> Spent {
        let usage = difference(models, &self.base.models).into_iter();
        Spent {
            cost: Microdollars::from_dollars(total - self.base.dollars),
            usage: usage.map(model_usage).collect(),
        }
    }

    /// Takes in a line.
    pub(crate) fn line(&mut self, line: Line, out: &mut VecDeque<Observation>) {
        match line {
            Line::Noise => self.taint("something wrote on its stdout"),
            Line::Broken => {
                self.taint("it wrote a broken line");
                out.push_back(Observation::Violation("it wrote a broken line".into()));
            }
            Line::SelfStarted => self.taint("it began a turn of its own accord"),
            Line::ModelFallback => {
                self.in_force.model = None;
                self.taint("another model took over");
            }
            Line::ModeChanged(mode) if self.in_turn() => {
                if mode != self.in_force.permission_mode {
                    self.taint("the permission mode changed during a turn");
                    self.in_force.permission_mode = mode;
                }
            }
            Line::BackgroundTasks(count) => {
                if let Phase::Reset(reset) = &mut self.phase {
                    reset.background = Some(count);
                }
                if count > 0 {
                    self.taint("it ran something in the background");
                }
            }
            Line::ConversationReset => match &mut self.phase {
                Phase::Reset(reset) => reset.forgotten = true,
                _ => self.taint("it reset itself"),
            },
            Line::Init(init) => self.init(init, out),
            Line::Outcome(outcome) => self.outcome(*outcome, out),
            line => self.content(line, out),
        }
    }

    fn init(&mut self, init: Init, out: &mut VecDeque<Observation>) {
        let first = self.turns <= 1;
        match &mut self.phase {
            Phase::Reset(reset) if ours(&init.messages, &reset.message) => reset.init = Some(init),
            Phase::Turn(turn) if ours(&init.messages, &turn.message) && !turn.started => {
                turn.started = true;
                turn.model.clone_from(&init.model);
                self.session_id.clone_from(&init.session_id);
                // A `cd` of an earlier turn may have moved a conversation.
                if let Some(mismatch) = self.in_force.mismatch(&init, first) {
                    self.taint(mismatch.clone());
                    out.push_back(Observation::Violation(mismatch));
                    return;
                }
                self.in_force
                    .model
                    .get_or_insert_with(|| init.model.clone());
                out.push_back(Observation::TurnStarted {
                    session_id: init.session_id,
                    model: init.model,
                    permission_mode: init.permission_mode,
                    working_dir: init.working_dir,
                    total: Microdollars::from_dollars(self.base.dollars),
                });
            }
            Phase::Turn(turn) if ours(&init.messages, &turn.message) => {}
            _ => self.taint("it began a turn of its own accord"),
        }
    }

    fn outcome(&mut self, outcome: Outcome, out: &mut VecDeque<Observation>) {
        let foreign = outcome.origin.is_some();
        match &mut self.phase {
            Phase::Reset(reset) if !foreign && ours(&outcome.messages, &reset.message) => {
                reset.outcome = Some(outcome);
            }
            // Every turn tells its start; a result before it is an earlier one's.
            Phase::Turn(turn)
                if !foreign
                    && ours(&outcome.messages, &turn.message)
                    && (turn.started || !outcome.messages.is_empty()) =>
            {
                turn.flush(Some(&outcome.stop_reason), out);
                self.may_have_children |= outcome.is_error || outcome.subtype != "success";
                let end = turn_end(turn, outcome, &mut self.base);
                self.phase = Phase::Idle;
                out.push_back(Observation::TurnEnded(Box::new(end)));
            }
            _ => {
                // Its cost is in the running totals; it is nobody's result.
                self.taint("it ended a turn that nobody began");
                self.base.take(&outcome);
            }
        }
    }

    /// What belongs to a turn. Outside of one it means nothing.
    fn content(&mut self, line: Line, out: &mut VecDeque<Observation>) {
        if let Line::Assistant(message, _) = &line {
            let mut blocks = message.content.iter();
            self.may_have_children |= blocks.any(|block| matches!(block, Block::ToolUse { .. }));
            if let Some(reason) = message.content.iter().find_map(lasting) {
                self.taint(reason);
            }
        }
        let Phase::Turn(turn) = &mut self.phase else {
            return;
        };
        match line {
            Line::Stream(event, parent) => turn.stream(event, parent, out),
            Line::Assistant(message, parent) => turn.assistant(message, parent, out),
            Line::ToolResults(results) => {
                turn.flush(Some("tool_use"), out);
                out.extend(results.into_iter().map(|result| Observation::ToolResult {
                    id: result.id,
                    is_error: result.is_error,
                    output: result.output,
                }));
            }
            Line::Retry(retry) => {
                turn.void();
                let limited = retry.error == "rate_limit" || retry.status == Some(429);
                out.push_back(Observation::Retrying {
                    retry: retry.attempt,
                    max_retries: retry.max_retries,
                    delay: retry.delay,
                    api_status: retry.status,
                    error: retry.error.clone(),
                });
                if limited {
                    out.push_back(Observation::RateLimited {
                        resets_at: None,
                        message: retry.error,
                    });
                }
            }
            Line::RateLimit(limit) if limit.rejected => out.push_back(Observation::RateLimited {
                resets_at: limit.resets_at,
                message: limit.kind,
            }),
            _ => {}
        }
    }
}

/// Whether what names `messages` is about our `message`. A CLI that names none
/// is believed.
fn ours(messages: &[String], message: &str) -> bool {
    messages.is_empty() || messages.iter().any(|m| m == message)
}

/// Why a tool call makes the process unfit for another task.
fn lasting(block: &Block) -> Option<String> {
    let Block::ToolUse { name, input, .. } = block else {
        return None;
    };
    if !CLEAN_TOOLS.contains(&name.as_str()) {
        return Some(format!("the tool {name} was used"));
    }
    let background = input.get("run_in_background")?.as_bool()?;
    background.then(|| "it ran something in the background".into())
}

#[cfg(test)]
mod tests;
