//! What the lines of a process mean: turns, resets, and whether the process is
//! still fit for another task. Pure: lines in, observations out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::protocol::{Assistant, Block, Init, Line, Outcome, Stream, Tokens, Usage};
use crate::agent::{Observation, TurnEnd, TurnError};
use crate::money::Microdollars;
use crate::pb::ModelUsage;

/// Longest piece of text in one observation, in bytes. Longer ones are split.
const PIECE: usize = 64 * 1024;

/// Tools of which nothing outlives a reset. Any other, also one that a later
/// release adds, makes the process unclean.
const CLEAN_TOOLS: [&str; 13] = [
    "Bash",
    "Edit",
    "Glob",
    "Grep",
    "LS",
    "MultiEdit",
    "NotebookEdit",
    "Read",
    "StructuredOutput",
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

/// Running totals of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    pub dollars: f64,
    pub models: BTreeMap<String, Usage>,
}

/// The state of one process's conversation.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    pub in_force: InForce,
    pub base: Totals,
    session_id: String,
    phase: Phase,
    turns: u32,
    unclean: Option<String>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Turn(Box<Turn>),
    Reset(Box<Reset>),
}

/// A turn under way.
#[derive(Debug, Default)]
struct Turn {
    message: String,
    started: bool,
    model: String,
    messages: i32,
    /// Messages being streamed, by whose subagent's.
    open: BTreeMap<String, Open>,
}

/// A message being written.
#[derive(Debug, Default)]
struct Open {
    id: String,
    model: String,
    tokens: Tokens,
    streamed: bool,
    told: bool,
    complete: bool,
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
    /// Whether a turn is under way.
    pub(crate) fn in_turn(&self) -> bool {
        matches!(self.phase, Phase::Turn(_))
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

    /// A message of ours with this id begins a turn.
    pub(crate) fn begin(&mut self, message: &str) {
        self.turns += 1;
        self.phase = Phase::Turn(Box::new(Turn {
            message: message.to_owned(),
            ..Turn::default()
        }));
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
        self.turns = 0;
        Ok(())
    }

    /// What this conversation cost since its last result.
    pub(crate) fn cost_since(&self, total: f64) -> Microdollars {
        Microdollars::from_dollars(total - self.base.dollars)
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
        if let Line::Assistant(message, _) = &line
            && let Some(reason) = message.content.iter().find_map(lasting)
        {
            self.taint(reason);
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
                turn.open.clear();
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

impl Turn {
    fn stream(&mut self, event: Stream, parent: String, out: &mut VecDeque<Observation>) {
        match event {
            Stream::MessageStart { id, model, usage } => {
                let open = Open {
                    id,
                    model,
                    tokens: usage,
                    streamed: true,
                    ..Open::default()
                };
                if let Some(before) = self.open.insert(parent, open) {
                    before.voided(out);
                }
            }
            Stream::Text(text) => {
                self.open.entry(parent.clone()).or_default().told = true;
                split(text, |text| {
                    out.push_back(Observation::TextDelta {
                        text,
                        parent_tool_use_id: parent.clone(),
                    });
                });
            }
            Stream::Thinking(text) => split(text, |text| {
                out.push_back(Observation::ThinkingDelta {
                    text,
                    parent_tool_use_id: parent.clone(),
                });
            }),
            Stream::MessageDelta { stop_reason, usage } => {
                if let Some(open) = self.open.get_mut(&parent) {
                    open.tokens = open.tokens.or(usage);
                    let message = open.complete(stop_reason.unwrap_or_default());
                    self.push_message(message, &parent, out);
                }
            }
            Stream::Other => {}
        }
    }

    fn assistant(&mut self, message: Assistant, parent: String, out: &mut VecDeque<Observation>) {
        // The CLI's own words about a failure: they are in the result.
        let synthetic = message.model == "<synthetic>";
        let streamed = self
            .open
            .get(&parent)
            .is_some_and(|open| open.id == message.id && open.streamed);
        if !streamed && !synthetic {
            match self.open.get(&parent) {
                Some(open) if open.id == message.id => {}
                Some(open) if open.streamed => open.voided(out),
                Some(_) => self.flush(None, out),
                None => {}
            }
            let open = self.open.entry(parent.clone()).or_default();
            *open = Open {
                id: message.id,
                model: message.model,
                tokens: message.usage,
                told: true,
                ..Open::default()
            };
        }
        for block in message.content {
            match block {
                Block::Text(text) if !streamed && !synthetic => split(text, |text| {
                    out.push_back(Observation::TextDelta {
                        text,
                        parent_tool_use_id: parent.clone(),
                    });
                }),
                Block::Thinking(text) if !streamed => split(text, |text| {
                    out.push_back(Observation::ThinkingDelta {
                        text,
                        parent_tool_use_id: parent.clone(),
                    });
                }),
                Block::Text(_) | Block::Thinking(_) => {}
                Block::ToolUse { id, name, input } => out.push_back(Observation::ToolUse {
                    id,
                    name,
                    input_json: input.to_string(),
                    parent_tool_use_id: parent.clone(),
                }),
            }
        }
        if let (false, false, Some(reason)) = (streamed, synthetic, message.stop_reason)
            && let Some(open) = self.open.get_mut(&parent)
        {
            let message = open.complete(reason);
            self.push_message(message, &parent, out);
        }
    }

    /// Messages that came whole tell no end: it shows in what follows.
    fn flush(&mut self, stop_reason: Option<&str>, out: &mut VecDeque<Observation>) {
        let whole = |(_, open): &(&String, &mut Open)| !open.streamed && !open.complete;
        let messages: Vec<_> = self
            .open
            .iter_mut()
            .filter(whole)
            .map(|(parent, open)| {
                let reason = stop_reason.unwrap_or_default().to_owned();
                (open.complete(reason), parent.clone())
            })
            .collect();
        for (message, parent) in messages {
            self.push_message(message, &parent, out);
        }
    }

    fn push_message(
        &mut self,
        message: Observation,
        parent: &str,
        out: &mut VecDeque<Observation>,
    ) {
        if let (Observation::Message { model, .. }, true) = (&message, parent.is_empty()) {
            self.messages += 1;
            self.model.clone_from(model);
        }
        out.push_back(message);
    }
}

impl Open {
    fn complete(&mut self, stop_reason: String) -> Observation {
        self.complete = true;
        Observation::Message {
            id: self.id.clone(),
            model: self.model.clone(),
            stop_reason,
            input_tokens: self.tokens.input.unwrap_or_default(),
            output_tokens: self.tokens.output.unwrap_or_default(),
        }
    }

    /// The message is not going on: what was told of it is void. The CLI tries
    /// again without a word after some failures.
    fn voided(&self, out: &mut VecDeque<Observation>) {
        if self.told && !self.complete {
            out.push_back(Observation::Retrying {
                retry: 1,
                max_retries: 0,
                delay: Duration::ZERO,
                api_status: None,
                error: "stream_restarted".into(),
            });
        }
    }
}

impl Tokens {
    /// These counts, overruled by later ones. A count of zero read is none: the
    /// end of a message often tells only what was written.
    fn or(self, later: Self) -> Self {
        Self {
            input: later.input.filter(|input| *input > 0).or(self.input),
            output: later.output.or(self.output),
        }
    }
}

impl Totals {
    fn take(&mut self, outcome: &Outcome) {
        if let Some(dollars) = outcome.total_dollars {
            self.dollars = dollars;
            self.models.clone_from(&outcome.total);
        }
    }
}

/// Splits on character boundaries.
fn split(text: String, mut piece: impl FnMut(String)) {
    if text.len() <= PIECE {
        if !text.is_empty() {
            piece(text);
        }
        return;
    }
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(rest.floor_char_boundary(PIECE));
        piece(head.to_owned());
        rest = tail;
    }
}

fn turn_end(turn: &Turn, outcome: Outcome, base: &mut Totals) -> TurnEnd {
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

fn difference(
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

fn model_usage((model, usage): (String, Usage)) -> ModelUsage {
    ModelUsage {
        model,
        input_tokens: usage.input,
        output_tokens: usage.output,
        cache_read_tokens: usage.cache_read,
        cache_write_tokens: usage.cache_write,
        cost_microdollars: Microdollars::from_dollars(usage.dollars).0,
    }
}

#[cfg(test)]
mod tests;
