//! Two tasks one after the other on one slot: the second's request contains
//! nothing of the first.

use claudepool::agent::conformance::{Roll, has_ended};
use claudepool::pb::event::Kind;
use claudepool::pb::{Effort, PermissionMode, ProcessOrigin, RunSettings};
use claudepool::pool::Mode;

use super::{asking, idle, one_slot, succeed};
use crate::support::{Running, events, finished, prompt};

/// Where a task's process came from.
async fn origin(server: &mut Running, task_id: &str) -> ProcessOrigin {
    let log = server.watch(task_id, 0).await;
    finished(&events(log).await).process_origin()
}

/// What the last tool of a task said.
async fn tool_output(server: &mut Running, task_id: &str) -> String {
    let log = events(server.watch(task_id, 0).await).await;
    let mut outputs = log.into_iter().filter_map(|event| match event.kind {
        Some(Kind::ToolResult(result)) => Some(result.output),
        _ => None,
    });
    outputs.next_back().expect("a tool ran")
}

/// What is only the first task's: the calls it made, and its conversation.
async fn traces(server: &mut Running, task_id: &str) -> Vec<String> {
    let log = events(server.watch(task_id, 0).await).await;
    let mut traces = vec![finished(&log).result.clone().unwrap().session_id];
    traces.extend(log.into_iter().filter_map(|event| match event.kind {
        Some(Kind::ToolUse(call)) => Some(call.tool_use_id),
        _ => None,
    }));
    traces
}

#[tokio::test]
async fn the_next_task_on_a_process_is_sent_nothing_of_the_one_before() {
    let tools = vec!["Bash".to_owned(), "Read".to_owned()];
    let mut server = one_slot(|o| o.settings.allowed_tools = tools).await;
    let dir = server.working_dir().to_owned();
    std::fs::create_dir(dir.join("cellar")).unwrap();
    std::fs::write(dir.join("cellar/diary"), "the butler did it").unwrap();
    let unused = idle(&mut server).await;
    let first = prompt(format!(
        "a whisper\n::echo an answer\n::read {}/cellar/diary\n\
         ::bash cd cellar && export MOOD=gloomy && alias hum=true && pwd",
        dir.display()
    ));

    let first = succeed(&mut server, first).await;
    let second = succeed(&mut server, prompt("::bash pwd; echo mood=$MOOD")).await;

    // The first one really did all that.
    let said = first.requests.last().unwrap().to_string();
    let mut secrets = [
        "a whisper",
        "an answer",
        "the butler did it",
        "cellar",
        "gloomy",
    ]
    .map(String::from)
    .to_vec();
    for secret in &secrets {
        assert!(said.contains(secret), "{secret}: {said}");
    }
    secrets.extend(traces(&mut server, &first.task_id).await);
    assert_eq!(second.requests.len(), 2);
    for request in &second.requests {
        let said = request.to_string();
        for secret in &secrets {
            assert!(!said.contains(secret), "{secret}: {said}");
        }
    }
    let output = tool_output(&mut server, &second.task_id).await;
    assert_eq!(output, format!("{}\nmood=", dir.display()));
    // All of it on one process, which was reset and not replaced.
    let slot = idle(&mut server).await;
    assert_eq!((slot.pid, slot.launches), (unused.pid, 1));
    assert_eq!((slot.resets, slot.recycles), (2, 0));
    let origin = origin(&mut server, &second.task_id).await;
    assert_eq!(origin, ProcessOrigin::Reset);
}

#[tokio::test]
async fn what_one_task_was_allowed_the_next_is_not() {
    let mut server = one_slot(|o| {
        o.policy.permission_modes.push(Mode::AcceptEdits);
    })
    .await;
    let file = |name: &str| server.working_dir().join(name);
    let (touched, edited) = (file("touched"), file("edited"));
    let touch = format!("::bash touch {}", touched.display());
    let write = format!("::write {} x", edited.display());
    let by_rule = RunSettings {
        allowed_tools: vec!["Bash(touch:*)".into()],
        ..RunSettings::default()
    };
    let by_mode = RunSettings {
        permission_mode: PermissionMode::AcceptEdits as i32,
        ..RunSettings::default()
    };
    for (settings, text, made) in [(by_rule, touch, touched), (by_mode, write, edited)] {
        let allowed = succeed(&mut server, asking(&text, settings)).await;
        assert_eq!(allowed.result.permission_denials.len(), 0, "{text}");
        std::fs::remove_file(&made).unwrap();

        let denied = succeed(&mut server, prompt(&text)).await;

        assert_eq!(denied.result.permission_denials.len(), 1, "{text}");
        assert!(!made.exists(), "{text}");
    }
}

#[tokio::test]
async fn model_and_effort_of_one_task_are_not_the_nexts() {
    let mut server = one_slot(|_| {}).await;
    let dials = |request: &serde_json::Value| {
        let effort = request["output_config"]["effort"].clone();
        (request["model"].clone(), effort)
    };
    let usual = succeed(&mut server, prompt("::echo x")).await;
    let settings = RunSettings {
        model: Some("sonnet".into()),
        effort: Effort::Low as i32,
        ..RunSettings::default()
    };

    let other = succeed(&mut server, asking("::echo x", settings)).await;
    let next = succeed(&mut server, prompt("::echo x")).await;

    let (model, effort) = dials(other.request());
    assert!(
        model != dials(usual.request()).0 && effort == "low",
        "{model} {effort}"
    );
    assert_eq!(dials(next.request()), dials(usual.request()));
    let slot = idle(&mut server).await;
    assert_eq!((slot.launches, slot.recycles), (1, 0), "{slot:?}");
}

#[tokio::test]
async fn what_one_task_left_running_is_gone_before_the_next_begins() {
    let mut server = one_slot(|o| o.settings.allowed_tools = vec!["Bash".into()]).await;
    let mut roll = Roll::open(server.working_dir());
    let teller = roll.teller();
    let unused = idle(&mut server).await;

    for command in [
        format!("setsid {teller} > /dev/null 2>&1 &"),
        format!("( ( {teller} > /dev/null 2>&1 & ) & )"),
    ] {
        succeed(&mut server, prompt(format!("::bash {command}"))).await;
        let left = roll.next(1).await;
        let next = succeed(&mut server, prompt("::echo x")).await;

        assert!(has_ended(&left[0]), "{command}");
        let said = next.request().to_string();
        assert!(!said.contains("dev/null"), "{said}");
    }

    let slot = idle(&mut server).await;
    assert_ne!(slot.pid, unused.pid);
    assert_eq!(slot.recycles, 2, "{slot:?}");
}
