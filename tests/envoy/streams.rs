//! Streams that last longer than a mesh likes.

use std::time::Duration;

use claudepool::pb;
use claudepool::pb::pool_service_client::PoolServiceClient;
use claudepool::pb::watch_task_response::Item;

use crate::proxy::Envoy;
use crate::support::{Program, connect, next, prompt};

/// Reads a watch until it has had so many heartbeats.
async fn beats(
    watch: &mut tonic::Streaming<pb::WatchTaskResponse>,
    count: usize,
) -> Result<(), tonic::Status> {
    let mut seen = 0;
    while seen < count {
        let message = next(watch).await?.expect("the task goes on");
        seen += usize::from(matches!(message.item, Some(Item::Heartbeat(_))));
    }
    Ok(())
}

#[tokio::test]
async fn heartbeats_keep_a_quiet_watch_over_the_idle_timeout() {
    let program = Program::new().await;
    let mut server = program.serve().await;
    let idle = [("stream_idle_timeout: 300s", "stream_idle_timeout: 3s")];
    let envoy = Envoy::before(server.addr, &idle).await;
    let task_id = server.caller.submit(server.caller.hang("x")).await;
    server.caller.said(&task_id).await;
    let mut work = PoolServiceClient::new(connect(envoy.addr).await);
    let mut watch = async |beat: u64| {
        let request = pb::WatchTaskRequest {
            task_id: task_id.clone(),
            after_sequence: 0,
            heartbeat_interval: Some(Duration::from_secs(beat).try_into().unwrap()),
        };
        work.watch_task(request).await.unwrap().into_inner()
    };
    let (mut lively, mut quiet) = (watch(1).await, watch(60).await);

    // The one is cut while the other lives.
    let (lively_saw, quiet_saw) = tokio::join!(beats(&mut lively, 6), beats(&mut quiet, 1));

    lively_saw.expect("a heartbeat each second");
    quiet_saw.expect_err("no heartbeat within 3 s");
    server.caller.cancel(&task_id).await;
    let mut last = None;
    while let Some(message) = next(&mut lively).await.unwrap() {
        last = message.item;
    }
    let Some(Item::Event(event)) = last else {
        panic!("an event comes last");
    };
    assert!(matches!(event.kind, Some(pb::event::Kind::Finished(_))));
}

#[tokio::test]
async fn a_watch_goes_on_over_connections_that_grow_old() {
    let lines = "[server.limits]\nconnection_age = '1s'\nconnection_age_grace = '0s'";
    let program = Program::with_slots_and(1, lines).await;
    let server = program.serve().await;
    let envoy = Envoy::before(server.addr, &[]).await;
    let address = format!("http://{}", envoy.addr);
    let client = claudepool_client::connect(&address, Default::default()).unwrap();
    let task_id = client.submit(prompt("::slow 40 100")).await.unwrap();

    let mut watch = client.watch(task_id, 0);
    let (mut sequences, mut text) = (Vec::new(), String::new());
    while let Some(event) = watch.next().await.unwrap() {
        sequences.push(event.sequence);
        if let Some(pb::event::Kind::TextDelta(delta)) = event.kind {
            text += &delta.text;
        }
    }

    let dense: Vec<u64> = (1..=sequences.len() as u64).collect();
    assert_eq!(sequences, dense);
    assert!(
        text.starts_with("tick 1 ") && text.ends_with("tick 40 "),
        "{text}"
    );
    let connections = envoy.count("upstream_cx_total").await;
    assert!(connections >= 3, "{connections} connections");
}
