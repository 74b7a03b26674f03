//! Budget, funds, shared context, the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fixture::{
    at, batch, claim, commit_event, ended, everything, made, queued, row, running, submit_all,
    success,
};
use crate::budget::Funds;
use crate::money::Microdollars;
use crate::store::{Context, ContextValue, Parts, Store, StoreError};
use crate::task::apply::Claim;
use crate::task::{Task, TaskEvent, apply};

fn costing(budget: i64) -> Task {
    Task {
        budget: Microdollars(budget),
        ..queued()
    }
}

async fn limit(store: &dyn Store, limit: i64) {
    store
        .set_budget(Some(Microdollars(limit)))
        .await
        .expect("set");
}

async fn funds(store: &dyn Store) -> Funds {
    store.totals().await.expect("read").funds
}

pub(super) async fn a_claim_is_covered_by_the_budget(store: Arc<dyn Store>) {
    limit(&*store, 100).await;
    let tasks = [costing(40), costing(60), costing(0), costing(1)];
    submit_all(&*store, &tasks).await;

    let claimed = claim(&*store, 9).await;

    let ids: Vec<_> = claimed.tasks.iter().map(|c| c.task.id).collect();
    assert_eq!(ids, [tasks[0].id, tasks[1].id, tasks[2].id]);
    assert!(claimed.waits_for_budget);
    assert!(claimed.unaffordable.is_empty());
    assert_eq!(funds(&*store).await.reserved, Microdollars(100));
}

pub(super) async fn a_task_above_the_budget_lets_smaller_ones_pass(store: Arc<dyn Store>) {
    limit(&*store, 100).await;
    let large = costing(101);
    let small = costing(10);
    submit_all(&*store, &[large.clone(), small.clone()]).await;

    let claimed = claim(&*store, 1).await;

    assert_eq!(claimed.tasks[0].task.id, small.id);
    assert_eq!(claimed.tasks[0].slot.0, "slot-0");
    assert!(claimed.waits_for_budget);
    let left = row(&*store, large.id).await;
    assert_eq!((left.version, left.attempt), (1, 0), "it was not touched");
}

pub(super) async fn nothing_is_unaffordable_while_something_is_reserved(store: Arc<dyn Store>) {
    limit(&*store, 100).await;
    let small = running(&*store, costing(10)).await;
    submit_all(&*store, &[costing(101)]).await;

    let claimed = claim(&*store, 1).await;
    assert!(claimed.tasks.is_empty() && claimed.unaffordable.is_empty());
    assert!(claimed.waits_for_budget);

    commit_event(&*store, &small, success(&small, 5, None), at(1))
        .await
        .expect("finished");
    let claimed = claim(&*store, 1).await;
    assert_eq!(claimed.unaffordable.len(), 1);
    assert!(!claimed.waits_for_budget);
}

pub(super) async fn what_can_never_be_paid_is_unaffordable(store: Arc<dyn Store>) {
    limit(&*store, 100).await;
    let (first, second) = (costing(101), costing(500));
    submit_all(&*store, &[first.clone(), second.clone()]).await;

    let claimed = claim(&*store, 1).await;

    let ids: Vec<_> = claimed.unaffordable.iter().map(|task| task.id).collect();
    assert_eq!(ids, [first.id, second.id]);
    assert_eq!(claimed.unaffordable[0], row(&*store, first.id).await);
    limit(&*store, 101).await;
    assert_eq!(claim(&*store, 1).await.tasks[0].task.id, first.id);
}

pub(super) async fn funds_follow_reservation_and_settlement(store: Arc<dyn Store>) {
    limit(&*store, 1_000).await;
    let task = running(&*store, costing(100)).await;
    let reserved = Funds {
        spent: Microdollars::ZERO,
        reserved: Microdollars(100),
        limit: Some(Microdollars(1_000)),
    };
    assert_eq!(funds(&*store).await, reserved);

    // More than was reserved: an overrun is booked as what it is.
    commit_event(&*store, &task, success(&task, 130, None), at(1))
        .await
        .expect("finished");

    let settled = Funds {
        spent: Microdollars(130),
        reserved: Microdollars::ZERO,
        limit: Some(Microdollars(1_000)),
    };
    assert_eq!(funds(&*store).await, settled);
    let cancelled = running(&*store, costing(50)).await;
    let cancel = TaskEvent::Cancel { by: "caller" };
    commit_event(&*store, &cancelled, cancel, at(2))
        .await
        .expect("cancelling");
    assert_eq!(funds(&*store).await.reserved, Microdollars(50));
    let cancelled = row(&*store, cancelled.id).await;
    commit_event(&*store, &cancelled, success(&cancelled, 20, None), at(3))
        .await
        .expect("cancelled");
    assert_eq!(funds(&*store).await.spent, Microdollars(150));
}

pub(super) async fn a_reservation_that_is_not_covered_leaves_nothing(store: Arc<dyn Store>) {
    limit(&*store, 100).await;
    let claimed = |task: &Task| {
        let claim = TaskEvent::Claim(Claim {
            slot: "slot-0".into(),
            node: "node".into(),
            lease_until: None,
            context_revision: 0,
        });
        let claimed = apply(task, claim, at(0)).expect("it is queued");
        made(task.clone()).then(claimed.expect("it changes"))
    };
    let (fits, not) = (costing(60), costing(41));

    let both = batch(vec![claimed(&fits), claimed(&not)]);
    let refused = store.commit(both).await;

    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    let absent = store.record(fits.id, Parts::ROW).await.expect("read");
    assert_eq!((absent, funds(&*store).await.reserved.0), (None, 0));
    let one = batch(vec![claimed(&fits)]);
    store.commit(one).await.expect("it is covered");
    assert_eq!(funds(&*store).await.reserved, Microdollars(60));
}

pub(super) async fn a_correction_is_spent_and_kept(store: Arc<dyn Store>) {
    let task = running(&*store, costing(100)).await;
    let TaskEvent::Finish(mut outcome) = success(&task, 30, None) else {
        panic!("it finishes");
    };
    outcome.bill.correction = Microdollars(12);
    let done = TaskEvent::Finish(outcome);

    commit_event(&*store, &task, done, at(1))
        .await
        .expect("finished");

    let expected = Funds {
        spent: Microdollars(42),
        ..Funds::default()
    };
    assert_eq!(funds(&*store).await, expected);
    assert_eq!(row(&*store, task.id).await.cost, Microdollars(42));
}

pub(super) async fn the_budget_is_set_and_lifted(store: Arc<dyn Store>) {
    assert_eq!(funds(&*store).await, Funds::default());
    let set = store.set_budget(Some(Microdollars(5))).await.expect("set");
    assert_eq!(set.limit, Some(Microdollars(5)));
    assert_eq!(funds(&*store).await, set);
    let lifted = store.set_budget(None).await.expect("set");
    assert_eq!(lifted, Funds::default());
    submit_all(&*store, &[costing(i64::MAX)]).await;
    assert_eq!(claim(&*store, 1).await.tasks.len(), 1, "no limit");
}

pub(super) async fn money_spent_stays_spent_when_its_task_is_deleted(store: Arc<dyn Store>) {
    let task = ended(&*store, queued()).await;
    store.delete(task.id, task.version).await.expect("deleted");
    assert_eq!(funds(&*store).await.spent, Microdollars(700));
}

pub(super) async fn the_context_is_changed_at_its_revision_only(store: Arc<dyn Store>) {
    assert_eq!(store.context().await.expect("read"), Context::default());
    let set = store.set_context(0, "b", Some("1"), at(1)).await;
    assert_eq!(set.expect("set"), 1);
    let late = store.set_context(0, "b", Some("2"), at(2)).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    let early = store.set_context(2, "b", None, at(2)).await;
    assert!(matches!(early, Err(StoreError::Conflict)), "{early:?}");
    assert_eq!(store.context().await.expect("read").entries["b"].value, "1");
    let removed = store.set_context(1, "b", None, at(2)).await;
    assert_eq!(removed.expect("removed"), 2);
    let context = store.context().await.expect("read");
    assert_eq!((context.revision, context.entries.len()), (2, 0));
}

pub(super) async fn the_context_is_read_sorted_and_dated(store: Arc<dyn Store>) {
    for (revision, key) in (0..).zip(["b", "ä", "a", "b"]) {
        let value = format!("{key}{revision}");
        let time = at(i64::try_from(revision).expect("small"));
        store
            .set_context(revision, key, Some(&value), time)
            .await
            .expect("set");
    }
    let value = |value: &str, seconds| ContextValue {
        value: value.to_owned(),
        update_time: at(seconds),
    };
    let expected = Context {
        revision: 4,
        entries: BTreeMap::from([
            ("a".to_owned(), value("a2", 2)),
            ("b".to_owned(), value("b3", 3)),
            ("ä".to_owned(), value("ä1", 1)),
        ]),
    };
    assert_eq!(store.context().await.expect("read"), expected);
}

pub(super) async fn a_closed_store_is_unavailable(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;
    store.close().await;
    store.close().await;

    let written = store.commit(batch(vec![made(queued())])).await.map(drop);
    let read = store.record(task.id, Parts::ROW).await.map(drop);
    let listed = store.list(&everything()).await.map(drop);
    for outcome in [written, read, listed] {
        assert!(
            matches!(outcome, Err(StoreError::Unavailable(_))),
            "{outcome:?}"
        );
    }
}
