//! What the CLI writes: one JSON object per line, parsed once. Pure.
//!
//! Tolerant on purpose: the CLI gains line types and fields with every release.
//! What is unknown is [`Line::Other`]; a field that is absent or of another
//! type counts as absent. Nothing here panics or fails.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::pb::PermissionDenial;

mod read;

/// One line of the CLI.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A turn or a reset begins.
    Init(Init),
    /// The permission mode in force has changed.
    ModeChanged(String),
    /// An event of the provider's stream, and the tool call whose subagent
    /// it belongs to (empty: the agent itself).
    Stream(Stream, String),
    /// Finished content of a message, and whose subagent's.
    Assistant(Assistant, String),
    /// Tools answered.
    ToolResults(Vec<ToolResult>),
    /// A request is tried again.
    Retry(Retry),
    /// The provider tells of its limits.
    RateLimit(RateLimit),
    /// How many tasks run in the background.
    BackgroundTasks(usize),
    /// Another model than asked for takes over.
    ModelFallback,
    /// The conversation is forgotten.
    ConversationReset,
    /// The CLI starts a turn of its own accord.
    SelfStarted,
    /// An answer to a request of ours: its id, and what it says.
    Answer(String, Result<Value, String>),
    /// A request to us that must be answered: its id, and whether it is about
    /// leave to use a tool.
    Question(String, bool),
    /// A turn or a reset is over.
    Outcome(Box<Outcome>),
    /// Anything else the CLI may say.
    Other,
    /// Not of the protocol: text that something printed.
    Noise,
    /// A line of the protocol that cannot be read.
    Broken,
}

/// `system/init`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Init {
    pub session_id: String,
    pub model: String,
    pub permission_mode: String,
    pub working_dir: String,
    /// The messages of ours that it is for; empty: not told.
    pub messages: Vec<String>,
}

/// `stream_event`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Stream {
    MessageStart {
        id: String,
        model: String,
        usage: Tokens,
    },
    Text(String),
    Thinking(String),
    MessageDelta {
        stop_reason: Option<String>,
        usage: Tokens,
    },
    Other,
}

/// Token counts of a message, as far as told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Read, cached ones included.
    pub input: Option<i64>,
    /// Written.
    pub output: Option<i64>,
}

/// `assistant`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Assistant {
    pub id: String,
    pub model: String,
    pub content: Vec<Block>,
    pub stop_reason: Option<String>,
    pub usage: Tokens,
}

/// A piece of a message's content.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Block {
    Text(String),
    Thinking(String),
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
}

/// What a tool answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ToolResult {
    pub id: String,
    pub is_error: bool,
    pub output: String,
}

/// `system/api_retry`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Retry {
    pub attempt: i32,
    pub max_retries: i32,
    pub delay: Duration,
    pub status: Option<i32>,
    pub error: String,
}

/// `rate_limit_event`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Whether requests are refused, not merely counted.
    pub rejected: bool,
    /// When it lifts, in seconds since the Unix epoch.
    pub resets_at: Option<i64>,
    /// Which limit: `five_hour`, `seven_day`...
    pub kind: String,
}

/// What a model was used for, in running totals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Usage {
    pub input: i64,
    pub output: i64,
    pub cache_read: i64,
    pub cache_write: i64,
    pub dollars: f64,
}

/// `result`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Outcome {
    pub subtype: String,
    pub is_error: bool,
    pub text: String,
    pub errors: Vec<String>,
    pub api_status: Option<i32>,
    pub terminal_reason: String,
    pub stop_reason: String,
    pub session_id: String,
    pub structured_output: Option<Value>,
    pub local_command: Option<String>,
    /// What started the turn, if it was no message of ours.
    pub origin: Option<String>,
    /// The messages of ours that it answers; empty: not told.
    pub messages: Vec<String>,
    /// Running total of the conversation.
    pub total_dollars: Option<f64>,
    /// Running totals of the conversation, per model.
    pub total: BTreeMap<String, Usage>,
    /// Of this turn alone, per model.
    pub since_last: Option<BTreeMap<String, Usage>>,
    pub permission_denials: Vec<PermissionDenial>,
}

/// Reads one line.
pub fn parse(line: &[u8]) -> Line {
    let value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(_) => match serde_json::from_str(&mend(&String::from_utf8_lossy(line))) {
            Ok(value) => value,
            Err(_) if line.trim_ascii_start().starts_with(b"{") => return Line::Broken,
            Err(_) => return Line::Noise,
        },
    };
    match value {
        Value::Object(fields) => read::line(fields),
        _ => Line::Noise,
    }
}

/// Replaces halves of surrogate pairs, which JavaScript writes when it cuts a
/// text within a character, by U+FFFD.
fn mend(text: &str) -> Cow<'_, str> {
    let unit = |at: usize| -> Option<u16> {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut mended = String::new();
    let (mut kept, mut at) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                mended.push_str(&text[kept..at]);
                mended.push('\u{FFFD}');
                at += 6;
                kept = at;
            }
            Some(_) => at += 6,
            // Any other escape: the backslash and one character.
            None => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    mended.push_str(&text[kept..]);
    Cow::Owned(mended)
}

/// The running totals in the answer to `get_usage`.
pub fn session_usage(answer: Value) -> Option<(f64, BTreeMap<String, Usage>)> {
    read::session_usage(answer)
}

#[cfg(test)]
mod tests;
