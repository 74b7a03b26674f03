//! What a program must know to run a task.
//!
//! While servers are replaced one by one, programs of two versions share a
//! store, and the older one drops what it does not know from what it reads: a
//! task would run without a setting that it was given. So each task's row names
//! the level of programs that know all that is asked, and older ones leave its
//! work to others.

use super::Spec;
use crate::pb;
use crate::pb::{chain_step, conversation, mcp_server, task_spec};

/// A step in what programs know, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub u16);

impl Level {
    /// What every program knows that knows levels.
    pub const FIRST: Self = Self(1);
    /// What this program knows. The next one begins with the first setting,
    /// input or action that a program of this one would pass by.
    pub const OWN: Self = Self(1);
}

/// The least level at which all that is asked is known. What is added to these
/// messages does not build until it is said here whether it can be passed by.
pub fn needed(spec: &Spec) -> Level {
    let Spec {
        received,
        effective,
        chain,
    } = spec;
    let steps = chain.iter().flat_map(|chain| &chain.steps).map(of_step);
    steps.fold(of_task(received).max(of_settings(effective)), Level::max)
}

fn of_task(spec: &pb::TaskSpec) -> Level {
    let pb::TaskSpec {
        input,
        settings,
        conversation,
        working_dir: _,
        isolation: _,
        tags: _,
        recovery: _,
        node_label: _,
    } = spec;
    let input = match input {
        None | Some(task_spec::Input::Prompt(_)) => Level::FIRST,
    };
    let isolation = match spec.isolation() {
        pb::Isolation::Unspecified
        | pb::Isolation::None
        | pb::Isolation::Worktree
        | pb::Isolation::Clone => Level::FIRST,
    };
    let recovery = match spec.recovery() {
        pb::RecoveryPolicy::Unspecified
        | pb::RecoveryPolicy::Resume
        | pb::RecoveryPolicy::Restart
        | pb::RecoveryPolicy::Fail => Level::FIRST,
    };
    let goes_on = match conversation.as_ref().and_then(|c| c.kind.as_ref()) {
        None
        | Some(
            conversation::Kind::NewConversation(pb::NewConversation {})
            | conversation::Kind::NewProcess(pb::NewProcess {})
            | conversation::Kind::ContinueConversation(pb::ContinueConversation { key: _ })
            | conversation::Kind::ResumeSession(pb::ResumeSession { session_id: _ }),
        ) => Level::FIRST,
    };
    let settings = settings.as_ref().map_or(Level::FIRST, of_settings);
    let all = [input, isolation, recovery, goes_on, settings];
    all.into_iter().fold(Level::FIRST, Level::max)
}

fn of_step(step: &pb::ChainStep) -> Level {
    let pb::ChainStep {
        action,
        settings,
        on_failure,
        name: _,
        output_vars: _,
    } = step;
    let action = match action {
        None
        | Some(
            chain_step::Action::Prompt(_)
            | chain_step::Action::Skill(pb::SkillCall {
                name: _,
                arguments: _,
            }),
        ) => Level::FIRST,
    };
    let fails = match on_failure {
        None
        | Some(pb::FailurePolicy {
            retries: _,
            backoff: _,
            recovery_prompt: _,
        }) => Level::FIRST,
    };
    let settings = settings.as_ref().map_or(Level::FIRST, of_settings);
    action.max(fails).max(settings)
}

fn of_settings(settings: &pb::RunSettings) -> Level {
    let pb::RunSettings {
        mcp_servers,
        model: _,
        fallback_model: _,
        permission_mode: _,
        max_turns: _,
        system_prompt: _,
        append_system_prompt: _,
        allowed_tools: _,
        disallowed_tools: _,
        effort: _,
        json_schema: _,
        budget_microdollars: _,
        run_timeout: _,
        queue_timeout: _,
        slash_commands: _,
        attachments: _,
    } = settings;
    let mode = match settings.permission_mode() {
        pb::PermissionMode::Unspecified
        | pb::PermissionMode::DontAsk
        | pb::PermissionMode::Plan
        | pb::PermissionMode::Default
        | pb::PermissionMode::AcceptEdits
        | pb::PermissionMode::Auto
        | pb::PermissionMode::BypassPermissions => Level::FIRST,
    };
    let effort = match settings.effort() {
        pb::Effort::Unspecified
        | pb::Effort::Low
        | pb::Effort::Medium
        | pb::Effort::High
        | pb::Effort::Xhigh
        | pb::Effort::Max => Level::FIRST,
    };
    let servers = mcp_servers.values().map(|server| match &server.transport {
        None
        | Some(
            mcp_server::Transport::Stdio(pb::McpStdio {
                command: _,
                args: _,
                env: _,
            })
            | mcp_server::Transport::Http(pb::McpHttp { url: _, headers: _ }),
        ) => Level::FIRST,
    });
    servers.fold(mode.max(effort), Level::max)
}
