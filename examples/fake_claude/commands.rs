//! What a prompt that begins with `/` does, and results without a turn.

use serde_json::{Value, json};

use crate::cli::Cli;
use crate::lines;
use crate::session::Session;

impl Cli {
    /// Runs `text` as a local command; false if it is none, and goes to the model.
    pub fn command(&mut self, text: &str) -> bool {
        let (name, rest) = text[1..]
            .split_once(char::is_whitespace)
            .unwrap_or((&text[1..], ""));
        match name {
            "clear" if self.args.no_slash_commands || self.switches.reset_fails => {
                self.switches.reset_fails = false;
                self.unavailable(name);
            }
            "clear" if self.switches.reset_hangs => {}
            "clear" => self.clear(),
            "model" => {
                self.model = lines::model_of(Some(rest.trim()));
                let model = self.model.clone();
                let said = format!("Set model to `{model}` for this session only");
                self.local(&said, json!({"local_command": "model"}));
            }
            "cost" => {
                let said = format!("Estimated cost:        ${:.4}", self.session.cost_usd);
                self.local(&said, json!({"local_command": "cost"}));
            }
            "compact" | "config" | "mcp" => {
                self.local(&format!("{name} ran"), json!({"local_command": name}));
            }
            "exit" | "permissions" | "add-dir" => self.unavailable(name),
            _ => return false,
        }
        true
    }

    fn unavailable(&mut self, name: &str) {
        self.local(
            &format!("/{name} isn't available in this environment."),
            json!({}),
        );
    }

    fn local(&mut self, said: &str, more: Value) {
        self.out(&lines::init(self));
        self.out(&lines::synthetic(self, said));
        let result = lines::result(self, "success", 1);
        self.result_out(lines::with(
            lines::with(result, json!({"result": said})),
            more,
        ));
    }

    fn clear(&mut self) {
        let new_id = lines::uuid();
        self.out(
            &json!({"type": "conversation_reset", "new_conversation_id": new_id,
            "uuid": new_id, "trigger": "clear", "user_message_uuid": lines::uuid(),
            "timestamp": lines::timestamp(), "session_id": self.session.id}),
        );
        self.tasks_changed();
        self.session = Session::new(None);
        self.exit_code = 0;
        self.out(&lines::init(self));
        let result = lines::result(self, "success", 1);
        self.result_out(lines::with(
            result,
            json!({"result": "", "local_command": "clear"}),
        ));
        if std::mem::take(&mut self.switches.late_result) {
            let result = lines::result(self, "success", 1);
            self.result_out(lines::with(result, json!({"result": "nobody asked"})));
        }
        if std::mem::take(&mut self.switches.late_turn) {
            self.turn_by_myself();
        }
    }

    /// Writes a result and counts it.
    pub fn result_out(&mut self, line: Value) {
        self.out(&line);
        self.results += 1;
        self.session.spent_since.clear();
    }

    /// The result for a message that came before the claim.
    pub fn refuse_unclaimed(&mut self) {
        let text = "not_claimed: this process was started with --await-claim and has not been \
                    claimed; send claim_session before the first message";
        self.early_result(text);
    }

    /// Says that the session to resume is unknown, and ends.
    pub fn unknown_session(&mut self, id: &str) -> ! {
        let text = format!("No conversation found with session ID: {id}");
        eprintln!("{text}");
        self.session.id = id.to_owned();
        self.early_result(&text);
        self.exit(1);
    }

    fn early_result(&mut self, text: &str) {
        let line = json!({
            "type": "result", "subtype": "error_during_execution", "duration_ms": 0,
            "duration_api_ms": 0, "is_error": true, "num_turns": 0, "stop_reason": null,
            "session_id": self.session.id, "total_cost_usd": 0, "permission_denials": [],
            "uuid": lines::uuid(), "errors": [text], "result_index": self.results,
        });
        self.result_out(line);
    }
}
