//! Letting go of what is old.

use std::sync::Arc;

use super::fixture::{
    at, batch, claim, commit_event, delta, ended, everything, fence, queued, row, running,
    snapshot, submit, submit_all, success, sweep,
};
use crate::id::{GroupId, TaskId};
use crate::store::{Note, Parts, Store, StoreError};
use crate::task::apply_chain::{ChainEvent, apply_chain};
use crate::task::{RANK_CHAIN, State, Task, TaskEvent};

const CANCEL: TaskEvent = TaskEvent::Cancel { by: "caller" };

async fn cancelled(store: &dyn Store, task: Task, seconds: i64) -> Task {
    let task = submit(store, task).await;
    commit_event(store, &task, CANCEL, at(seconds))
        .await
        .expect("cancelled");
    row(store, task.id).await
}

async fn outdated(store: &dyn Store, limits: &[(State, i64)], limit: usize) -> Vec<TaskId> {
    let limits: Vec<_> = limits.iter().map(|(state, s)| (*state, at(*s))).collect();
    let found = store.outdated(&limits, limit).await.expect("read");
    found.into_iter().map(|task| task.id).collect()
}

pub(super) async fn what_is_outdated_comes_by_state_and_the_earliest_end_first(
    store: Arc<dyn Store>,
) {
    let late = cancelled(&*store, queued(), 30).await;
    let early = cancelled(&*store, queued(), 10).await;
    let succeeded = ended(&*store, queued()).await;
    submit(&*store, queued()).await;

    let both = [(State::Succeeded, 3), (State::Cancelled, 31)];
    let all = outdated(&*store, &both, 9).await;
    assert_eq!(all, [succeeded.id, early.id, late.id]);
    assert_eq!(outdated(&*store, &both, 2).await, [succeeded.id, early.id]);
    let earlier = [(State::Succeeded, 2), (State::Cancelled, 30)];
    assert_eq!(outdated(&*store, &earlier, 9).await, [early.id]);
    assert_eq!(outdated(&*store, &[(State::Failed, 99)], 9).await, []);
}

pub(super) async fn a_member_is_kept_until_its_fan_out_has_ended(store: Arc<dyn Store>) {
    let group = Some(GroupId::new());
    let member = |place| Task {
        group,
        place,
        ..queued()
    };
    let last = submit(&*store, member(1)).await;
    let first = cancelled(&*store, member(0), 1).await;
    let limits = [(State::Cancelled, 99)];
    assert_eq!(outdated(&*store, &limits, 9).await, []);

    commit_event(&*store, &last, CANCEL, at(2))
        .await
        .expect("cancelled");

    assert_eq!(outdated(&*store, &limits, 9).await, [first.id, last.id]);
}

/// Ends a chain, whatever its steps do.
async fn end_chain(store: &dyn Store, chain: &Task) -> Task {
    let end = ChainEvent::Advance {
        steps: Vec::new(),
        end: Some((State::Cancelled, Box::default())),
    };
    let change = apply_chain(chain, end, at(1)).expect("it can end");
    store
        .commit(batch(change.into_iter().collect()))
        .await
        .expect("ended");
    row(store, chain.id).await
}

/// A chain and its step.
async fn chain(store: &dyn Store) -> (Task, Task) {
    let chain = Task {
        rank: RANK_CHAIN,
        ..queued()
    };
    let step = Task {
        parent: Some(chain.id),
        ..queued()
    };
    submit_all(store, &[chain.clone(), step.clone()]).await;
    (row(store, chain.id).await, row(store, step.id).await)
}

pub(super) async fn a_chain_goes_with_its_steps(store: Arc<dyn Store>) {
    let (chain, step) = chain(&*store).await;
    commit_event(&*store, &step, CANCEL, at(1))
        .await
        .expect("cancelled");
    let chain = end_chain(&*store, &chain).await;
    let limits = [(State::Cancelled, 99)];
    assert_eq!(outdated(&*store, &limits, 9).await, [chain.id]);

    let gone = store.delete(chain.id, chain.version).await;

    assert_eq!(gone.expect("deleted"), [chain.id, step.id]);
    assert_eq!(store.list(&everything()).await.expect("read"), []);
    assert_eq!(store.log(step.id, 0, 1000).await.expect("read"), []);
}

pub(super) async fn a_chain_whose_step_has_not_ended_is_not_deleted(store: Arc<dyn Store>) {
    let (chain, step) = chain(&*store).await;
    let chain = end_chain(&*store, &chain).await;

    let refused = store.delete(chain.id, chain.version).await;

    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    for id in [chain.id, step.id] {
        let record = store.record(id, Parts::ALL).await.expect("read");
        assert!(record.expect("there").spec.is_some());
    }
}

pub(super) async fn a_sweep_changes_nothing_that_is_seen(store: Arc<dyn Store>) {
    let long = running(&*store, queued()).await;
    for _ in 0..3 {
        let many = (0..200).map(|i| delta(&i.to_string())).collect();
        store
            .append(fence(&long), many, Note::default(), at(1))
            .await
            .expect("appended");
    }
    let whole = "x".repeat(5_000_000);
    commit_event(&*store, &long, success(&long, 9, Some(whole.into())), at(2))
        .await
        .expect("finished");
    let long = row(&*store, long.id).await;
    let other = ended(&*store, queued()).await;
    submit(&*store, queued()).await;
    store.delete(long.id, long.version).await.expect("deleted");
    let before = snapshot(&*store).await;

    loop {
        let more = store.sweep().await.expect("swept");
        assert_eq!(snapshot(&*store).await, before);
        assert_eq!(store.log(long.id, 0, 1000).await.expect("read"), []);
        assert_eq!(store.output(long.id, 0, 9).await.expect("read"), None);
        if !more {
            break;
        }
    }

    store.delete(other.id, other.version).await.expect("more");
    sweep(&*store).await;
    assert_eq!(claim(&*store, 9).await.tasks.len(), 1);
}

pub(super) async fn the_bytes_of_a_log_are_told(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;
    store
        .append(fence(&task), vec![delta("a")], Note::default(), at(1))
        .await
        .expect("appended");

    let log = store.log(task.id, 0, usize::MAX).await.expect("read");

    let bytes: usize = log.iter().map(|entry| entry.bytes.len()).sum();
    let told = store.log_bytes(task.id).await.expect("read");
    assert_eq!(told, bytes as u64);
    let absent = store.log_bytes(TaskId::new()).await.expect("read");
    assert_eq!(absent, 0);
}
