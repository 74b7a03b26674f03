//! Answers to control requests.

use serde_json::{Value, json};

use crate::cli::{Cli, Interrupted};
use crate::lines;
use crate::session::spent_json;

impl Cli {
    /// Answers one control request. An error ends the turn that runs.
    pub fn control(&mut self, json: &Value) -> Result<(), Interrupted> {
        let id = &json["request_id"];
        let request = &json["request"];
        let subtype = request["subtype"].as_str().unwrap_or_default();
        let ok = |response: Value| {
            json!({"type": "control_response", "response":
                {"subtype": "success", "request_id": id, "response": response}})
        };
        let plain = json!({"type": "control_response", "response":
            {"subtype": "success", "request_id": id}});
        let error = |text: String, code: Option<&str>| {
            let mut line = json!({"type": "control_response", "response":
                {"subtype": "error", "request_id": id, "error": text}});
            if let Some(code) = code {
                line["response"]["error_code"] = code.into();
            }
            line
        };
        if !self.claimed && matches!(subtype, "set_model" | "set_permission_mode") {
            let text = "not_claimed: this process is a spare waiting for claim_session; \
                        send this request after the claim";
            self.out(&error(text.to_owned(), None));
            return Ok(());
        }
        let answer = match subtype {
            "initialize" => ok(self.initialize(request)),
            "interrupt" if self.switches.ignore_term => return Ok(()),
            "interrupt" => {
                let queued: Vec<_> = self.queue.iter().filter_map(|p| p.uuid.clone()).collect();
                self.out(&ok(json!({"still_queued": queued})));
                return if self.busy { Err(Interrupted) } else { Ok(()) };
            }
            "set_model" => {
                let name = request["model"].as_str().or(self.args.model.as_deref());
                self.model = lines::model_of(name);
                let (name, model) = (name.unwrap_or("default"), self.model.clone());
                let text = format!("Set model to `{name} ({model})`");
                let text = format!("<local-command-stdout>{text}</local-command-stdout>");
                let replay = json!({"isReplay": true});
                self.out(&lines::with(lines::user(self, &text.into()), replay));
                ok(json!({"model": model}))
            }
            "set_permission_mode" => match self.set_mode(request["mode"].as_str()) {
                Ok(mode) => {
                    self.out(&ok(json!({"mode": mode})));
                    self.mode_changed();
                    return Ok(());
                }
                Err((text, code)) => error(text, Some(code)),
            },
            "apply_flag_settings" => {
                if let Some(effort) = request["settings"]["effortLevel"].as_str() {
                    self.effort = effort.to_owned();
                }
                plain
            }
            "get_usage" => ok(json!({
                "session": {
                    "total_cost_usd": self.session.cost_usd, "total_api_duration_ms": 0,
                    "total_duration_ms": 0, "total_lines_added": 0, "total_lines_removed": 0,
                    "model_usage": spent_json(&self.session.spent),
                },
                "subscription_type": null, "rate_limits_available": false,
                "rate_limits": null, "behaviors": null,
            })),
            "get_session_cost" => {
                let usd = self.session.cost_usd;
                ok(json!({"text": format!("Estimated cost:        ${usd:.4}")}))
            }
            "list_permission_rules" => ok(json!({"state": {
                "rules": self.rules, "workspaceDirectories": self.args.add_dirs,
                "originalCwd": self.cwd, "managedOnly": false,
            }})),
            "mcp_status" => ok(json!({"mcpServers": lines::mcp_servers(self)})),
            "get_binary_version" => ok(json!({"version": lines::version()})),
            "stop_task" => {
                self.stop_task(request["task_id"].as_str().unwrap_or_default());
                ok(json!({}))
            }
            "claim_session" => match self.claim(request) {
                Ok(response) => ok(response),
                Err(text) => error(text, None),
            },
            "end_session" => {
                self.out(&plain);
                self.exit(i32::from(self.busy));
            }
            other => error(
                format!("Unsupported control request subtype: {other}"),
                Some("unsupported_request"),
            ),
        };
        self.out(&answer);
        Ok(())
    }

    fn initialize(&mut self, request: &Value) -> Value {
        if self.initialized {
            self.tasks_changed();
        } else {
            // Only the first one changes anything.
            self.initialized = true;
            let text = |name: &str| request[name].as_str().map(str::to_owned);
            if let Some(prompt) = text("systemPrompt") {
                self.args.system_prompt = Some(prompt);
            }
            if let Some(prompt) = text("appendSystemPrompt") {
                self.args.append_system_prompt = Some(prompt);
            }
            if request["jsonSchema"].is_object() {
                self.args.json_schema = Some(request["jsonSchema"].clone());
            }
        }
        json!({
            "commands": [{"name": "clear", "description": "Clear the conversation"}],
            "agents": [], "output_style": "default", "available_output_styles": ["default"],
            "models": [{"value": "default", "displayName": "Default"}],
            "account": {"tokenSource": "none", "apiKeySource": "ANTHROPIC_API_KEY",
                "apiProvider": "firstParty"},
            "pid": std::process::id(), "claude_code_version": lines::version(),
            "current_permission_mode": self.mode, "fast_mode_state": "off",
            "session_state": if self.busy { "running" } else { "idle" }, "capabilities": [],
        })
    }

    /// Sets the mode; the error is a text and a code.
    fn set_mode(&mut self, mode: Option<&str>) -> Result<String, (String, &'static str)> {
        let mode = mode
            .map(|m| if m == "manual" { "default" } else { m })
            .unwrap_or_default();
        if !lines::MODES.contains(&mode) {
            let modes = lines::MODES.join(", ");
            let text = format!("Cannot set permission mode: must be one of {modes}");
            return Err((text, "invalid_mode"));
        }
        let bypass = "bypassPermissions";
        let launched = self.args.may_bypass || self.args.permission_mode.as_deref() == Some(bypass);
        if mode == bypass && !launched {
            let text = "Cannot set permission mode to bypassPermissions because the session was \
                        not launched with --dangerously-skip-permissions";
            return Err((text.to_owned(), "bypass_not_launched"));
        }
        self.mode = mode.to_owned();
        Ok(self.mode.clone())
    }

    fn mode_changed(&self) {
        self.out(
            &json!({"type": "system", "subtype": "status", "status": null,
            "permissionMode": self.mode, "uuid": lines::uuid(), "session_id": self.session.id}),
        );
    }

    fn claim(&mut self, request: &Value) -> Result<Value, String> {
        if !self.args.await_claim || self.claimed {
            return Err(
                "not_a_spare: claim_session is only accepted by a process started with \
                        --await-claim that has not been claimed yet"
                    .to_owned(),
            );
        }
        if let Some(key) = request["env"].as_object().and_then(|env| env.keys().next()) {
            return Err(format!(
                "env_key_not_claimable: {key} is read during start-up; \
                 pass it in the spare's spawn env instead"
            ));
        }
        if let Some(cwd) = request["cwd"].as_str() {
            std::env::set_current_dir(cwd).map_err(|e| format!("claim_session: {cwd}: {e}"))?;
            self.cwd = std::env::current_dir().map_err(|e| e.to_string())?;
        }
        if let Some(mode) = request["permission_mode"].as_str() {
            self.set_mode(Some(mode)).map_err(|(text, _)| text)?;
            self.mode_changed();
        }
        // Each is a text or a list of texts.
        let texts = |name: &str| match &request[name] {
            Value::String(text) => Some(text.clone()),
            Value::Array(list) => {
                let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                Some(texts.join("\n\n"))
            }
            _ => None,
        };
        let claimed = (texts("system_prompt"), texts("append_system_prompt"));
        self.args.system_prompt = claimed.0.or(self.args.system_prompt.take());
        self.args.append_system_prompt = claimed.1.or(self.args.append_system_prompt.take());
        let dirs = request["additional_directories"]
            .as_array()
            .into_iter()
            .flatten();
        self.args
            .add_dirs
            .extend(dirs.filter_map(Value::as_str).map(str::to_owned));
        self.claimed = true;
        Ok(
            json!({"status": "ok", "cwd": self.cwd, "session_id": self.session.id,
            "parked_ms": 1, "sdk_mcp_settled": true}),
        )
    }
}
