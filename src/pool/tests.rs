//! The pool's contract, on paused time with the scripted agent.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::agent::scripted::Scripted;
use crate::event;
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::pb::{FailureReason, RunSettings};
use crate::store::Store;
use crate::store::memory::Memory;
use crate::store::{Filter, StoreError};
use crate::task::State;

struct Rig {
    pool: Pool,
    agent: Scripted,
    store: Arc<dyn Store>,
}

async fn rig(options: Options) -> Rig {
    over(Arc::new(Memory::new()), options).await
}

async fn over(store: Arc<dyn Store>, options: Options) -> Rig {
    let agent = Scripted::default();
    let pool = Pool::builder(agent.clone())
        .store(Arc::clone(&store))
        .options(options)
        .working_dir("/tmp")
        .clock(Clock::tokio())
        .build()
        .await
        .expect("built");
    Rig { pool, agent, store }
}

fn slots(slots: u32) -> Options {
    Options {
        slots,
        ..Options::default()
    }
}

fn work(prompt: &str, settings: RunSettings) -> Work {
    let mut work = Work::from(prompt);
    work.spec.settings = Some(settings);
    work
}

fn output(record: &Record) -> &str {
    record.result.as_ref().map_or("", |result| &result.output)
}

fn failure(record: &Record) -> FailureReason {
    let failure = record.result.as_ref().and_then(|r| r.failure.as_ref());
    failure.map_or(FailureReason::Unspecified, |f| f.reason())
}

impl Rig {
    /// The pool as somebody who sees everybody's work.
    fn sees(&self) -> Pool {
        self.pool.for_operator("rig".into())
    }

    /// Waits until a task's log has an entry that fits.
    async fn until(&self, id: TaskId, fits: impl Fn(&Kind) -> bool) {
        let mut tail = self.sees().watch(id, 0).await.expect("there");
        while let Some(entry) = tail.next().await.expect("readable") {
            let kind = event::decode(&entry.bytes).and_then(|event| event.kind);
            if kind.is_some_and(|kind| fits(&kind)) {
                return;
            }
        }
        panic!("the log ended without it");
    }

    async fn started(&self, id: TaskId) {
        self.until(id, |kind| matches!(kind, Kind::Started(_)))
            .await;
    }

    async fn said(&self, id: TaskId) {
        self.until(id, |kind| matches!(kind, Kind::TextDelta(_)))
            .await;
    }

    async fn end(&self, id: TaskId) -> Record {
        self.sees()
            .result(id, Duration::from_secs(3600))
            .await
            .expect("there")
    }

    async fn log(&self, id: TaskId, after: u64) -> Vec<LogEntry> {
        let mut tail = self.pool.watch(id, after).await.expect("there");
        let mut log = Vec::new();
        while let Some(entry) = tail.next().await.expect("readable") {
            log.push(entry);
        }
        log
    }
}

#[tokio::test(start_paused = true)]
async fn a_prompt_is_run_and_answered() {
    let rig = rig(slots(1)).await;

    let record = rig.pool.run("say hello").await.expect("ran");

    assert_eq!(record.task.state, State::Succeeded);
    assert_eq!(output(&record), "hello");
}

#[tokio::test(start_paused = true)]
async fn a_task_sees_nothing_of_an_earlier_one_on_the_same_process() {
    let rig = rig(Options {
        spares: 0,
        ..slots(1)
    })
    .await;
    rig.pool.run("secret").await.expect("ran");

    let record = rig.pool.run("about").await.expect("ran");

    assert!(!output(&record).contains("secret"), "{}", output(&record));
    assert_eq!(rig.agent.launches(), 1, "the process was kept");
    assert!(rig.agent.resets() >= 1, "and reset in between");
}

#[tokio::test(start_paused = true)]
async fn every_reader_sees_the_same_log_whenever_it_attaches() {
    let rig = rig(slots(1)).await;
    let id = rig
        .pool
        .submit("say a\nwait 10\nsay b\nwait 10\ntool\nsay c")
        .await
        .expect("made");
    let (live, from_two) = tokio::join!(rig.log(id, 0), rig.log(id, 2));
    let late = rig.log(id, 0).await;

    assert_eq!(live, late);
    assert_eq!(from_two, late[2..]);
    assert!(rig.log(id, late.len() as u64).await.is_empty());
    let numbers: Vec<u64> = late.iter().map(|entry| entry.sequence).collect();
    assert_eq!(numbers, (1..=late.len() as u64).collect::<Vec<_>>());
    assert!(event::is_finished(&late[late.len() - 1].bytes));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_began_beyond_the_end_is_told_of_the_end() {
    let rig = rig(slots(1)).await;
    let id = rig.pool.submit("say x\nwait 1000").await.expect("made");
    let mut beyond = rig.pool.watch(id, 99).await.expect("there");

    let waited = tokio::time::timeout(Duration::from_secs(3600), beyond.next()).await;

    assert_eq!(waited.expect("told").expect("readable"), None);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_spent_its_budget_is_not_tried_again() {
    let rig = rig(slots(1)).await;
    let settings = RunSettings {
        budget_microdollars: Some(50),
        ..RunSettings::default()
    };
    let spends = work("cost 50\nfail 529", settings);

    let record = rig.pool.run(spends).await.expect("ran");

    assert_eq!(failure(&record), FailureReason::Budget);
    assert_eq!(record.task.cost, Microdollars(50));
    assert_eq!(rig.agent.turns(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fan_out_gives_each_member_once_as_it_ends_failures_too() {
    let rig = rig(slots(2)).await;
    let specs = ["wait 500\nsay slow", "fail 400", "say quick"]
        .map(|prompt| Work::from(prompt).spec)
        .to_vec();
    let request = Some(RequestId::new());
    let mut fan_out = rig
        .pool
        .fan_out(specs.clone(), request, false)
        .await
        .expect("made");
    let mut seen = Vec::new();
    while let Some((place, record)) = fan_out.next().await.expect("readable") {
        seen.push((place, record.task.state));
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[2], (0, State::Succeeded), "the slow one is last");
    assert!(seen.contains(&(1, State::Failed)));

    let mut again = rig
        .pool
        .fan_out(specs, request, false)
        .await
        .expect("replayed");
    let mut replayed = Vec::new();
    while let Some((place, record)) = again.next().await.expect("readable") {
        replayed.push((place, record.task.state));
    }
    assert_eq!(replayed, seen);
}

#[tokio::test(start_paused = true)]
async fn a_fan_out_with_one_wrong_field_admits_nothing() {
    let rig = rig(slots(1)).await;
    let specs = ["say x", " "]
        .map(|prompt| Work::from(prompt).spec)
        .to_vec();
    match rig.pool.fan_out(specs, None, false).await.err() {
        Some(Error::Invalid(violations)) => assert_eq!(violations[0].field, "tasks[1].prompt"),
        other => panic!("{other:?}"),
    }
    let all = rig
        .pool
        .tasks(Filter::default(), 0, "", false)
        .await
        .expect("listed");
    assert!(all.tasks.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drained_attempt_goes_back_to_the_queue_unburnt() {
    let rig = rig(slots(1)).await;
    let id = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(id).await;

    let drained = rig
        .pool
        .drain(Duration::from_secs(1))
        .await
        .expect("drained");

    assert_eq!(drained.tasks_left, 1);
    let task = rig.pool.task(id).await.expect("there").task;
    assert_eq!((task.state, task.burnt), (State::Queued, 0));
    assert!(matches!(
        rig.pool.submit("say y").await,
        Err(Error::Draining)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_running_work_finish_in_time() {
    let rig = rig(slots(1)).await;
    let id = rig
        .pool
        .submit("say x\nwait 5000\nsay y")
        .await
        .expect("made");
    rig.said(id).await;
    let drained = rig
        .pool
        .drain(Duration::from_secs(60))
        .await
        .expect("drained");
    assert_eq!((drained.tasks_completed, drained.tasks_left), (1, 0));
    assert_eq!(rig.end(id).await.task.state, State::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_shut_down_leaves_no_process() {
    let rig = rig(slots(3)).await;
    let id = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(id).await;
    rig.pool.shutdown().await;
    assert_eq!(rig.agent.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_left_runs_in_the_next_pool() {
    let first = rig(slots(1)).await;
    let running = first
        .pool
        .submit("say x\nwait 60000\nsay y")
        .await
        .expect("made");
    first.said(running).await;
    let queued = first.pool.submit("say z").await.expect("made");
    first.pool.drain(Duration::ZERO).await.expect("drained");

    let second = over(Arc::clone(&first.store), slots(1)).await;

    let record = second.end(running).await;
    assert_eq!(
        (record.task.state, record.task.attempt),
        (State::Succeeded, 2)
    );
    assert_eq!(second.end(queued).await.task.state, State::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_paused_pool_refuses_and_claims_nothing_until_it_is_resumed() {
    let rig = rig(slots(1)).await;
    let running = rig
        .pool
        .submit("say x\nwait 1000\nsay y")
        .await
        .expect("made");
    rig.said(running).await;
    let queued = rig.pool.submit("say z").await.expect("made");
    rig.pool.pause("maintenance").await.expect("set");
    assert!(matches!(rig.pool.submit("say a").await, Err(Error::Paused)));
    assert_eq!(rig.end(running).await.task.state, State::Succeeded);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        rig.pool.task(queued).await.expect("there").task.state,
        State::Queued
    );
    rig.pool.resume().await.expect("set");
    assert_eq!(rig.end(queued).await.task.state, State::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_budget_below_what_is_spent_lets_nothing_new_start() {
    let rig = rig(slots(1)).await;
    rig.pool.run("cost 500\nsay x").await.expect("ran");
    rig.pool
        .set_budget(Some(Microdollars(100)))
        .await
        .expect("set");
    assert!(matches!(
        rig.pool.submit("say y").await,
        Err(Error::BudgetExhausted)
    ));
    rig.pool.set_budget(None).await.expect("lifted");
    rig.pool.run("say y").await.expect("ran");
}

#[tokio::test(start_paused = true)]
async fn a_finished_task_is_done_again_by_a_retry() {
    let rig = rig(slots(1)).await;
    let id = rig.pool.submit("say x").await.expect("made");
    rig.end(id).await;
    let again = rig.pool.retry(id, None).await.expect("made");
    assert_ne!(again, id);
    assert_eq!(output(&rig.end(again).await), "x");
}

#[tokio::test(start_paused = true)]
async fn the_shared_context_reaches_the_next_attempt() {
    let rig = rig(slots(1)).await;
    rig.pool.run("say warm").await.expect("ran");
    rig.pool.set_context("team", "be kind").await.expect("set");
    let record = rig.pool.run("about").await.expect("ran");
    assert!(output(&record).contains("be kind"), "{}", output(&record));
    assert_eq!(record.task.context_revision, 1);
}

#[tokio::test(start_paused = true)]
async fn a_changed_context_finds_its_processes_started_ahead() {
    let rig = rig(Options {
        spares: 0,
        ..slots(1)
    })
    .await;
    rig.pool.run("say warm").await.expect("ran");
    let mut watch = rig
        .pool
        .watch_status(Duration::from_millis(100))
        .await
        .expect("watched");
    while watch.next().await.expect("told").slots_idle != 1 {}

    rig.pool.set_context("team", "be kind").await.expect("set");
    while rig.agent.launches() != 2 {
        watch.next().await.expect("told");
    }

    rig.pool.run("about").await.expect("ran");
    assert_eq!(rig.agent.launches(), 2, "the attempt itself started none");
}

#[tokio::test(start_paused = true)]
async fn the_queue_has_a_limit() {
    let rig = rig(Options {
        queue_max: 2,
        ..slots(1)
    })
    .await;
    let running = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(running).await;
    rig.pool.submit("say a").await.expect("made");
    rig.pool.submit("say b").await.expect("made");
    assert!(matches!(
        rig.pool.submit("say c").await,
        Err(Error::QueueFull)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_never_reserved_twice() {
    let rig = rig(Options {
        budget_usd: Some(0.6),
        ..slots(8)
    })
    .await;
    let settings = RunSettings {
        budget_microdollars: Some(500_000),
        ..RunSettings::default()
    };
    let specs = vec![work("cost 500000\ntool\nsay x", settings).spec; 10];
    let mut fan_out = rig.pool.fan_out(specs, None, false).await.expect("made");
    let mut ended = Vec::new();
    while let Some((_, record)) = fan_out.next().await.expect("readable") {
        ended.push(failure(&record));
    }
    let ran = ended
        .iter()
        .filter(|f| **f == FailureReason::Unspecified)
        .count();
    assert_eq!(ran, 1, "{ended:?}");
    let refused = ended
        .iter()
        .filter(|f| **f == FailureReason::BudgetExhausted)
        .count();
    assert_eq!(refused, 9);
    let status = rig.pool.status().await.expect("told");
    assert_eq!(
        (status.spent_microdollars, status.reserved_microdollars),
        (500_000, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn long_output_is_kept_whole_and_read_in_pieces() {
    let rig = rig(slots(1)).await;
    let long = "é".repeat(800_000);
    let id = rig.pool.submit(format!("say {long}")).await.expect("made");
    let record = rig.end(id).await;
    let result = record.result.expect("ended");
    assert!(result.output_truncated);
    assert_eq!(result.output_bytes, 1_600_000);
    let mut whole = String::new();
    loop {
        let piece = rig.pool.output(id, whole.len() as u64).await.expect("read");
        if piece.is_empty() {
            break;
        }
        whole.push_str(&piece);
    }
    assert_eq!(whole, long);
}

mod attached;
mod callers;
mod cancelling;
mod chains;
mod claims;
mod levels;
mod limits;
mod log;
mod money;
mod nodes;
mod outage;
mod retention;
mod slots;
mod stops;
