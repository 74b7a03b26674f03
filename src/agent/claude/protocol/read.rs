//! Fields to lines.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Assistant, Block, Init, Line, Outcome, RateLimit, Retry, Stream, Tokens, ToolResult, Usage,
};
use crate::pb::PermissionDenial;

/// Largest whole number that JavaScript counts by. Sums of such do not overflow.
const WHOLE_MAX: i64 = 1 << 53;

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
        let number = value.as_i64().or_else(|| Some(value.as_f64()? as i64))?;
        Some(number.clamp(-WHOLE_MAX, WHOLE_MAX))
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

/// Reads the fields of a line.
pub(super) fn line(mut line: Map<String, Value>) -> Line {
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

/// The running totals in the answer to `get_usage`.
pub(super) fn session_usage(mut answer: Value) -> Option<(f64, BTreeMap<String, Usage>)> {
    let session = answer.get_mut("session")?.as_object_mut()?;
    let dollars = session.get("total_cost_usd")?.as_f64()?;
    Some((dollars, usage(session.object("model_usage"))))
}
