//! An agent without processes: it does what the prompt says, line by line. For
//! tests on paused time, and for measuring the pool by itself.
//!
//! | line | what it does |
//! | --- | --- |
//! | `say TEXT` | a text delta |
//! | `quote TEXT` | the same, in braces |
//! | `tool` | an API message that calls a tool, and the tool's answer |
//! | `hang` | nothing more until it is interrupted |
//! | `stuck` | nothing more, whatever is asked |
//! | `wait MS` | time passes |
//! | `cost MICRODOLLARS` | what the turn costs so far |
//! | `spend MICRODOLLARS` | the same, and nothing is told of it until the turn ends |
//! | `fail STATUS` | the turn ends as an API failure of that status |
//! | `limited [SECONDS]` | while the test limits: a rate limit that lifts then, which ends the turn |
//! | `retrying STATUS` | a request is tried again after that status |
//! | `die CODE` | the process ends; `expired`: its lease has run out |
//! | `violate` | the process speaks what the protocol does not allow |
//! | `dirty` | the process is not clean afterwards |
//! | `slow MS` | its next reset takes so long |
//! | `about` | tells what it knows: earlier prompts, placement, dials |
//!
//! Another line is said as it stands.

mod shared;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Agent, AgentError, Dials, Launch, Observation, Placement, Probe, ProcessEnd, Session, Spent,
    Turn, TurnEnd, TurnError, Unclean,
};
use crate::money::Microdollars;
use shared::{Playing, Shared, UnderWay, usage};

/// The agent. Clones share what they count.
#[derive(Clone, Default)]
pub struct Scripted {
    shared: Arc<Shared>,
}

#[async_trait]
impl Agent for Scripted {
    async fn probe(&self) -> Result<Probe, AgentError> {
        Ok(Probe {
            version: "scripted".to_owned(),
            spares: true,
            drift: Vec::new(),
        })
    }

    async fn settle(&self) -> Result<(), AgentError> {
        Ok(())
    }

    async fn launch(&self, launch: Launch) -> Result<Box<dyn Session>, AgentError> {
        if self.shared.no_launches.load(Ordering::SeqCst) {
            return Err(AgentError::Launch("the test wants no starts".to_owned()));
        }
        let (session, prompts) = match launch.resume {
            None => (self.shared.new_session(), Vec::new()),
            Some(id) => match self.shared.sessions().get(&id) {
                Some(prompts) => (id, prompts.clone()),
                None => return Err(AgentError::NoSession),
            },
        };
        self.shared.launched();
        Ok(Box::new(Process {
            pid: 1_000_000 + self.shared.next_pid.fetch_add(1, Ordering::SeqCst),
            shared: Arc::clone(&self.shared),
            placement: launch.placement,
            dials: Dials::default(),
            saves: launch.profile.save_sessions,
            session,
            prompts,
            turns: 0,
            turn: None,
            began_at: Microdollars::ZERO,
            interrupted: false,
            usage_asked: false,
            dirty: false,
            resets_in: Duration::ZERO,
            ended: None,
        }))
    }

    async fn forget(&self, session_id: &str) {
        self.shared.sessions().remove(session_id);
    }

    fn lease(&self, span: Duration) {
        let until = tokio::time::Instant::now() + span;
        self.shared.lease.send_replace(Some(until));
    }
}

struct Process {
    pid: u32,
    shared: Arc<Shared>,
    placement: Option<Placement>,
    dials: Dials,
    saves: bool,
    session: String,
    /// The conversation.
    prompts: Vec<String>,
    /// API messages of the turn.
    turns: i32,
    turn: Option<Playing>,
    /// What the conversation had cost before the turn.
    began_at: Microdollars,
    interrupted: bool,
    usage_asked: bool,
    dirty: bool,
    resets_in: Duration,
    ended: Option<ProcessEnd>,
}

impl Process {
    fn gone() -> AgentError {
        AgentError::Process("it has ended".to_owned())
    }

    fn end_turn(&mut self, error: Option<TurnError>) -> Observation {
        let turn = self.turn.take().map(|it| (it.output, it.cost));
        let (mut output, cost) = turn.unwrap_or_default();
        if error.is_some() {
            output.clear();
        }
        let model = self.dials.model.as_deref().unwrap_or("scripted");
        Observation::TurnEnded(Box::new(TurnEnd {
            output,
            error,
            cost,
            usage: usage(cost),
            turns: self.turns,
            session_id: self.session.clone(),
            model: model.to_owned(),
            stop_reason: "end_turn".to_owned(),
            ..TurnEnd::default()
        }))
    }

    fn api_failure(&mut self, status: i32) -> Observation {
        self.end_turn(Some(TurnError {
            subtype: "success".to_owned(),
            terminal_reason: "api_error".to_owned(),
            api_status: Some(status),
            message: format!("API Error: {status}"),
        }))
    }

    fn die(&mut self, how: &str) -> Observation {
        let end = ProcessEnd {
            exit_code: how.parse().ok(),
            stderr_tail: "it was told to die".to_owned(),
            lease_expired: how == "expired",
        };
        self.turn = None;
        self.ended = Some(end.clone());
        Observation::ProcessEnded(end)
    }

    fn message(&self, stop_reason: &str) -> Observation {
        Observation::Message {
            id: format!("message-{}", self.turns),
            model: "scripted".to_owned(),
            stop_reason: stop_reason.to_owned(),
            input_tokens: 1,
            output_tokens: 1,
        }
    }

    /// The turn costs so much by now. The conversation remembers it.
    fn spend(&mut self, microdollars: &str) {
        let cost = Microdollars(microdollars.parse().unwrap_or(0));
        if let Some(playing) = self.turn.as_mut() {
            playing.cost = cost;
        }
        let total = self.began_at.saturating_add(cost);
        self.shared.totals().insert(self.session.clone(), total);
    }

    fn spent(&self) -> Observation {
        let cost = self.turn.as_ref().map_or(Microdollars::ZERO, |p| p.cost);
        Observation::Cost(Spent {
            cost,
            usage: usage(cost),
        })
    }

    fn play(&mut self, line: &str) -> Option<Observation> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let playing = self.turn.as_mut()?;
        let text = match word {
            "say" => rest.to_owned(),
            "quote" => format!("{{{rest}}}"),
            "tool" => {
                self.turns += 1;
                let id = format!("tool-{}", self.turns);
                playing.also.push_back(Observation::ToolUse {
                    id: id.clone(),
                    name: "Bash".to_owned(),
                    input_json: "{}".to_owned(),
                    parent_tool_use_id: String::new(),
                });
                playing.also.push_back(Observation::ToolResult {
                    id,
                    is_error: false,
                    output: "ok".to_owned(),
                });
                return Some(self.message("tool_use"));
            }
            "cost" => {
                self.spend(rest);
                return Some(self.spent());
            }
            "spend" => {
                self.spend(rest);
                return Some(Observation::Alive);
            }
            "fail" => return Some(self.api_failure(rest.parse().unwrap_or(0))),
            "limited" => {
                if !self.shared.limited.load(Ordering::SeqCst) {
                    return Some(Observation::Alive);
                }
                playing.lines = ["fail 429".to_owned()].into();
                return Some(Observation::RateLimited {
                    resets_at: rest.parse().ok(),
                    message: "limited".to_owned(),
                });
            }
            "retrying" => {
                return Some(Observation::Retrying {
                    retry: 1,
                    max_retries: 10,
                    delay: Duration::from_secs(1),
                    api_status: rest.parse().ok(),
                    error: String::new(),
                });
            }
            "die" => return Some(self.die(rest)),
            "violate" => return Some(Observation::Violation("nonsense".to_owned())),
            "dirty" | "slow" => {
                self.dirty |= word == "dirty";
                self.resets_in += Duration::from_millis(rest.parse().unwrap_or(0));
                return Some(Observation::Alive);
            }
            "about" => format!("{:?} {:?} {:?}", self.prompts, self.placement, self.dials),
            _ => line.to_owned(),
        };
        playing.output.push_str(&text);
        Some(Observation::TextDelta {
            text,
            parent_tool_use_id: String::new(),
        })
    }

    async fn say_next(&mut self) -> Observation {
        loop {
            let Some(playing) = self.turn.as_mut() else {
                return std::future::pending().await;
            };
            if let Some(also) = playing.also.pop_front() {
                return also;
            }
            if self.usage_asked {
                self.usage_asked = false;
                return self.spent();
            }
            let stuck = playing.lines.front().is_some_and(|line| line == "stuck");
            if self.interrupted && !stuck {
                return self.end_turn(Some(TurnError {
                    subtype: "error_during_execution".to_owned(),
                    terminal_reason: "aborted_streaming".to_owned(),
                    api_status: None,
                    message: String::new(),
                }));
            }
            let Some(line) = playing.lines.front().cloned() else {
                self.turns += 1;
                return self.end_turn(None);
            };
            match line.split_once(' ') {
                _ if line == "hang" || stuck => return std::future::pending().await,
                Some(("wait", ms)) => {
                    // Stays in front until it is over: a dropped call waits again.
                    tokio::time::sleep(Duration::from_millis(ms.parse().unwrap_or(0))).await;
                    if let Some(playing) = self.turn.as_mut() {
                        playing.lines.pop_front();
                    }
                    return Observation::Alive;
                }
                _ => playing.lines.pop_front(),
            };
            if let Some(observation) = self.play(&line) {
                return observation;
            }
        }
    }
}

#[async_trait]
impl Session for Process {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn memory_bytes(&self) -> u64 {
        self.shared.memory.load(Ordering::SeqCst)
    }

    async fn claim(&mut self, placement: &Placement) -> Result<(), AgentError> {
        self.placement = Some(placement.clone());
        Ok(())
    }

    async fn dial(&mut self, dials: &Dials) -> Result<(), AgentError> {
        self.dials = dials.clone();
        Ok(())
    }

    async fn begin(&mut self, turn: Turn) -> Result<(), AgentError> {
        if self.ended.is_some() {
            return Err(Self::gone());
        }
        self.shared.turns.fetch_add(1, Ordering::SeqCst);
        self.interrupted = false;
        self.turns = 0;
        let lines = turn.prompt.lines().map(str::to_owned).collect();
        self.prompts.push(turn.prompt);
        if self.saves {
            let mut sessions = self.shared.sessions();
            sessions.insert(self.session.clone(), self.prompts.clone());
        }
        let started = Observation::TurnStarted {
            session_id: self.session.clone(),
            model: "scripted".to_owned(),
            permission_mode: String::new(),
            working_dir: String::new(),
            total: self.shared.total(&self.session),
        };
        self.began_at = self.shared.total(&self.session);
        self.turn = Some(Playing {
            lines,
            output: String::new(),
            cost: Microdollars::ZERO,
            _under_way: UnderWay::new(&self.shared),
            also: [started].into(),
        });
        Ok(())
    }

    async fn next(&mut self) -> Observation {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = shared.lease_passed(), if self.ended.is_none() => self.die("expired"),
            said = self.say_next() => said,
        }
    }

    async fn interrupt(&mut self) -> Result<(), AgentError> {
        self.interrupted = true;
        Ok(())
    }

    async fn ask_usage(&mut self) -> Result<(), AgentError> {
        self.usage_asked = true;
        Ok(())
    }

    async fn reset(&mut self) -> Result<(), Unclean> {
        tokio::time::sleep(std::mem::take(&mut self.resets_in)).await;
        if self.dirty {
            return Err(Unclean("it is dirty".to_owned()));
        }
        if self.ended.is_some() {
            return Err(Unclean("it has ended".to_owned()));
        }
        self.prompts.clear();
        self.session = self.shared.new_session();
        self.shared.resets.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn end(&mut self, _grace: Duration) -> ProcessEnd {
        self.ended.get_or_insert_default().clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shared.live.fetch_sub(1, Ordering::SeqCst);
    }
}
