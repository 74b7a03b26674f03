//! Several servers on one database: the same promises, whichever is called, and
//! whichever dies.

use std::time::Duration;

use claudepool::pb::{self, TaskState};
use rustix::process::Signal;
use tonic::Code;

use crate::server::SHARED;
use crate::support::{
    PATIENCE, Program, Serving, assert_same_bytes, events, fields, finished, prompt, refused,
};

const LEASE: Duration = Duration::from_secs(3);

/// A server that carries its name as a label.
async fn named(name: &str, url: &str) -> Program {
    let lines = format!(
        "node_id = '{name}'\nnode_labels = ['{name}']\nnode_lease = '{}s'",
        LEASE.as_secs()
    );
    Program::with(&lines).await.on(url.to_owned())
}

/// Work that one server alone runs.
fn on(name: &str, task: pb::TaskSpec) -> pb::TaskSpec {
    pb::TaskSpec {
        node_label: name.to_owned(),
        ..task
    }
}

/// Waits until the status of all fits.
async fn until(server: &mut Serving, fits: impl Fn(&pb::PoolStatus) -> bool) -> pb::PoolStatus {
    let request = pb::WatchStatusRequest {
        interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
        ..pb::WatchStatusRequest::default()
    };
    let watch = server.caller.work.watch_status(request).await.unwrap();
    let mut watch = watch.into_inner();
    let found = async {
        loop {
            let message = watch.message().await.unwrap().expect("it goes on");
            if let Some(pb::watch_status_response::Item::Status(status)) = message.item
                && fits(&status)
            {
                return status;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.expect("the status fits in time")
}

fn names(status: &pb::PoolStatus) -> Vec<&str> {
    let nodes = status.nodes.iter();
    nodes.map(|node| node.node_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_can_be_made_to_every_server() {
    let url = SHARED.url(&SHARED.database().await);
    let (one, two) = (named("a", &url).await, named("b", &url).await);
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
    let all = until(&mut a, |status| status.slots_total == 2).await;
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
    until(&mut b, |status| status.paused).await;
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
    until(&mut a, |status| !status.paused).await;

    let drain = pb::DrainRequest {
        node_id: "b".to_owned(),
        ..pb::DrainRequest::default()
    };
    a.caller.operator.drain(drain).await.unwrap();
    until(&mut a, |status| {
        status.nodes.iter().any(|node| node.draining) || status.nodes.len() == 1
    })
    .await;
    a.caller.finish(a.caller.say("goes on")).await;
}

/// Notes who runs it and finds out whether an earlier attempt still does.
const ALONE: &str = "f=\"$DIR/$ID\"; \
    if [ -f \"$f\" ] && kill -0 $(cat \"$f\") 2>/dev/null; then echo $ID >> \"$DIR/bad\"; fi; \
    echo $$ > \"$f\"; sleep 0.2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_killed_and_stopped_servers_leave_is_done_once_by_the_others() {
    let url = SHARED.url(&SHARED.database().await);
    let dir = tempfile::tempdir().unwrap();
    let (one, two, three) = (
        named("a", &url).await,
        named("b", &url).await,
        named("c", &url).await,
    );
    let (mut a, b, c) = (one.serve().await, two.serve().await, three.serve().await);
    let mut ids = Vec::new();
    for number in 0..60 {
        let script = format!("DIR={} ID={number}; {ALONE}", dir.path().display());
        let task = prompt(format!("::bash {script}"));
        ids.push(a.caller.submit(task).await);
    }
    until(&mut a, |status| status.slots_busy == 3).await;

    b.kill().await;
    c.signal(Signal::STOP);
    // Both leases pass, and what they ran goes to the one that is left.
    until(&mut a, |status| names(status) == ["a"]).await;
    c.signal(Signal::CONT);
    until(&mut a, |status| names(status) == ["a", "c"]).await;

    for id in &ids {
        let log = events(a.caller.watch(id, 0).await).await;
        assert_eq!(finished(&log).state(), TaskState::Succeeded, "{id}");
        let ends = log
            .iter()
            .filter(|event| matches!(event.kind, Some(pb::event::Kind::Finished(_))));
        assert_eq!(ends.count(), 1, "{id}");
    }
    let bad = std::fs::read_to_string(dir.path().join("bad")).unwrap_or_default();
    assert_eq!(bad, "", "two attempts of a task lived at a time");
    let status = a.caller.status().await;
    assert_eq!(status.reserved_microdollars, 0);
}
