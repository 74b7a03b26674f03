//! Callers who leave and come back, and requests that are made again.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_run_whose_caller_leaves_is_cancelled() {
    let rig = rig(slots(1)).await;
    let running = rig.pool.start("say x\nhang").await.expect("made");
    rig.said(running.task).await;

    drop(running.attachment);

    assert_eq!(rig.end(running.task).await.task.state, State::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_detached_run_goes_on_without_its_caller() {
    let rig = rig(slots(1)).await;
    let work = Work {
        detach: true,
        ..Work::from("say x\nwait 60000\nsay y")
    };
    let running = rig.pool.start(work).await.expect("made");
    rig.said(running.task).await;
    drop(running.attachment);
    assert_eq!(rig.end(running.task).await.task.state, State::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_comes_back_in_time_finds_its_task_running() {
    let rig = rig(slots(1)).await;
    let work = || Work {
        request: Some(
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
                .parse()
                .expect("a UUID"),
        ),
        ..Work::from("say x\nwait 8000\nsay y")
    };
    let first = rig.pool.start(work()).await.expect("made");
    rig.said(first.task).await;
    drop(first.attachment);
    tokio::time::advance(Duration::from_secs(4)).await;

    let second = rig.pool.start(work()).await.expect("attached again");

    assert_eq!(second.task, first.task);
    let record = rig.end(first.task).await;
    assert_eq!(record.task.state, State::Succeeded);
    assert_eq!(record.task.attempt, 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_does_not_come_back_in_time_is_not_billed_on() {
    let rig = rig(slots(1)).await;
    let work = Work {
        request: Some(RequestId::new()),
        ..Work::from("say x\nhang")
    };
    let running = rig.pool.start(work).await.expect("made");
    rig.said(running.task).await;
    let left = tokio::time::Instant::now();
    drop(running.attachment);
    assert_eq!(rig.end(running.task).await.task.state, State::Cancelled);
    assert!(left.elapsed() >= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_with_one_request_make_one_attempt() {
    let rig = rig(slots(4)).await;
    let request = Some(RequestId::new());
    let calls = (0..100).map(|_| {
        let pool = rig.pool.clone();
        let work = Work {
            request,
            ..Work::from("say once\nwait 100")
        };
        tokio::spawn(async move { pool.run(work).await.expect("ran").task.id })
    });
    let mut ids = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        ids.push(call.await.expect("joined"));
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(rig.end(ids[0]).await.task.attempt, 1);
    let all = rig
        .pool
        .tasks(Filter::default(), 0, "", false)
        .await
        .expect("listed");
    assert_eq!(all.tasks.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_payload_under_a_request_is_refused() {
    let rig = rig(slots(1)).await;
    let request = Some(RequestId::new());
    let work = |prompt: &str| Work {
        request,
        ..Work::from(prompt)
    };
    rig.pool.submit(work("say a")).await.expect("made");
    let refused = rig.pool.submit(work("say b")).await;
    assert!(matches!(refused, Err(Error::RequestIdReused)));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_task_never_runs_again_under_its_request() {
    let rig = rig(slots(1)).await;
    let work = Work {
        request: Some(RequestId::new()),
        ..Work::from("say a")
    };
    let id = rig.pool.submit(work.clone()).await.expect("made");
    rig.end(id).await;
    rig.pool.delete_task(id).await.expect("deleted");

    let refused = rig.pool.submit(work).await;

    assert!(matches!(
        refused,
        Err(Error::NotFound(Missing::DeletedTask))
    ));
    assert!(matches!(
        rig.pool.task(id).await,
        Err(Error::NotFound(Missing::Task))
    ));
}
