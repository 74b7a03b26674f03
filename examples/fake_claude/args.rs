//! The command line, as the real CLI reads it.

use serde_json::Value;

/// What was asked for at the start.
#[derive(Clone, Debug, Default)]
pub struct Args {
    pub version: bool,
    pub verbose: bool,
    pub output_format: Option<String>,
    pub input_format: Option<String>,
    pub partials: bool,
    pub await_claim: bool,
    pub no_persistence: bool,
    pub no_slash_commands: bool,
    pub permission_mode: Option<String>,
    pub asks_on_stdio: bool,
    pub may_bypass: bool,
    pub model: Option<String>,
    pub tools: Option<Vec<String>>,
    pub allowed: Vec<String>,
    pub disallowed: Vec<String>,
    pub max_budget_usd: Option<f64>,
    pub max_turns: Option<u32>,
    pub json_schema: Option<Value>,
    pub system_prompt: Option<String>,
    pub append_system_prompt: Option<String>,
    pub mcp_config: Vec<String>,
    pub session_id: Option<String>,
    pub resume: Option<String>,
    pub fork: bool,
    pub effort: Option<String>,
    pub add_dirs: Vec<String>,
}

/// Reads the arguments; the error is the line for stderr.
pub fn parse(argv: &[String]) -> Result<Args, String> {
    let mut args = Args::default();
    let mut rest = argv.iter().peekable();
    while let Some(arg) = rest.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        if !name.starts_with('-') {
            continue; // A prompt; ignored together with stream-json input.
        }
        if args.flag(name) {
            continue;
        }
        let many = is_list(name);
        if !many && !takes_value(name) {
            return Err(format!("error: unknown option '{name}'"));
        }
        let mut values: Vec<String> = inline.into_iter().collect();
        if values.is_empty() {
            let next = rest
                .next()
                .ok_or(format!("error: option '{name}' argument missing"))?;
            values.push(next.clone());
            while let Some(more) = rest.next_if(|more| many && !more.starts_with('-')) {
                values.push(more.clone());
            }
        }
        args.set(name, values)?;
    }
    args.check()?;
    Ok(args)
}

fn is_list(name: &str) -> bool {
    const LISTS: [&str; 7] = [
        "--allowedTools",
        "--allowed-tools",
        "--disallowedTools",
        "--disallowed-tools",
        "--tools",
        "--add-dir",
        "--mcp-config",
    ];
    LISTS.contains(&name)
}

fn takes_value(name: &str) -> bool {
    const VALUES: [&str; 21] = [
        "--input-format",
        "--output-format",
        "--setting-sources",
        "--permission-mode",
        "--permission-prompt-tool",
        "--permission-prompts",
        "--model",
        "--fallback-model",
        "--max-budget-usd",
        "--max-turns",
        "--max-thinking-tokens",
        "--json-schema",
        "--system-prompt",
        "--system-prompt-file",
        "--append-system-prompt",
        "--append-system-prompt-file",
        "--settings",
        "--session-id",
        "--resume",
        "--effort",
        "--name",
    ];
    VALUES.contains(&name)
}

impl Args {
    /// Sets the flag `name`; false if there is none of that name.
    fn flag(&mut self, name: &str) -> bool {
        match name {
            "-v" | "--version" => self.version = true,
            "--verbose" => self.verbose = true,
            "--include-partial-messages" => self.partials = true,
            "--no-session-persistence" => self.no_persistence = true,
            "--disable-slash-commands" => self.no_slash_commands = true,
            "--fork-session" => self.fork = true,
            "--await-claim" if std::env::var_os("FAKE_NO_AWAIT_CLAIM").is_none() => {
                self.await_claim = true;
            }
            "--dangerously-skip-permissions" => {
                self.may_bypass = true;
                self.permission_mode = Some("bypassPermissions".to_owned());
            }
            "--allow-dangerously-skip-permissions" => self.may_bypass = true,
            "-p" | "--print" | "--strict-mcp-config" | "--replay-user-messages" => {}
            _ => return false,
        }
        true
    }

    fn set(&mut self, name: &str, mut values: Vec<String>) -> Result<(), String> {
        let value = values[0].clone();
        let bad = |what: &str| format!("error: option '{name}' argument '{value}' is {what}");
        match name {
            "--input-format" => self.input_format = Some(value),
            "--output-format" => self.output_format = Some(value),
            "--permission-mode" => self.permission_mode = Some(value),
            "--permission-prompt-tool" => self.asks_on_stdio = value == "stdio",
            "--model" => self.model = Some(value),
            "--max-budget-usd" => {
                self.max_budget_usd = Some(value.parse().map_err(|_| bad("not a number"))?);
            }
            "--max-turns" => {
                self.max_turns = Some(value.parse().map_err(|_| bad("not a number"))?);
            }
            "--json-schema" => {
                let schema = serde_json::from_str(&value).map_err(|_| bad("not JSON"))?;
                self.json_schema = Some(schema);
            }
            "--system-prompt" => self.system_prompt = Some(value),
            "--append-system-prompt" => self.append_system_prompt = Some(value),
            "--system-prompt-file" => self.system_prompt = Some(read(&value)?),
            "--append-system-prompt-file" => self.append_system_prompt = Some(read(&value)?),
            "--session-id" => {
                uuid::Uuid::parse_str(&value)
                    .map_err(|_| "Error: Invalid session ID. Must be a valid UUID.".to_owned())?;
                self.session_id = Some(value);
            }
            "--resume" => self.resume = Some(value),
            "--effort" => self.effort = Some(value),
            "--mcp-config" => self.mcp_config.append(&mut values),
            "--add-dir" => self.add_dirs.append(&mut values),
            "--tools" => self.tools = Some(rules(&values)),
            "--allowedTools" | "--allowed-tools" => self.allowed.extend(rules(&values)),
            "--disallowedTools" | "--disallowed-tools" => self.disallowed.extend(rules(&values)),
            _ => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let stream = Some("stream-json");
        if self.output_format.as_deref() == stream && !self.verbose {
            return Err(
                "Error: When using --print, --output-format=stream-json requires --verbose"
                    .to_owned(),
            );
        }
        if self.input_format.as_deref() == stream && self.output_format.as_deref() != stream {
            return Err(
                "Error: --input-format=stream-json requires output-format=stream-json.".to_owned(),
            );
        }
        if self.await_claim && (self.resume.is_some() || self.fork) {
            return Err("Error: --await-claim cannot be used with --resume.".to_owned());
        }
        Ok(())
    }
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("Error: cannot read {path}: {e}"))
}

/// Rules are separated by commas or blanks, except within parentheses.
fn rules(values: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    let mut depth = 0_u32;
    let mut rule = String::new();
    for c in values.join(",").chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c == ',' || c.is_whitespace()) {
            out.push(std::mem::take(&mut rule));
        } else {
            rule.push(c);
        }
    }
    out.push(rule);
    out.retain(|rule| !rule.is_empty());
    out
}
