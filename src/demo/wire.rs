//! The words of the Messages API, as JSON. Pure.

use serde_json::{Value, json};

use super::script::{Answer, Block, End, FaultKind, Piece, Usage, boundary, joined, piece};

/// One event of a stream and how long to wait before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// The event.
    pub event: Value,
    /// Milliseconds to wait before it is sent.
    pub pause_ms: u64,
}

/// `event` as it stands in a `text/event-stream` body.
pub fn sse(event: &Value) -> String {
    let name = event["type"].as_str().unwrap_or("message");
    format!("event: {name}\ndata: {event}\n\n")
}

/// The first event of a stream.
pub fn message_start(id: &str, model: &str, usage: Usage) -> Value {
    json!({"type": "message_start", "message": {
        "id": id, "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage_json(usage.input, 1),
    }})
}

/// The events of block number `index`: its start, its deltas and its stop.
/// `tool_id` names a tool call.
pub fn block_events(index: usize, block: &Block, tool_id: &str) -> Vec<Timed> {
    let at_once = |event| Timed { event, pause_ms: 0 };
    let start = |content: Value| {
        at_once(json!({"type": "content_block_start", "index": index, "content_block": content}))
    };
    let delta = |delta: Value, pause_ms| Timed {
        event: json!({"type": "content_block_delta", "index": index, "delta": delta}),
        pause_ms,
    };
    let mut events = Vec::new();
    match block {
        Block::Thinking(text) => {
            events.push(start(
                json!({"type": "thinking", "thinking": "", "signature": ""}),
            ));
            events.push(delta(
                json!({"type": "thinking_delta", "thinking": text}),
                0,
            ));
            events.push(delta(
                json!({"type": "signature_delta", "signature": "c2ln"}),
                0,
            ));
        }
        Block::Text(pieces) => {
            events.push(start(json!({"type": "text", "text": ""})));
            events.extend(pieces.iter().map(|Piece { text, pause_ms }| {
                delta(json!({"type": "text_delta", "text": text}), *pause_ms)
            }));
        }
        Block::Tool { name, input } => {
            events.push(start(
                json!({"type": "tool_use", "id": tool_id, "name": name, "input": {}}),
            ));
            let input = input.to_string();
            let (head, tail) = input.split_at(boundary(&input, input.len() / 2));
            for part in [head, tail] {
                events.push(delta(
                    json!({"type": "input_json_delta", "partial_json": part}),
                    0,
                ));
            }
        }
        Block::Other { name, rest } => {
            let said = vec![piece(format!("unknown directive: ::{name} {rest}"))];
            return block_events(index, &Block::Text(said), tool_id);
        }
    }
    events.push(at_once(
        json!({"type": "content_block_stop", "index": index}),
    ));
    events
}

/// The last two events of a stream that ends well.
pub fn message_end(end: End, usage: Usage) -> [Value; 2] {
    [
        json!({"type": "message_delta",
            "delta": {"stop_reason": stop_reason(end), "stop_sequence": null},
            "usage": {"output_tokens": usage.output}}),
        json!({"type": "message_stop"}),
    ]
}

/// `block` as it stands in a finished message.
pub fn block_json(block: &Block, tool_id: &str) -> Value {
    match block {
        Block::Thinking(text) => json!({"type": "thinking", "thinking": text, "signature": "c2ln"}),
        Block::Text(pieces) => json!({"type": "text", "text": joined(pieces)}),
        Block::Tool { name, input } => {
            json!({"type": "tool_use", "id": tool_id, "name": name, "input": input})
        }
        Block::Other { name, rest } => {
            json!({"type": "text", "text": format!("unknown directive: ::{name} {rest}")})
        }
    }
}

/// The whole message, for a request that asked for no stream.
pub fn message(id: &str, model: &str, answer: &Answer, usage: Usage) -> Value {
    let blocks: Vec<Value> = (answer.blocks.iter().enumerate())
        .map(|(index, block)| block_json(block, &tool_id(id, index)))
        .collect();
    json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": blocks,
        "stop_reason": stop_reason(answer.end), "stop_sequence": null,
        "usage": usage_json(usage.input, usage.output),
    })
}

/// The id of the tool call in block `index` of message `id`.
pub fn tool_id(id: &str, index: usize) -> String {
    format!("toolu_{}{index}", id.strip_prefix("msg_").unwrap_or(id))
}

/// Why a message stopped, in the API's word.
pub fn stop_reason(end: End) -> &'static str {
    match end {
        End::ToolUse => "tool_use",
        End::Refusal => "refusal",
        End::Turn | End::Hang | End::Drop { .. } | End::Overloaded { .. } => "end_turn",
    }
}

/// The HTTP status, the API's word and the text of an error.
pub fn error_words(kind: FaultKind) -> (u16, &'static str, &'static str) {
    let code = match kind {
        FaultKind::Status { code, .. } => code,
        FaultKind::Limit => 429,
        FaultKind::Silent => 500,
    };
    let (word, text) = match code {
        401 => ("authentication_error", "invalid x-api-key"),
        403 => (
            "permission_error",
            "Your API key does not have permission to use this.",
        ),
        404 => ("not_found_error", "Not found."),
        413 => ("request_too_large", "Request exceeds the maximum size"),
        429 => (
            "rate_limit_error",
            "This request would exceed your account's rate limit. Please try again later.",
        ),
        529 => ("overloaded_error", "Overloaded"),
        500.. => ("api_error", "Internal server error"),
        _ => (
            "invalid_request_error",
            "The request was refused by its script.",
        ),
    };
    (code, word, text)
}

/// The body of an error, and the event of one in a stream.
pub fn error(word: &str, text: &str) -> Value {
    json!({"type": "error", "error": {"type": word, "message": text}})
}

fn usage_json(input: u64, output: u64) -> Value {
    json!({"input_tokens": input, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0, "output_tokens": output, "service_tier": "standard"})
}
