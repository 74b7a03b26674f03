//! The agent of a run: the scripted one, which notes its turns and fails when
//! told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use claudepool::agent::scripted::Scripted;
use claudepool::agent::{
    Agent, AgentError, Dials, Launch, Observation, Placement, Probe, ProcessEnd, Session, Turn,
    Unclean,
};

use super::history::TurnEnd;
use super::plan::AgentFault;
use super::shared::Shared;

#[derive(Clone)]
pub struct Watched {
    pub scripted: Scripted,
    shared: Arc<Shared>,
    known: Arc<Mutex<Known>>,
}

/// What is known of turns: the last marker of each session, and how many turns
/// each marker has had.
#[derive(Default)]
struct Known {
    markers: BTreeMap<String, String>,
    turns: BTreeMap<String, u32>,
}

impl Watched {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            scripted: Scripted::default(),
            shared,
            known: Arc::default(),
        }
    }
}

#[async_trait]
impl Agent for Watched {
    async fn probe(&self) -> Result<Probe, AgentError> {
        self.scripted.probe().await
    }

    async fn settle(&self) -> Result<(), AgentError> {
        self.scripted.settle().await
    }

    async fn launch(&self, launch: Launch) -> Result<Box<dyn Session>, AgentError> {
        let (no_start, slow) = {
            let mut state = self.shared.lock();
            let faults = (
                state.agent_fault(AgentFault::NoStart),
                state.agent_fault(AgentFault::SlowStart),
            );
            if faults.0.is_some() {
                state.count("process that did not start");
            }
            if faults.1.is_some() {
                state.count("process that started late");
            }
            faults
        };
        if let Some(time) = slow {
            tokio::time::sleep(time).await;
        }
        if no_start.is_some() {
            return Err(AgentError::Launch("told not to start".to_owned()));
        }
        let resumed = launch.resume.clone();
        let inner = self.scripted.launch(launch).await?;
        Ok(Box::new(Process {
            inner,
            agent: self.clone(),
            session: resumed,
            turn: None,
            slow_reset: false,
            dead: false,
        }))
    }

    async fn forget(&self, session_id: &str) {
        self.scripted.forget(session_id).await;
    }
}

struct Process {
    inner: Box<dyn Session>,
    agent: Watched,
    /// The conversation, once it is known.
    session: Option<String>,
    /// The turn under way, and its marker.
    turn: Option<(usize, String)>,
    slow_reset: bool,
    dead: bool,
}

impl Process {
    fn close(&mut self, how: TurnEnd) {
        if let Some((turn, _)) = self.turn.take() {
            self.agent.shared.lock().turn_ends(turn, how);
        }
    }

    fn costs(&self, cost: i64) {
        if let Some((turn, _)) = &self.turn {
            self.agent.shared.lock().history.turns[*turn]
                .costs
                .push(cost);
        }
    }

    /// The prompt as this turn plays it, and whose it is.
    fn prepare(&self, prompt: &str) -> (String, Vec<String>, u32) {
        let mut known = self.agent.known.lock().expect("whole");
        let first = prompt.lines().next().unwrap_or_default();
        let is_marker =
            first.starts_with(['t', 'c']) && first[1..].starts_with(|c: char| c.is_ascii_digit());
        let of_session = || known.markers.get(self.session.as_deref()?).cloned();
        let marker = match is_marker {
            true => first.to_owned(),
            false => of_session().unwrap_or_default(),
        };
        let turn = known.turns.entry(marker.clone()).or_default();
        *turn += 1;
        let turn = *turn;
        let now = self.agent.shared.lock().now().0 / 1_000_000;
        let lines = prompt.lines().filter_map(|line| {
            let line = match line.strip_prefix("@1 ") {
                Some(line) if turn == 1 => line,
                Some(_) => return None,
                None => line,
            };
            Some(match line.strip_prefix("limited +") {
                Some(seconds) => {
                    format!("limited {}", now + seconds.parse::<i64>().unwrap_or(0))
                }
                None => line.to_owned(),
            })
        });
        let lines = lines.collect();
        (marker, lines, turn)
    }
}

fn gone() -> AgentError {
    AgentError::Process("it has ended".to_owned())
}

#[async_trait]
impl Session for Process {
    fn pid(&self) -> u32 {
        self.inner.pid()
    }

    fn memory_bytes(&self) -> u64 {
        self.inner.memory_bytes()
    }

    async fn claim(&mut self, placement: &Placement) -> Result<(), AgentError> {
        match self.dead {
            true => Err(gone()),
            false => self.inner.claim(placement).await,
        }
    }

    async fn dial(&mut self, dials: &Dials) -> Result<(), AgentError> {
        match self.dead {
            true => Err(gone()),
            false => self.inner.dial(dials).await,
        }
    }

    async fn begin(&mut self, turn: Turn) -> Result<(), AgentError> {
        if self.dead {
            return Err(gone());
        }
        let (marker, mut lines, _) = self.prepare(&turn.prompt);
        let mut has = |word: &str| {
            let found = lines.iter().position(|line| line == word);
            found.map(|at| lines.remove(at)).is_some()
        };
        if has("deaf") {
            self.agent
                .shared
                .lock()
                .count("process that died as its turn began");
            self.dead = true;
            return Err(gone());
        }
        self.slow_reset |= has("slow reset");
        let limits = {
            let state = self.agent.shared.lock();
            state.agent_fault(AgentFault::Limits).is_some()
        };
        self.agent.scripted.limit(limits);
        self.inner
            .begin(Turn {
                prompt: lines.join("\n"),
                ..turn
            })
            .await?;
        let number = self.agent.shared.lock().turn_begins(&marker);
        self.turn = Some((number, marker));
        Ok(())
    }

    async fn next(&mut self) -> Observation {
        if self.dead {
            return Observation::ProcessEnded(ProcessEnd::default());
        }
        let shared = Arc::clone(&self.agent.shared);
        let said = tokio::select! {
            biased;
            () = shared.kill.notified() => {
                shared.lock().count("process that was killed");
                self.dead = true;
                self.close(TurnEnd::Died);
                return Observation::ProcessEnded(ProcessEnd {
                    exit_code: Some(137),
                    stderr_tail: String::new(),
                });
            }
            said = self.inner.next() => said,
        };
        match &said {
            Observation::TurnStarted { session_id, .. } => {
                self.session = Some(session_id.clone());
                if let Some((_, marker)) = &self.turn {
                    let mut known = self.agent.known.lock().expect("whole");
                    known.markers.insert(session_id.clone(), marker.clone());
                }
            }
            Observation::Cost(cost) => self.costs(cost.0),
            Observation::RateLimited { .. } => shared.lock().count("turn that was limited"),
            Observation::TurnEnded(end) => {
                self.costs(end.cost.0);
                let how = match &end.error {
                    None => TurnEnd::Succeeded,
                    Some(_) => TurnEnd::Failed,
                };
                self.close(how);
            }
            Observation::ProcessEnded(_) => {
                shared.lock().count("process that died in its turn");
                self.dead = true;
                self.close(TurnEnd::Died);
            }
            Observation::Violation(_) => shared.lock().count("process that spoke nonsense"),
            _ => {}
        }
        said
    }

    async fn interrupt(&mut self) -> Result<(), AgentError> {
        self.inner.interrupt().await
    }

    async fn ask_usage(&mut self) -> Result<(), AgentError> {
        self.inner.ask_usage().await
    }

    async fn reset(&mut self) -> Result<(), Unclean> {
        if self.dead {
            return Err(Unclean("it has ended".to_owned()));
        }
        if std::mem::take(&mut self.slow_reset) {
            self.agent.shared.lock().count("reset that took long");
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        let reset = self.inner.reset().await;
        match &reset {
            Ok(()) => self.session = None,
            Err(_) => self.agent.shared.lock().count("reset that failed"),
        }
        reset
    }

    async fn end(&mut self, grace: Duration) -> ProcessEnd {
        self.dead = true;
        self.close(TurnEnd::Ended);
        self.inner.end(grace).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.close(TurnEnd::Ended);
    }
}
