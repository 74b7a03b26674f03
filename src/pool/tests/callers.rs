//! Callers, and what is theirs.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_process_is_never_used_by_two_callers() {
    let rig = rig(Options {
        spares: 0,
        ..slots(1)
    })
    .await;
    let (a, b) = (
        rig.pool.for_caller("a".into()),
        rig.pool.for_caller("b".into()),
    );
    a.run("say x").await.expect("ran");
    b.run("say x").await.expect("ran");
    assert_eq!(rig.agent.launches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_process_is_shared_by_callers_if_the_operator_says_so() {
    let rig = rig(Options {
        spares: 0,
        share_processes: true,
        ..slots(1)
    })
    .await;
    for caller in ["a", "b", "a"] {
        let pool = rig.pool.for_caller(caller.into());
        pool.run("say x").await.expect("ran");
    }
    assert_eq!(rig.agent.launches(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operator_sees_and_ends_every_callers_work_and_owns_its_own() {
    let rig = rig(slots(1)).await;
    let a = rig.pool.for_caller("a".into());
    let id = a.submit("hang").await.expect("made");
    let operator = rig.pool.for_operator("o".into());
    let own = operator.submit("say x").await.expect("made");

    let all = operator.tasks(Filter::default(), 0, "", false).await;
    let seen: Vec<_> = all
        .expect("listed")
        .tasks
        .iter()
        .map(|r| r.task.id)
        .collect();
    assert_eq!(seen, [own, id]);
    operator.cancel(Target::Task(id)).await.expect("cancelled");
    assert_eq!(rig.end(id).await.task.state, State::Cancelled);
    operator.delete_task(id).await.expect("deleted");
    assert!(a.task(own).await.is_err(), "an operator's is not another's");
}

#[tokio::test(start_paused = true)]
async fn a_caller_fills_its_own_part_of_the_queue_alone() {
    let mut options = slots(1);
    options.policy.caller_queue_max = Some(2);
    let rig = rig(options).await;
    let (a, b) = (
        rig.pool.for_caller("a".into()),
        rig.pool.for_caller("b".into()),
    );
    let running = a.submit("hang").await.expect("made");
    rig.until(running, |kind| matches!(kind, Kind::Started(_)))
        .await;
    let queued = [a.submit("say x").await, a.submit("say x").await];
    let specs = vec![pb::TaskSpec::default(); 3];

    let full = a.submit("say x").await;
    assert!(matches!(full, Err(Error::CallerQueueFull)), "{full:?}");
    let full = b.fan_out(specs, None, true).await.err();
    assert!(matches!(full, Some(Error::CallerQueueFull)), "{full:?}");
    b.submit("say x").await.expect("has a part of its own");
    a.cancel(Target::Task(queued[0].clone().expect("made")))
        .await
        .expect("cancelled");
    a.submit("say x").await.expect("there is room again");
}

#[tokio::test(start_paused = true)]
async fn another_callers_task_is_not_there() {
    let rig = rig(slots(1)).await;
    let id = rig
        .pool
        .for_caller("a".into())
        .submit("say x")
        .await
        .expect("made");
    let b = rig.pool.for_caller("b".into());
    for refused in [
        b.task(id).await.err(),
        b.cancel(Target::Task(id)).await.err(),
        b.watch(id, 0).await.err(),
    ] {
        assert!(matches!(refused, Some(Error::NotFound(Missing::Task))));
    }
}
