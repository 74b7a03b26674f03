//! The shapes of the lines that are written.

use std::time::{SystemTime, UNIX_EPOCH};

use claudepool::demo::script::Usage;
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::session::spent_json;

/// The permission modes that `set_permission_mode` takes.
pub const MODES: [&str; 6] = [
    "acceptEdits",
    "auto",
    "bypassPermissions",
    "default",
    "dontAsk",
    "plan",
];

const TOOLS: [&str; 10] = [
    "Bash",
    "Edit",
    "Glob",
    "Grep",
    "Read",
    "Skill",
    "Task",
    "WebFetch",
    "WebSearch",
    "Write",
];

pub fn version() -> String {
    std::env::var("FAKE_VERSION").unwrap_or_else(|_| "2.1.330".to_owned())
}

pub fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The full name of `model`; none is the default.
pub fn model_of(model: Option<&str>) -> String {
    match model {
        None | Some("default" | "opus") => "claude-opus-5-5",
        Some("sonnet") => "claude-sonnet-5-5",
        Some("haiku") => "claude-haiku-5-5",
        Some(name) => name,
    }
    .to_owned()
}

/// Now, as `2026-11-24T09:06:29.787Z`.
pub fn timestamp() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (days, seconds) = (now.as_secs() / 86_400, now.as_secs() % 86_400);
    // Days to a date: Howard Hinnant's civil_from_days, for dates after 1970.
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let ms = now.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The names of the tools that the model is offered.
pub fn tools(cli: &Cli) -> Vec<String> {
    let all = TOOLS.iter().map(|t| (*t).to_owned());
    let wanted = |tool: &String| match &cli.args.tools {
        Some(tools) => tools.contains(tool) || tools.iter().any(|t| t == "default"),
        None => true,
    };
    let denied = |tool: &String| cli.args.disallowed.contains(tool);
    let mut tools: Vec<String> = all.filter(|t| wanted(t) && !denied(t)).collect();
    if cli.args.json_schema.is_some() {
        tools.push("StructuredOutput".to_owned());
    }
    tools
}

pub fn init(cli: &Cli) -> Value {
    json!({
        "type": "system", "subtype": "init", "cwd": cli.cwd, "session_id": cli.session.id,
        "tools": tools(cli), "mcp_servers": mcp_servers(cli), "model": cli.model,
        "permissionMode": cli.mode, "slash_commands": ["clear", "compact", "cost", "model"],
        "apiKeySource": "ANTHROPIC_API_KEY", "claude_code_version": version(),
        "output_style": "default", "agents": ["claude", "general-purpose"], "skills": [],
        "plugins": [], "capabilities": [], "uuid": uuid(),
        "memory_paths": {"auto": cli.cwd.join(".memory")}, "original_cwd": cli.cwd,
        "additional_directories": cli.args.add_dirs,
        "messaging_socket_path": format!("/tmp/cc-socks/{}.sock", std::process::id()),
        "fast_mode_state": "off", "view_mode": "default",
    })
}

/// Name and status of the servers that `--mcp-config` names; none is started.
pub fn mcp_servers(cli: &Cli) -> Vec<Value> {
    let mut servers = Vec::new();
    for config in &cli.args.mcp_config {
        let text = std::fs::read_to_string(config).unwrap_or_else(|_| config.clone());
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let named = json["mcpServers"].as_object().into_iter().flatten();
        servers.extend(named.map(|(name, _)| json!({"name": name, "status": "connected"})));
    }
    servers
}

/// The usage of a message in progress: its output is not counted yet.
pub fn usage_start(usage: Usage) -> Value {
    json!({"input_tokens": usage.input, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0, "output_tokens": 1, "service_tier": "standard"})
}

pub fn usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.input, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0, "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": 0},
        "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
        "service_tier": "standard",
        "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
        "inference_geo": "", "iterations": [], "speed": "standard", "fallback_credit": null,
    })
}

/// An assistant line with one finished block.
pub fn assistant(cli: &Cli, id: &str, block: &Value, usage: Usage) -> Value {
    json!({
        "type": "assistant",
        "message": {
            "id": id, "type": "message", "role": "assistant", "model": cli.model,
            "content": [block], "stop_reason": null, "stop_sequence": null,
            "usage": usage_start(usage), "context_management": null,
        },
        "parent_tool_use_id": null, "session_id": cli.session.id, "uuid": uuid(),
        "timestamp": timestamp(), "request_id": format!("req_{}", id.trim_start_matches("msg_")),
    })
}

/// An assistant line that the CLI made itself.
pub fn synthetic(cli: &Cli, text: &str) -> Value {
    json!({
        "type": "assistant",
        "message": {
            "id": uuid(), "type": "message", "role": "assistant", "model": "<synthetic>",
            "content": [{"type": "text", "text": text}], "stop_reason": "stop_sequence",
            "stop_sequence": "", "usage": usage(Usage::default()), "context_management": null,
        },
        "parent_tool_use_id": null, "session_id": cli.session.id, "uuid": uuid(),
        "timestamp": timestamp(),
    })
}

/// A user line.
pub fn user(cli: &Cli, content: &Value) -> Value {
    json!({"type": "user", "message": {"role": "user", "content": content},
        "parent_tool_use_id": null, "session_id": cli.session.id, "uuid": uuid(),
        "timestamp": timestamp()})
}

/// What every result has, in a conversation as it is now.
pub fn result(cli: &Cli, subtype: &str, duration_ms: u64) -> Value {
    json!({
        "type": "result", "subtype": subtype, "is_error": false, "duration_ms": duration_ms,
        "duration_api_ms": duration_ms / 2, "num_turns": 0, "stop_reason": null,
        "session_id": cli.session.id, "total_cost_usd": cli.session.cost_usd,
        "usage": usage(Usage::default()), "modelUsage": spent_json(&cli.session.spent),
        "model_usage_since_last_result": spent_json(&cli.session.spent_since),
        "permission_denials": [], "fast_mode_state": "off", "safety_stops": 0, "uuid": uuid(),
        "queued_turn_count": cli.queue.len(), "result_index": cli.results,
    })
}

/// Puts the members of `more` into `line`.
pub fn with(mut line: Value, more: Value) -> Value {
    if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
        line.extend(more);
    }
    line
}
