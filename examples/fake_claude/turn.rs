//! One turn: a prompt, the messages its script makes, and the result.

use std::time::{Duration, Instant};

use claudepool::demo::script::{
    self, Answer, Block, End, Fault, FaultKind, STRUCTURED_OUTPUT, Step, Usage, joined, piece,
};
use claudepool::demo::wire;
use serde_json::{Value, json};

use crate::cli::{Cli, Interrupted, Prompt};
use crate::lines;
use crate::record::Record;
use crate::tools::{attached, missing};

const NUDGE: &str = "[structured-output-enforce] You MUST call the StructuredOutput tool to \
                     complete this request. Call this tool now.";

/// What a turn has come to so far.
pub struct Turn {
    pub started: Instant,
    pub calls: u32,
    pub usage: Usage,
    pub denials: Vec<Value>,
    pub said: String,
    pub stop_reason: Option<&'static str>,
    pub structured: Option<Value>,
    pub nudged: bool,
    pub begun: Vec<String>,
    /// The tool that runs, if one does.
    pub tool: Option<String>,
    /// The block that has begun and not ended, if one has.
    pub open_block: Option<usize>,
}

/// Why a turn ended.
pub enum Ending {
    Completed,
    Budget,
    MaxTurns,
    Api {
        status: Option<u16>,
        word: &'static str,
        text: String,
    },
}

impl From<Interrupted> for Stop {
    fn from(_: Interrupted) -> Self {
        Stop::Interrupted
    }
}

/// What stops a message before its end.
pub enum Stop {
    Interrupted,
    Failed {
        status: Option<u16>,
        word: &'static str,
        text: String,
    },
}

impl Cli {
    /// Plays the turn of `prompt`.
    pub async fn turn(&mut self, prompt: Prompt) {
        self.lifecycle(prompt.uuid.as_deref(), "started");
        if prompt.text.starts_with('/') && self.command(&prompt.text) {
            self.lifecycle(prompt.uuid.as_deref(), "completed");
            return;
        }
        let mut turn = Turn {
            started: Instant::now(),
            calls: 0,
            usage: Usage::default(),
            denials: Vec::new(),
            said: String::new(),
            stop_reason: None,
            structured: None,
            nudged: false,
            begun: Vec::new(),
            tool: None,
            open_block: None,
        };
        self.out(&lines::init(self));
        let record = Record::begin(&prompt.text);
        let played = self.play(&mut turn, &prompt.text).await;
        let mut state = "completed";
        let line = match played {
            Ok(ending) => self.ended(&turn, &ending),
            Err(Stop::Failed { status, word, text }) => {
                self.ended(&turn, &Ending::Api { status, word, text })
            }
            Err(Stop::Interrupted) => {
                state = "cancelled";
                self.aborted(&turn)
            }
        };
        let line = match prompt.origin {
            Some(origin) => lines::with(line, json!({"origin": origin})),
            None => line,
        };
        let mut line = if std::mem::take(&mut self.switches.no_result) {
            // Silence, as of a process that hangs; an interrupt still gets through.
            let _ = self.during(std::future::pending::<()>()).await;
            state = "cancelled";
            self.aborted(&turn)
        } else {
            line
        };
        self.save();
        Record::end(record);
        let errors = [&json!("error_max_turns"), &json!("error_max_budget_usd")];
        self.exit_code =
            i32::from(errors.contains(&&line["subtype"]) || line["terminal_reason"] == "api_error");
        if std::mem::take(&mut self.switches.two_results) {
            self.result_out(line.clone());
            line["result_index"] = self.results.into();
            line["uuid"] = lines::uuid().into();
        }
        self.result_out(line);
        self.lifecycle(prompt.uuid.as_deref(), state);
        if std::mem::take(&mut self.switches.self_turn) {
            self.turn_by_myself();
        }
    }

    /// Writes the conversation to its file, if it is to be saved.
    fn save(&self) {
        if !self.args.no_persistence
            && let Err(e) = self.session.save(&self.cwd)
        {
            eprintln!("session not saved: {e}");
        }
    }

    /// Queues a turn that nobody asked for.
    pub fn turn_by_myself(&mut self) {
        self.queue.push_front(Prompt {
            text: "::echo by myself".to_owned(),
            uuid: None,
            origin: Some(json!({"kind": "task-notification", "producer": "session-task"})),
        });
    }

    async fn play(&mut self, turn: &mut Turn, prompt: &str) -> Result<Ending, Stop> {
        if self.over_budget() {
            return Ok(Ending::Budget);
        }
        self.session.say("user", prompt);
        // The real one writes as it goes, so that an end in the middle is known.
        if !self.args.no_persistence {
            let _ = self.session.save(&self.cwd);
        }
        let mut steps = script::parse(prompt);
        for step in &mut steps {
            if matches!(step, Step::Other { name, .. } if name == "request") {
                *step = Step::Text(vec![piece(self.request_seen().to_string())]);
            }
        }
        steps.extend(
            attached(prompt)
                .into_iter()
                .map(|text| Step::Text(vec![piece(text)])),
        );
        let answers = script::answers(&steps, self.args.json_schema.is_some());
        for index in 0.. {
            let answer = script::answer_at(&answers, index);
            let end = self.message(turn, &answer).await?;
            let mut spoke_last = true;
            for (place, block) in answer.blocks.iter().enumerate() {
                if let Block::Tool { name, input } = block
                    && end == End::ToolUse
                {
                    let id = turn.begun.last().map_or("", String::as_str);
                    let id = wire::tool_id(id, place);
                    self.tool_turn(turn, &id, name, input).await?;
                    spoke_last = false;
                }
            }
            if self.over_budget() {
                return Ok(Ending::Budget);
            }
            if turn.structured.is_some() {
                return Ok(Ending::Completed);
            }
            if !spoke_last {
                if self.args.max_turns.is_some_and(|max| turn.calls >= max) {
                    return Ok(Ending::MaxTurns);
                }
                continue;
            }
            if self.args.json_schema.is_none() || turn.nudged || end != End::Turn {
                return Ok(match end {
                    End::Refusal => Ending::Api {
                        status: None,
                        word: "refusal",
                        text: "API Error: the safeguards flagged this message.".to_owned(),
                    },
                    _ => Ending::Completed,
                });
            }
            turn.nudged = true;
            let nudge = lines::user(self, &json!([{"type": "text", "text": NUDGE}]));
            self.out(&lines::with(nudge, json!({"isSynthetic": true})));
        }
        Ok(Ending::Completed)
    }

    /// Runs one tool and tells its result.
    async fn tool_turn(
        &mut self,
        turn: &mut Turn,
        id: &str,
        name: &str,
        input: &Value,
    ) -> Result<(), Stop> {
        turn.tool = Some(id.to_owned());
        let (text, is_error) = if name == STRUCTURED_OUTPUT {
            match missing(self.args.json_schema.as_ref(), input) {
                None => {
                    turn.structured = Some(input.clone());
                    turn.said = input.to_string();
                    ("Structured output provided successfully".to_owned(), false)
                }
                Some(key) => {
                    let why = format!("root: must have required property '{key}'");
                    (
                        format!("Output does not match required schema: {why}"),
                        true,
                    )
                }
            }
        } else {
            let (output, denial) = self.run_tool(id, name, input).await?;
            turn.denials.extend(denial);
            (output.text, output.is_error)
        };
        turn.tool = None;
        self.tool_result(id, &text, is_error);
        self.session.say("tool", text);
        Ok(())
    }

    /// Writes the result of tool call `id`.
    pub fn tool_result(&self, id: &str, text: &str, is_error: bool) {
        let content = json!([{"tool_use_id": id, "type": "tool_result", "content": text,
            "is_error": is_error}]);
        let seen = if is_error {
            json!(format!("Error: {text}"))
        } else {
            json!({"stdout": text})
        };
        self.out(&lines::with(
            lines::user(self, &content),
            json!({"tool_use_result": seen}),
        ));
    }

    /// One API message: its faults, its events, its lines.
    async fn message(&mut self, turn: &mut Turn, answer: &Answer) -> Result<End, Stop> {
        self.partial_status();
        let mut attempt = 0;
        for Fault { kind, times } in &answer.faults {
            for _ in 0..times.unwrap_or(u32::MAX) {
                self.retry(&mut attempt, *kind).await?;
            }
        }
        turn.calls += 1;
        let usage = answer.usage_for(self.session.request_bytes());
        let (mut cuts, end) = match answer.end {
            End::Drop { times } | End::Overloaded { times } => {
                let calls = answer
                    .blocks
                    .iter()
                    .any(|b| matches!(b, Block::Tool { .. }));
                let well = if calls { End::ToolUse } else { End::Turn };
                (times.unwrap_or(u32::MAX), well)
            }
            end => (0, end),
        };
        loop {
            let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
            turn.begun.push(id.clone());
            turn.open_block = None;
            self.event(&id, &wire::message_start(&id, &self.model, usage));
            let cut = cuts > 0;
            for (index, block) in answer.blocks.iter().enumerate() {
                let last = index + 1 == answer.blocks.len();
                let open = last && (cut || end == End::Hang);
                self.block(turn, &id, index, block, usage, open).await?;
            }
            if end == End::Hang {
                self.during(std::future::pending::<()>()).await?;
            }
            self.session.book(&self.model.clone(), usage);
            turn.usage.input += usage.input;
            turn.usage.output += usage.output;
            if !cut {
                turn.stop_reason = Some(wire::stop_reason(end));
                for event in wire::message_end(end, usage) {
                    self.event(&id, &event);
                }
                let texts = answer.blocks.iter().filter_map(|block| match block {
                    Block::Text(pieces) => Some(joined(pieces)),
                    _ => None,
                });
                self.session.say("assistant", texts.collect::<String>());
                self.save();
                return Ok(end);
            }
            cuts -= 1;
            if matches!(answer.end, End::Overloaded { .. }) {
                let kind = FaultKind::Status {
                    code: 529,
                    retry_after_s: None,
                };
                self.retry(&mut attempt, kind).await?;
            } else {
                self.pause_retry(&mut attempt, None, "unknown", None)
                    .await?;
            }
        }
    }

    /// One block: its events, and its line before its last event.
    async fn block(
        &mut self,
        turn: &mut Turn,
        id: &str,
        index: usize,
        block: &Block,
        usage: Usage,
        open: bool,
    ) -> Result<(), Stop> {
        if let Block::Other { name, rest } = block
            && self.fault(name, rest)
        {
            return Ok(());
        }
        let tool_id = wire::tool_id(id, index);
        let mut said = String::new();
        let events = wire::block_events(index, block, &tool_id);
        for timed in &events {
            if timed.event["type"] == "content_block_stop" {
                if open {
                    return Ok(());
                }
                let json = wire::block_json(block, &tool_id);
                self.out(&lines::assistant(self, id, &json, usage));
            }
            let waited = if timed.pause_ms > 0 {
                self.during(tokio::time::sleep(Duration::from_millis(timed.pause_ms)))
                    .await
            } else {
                // Lets what came in through, at every event as at a pause.
                self.during(tokio::task::yield_now()).await
            };
            if waited.is_err() {
                if !said.is_empty() {
                    let json = json!({"type": "text", "text": said});
                    let line = lines::assistant(self, id, &json, usage);
                    self.out(&lines::with(line, json!({"aborted": true})));
                }
                return Err(Stop::Interrupted);
            }
            said.push_str(timed.event["delta"]["text"].as_str().unwrap_or_default());
            turn.open_block = (timed.event["type"] != "content_block_stop").then_some(index);
            self.event(id, &timed.event);
        }
        if let Block::Text(pieces) = block {
            turn.said = joined(pieces);
        }
        Ok(())
    }

    fn partial_status(&self) {
        if self.args.partials {
            self.out(
                &json!({"type": "system", "subtype": "status", "status": "requesting",
                "session_id": self.session.id, "uuid": lines::uuid()}),
            );
        }
    }

    /// Writes an event of message `id`, if partial messages are wanted.
    pub fn event(&self, id: &str, event: &Value) {
        if self.args.partials {
            self.out(&json!({"type": "stream_event", "event": event,
                "session_id": self.session.id, "parent_tool_use_id": null,
                "uuid": lines::uuid(), "api_message_id": id}));
        }
    }

    fn over_budget(&self) -> bool {
        self.args
            .max_budget_usd
            .is_some_and(|max| self.session.cost_usd - self.session.restored_usd > max)
    }
}
