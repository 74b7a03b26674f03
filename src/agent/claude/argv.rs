//! Profile and placement to arguments and environment. Pure.
//!
//! No secret and no prompt is ever an argument: those can be read by every
//! user of the machine. System prompts and schemas go over stdin with
//! `initialize`, MCP definitions through a private file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use claude_wrapper::{
    ClaudeCommand, InputFormat, OutputFormat, PermissionMode, QueryCommand, ToolPattern,
};
use serde_json::{Map, Value, json};

use super::{ClaudeOptions, tree};
use crate::agent::{AgentError, Launch, Placement, Profile};

/// Tools that reach beyond their turn or their process: they start turns later,
/// talk to other sessions or move the process elsewhere.
const FORBIDDEN: [&str; 7] = [
    "CronCreate",
    "ScheduleWakeup",
    "Monitor",
    "SendMessage",
    "ListAgents",
    "Workflow",
    "EnterWorktree",
];

/// What to execute.
pub(crate) struct Invocation {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: BTreeMap<OsString, OsString>,
    pub working_dir: PathBuf,
}

fn refused(setting: &'static str, message: impl Into<String>) -> AgentError {
    AgentError::Refused {
        setting,
        message: message.into(),
    }
}

/// A value that the CLI would read as an option is refused.
fn plain(setting: &'static str, value: &str) -> Result<String, AgentError> {
    if value.is_empty() || value.starts_with('-') || value.contains(char::is_control) {
        return Err(refused(setting, format!("`{value}` is no valid value")));
    }
    Ok(value.to_owned())
}

fn rules(setting: &'static str, rules: &[String]) -> Result<Vec<ToolPattern>, AgentError> {
    let parse = |rule: &String| {
        plain(setting, rule)?;
        ToolPattern::parse(rule).map_err(|error| refused(setting, error.to_string()))
    };
    rules.iter().map(parse).collect()
}

/// A directory that is not there is the caller's mistake, not the process's.
pub(crate) fn check_working_dir(placement: &Placement) -> Result<(), AgentError> {
    let dir = &placement.working_dir;
    match dir.is_absolute() && dir.is_dir() {
        true => Ok(()),
        false => Err(refused("working_dir", "there is no such directory")),
    }
}

/// The arguments of `launch`. `mcp_config`: the file with the MCP definitions.
pub(crate) fn arguments(
    launch: &Launch,
    options: &ClaudeOptions,
    mcp_config: Option<&Path>,
) -> Result<Vec<String>, AgentError> {
    let profile = &launch.profile;
    let mut query = QueryCommand::new("")
        .prompt_via_stdin(true)
        .input_format(InputFormat::StreamJson)
        .output_format(OutputFormat::StreamJson)
        .include_partial_messages()
        .permission_mode(PermissionMode::DontAsk)
        .setting_sources("")
        .strict_mcp_config()
        .allowed_tools(rules("allowed_tools", &profile.allowed_tools)?)
        .disallowed_tools(FORBIDDEN)
        .disallowed_tools(rules("disallowed_tools", &profile.disallowed_tools)?);
    if let Some(path) = mcp_config {
        query = query.mcp_config(path.to_string_lossy());
    }
    if let Some(model) = &profile.fallback_model {
        query = query.fallback_model(plain("fallback_model", model)?);
    }
    if let Some(ceiling) = options.budget_backstop {
        query = query.max_budget_usd(ceiling.dollars());
    }
    if profile.bypass_permissions {
        query = query.allow_dangerously_skip_permissions();
    }
    if !profile.save_sessions {
        query = query.no_session_persistence();
    }
    if let Some(session) = &launch.resume {
        query = query.resume(plain("resume", session)?);
    }
    if launch.placement.is_none() {
        // The wrapper has no builder for it: it is the CLI's own, and hidden.
        query = query.extra_arg("--await-claim");
    }
    Ok(query.args())
}

/// The file that defines the MCP servers; `None`: there are none.
pub(crate) fn mcp_config(profile: &Profile) -> Result<Option<String>, AgentError> {
    if profile.mcp_servers.is_empty() {
        return Ok(None);
    }
    let mut servers = Map::new();
    for (name, definition) in &profile.mcp_servers {
        let definition: Value = serde_json::from_str(definition)
            .map_err(|_| refused("mcp_servers", format!("`{name}` is not valid JSON")))?;
        servers.insert(name.clone(), definition);
    }
    Ok(Some(json!({ "mcpServers": servers }).to_string()))
}

/// The `initialize` request: what must not be in argv.
pub(crate) fn initialize(launch: &Launch) -> Result<Value, AgentError> {
    let mut request = json!({ "subtype": "initialize" });
    if let Some(placement) = &launch.placement {
        if let Some(prompt) = &placement.system_prompt {
            request["systemPrompt"] = json!(prompt);
        }
        if let Some(prompt) = &placement.append_system_prompt {
            request["appendSystemPrompt"] = json!(prompt);
        }
    }
    if let Some(schema) = &launch.profile.json_schema {
        let schema: Value = serde_json::from_str(schema)
            .map_err(|error| refused("json_schema", format!("it is not valid JSON: {error}")))?;
        request["jsonSchema"] = schema;
    }
    Ok(request)
}

/// The `claim_session` request.
pub(crate) fn claim(placement: &Placement) -> Value {
    let mut request = json!({
        "subtype": "claim_session",
        "cwd": placement.working_dir.to_string_lossy(),
    });
    if let Some(prompt) = &placement.system_prompt {
        request["system_prompt"] = json!([prompt]);
    }
    if let Some(prompt) = &placement.append_system_prompt {
        request["append_system_prompt"] = json!(prompt);
    }
    request
}

/// The whole environment of a process. `inherited` looks up our own.
pub(crate) fn environment(
    profile: &Profile,
    options: &ClaudeOptions,
    config_dir: &Path,
    marker: &str,
    inherited: impl Fn(&str) -> Option<OsString>,
) -> BTreeMap<OsString, OsString> {
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    for name in &options.env_allow {
        if let Some(value) = inherited(name) {
            env.insert(name.into(), value);
        }
    }
    env.insert("HOME".into(), config_dir.into());
    let mut fixed = vec![
        ("CLAUDE_CODE_DISABLE_AUTO_MEMORY", "1".to_owned()),
        ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1".to_owned()),
        ("CLAUDE_CODE_DISABLE_CRON", "1".to_owned()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
        ("DISABLE_AUTOUPDATER", "1".to_owned()),
        ("DISABLE_ERROR_REPORTING", "1".to_owned()),
        ("DISABLE_TELEMETRY", "1".to_owned()),
        ("CLAUDE_ENABLE_BYTE_WATCHDOG", "1".to_owned()),
        (
            "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS",
            options.stream_idle_timeout.as_millis().to_string(),
        ),
    ];
    if !profile.attachments {
        fixed.push(("CLAUDE_CODE_DISABLE_ATTACHMENTS", "1".to_owned()));
    }
    if profile.bypass_permissions {
        // As root the CLI refuses to bypass permissions without it.
        fixed.push(("IS_SANDBOX", "1".to_owned()));
    }
    if let Some(retries) = options.api_retries_max {
        fixed.push(("CLAUDE_CODE_MAX_RETRIES", retries.to_string()));
    }
    for (name, value) in fixed {
        env.insert(name.into(), value.into());
    }
    for (name, value) in &options.env {
        env.insert(name.into(), value.into());
    }
    // Never the operator's to set: what keeps processes apart.
    env.insert("CLAUDE_CONFIG_DIR".into(), config_dir.into());
    env.insert(tree::MARKER.into(), marker.into());
    env
}

#[cfg(test)]
mod tests;
