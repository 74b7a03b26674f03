//! Conversations, on paused time with the scripted agent.

use std::sync::Arc;
use std::time::Duration;

use super::INTERRUPTED;
use crate::agent::scripted::Scripted;
use crate::clock::Clock;
use crate::error::Error;
use crate::event;
use crate::id::{CallerId, TaskId};
use crate::pb::conversation::Kind;
use crate::pb::event::Kind as Event;
use crate::pb::{self, FailureReason, ProcessOrigin, RecoveryPolicy};
use crate::pool::{Options, Pool, Target, Work};
use crate::store::Store;
use crate::store::memory::Memory;
use crate::task::{Record, State};

struct Rig {
    pool: Pool,
    agent: Scripted,
}

async fn over(store: Arc<dyn Store>, agent: Scripted, options: Options) -> Rig {
    let pool = Pool::builder(agent.clone())
        .store(store)
        .options(options)
        .working_dir("/tmp")
        .clock(Clock::tokio())
        .build()
        .await
        .expect("built");
    Rig { pool, agent }
}

async fn rig(options: Options) -> Rig {
    over(Arc::new(Memory::new()), Scripted::default(), options).await
}

fn slots(slots: u32) -> Options {
    Options {
        slots,
        ..Options::default()
    }
}

fn part_of(kind: Kind, prompt: &str) -> Work {
    let mut work = Work::from(prompt);
    work.spec.conversation = Some(pb::Conversation { kind: Some(kind) });
    work
}

fn under(key: &str, prompt: &str) -> Work {
    let key = key.to_owned();
    part_of(
        Kind::ContinueConversation(pb::ContinueConversation { key }),
        prompt,
    )
}

fn resume(session_id: &str, prompt: &str) -> Work {
    let session_id = session_id.to_owned();
    part_of(
        Kind::ResumeSession(pb::ResumeSession { session_id }),
        prompt,
    )
}

fn recovered_by(policy: RecoveryPolicy, prompt: &str) -> Work {
    let mut work = Work::from(prompt);
    work.spec.recovery = policy as i32;
    work
}

fn output(record: &Record) -> &str {
    record.result.as_ref().map_or("", |result| &result.output)
}

fn session(record: &Record) -> &str {
    &record.task.session_id
}

fn failure(record: &Record) -> FailureReason {
    let failure = record.result.as_ref().and_then(|r| r.failure.as_ref());
    failure.map_or(FailureReason::Unspecified, |f| f.reason())
}

impl Rig {
    async fn run(&self, work: Work) -> Record {
        self.pool.run(work).await.expect("ran")
    }

    async fn submit(&self, work: Work) -> TaskId {
        self.pool.submit(work).await.expect("made")
    }

    async fn end(&self, id: TaskId) -> Record {
        let patience = Duration::from_secs(3600);
        self.pool.result(id, patience).await.expect("there")
    }

    async fn said(&self, id: TaskId) {
        let mut tail = self.pool.watch(id, 0).await.expect("there");
        while let Some(entry) = tail.next().await.expect("readable") {
            let kind = event::decode(&entry.bytes).and_then(|event| event.kind);
            if matches!(kind, Some(Event::TextDelta(_))) {
                return;
            }
        }
        panic!("the log ended without it");
    }

    async fn origin(&self, record: &Record) -> ProcessOrigin {
        let mut tail = self.pool.watch(record.task.id, 0).await.expect("there");
        let mut origin = ProcessOrigin::Unspecified;
        while let Some(entry) = tail.next().await.expect("readable") {
            let kind = event::decode(&entry.bytes).and_then(|event| event.kind);
            if let Some(Event::Finished(finished)) = kind {
                origin = finished.process_origin();
            }
        }
        origin
    }

    async fn refused(&self, caller: &str, work: Work) {
        let made = self.pool.for_caller(caller.into()).submit(work).await;
        match made {
            Err(Error::SessionUnusable { field }) => {
                assert_eq!(field, "task.conversation.resume_session.session_id");
            }
            other => panic!("not refused: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversation_goes_on_under_its_key_in_the_process_that_keeps_it() {
    let rig = rig(slots(3)).await;
    let first = rig.run(under("mine", "first")).await;
    rig.run("plain".into()).await;

    let second = rig.run(under("mine", "about")).await;

    assert!(output(&second).contains("first"), "{}", output(&second));
    assert!(!output(&second).contains("plain"));
    assert_eq!(session(&first), session(&second));
    assert_eq!(rig.origin(&second).await, ProcessOrigin::Kept);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_whose_process_was_needed_is_resumed() {
    let rig = rig(slots(1)).await;
    rig.run(under("mine", "first")).await;
    let plain = rig.run("about".into()).await;
    assert!(!output(&plain).contains("first"), "{}", output(&plain));

    let second = rig.run(under("mine", "about")).await;

    assert!(output(&second).contains("first"), "{}", output(&second));
    assert_eq!(rig.origin(&second).await, ProcessOrigin::Launch);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_whose_process_was_idle_for_long_is_resumed() {
    let rig = rig(slots(1)).await;
    rig.run(under("mine", "first")).await;
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;

    let second = rig.run(under("mine", "about")).await;

    assert!(output(&second).contains("first"), "{}", output(&second));
    assert_eq!(rig.origin(&second).await, ProcessOrigin::Launch);
}

#[tokio::test(start_paused = true)]
async fn keys_and_callers_have_conversations_of_their_own() {
    let rig = rig(slots(1)).await;
    rig.run(under("mine", "secret")).await;

    let other_key = rig.run(under("other", "about")).await;
    let bob = rig.pool.for_caller(CallerId::from("bob"));
    let bobs = bob.run(under("mine", "about")).await.expect("ran");

    for record in [other_key, bobs] {
        assert!(!output(&record).contains("secret"), "{}", output(&record));
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_key_run_one_at_a_time_in_order_and_block_no_other() {
    let rig = rig(slots(3)).await;
    let first = rig.submit(under("mine", "say x\nwait 5000")).await;
    let second = rig.submit(under("mine", "say y\nwait 5000")).await;
    let third = rig.submit(under("mine", "about")).await;

    rig.run("plain".into()).await;

    let states = [first, second, third].map(|id| rig.pool.task(id));
    let states = futures_util::future::join_all(states).await;
    let states: Vec<_> = states
        .into_iter()
        .map(|r| r.expect("there").task.state)
        .collect();
    assert_eq!(states, [State::Running, State::Queued, State::Queued]);
    let mut before = None;
    for id in [first, second, third] {
        let task = rig.end(id).await.task;
        assert!(before <= task.start_time, "they do not overlap");
        before = task.end_time;
    }
    let third = rig.end(third).await;
    assert!(output(&third).contains("say x") && output(&third).contains("say y"));
}

#[tokio::test(start_paused = true)]
async fn tasks_that_wait_for_a_key_go_on_in_the_process_that_keeps_it() {
    let rig = rig(slots(3)).await;
    let mut ids = Vec::new();
    for prompt in ["first\nwait 10", "second\nwait 10", "about"] {
        ids.push(rig.submit(under("mine", prompt)).await);
    }

    for id in &ids[1..] {
        let record = rig.end(*id).await;
        assert_eq!(rig.origin(&record).await, ProcessOrigin::Kept);
    }
    let last = rig.end(ids[2]).await;
    assert!(output(&last).contains("first") && output(&last).contains("second"));
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_session_has_gone_on_elsewhere_is_not_used_for_it() {
    let rig = rig(slots(2)).await;
    let first = rig.run(under("mine", "first")).await;
    let kept = first.task.slot.clone().expect("it ran");
    // Its slot is about to be idle when the next task comes: another one takes it.
    rig.pool
        .inner
        .slots
        .take_free(2)
        .into_iter()
        .for_each(|slot| {
            if slot.id != kept {
                slot.release(&rig.pool.inner);
            }
        });
    let second = rig.run(under("mine", "second")).await;
    assert_ne!(second.task.slot, first.task.slot);
    let other = second.task.slot.clone().expect("it ran");
    let slots = rig.pool.inner.slots.all();
    slots.iter().for_each(|slot| slot.release(&rig.pool.inner));
    rig.pool
        .inner
        .slots
        .take_free(2)
        .into_iter()
        .for_each(|slot| {
            if slot.id != other {
                slot.release(&rig.pool.inner);
            }
        });

    let third = rig.run(under("mine", "about")).await;

    assert_eq!(third.task.slot, first.task.slot);
    assert!(output(&third).contains("second"), "{}", output(&third));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_lets_the_next_of_its_key_run() {
    let rig = rig(slots(2)).await;
    let first = rig.submit(under("mine", "say x\nhang")).await;
    let second = rig.submit(under("mine", "say y")).await;
    let third = rig.submit(under("mine", "about")).await;
    rig.said(first).await;

    for id in [second, first] {
        rig.pool.cancel(Target::Task(id)).await.expect("cancelled");
    }

    let third = rig.end(third).await;
    assert_eq!(third.task.state, State::Succeeded);
    assert!(output(&third).contains("say x"), "{}", output(&third));
}

#[tokio::test(start_paused = true)]
async fn a_saved_session_is_resumed_by_its_caller_alone() {
    let rig = rig(slots(2)).await;
    let first = rig.run(under("mine", "first")).await;
    let id = session(&first);

    let resumed = rig.run(resume(id, "about")).await;

    assert!(output(&resumed).contains("first"), "{}", output(&resumed));
    assert_eq!(session(&resumed), id);
    rig.refused("bob", resume(id, "about")).await;
    rig.refused("", resume("unknown", "about")).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_is_resumed_by_one_task_at_a_time_also_under_its_key() {
    let rig = rig(slots(3)).await;
    let first = rig.run(under("mine", "first")).await;

    let running = rig
        .submit(resume(session(&first), "say x\nwait 5000"))
        .await;
    let waiting = rig.submit(under("mine", "about")).await;
    rig.said(running).await;

    let waits = rig.pool.task(waiting).await.expect("there").task.state;
    assert_eq!(waits, State::Queued);
    assert!(output(&rig.end(waiting).await).contains("say x"));
}

#[tokio::test(start_paused = true)]
async fn a_plain_task_leaves_a_session_only_if_the_operator_wants_it() {
    let sparing = rig(slots(1)).await;
    let record = sparing.run("first".into()).await;
    sparing.refused("", resume(session(&record), "about")).await;

    let saving = rig(Options {
        save_sessions: true,
        ..slots(1)
    })
    .await;
    let record = saving.run("first".into()).await;
    let resumed = saving.run(resume(session(&record), "about")).await;
    assert!(output(&resumed).contains("first"), "{}", output(&resumed));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_gone_fails_its_task_and_frees_its_key() {
    let rig = rig(slots(1)).await;
    let first = rig.run(under("mine", "first")).await;
    rig.run("evicts the kept process".into()).await;
    let by_id = rig.submit(resume(session(&first), "wait 1000")).await;
    let by_key = rig.submit(under("mine", "about")).await;
    rig.agent.lose_sessions();

    assert_eq!(
        failure(&rig.end(by_id).await),
        FailureReason::SessionUnusable
    );
    let fresh = rig.end(by_key).await;
    assert_eq!(fresh.task.state, State::Succeeded, "nothing is kept of it");
    rig.refused("", resume(session(&first), "about")).await;
    assert_ne!(session(&fresh), session(&first));
}

#[tokio::test(start_paused = true)]
async fn sessions_are_deleted_when_unused_for_long() {
    let rig = rig(Options {
        session_retention: Duration::from_secs(3600),
        ..slots(1)
    })
    .await;
    let record = rig.run(under("mine", "first")).await;
    assert_eq!(rig.agent.sessions(), [session(&record)]);
    tokio::time::sleep(Duration::from_secs(3000)).await;
    assert_eq!(rig.agent.sessions(), [session(&record)]);

    tokio::time::sleep(Duration::from_secs(1500)).await;

    assert!(rig.agent.sessions().is_empty());
    rig.refused("", resume(session(&record), "about")).await;
    let next = rig.run(under("mine", "about")).await;
    assert!(!output(&next).contains("first"), "{}", output(&next));
}

#[tokio::test(start_paused = true)]
async fn a_process_of_its_own_has_run_nothing_and_runs_nothing_more() {
    let rig = rig(slots(1)).await;
    rig.run("first".into()).await;
    let new_process = |prompt| part_of(Kind::NewProcess(pb::NewProcess {}), prompt);

    let own = rig.run(new_process("about")).await;
    let after = rig.run("about".into()).await;

    let origin = rig.origin(&own).await;
    assert!(
        matches!(origin, ProcessOrigin::Spare | ProcessOrigin::Launch),
        "{origin:?}"
    );
    assert!(!output(&own).contains("first"));
    assert_ne!(rig.origin(&after).await, ProcessOrigin::Reset);
}

/// Runs a server until `act` is over and kills it, then another over the same
/// store; gives the end of the task.
fn over_a_crash(
    work: Work,
    options: Options,
    act: impl AsyncFn(&Rig),
) -> (Rig, Record, tokio::runtime::Runtime) {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime")
    };
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let agent = Scripted::default();
    let first = runtime();
    let id = first.block_on(async {
        let rig = over(store.clone(), agent.clone(), options.clone()).await;
        let id = rig.submit(work).await;
        rig.said(id).await;
        act(&rig).await;
        id
    });
    drop(first);
    let second = runtime();
    let (rig, record) = second.block_on(async {
        let rig = over(store, agent, options).await;
        let record = rig.end(id).await;
        (rig, record)
    });
    (rig, record, second)
}

#[test]
fn after_a_crash_an_attempt_goes_on_with_the_interrupted_conversation() {
    for work in [
        recovered_by(RecoveryPolicy::Resume, "say x\nhang"),
        under("mine", "say x\nhang"),
    ] {
        let (rig, record, runtime) = over_a_crash(work, slots(1), async |_| {});

        assert_eq!(output(&record), INTERRUPTED);
        assert_eq!(record.task.attempt, 2);
        assert_eq!(rig.agent.sessions(), [session(&record)]);
        runtime.block_on(async {
            let resumed = rig.run(resume(session(&record), "about")).await;
            assert!(output(&resumed).contains("say x"), "{}", output(&resumed));
        });
    }
}

#[test]
fn what_a_drain_interrupts_goes_on_with_its_conversation() {
    let work = recovered_by(RecoveryPolicy::Resume, "say x\nhang");
    let (_rig, record, _runtime) = over_a_crash(work, slots(1), async |rig| {
        let drained = rig.pool.drain(Duration::from_secs(1)).await;
        assert_eq!(drained.expect("drained").tasks_left, 1);
    });

    assert_eq!(output(&record), INTERRUPTED);
    assert_eq!(record.task.burnt, 0);
}

#[test]
fn after_a_crash_an_attempt_starts_over_if_its_session_is_gone() {
    let work = recovered_by(RecoveryPolicy::Resume, "say x\nwait 1000");
    let (_rig, record, _runtime) = over_a_crash(work, slots(1), async |rig| {
        rig.agent.lose_sessions();
    });

    assert_eq!(output(&record), "x");
    assert_eq!(record.task.attempt, 2);
}

#[test]
fn a_task_that_saves_nothing_starts_over_after_a_crash() {
    let work = Work::from("say x\nwait 1000");
    let (rig, record, _runtime) = over_a_crash(work, slots(1), async |_| {});

    assert_eq!(output(&record), "x");
    assert!(rig.agent.sessions().is_empty());
}

#[test]
fn a_saved_task_that_says_restart_starts_over() {
    let work = recovered_by(RecoveryPolicy::Restart, "say x\nwait 1000");
    let options = Options {
        save_sessions: true,
        ..slots(1)
    };
    let (_rig, record, _runtime) = over_a_crash(work, options, async |_| {});

    assert_eq!(output(&record), "x");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_failed_is_tried_anew_and_not_gone_on_with() {
    let rig = rig(slots(1)).await;

    let record = rig
        .run(recovered_by(RecoveryPolicy::Resume, "fail 500"))
        .await;

    assert_eq!(record.task.state, State::Failed, "every try failed");
    assert!(record.task.attempt > 1);
    assert_eq!(rig.agent.sessions().len(), record.task.attempt as usize);
}
