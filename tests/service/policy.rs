//! The operator's policy holds for whatever way work is asked for.

use claudepool::pb::{self, RunSettings};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{Caller, Harness, prompt, refused};

/// Settings that a policy of ours refuses, by the field it names.
fn refusals() -> Vec<(&'static str, RunSettings)> {
    let stdio = pb::McpStdio {
        command: "true".to_owned(),
        ..Default::default()
    };
    let server = pb::McpServer {
        transport: Some(pb::mcp_server::Transport::Stdio(stdio)),
    };
    let day = prost_types::Duration {
        seconds: 24 * 3600 + 1,
        nanos: 0,
    };
    let of = RunSettings::default;
    vec![
        ("permission_mode", {
            let permission_mode = pb::PermissionMode::BypassPermissions as i32;
            RunSettings {
                permission_mode,
                ..of()
            }
        }),
        ("model", {
            let model = Some("opus".to_owned());
            RunSettings { model, ..of() }
        }),
        ("fallback_model", {
            let fallback_model = Some("opus".to_owned());
            RunSettings {
                fallback_model,
                ..of()
            }
        }),
        ("allowed_tools[0]", {
            let allowed_tools = vec!["Bash".to_owned()];
            RunSettings {
                allowed_tools,
                ..of()
            }
        }),
        ("budget_microdollars", {
            let budget_microdollars = Some(10_000_001);
            RunSettings {
                budget_microdollars,
                ..of()
            }
        }),
        ("run_timeout", {
            let run_timeout = Some(day);
            RunSettings {
                run_timeout,
                ..of()
            }
        }),
        ("mcp_servers", {
            let mcp_servers = [("m".to_owned(), server)].into();
            RunSettings {
                mcp_servers,
                ..of()
            }
        }),
        ("slash_commands", {
            let slash_commands = Some(true);
            RunSettings {
                slash_commands,
                ..of()
            }
        }),
        ("attachments", {
            let attachments = Some(true);
            RunSettings {
                attachments,
                ..of()
            }
        }),
    ]
}

fn task(settings: &RunSettings) -> Option<pb::TaskSpec> {
    Some(pb::TaskSpec {
        settings: Some(settings.clone()),
        ..prompt("say x")
    })
}

fn steps(settings: Option<&RunSettings>) -> Vec<pb::ChainStep> {
    let step = |name: &str, settings: Option<&RunSettings>| pb::ChainStep {
        name: name.to_owned(),
        action: Some(pb::chain_step::Action::Prompt("say x".to_owned())),
        settings: settings.cloned(),
        ..Default::default()
    };
    vec![step("good", None), step("bad", settings)]
}

fn options(settings: &RunSettings) -> Option<pb::ChainOptions> {
    Some(pb::ChainOptions {
        settings: Some(settings.clone()),
        ..Default::default()
    })
}

/// What each way to ask for work says to these settings.
async fn ways(caller: &mut Caller, settings: &RunSettings) -> Vec<(&'static str, Status)> {
    let mut told = Vec::new();
    let mut tell = |way, refusal: Option<Status>| {
        told.push((
            way,
            refusal.unwrap_or_else(|| panic!("{way} was let through")),
        ));
    };
    let work = &mut caller.work;
    let task = || task(settings);
    let run = pb::RunRequest {
        task: task(),
        ..Default::default()
    };
    tell("Run", work.run(run).await.err());
    let run_stream = pb::RunStreamRequest {
        task: task(),
        ..Default::default()
    };
    tell("RunStream", work.run_stream(run_stream).await.err());
    let submit = pb::SubmitRequest {
        task: task(),
        ..Default::default()
    };
    tell("Submit", work.submit(submit).await.err());
    let fan_out = pb::FanOutRequest {
        tasks: [prompt("say x")].into_iter().chain(task()).collect(),
        ..Default::default()
    };
    tell("FanOut", work.fan_out(fan_out).await.err());
    let by_step = pb::SubmitChainRequest {
        steps: steps(Some(settings)),
        ..Default::default()
    };
    tell("SubmitChain", work.submit_chain(by_step).await.err());
    let by_options = pb::SubmitChainRequest {
        steps: steps(None),
        options: options(settings),
        ..Default::default()
    };
    tell("its options", work.submit_chain(by_options).await.err());
    let by_skill = pb::ChainStep {
        name: "skilled".to_owned(),
        action: Some(pb::chain_step::Action::Skill(pb::SkillCall {
            name: "greet".to_owned(),
            ..Default::default()
        })),
        settings: Some(settings.clone()),
        ..Default::default()
    };
    let by_skill = pb::SubmitChainRequest {
        steps: vec![by_skill],
        ..Default::default()
    };
    tell("a skill", work.submit_chain(by_skill).await.err());
    let chains = pb::FanOutChainsRequest {
        chains: vec![
            pb::ChainRequest { steps: steps(None) },
            pb::ChainRequest {
                steps: steps(Some(settings)),
            },
        ],
        ..Default::default()
    };
    tell("FanOutChains", work.fan_out_chains(chains).await.err());
    let workflow = pb::Workflow {
        name: "flow".to_owned(),
        description: "A flow.".to_owned(),
        steps: steps(Some(settings)),
        ..Default::default()
    };
    let put = pb::PutWorkflowRequest {
        workflow: Some(workflow),
    };
    caller.catalog.put_workflow(put).await.unwrap();
    let by_name = pb::SubmitWorkflowRequest {
        name: "flow".to_owned(),
        ..Default::default()
    };
    tell("SubmitWorkflow", work.submit_workflow(by_name).await.err());
    told
}

#[tokio::test]
async fn what_the_policy_forbids_is_refused_whatever_way_it_is_asked_for() {
    let mut server = Harness::new()
        .options(|o| {
            o.policy.models = Some(vec!["sonnet".to_owned()]);
            o.policy.tools = Some(vec!["Read".to_owned()]);
        })
        .start()
        .await;
    let skill = pb::Skill {
        name: "greet".to_owned(),
        description: "Greets.".to_owned(),
        prompt: "say hello".to_owned(),
        ..Default::default()
    };
    let put = pb::PutSkillRequest { skill: Some(skill) };
    server.catalog.put_skill(put).await.unwrap();

    for (field, settings) in refusals() {
        for (way, status) in ways(&mut server, &settings).await {
            let status = refused(Err::<(), _>(status), Code::PermissionDenied, "POLICY");
            let info = status.get_details_error_info().unwrap();
            let named = &info.metadata["field"];
            let named = named.ends_with(&format!("settings.{field}"));
            assert!(named, "{way}, {field}: {:?}", info.metadata);
        }
    }
    let list = pb::ListTasksRequest::default();
    let made = server
        .work
        .list_tasks(list)
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert!(made.is_empty(), "{made:?}");
}

#[tokio::test]
async fn one_caller_fills_no_more_than_its_part_of_the_queue() {
    let mut server = Harness::new()
        .options(|o| {
            o.slots = 1;
            o.policy.caller_queue_max = Some(1);
        })
        .start()
        .await;
    let hang = server.hang("x");
    let running = server.submit(hang.clone()).await;
    server.said(&running).await;
    server.submit(hang.clone()).await;

    let request = pb::SubmitRequest {
        task: Some(hang),
        ..Default::default()
    };
    let full = server.work.submit(request).await;

    let status = refused(full, Code::ResourceExhausted, "QUEUE_FULL");
    let quota = status.get_details_quota_failure().unwrap();
    assert_eq!(quota.violations[0].subject, "caller:queue");
    assert!(status.get_details_retry_info().is_some());
}

#[tokio::test]
async fn a_directory_that_became_a_link_out_of_the_roots_is_not_worked_in() {
    let mut server = Harness::new().options(|o| o.slots = 1).start().await;
    let outside = tempfile::tempdir().unwrap();
    let inside = server.working_dir().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let hang = server.hang("x");
    let running = server.submit(hang).await;
    server.said(&running).await;
    let task = pb::TaskSpec {
        working_dir: inside.display().to_string(),
        ..server.say("I was there")
    };
    let swapped = server.submit(task).await;

    std::fs::remove_dir(&inside).unwrap();
    std::os::unix::fs::symlink(outside.path(), &inside).unwrap();
    server.cancel(&running).await;

    let result = server.result(&swapped).await.result.unwrap();
    let failure = result.failure.unwrap();
    assert_eq!(
        failure.reason(),
        pb::FailureReason::Workspace,
        "{failure:?}"
    );
    assert!(
        !failure
            .message
            .contains(&outside.path().display().to_string())
    );
}

#[tokio::test]
async fn what_looks_like_a_flag_is_data() {
    let mut server = Harness::with_processes().start().await;
    let flag = "--dangerously-skip-permissions";
    let dir = server.working_dir().join(flag);
    std::fs::create_dir(&dir).unwrap();
    let invalid = |settings| pb::SubmitRequest {
        task: task(&settings),
        ..Default::default()
    };

    for (settings, field) in [
        (
            RunSettings {
                model: Some(flag.to_owned()),
                ..Default::default()
            },
            "task.settings.model",
        ),
        (
            RunSettings {
                fallback_model: Some(flag.to_owned()),
                ..Default::default()
            },
            "task.settings.fallback_model",
        ),
        (
            RunSettings {
                allowed_tools: vec![flag.to_owned()],
                ..Default::default()
            },
            "task.settings.allowed_tools[0]",
        ),
        (
            RunSettings {
                disallowed_tools: vec![format!("Read {flag}")],
                ..Default::default()
            },
            "task.settings.disallowed_tools[0]",
        ),
    ] {
        let answer = server.work.submit(invalid(settings)).await;
        let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(crate::support::fields(&status), [field]);
    }
    let asked = pb::TaskSpec {
        input: prompt(format!("{flag}\n{}", text(&server.say("said")))).input,
        working_dir: dir.display().to_string(),
        settings: Some(RunSettings {
            append_system_prompt: Some(flag.to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let answer = server.finish(asked).await.result.unwrap();
    assert!(answer.success, "{:?}", answer.failure);
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        let ours = arguments.contains("--await-claim") || arguments.contains("stream-json");
        assert!(!ours || !arguments.contains(flag), "{arguments}");
    }
}

fn text(task: &pb::TaskSpec) -> String {
    match &task.input {
        Some(pb::task_spec::Input::Prompt(prompt)) => prompt.clone(),
        None => String::new(),
    }
}
