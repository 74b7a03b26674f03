//! Each field of RunSettings reaches the CLI, and by it the model.

use std::time::Duration;

use claudepool::pb::{self, Effort, FailureReason, PermissionMode, RunSettings};
use claudepool::pool::Mode;
use serde_json::{Value, json};

use super::{Ran, asking, offers, one_slot, run, succeed, system, user_texts};
use crate::support::prompt;

fn reason(ran: &Ran) -> FailureReason {
    let failure = ran.result.failure.as_ref().expect("it failed");
    failure.reason()
}

#[tokio::test]
async fn model_and_effort_are_those_of_the_request() {
    let mut server = one_slot(|_| {}).await;
    let settings = RunSettings {
        model: Some("sonnet".into()),
        effort: Effort::High as i32,
        ..RunSettings::default()
    };

    let ran = succeed(&mut server, asking("::echo x", settings)).await;

    assert!(
        ran.result.model.contains("sonnet"),
        "{:?} {}",
        ran.result.model,
        ran.request()["model"]
    );
    let model = ran.request()["model"].as_str().unwrap();
    assert!(model.contains("sonnet"), "{model}");
    assert_eq!(ran.request()["output_config"]["effort"], "high");
}

#[tokio::test]
async fn an_overloaded_model_gives_way_to_the_fallback() {
    let mut server = one_slot(|_| {}).await;
    let settings = RunSettings {
        fallback_model: Some("claude-3-5-haiku-20241022".into()),
        ..RunSettings::default()
    };
    let task = asking("::error-times 3 529\n::echo x", settings);

    let ran = succeed(&mut server, task).await;

    let models: Vec<_> = ran.requests.iter().map(|r| r["model"].clone()).collect();
    assert_eq!(ran.result.output, "x");
    assert_ne!(models[0], *models.last().unwrap(), "{models:?}");
    assert_eq!(*models.last().unwrap(), "claude-3-5-haiku-20241022");
}

#[tokio::test]
async fn a_permission_mode_decides_what_is_accepted() {
    let mut server = one_slot(|o| o.policy.permission_modes.push(Mode::AcceptEdits)).await;
    let file = server.working_dir().join("made");
    let write = format!("::write {} x", file.display());
    for (mode, allowed, accepted, words) in [
        (PermissionMode::AcceptEdits, "Read", true, "File created"),
        (PermissionMode::Default, "Read", false, "haven't granted it"),
        (PermissionMode::DontAsk, "Read", false, "in don't ask mode"),
        (PermissionMode::DontAsk, "Write", true, "File created"),
        (PermissionMode::Plan, "Write", false, "while in plan mode"),
    ] {
        let settings = RunSettings {
            permission_mode: mode as i32,
            allowed_tools: vec![allowed.into()],
            ..RunSettings::default()
        };

        let ran = succeed(&mut server, asking(&write, settings)).await;

        let said = ran.requests[1]["messages"].to_string();
        assert!(said.contains(words), "{mode:?}: {said}");
        assert_eq!(file.exists(), accepted, "{mode:?}");
        let _ = std::fs::remove_file(&file);
    }
}

#[tokio::test]
async fn a_task_ends_after_its_last_turn() {
    let mut server = one_slot(|o| o.settings.allowed_tools = vec!["Bash".into()]).await;
    let settings = RunSettings {
        max_turns: Some(2),
        ..RunSettings::default()
    };
    let task = asking("::bash true\n::bash sleep 1000\n::bash true", settings);

    let ran = run(&mut server, task).await;

    assert_eq!(reason(&ran), FailureReason::MaxTurns);
    assert_eq!((ran.requests.len(), ran.result.turns_used), (2, 2));
}

#[tokio::test]
async fn a_system_prompt_replaces_the_clis_own_and_another_is_appended() {
    let mut server = one_slot(|_| {}).await;
    let (ours, more) = ("You are a lighthouse.", "Blink twice.");
    let usual = succeed(&mut server, prompt("::echo x")).await;
    let settings = RunSettings {
        system_prompt: Some(ours.into()),
        append_system_prompt: Some(more.into()),
        ..RunSettings::default()
    };

    let ran = succeed(&mut server, asking("::echo x", settings.clone())).await;
    let again = succeed(&mut server, asking("::echo x", settings)).await;
    let next = succeed(&mut server, prompt("::echo x")).await;

    for ran in [&ran, &again] {
        let said = system(ran.request());
        let (a, b) = (said.find(ours), said.find(more));
        assert!(a.is_some() && a < b, "{said}");
        assert!(said.len() < system(usual.request()).len() / 2, "{said}");
    }
    let said = system(next.request());
    assert!(!said.contains(ours) && !said.contains(more), "{said}");
}

#[tokio::test]
async fn tools_are_allowed_and_disallowed_by_rules() {
    let mut server = one_slot(|_| {}).await;
    let rules = |allowed: &[&str], disallowed: &[&str]| RunSettings {
        allowed_tools: allowed.iter().map(|rule| (*rule).to_owned()).collect(),
        disallowed_tools: disallowed.iter().map(|rule| (*rule).to_owned()).collect(),
        ..RunSettings::default()
    };
    for (settings, runs, offered) in [
        (rules(&[], &[]), false, true),
        (rules(&["Bash(touch:*)"], &[]), true, true),
        (rules(&["Bash(ls:*)"], &[]), false, true),
        (rules(&["Bash"], &["Bash(touch:*)"]), false, true),
        (rules(&["Bash"], &["Bash"]), false, false),
    ] {
        let task = asking("::bash touch ran", settings.clone());

        let ran = succeed(&mut server, task).await;

        let file = server.working_dir().join("ran");
        assert_eq!(offers(ran.request(), "Bash"), offered, "{settings:?}");
        assert_eq!(file.exists(), runs, "{settings:?}");
        let _ = std::fs::remove_file(file);
    }
}

#[tokio::test]
async fn an_answer_satisfies_its_schema() {
    let mut server = one_slot(|_| {}).await;
    let schema = json!({
        "type": "object",
        "properties": { "answer": { "type": "integer" } },
        "required": ["answer"],
    });
    let settings = RunSettings {
        json_schema: Some(schema.to_string()),
        ..RunSettings::default()
    };
    let task = asking(r#"::json {"answer":42}"#, settings.clone());

    let ran = succeed(&mut server, task).await;
    let none = run(&mut server, asking("::echo no object", settings)).await;

    let tools = ran.request()["tools"].as_array().unwrap();
    let tool = tools
        .iter()
        .find(|t| t["name"] == "StructuredOutput")
        .unwrap();
    assert_eq!(tool["input_schema"]["required"], schema["required"]);
    assert_eq!(tool["input_schema"]["properties"], schema["properties"]);
    let output: Value = serde_json::from_str(&ran.result.structured_output_json).unwrap();
    assert_eq!(output, json!({ "answer": 42 }));
    assert_eq!(reason(&none), FailureReason::Schema);
}

#[tokio::test]
async fn a_command_runs_and_a_file_is_attached_where_both_are_asked_for() {
    let mut server = one_slot(|o| {
        o.policy.slash_commands = true;
        o.policy.attachments = true;
    })
    .await;
    let file = server.working_dir().join("diary");
    std::fs::write(&file, "the butler did it").unwrap();
    let asked = RunSettings {
        slash_commands: Some(true),
        attachments: Some(true),
        ..RunSettings::default()
    };
    let attach = format!("::echo read\n@{}", file.display());

    let command = succeed(&mut server, asking("/cost", asked.clone())).await;
    let attached = succeed(&mut server, asking(&attach, asked)).await;
    let text = succeed(&mut server, prompt(&attach)).await;

    assert_eq!(command.requests.len(), 0, "it ran without the model");
    let holds = |ran: &Ran| ran.request().to_string().contains("the butler did it");
    assert!(holds(&attached), "{}", attached.request()["messages"]);
    assert!(!holds(&text) && user_texts(text.request()).contains(&attach.as_str()));
}

#[tokio::test]
async fn a_task_ends_at_its_budget_and_at_its_time() {
    let mut server = one_slot(|o| o.settings.allowed_tools = vec!["Bash".into()]).await;
    let little = RunSettings {
        budget_microdollars: Some(10),
        ..RunSettings::default()
    };
    let short = RunSettings {
        run_timeout: Some(Duration::from_secs(1).try_into().unwrap()),
        ..RunSettings::default()
    };

    let dear = asking("::tokens 9000 900\n::bash sleep 1000\n::echo x", little);
    let dear = run(&mut server, dear).await;
    let long = run(&mut server, asking("::hang", short)).await;

    assert_eq!(
        (reason(&dear), dear.requests.len()),
        (FailureReason::Budget, 1)
    );
    assert!(dear.result.cost_microdollars > 10);
    assert_eq!(reason(&long), FailureReason::RunTimeout);
}

#[tokio::test]
async fn an_mcp_server_that_the_policy_allows_is_used() {
    let server = pb::McpServer {
        transport: Some(pb::mcp_server::Transport::Stdio(pb::McpStdio {
            command: "sh".into(),
            args: vec!["-c".into(), crate::agent::MCP_SERVER.into()],
            ..pb::McpStdio::default()
        })),
    };
    let settings = RunSettings {
        mcp_servers: [("m".to_owned(), server)].into(),
        allowed_tools: vec!["mcp__m__t".into()],
        ..RunSettings::default()
    };
    let task = || asking("::tool mcp__m__t {}", settings.clone());

    let mut open = one_slot(|o| o.policy.mcp_servers = true).await;
    let ran = succeed(&mut open, task()).await;

    let last = ran
        .requests
        .last()
        .expect("the model was asked")
        .to_string();
    assert!(last.contains("mcp says hello"), "{last}");
    drop(open);
    let mut closed = one_slot(|_| {}).await;
    let request = pb::SubmitRequest {
        task: Some(task()),
        ..pb::SubmitRequest::default()
    };
    let answer = closed.work.submit(request).await;
    crate::support::refused(answer, tonic::Code::PermissionDenied, "POLICY");
}
