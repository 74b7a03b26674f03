//! One CLI process and its conversation: requests out, observations in.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use self::requests::{Failure, Unanswered};
use super::process::Process;
use super::protocol::session_usage;
use super::turn::{Conversation, InForce, Totals};
use super::{ClaudeOptions, argv, tree};
use crate::agent::{
    AgentError, Dials, Launch, Observation, Placement, ProcessEnd, Session, Turn, Unclean,
};
use crate::money::Microdollars;
use crate::pb::{Effort, PermissionMode};

mod requests;

/// How long the shim may take to end a tree before it is killed itself and the
/// tree is swept.
const SHIM_LIMIT: Duration = Duration::from_secs(5);
/// How long short-lived helpers of the CLI may still run after a reset.
const HELPERS_LIMIT: Duration = Duration::from_millis(100);

/// A [`Session`] with a CLI process.
pub(super) struct ClaudeSession {
    process: Process,
    options: Arc<ClaudeOptions>,
    conversation: Conversation,
    dialled: Dials,
    claimable: bool,
    has_mcp_servers: bool,
    requests: u64,
    /// Interrupts and usage questions not answered yet.
    unanswered: Vec<Unanswered>,
    ready: VecDeque<Observation>,
    /// An interrupt that waits for the start of its turn: before it the CLI
    /// would accept it and go on.
    interrupt_wanted: bool,
    ended: bool,
}

fn mode_word(mode: PermissionMode) -> &'static str {
    match mode {
        PermissionMode::Unspecified | PermissionMode::DontAsk => "dontAsk",
        PermissionMode::Plan => "plan",
        PermissionMode::Default => "default",
        PermissionMode::AcceptEdits => "acceptEdits",
        PermissionMode::Auto => "auto",
        PermissionMode::BypassPermissions => "bypassPermissions",
    }
}

/// `None`: back to the CLI's default.
fn effort_word(effort: Effort) -> Option<&'static str> {
    match effort {
        Effort::Unspecified => None,
        Effort::Low => Some("low"),
        Effort::Medium => Some("medium"),
        Effort::High => Some("high"),
        Effort::Xhigh => Some("xhigh"),
        Effort::Max => Some("max"),
    }
}

/// A message of ours. A CLI that is given an id tells for each line of a turn
/// whose it is, and writes some lines more: that costs it a twentieth of a short
/// task, so an id is only given where another turn could be meant.
fn user_line(text: &str, id: Option<&str>) -> Value {
    let mut line = json!({
        "type": "user",
        "message": { "role": "user", "content": text },
    });
    if let Some(id) = id {
        line["uuid"] = json!(id);
    }
    line
}

impl ClaudeSession {
    /// Waits until the process is ready.
    pub(super) async fn start(
        process: Process,
        options: Arc<ClaudeOptions>,
        launch: Launch,
        initialize: Value,
    ) -> Result<Self, AgentError> {
        let mut session = Self {
            process,
            conversation: Conversation::default(),
            dialled: Dials::default(),
            claimable: launch.placement.is_none(),
            has_mcp_servers: !launch.profile.mcp_servers.is_empty(),
            requests: 0,
            unanswered: Vec::new(),
            ready: VecDeque::new(),
            interrupt_wanted: false,
            ended: false,
            options,
        };
        session.conversation.in_force = InForce {
            model: None,
            permission_mode: mode_word(PermissionMode::DontAsk).into(),
            working_dir: launch.placement.as_ref().map(named),
        };
        let limit = session.options.start_timeout;
        let answer = session.control(initialize, limit).await;
        answer.map_err(|failure| AgentError::Launch(failure.sentence()))?;
        if let Some(placement) = &launch.placement {
            session.is_in(&placement.working_dir)?;
        }
        if let Some(home) = session.process.home() {
            home.remove_private();
        }
        if launch.resume.is_some() {
            // A resumed conversation goes on with its old totals.
            let usage = session
                .control(json!({ "subtype": "get_usage" }), limit)
                .await
                .map_err(|failure| AgentError::Launch(failure.sentence()))?;
            if let Some((dollars, models)) = session_usage(usage) {
                session.conversation.restored = dollars;
                session.conversation.base = Totals { dollars, models };
            }
            session.conversation.resumed();
        }
        Ok(session)
    }

    /// A directory can become a link after it was allowed; a process that has
    /// entered one stays in it.
    fn is_in(&self, dir: &Path) -> Result<(), AgentError> {
        let entered = std::fs::read_link(format!("/proc/{}/cwd", self.process.pid()));
        match entered {
            Ok(entered) if entered != dir => Err(elsewhere()),
            // One that has ended tells it by itself.
            _ => Ok(()),
        }
    }

    fn is_idle(&self) -> Result<(), AgentError> {
        match (self.ended, self.conversation.in_turn()) {
            (true, _) => Err(AgentError::Process("it has ended".into())),
            (_, true) => Err(AgentError::Process("a turn is under way".into())),
            _ => Ok(()),
        }
    }

    /// Sets one dial.
    async fn set(&mut self, setting: &'static str, request: Value) -> Result<Value, AgentError> {
        let limit = self.options.control_timeout;
        self.control(request, limit)
            .await
            .map_err(|failure| match failure {
                Failure::Refused(message) => AgentError::Refused { setting, message },
                failure => AgentError::Process(failure.sentence()),
            })
    }

    /// Processes below the shim that should not be there: all but the CLI and,
    /// in its group, its MCP servers. Tool processes are in groups of their own.
    fn leftovers(&self) -> Vec<u32> {
        let cli = self.process.pid();
        let below = tree::below(self.process.shim_pid()).into_iter();
        below
            .filter(|p| p.pid != cli && !(self.has_mcp_servers && p.group == cli))
            .map(|p| p.pid)
            .collect()
    }

    async fn try_reset(&mut self) -> Result<(), Failure> {
        let limit = self.options.reset_timeout;
        self.settle_requests().await?;
        let may_have_children = self.conversation.may_have_children();
        let id = Uuid::new_v4().to_string();
        self.conversation.begin_reset(&id);
        // A process that could begin a turn by itself is unclean, and not asked.
        self.send(&user_line("/clear", None));
        let confirmed = async {
            loop {
                let incoming = self.process.next().await;
                self.absorb_or_fail(incoming)?;
                if let Some(result) = self.conversation.reset_result() {
                    return result.map_err(Failure::Broken);
                }
            }
        };
        timeout(limit, confirmed)
            .await
            .unwrap_or(Err(Failure::Late(limit)))?;
        if !may_have_children {
            return Ok(());
        }
        let deadline = Instant::now() + HELPERS_LIMIT;
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure::Broken(format!(
                    "{} processes outlived the reset",
                    left.len()
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn elsewhere() -> AgentError {
    AgentError::Refused {
        setting: "working_dir",
        message: "became another directory".into(),
    }
}

/// The directory as the CLI must name it. It was resolved when it was allowed:
/// resolved again it could be another.
fn named(placement: &Placement) -> String {
    placement.working_dir.to_string_lossy().into_owned()
}

#[async_trait]
impl Session for ClaudeSession {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn memory_bytes(&self) -> u64 {
        tree::memory_bytes(self.process.shim_pid())
    }

    fn has_left(&self, amount: Microdollars) -> bool {
        let spent = self.conversation.spent();
        self.options
            .budget_backstop
            .is_none_or(|most| spent == Microdollars::ZERO || spent.saturating_add(amount) <= most)
    }

    async fn claim(&mut self, placement: &Placement) -> Result<(), AgentError> {
        if !std::mem::take(&mut self.claimable) {
            return Err(AgentError::Process("it has its placement already".into()));
        }
        argv::check_working_dir(placement)?;
        self.set("placement", argv::claim(placement)).await?;
        self.is_in(&placement.working_dir)?;
        self.conversation.in_force.working_dir = Some(named(placement));
        Ok(())
    }

    async fn dial(&mut self, dials: &Dials) -> Result<(), AgentError> {
        self.is_idle()?;
        if dials.model != self.dialled.model {
            let mut request = json!({ "subtype": "set_model" });
            if let Some(model) = &dials.model {
                request["model"] = json!(model);
            }
            self.conversation.in_force.model = None;
            let answer = self.set("model", request).await?;
            let model = answer.get("model").and_then(Value::as_str);
            self.conversation.in_force.model = model.map(str::to_owned);
            self.dialled.model.clone_from(&dials.model);
        }
        let mode = mode_word(dials.permission_mode);
        if mode != self.conversation.in_force.permission_mode {
            let request = json!({ "subtype": "set_permission_mode", "mode": mode });
            self.set("permission_mode", request).await?;
            self.conversation.in_force.permission_mode = mode.into();
        }
        if dials.effort != self.dialled.effort {
            let level = effort_word(dials.effort);
            let settings = json!({ "effortLevel": level });
            let request = json!({ "subtype": "apply_flag_settings", "settings": settings });
            self.set("effort", request).await?;
            self.dialled.effort = dials.effort;
        }
        Ok(())
    }

    async fn begin(&mut self, turn: Turn) -> Result<(), AgentError> {
        self.is_idle()?;
        if turn.prompt.is_empty() {
            return Err(AgentError::Refused {
                setting: "prompt",
                message: "it is empty".into(),
            });
        }
        let failed = |failure: Failure| AgentError::Process(failure.sentence());
        self.settle_requests().await.map_err(failed)?;
        for said in &self.ready {
            if let Observation::Violation(why) = said {
                return Err(AgentError::Process(why.clone()));
            }
        }
        let mut prompt = turn.prompt;
        if prompt.starts_with('/') {
            if turn.slash_commands {
                self.conversation.taint("a slash command ran");
            } else {
                // Only a first character is a command; a blank before it makes
                // it the text that the caller meant.
                prompt.insert(0, ' ');
            }
        }
        let id = Uuid::new_v4().to_string();
        self.interrupt_wanted = false;
        let named = self.conversation.has_past().then_some(id.as_str());
        let line = user_line(&prompt, named);
        self.conversation.begin(&id);
        self.send(&line);
        self.flush().await.map_err(failed)
    }

    async fn next(&mut self) -> Observation {
        if let Some(observation) = self.ready.pop_front() {
            return observation;
        }
        let incoming = self.process.next().await;
        self.absorb(incoming);
        self.ready.pop_front().unwrap_or(Observation::Alive)
    }

    async fn interrupt(&mut self) -> Result<(), AgentError> {
        if self.conversation.in_turn() && !self.ended {
            self.ask_to_stop();
            let failed = |failure: Failure| AgentError::Process(failure.sentence());
            self.flush().await.map_err(failed)?;
        }
        Ok(())
    }

    async fn ask_usage(&mut self) -> Result<(), AgentError> {
        if let Some(turn) = self.conversation.current().cloned()
            && !self.ended
        {
            let id = self.request(json!({ "subtype": "get_usage" }));
            let usage_of = Some(turn);
            self.unanswered.push(Unanswered { id, usage_of });
            let failed = |failure: Failure| AgentError::Process(failure.sentence());
            self.flush().await.map_err(failed)?;
        }
        Ok(())
    }

    fn is_clean(&self) -> bool {
        self.conversation.unclean().is_none() && !self.ended
    }

    async fn reset(&mut self) -> Result<(), Unclean> {
        self.is_idle().map_err(|error| Unclean(error.to_string()))?;
        // What is unclean already need not be asked to forget.
        if let Some(reason) = self.conversation.unclean() {
            return Err(Unclean(reason.to_owned()));
        }
        let reset = self.try_reset().await.map_err(|failure| {
            let reason = failure.sentence();
            self.conversation.taint(reason.clone());
            Unclean(reason)
        });
        self.ready.retain(|o| !matches!(o, Observation::Alive));
        reset
    }

    async fn end(&mut self, grace: Duration) -> ProcessEnd {
        let deadline = Instant::now() + grace;
        if self.conversation.in_turn() && !grace.is_zero() {
            self.ask_to_stop();
            let over = async {
                while self.conversation.in_turn() && !self.ended {
                    let incoming = self.process.next().await;
                    self.absorb(incoming);
                    self.ready.clear();
                }
            };
            let _ = timeout(grace / 3, over).await;
        }
        self.ended = true;
        if !grace.is_zero() {
            self.process.terminate();
            if let Ok(end) = timeout_at(deadline, self.process.gone()).await {
                return end;
            }
        }
        self.process.kill();
        if let Ok(end) = timeout(SHIM_LIMIT, self.process.gone()).await {
            return end;
        }
        // Something stopped or hinders the shim: its tree is swept without it.
        self.process.kill_shim();
        self.process.gone().await
    }
}
