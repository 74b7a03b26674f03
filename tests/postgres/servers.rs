//! Several servers on one database: the same promises, whichever is called.

use claudepool::pb::{self, TaskState};
use tonic::Code;

use crate::nodes::{named, names, on, until};
use crate::server::SHARED;
use crate::support::{assert_same_bytes, events, fields, finished, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_can_be_made_to_every_server() {
    let url = SHARED.url(&SHARED.database().await);
    let (one, two) = (named("a", 1, &url).await, named("b", 1, &url).await);
    let (mut a, mut b) = (one.serve().await, two.serve().await);

    // Work that the other one does.
    let id = a.caller.submit(on("b", a.caller.say("hello"))).await;
    let log = events(a.caller.watch(&id, 0).await).await;
    assert_eq!(finished(&log).state(), TaskState::Succeeded);
    let there = events(b.caller.watch(&id, 0).await).await;
    assert_same_bytes(&log, &there, "the server that ran it");
    assert_eq!(b.caller.task(&id).await.node_id, "b");
    let hangs = a.caller.submit(on("b", a.caller.hang("word"))).await;
    a.caller.said(&hangs).await;
    a.caller.cancel(&hangs).await;
    let log = events(a.caller.watch(&hangs, 0).await).await;
    assert_eq!(finished(&log).state(), TaskState::Cancelled);

    // What all are together, and each.
    let all = until(&mut a.caller, |status| status.slots_total == 2).await;
    assert_eq!(names(&all), ["a", "b"]);
    let to = pb::SetTargetSlotsRequest {
        target: 3,
        node_id: "b".to_owned(),
        ..pb::SetTargetSlotsRequest::default()
    };
    let scaled = a
        .caller
        .operator
        .set_target_slots(to.clone())
        .await
        .unwrap();
    assert_eq!(scaled.into_inner().target, 3);
    let all = pb::SetTargetSlotsRequest {
        target: 5,
        node_id: String::new(),
        ..to.clone()
    };
    let scaled = b.caller.operator.set_target_slots(all).await.unwrap();
    assert_eq!(scaled.into_inner().target, 5);
    let slots = a
        .caller
        .operator
        .list_slots(pb::ListSlotsRequest::default());
    let slots = slots.await.unwrap().into_inner().slots;
    let of = |name| slots.iter().filter(|slot| slot.node_id == name).count();
    assert_eq!((of("a"), of("b")), (2, 3));
    let config = pb::GetConfigRequest {
        node_id: "b".to_owned(),
    };
    let config = a.caller.operator.get_config(config).await.unwrap();
    assert!(config.into_inner().toml.contains("node_id = \"b\""));
    let unknown = pb::SetTargetSlotsRequest {
        node_id: "c".to_owned(),
        ..to
    };
    let unknown = a.caller.operator.set_target_slots(unknown).await;
    let unknown = refused(unknown, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&unknown), ["node_id"]);

    // What holds for all.
    let paused = pb::PauseRequest {
        reason: "night".to_owned(),
    };
    a.caller.operator.pause(paused).await.unwrap();
    until(&mut b.caller, |status| status.paused).await;
    let task = Some(b.caller.say("no"));
    let submit = pb::SubmitRequest {
        task,
        ..pb::SubmitRequest::default()
    };
    refused(
        b.caller.work.submit(submit).await,
        Code::Unavailable,
        "PAUSED",
    );
    b.caller
        .operator
        .resume(pb::ResumeRequest {})
        .await
        .unwrap();
    until(&mut a.caller, |status| !status.paused).await;

    let drain = pb::DrainRequest {
        node_id: "b".to_owned(),
        ..pb::DrainRequest::default()
    };
    a.caller.operator.drain(drain).await.unwrap();
    until(&mut a.caller, |status| {
        status.nodes.iter().any(|node| node.draining) || status.nodes.len() == 1
    })
    .await;
    a.caller.finish(a.caller.say("goes on")).await;
}
