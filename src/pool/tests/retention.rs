//! What is old goes, and nothing else, on paused time with the scripted agent.

use super::*;
use crate::pb::{ChainStep, StateCount, TaskState, chain_step::Action};
use crate::store::faulty::Faulty;

const SUCCEEDED: Duration = Duration::from_secs(100);
const CANCELLED: Duration = Duration::from_secs(500);
const FAILED: Duration = Duration::from_secs(2000);

fn kept() -> Options {
    Options {
        retention: Retention {
            succeeded: SUCCEEDED,
            failed: FAILED,
            cancelled: CANCELLED,
        },
        stall_timeout: Duration::from_secs(3600),
        ..slots(2)
    }
}

fn step(name: &str, prompt: &str) -> ChainStep {
    ChainStep {
        name: name.to_owned(),
        action: Some(Action::Prompt(prompt.to_owned())),
        ..ChainStep::default()
    }
}

fn count(status: &pb::PoolStatus, state: TaskState) -> i64 {
    let of = |count: &&StateCount| count.state() == state;
    status.tasks.iter().find(of).map_or(0, |count| count.count)
}

impl Rig {
    /// Waits until no task is in this state.
    async fn none_is(&self, state: TaskState) -> pb::PoolStatus {
        let interval = Duration::from_millis(100);
        let mut watch = self.pool.watch_status(interval).await.expect("watched");
        loop {
            let status = watch.next().await.expect("told");
            if count(&status, state) == 0 {
                return status;
            }
        }
    }

    async fn is_there(&self, id: TaskId) -> bool {
        match self.pool.task(id).await {
            Ok(_) => true,
            Err(Error::NotFound(Missing::Task)) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ended_work_goes_by_state_and_age_and_what_was_spent_stays() {
    let rig = rig(kept()).await;
    let begin = tokio::time::Instant::now();
    let running = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(running).await;
    let cancelled = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(cancelled).await;
    let queued = rig.pool.submit("say x").await.expect("made");
    rig.pool
        .cancel(Target::Task(cancelled))
        .await
        .expect("done");
    rig.end(queued).await;
    let succeeded = rig.pool.run("cost 700\nsay x").await.expect("ran").task.id;
    let failed = rig
        .pool
        .run("cost 50\nfail 400")
        .await
        .expect("ran")
        .task
        .id;
    let spent = rig.pool.status().await.expect("told").spent_microdollars;
    assert!(spent >= 700);

    let status = rig.none_is(TaskState::Succeeded).await;
    assert!(begin.elapsed() >= SUCCEEDED && begin.elapsed() < CANCELLED);
    assert_eq!(status.spent_microdollars, spent);
    assert!(!rig.is_there(succeeded).await);
    assert!(rig.is_there(cancelled).await && rig.is_there(failed).await);

    rig.none_is(TaskState::Cancelled).await;
    assert!(begin.elapsed() >= CANCELLED && begin.elapsed() < FAILED);
    assert!(rig.is_there(failed).await);

    let status = rig.none_is(TaskState::Failed).await;
    assert!(begin.elapsed() >= FAILED);
    assert_eq!(status.spent_microdollars, spent);
    assert_eq!(count(&status, TaskState::Running), 1);
    assert!(rig.is_there(running).await, "what runs is never old");
}

#[tokio::test(start_paused = true)]
async fn a_chain_keeps_its_steps_as_long_as_it_lives() {
    let rig = rig(kept()).await;
    let steps = vec![step("a", "say x"), step("b", "say y\nhang")];
    let chain = rig.pool.submit_chain(steps, None, None).await;
    let chain = chain.expect("made");
    let mut watch = rig.pool.watch_chain(chain).await.expect("there");
    let done = loop {
        let progress = watch.next().await.expect("told").expect("it goes on");
        if progress.current_step == 1 && !progress.current_step_task_id.is_empty() {
            break progress.completed_steps[0].task_id.parse().expect("an id");
        }
    };

    // Twice as long as a task is kept that succeeded with the step.
    for _ in 0..2 {
        rig.pool.run("say z").await.expect("ran");
        rig.none_is(TaskState::Succeeded).await;
    }
    assert!(rig.is_there(done).await, "the chain needs it");
    rig.pool.cancel_chain(chain, true).await.expect("cancelled");
    assert_eq!(rig.end(chain).await.task.state, State::Cancelled);
    assert!(rig.is_there(done).await);

    rig.none_is(TaskState::Cancelled).await;

    assert!(!rig.is_there(chain).await && !rig.is_there(done).await);
}

#[tokio::test(start_paused = true)]
async fn the_outcomes_of_a_fan_out_are_kept_until_all_have_ended() {
    let rig = rig(kept()).await;
    let specs = ["say a", "say b\nhang"].map(|prompt| Work::from(prompt).spec);
    let mut fan_out = rig
        .pool
        .fan_out(specs.to_vec(), None, false)
        .await
        .expect("made");
    let (early, late) = (fan_out.tasks[0], fan_out.tasks[1]);
    rig.end(early).await;
    rig.said(late).await;
    rig.pool.run("fail 400").await.expect("ran");
    rig.none_is(TaskState::Failed).await;
    assert!(rig.is_there(early).await, "as long as the other goes on");
    let group = Target::Group(fan_out.group);
    rig.pool.cancel(group).await.expect("cancelled");

    let mut given = 0;
    while fan_out.next().await.expect("none is gone").is_some() {
        given += 1;
    }
    assert_eq!(given, 2);
    rig.none_is(TaskState::Succeeded).await;
    assert!(!rig.is_there(early).await);
}

#[tokio::test(start_paused = true)]
async fn who_still_reads_a_task_that_goes_is_told_so() {
    let rig = rig(kept()).await;
    let long = format!("say {}\n", "x".repeat(60_000)).repeat(20);
    let id = rig.pool.run(long).await.expect("ran").task.id;
    let mut slow = rig.pool.watch(id, 0).await.expect("there");
    slow.next().await.expect("readable").expect("it is long");

    rig.none_is(TaskState::Succeeded).await;

    let mut last = 1;
    let told = loop {
        let next = tokio::time::timeout(FAILED, slow.next()).await;
        match next.expect("it is not left waiting") {
            Ok(entry) => {
                let entry = entry.expect("this is not the end");
                assert_eq!(entry.sequence, last + 1, "no gap before the end");
                last = entry.sequence;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(told, Error::NotFound(Missing::DeletedTask)));
    assert!(matches!(
        rig.pool.watch(id, 0).await.err(),
        Some(Error::NotFound(Missing::Task))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_request_outlives_its_task_until_it_expires() {
    let rig = rig(Options {
        request_ttl: FAILED,
        ..kept()
    })
    .await;
    let work = Work {
        request: Some(RequestId::new()),
        ..Work::from("say a")
    };
    let first = rig.pool.submit(work.clone()).await.expect("made");
    rig.end(first).await;
    let failed = rig.pool.run("fail 400").await.expect("ran").task.id;
    rig.none_is(TaskState::Succeeded).await;
    assert!(matches!(
        rig.pool.submit(work.clone()).await,
        Err(Error::NotFound(Missing::DeletedTask))
    ));

    rig.none_is(TaskState::Failed).await;

    assert!(!rig.is_there(failed).await);
    rig.pool.run("say z").await.expect("ran");
    rig.none_is(TaskState::Succeeded).await;
    let forgotten = rig
        .store
        .request(
            &CallerId::default(),
            work.request.expect("set"),
            Default::default(),
        )
        .await;
    assert_eq!(forgotten.expect("read"), None, "its row is gone too");
    let again = rig.pool.submit(work).await.expect("made anew");
    assert_ne!(again, first);
}

#[tokio::test(start_paused = true)]
async fn what_a_failing_store_did_not_let_go_goes_later() {
    let faulty = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let rig = over(Arc::clone(&faulty) as Arc<dyn Store>, kept()).await;
    let id = rig.pool.run("say x").await.expect("ran").task.id;
    faulty.fail_all(true);
    tokio::time::timeout(2 * SUCCEEDED, std::future::pending::<()>())
        .await
        .expect_err("time goes by");
    faulty.fail_all(false);
    assert!(rig.is_there(id).await);

    rig.none_is(TaskState::Succeeded).await;

    assert!(!rig.is_there(id).await);
}
