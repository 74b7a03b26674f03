//! What the CLI writes: one JSON object per line, parsed once. Pure.
//!
//! Tolerant on purpose: the CLI gains line types and fields with every release.
//! What is unknown is [`Line::Other`]; a field that is absent or of another
//! type counts as absent. Nothing here panics or fails.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::pb::PermissionDenial;

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
        Value::Object(fields) => read(fields),
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

/// Fields of an object, by name, each taken at most once.
trait Fields {
    fn text(&mut self, name: &str) -> String;
    fn maybe_text(&mut self, name: &str) -> Option<String>;
    fn object(&mut self, name: &str) -> Map<String, Value>;
    fn list(&mut self, name: &str) -> Vec<Value>;
    fn number(&self, name: &str) -> Option<i64>;
    fn small(&self, name: &str) -> Option<i32>;
    fn flag(&self, name: &str) -> bool;
}

impl Fields for Map<String, Value> {
    fn text(&mut self, name: &str) -> String {
        self.maybe_text(name).unwrap_or_default()
    }

    fn maybe_text(&mut self, name: &str) -> Option<String> {
        match self.get_mut(name).map(Value::take) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn object(&mut self, name: &str) -> Map<String, Value> {
        match self.get_mut(name).map(Value::take) {
            Some(Value::Object(fields)) => fields,
            _ => Map::new(),
        }
    }

    fn list(&mut self, name: &str) -> Vec<Value> {
        match self.get_mut(name).map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        }
    }

    fn number(&self, name: &str) -> Option<i64> {
        let value = self.get(name)?;
        value.as_i64().or_else(|| Some(value.as_f64()? as i64))
    }

    fn small(&self, name: &str) -> Option<i32> {
        i32::try_from(self.number(name)?).ok()
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or_default()
    }
}

fn texts(items: Vec<Value>) -> Vec<String> {
    let text = |item| match item {
        Value::String(text) => Some(text),
        _ => None,
    };
    items.into_iter().filter_map(text).collect()
}

fn read(mut line: Map<String, Value>) -> Line {
    let kind = line.text("type");
    match kind.as_str() {
        "system" => system(line),
        "stream_event" => {
            let parent = line.text("parent_tool_use_id");
            Line::Stream(stream(line.object("event")), parent)
        }
        "assistant" => {
            let parent = line.text("parent_tool_use_id");
            Line::Assistant(assistant(line.object("message")), parent)
        }
        "user" => tool_results(line.object("message")),
        "result" => Line::Outcome(Box::new(outcome(line))),
        "control_response" => answer(line.object("response")),
        "control_request" => {
            let subtype = line.object("request").text("subtype");
            Line::Question(line.text("request_id"), subtype == "can_use_tool")
        }
        "conversation_reset" => Line::ConversationReset,
        "command_lifecycle" if line.contains_key("wakeup_source") => Line::SelfStarted,
        "rate_limit_event" => rate_limit(line.object("rate_limit_info")),
        _ => Line::Other,
    }
}

fn system(mut line: Map<String, Value>) -> Line {
    match line.text("subtype").as_str() {
        "init" => Line::Init(Init {
            session_id: line.text("session_id"),
            model: line.text("model"),
            permission_mode: line.text("permissionMode"),
            working_dir: line.text("cwd"),
            messages: texts(line.list("user_message_uuids")),
        }),
        "status" => line
            .maybe_text("permissionMode")
            .map_or(Line::Other, Line::ModeChanged),
        "api_retry" => Line::Retry(Retry {
            attempt: line.small("attempt").unwrap_or_default(),
            max_retries: line.small("max_retries").unwrap_or_default(),
            delay: millis(line.number("retry_delay_ms")),
            status: line.small("error_status"),
            error: line.text("error"),
        }),
        "background_tasks_changed" => Line::BackgroundTasks(line.list("tasks").len()),
        "model_fallback" => Line::ModelFallback,
        _ => Line::Other,
    }
}

fn millis(ms: Option<i64>) -> Duration {
    Duration::from_millis(ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default())
}

fn stream(mut event: Map<String, Value>) -> Stream {
    match event.text("type").as_str() {
        "message_start" => {
            let mut message = event.object("message");
            Stream::MessageStart {
                id: message.text("id"),
                model: message.text("model"),
                usage: tokens(&message.object("usage")),
            }
        }
        "content_block_delta" => {
            let mut delta = event.object("delta");
            match delta.text("type").as_str() {
                "text_delta" => Stream::Text(delta.text("text")),
                "thinking_delta" => Stream::Thinking(delta.text("thinking")),
                _ => Stream::Other,
            }
        }
        "message_delta" => Stream::MessageDelta {
            stop_reason: event.object("delta").maybe_text("stop_reason"),
            usage: tokens(&event.object("usage")),
        },
        _ => Stream::Other,
    }
}

fn tokens(usage: &Map<String, Value>) -> Tokens {
    let cached = ["cache_read_input_tokens", "cache_creation_input_tokens"]
        .iter()
        .filter_map(|name| usage.number(name))
        .sum::<i64>();
    Tokens {
        input: usage.number("input_tokens").map(|input| input + cached),
        output: usage.number("output_tokens"),
    }
}

fn assistant(mut message: Map<String, Value>) -> Assistant {
    let block = |item| -> Option<Block> {
        let Value::Object(mut block) = item else {
            return None;
        };
        match block.text("type").as_str() {
            "text" => Some(Block::Text(block.text("text"))),
            "thinking" => Some(Block::Thinking(block.text("thinking"))),
            "tool_use" => Some(Block::ToolUse {
                id: block.text("id"),
                name: block.text("name"),
                input: block.remove("input").unwrap_or(Value::Null),
            }),
            _ => None,
        }
    };
    Assistant {
        id: message.text("id"),
        model: message.text("model"),
        content: message
            .list("content")
            .into_iter()
            .filter_map(block)
            .collect(),
        stop_reason: message.maybe_text("stop_reason"),
        usage: tokens(&message.object("usage")),
    }
}

fn tool_results(mut message: Map<String, Value>) -> Line {
    let result = |item| -> Option<ToolResult> {
        let Value::Object(mut block) = item else {
            return None;
        };
        (block.text("type") == "tool_result").then(|| ToolResult {
            id: block.text("tool_use_id"),
            is_error: block.flag("is_error"),
            output: content(block.remove("content")),
        })
    };
    let results: Vec<_> = message
        .list("content")
        .into_iter()
        .filter_map(result)
        .collect();
    match results.is_empty() {
        true => Line::Other,
        false => Line::ToolResults(results),
    }
}

/// What a tool said: a text, or blocks of which those without text are named.
fn content(content: Option<Value>) -> String {
    match content {
        Some(Value::String(text)) => text,
        Some(Value::Array(blocks)) => {
            let text = |block| match block {
                Value::Object(mut block) => block
                    .maybe_text("text")
                    .unwrap_or_else(|| format!("[{}]", block.text("type"))),
                _ => String::new(),
            };
            blocks.into_iter().map(text).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn answer(mut response: Map<String, Value>) -> Line {
    let id = response.text("request_id");
    let answer = match response.text("subtype").as_str() {
        "success" => Ok(response.remove("response").unwrap_or(Value::Null)),
        _ => Err(response.text("error")),
    };
    Line::Answer(id, answer)
}

fn rate_limit(mut info: Map<String, Value>) -> Line {
    // Seconds; should a release tell milliseconds, they are recognised.
    let resets_at = info.number("resetsAt");
    Line::RateLimit(RateLimit {
        rejected: info.text("status") == "rejected",
        resets_at: resets_at.map(|at| if at > 100_000_000_000 { at / 1000 } else { at }),
        kind: info.text("rateLimitType"),
    })
}

fn usage(models: Map<String, Value>) -> BTreeMap<String, Usage> {
    let one = |(model, value)| match value {
        Value::Object(fields) => Some((
            model,
            Usage {
                input: fields.number("inputTokens").unwrap_or_default(),
                output: fields.number("outputTokens").unwrap_or_default(),
                cache_read: fields.number("cacheReadInputTokens").unwrap_or_default(),
                cache_write: fields
                    .number("cacheCreationInputTokens")
                    .unwrap_or_default(),
                dollars: fields
                    .get("costUSD")
                    .and_then(Value::as_f64)
                    .unwrap_or_default(),
            },
        )),
        _ => None,
    };
    models.into_iter().filter_map(one).collect()
}

/// The running totals in the answer to `get_usage`.
pub fn session_usage(mut answer: Value) -> Option<(f64, BTreeMap<String, Usage>)> {
    let session = answer.get_mut("session")?.as_object_mut()?;
    let dollars = session.get("total_cost_usd")?.as_f64()?;
    Some((dollars, usage(session.object("model_usage"))))
}

fn outcome(mut line: Map<String, Value>) -> Outcome {
    let since_last = line
        .contains_key("model_usage_since_last_result")
        .then(|| usage(line.object("model_usage_since_last_result")));
    let denial = |item| match item {
        Value::Object(mut denial) => Some(PermissionDenial {
            tool_name: denial.text("tool_name"),
            tool_use_id: denial.text("tool_use_id"),
            tool_input_json: denial
                .remove("tool_input")
                .map(|input| input.to_string())
                .unwrap_or_default(),
        }),
        _ => None,
    };
    Outcome {
        subtype: line.text("subtype"),
        is_error: line.flag("is_error"),
        text: line.text("result"),
        errors: texts(line.list("errors")),
        api_status: line.small("api_error_status"),
        terminal_reason: line.text("terminal_reason"),
        stop_reason: line.text("stop_reason"),
        session_id: line.text("session_id"),
        structured_output: line
            .remove("structured_output")
            .filter(|value| !value.is_null()),
        local_command: line.maybe_text("local_command"),
        origin: line.object("origin").maybe_text("kind"),
        messages: texts(line.list("user_message_uuids")),
        total_dollars: line.get("total_cost_usd").and_then(Value::as_f64),
        total: usage(line.object("modelUsage")),
        since_last,
        permission_denials: line
            .list("permission_denials")
            .into_iter()
            .filter_map(denial)
            .collect(),
    }
}

#[cfg(test)]
mod tests;
