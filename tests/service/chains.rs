//! Chains and workflows over the wire.

use claudepool::pb;
use claudepool::pb::watch_chain_response::Item;
use tonic::Code;

use crate::support::{Harness, Running, fields, next, refused};

fn step(name: &str, task: pb::TaskSpec) -> pb::ChainStep {
    let Some(pb::task_spec::Input::Prompt(prompt)) = task.input else {
        panic!("a prompt");
    };
    pb::ChainStep {
        name: name.to_owned(),
        action: Some(pb::chain_step::Action::Prompt(prompt)),
        ..Default::default()
    }
}

async fn submit(server: &mut Running, steps: Vec<pb::ChainStep>) -> String {
    let call = pb::SubmitChainRequest {
        steps,
        ..Default::default()
    };
    let answer = server.work.submit_chain(call).await.unwrap();
    answer.into_inner().task_id
}

#[tokio::test]
async fn a_chain_is_watched_to_its_end_and_its_result_is_typed() {
    let mut server = Harness::new().start().await;
    let steps = vec![
        step("a", server.say("one")),
        step("b", server.say("{steps.a} two")),
    ];
    let id = submit(&mut server, steps).await;

    let watch = pb::WatchChainRequest {
        task_id: id.clone(),
        heartbeat_interval: None,
    };
    let mut watch = server.work.watch_chain(watch).await.unwrap().into_inner();
    let mut last = None;
    while let Some(message) = next(&mut watch).await.unwrap() {
        if let Some(Item::Progress(progress)) = message.item {
            last = Some(progress);
        }
    }

    let last = last.expect("the present first");
    assert_eq!(last.status(), pb::ChainStatus::Succeeded);
    assert_eq!(last.total_steps, 2);
    let result = server.result(&id).await.result.unwrap().chain.unwrap();
    assert_eq!(result.final_output, "one two");
    let task = server.task(&id).await;
    assert_eq!(task.chain.unwrap().steps.len(), 2, "as expanded at submit");
    let progress = pb::GetChainProgressRequest { task_id: id };
    let progress = server.work.get_chain_progress(progress).await.unwrap();
    let progress = progress.into_inner().progress.unwrap();
    assert_eq!(progress.completed_steps, result.steps);
}

#[tokio::test]
async fn a_cancelled_chain_tells_what_it_did() {
    let mut server = Harness::new().start().await;
    let steps = vec![step("a", server.hang("one")), step("b", server.say("two"))];
    let id = submit(&mut server, steps).await;
    let now = pb::CancelChainRequest {
        task_id: id.clone(),
        mode: pb::CancelChainMode::Now as i32,
    };
    server.work.cancel_chain(now).await.unwrap();
    let answer = server.result(&id).await;
    assert_eq!(answer.task.unwrap().state(), pb::TaskState::Cancelled);
    assert!(answer.result.unwrap().chain.unwrap().steps[1].skipped);
}

#[tokio::test]
async fn wrong_chains_are_refused_with_the_field() {
    let mut server = Harness::new().start().await;
    let steps = vec![step("a", server.say("{steps.later}"))];
    let call = pb::SubmitChainRequest {
        steps,
        ..Default::default()
    };
    let status = refused(
        server.work.submit_chain(call).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    assert_eq!(fields(&status), ["steps[0].prompt"]);

    let mut call = pb::CancelChainRequest {
        task_id: "x".into(),
        mode: 99,
    };
    let answer = server.work.cancel_chain(call.clone()).await;
    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&status), ["task_id", "mode"]);

    let task = server.say("x");
    call.task_id = server.finish(task).await.task.unwrap().task_id;
    call.mode = 0;
    let answer = server.work.cancel_chain(call).await;
    refused(answer, Code::InvalidArgument, "INVALID_FIELD");

    let call = pb::SubmitWorkflowRequest {
        name: "none".into(),
        ..Default::default()
    };
    let answer = server.work.submit_workflow(call).await;
    refused(answer, Code::NotFound, "WORKFLOW_NOT_FOUND");
}

#[tokio::test]
async fn fanned_out_chains_come_back_in_the_order_given() {
    let mut server = Harness::new().start().await;
    let chains = ["x", "y", "z"].map(|text| pb::ChainRequest {
        steps: vec![step("only", server.say(text))],
    });
    let call = pb::FanOutChainsRequest {
        chains: chains.to_vec(),
        ..Default::default()
    };
    let answer = server.work.fan_out_chains(call).await.unwrap().into_inner();
    let mut said = Vec::new();
    for id in &answer.task_ids {
        let result = server.result(id).await.result.unwrap();
        said.push(result.chain.unwrap().final_output);
    }
    assert_eq!(said, ["x", "y", "z"]);
}
