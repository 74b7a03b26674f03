//! Directives that only this program knows: what can go wrong with a process.

use std::io::Write;

use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::lines;

impl Cli {
    /// Plays directive `name`; false if there is none of that name.
    pub fn fault(&mut self, name: &str, rest: &str) -> bool {
        let number = rest.trim().parse::<f64>().unwrap_or(0.0);
        let count = number as usize;
        match name {
            // At once, without ending the tools: what a crash leaves behind.
            "exit" => std::process::exit(number as i32),
            "kill-self" => {
                // It cannot fail on oneself, and would not return.
                let _ = kill_process(getpid(), Signal::KILL);
            }
            "garbage" => {
                self.raw(b"this is not json\n");
                self.raw(b"{\"type\":\"assistant\",\"mess\n");
                self.raw(b"\xff\xfe\x80 not utf-8\n");
            }
            "bad-utf8" => {
                self.out(&json!(["not", "an", "object"]));
                self.raw(b"\xff\xfe\x80 printed by something\n");
                let ping = self.ping("?").to_string() + "\n";
                let bytes: Vec<u8> = ping
                    .bytes()
                    .map(|b| if b == b'?' { 0xff } else { b })
                    .collect();
                self.raw(&bytes);
            }
            "half-line" => self.raw(b"{\"type\":\"assistant\",\"mess"),
            "noise" => {
                let line = [b"nothing of the protocol ".repeat(40).as_slice(), b"\n"].concat();
                for _ in 0..count / line.len() {
                    self.raw(&line);
                }
            }
            // Until it is killed: it hears nothing meanwhile.
            "endless-line" => loop {
                self.raw(&[b'x'; 1 << 16]);
            },
            "endless-text" => {
                let delta = json!({"type": "text_delta", "text": "endless ".repeat(4096)});
                let event = json!({"type": "content_block_delta", "index": 0, "delta": delta});
                let line = json!({"type": "stream_event", "event": event,
                    "session_id": self.session.id, "parent_tool_use_id": null});
                loop {
                    self.out(&line);
                }
            }
            "big-line" => {
                let empty = self.ping("").to_string().len();
                self.out(&self.ping(&"x".repeat(count.saturating_sub(empty))));
            }
            "stderr" => {
                let line = "x".repeat(79) + "\n";
                let bytes: Vec<u8> = line.bytes().cycle().take(count).collect();
                // Its reader may be gone.
                let _ = std::io::stderr().write_all(&bytes);
            }
            "unknown-type" => {
                self.out(&json!({"type": "fake_unknown", "session_id": self.session.id}));
                self.out(&json!({"type": "system", "subtype": "fake_unknown", "n": 1}));
                self.out(&json!({"type": "stream_event", "event": {"type": "fake_unknown"}}));
            }
            "close-stdout" => {
                if let Ok(null) = std::fs::File::create("/dev/null") {
                    // Then stdout stays as it was.
                    let _ = rustix::stdio::dup2_stdout(&null);
                }
            }
            "background" => {
                // A failed start shows as a task that is not listed.
                let _ = self.start_task(&format!("sleep {number}"), "toolu_background");
            }
            "cost" => self.session.book_usd(&self.model.clone(), number),
            "no-result" => self.switches.no_result = true,
            "two-results" => self.switches.two_results = true,
            "ignore-term" => self.switches.ignore_term = true,
            "reset-fails" => self.switches.reset_fails = true,
            "reset-hangs" => self.switches.reset_hangs = true,
            "self-turn" => self.switches.self_turn = true,
            "late-turn" => self.switches.late_turn = true,
            "late-result" => self.switches.late_result = true,
            // It began with the turn.
            crate::record::NAME => {}
            _ => return false,
        }
        true
    }

    fn ping(&self, filler: &str) -> Value {
        json!({"type": "stream_event", "event": {"type": "ping", "filler": filler},
            "session_id": self.session.id, "parent_tool_use_id": null})
    }

    /// What the model would have seen, and what only the process knows.
    pub fn request_seen(&self) -> Value {
        let said = |(role, text): &(String, String)| json!({"role": role, "text": text});
        let env: serde_json::Map<String, Value> = std::env::vars_os()
            .map(|(name, _)| (name.to_string_lossy().into_owned(), true.into()))
            .collect();
        json!({
            "system": self.args.system_prompt, "system_append": self.args.append_system_prompt,
            "model": self.model, "permission_mode": self.mode, "cwd": self.cwd,
            "messages": self.session.messages.iter().map(said).collect::<Vec<_>>(),
            "allowed_tools": self.args.allowed, "disallowed_tools": self.args.disallowed,
            "tools": lines::tools(self), "mcp": self.args.mcp_config, "effort": self.effort,
            "add_dirs": self.args.add_dirs, "session_id": self.session.id,
            "pid": std::process::id(), "env": env,
        })
    }
}
