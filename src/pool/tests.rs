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
async fn a_paused_pool_refuses_and_claims_nothing_until_it_is_resumed() {
    let rig = rig(slots(1)).await;
    let running = rig
        .pool
        .submit("say x\nwait 1000\nsay y")
        .await
        .expect("made");
    rig.said(running).await;
    let queued = rig.pool.submit("say z").await.expect("made");
    rig.pool.pause("maintenance");
    assert!(matches!(rig.pool.submit("say a").await, Err(Error::Paused)));
    assert_eq!(rig.end(running).await.task.state, State::Succeeded);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        rig.pool.task(queued).await.expect("there").task.state,
        State::Queued
    );
    rig.pool.resume();
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

mod chains;
mod limits;
mod log;
mod money;
mod outage;
mod retention;
