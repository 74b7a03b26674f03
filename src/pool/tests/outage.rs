//! The store fails, on paused time with the scripted agent.

use super::*;
use crate::id::RequestId;
use crate::pb::event::Kind;
use crate::store::faulty::{Faulty, Trouble, When};
use crate::store::layer::Call;

struct Failing {
    rig: Rig,
    faults: Arc<Faulty>,
}

impl std::ops::Deref for Failing {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        &self.rig
    }
}

async fn failing(options: Options) -> Failing {
    let faults = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let rig = over(Arc::clone(&faults) as Arc<dyn Store>, options).await;
    Failing { rig, faults }
}

impl Failing {
    /// Waits until the store answers, or does not.
    async fn answers(&self, wanted: bool) {
        let mut answers = self.pool.store_answers();
        let seen = answers.wait_for(|answers| *answers == wanted).await;
        seen.expect("the pool lives");
    }

    /// Has the store fail for so long; it answers again afterwards.
    async fn fail_for(&self, trouble: Trouble, outage: Duration) {
        self.faults.trouble(trouble);
        tokio::time::sleep(outage).await;
        self.faults.trouble(Trouble::None);
        self.answers(true).await;
    }

    /// How many tasks there are.
    async fn tasks(&self) -> usize {
        let page = self.pool.tasks(Filter::default(), 0, "", false).await;
        page.expect("listed").tasks.len()
    }

    /// What a task's log tells, which is dense.
    async fn kinds(&self, id: TaskId) -> Vec<Kind> {
        let log = self.log(id, 0).await;
        assert!(
            log.iter()
                .map(|entry| entry.sequence)
                .eq(1..=log.len() as u64),
            "the log is dense"
        );
        log.iter()
            .filter_map(|entry| event::decode(&entry.bytes)?.kind)
            .collect()
    }
}

fn said(kinds: &[Kind]) -> String {
    let text = kinds.iter().filter_map(|kind| match kind {
        Kind::TextDelta(delta) => Some(delta.text.as_str()),
        _ => None,
    });
    text.collect()
}

fn count(kinds: &[Kind], fits: impl Fn(&Kind) -> bool) -> usize {
    kinds.iter().filter(|kind| fits(kind)).count()
}

fn is_store<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Store(StoreError::Unavailable(_))))
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_unseen_is_the_same_task_when_it_is_asked_again() {
    for when in [When::Before, When::After] {
        let rig = failing(slots(1)).await;
        let mut work = Work::from("cost 70\nsay x");
        work.request = Some(RequestId::new());
        rig.faults.fail(Call::Commit, 1, when);

        let refused = rig.pool.submit(work.clone()).await;
        assert!(is_store(&refused), "{when:?}: {refused:?}");
        rig.answers(true).await;
        let id = rig.pool.submit(work.clone()).await.expect("made");

        assert_eq!(rig.end(id).await.task.state, State::Succeeded);
        assert_eq!(rig.pool.submit(work).await.expect("the same"), id);
        let kinds = rig.kinds(id).await;
        assert_eq!(count(&kinds, |k| matches!(k, Kind::Queued(_))), 1);
        assert_eq!(said(&kinds), "x");
        assert_eq!(rig.tasks().await, 1, "{when:?}");
        let funds = rig.store.totals().await.expect("read").funds;
        assert_eq!((funds.spent.0, funds.reserved.0), (70, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_claimed_unseen_runs_all_the_same() {
    for when in [When::Before, When::After] {
        let rig = failing(slots(1)).await;
        let first = rig.pool.submit("wait 1000\nsay x").await.expect("made");
        rig.faults.fail(Call::Claim, 1, when);

        let second = rig.pool.submit("say y").await.expect("made");

        assert_eq!(rig.end(first).await.task.state, State::Succeeded);
        let record = rig.end(second).await;
        assert_eq!(output(&record), "y", "{when:?}");
        assert_eq!(record.task.burnt, 0);
        let drained = rig.pool.drain(Duration::ZERO).await.expect("drained");
        assert_eq!((drained.tasks_completed, drained.tasks_left), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_committed_unseen_is_booked_once_and_told() {
    for when in [When::Before, When::After] {
        let rig = failing(slots(1)).await;
        // The first commit is the task, claimed; the second its end.
        rig.faults.fail(Call::Commit, 2, when);

        let work = "wait 1000\ncost 70\nsay x";
        let record = rig.pool.run(work).await.expect("told");

        assert_eq!(*rig.faults.failed().borrow(), 1);
        assert_eq!((output(&record), record.task.cost.0), ("x", 70));
        let kinds = rig.kinds(record.task.id).await;
        assert_eq!(count(&kinds, |k| matches!(k, Kind::Finished(_))), 1);
        assert_eq!(said(&kinds), "x");
        let funds = rig.store.totals().await.expect("read").funds;
        assert_eq!((funds.spent.0, funds.reserved.0), (70, 0), "{when:?}");
        rig.answers(true).await;
        rig.pool.run("say the slot is usable").await.expect("ran");
        let drained = rig.pool.drain(Duration::ZERO).await.expect("drained");
        assert_eq!((drained.tasks_completed, drained.cost.0), (2, 70));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_was_committed_unseen_ends_the_task() {
    let rig = failing(slots(1)).await;
    let id = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(id).await;
    rig.faults.fail(Call::Commit, 1, When::After);

    let refused = rig.pool.cancel(Target::Task(id)).await;

    assert!(is_store(&refused));
    assert_eq!(rig.end(id).await.task.state, State::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn members_of_a_group_that_ended_unseen_are_given() {
    let rig = failing(slots(1)).await;
    let specs = ["wait 1000\nsay x", "wait 2000\nsay y"].map(|prompt| Work::from(prompt).spec);
    let mut group = rig
        .pool
        .fan_out(specs.to_vec(), None, false)
        .await
        .expect("made");
    rig.faults.fail(Call::Commit, 1, When::After);

    let mut outputs = Vec::new();
    while let Some((_, record)) = group.next().await.expect("told") {
        outputs.push(output(&record).to_owned());
    }

    assert_eq!(outputs, ["x", "y"]);
}

#[tokio::test(start_paused = true)]
async fn a_running_task_keeps_its_result_until_the_store_answers() {
    for trouble in [Trouble::Writes, Trouble::Everything, Trouble::Hangs] {
        let rig = failing(slots(1)).await;
        let id = rig
            .pool
            .submit("say x\nwait 1000\ncost 70\nsay y")
            .await
            .expect("made");
        rig.started(id).await;

        rig.fail_for(trouble, Duration::from_secs(3600)).await;
        let record = rig.end(id).await;

        assert_eq!(output(&record), "xy", "{trouble:?}");
        assert_eq!((record.task.attempt, record.task.cost.0), (1, 70));
        assert_eq!(said(&rig.kinds(id).await), "xy");
    }
}

#[tokio::test(start_paused = true)]
async fn new_work_is_refused_while_the_store_does_not_answer() {
    for trouble in [Trouble::Writes, Trouble::Everything, Trouble::Hangs] {
        let rig = failing(slots(1)).await;
        rig.faults.trouble(trouble);

        let began = tokio::time::Instant::now();
        let refused = rig.pool.submit("say x").await;
        assert!(is_store(&refused), "{trouble:?}: {refused:?}");
        assert!(began.elapsed() <= Duration::from_secs(30));
        rig.answers(false).await;
        let began = tokio::time::Instant::now();
        assert!(is_store(&rig.pool.submit("say y").await));
        assert!(is_store(&rig.pool.set_context("key", "value").await));
        assert_eq!(began.elapsed(), Duration::ZERO, "nothing is waited for");

        rig.faults.trouble(Trouble::None);
        rig.answers(true).await;
        let record = rig.pool.run("say z").await.expect("it takes work again");
        assert_eq!(output(&record), "z");
        assert_eq!(rig.tasks().await, 1, "nothing is left of what was refused");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_asked_seldom() {
    let rig = failing(slots(2)).await;
    let queued = rig.pool.submit("say x").await.expect("made");
    rig.end(queued).await;
    rig.faults.trouble(Trouble::Everything);
    assert!(is_store(&rig.pool.submit("say x").await));
    let before = *rig.faults.failed().borrow();

    tokio::time::sleep(Duration::from_secs(60)).await;

    let asked = *rig.faults.failed().borrow() - before;
    assert!((5..=20).contains(&asked), "{asked} times in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_the_probe_alone_is_asked_seldom() {
    let rig = failing(slots(1)).await;
    let running = rig.pool.submit("say x\nwait 60000\nsay y").await;
    let running = running.expect("made");
    rig.said(running).await;
    rig.pool.submit("say z").await.expect("made");
    let mut answers = rig.pool.store_answers();
    let mut outages = 0;
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    rig.faults.fail(Call::Change, 1, When::Before);
    while tokio::time::timeout_at(until, async {
        assert!(rig.pool.set_context("key", "value").await.is_err());
        answers.wait_for(|answers| *answers).await.expect("lives");
    })
    .await
    .is_ok()
    {
        outages += 1;
        rig.faults.fail(Call::Change, 1, When::Before);
    }
    assert!((5..=20).contains(&outages), "{outages} times in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_log_is_whole_and_in_order_when_writes_failed_for_a_while() {
    for when in [When::Before, When::After] {
        for nth in 1..=3 {
            let rig = failing(slots(1)).await;
            let id = rig
                .pool
                .submit("wait 10\nsay a\nwait 10\ntool\nwait 10\nsay b\nwait 10\nsay c\nsay c\nwait 10\nsay d")
                .await
                .expect("made");
            rig.faults.fail(Call::Append, nth, when);

            let (live, record) = tokio::join!(rig.kinds(id), rig.end(id));

            assert_eq!(said(&live), output(&record), "{when:?} {nth}");
            assert_eq!(said(&live).matches('c').count(), 2);
            let late = rig.kinds(id).await;
            assert_eq!(live, late);
            assert_eq!(count(&late, |k| matches!(k, Kind::ToolUse(_))), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_in_memory_is_left_with_the_agent_and_nothing_is_lost() {
    let rig = failing(Options {
        stall_timeout: Duration::from_secs(60),
        ..slots(1)
    })
    .await;
    let line = "x".repeat(50_000);
    let text: String = (0..60)
        .map(|i| format!("say {i} {line}\nwait 10\n"))
        .collect();
    let id = rig.pool.submit(text).await.expect("made");
    rig.said(id).await;

    let outage = rig.fail_for(Trouble::Writes, Duration::from_secs(600));
    let (log, ()) = tokio::join!(rig.kinds(id), outage);

    let record = rig.end(id).await;
    assert_eq!(record.task.state, State::Succeeded, "it was not stalled");
    assert_eq!(record.task.attempt, 1);
    let numbers: Vec<_> = (0..60).map(|i| format!("{i} {line}")).collect();
    assert!(said(&log) == numbers.concat(), "every piece in its place");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_the_store_does_not_answer_has_left() {
    let rig = failing(slots(1)).await;
    let running = rig.pool.start("say x\nhang").await.expect("started");
    let id = running.task;
    rig.said(id).await;
    rig.faults.trouble(Trouble::Writes);
    assert!(is_store(&rig.pool.submit("say y").await));

    drop(running);
    tokio::time::sleep(Duration::from_secs(10)).await;
    rig.faults.trouble(Trouble::None);

    assert_eq!(rig.end(id).await.task.state, State::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_pool_ends_though_its_store_does_not_answer() {
    for trouble in [Trouble::Writes, Trouble::Everything, Trouble::Hangs] {
        let rig = failing(slots(2)).await;
        let ended = rig
            .pool
            .submit("say x\nwait 10\nsay y")
            .await
            .expect("made");
        let running = rig.pool.submit("say x\nhang").await.expect("made");
        rig.said(ended).await;
        rig.said(running).await;
        rig.faults.trouble(trouble);
        rig.answers(false).await;

        let end = tokio::time::timeout(Duration::from_secs(120), rig.pool.shutdown());

        assert!(end.await.is_ok(), "{trouble:?}");
    }
}
