//! The queue: claims and due times.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fixture::{
    at, claim, commit_event, ended, queued, row, running, spec, submit, submit_all, wish,
};
use crate::clock::Timestamp;
use crate::event;
use crate::id::{NodeId, SlotId, TaskId};
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::pb::{FailureReason, RequeueReason};
use crate::store::{ClaimRequest, Claimed, Due, Store};
use crate::task::apply::Requeue;
use crate::task::{Bill, Lease, Level, State, Task, TaskEvent};

fn ids(claimed: &Claimed) -> Vec<TaskId> {
    claimed
        .tasks
        .iter()
        .map(|claimed| claimed.task.id)
        .collect()
}

fn ready(rank: u8, ready_time: Timestamp) -> Task {
    Task {
        rank,
        ready_time,
        ..queued()
    }
}

pub(super) async fn claims_follow_rank_then_ready_time_then_id(store: Arc<dyn Store>) {
    let last = ready(2, at(-9));
    let late = ready(1, at(-1));
    let (older, younger) = (ready(1, at(-5)), ready(1, at(-5)));
    let first = ready(0, at(0));
    let expected = [first.id, older.id, younger.id, late.id, last.id];
    submit_all(&*store, &[younger, last, first, late, older]).await;

    let some = claim(&*store, 2).await;
    let rest = claim(&*store, 9).await;

    assert_eq!([ids(&some), ids(&rest)].concat(), expected);
    let slots: Vec<_> = rest.tasks.iter().map(|c| c.slot.0.as_str()).collect();
    assert_eq!(slots, ["slot-0", "slot-1", "slot-2"]);
}

pub(super) async fn a_task_that_is_not_ready_is_left_and_announced(store: Arc<dyn Store>) {
    let (now, soon, later) = (ready(1, at(10)), ready(1, at(12)), ready(0, at(15)));
    let expected = now.id;
    submit_all(&*store, &[later, soon, now]).await;

    let early = store.claim(wish(9, at(9))).await.expect("it claims");
    assert_eq!((ids(&early), early.next_ready), (vec![], Some(at(10))));
    let claimed = store.claim(wish(9, at(10))).await.expect("it claims");
    assert_eq!(ids(&claimed), [expected], "ready at its very time");
    assert_eq!(claimed.next_ready, Some(at(12)));
    let rest = store.claim(wish(9, at(99))).await.expect("it claims");
    assert_eq!((rest.tasks.len(), rest.next_ready), (2, None));
}

pub(super) async fn a_claim_starts_reserves_and_marks_the_row(store: Arc<dyn Store>) {
    let task = submit(&*store, queued()).await;

    let claimed = store.claim(wish(1, at(4))).await.expect("it claims");

    let [claimed] = &claimed.tasks[..] else {
        panic!("one task is claimed: {claimed:?}");
    };
    // A shared store's own clock says until when.
    let until = claimed.task.lease.as_ref().and_then(|lease| lease.until);
    let expected = Task {
        version: task.version + 1,
        state: State::Running,
        attempt: 1,
        start_time: Some(at(4)),
        slot: Some(SlotId::from("slot-0")),
        lease: Some(Lease {
            node: NodeId::from("node"),
            until: Some(until.expect("it holds for a while")),
        }),
        context_revision: 3,
        reserved: task.budget,
        last_sequence: 2,
        ..task
    };
    assert_eq!(claimed.task, expected);
    assert_eq!(row(&*store, expected.id).await, expected);
    let totals = store.totals().await.expect("read");
    assert_eq!(totals.funds.reserved, expected.budget);
    let log = store.log(expected.id, 1, 1000).await.expect("read");
    assert_eq!(log, claimed.committed.entries);
    assert_eq!(claimed.committed.state, State::Running);
    let event = event::decode(&log[0].bytes).expect("an event");
    assert_eq!(event.time, Some(at(4).to_proto()));
    assert!(matches!(event.kind, Some(Kind::Started(_))));
}

pub(super) async fn a_claim_gives_what_is_to_be_done(store: Arc<dyn Store>) {
    submit(&*store, queued()).await;
    let claimed = claim(&*store, 1).await;
    assert_eq!(claimed.tasks[0].spec, spec("say hello"));
}

pub(super) async fn a_claim_without_slots_takes_nothing(store: Arc<dyn Store>) {
    submit_all(&*store, &[queued(), ready(1, at(5))]).await;
    let claimed = claim(&*store, 0).await;
    assert!(claimed.tasks.is_empty());
    assert_eq!(claimed.next_ready, Some(at(5)), "but tells when to come");
}

pub(super) async fn a_task_that_was_handed_back_is_claimed_again(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;
    let requeue = TaskEvent::Requeue(Requeue {
        attempt: 1,
        reason: RequeueReason::Interrupted,
        burn: false,
        ready_time: at(20),
        bill: Bill::estimate(Microdollars(400)),
        failure_reason: FailureReason::Unspecified,
        message: String::new(),
    });
    commit_event(&*store, &task, requeue, at(10))
        .await
        .expect("handed back");

    let early = claim(&*store, 1).await;
    assert_eq!((ids(&early), early.next_ready), (vec![], Some(at(20))));
    let again = store.claim(wish(1, at(20))).await.expect("it claims");
    assert_eq!(again.tasks[0].task.attempt, 2);
    let reserved = again.tasks[0].task.reserved;
    assert_eq!(reserved, Microdollars(9_600), "what is left of its budget");
}

pub(super) async fn concurrent_claims_never_give_one_task_twice(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..60).map(|_| queued()).collect();
    submit_all(&*store, &tasks).await;
    let claimers: Vec<_> = (0..10)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for _ in 0..3 {
                    mine.extend(ids(&claim(&*store, 3).await));
                }
                mine
            })
        })
        .collect();

    let mut given = Vec::new();
    for claimer in claimers {
        given.extend(claimer.await.expect("it claimed"));
    }

    assert_eq!(given.len(), tasks.len(), "every task was given");
    let distinct: BTreeSet<_> = given.into_iter().collect();
    assert_eq!(distinct.len(), tasks.len(), "and none twice");
}

/// A level above that of today's programs.
const NEWER: Level = Level(Level::OWN.0 + 1);

pub(super) async fn a_task_that_needs_more_is_left_to_who_knows_it(store: Arc<dyn Store>) {
    let needs_more = Task {
        level: NEWER,
        ..ready(0, at(-9))
    };
    let (newer, own) = (needs_more.id, queued());
    submit_all(&*store, &[needs_more, own.clone()]).await;

    let claimed = claim(&*store, 9).await;

    assert_eq!(ids(&claimed), [own.id]);
    assert!(!claimed.waits_for_budget && claimed.unaffordable.is_empty());
    assert_eq!(claimed.next_ready, None);
    assert_eq!(row(&*store, newer).await.state, State::Queued);
    // It is what it is for everybody else.
    let knows = ClaimRequest {
        level: NEWER,
        ..wish(9, at(0))
    };
    let claimed = store.claim(knows).await.expect("it claims");
    assert_eq!(ids(&claimed), [newer]);
    assert_eq!(claimed.tasks[0].task.level, NEWER);
}

pub(super) async fn a_step_that_needs_more_is_due_for_who_knows_it(store: Arc<dyn Store>) {
    let late = || Task {
        queue_deadline: Some(at(1)),
        level: NEWER,
        ..queued()
    };
    let alone = submit(&*store, late()).await;
    let step = Task {
        parent: Some(TaskId::new()),
        ..late()
    };
    let step = submit(&*store, step).await;
    let due = async |level| {
        let due = store.due(at(2), level, 9).await.expect("read");
        let ids = due.tasks.iter().map(|task| task.id);
        ids.collect::<Vec<_>>()
    };

    // What ends nothing but itself is ended by its row alone.
    assert_eq!(due(Level::OWN).await, [alone.id]);
    assert_eq!(due(NEWER).await, [alone.id, step.id]);
}

pub(super) async fn due_tasks_come_oldest_first_and_the_next_is_announced(store: Arc<dyn Store>) {
    let waits = |deadline| Task {
        queue_deadline: Some(deadline),
        ..queued()
    };
    let (second, first, third) = (waits(at(7)), waits(at(5)), waits(at(9)));
    let abandoned = Task {
        attached: true,
        abandon_time: Some(at(6)),
        queue_deadline: Some(at(8)),
        ..queued()
    };
    submit_all(
        &*store,
        &[
            queued(),
            second.clone(),
            first.clone(),
            third,
            abandoned.clone(),
        ],
    )
    .await;

    let due = store.due(at(7), Level::OWN, 9).await.expect("read");
    let order: Vec<_> = due.tasks.iter().map(|task| task.id).collect();
    assert_eq!(order, [first.id, abandoned.id, second.id]);
    assert_eq!(due.tasks[0], row(&*store, first.id).await);
    assert_eq!(due.next, Some(at(9)));
    let some = store.due(at(7), Level::OWN, 1).await.expect("read");
    assert_eq!(some.tasks, due.tasks[..1]);
    assert_eq!(some.next, Some(at(9)));
    let none = store.due(at(4), Level::OWN, 9).await.expect("read");
    assert_eq!((none.tasks.len(), none.next), (0, Some(at(5))));
    let all = store.due(at(99), Level::OWN, 9).await.expect("read");
    assert_eq!((all.tasks.len(), all.next), (4, None));
}

pub(super) async fn a_task_that_has_ended_is_never_due(store: Arc<dyn Store>) {
    let task = Task {
        attached: true,
        abandon_time: Some(at(5)),
        queue_deadline: Some(at(3)),
        ..queued()
    };
    let running = running(&*store, task).await;
    let due = store.due(at(4), Level::OWN, 9).await.expect("read");
    assert_eq!(due.tasks, [], "its deadline was for the queue");
    assert_eq!(due.next, Some(at(5)));
    let done = super::fixture::success(&running, 1, None);
    commit_event(&*store, &running, done, at(4))
        .await
        .expect("finished");
    ended(&*store, queued()).await;

    assert_eq!(
        store.due(at(99), Level::OWN, 9).await.expect("read"),
        Due::default()
    );
}
