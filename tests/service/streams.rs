//! Streams: what comes, in which order, and when nothing comes.

use std::time::{Duration, Instant};

use claudepool::pb::event::Kind;
use claudepool::pb::{self, fan_out_response, run_stream_response, watch_task_response};
use tonic::Code;

use crate::support::{Harness, events, next, next_event, refused, request_id};

#[tokio::test]
async fn a_run_stream_is_the_id_and_then_the_whole_log() {
    let mut server = Harness::new().start().await;
    let request = pb::RunStreamRequest {
        task: Some(server.say("hello")),
        ..Default::default()
    };

    let mut stream = server.work.run_stream(request).await.unwrap().into_inner();

    let first = next(&mut stream).await.unwrap().unwrap().item.unwrap();
    let run_stream_response::Item::Accepted(accepted) = first else {
        panic!("the id comes first");
    };
    let mut seen = Vec::new();
    while let Some(message) = next(&mut stream).await.unwrap() {
        if let Some(run_stream_response::Item::Event(event)) = message.item {
            seen.push(event);
        }
    }
    let log = server.watch(&accepted.task_id, 0).await;
    assert_eq!(seen, events(log).await);
    let numbers: Vec<_> = seen.iter().map(|e| e.sequence).collect();
    assert_eq!(numbers, (1..=seen.len() as u64).collect::<Vec<_>>());
    let Some(Kind::Finished(finished)) = seen.pop().and_then(|e| e.kind) else {
        panic!("the end comes last");
    };
    assert_eq!(finished.result.unwrap().output, "hello");
}

#[tokio::test]
async fn a_repeat_of_a_run_stream_gets_what_it_has_not_seen() {
    let mut server = Harness::new().start().await;
    let request = pb::RunStreamRequest {
        task: Some(server.say("hello")),
        request_id: request_id(),
        ..Default::default()
    };
    let mut ids = Vec::new();
    for after_sequence in [0, 2] {
        let request = pb::RunStreamRequest {
            after_sequence,
            ..request.clone()
        };
        let mut stream = server.work.run_stream(request).await.unwrap().into_inner();
        let mut first = None;
        while let Some(message) = next(&mut stream).await.unwrap() {
            match message.item.unwrap() {
                run_stream_response::Item::Accepted(accepted) => ids.push(accepted.task_id),
                run_stream_response::Item::Event(event) => {
                    first.get_or_insert(event.sequence);
                }
                run_stream_response::Item::Heartbeat(_) => {}
            }
        }
        assert_eq!(first, Some(after_sequence + 1));
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_log_is_the_same_whenever_and_wherever_it_is_joined() {
    let mut server = Harness::new().start().await;
    let task = server.slow("hello", Duration::from_millis(100));
    let task_id = server.submit(task).await;
    let live = server.watch(&task_id, 0).await;
    let whole = events(live).await;

    for after in 0..=whole.len() {
        let log = server.watch(&task_id, after as u64).await;
        assert_eq!(events(log).await, whole[after..]);
    }
}

#[tokio::test]
async fn a_quiet_stream_has_a_heartbeat_as_often_as_asked() {
    let mut server = Harness::new().start().await;
    let task = server.hang("x");
    let task_id = server.submit(task).await;
    let request = pb::WatchTaskRequest {
        task_id,
        after_sequence: 0,
        heartbeat_interval: Some(Duration::from_secs(1).try_into().unwrap()),
    };
    let mut log = server.work.watch_task(request).await.unwrap().into_inner();
    let began = Instant::now();

    let mut beats = 0;
    while beats < 2 {
        let message = next(&mut log).await.unwrap().expect("it hangs");
        if let Some(watch_task_response::Item::Heartbeat(beat)) = message.item {
            assert!(beat.time.is_some());
            beats += 1;
        }
    }

    let took = began.elapsed();
    assert!((2..6).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test]
async fn a_watcher_that_leaves_changes_nothing() {
    let mut server = Harness::new().start().await;
    let task = server.slow("done", Duration::from_millis(300));
    let task_id = server.submit(task).await;
    let mut log = server.watch(&task_id, 0).await;
    next_event(&mut log).await;

    drop(log);

    let ended = server.result(&task_id).await;
    assert_eq!(ended.result.unwrap().output, "done");
}

#[tokio::test]
async fn there_are_only_so_many_watchers() {
    let mut server = Harness::new().options(|o| o.watchers_max = 1).start().await;
    let task = server.hang("x");
    let task_id = server.submit(task).await;
    let mut first = server.watch(&task_id, 0).await;
    next_event(&mut first).await;
    let request = pb::WatchTaskRequest {
        task_id,
        ..Default::default()
    };

    let answer = server.work.watch_task(request).await;

    refused(answer, Code::ResourceExhausted, "TOO_MANY_WATCHERS");
}

#[tokio::test]
async fn a_fan_out_tells_its_ids_and_then_each_end_once() {
    let mut server = Harness::new().start().await;
    let mut tasks: Vec<_> = (0..7).map(|i| server.say(&i.to_string())).collect();
    tasks[4] = server.refused();
    let request = pb::FanOutRequest {
        tasks,
        request_id: request_id(),
        ..Default::default()
    };

    // The second time all of it is history.
    let mut groups = Vec::new();
    for _ in 0..2 {
        let mut stream = server
            .work
            .fan_out(request.clone())
            .await
            .unwrap()
            .into_inner();
        let first = next(&mut stream).await.unwrap().unwrap().item.unwrap();
        let fan_out_response::Item::Accepted(accepted) = first else {
            panic!("the ids come first");
        };
        assert_eq!(accepted.task_ids.len(), 7);
        let mut items = Vec::new();
        while let Some(message) = next(&mut stream).await.unwrap() {
            if let Some(fan_out_response::Item::Finished(item)) = message.item {
                assert_eq!(item.task_id, accepted.task_ids[item.index as usize]);
                items.push(item);
            }
        }
        items.sort_by_key(|item| item.index);
        let indexes: Vec<_> = items.iter().map(|item| item.index).collect();
        assert_eq!(indexes, [0, 1, 2, 3, 4, 5, 6]);
        for item in items {
            let result = item.result.unwrap();
            if item.index == 4 {
                assert!(!result.success);
            } else {
                assert_eq!(result.output, item.index.to_string());
            }
        }
        groups.push(accepted.group_id);
    }
    assert_eq!(groups[0], groups[1]);
}

#[tokio::test]
async fn a_group_is_cancelled_as_a_whole() {
    let mut server = Harness::new().start().await;
    let request = pb::FanOutRequest {
        tasks: vec![server.hang("x"); 4],
        ..Default::default()
    };
    let mut stream = server.work.fan_out(request).await.unwrap().into_inner();
    let first = next(&mut stream).await.unwrap().unwrap().item.unwrap();
    let fan_out_response::Item::Accepted(accepted) = first else {
        panic!("the ids come first");
    };
    let cancel = pb::CancelRequest {
        target: Some(pb::cancel_request::Target::GroupId(accepted.group_id)),
    };

    let answer = server.work.cancel(cancel).await.unwrap().into_inner();

    assert_eq!((answer.cancelled, answer.task), (4, None));
    let mut ended = 0;
    while let Some(message) = next(&mut stream).await.unwrap() {
        if let Some(fan_out_response::Item::Finished(item)) = message.item {
            assert_eq!(item.state(), pb::TaskState::Cancelled);
            ended += 1;
        }
    }
    assert_eq!(ended, 4);
}

#[tokio::test]
async fn the_status_comes_at_once_and_again_when_it_changes() {
    let mut server = Harness::new().start().await;
    let request = pb::WatchStatusRequest {
        interval: Some(Duration::from_millis(100).try_into().unwrap()),
        ..Default::default()
    };
    let mut stream = server
        .work
        .watch_status(request)
        .await
        .unwrap()
        .into_inner();
    next(&mut stream).await.unwrap().unwrap();

    let task = server.hang("x");
    server.submit(task).await;

    loop {
        let message = next(&mut stream).await.unwrap().expect("it never ends");
        if let Some(pb::watch_status_response::Item::Status(status)) = message.item
            && status.slots_busy == 1
        {
            return;
        }
    }
}
