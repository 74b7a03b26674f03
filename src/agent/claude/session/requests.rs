//! Requests to a process and back, and what it says meanwhile.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::process::Incoming;
use super::super::protocol::{Line, session_usage};
use super::ClaudeSession;
use crate::agent::{Observation, ProcessEnd};

/// Observations that may wait while something is asked for. A process that says
/// more meanwhile does not listen.
const READY_MAX: usize = 1024;

/// A request that is not answered yet.
pub(super) struct Unanswered {
    pub id: String,
    /// A question about usage, and the turn it is about.
    pub usage_of: Option<String>,
}

/// Why a request was not done.
pub(super) enum Failure {
    /// The CLI says no: its words.
    Refused(String),
    /// It cannot say anything any more.
    Gone(ProcessEnd),
    /// It breaks the protocol.
    Broken(String),
    /// It does not answer.
    Late(Duration),
}

impl Failure {
    pub(super) fn sentence(self) -> String {
        match self {
            Self::Refused(words) => words,
            Self::Gone(end) => {
                let code = end.exit_code.map_or("unknown".into(), |c| c.to_string());
                let tail = end.stderr_tail.trim();
                let separator = if tail.is_empty() { "" } else { ": " };
                format!("it exited with code {code}{separator}{tail}")
            }
            Self::Broken(why) => why,
            Self::Late(limit) => format!("no answer within {limit:?}"),
        }
    }
}

impl ClaudeSession {
    /// Queues a request and returns its id.
    pub(super) fn request(&mut self, request: Value) -> String {
        self.requests += 1;
        let id = format!("r{}", self.requests);
        self.send(&json!({ "type": "control_request", "request_id": id, "request": request }));
        id
    }

    pub(super) fn send(&mut self, line: &Value) {
        self.process.send(line.to_string().as_bytes());
    }

    /// Asks for something and waits for the answer; what else the process says
    /// meanwhile is kept for [`Session::next`].
    pub(super) async fn control(
        &mut self,
        request: Value,
        limit: Duration,
    ) -> Result<Value, Failure> {
        let id = self.request(request);
        let answer = async {
            loop {
                match self.process.next().await {
                    Incoming::Line(Line::Answer(of, answer)) if of == id => {
                        return answer.map_err(Failure::Refused);
                    }
                    incoming => self.absorb_or_fail(incoming)?,
                }
            }
        };
        timeout(limit, answer)
            .await
            .unwrap_or(Err(Failure::Late(limit)))
    }

    /// Takes in what the process did. Afterwards `ready` holds what it means, if
    /// it means anything.
    pub(super) fn absorb(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Line(Line::Answer(id, answer)) => self.answered(&id, answer),
            Incoming::Line(Line::Question(id, about_tool)) => self.deny(&id, about_tool),
            Incoming::Line(line) => {
                let clean = self.conversation.unclean().is_none();
                self.conversation.line(line, &mut self.ready);
                if clean
                    && self.conversation.is_idle()
                    && let Some(why) = self.conversation.unclean()
                {
                    // Nobody began this: no task may follow it.
                    self.ready.push_back(Observation::Violation(why.into()));
                }
                if self.interrupt_wanted && self.conversation.has_started() {
                    self.ask_to_stop();
                }
            }
            Incoming::Broken(why) => {
                self.conversation.taint(why);
                self.ready.push_back(Observation::Violation(why.into()));
            }
            Incoming::Ended(end) => {
                self.ended = true;
                self.ready.push_back(Observation::ProcessEnded(end));
            }
        }
    }

    pub(super) fn ask_to_stop(&mut self) {
        self.interrupt_wanted = !self.conversation.has_started();
        if !self.interrupt_wanted {
            let id = self.request(json!({ "subtype": "interrupt" }));
            self.unanswered.push(Unanswered { id, usage_of: None });
        }
    }

    pub(super) fn absorb_or_fail(&mut self, incoming: Incoming) -> Result<(), Failure> {
        let failure = match &incoming {
            Incoming::Line(_) => None,
            Incoming::Broken(why) => Some(Failure::Broken((*why).into())),
            Incoming::Ended(end) => Some(Failure::Gone(end.clone())),
        };
        self.absorb(incoming);
        if failure.is_none() && self.ready.len() > READY_MAX {
            self.conversation.taint("it talks and does not listen");
            return Err(Failure::Broken("it talks and does not listen".into()));
        }
        failure.map_or(Ok(()), Err)
    }

    fn answered(&mut self, id: &str, answer: Result<Value, String>) {
        let Some(at) = self.unanswered.iter().position(|u| u.id == id) else {
            return;
        };
        let asked = self.unanswered.swap_remove(at);
        if let (Some(turn), Some((total, models))) =
            (asked.usage_of, answer.ok().and_then(session_usage))
            && self.conversation.current() == Some(&turn)
        {
            let spent = self.conversation.spent_since(total, &models);
            self.ready.push_back(Observation::Cost(spent));
        }
    }

    /// Nobody is there to ask, so everything asked is denied: nothing waits.
    fn deny(&mut self, id: &str, about_tool: bool) {
        let response = if about_tool {
            json!({
                "subtype": "success",
                "request_id": id,
                "response": {
                    "behavior": "deny",
                    "message": "Nobody is there to allow this.",
                },
            })
        } else {
            self.conversation.taint("it asked for something unknown");
            json!({ "subtype": "error", "request_id": id, "error": "unsupported" })
        };
        self.send(&json!({ "type": "control_response", "response": response }));
    }

    /// Waits until every earlier request is answered: a late interrupt must not
    /// meet what follows.
    pub(super) async fn settle_requests(&mut self) -> Result<(), Failure> {
        let limit = self.options.control_timeout;
        let settled = async {
            while !self.unanswered.is_empty() {
                let incoming = self.process.next().await;
                self.absorb_or_fail(incoming)?;
            }
            Ok(())
        };
        timeout(limit, settled)
            .await
            .unwrap_or(Err(Failure::Late(limit)))
    }

    /// Writes out what is queued, reading meanwhile: a process that waits to be
    /// read does not read.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        let limit = self.options.control_timeout;
        let flushed = async {
            while let Some(incoming) = self.process.flush().await {
                self.absorb_or_fail(incoming)?;
            }
            Ok(())
        };
        timeout(limit, flushed)
            .await
            .unwrap_or(Err(Failure::Late(limit)))
    }
}
