//! Cancels.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_cancelled_queued_task_ends_at_once_and_never_runs() {
    let rig = rig(slots(1)).await;
    let running = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(running).await;
    let queued = rig.pool.submit("say y").await.expect("made");

    let cancelled = rig.pool.cancel(Target::Task(queued)).await.expect("done");

    let task = cancelled.task.expect("one").task;
    assert_eq!(task.state, State::Cancelled);
    rig.pool.cancel(Target::Task(running)).await.expect("done");
    rig.end(running).await;
    rig.pool.run("say z").await.expect("the slot is usable");
    assert_eq!(rig.end(queued).await.task.attempt, 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_running_task_ends_cancelled_and_its_slot_serves_another() {
    let rig = rig(slots(1)).await;
    let id = rig.pool.submit("say x\ncost 70\nhang").await.expect("made");
    rig.until(id, |kind| matches!(kind, Kind::Usage(_))).await;

    rig.pool.cancel(Target::Task(id)).await.expect("accepted");
    let record = rig.end(id).await;

    assert_eq!(record.task.state, State::Cancelled);
    assert_eq!(record.task.cost, Microdollars(70), "it cost what it cost");
    let again = rig.pool.cancel(Target::Task(id)).await.expect("harmless");
    assert_eq!(again.count, 0);
    rig.pool.run("say y").await.expect("ran");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ignores_the_interrupt_is_ended_within_the_grace_period() {
    let rig = rig(Options {
        spares: 0,
        ..slots(1)
    })
    .await;
    let id = rig.pool.submit("say x\nstuck").await.expect("made");
    rig.said(id).await;
    let asked = tokio::time::Instant::now();

    rig.pool.cancel(Target::Task(id)).await.expect("accepted");
    let record = rig.end(id).await;

    assert_eq!(record.task.state, State::Cancelled);
    assert!(asked.elapsed() <= rig.pool.options().cancel_grace);
    rig.pool.run("say y").await.expect("the slot is usable");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_after_the_end_is_refused() {
    let rig = rig(slots(1)).await;
    let id = rig.pool.submit("say x").await.expect("made");
    rig.end(id).await;
    let refused = rig.pool.cancel(Target::Task(id)).await;
    assert!(matches!(
        refused,
        Err(Error::TaskFinished(State::Succeeded))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_group_ends_whole() {
    let rig = rig(slots(1)).await;
    let specs = vec![Work::from("say x\nhang").spec; 5];
    let mut fan_out = rig.pool.fan_out(specs, None, false).await.expect("made");
    rig.started(fan_out.tasks[0]).await;

    let cancelled = rig
        .pool
        .cancel(Target::Group(fan_out.group))
        .await
        .expect("done");

    assert_eq!(cancelled.count, 5);
    while let Some((_, record)) = fan_out.next().await.expect("readable") {
        assert_eq!(record.task.state, State::Cancelled);
    }
}
