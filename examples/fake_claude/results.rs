//! The results of turns.

use claudepool::demo::script::Usage;
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::lines;
use crate::turn::{Ending, Turn};

const REJECTED: &str = "The user doesn't want to proceed with this tool use. The tool use was \
                        rejected.";

impl Cli {
    fn result_of(&self, turn: &Turn, subtype: &str, more: Value) -> Value {
        let duration_ms = turn.started.elapsed().as_millis() as u64;
        let line = lines::with(
            lines::result(self, subtype, duration_ms),
            json!({"usage": lines::usage(turn.usage), "permission_denials": turn.denials,
                "stop_reason": turn.stop_reason, "num_turns": turn.calls.max(1)}),
        );
        let line = match self.args.partials {
            true => lines::with(line, json!({"begun_message_ids": turn.begun})),
            false => line,
        };
        lines::with(line, more)
    }

    /// The result of a turn that came to its end.
    pub fn ended(&self, turn: &Turn, ending: &Ending) -> Value {
        match ending {
            Ending::Completed => {
                let mut more = json!({"terminal_reason": "completed", "result": turn.said,
                    "api_error_status": null, "ttft_ms": 1});
                if let Some(output) = &turn.structured {
                    more["structured_output"] = output.clone();
                }
                if turn.structured.is_some() {
                    more["num_turns"] = (turn.calls + 1).into();
                }
                self.result_of(turn, "success", more)
            }
            Ending::Budget => {
                let max = self.args.max_budget_usd.unwrap_or_default();
                let text = format!("Reached maximum budget (${max})");
                let more = json!({"terminal_reason": "budget_exhausted", "is_error": true,
                    "errors": [text]});
                self.result_of(turn, "error_max_budget_usd", more)
            }
            Ending::MaxTurns => {
                let text = format!("Reached maximum number of turns ({})", turn.calls);
                let more = json!({"terminal_reason": "max_turns", "is_error": true,
                    "num_turns": turn.calls + 1, "errors": [text]});
                self.result_of(turn, "error_max_turns", more)
            }
            Ending::Api { status, word, text } => {
                let error = json!({"error": word, "is_api_error_message": true,
                    "api_error_status": status});
                self.out(&lines::with(lines::synthetic(self, text), error));
                let more = json!({"terminal_reason": "api_error", "is_error": true,
                    "api_error_status": status, "result": text,
                    "stop_reason": "stop_sequence"});
                self.result_of(turn, "success", more)
            }
        }
    }

    /// The result of a turn that was interrupted.
    pub fn aborted(&mut self, turn: &Turn) -> Value {
        let (note, reason, more_turns) = match &turn.tool {
            Some(id) => {
                self.tool_result(id, REJECTED, true);
                (
                    "[Request interrupted by user for tool use]",
                    "aborted_tools",
                    2,
                )
            }
            None => {
                // What was read so far is paid for.
                let usage = Usage {
                    input: self.session.request_bytes() as u64 / 4,
                    output: 1,
                };
                self.session.book(&self.model.clone(), usage);
                ("[Request interrupted by user]", "aborted_streaming", 1)
            }
        };
        self.session.say("user", note);
        self.out(&lines::user(self, &json!([{"type": "text", "text": note}])));
        if turn.tool.is_none()
            && let Some(id) = turn.begun.last()
        {
            // The stream is closed as if it had ended, without a reason.
            if let Some(index) = turn.open_block {
                self.event(id, &json!({"type": "content_block_stop", "index": index}));
            }
            self.event(
                id,
                &json!({"type": "message_delta",
                "delta": {"stop_reason": null, "stop_sequence": null},
                "usage": {"output_tokens": 1}}),
            );
            self.event(id, &json!({"type": "message_stop"}));
        }
        let text = "[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=null";
        let more = json!({"terminal_reason": reason, "is_error": true, "errors": [text],
            "num_turns": turn.calls + more_turns});
        self.result_of(turn, "error_during_execution", more)
    }
}
