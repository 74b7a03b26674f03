//! A task's life for people: text as it is written, notes beside it.
//!
//! Answers go to stdout, notes to stderr, so that a pipe holds answers alone.
//! Colour is dropped where it would not be shown.

use std::io::Write;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};
use indicatif::ProgressBar;

use crate::pb;
use crate::pb::event::Kind;

const DIM: Style = Style::new().dimmed();
const WARN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const GOOD: Style = AnsiColor::Green.on_default();

/// Longest part of a tool's input or answer that is shown, in characters.
const GLIMPSE: usize = 100;

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Prints to stdout. A reader that has gone ends the command.
pub(super) fn text(text: &str) {
    let mut out = anstream::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

/// Prints a line to stdout.
pub(super) fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Prints a line beside the answer, to stderr.
pub(super) fn note(note: &str) {
    styled(DIM, note);
}

fn styled(style: Style, note: &str) {
    anstream::eprintln!("{style}{note}{style:#}");
}

/// Money for people: six decimals below a cent, two from a dollar on.
pub(super) fn dollars(microdollars: i64) -> String {
    let dollars = microdollars as f64 / 1e6;
    if dollars >= 1.0 {
        format!("${dollars:.2}")
    } else {
        format!("${dollars:.4}")
    }
}

/// A state in small letters.
pub(super) fn state(state: pb::TaskState) -> &'static str {
    match state {
        pb::TaskState::Unspecified => "unknown",
        pb::TaskState::Queued => "queued",
        pb::TaskState::Running => "running",
        pb::TaskState::Cancelling => "cancelling",
        pb::TaskState::Succeeded => "succeeded",
        pb::TaskState::Failed => "failed",
        pb::TaskState::Cancelled => "cancelled",
        pb::TaskState::Skipped => "skipped",
    }
}

/// The first line of a text, cut.
pub(super) fn glimpse(text: &str) -> String {
    let first = text.trim().lines().next().unwrap_or_default();
    let cut: String = first.chars().take(GLIMPSE).collect();
    // What a model or a tool writes must not steer the terminal.
    let clean = cut.replace(|c: char| c.is_control(), " ");
    let more = cut.len() < text.trim().len();
    format!("{clean}{}", if more { " …" } else { "" })
}

/// Seconds of a duration, or none.
pub(super) fn seconds(duration: Option<&prost_types::Duration>) -> String {
    let Some(duration) = duration else {
        return String::new();
    };
    format!(
        "{:.1} s",
        duration.seconds as f64 + f64::from(duration.nanos) / 1e9
    )
}

/// How a task ended, in one line, and why if it failed.
pub(super) fn summary(end: pb::TaskState, result: &pb::TaskResult, task_id: &str) {
    let mut facts = vec![state(end).to_owned()];
    if result.turns_used > 0 {
        let s = if result.turns_used == 1 { "" } else { "s" };
        facts.push(format!("{} turn{s}", result.turns_used));
    }
    let about = if result.cost_estimated { "about " } else { "" };
    facts.push(format!("{about}{}", dollars(result.cost_microdollars)));
    facts.push(seconds(result.duration.as_ref()));
    facts.push(format!("task {task_id}"));
    facts.retain(|fact| !fact.is_empty());
    let style = match end {
        pb::TaskState::Succeeded => GOOD,
        pb::TaskState::Cancelled => WARN,
        _ => BAD,
    };
    styled(style, &facts.join(", "));
    if let Some(failure) = &result.failure {
        let reason = failure.reason().as_str_name();
        let reason = reason.strip_prefix("FAILURE_REASON_").unwrap_or(reason);
        styled(BAD, &format!("{reason}: {}", failure.message));
        if !failure.stderr_tail.is_empty() {
            note(failure.stderr_tail.trim_end());
        }
    }
}

/// Shows the events of one task.
pub(super) struct Live {
    text: bool,
    /// Whether anything is shown for people.
    words: bool,
    /// Turns while nothing is written; it shows on a terminal alone.
    spinner: Option<ProgressBar>,
    cost_microdollars: i64,
    line_open: bool,
    // Of what the open line holds.
    dim: bool,
}

impl Live {
    /// `text`: whether text is shown as it is written. Where it is not, the
    /// final text is printed at the end, for a retry voids what came before it.
    /// `words`: whether anything is shown for people.
    pub(super) fn new(text: bool, words: bool) -> Self {
        Self {
            text,
            words,
            spinner: None,
            cost_microdollars: 0,
            line_open: false,
            dim: false,
        }
    }

    /// Whether text was shown.
    pub(super) fn shows_text(&self) -> bool {
        self.text
    }

    /// The task is durable.
    pub(super) fn accepted(&mut self, task_id: &str) {
        self.note(&format!("task {task_id}"));
    }

    /// A line beside the text.
    pub(super) fn note(&mut self, text: &str) {
        self.close();
        self.beside(|| note(text));
    }

    fn warn(&mut self, text: &str) {
        self.close();
        self.beside(|| styled(WARN, text));
    }

    fn beside(&self, print: impl FnOnce()) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(print),
            None => print(),
        }
    }

    fn spin(&mut self, doing: Option<String>) {
        match (doing, &self.spinner) {
            (Some(doing), Some(spinner)) => spinner.set_message(doing),
            (Some(doing), None) if self.words => {
                let spinner = ProgressBar::new_spinner().with_message(doing);
                spinner.enable_steady_tick(TICK);
                self.spinner = Some(spinner);
            }
            (Some(_), None) => {}
            (None, _) => {
                if let Some(spinner) = self.spinner.take() {
                    spinner.finish_and_clear();
                }
            }
        }
    }

    /// What is under way, while no text is written.
    fn busy(&mut self, doing: &str) {
        let cost = match self.cost_microdollars {
            0 => String::new(),
            cost => format!(", {} so far", dollars(cost)),
        };
        if !self.line_open {
            self.spin(Some(format!("{doing}{cost}")));
        }
    }

    /// Ends the line that text has begun.
    fn close(&mut self) {
        if std::mem::take(&mut self.line_open) {
            text("\n");
        }
    }

    fn piece(&mut self, piece: &str, dim: bool) {
        if !self.text || piece.is_empty() {
            return;
        }
        if dim != std::mem::replace(&mut self.dim, dim) {
            self.close();
        }
        // A line that is being written has no room for a spinner behind it.
        self.spin(None);
        if dim {
            text(&format!("{DIM}{piece}{DIM:#}"));
        } else {
            text(piece);
        }
        self.line_open = !piece.ends_with('\n');
    }

    /// Shows one event.
    pub(super) fn event(&mut self, event: &pb::Event) {
        let Some(kind) = &event.kind else {
            return;
        };
        match kind {
            Kind::Started(started) if started.attempt > 1 => self.note(&format!(
                "attempt {} on {}",
                started.attempt, started.slot_id
            )),
            Kind::Started(started) => {
                self.note(&format!("on {}", started.slot_id));
                self.busy("working");
            }
            Kind::TextDelta(delta) => {
                self.piece(&delta.text, !delta.parent_tool_use_id.is_empty());
            }
            Kind::ThinkingDelta(delta) => self.piece(&delta.text, true),
            Kind::ToolUse(tool) => {
                self.note(&format!("→ {} {}", tool.name, glimpse(&tool.input_json)));
                self.busy(&tool.name);
            }
            Kind::ToolResult(result) => {
                let mark = if result.is_error { "✗" } else { "←" };
                self.note(&format!("{mark} {}", glimpse(&result.output)));
                self.busy("working");
            }
            Kind::Message(_) => self.close(),
            Kind::Requeued(requeued) => {
                let reason = requeued.reason().as_str_name();
                let reason = reason.strip_prefix("REQUEUE_REASON_").unwrap_or(reason);
                self.warn(&format!(
                    "back to the queue, {reason}: {}",
                    requeued.message
                ));
            }
            Kind::RateLimited(limited) => {
                self.warn(&format!("the provider limits: {}", limited.message));
            }
            Kind::Retrying(retrying) => self.warn(&format!(
                "the request is tried again ({} of {}): {}; what was written above is void",
                retrying.retry, retrying.max_retries, retrying.error
            )),
            Kind::Cancelling(_) => self.note("cancelling"),
            Kind::LogTruncated(_) => self.warn("the log is full: what follows is not shown"),
            Kind::StepStarted(step) => {
                self.note(&format!("step {} {}", step.step_index, step.name))
            }
            Kind::Finished(_) => {
                self.close();
                self.spin(None);
            }
            Kind::Usage(usage) => {
                self.cost_microdollars = usage.cost_microdollars;
                self.busy("working");
            }
            Kind::Queued(_) => self.busy("queued"),
            Kind::StepFinished(_) => {}
        }
    }
}
