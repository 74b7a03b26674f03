//! The state of the program and what it does between turns.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::args::Args;
use crate::input::{self, Input};
use crate::session::{self, Session};
use crate::tasks::Task;
use crate::{lines, tree};

/// A message that waits for its turn.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// The last text block.
    pub text: String,
    /// As the sender named it.
    pub uuid: Option<String>,
    /// Set if nobody sent it.
    pub origin: Option<Value>,
}

/// Why a turn stops before its end.
#[derive(Debug)]
pub struct Interrupted;

/// Switches that a script turned.
#[derive(Debug, Default)]
pub struct Switches {
    pub ignore_term: bool,
    pub reset_fails: bool,
    pub reset_hangs: bool,
    pub no_result: bool,
    pub two_results: bool,
    pub self_turn: bool,
    /// The same, but once it was reset and is idle.
    pub late_turn: bool,
    pub late_result: bool,
}

/// The program.
#[derive(Debug)]
pub struct Cli {
    pub args: Args,
    pub session: Session,
    pub cwd: PathBuf,
    pub model: String,
    pub mode: String,
    pub effort: String,
    pub rules: Vec<Value>,
    pub claimed: bool,
    pub initialized: bool,
    pub busy: bool,
    pub queue: VecDeque<Prompt>,
    /// Answers to our own requests, by id.
    pub replies: HashMap<String, Value>,
    pub tasks: Vec<Task>,
    pub switches: Switches,
    pub results: u64,
    pub inputs_tx: mpsc::UnboundedSender<Input>,
    inputs: mpsc::UnboundedReceiver<Input>,
    pub stdin_ended: bool,
    pub exit_code: i32,
}

impl Cli {
    /// Ready to run; the error is the line for stderr.
    pub fn start(args: Args) -> Result<Self, String> {
        let (inputs_tx, inputs) = input::listen().map_err(|e| e.to_string())?;
        let cwd = std::env::current_dir().map_err(|e| e.to_string())?;
        let session = open_session(&args)?;
        let mode = args
            .permission_mode
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let mode = if mode == "manual" {
            "default".to_owned()
        } else {
            mode
        };
        if !lines::MODES.contains(&mode.as_str()) {
            return Err(format!(
                "error: option '--permission-mode <mode>' argument '{mode}' is invalid."
            ));
        }
        let rule = |behavior: &str, rule: &String| {
            json!({"behavior": behavior, "source": "cliArg", "rule": rule,
                "editability": "session"})
        };
        let allowed = args.allowed.iter().map(|r| rule("allow", r));
        let denied = args.disallowed.iter().map(|r| rule("deny", r));
        Ok(Self {
            session,
            cwd,
            model: lines::model_of(args.model.as_deref()),
            mode,
            effort: args.effort.clone().unwrap_or_else(|| "medium".to_owned()),
            rules: allowed.chain(denied).collect(),
            claimed: !args.await_claim,
            initialized: false,
            busy: false,
            queue: VecDeque::new(),
            replies: HashMap::new(),
            tasks: Vec::new(),
            switches: Switches::default(),
            results: 0,
            inputs_tx,
            inputs,
            stdin_ended: false,
            exit_code: 0,
            args,
        })
    }

    /// Runs until stdin ends or something ends the program.
    pub async fn run(mut self) {
        if let Some(id) = self.args.resume.clone()
            && self.session.id.is_empty()
        {
            self.unknown_session(&id);
        }
        loop {
            if let Some(prompt) = self.next_prompt() {
                self.busy = true;
                self.turn(prompt).await;
                self.busy = false;
            } else if self.stdin_ended && self.tasks.is_empty() {
                self.exit(self.exit_code);
            } else if let Some(input) = self.inputs.recv().await {
                // Nothing runs, so there is nothing to interrupt.
                let _ = self.take(input);
            }
        }
    }

    /// The next turn. Texts that wait together are one turn, as in the real one.
    fn next_prompt(&mut self) -> Option<Prompt> {
        let mut prompt = self.queue.pop_front()?;
        let plain = |p: &Prompt| p.origin.is_none() && !p.text.starts_with('/');
        while plain(&prompt)
            && self.queue.front().is_some_and(plain)
            && let Some(more) = self.queue.pop_front()
        {
            prompt.text.push('\n');
            prompt.text.push_str(&more.text);
        }
        Some(prompt)
    }

    /// Waits for `what` and serves what comes in meanwhile.
    pub async fn during<T>(&mut self, what: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::pin!(what);
        loop {
            let input = tokio::select! {
                biased;
                Some(input) = self.inputs.recv() => input,
                value = &mut what => return Ok(value),
            };
            self.take(input)?;
        }
    }

    /// Waits for the answer to our request `id`; null if stdin ends first.
    pub async fn reply_to(&mut self, id: &str) -> Result<Value, Interrupted> {
        loop {
            if let Some(reply) = self.replies.remove(id) {
                return Ok(reply);
            }
            if self.stdin_ended {
                return Ok(Value::Null);
            }
            if let Some(input) = self.inputs.recv().await {
                self.take(input)?;
            }
        }
    }

    fn take(&mut self, input: Input) -> Result<(), Interrupted> {
        match input {
            Input::Line(line) => return self.line_in(&line),
            Input::End => self.stdin_ended = true,
            Input::Term if self.switches.ignore_term => {}
            Input::Term => self.exit(143),
            Input::Int if self.switches.ignore_term => {}
            Input::Int => self.exit(0),
            Input::TaskEnded { id, code } => self.task_ended(&id, code),
        }
        Ok(())
    }

    fn line_in(&mut self, line: &[u8]) -> Result<(), Interrupted> {
        let text = String::from_utf8_lossy(line);
        if text.trim().is_empty() {
            return Ok(());
        }
        let Ok(json) = serde_json::from_str::<Value>(&text) else {
            let chars = text.chars().count();
            crate::fail(&format!(
                "Error parsing streaming input line (type=unknown, {chars} chars): SyntaxError"
            ));
        };
        match json["type"].as_str() {
            Some("user") => self.user_in(&json),
            Some("control_request") => return self.control(&json),
            Some("control_response") => {
                let id = json["response"]["request_id"].as_str().unwrap_or_default();
                self.replies
                    .insert(id.to_owned(), json["response"]["response"].clone());
            }
            _ => {}
        }
        Ok(())
    }

    fn user_in(&mut self, json: &Value) {
        if json["message"]["role"] != "user" {
            let role = json["message"]["role"].as_str().unwrap_or("undefined");
            crate::fail(&format!(
                "Error: Expected message role 'user', got '{role}'"
            ));
        }
        if !self.claimed {
            self.refuse_unclaimed();
            return;
        }
        let text = match &json["message"]["content"] {
            Value::String(text) => text.clone(),
            Value::Array(blocks) => {
                let mut texts = blocks.iter().filter(|b| b["type"] == "text");
                texts
                    .next_back()
                    .and_then(|b| b["text"].as_str())
                    .unwrap_or_default()
                    .to_owned()
            }
            _ => String::new(),
        };
        let uuid = json["uuid"].as_str().map(str::to_owned);
        self.lifecycle(uuid.as_deref(), "queued");
        self.queue.push_back(Prompt {
            text,
            uuid,
            origin: None,
        });
    }

    /// Tells what became of a message that its sender named.
    pub fn lifecycle(&self, uuid: Option<&str>, state: &str) {
        if let Some(uuid) = uuid {
            self.out(
                &json!({"type": "command_lifecycle", "command_uuid": uuid, "state": state,
                "uuid": lines::uuid(), "session_id": self.session.id}),
            );
        }
    }

    /// Writes one line.
    pub fn out(&self, line: &Value) {
        self.raw(format!("{line}\n").as_bytes());
    }

    /// Writes bytes as they are.
    pub fn raw(&self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        // A reader that went away shows at the end of stdin.
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    }

    /// Ends the program and the tools it started.
    pub fn exit(&self, code: i32) -> ! {
        tree::kill(std::process::id() as i32, false);
        std::process::exit(code);
    }
}

fn open_session(args: &Args) -> Result<Session, String> {
    if let Some(id) = &args.resume {
        // An empty id marks a session that was not found: said on stdout too.
        let mut session = Session::load(id).unwrap_or_default();
        if args.fork && !session.id.is_empty() {
            session.id = args.session_id.clone().unwrap_or_else(lines::uuid);
        }
        return Ok(session);
    }
    if let Some(id) = &args.session_id
        && session::find(id).is_some()
    {
        return Err(format!("Error: Session ID {id} is already in use."));
    }
    Ok(Session::new(args.session_id.clone()))
}
