//! Limits, on paused time with the scripted agent.

use super::*;

/// What a log takes, and the kinds in it.
async fn log_of(rig: &Rig, id: TaskId) -> (usize, Vec<Kind>) {
    let log = rig.log(id, 0).await;
    let numbers: Vec<u64> = log.iter().map(|entry| entry.sequence).collect();
    assert_eq!(numbers, (1..=log.len() as u64).collect::<Vec<_>>());
    let bytes = log.iter().map(|entry| entry.bytes.len()).sum();
    let kinds = log
        .iter()
        .filter_map(|entry| event::decode(&entry.bytes)?.kind);
    (bytes, kinds.collect())
}

fn truncations(kinds: &[Kind]) -> usize {
    let truncated = |kind: &&Kind| matches!(kind, Kind::LogTruncated(_));
    kinds.iter().filter(truncated).count()
}

#[tokio::test(start_paused = true)]
async fn a_full_log_still_tells_what_changes_the_state() {
    let rig = rig(Options {
        log_bytes_max: 10_000,
        ..slots(1)
    })
    .await;
    let talk = format!("say {}\nwait 1\n", "x".repeat(990)).repeat(20);
    let prompt = format!("{talk}retrying 529\ntool\nsay y\ncost 7");
    let id = rig.pool.submit(prompt).await.expect("made");

    let (bytes, kinds) = log_of(&rig, id).await;

    assert!(bytes < 10_000 + 25_000, "the result counts apart: {bytes}");
    assert_eq!(truncations(&kinds), 1);
    let after = kinds
        .iter()
        .skip_while(|k| !matches!(k, Kind::LogTruncated(_)));
    let names: Vec<_> = after
        .map(|kind| match kind {
            Kind::LogTruncated(told) => {
                assert_eq!(told.limit_bytes, 10_000);
                "truncated"
            }
            Kind::Retrying(_) => "retrying",
            Kind::Finished(_) => "finished",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["truncated", "retrying", "finished"]);
    let record = rig.end(id).await;
    assert_eq!(output(&record).len(), 20 * 990 + 1, "the result is whole");
    assert_eq!(record.task.cost, Microdollars(7));
}

#[tokio::test(start_paused = true)]
async fn the_attempts_of_a_task_share_the_limit_of_its_log() {
    let rig = rig(Options {
        log_bytes_max: 10_000,
        ..slots(1)
    })
    .await;
    let talk = format!("say {}\nwait 1\n", "x".repeat(990)).repeat(6);
    let id = rig
        .pool
        .submit(format!("{talk}fail 529"))
        .await
        .expect("made");

    let (bytes, kinds) = log_of(&rig, id).await;

    let begun = kinds.iter().filter(|k| matches!(k, Kind::Started(_)));
    assert_eq!(begun.count(), 3);
    assert_eq!(truncations(&kinds), 2, "once in each attempt it cut");
    assert!(bytes < 11_500, "{bytes}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_retries_for_ever_does_not_fill_the_log() {
    let rig = rig(Options {
        log_bytes_max: 4096,
        ..slots(1)
    })
    .await;
    let id = rig
        .pool
        .submit("retrying 529\n".repeat(20_000) + "say x")
        .await
        .expect("made");

    let (bytes, kinds) = log_of(&rig, id).await;

    assert!(bytes < 4096 + 300_000, "{bytes}");
    assert_eq!(truncations(&kinds), 1);
    assert_eq!(output(&rig.end(id).await), "x");
}

#[tokio::test(start_paused = true)]
async fn calls_at_the_same_time_do_not_overfill_the_queue() {
    let rig = rig(Options {
        queue_max: 5,
        ..slots(1)
    })
    .await;
    let running = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(running).await;

    // Looking at the directory lets every call begin before the first commits.
    let calls = (0..40).map(|_| {
        let mut work = Work::from("say a");
        work.spec.working_dir = "/tmp".to_owned();
        rig.pool.submit(work)
    });
    let made = futures_util::future::join_all(calls).await;

    let refused = |made: &&Result<TaskId, Error>| matches!(made, Err(Error::QueueFull));
    let refused = made.iter().filter(refused).count();
    assert!((35..40).contains(&refused), "{refused}");
    while rig.pool.submit("say a").await.is_ok() {}
    let status = rig.pool.status().await.expect("told");
    let queued = status
        .tasks
        .iter()
        .find(|c| c.state() == pb::TaskState::Queued);
    assert_eq!(queued.map(|count| count.count), Some(5));
}
