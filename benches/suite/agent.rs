//! An agent without processes that talks as fast, or as slowly, as it is told,
//! and says when it said what.
//!
//! | prompt | what it does |
//! | --- | --- |
//! | `hang` | nothing until it is interrupted |
//! | `burst N BYTES` | N events of so many bytes, at once |
//! | `paced N MICROSECONDS` | N events, each after so long, each with the time |
//!
//! Anything else is answered with `ok`.

use std::time::Duration;

use async_trait::async_trait;
use claudepool::agent::{
    Agent, AgentError, Dials, Launch, Observation, Placement, Probe, ProcessEnd, Session, Turn,
    TurnEnd, TurnError, Unclean,
};
use claudepool::clock::Clock;
use claudepool::money::Microdollars;

/// The agent.
pub struct Talker;

#[async_trait]
impl Agent for Talker {
    async fn probe(&self) -> Result<Probe, AgentError> {
        Ok(Probe {
            version: "bench".to_owned(),
            spares: false,
            drift: Vec::new(),
        })
    }

    async fn settle(&self) -> Result<(), AgentError> {
        Ok(())
    }

    async fn launch(&self, _: Launch) -> Result<Box<dyn Session>, AgentError> {
        Ok(Box::new(Process {
            clock: Clock::system(),
            conversation: 0,
            to_do: Do::Nothing,
        }))
    }
}

struct Process {
    clock: Clock,
    conversation: u64,
    to_do: Do,
}

/// What is left of the turn.
enum Do {
    Nothing,
    Begin(String),
    Hang,
    Burst { left: u32, text: String },
    Paced { left: u32, every: Duration },
    Say,
    End,
    Stop,
}

impl Do {
    fn of(prompt: &str) -> Self {
        let mut words = prompt.split(' ');
        let first = words.next();
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match first {
            Some("hang") => Self::Hang,
            Some("burst") => Self::Burst {
                left: number(),
                text: "x".repeat(number() as usize),
            },
            Some("paced") => Self::Paced {
                left: number(),
                every: Duration::from_micros(u64::from(number())),
            },
            _ => Self::Say,
        }
    }
}

impl Process {
    fn session(&self) -> String {
        format!("session-{}", self.conversation)
    }

    fn ended(&self, error: Option<TurnError>) -> Observation {
        Observation::TurnEnded(Box::new(TurnEnd {
            error,
            output: "ok".to_owned(),
            turns: 1,
            session_id: self.session(),
            model: "bench".to_owned(),
            stop_reason: "end_turn".to_owned(),
            ..TurnEnd::default()
        }))
    }
}

/// A delta that tells when it was said.
fn stamped(clock: &Clock) -> Observation {
    Observation::TextDelta {
        text: format!("{};", clock.now().0),
        parent_tool_use_id: String::new(),
    }
}

#[async_trait]
impl Session for Process {
    fn pid(&self) -> u32 {
        std::process::id()
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    async fn claim(&mut self, _: &Placement) -> Result<(), AgentError> {
        Ok(())
    }

    async fn dial(&mut self, _: &Dials) -> Result<(), AgentError> {
        Ok(())
    }

    async fn begin(&mut self, turn: Turn) -> Result<(), AgentError> {
        self.to_do = Do::Begin(turn.prompt);
        Ok(())
    }

    async fn next(&mut self) -> Observation {
        match &mut self.to_do {
            Do::Begin(prompt) => {
                self.to_do = Do::of(prompt);
                Observation::TurnStarted {
                    session_id: self.session(),
                    model: "bench".to_owned(),
                    permission_mode: String::new(),
                    working_dir: String::new(),
                    total: Microdollars::ZERO,
                }
            }
            Do::Nothing | Do::Hang => std::future::pending().await,
            // A result, since texts would be joined.
            Do::Burst { left, text } if *left > 0 => {
                *left -= 1;
                Observation::ToolResult {
                    id: "burst".to_owned(),
                    is_error: false,
                    output: text.clone(),
                }
            }
            Do::Paced { left, every } if *left > 0 => {
                tokio::time::sleep(*every).await;
                *left -= 1;
                stamped(&self.clock)
            }
            Do::Say => {
                self.to_do = Do::End;
                stamped(&self.clock)
            }
            Do::Burst { .. } | Do::Paced { .. } | Do::End => {
                self.to_do = Do::Nothing;
                self.ended(None)
            }
            Do::Stop => {
                self.to_do = Do::Nothing;
                self.ended(Some(TurnError {
                    subtype: "error_during_execution".to_owned(),
                    terminal_reason: "aborted_streaming".to_owned(),
                    api_status: None,
                    message: String::new(),
                }))
            }
        }
    }

    async fn interrupt(&mut self) -> Result<(), AgentError> {
        if !matches!(self.to_do, Do::Nothing) {
            self.to_do = Do::Stop;
        }
        Ok(())
    }

    async fn ask_usage(&mut self) -> Result<(), AgentError> {
        Ok(())
    }

    async fn reset(&mut self) -> Result<(), Unclean> {
        self.conversation += 1;
        Ok(())
    }

    async fn end(&mut self, _: Duration) -> ProcessEnd {
        ProcessEnd::default()
    }
}
