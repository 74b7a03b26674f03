//! Tasks that are claimed while the process that is to run them is being reset.

use super::*;

/// A pool of one slot, whose process is being reset for so long.
async fn resetting(prompt: &str) -> Rig {
    let rig = rig(Options {
        spares: 0,
        ..slots(1)
    })
    .await;
    rig.pool.run(prompt).await.expect("ran");
    rig
}

async fn state(rig: &Rig, id: TaskId) -> State {
    rig.sees().task(id).await.expect("there").task.state
}

#[tokio::test(start_paused = true)]
async fn a_task_is_claimed_while_the_process_is_reset_and_begins_after_it() {
    let rig = resetting("slow 1000").await;
    let reset_begun = tokio::time::Instant::now();

    let id = rig.pool.submit("about").await.expect("made");

    assert_eq!(state(&rig, id).await, State::Running, "claimed at once");
    rig.started(id).await;
    assert!(reset_begun.elapsed() < Duration::from_secs(1));
    let record = rig.end(id).await;
    assert!(reset_begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(record.task.state, State::Succeeded);
    assert!(!output(&record).contains("slow"), "{}", output(&record));
    assert_eq!(rig.agent.launches(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_claimed_while_the_process_is_reset() {
    let rig = rig(slots(1)).await;
    let first = rig.pool.submit("wait 10\nslow 1000").await.expect("made");
    let second = rig.pool.submit("say x").await.expect("made");
    rig.end(first).await;
    let reset_begun = tokio::time::Instant::now();

    rig.started(second).await;

    assert!(reset_begun.elapsed() < Duration::from_secs(1));
    assert_eq!(rig.end(second).await.task.state, State::Succeeded);
    assert!(reset_begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_process_fails_its_reset_runs_on_another() {
    let rig = resetting("slow 1000\ndirty").await;
    let id = rig.pool.submit("about").await.expect("made");
    assert_eq!(state(&rig, id).await, State::Running);

    let record = rig.end(id).await;

    assert_eq!(record.task.state, State::Succeeded);
    assert_eq!(record.task.attempt, 1, "nothing of it was tried in vain");
    assert!(!output(&record).contains("slow"), "{}", output(&record));
    assert_eq!(rig.agent.launches(), 2);
    rig.pool.run("say x").await.expect("the slot is usable");
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_slot_gets_no_process_waits_in_the_queue() {
    let rig = resetting("slow 1000\ndirty").await;
    rig.agent.refuse_launches(true);
    let id = rig.pool.submit("say x").await.expect("made");
    assert_eq!(state(&rig, id).await, State::Running);

    rig.until(id, |kind| matches!(kind, Kind::Requeued(_)))
        .await;
    assert_eq!(state(&rig, id).await, State::Queued);
    rig.agent.refuse_launches(false);
    let record = rig.end(id).await;

    assert_eq!(record.task.state, State::Succeeded);
    assert_eq!(record.task.burnt, 0, "it was not to blame");
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_being_reset_may_run_what_it_ends_and_what_it_was_promised_alone() {
    let rig = resetting("slow 1000").await;
    let slot = rig.pool.inner.slots.all().remove(0);
    let id = rig.pool.submit("say x").await.expect("made");

    assert!(slot.may_run(&id));
    assert!(!slot.may_run(&TaskId::new()));
    rig.started(id).await;
    rig.end(id).await;
    assert!(!slot.may_run(&TaskId::new()));
}

#[tokio::test(start_paused = true)]
async fn a_node_of_many_claims_when_the_process_has_been_reset() {
    let node = nodes::nodes(1).await.remove(0);
    node.pool.run("slow 1000").await.expect("ran");
    let reset_begun = tokio::time::Instant::now();

    let id = node.pool.submit("say x").await.expect("made");
    node.started(id).await;

    assert!(reset_begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(node.end(id).await.task.state, State::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn an_idle_slot_goes_before_one_that_is_being_reset() {
    let rig = rig(slots(2)).await;
    let first = rig.pool.run("slow 1000").await.expect("ran");
    let reset_begun = tokio::time::Instant::now();

    let second = rig.pool.run("say x").await.expect("ran");

    assert_ne!(first.task.slot, second.task.slot);
    assert!(reset_begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_the_reset_can_be_cancelled() {
    let rig = resetting("slow 1000").await;
    let id = rig.pool.submit("say x").await.expect("made");
    assert_eq!(state(&rig, id).await, State::Running);

    rig.pool.cancel(Target::Task(id)).await.expect("accepted");
    let record = rig.end(id).await;

    assert_eq!(record.task.state, State::Cancelled);
    assert_eq!(output(&record), "");
    rig.pool.run("say y").await.expect("the slot is usable");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_of_the_one_that_ends_does_not_hide_that_of_the_next() {
    let rig = resetting("slow 1000").await;
    let slot = rig.pool.inner.slots.all().remove(0);
    let id = rig.pool.submit("say x").await.expect("made");
    rig.pool.cancel(Target::Task(id)).await.expect("accepted");
    let next = slot.cancel.borrow()[1];
    assert_eq!(next, Some((id, 1)));

    let mut ended = rig.sees().task(id).await.expect("there").task;
    ended.id = TaskId::new();
    rig.pool.inner.slots.cancel(&ended);
    rig.pool.inner.slots.cancel(&ended);

    assert_eq!(rig.end(id).await.task.state, State::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_retires_runs_what_it_was_promised() {
    let rig = rig(Options {
        spares: 0,
        ..slots(2)
    })
    .await;
    let ids = [
        rig.pool.submit("slow 1000\nsay x").await.expect("made"),
        rig.pool.submit("slow 1000\nsay y").await.expect("made"),
    ];
    for id in ids {
        rig.end(id).await;
    }
    let promised = [
        rig.pool.submit("say a").await.expect("made"),
        rig.pool.submit("say b").await.expect("made"),
    ];
    for id in promised {
        assert_eq!(state(&rig, id).await, State::Running);
    }

    let down = rig
        .pool
        .scale(Scale::Down(1), None, Duration::from_secs(30))
        .await;

    assert_eq!(down.expect("left").total, 1);
    for id in promised {
        let record = rig.end(id).await;
        assert_eq!(record.task.state, State::Succeeded);
        assert_eq!(record.task.attempt, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_was_promised() {
    let rig = resetting("slow 1000").await;
    let id = rig.pool.submit("say x").await.expect("made");
    assert_eq!(state(&rig, id).await, State::Running);

    let drained = rig.pool.drain(Duration::from_secs(60)).await;

    assert_eq!(drained.expect("drained").tasks_left, 0);
    assert_eq!(rig.end(id).await.task.state, State::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_restart_during_the_reset_gives_what_was_promised_a_new_process() {
    let rig = resetting("slow 1000").await;
    let id = rig.pool.submit("say x\nwait 9000").await.expect("made");
    assert_eq!(state(&rig, id).await, State::Running, "promised");

    let slot = rig.pool.restart_slot(&"slot-0".into()).await;
    slot.expect("there");

    rig.said(id).await;
    assert_eq!(rig.agent.launches(), 2, "before it begins");
    let record = rig.end(id).await;
    assert_eq!(record.task.state, State::Succeeded);
    assert_eq!((record.task.attempt, record.task.burnt), (1, 0));
    rig.pool.run("say y").await.expect("ran");
    assert_eq!(rig.agent.launches(), 2, "once");
}
