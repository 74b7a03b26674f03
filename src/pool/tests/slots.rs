//! Slots and their processes: how many, how they end, what replaces them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_process_that_is_not_clean_is_replaced() {
    let rig = rig(Options {
        spares: 0,
        ..slots(1)
    })
    .await;
    rig.pool.run("dirty").await.expect("ran");
    rig.pool.run("say x").await.expect("ran");
    assert_eq!(rig.agent.launches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slot_whose_processes_do_not_start_says_why() {
    let rig = rig(Options {
        spares: 0,
        max_restarts: 2,
        ..slots(1)
    })
    .await;
    rig.pool.run("say x").await.expect("ran");
    rig.agent.refuse_launches(true);
    rig.pool.run("dirty").await.expect("ran");
    let mut watch = rig
        .pool
        .watch_status(Duration::from_millis(100))
        .await
        .expect("watched");
    loop {
        let status = watch.next().await.expect("told");
        if status.slots_errored == 1 {
            assert!(status.slots[0].last_error.contains("did not start"));
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_sixteen_callers_who_scale_up_at_once_exactly_as_many_succeed_as_fit() {
    let rig = rig(slots(1)).await;
    let calls = (0..16).map(|_| {
        let pool = rig.pool.clone();
        tokio::spawn(async move { pool.scale(Scale::Up(1), None, Duration::ZERO).await.is_ok() })
    });
    let mut succeeded = 0;
    for call in calls.collect::<Vec<_>>() {
        succeeded += u32::from(call.await.expect("joined"));
    }
    assert_eq!(succeeded, 15);
    let mut ids: Vec<_> = rig
        .pool
        .slots()
        .await
        .into_iter()
        .map(|s| s.slot_id)
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 16, "no slot has another's id");
}

#[tokio::test(start_paused = true)]
async fn scaling_down_takes_idle_slots_and_waits_for_busy_ones_no_longer_than_told() {
    let rig = rig(slots(3)).await;
    let busy = rig
        .pool
        .submit("say x\nwait 20000\nsay y")
        .await
        .expect("made");
    rig.said(busy).await;

    let down = rig
        .pool
        .scale(Scale::Down(1), None, Duration::from_secs(30))
        .await;
    let down = down.expect("idle ones go first");
    assert_eq!((down.target, down.total, down.retiring), (2, 2, 0));

    let other = rig
        .pool
        .submit("say x\nwait 20000\nsay y")
        .await
        .expect("made");
    rig.said(other).await;
    let down = rig
        .pool
        .scale(Scale::To(1), None, Duration::from_secs(1))
        .await;
    let down = down.expect("a timeout is no failure");
    assert_eq!((down.target, down.total, down.retiring), (1, 2, 1));

    for id in [busy, other] {
        assert_eq!(rig.end(id).await.task.state, State::Succeeded);
    }
    let mut watch = rig
        .pool
        .watch_status(Duration::from_millis(100))
        .await
        .expect("watched");
    while watch.next().await.expect("told").slots_total != 1 {}
}

#[tokio::test(start_paused = true)]
async fn a_scale_out_of_bounds_changes_nothing() {
    let rig = rig(slots(2)).await;
    for scale in [Scale::Up(15), Scale::Down(2), Scale::To(0), Scale::To(17)] {
        let refused = rig.pool.scale(scale, None, Duration::ZERO).await;
        assert!(
            matches!(refused, Err(Error::SlotBounds { .. })),
            "{scale:?}"
        );
    }
    assert_eq!(rig.pool.slots().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_scale_scales_once() {
    let rig = rig(slots(1)).await;
    let request = Some(RequestId::new());
    for _ in 0..3 {
        let scaled = rig.pool.scale(Scale::Up(2), request, Duration::ZERO).await;
        assert_eq!(scaled.expect("the same answer").target, 3);
    }
    let other = rig.pool.scale(Scale::Up(3), request, Duration::ZERO).await;
    assert!(matches!(other, Err(Error::RequestIdReused)));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_slot_hands_its_attempt_back_uncounted() {
    let rig = rig(slots(1)).await;
    let id = rig
        .pool
        .submit("say x\nwait 9000\nsay y")
        .await
        .expect("made");
    rig.said(id).await;
    rig.pool
        .restart_slot(&"slot-0".into())
        .await
        .expect("there");
    rig.until(id, |kind| matches!(kind, Kind::Requeued(_)))
        .await;
    let record = rig.end(id).await;
    assert_eq!((record.task.attempt, record.task.burnt), (2, 0));
    assert_eq!(record.task.state, State::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_was_given_up_comes_back_by_a_restart() {
    let rig = rig(Options {
        spares: 0,
        max_restarts: 0,
        ..slots(1)
    })
    .await;
    rig.pool.run("say x").await.expect("ran");
    rig.agent.refuse_launches(true);
    rig.pool.run("dirty").await.expect("ran");
    let mut watch = rig
        .pool
        .watch_status(Duration::from_millis(100))
        .await
        .expect("watched");
    while watch.next().await.expect("told").slots_errored != 1 {}
    rig.agent.refuse_launches(false);
    rig.pool
        .restart_slot(&"slot-0".into())
        .await
        .expect("there");
    rig.pool.run("say y").await.expect("ran");
}

#[tokio::test(start_paused = true)]
async fn without_its_supervisor_a_failed_slot_stays_failed() {
    let rig = rig(Options {
        spares: 0,
        ..slots(1)
    })
    .await;
    rig.pool.run("say x").await.expect("ran");
    rig.pool.supervise(false);
    rig.agent.refuse_launches(true);
    rig.pool.run("dirty").await.expect("ran");
    let mut watch = rig
        .pool
        .watch_status(Duration::from_millis(100))
        .await
        .expect("watched");
    while watch.next().await.expect("told").slots_errored != 1 {}
    rig.agent.refuse_launches(false);
    rig.pool.supervise(true);
    rig.pool.run("say y").await.expect("ran");
}

#[tokio::test(start_paused = true)]
async fn a_process_is_replaced_after_so_many_attempts() {
    let rig = rig(Options {
        spares: 0,
        process_attempts_max: 2,
        ..slots(1)
    })
    .await;
    for _ in 0..4 {
        rig.pool.run("say x").await.expect("ran");
    }
    let mut watch = rig
        .pool
        .watch_status(Duration::from_millis(100))
        .await
        .expect("watched");
    while watch.next().await.expect("told").slots[0].recycles != 2 {}
}

#[tokio::test(start_paused = true)]
async fn a_process_that_has_grown_too_large_is_replaced() {
    let rig = rig(Options {
        spares: 0,
        process_memory_max: 1_000_000,
        ..slots(1)
    })
    .await;
    rig.agent.grow(2_000_000);
    // Its size is looked at now and then.
    for _ in 0..8 {
        rig.pool.run("say x").await.expect("ran");
    }
    let mut watch = rig
        .pool
        .watch_status(Duration::from_millis(100))
        .await
        .expect("watched");
    while watch.next().await.expect("told").slots[0].recycles != 1 {}
}

#[tokio::test(start_paused = true)]
async fn a_used_process_that_is_idle_for_long_is_replaced() {
    let rig = rig(Options {
        spares: 0,
        ..slots(1)
    })
    .await;
    rig.pool.run("say x").await.expect("ran");
    let idle = tokio::time::Instant::now();
    let mut watch = rig
        .pool
        .watch_status(Duration::from_millis(100))
        .await
        .expect("watched");
    while watch.next().await.expect("told").slots[0].recycles != 1 {}
    assert!(idle.elapsed() >= rig.pool.options().process_idle_max);
}
