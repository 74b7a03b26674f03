//! The conformance suite, and what only the real CLI can show.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use claudepool::agent::claude::Claude;
use claudepool::agent::conformance::{GRACE, Kit, dial, finish, placed, placement, ready, succeed};
use claudepool::agent::{Agent, Dials, Observation, Profile, Session, Turn};
use claudepool::demo::StandIn;
use claudepool::pb::{Effort, PermissionMode};
use tempfile::TempDir;

use crate::support::Kind;
use crate::support::agents::Surroundings;

/// The real CLI before a stand-in of its own.
struct Real {
    agent: Arc<Claude>,
    around: Surroundings,
    spares: bool,
    dir: TempDir,
}

impl Real {
    fn standin(&self) -> &StandIn {
        self.around.standin.as_ref().expect("the real CLI has one")
    }
}

#[async_trait]
impl Kit for Real {
    fn agent(&self) -> Arc<dyn Agent> {
        self.agent.clone()
    }

    fn spares(&self) -> bool {
        self.spares
    }

    fn workspace(&self) -> PathBuf {
        let path = self.dir.path().join("workspace");
        path.canonicalize().expect("it was made")
    }

    async fn shown(&self, session: &mut dyn Session) -> String {
        succeed(session, "::echo shown").await;
        let requests = self.standin().requests();
        requests.last().expect("there was a turn").body.to_string()
    }
}

async fn real(spares: bool) -> Real {
    let dir = tempfile::tempdir().expect("there is room");
    std::fs::create_dir(dir.path().join("workspace")).expect("there is room");
    let around = Kind::Real.surroundings().await;
    let agent = Kind::Real.claude(&around, &dir.path().join("state"));
    Real {
        agent: Arc::new(agent),
        around,
        spares,
        dir,
    }
}

async fn with_spares() -> Real {
    real(true).await
}

async fn without_spares() -> Real {
    real(false).await
}

mod a_spare {
    claudepool::agent_conformance!(super::with_spares);
}

mod a_launch {
    claudepool::agent_conformance!(super::without_spares);
}

/// An MCP server with one tool, in shell.
pub const MCP_SERVER: &str = r#"while read -r line; do
  id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case "$line" in
    *'"initialize"'*) result='{"protocolVersion":"2024-11-05","capabilities":{"tools":{}},"serverInfo":{"name":"m","version":"1"}}' ;;
    *'"tools/list"'*) result='{"tools":[{"name":"t","description":"d","inputSchema":{"type":"object"}}]}' ;;
    *'"tools/call"'*) result='{"content":[{"type":"text","text":"mcp says hello"}]}' ;;
    *) id= ;;
  esac
  [ -n "$id" ] && echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$result}"
done"#;

fn with_mcp_server() -> Profile {
    let definition = serde_json::json!({
        "command": "sh",
        "args": ["-c", MCP_SERVER],
        "env": { "TOKEN": "secret-token-3141" },
    });
    Profile {
        allowed_tools: vec!["mcp__m__t".into(), "Bash".into()],
        mcp_servers: [("m".to_owned(), definition.to_string())].into(),
        ..Profile::default()
    }
}

/// Whether a regular file below `dir` contains `needle`.
fn holds(dir: &std::path::Path, needle: &str) -> bool {
    let entries = std::fs::read_dir(dir).expect("a directory can be read");
    entries.flatten().any(|entry| {
        let kind = entry.file_type().expect("an entry has a type");
        if kind.is_dir() {
            return holds(&entry.path(), needle);
        }
        let text = std::fs::read(entry.path()).unwrap_or_default();
        kind.is_file() && String::from_utf8_lossy(&text).contains(needle)
    })
}

#[tokio::test]
async fn an_mcp_server_leaves_no_secret_and_survives_a_reset_until_it_is_used() {
    let kit = real(true).await;
    let mut session = placed(&kit, with_mcp_server(), placement(&kit.workspace())).await;
    let command_line = std::fs::read(format!("/proc/{}/cmdline", session.pid()));
    let command_line = command_line.expect("it lives");
    assert!(!String::from_utf8_lossy(&command_line).contains("secret-token"));
    assert!(!holds(kit.dir.path(), "secret-token"));

    succeed(&mut *session, "::bash echo x").await;
    assert_eq!(session.reset().await, Ok(()));
    let used = succeed(&mut *session, "::tool mcp__m__t {}").await;

    let answered = |o: &Observation| matches!(o, Observation::ToolResult { output, .. } if output == "mcp says hello");
    assert!(used.told.iter().any(answered), "{used:?}");
    assert!(
        session.reset().await.is_err(),
        "its memory outlives a reset"
    );
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_subagents_tool_calls_are_told_and_what_it_leaves_is_found() {
    let kit = real(true).await;
    let mut session = ready(&kit).await;
    let delegate = |command: &str| {
        let task = serde_json::json!({
            "description": "d",
            "prompt": format!("::bash {command}"),
            "subagent_type": "general-purpose",
        });
        format!("::tool Task {task}")
    };

    let played = succeed(&mut *session, &delegate("echo sub")).await;
    let below = |o: &Observation| {
        matches!(o, Observation::ToolUse { name, parent_tool_use_id, .. }
            if name == "Bash" && !parent_tool_use_id.is_empty())
    };
    assert!(played.told.iter().any(below), "{played:?}");
    assert_eq!(session.reset().await, Ok(()));

    let stays = delegate("setsid tail -f /dev/null >/dev/null 2>&1 &");
    succeed(&mut *session, &stays).await;
    assert!(session.reset().await.is_err());
    session.end(GRACE).await;
}

/// The configuration directory of a process.
fn config_dir(session: &dyn Session) -> PathBuf {
    let environ = std::fs::read(format!("/proc/{}/environ", session.pid()));
    let environ = String::from_utf8(environ.expect("it lives")).expect("text");
    let mut variables = environ.split('\0');
    let dir = variables.find_map(|variable| variable.strip_prefix("CLAUDE_CONFIG_DIR="));
    dir.expect("it has one").into()
}

#[tokio::test]
async fn a_process_killed_right_after_its_reset_makes_no_later_one_slow() {
    let kit = real(false).await;
    for _ in 0..3 {
        let mut killed = ready(&kit).await;
        succeed(&mut *killed, "::echo x").await;
        assert_eq!(killed.reset().await, Ok(()));
        let locked = config_dir(&*killed);
        killed.end(Duration::ZERO).await;

        let mut next = ready(&kit).await;
        assert_ne!(config_dir(&*next), locked);
        succeed(&mut *next, "::echo x").await;
        let begun = Instant::now();
        let end = next.end(Duration::from_secs(30)).await;

        println!("{:?} to end, with {:?}", begun.elapsed(), end.exit_code);
        // In a directory that the killed one had locked it was seen to take 1.5 s,
        // and 8.5 s with stdin closed.
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn the_shell_of_a_tool_gets_no_variable_that_is_not_allowed() {
    let kit = real(true).await;
    let mut session = ready(&kit).await;

    let played = succeed(&mut *session, "::bash env").await;

    let output = played.told.iter().find_map(|o| match o {
        Observation::ToolResult { output, .. } => Some(output.clone()),
        _ => None,
    });
    let output = output.expect("the tool ran");
    // Cargo sets it for every test.
    assert!(!output.contains("CARGO_MANIFEST_DIR"), "{output}");
    assert!(output.contains("CLAUDEPOOL_TREE="), "{output}");
    session.end(GRACE).await;
}

#[tokio::test]
async fn bypassing_permissions_is_possible_where_the_profile_says_so() {
    let kit = real(true).await;
    let profile = Profile {
        bypass_permissions: true,
        ..Profile::default()
    };
    let mut session = placed(&kit, profile, placement(&kit.workspace())).await;
    let bypass = Dials {
        permission_mode: PermissionMode::BypassPermissions,
        ..Dials::default()
    };

    let denied = succeed(&mut *session, "::bash touch made").await;
    dial(&mut *session, &bypass).await;
    let allowed = succeed(&mut *session, "::bash touch made").await;

    assert_eq!(denied.end.permission_denials.len(), 1);
    assert!(allowed.end.permission_denials.is_empty());
    session.end(GRACE).await;
}

#[tokio::test]
async fn an_effort_reaches_the_model_and_can_be_taken_back() {
    let kit = real(true).await;
    let mut session = ready(&kit).await;
    let effort = |kit: &Real| {
        let requests = kit.standin().requests();
        let body = &requests.last().expect("there was a turn").body;
        body["output_config"]["effort"].clone()
    };
    succeed(&mut *session, "::echo x").await;
    let usual = effort(&kit);

    let high = Dials {
        effort: Effort::High,
        ..Dials::default()
    };
    dial(&mut *session, &high).await;
    succeed(&mut *session, "::echo x").await;
    let raised = effort(&kit);
    dial(&mut *session, &Dials::default()).await;
    succeed(&mut *session, "::echo x").await;

    assert_eq!((raised.as_str(), effort(&kit)), (Some("high"), usual));
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_slash_command_runs_if_it_was_asked_for_and_makes_the_process_unclean() {
    let kit = real(true).await;
    let mut session = ready(&kit).await;
    let turn = Turn {
        prompt: "/cost".into(),
        slash_commands: true,
    };

    session.begin(turn).await.expect("a turn begins");
    let played = finish(&mut *session).await;

    assert!(played.end.output.contains("cost"), "{played:?}");
    assert!(
        kit.standin().requests().is_empty(),
        "it ran without the model"
    );
    assert!(session.reset().await.is_err());
    session.end(GRACE).await;
}
