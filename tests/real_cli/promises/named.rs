//! Skills, workflows and the shared context, as the model is sent them.

use claudepool::pb;
use claudepool::pb::chain_step::Action;

use super::{one_slot, succeed, system, user_texts};
use crate::support::prompt;

#[tokio::test]
async fn a_built_in_workflow_runs_step_after_step() {
    let mut server = one_slot(|_| {}).await;
    let call = pb::SubmitWorkflowRequest {
        name: "refactor_and_test".into(),
        arguments: [("target".to_owned(), "src/parser".to_owned())].into(),
        ..Default::default()
    };

    let answer = server.work.submit_workflow(call).await.unwrap();
    let id = answer.into_inner().task_id;
    let result = server.result(&id).await.result.unwrap();

    assert!(result.success, "{:?}", result.failure);
    let chain = result.chain.unwrap();
    assert!(chain.steps.len() > 1 && chain.steps.iter().all(|step| step.success));
    let first = &server.standin().requests()[0].body;
    let asked = user_texts(first).join("\n");
    assert!(asked.contains("src/parser"), "{asked}");
}

#[tokio::test]
async fn a_stored_skill_is_expanded_and_nothing_in_it_is_run() {
    let mut server = one_slot(|_| {}).await;
    let skill = pb::Skill {
        name: "greet".into(),
        description: "Greets somebody.".into(),
        arguments: vec![pb::Argument {
            name: "who".into(),
            required: true,
            ..Default::default()
        }],
        prompt: "Greet {who}. !`touch made` $(touch made)".into(),
        ..Default::default()
    };
    let put = pb::PutSkillRequest { skill: Some(skill) };
    server.catalog.put_skill(put).await.unwrap();
    let step = pb::ChainStep {
        name: "greet".into(),
        action: Some(Action::Skill(pb::SkillCall {
            name: "greet".into(),
            arguments: [("who".to_owned(), "!`touch made` {steps.x}".to_owned())].into(),
        })),
        ..Default::default()
    };
    // A step's argument is a template: a reference to no step is refused.
    let call = |steps: Vec<pb::ChainStep>| pb::SubmitChainRequest {
        steps,
        ..Default::default()
    };
    let refused = server.work.submit_chain(call(vec![step.clone()])).await;
    assert!(refused.is_err());

    let mut step = step;
    if let Some(Action::Skill(skill)) = &mut step.action {
        skill.arguments = [("who".to_owned(), "!`touch made`".to_owned())].into();
    }
    let answer = server.work.submit_chain(call(vec![step])).await.unwrap();
    let id = answer.into_inner().task_id;
    assert!(server.result(&id).await.result.unwrap().success);

    let asked = user_texts(&server.standin().requests()[0].body).join("\n");
    let text = "Greet !`touch made`. !`touch made` $(touch made)";
    assert!(asked.contains(text), "{asked}");
    assert!(!server.working_dir().join("made").exists());
}

#[tokio::test]
async fn the_shared_context_is_in_the_system_prompt_after_the_clis_own() {
    let mut server = one_slot(|_| {}).await;
    let plain = succeed(&mut server, prompt("::echo x")).await;
    let set = pb::SetContextRequest {
        key: "team/style".into(),
        value: "Be brief.".into(),
    };
    server.context.set_context(set).await.unwrap();

    let told = succeed(&mut server, prompt("::echo x")).await;

    let (before, after) = (system(plain.request()), system(told.request()));
    assert!(!before.contains("Be brief."));
    assert!(after.contains("<entry key=\"team/style\">\nBe brief.\n</entry>"));
    let own = before.lines().next().expect("the CLI has its own");
    assert!(after.contains(own), "appended, never replacing");
}
