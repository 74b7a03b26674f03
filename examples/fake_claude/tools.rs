//! The tools: who may call them, and what they do.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::cli::{Cli, Interrupted};
use crate::{IN_SESSION, lines, tree};

/// What a tool gave back.
pub struct Output {
    pub text: String,
    pub is_error: bool,
}

/// Whether a tool may run.
enum Permission {
    Granted,
    Refused(String),
}

impl Cli {
    /// Runs a tool: what it gave back, and the denial if it was refused.
    pub async fn run_tool(
        &mut self,
        id: &str,
        name: &str,
        input: &Value,
    ) -> Result<(Output, Option<Value>), Interrupted> {
        let error = |text: String| Output {
            text,
            is_error: true,
        };
        if !lines::tools(self).iter().any(|t| t == name) && !name.starts_with("mcp__") {
            let text =
                format!("<tool_use_error>Error: No such tool available: {name}</tool_use_error>");
            return Ok((error(text), None));
        }
        let mut input = input.clone();
        if let Permission::Refused(text) = self.permission(id, name, &mut input).await? {
            self.out(&json!({"type": "system", "subtype": "permission_denied",
                "tool_name": name, "tool_use_id": id, "message": text, "uuid": lines::uuid(),
                "session_id": self.session.id}));
            let denial = json!({"tool_name": name, "tool_use_id": id, "tool_input": input});
            return Ok((error(text), Some(denial)));
        }
        let text = |key: &str| input[key].as_str().unwrap_or_default();
        let path = self.cwd.join(text("file_path"));
        let output = match name {
            "Bash" if input["run_in_background"] == true => {
                match self.start_task(text("command"), id) {
                    Ok(task) => Output {
                        text: format!("Command running in background with ID: {task}."),
                        is_error: false,
                    },
                    Err(e) => error(e),
                }
            }
            "Bash" => self.bash(text("command")).await?,
            "Read" => match std::fs::read_to_string(&path) {
                Ok(content) => Output {
                    text: content,
                    is_error: false,
                },
                Err(e) => error(format!("File does not exist or cannot be read: {e}")),
            },
            "Write" => match std::fs::write(&path, text("content")) {
                Ok(()) => Output {
                    text: format!("File created successfully at: {}", path.display()),
                    is_error: false,
                },
                Err(e) => error(format!("Cannot write: {e}")),
            },
            name => Output {
                text: format!("{name} ran"),
                is_error: false,
            },
        };
        Ok((output, None))
    }

    async fn bash(&mut self, command: &str) -> Result<Output, Interrupted> {
        let failed = |e: std::io::Error| Output {
            text: e.to_string(),
            is_error: true,
        };
        // A file, not a pipe: what the command leaves running must not hold up its result.
        let (Ok(mut file), Ok(program)) = (tempfile::tempfile(), std::env::current_exe()) else {
            return Ok(failed(std::io::Error::other("no temporary file")));
        };
        let (Ok(out), Ok(err)) = (file.try_clone(), file.try_clone()) else {
            return Ok(failed(std::io::Error::other("no file descriptor")));
        };
        let child = tokio::process::Command::new(program)
            .args([IN_SESSION, command])
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(e) => return Ok(failed(e)),
        };
        let pid = child.id().unwrap_or_default() as i32;
        let status = match self.during(child.wait()).await {
            Ok(Ok(status)) => status,
            Ok(Err(e)) => return Ok(failed(e)),
            Err(interrupted) => {
                tree::kill(pid, true);
                return Err(interrupted);
            }
        };
        let mut bytes = Vec::new();
        if let Err(e) = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut bytes))
        {
            return Ok(failed(e));
        }
        let said = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        let code = status.code().unwrap_or(137);
        let text = match (code, said.is_empty()) {
            (0, true) => "(Bash completed with no output)".to_owned(),
            (0, false) => said,
            _ => format!("Exit code {code}\n{said}"),
        };
        Ok(Output {
            text,
            is_error: code != 0,
        })
    }

    async fn permission(
        &mut self,
        id: &str,
        name: &str,
        input: &mut Value,
    ) -> Result<Permission, Interrupted> {
        let behavior = |behavior: &str, rules: &[Value]| {
            let of = rules.iter().filter(|r| r["behavior"] == behavior);
            of.filter_map(|r| r["rule"].as_str())
                .any(|rule| rule_covers(rule, name, input))
        };
        if behavior("deny", &self.rules) {
            let text = format!("Permission to use {name} has been denied.");
            return Ok(Permission::Refused(text));
        }
        let path = input["file_path"].as_str().unwrap_or_default();
        let inside = self.cwd.join(path).starts_with(&self.cwd) && !path.contains("..");
        let by_mode = match self.mode.as_str() {
            "bypassPermissions" | "auto" => true,
            "acceptEdits" => name == "Write" && inside,
            _ => false,
        };
        if by_mode || behavior("allow", &self.rules) || (name == "Read" && inside) {
            return Ok(Permission::Granted);
        }
        if !self.args.asks_on_stdio || self.mode == "dontAsk" {
            let text = format!(
                "Claude requested permissions to use {name}, but you haven't granted it yet."
            );
            return Ok(Permission::Refused(text));
        }
        let request = lines::uuid();
        self.out(
            &json!({"type": "control_request", "request_id": request, "request": {
                "subtype": "can_use_tool", "tool_name": name, "display_name": name, "input": input,
                "description": "run it", "tool_use_id": id,
                "permission_suggestions": [{"type": "addRules", "rules": [{"toolName": name}],
                    "behavior": "allow", "destination": "session"}],
            }}),
        );
        let reply = self.reply_to(&request).await?;
        if reply["behavior"] == "allow" {
            if reply["updatedInput"].is_object() {
                *input = reply["updatedInput"].clone();
            }
            self.update_permissions(&reply["updatedPermissions"]);
            return Ok(Permission::Granted);
        }
        let closed = "Tool permission request failed: AbortError: Tool permission stream closed \
                      before response received";
        Ok(Permission::Refused(
            reply["message"].as_str().unwrap_or(closed).to_owned(),
        ))
    }

    /// Accepted suggestions outlast the turn and the conversation.
    fn update_permissions(&mut self, updates: &Value) {
        for update in updates.as_array().into_iter().flatten() {
            if let Some(mode) = update["mode"].as_str() {
                self.mode = mode.to_owned();
            }
            for rule in update["rules"].as_array().into_iter().flatten() {
                let tool = rule["toolName"].as_str().unwrap_or_default();
                let rule = match rule["ruleContent"].as_str() {
                    Some(content) => format!("{tool}({content})"),
                    None => tool.to_owned(),
                };
                self.rules
                    .push(json!({"behavior": update["behavior"], "source": "session",
                    "rule": rule, "editability": "session"}));
            }
        }
    }
}

/// Whether `rule`, such as `Bash` or `Bash(ls:*)`, speaks of this call.
fn rule_covers(rule: &str, name: &str, input: &Value) -> bool {
    let Some((tool, content)) = rule.split_once('(') else {
        return rule == name;
    };
    let content = content.strip_suffix(')').unwrap_or(content);
    let called = match name {
        "Bash" => input["command"].as_str().unwrap_or_default(),
        _ => input["file_path"].as_str().unwrap_or_default(),
    };
    if tool != name {
        return false;
    }
    if let Some(start) = content
        .strip_suffix(":*")
        .or_else(|| content.strip_suffix('*'))
    {
        return called.starts_with(start);
    }
    if let Some(root) = content
        .strip_prefix("//")
        .and_then(|c| c.strip_suffix("/**"))
    {
        return Path::new(called).starts_with(format!("/{root}"));
    }
    called == content
}

/// The contents of the files that `@/path` words attach: the CLI asks nobody.
pub fn attached(prompt: &str) -> Vec<String> {
    if std::env::var("CLAUDE_CODE_DISABLE_ATTACHMENTS").is_ok_and(|v| v == "1") {
        return Vec::new();
    }
    let words = prompt
        .split_whitespace()
        .filter_map(|word| word.strip_prefix('@'));
    let paths = words.filter(|path| path.starts_with('/'));
    paths
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect()
}

/// The first required key of `schema` that `value` lacks.
pub fn missing<'a>(schema: Option<&'a Value>, value: &Value) -> Option<&'a str> {
    let required = schema?["required"].as_array()?;
    required
        .iter()
        .filter_map(Value::as_str)
        .find(|key| value.get(key).is_none())
}
