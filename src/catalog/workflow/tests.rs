use super::*;
use std::sync::Arc;

use crate::pb::chain_step::Action;

const WORKFLOW: &str = r#"
name: fix_it
description: Fixes it.
arguments:
  - {name: what, required: true}
  - {name: how, default: "well {steps.a}"}
steps:
  - name: a
    prompt: "Look at {what} {how}"
    settings: {permission_mode: plan, effort: high, max_turns: 3, budget_usd: 0.5, run_timeout: 2m}
    output_vars: {file: files.0}
  - name: b
    skill: {name: mend, arguments: {file: "{steps.a.file}, {what}"}}
    on_failure: {retries: 2, backoff: 5s, recovery_prompt: "{error}: try {what} again"}
"#;

const LIMITS: Limits = Limits {
    prompt_bytes_max: 1000,
    chain_bytes_max: 10_000,
};

fn mend(name: &str) -> Option<Arc<pb::Skill>> {
    (name == "mend").then(|| {
        Arc::new(pb::Skill {
            prompt: "Mend {file}.".into(),
            arguments: vec![pb::Argument {
                name: "file".into(),
                required: true,
                ..pb::Argument::default()
            }],
            ..pb::Skill::default()
        })
    })
}

fn given(pairs: &[(&str, &str)]) -> Arguments {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn prompt(spec: &pb::ChainSpec, index: usize) -> &str {
    match &spec.steps[index].action {
        Some(Action::Prompt(prompt)) => prompt,
        other => panic!("a prompt expected, got {other:?}"),
    }
}

#[test]
fn a_workflow_becomes_a_chain_of_prompts() {
    let workflow = workflow_from_yaml(WORKFLOW).expect("a good workflow");
    assert_eq!(check_workflow(&workflow, ""), Ok(()));

    let spec = expand(&workflow, &given(&[("what", "{error}")]), &mend, LIMITS).expect("good");

    assert_eq!(spec.workflow, "fix_it");
    assert_eq!(prompt(&spec, 0), "Look at {error} well {steps.a}");
    assert_eq!(prompt(&spec, 1), "Mend {steps.a.file}, {error}.");
    let policy = spec.steps[1].on_failure.as_ref().expect("a policy");
    assert_eq!(policy.recovery_prompt, "{error}: try {error} again");
    assert_eq!(
        (policy.retries, policy.backoff.map(|d| d.seconds)),
        (2, Some(5))
    );
    let places: Vec<(i32, bool, i64)> = spec
        .references
        .iter()
        .map(|r| (r.step_index, r.recovery, r.offset))
        .collect();
    assert_eq!(places, [(1, false, 5), (1, true, 0)], "arguments are data");
    let settings = spec.steps[0].settings.as_ref().expect("settings");
    assert_eq!(settings.permission_mode(), pb::PermissionMode::Plan);
    assert_eq!(settings.effort(), pb::Effort::High);
    assert_eq!(settings.budget_microdollars, Some(500_000));
    assert_eq!(settings.run_timeout.map(|d| d.seconds), Some(120));
}

#[test]
fn a_call_names_what_is_wrong_with_it() {
    let workflow = workflow_from_yaml(WORKFLOW).expect("a good workflow");
    let fields = |arguments: &Arguments, limits: Limits| -> Vec<String> {
        expand(&workflow, arguments, &|_| None, limits)
            .expect_err("violations")
            .into_iter()
            .map(|v| v.field)
            .collect()
    };
    assert_eq!(
        fields(&given(&[("zoom", "x")]), LIMITS),
        ["arguments[zoom]", "arguments[what]"]
    );
    assert_eq!(
        fields(&given(&[("what", "x")]), LIMITS),
        ["name"],
        "the skill is gone"
    );
    let long = "x".repeat(1000);
    assert!(fields(&given(&[("what", &long)]), LIMITS).contains(&"name".to_owned()));
}

#[test]
fn a_workflow_may_be_put_before_its_skills() {
    let mut workflow = workflow_from_yaml(WORKFLOW).expect("a good workflow");
    assert_eq!(check_workflow(&workflow, "workflow."), Ok(()));
    workflow.name = "Fix/It".into();
    if let Some(Action::Skill(call)) = &mut workflow.steps[1].action {
        call.arguments.insert("file".into(), "{steps.c}".into());
    }
    let fields: Vec<String> = check_workflow(&workflow, "workflow.")
        .expect_err("violations")
        .into_iter()
        .map(|v| v.field)
        .collect();
    assert_eq!(
        fields,
        ["workflow.name", "workflow.steps[1].skill.arguments[file]"]
    );
}

#[test]
fn json_says_the_same_and_unknown_fields_are_refused() {
    let json = r#"{"name": "w", "description": "d", "steps": [{"name": "a", "prompt": "p"}]}"#;
    assert!(workflow_from_json(json).is_ok());
    for bad in [
        r#"{"name": "w", "description": "d", "steps": [], "shell": "id"}"#,
        r#"{"name": "w", "description": "d", "steps": [{"name": "a", "prompt": "p", "skill": {"name": "s"}}]}"#,
        r#"{"name": "w", "description": "d", "steps": [{"name": "a", "settings": {"mcp_servers": {}}}]}"#,
        r#"{"name": "w", "description": "d", "steps": [{"name": "a", "settings": {"permission_mode": "root"}}]}"#,
    ] {
        assert!(workflow_from_json(bad).is_err(), "{bad}");
        assert!(workflow_from_yaml(bad).is_err(), "{bad}");
    }
}
