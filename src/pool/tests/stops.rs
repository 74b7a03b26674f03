//! Attempts that are ended or fail, and what follows.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_task_that_finds_no_slot_in_time_fails_and_pays_nothing() {
    let rig = rig(slots(1)).await;
    let blocker = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(blocker).await;
    let settings = RunSettings {
        queue_timeout: Some(prost_types::Duration {
            seconds: 3,
            nanos: 0,
        }),
        ..RunSettings::default()
    };
    let begun = tokio::time::Instant::now();
    let mut ids = Vec::new();
    for _ in 0..5 {
        let waits = work("say y", settings.clone());
        ids.push(rig.pool.submit(waits).await.expect("made"));
    }
    for id in ids {
        let record = rig.end(id).await;
        assert_eq!(failure(&record), FailureReason::QueueTimeout);
        assert_eq!(record.task.attempt, 0);
    }
    // Each has waited its own time, not its predecessors' as well.
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_runs_too_long_is_stopped() {
    let rig = rig(slots(1)).await;
    let run_timeout = prost_types::Duration {
        seconds: 2,
        nanos: 0,
    };
    let settings = RunSettings {
        run_timeout: Some(run_timeout),
        ..RunSettings::default()
    };
    let record = rig
        .pool
        .run(work("say x\nhang", settings))
        .await
        .expect("ran");
    assert_eq!(failure(&record), FailureReason::RunTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_silent_process_counts_as_stalled() {
    let rig = rig(slots(1)).await;
    let begun = tokio::time::Instant::now();
    let record = rig.pool.run("say x\nstuck").await.expect("ran");
    assert_eq!(failure(&record), FailureReason::Stalled);
    assert!(begun.elapsed() >= rig.pool.options().stall_timeout);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_costs_more_than_its_budget_is_stopped() {
    let rig = rig(slots(1)).await;
    let settings = RunSettings {
        budget_microdollars: Some(100),
        ..RunSettings::default()
    };
    let record = rig
        .pool
        .run(work("cost 60\ntool\ncost 120\ntool\nhang", settings))
        .await
        .expect("ran");
    assert_eq!(failure(&record), FailureReason::Budget);
    assert_eq!(record.task.cost, Microdollars(120));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_takes_too_many_turns_is_stopped() {
    let rig = rig(slots(1)).await;
    let settings = RunSettings {
        max_turns: Some(2),
        ..RunSettings::default()
    };
    let record = rig
        .pool
        .run(work("tool\ntool\ntool\nhang", settings))
        .await
        .expect("ran");
    assert_eq!(failure(&record), FailureReason::MaxTurns);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_fails_the_task_with_its_exit_code() {
    let rig = rig(slots(1)).await;
    let record = rig.pool.run("say x\ndie 137").await.expect("ran");
    assert_eq!(failure(&record), FailureReason::ProcessDied);
    let failure = record.result.as_ref().and_then(|r| r.failure.clone());
    let failure = failure.expect("failed");
    assert_eq!(failure.exit_code, Some(137));
    assert_eq!(failure.stderr_tail, "it was told to die");
    assert_eq!(record.task.attempt, 2, "it may die of bad luck once");
    rig.pool.run("say y").await.expect("the slot is usable");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_lease_ran_out_is_begun_again_but_not_for_ever() {
    let rig = rig(slots(1)).await;
    let record = rig.pool.run("cost 7\ndie expired").await.expect("ran");
    assert_eq!(failure(&record), FailureReason::Interrupted);
    assert_eq!((record.task.attempt, record.task.burnt), (3, 2));
    assert_eq!(record.task.cost, Microdollars(21), "every attempt is paid");
    assert_eq!(output(&rig.pool.run("say x").await.expect("ran")), "x");
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_provider_is_tried_again_with_backoff() {
    let rig = rig(slots(1)).await;
    let begun = tokio::time::Instant::now();
    let record = rig.pool.run("cost 7\nfail 529").await.expect("ran");
    assert_eq!(failure(&record), FailureReason::Overloaded);
    assert_eq!((record.task.attempt, record.task.burnt), (3, 2));
    assert_eq!(record.task.cost, Microdollars(21), "every attempt is paid");
    assert!(begun.elapsed() >= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_holds_the_pool_burns_nothing_and_one_goes_ahead() {
    let rig = rig(slots(4)).await;
    rig.agent.limit(true);
    let ids: Vec<TaskId> = {
        let mut ids = Vec::new();
        for _ in 0..8 {
            ids.push(rig.pool.submit("limited\nsay x").await.expect("made"));
        }
        ids
    };
    rig.until(ids[0], |kind| matches!(kind, Kind::Requeued(_)))
        .await;
    let status = rig.pool.status().await.expect("told");
    let hold = status.hold.expect("the pool holds");
    assert!(hold.estimated);
    let begun = rig.agent.turns();

    // The first probe meets the limit again, the second does not.
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(rig.agent.turns(), begun + 1, "one probe");
    rig.agent.limit(false);
    for id in ids {
        let record = rig.end(id).await;
        assert_eq!(record.task.state, State::Succeeded);
        assert_eq!(record.task.burnt, 0);
    }
    assert!(rig.pool.status().await.expect("told").hold.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_says_when_it_lifts_is_waited_for_until_then() {
    let rig = rig(slots(1)).await;
    rig.agent.limit(true);
    let lifts = rig.pool.inner.now().0 / 1_000_000 + 1800;
    let id = rig
        .pool
        .submit(format!("limited {lifts}\nsay x"))
        .await
        .expect("made");
    rig.until(id, |kind| matches!(kind, Kind::Requeued(_)))
        .await;
    let hold = rig.pool.status().await.expect("told").hold.expect("held");
    assert!(!hold.estimated);
    assert_eq!(hold.reason(), FailureReason::RateLimited);
    assert_eq!(hold.until.expect("told").seconds, lifts);
    rig.agent.limit(false);
    let record = rig.end(id).await;
    assert!(record.task.end_time.expect("ended").0 >= lifts * 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_fail_the_task_at_once() {
    let rig = rig(slots(1)).await;
    let begun = tokio::time::Instant::now();
    let record = rig.pool.run("retrying 401\nhang").await.expect("ran");
    assert_eq!(failure(&record), FailureReason::Authentication);
    assert!(begun.elapsed() < Duration::from_secs(10));
}
