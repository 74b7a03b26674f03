//! Batches, requests, deletion.

use std::sync::Arc;

use super::fixture::{
    at, batch, commit_event, ended, everything, made, queued, row, running, spec, submit, success,
};
use crate::clock::Timestamp;
use crate::id::{CallerId, GroupId, NodeId, RequestId, SlotId, TaskId};
use crate::money::Microdollars;
use crate::store::{Batch, Parts, Request, Store, StoreError};
use crate::task::{Change, Lease, Recovery, Task, TaskEvent};

fn request(task: &Task) -> Request {
    Request {
        caller: task.caller.clone(),
        id: task.request.expect("the task has a request"),
        fingerprint: [7; 32],
        task: task.id,
        group: task.group,
        expire_time: at(100),
        deleted: false,
    }
}

fn requested() -> Task {
    Task {
        request: Some(RequestId::new()),
        ..queued()
    }
}

async fn submit_with(store: &dyn Store, request: Request, tasks: &[Task], now: Timestamp) {
    let batch = Batch {
        request: Some(request),
        changes: tasks.iter().cloned().map(made).collect(),
        now,
    };
    store.commit(batch).await.expect("a new request");
}

pub(super) async fn a_batch_is_committed_in_the_order_of_its_changes(store: Arc<dyn Store>) {
    let (first, second) = (queued(), queued());
    let changes = vec![made(second.clone()), made(first.clone())];

    let committed = store.commit(batch(changes)).await.expect("committed");

    let order: Vec<_> = committed.iter().map(|done| done.task).collect();
    assert_eq!(order, [second.id, first.id]);
    assert!(committed.iter().all(|done| done.entries.len() == 1));
    assert!(committed.iter().all(|done| done.state == first.state));
}

pub(super) async fn a_batch_whose_last_change_conflicts_leaves_nothing(store: Arc<dyn Store>) {
    let known = submit(&*store, queued()).await;
    let before = store.totals().await.expect("read");
    let new = queued();
    let mut renewed = Change::of(&known);
    renewed.events.push(super::fixture::delta("x"));
    renewed
        .ledger
        .push(crate::budget::Entry::Reserve(Microdollars(5)));
    let changes = vec![made(new.clone()), renewed, made(known.clone())];

    let refused = store.commit(batch(changes)).await;

    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    assert_eq!(store.record(new.id, Parts::ROW).await.expect("read"), None);
    assert_eq!(row(&*store, known.id).await, known);
    assert_eq!(store.log(known.id, 0, 1000).await.expect("read").len(), 1);
    assert_eq!(store.totals().await.expect("read"), before);
}

pub(super) async fn a_task_that_exists_is_not_made_again(store: Arc<dyn Store>) {
    let task = submit(&*store, queued()).await;

    let refused = store.commit(batch(vec![made(task.clone())])).await;

    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    assert_eq!(row(&*store, task.id).await, task);
}

pub(super) async fn a_change_of_an_older_version_conflicts(store: Arc<dyn Store>) {
    let read = submit(&*store, queued()).await;
    super::fixture::claim(&*store, 1).await;

    let late = commit_event(&*store, &read, TaskEvent::Cancel { by: "caller" }, at(1)).await;

    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    assert_eq!(row(&*store, read.id).await.version, read.version + 1);
}

pub(super) async fn a_change_of_an_absent_task_conflicts(store: Arc<dyn Store>) {
    let absent = queued();

    let refused = store.commit(batch(vec![Change::of(&absent)])).await;

    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    let found = store.record(absent.id, Parts::ALL).await.expect("read");
    assert_eq!(found, None);
}

pub(super) async fn a_batch_may_change_one_task_twice(store: Arc<dyn Store>) {
    let task = queued();
    let mut second = Change::of(&task);
    second.events.push(super::fixture::delta("x"));
    let changes = vec![made(task.clone()), second];

    let committed = store.commit(batch(changes)).await.expect("committed");

    assert_eq!(committed[1].entries[0].sequence, 2);
    let stored = row(&*store, task.id).await;
    assert_eq!((stored.version, stored.last_sequence), (2, 2));
}

pub(super) async fn what_was_asked_and_given_is_read_back_as_wanted(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;
    let early = store.record(task.id, Parts::ALL).await.expect("read");
    assert_eq!(early.expect("there").result, None, "no result yet");
    commit_event(&*store, &task, success(&task, 700, None), at(2))
        .await
        .expect("finished");

    let read = |parts| {
        let store = Arc::clone(&store);
        async move {
            let record = store.record(task.id, parts).await.expect("read");
            record.expect("there")
        }
    };

    let bare = read(Parts::ROW).await;
    assert!(bare.spec.is_none() && bare.result.is_none());
    let whole = read(Parts::ALL).await;
    assert_eq!(whole.spec, Some(spec("say hello")));
    let result = whole.result.expect("ended");
    assert_eq!((&*result.output, result.cost_microdollars), ("hello", 700));
    let answer = read(Parts::RESULT).await;
    assert_eq!((answer.spec, answer.result), (None, Some(result)));
}

pub(super) async fn fields_that_are_fixed_stay_as_first_written(store: Arc<dyn Store>) {
    let task = submit(&*store, queued()).await;
    let mut change = Change::of(&task);
    change.task.caller = CallerId::from("mallory");
    change.task.tags = vec!["new".to_owned()];
    change.task.group = Some(GroupId::new());
    change.task.parent = Some(TaskId::new());
    change.task.place = 9;
    change.task.create_time = at(9);
    change.task.last_sequence = 99;
    change.task.rank = 0;

    store.commit(batch(vec![change])).await.expect("committed");

    let expected = Task {
        version: task.version + 1,
        rank: 0,
        ..task
    };
    assert_eq!(row(&*store, expected.id).await, expected);
}

pub(super) async fn every_field_of_a_row_is_read_back(store: Arc<dyn Store>) {
    let mut task = Task {
        tags: vec!["a \"quoted\" one".to_owned(), "ünï".to_owned()],
        group: Some(GroupId::new()),
        parent: Some(TaskId::new()),
        place: 4,
        rank: 200,
        request: Some(RequestId::new()),
        ready_time: at(3),
        queue_deadline: Some(at(4)),
        attached: true,
        abandon_time: Some(at(5)),
        recovery: Recovery::Fail,
        version: 7,
        ..queued()
    };
    submit(&*store, task.clone()).await;
    task.last_sequence = 1;
    assert_eq!(row(&*store, task.id).await, task);

    let mut change = Change::of(&task);
    change.task = Task {
        version: 8,
        state: crate::task::State::Failed,
        start_time: Some(at(6)),
        end_time: Some(at(7)),
        attempt: 3,
        burnt: 2,
        slot: Some(SlotId::from("slot-5")),
        lease: Some(Lease {
            node: NodeId::from("node"),
            until: None,
        }),
        session_id: "session".to_owned(),
        context_revision: 12,
        budget: Microdollars(1),
        reserved: Microdollars(2),
        cost: Microdollars(3),
        attempt_cost: Microdollars(4),
        cost_estimated: true,
        recovery: Recovery::Resume,
        ..task
    };
    let expected = change.task.clone();
    store.commit(batch(vec![change])).await.expect("committed");
    assert_eq!(row(&*store, expected.id).await, expected);
}

pub(super) async fn a_request_makes_its_work_once(store: Arc<dyn Store>) {
    let task = requested();
    let made_once = request(&task);
    submit_with(
        &*store,
        made_once.clone(),
        std::slice::from_ref(&task),
        at(0),
    )
    .await;
    let repeat = Task {
        id: TaskId::new(),
        ..task.clone()
    };

    let again = store
        .commit(Batch {
            request: Some(request(&repeat)),
            changes: vec![made(repeat.clone())],
            now: at(100),
        })
        .await;

    let Err(StoreError::RequestExists(known)) = again else {
        panic!("a repeat must not be committed: {again:?}");
    };
    assert_eq!(*known, made_once);
    assert_eq!(
        store.record(repeat.id, Parts::ROW).await.expect("read"),
        None
    );
    let found = store.request(&task.caller, made_once.id, at(100)).await;
    assert_eq!(found.expect("read"), Some(made_once));
}

pub(super) async fn a_request_is_its_callers_own(store: Arc<dyn Store>) {
    let task = requested();
    submit_with(&*store, request(&task), std::slice::from_ref(&task), at(0)).await;
    let other = Task {
        id: TaskId::new(),
        caller: CallerId::from("bob"),
        ..task.clone()
    };

    let found = store.request(&other.caller, request(&task).id, at(0)).await;
    assert_eq!(found.expect("read"), None);
    submit_with(
        &*store,
        request(&other),
        std::slice::from_ref(&other),
        at(0),
    )
    .await;
}

pub(super) async fn a_request_that_has_expired_is_overwritten(store: Arc<dyn Store>) {
    let task = requested();
    submit_with(&*store, request(&task), std::slice::from_ref(&task), at(0)).await;
    let id = request(&task).id;
    let late = store.request(&task.caller, id, at(101)).await;
    assert_eq!(late.expect("read"), None, "it has expired");
    let new = Task {
        id: TaskId::new(),
        ..task
    };
    let anew = Request {
        expire_time: at(300),
        ..request(&new)
    };

    submit_with(&*store, anew.clone(), std::slice::from_ref(&new), at(101)).await;

    let found = store.request(&new.caller, id, at(200)).await;
    assert_eq!(found.expect("read"), Some(anew));
}

pub(super) async fn a_batch_that_conflicts_leaves_no_request(store: Arc<dyn Store>) {
    let known = submit(&*store, requested()).await;

    let refused = store
        .commit(Batch {
            request: Some(request(&known)),
            changes: vec![made(known.clone())],
            now: at(0),
        })
        .await;

    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    let found = store.request(&known.caller, request(&known).id, at(0));
    assert_eq!(found.await.expect("read"), None);
}

async fn run_to_the_end(store: &dyn Store, id: TaskId) -> Task {
    let claimed = super::fixture::claim(store, 10).await;
    for claimed in claimed.tasks {
        let done = success(&claimed.task, 1, None);
        let ended = commit_event(store, &claimed.task, done, at(1)).await;
        ended.expect("finished");
    }
    row(store, id).await
}

pub(super) async fn a_deleted_task_leaves_a_tombstone(store: Arc<dyn Store>) {
    let task = requested();
    let request = request(&task);
    submit_with(&*store, request.clone(), std::slice::from_ref(&task), at(0)).await;
    let task = run_to_the_end(&*store, task.id).await;

    store.delete(task.id, task.version).await.expect("deleted");

    let tombstone = Request {
        deleted: true,
        ..request
    };
    let found = store.request(&task.caller, tombstone.id, at(1)).await;
    assert_eq!(found.expect("read"), Some(tombstone.clone()));
    let again = Batch {
        request: Some(Request {
            deleted: false,
            ..tombstone.clone()
        }),
        changes: vec![made(queued())],
        now: at(1),
    };
    let refused = store.commit(again).await;
    assert!(
        matches!(&refused, Err(StoreError::RequestExists(known)) if **known == tombstone),
        "{refused:?}"
    );
}

pub(super) async fn a_task_of_an_overwritten_request_leaves_no_tombstone(store: Arc<dyn Store>) {
    let task = requested();
    submit_with(&*store, request(&task), std::slice::from_ref(&task), at(0)).await;
    let old = run_to_the_end(&*store, task.id).await;
    let new = Task {
        id: TaskId::new(),
        ..task
    };
    let anew = Request {
        expire_time: at(300),
        ..request(&new)
    };
    submit_with(&*store, anew.clone(), std::slice::from_ref(&new), at(101)).await;

    store.delete(old.id, old.version).await.expect("deleted");

    let found = store.request(&new.caller, anew.id, at(102)).await;
    assert_eq!(found.expect("read"), Some(anew));
}

pub(super) async fn a_deleted_member_makes_a_tombstone_of_its_fan_out(store: Arc<dyn Store>) {
    let first = Task {
        group: Some(GroupId::new()),
        ..requested()
    };
    let second = Task {
        id: TaskId::new(),
        place: 1,
        ..first.clone()
    };
    let request = request(&first);
    let members = [first, second];
    submit_with(&*store, request.clone(), &members, at(0)).await;
    let second = run_to_the_end(&*store, members[1].id).await;

    store
        .delete(second.id, second.version)
        .await
        .expect("deleted");

    let found = store.request(&request.caller, request.id, at(1)).await;
    assert!(found.expect("read").expect("remembered").deleted);
}

pub(super) async fn only_an_ended_task_at_its_version_is_deleted(store: Arc<dyn Store>) {
    let live = running(&*store, queued()).await;
    let refused = store.delete(live.id, live.version).await;
    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    commit_event(&*store, &live, success(&live, 1, None), at(1))
        .await
        .expect("finished");

    let late = store.delete(live.id, live.version).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    let absent = store.delete(TaskId::new(), 1).await;
    assert!(matches!(absent, Err(StoreError::Conflict)), "{absent:?}");

    let task = row(&*store, live.id).await;
    store.delete(task.id, task.version).await.expect("deleted");
    let again = store.delete(task.id, task.version).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
}

pub(super) async fn a_deleted_task_is_gone_from_everywhere(store: Arc<dyn Store>) {
    let task = Task {
        tags: vec!["red".to_owned()],
        group: Some(GroupId::new()),
        ..queued()
    };
    let task = running(&*store, task).await;
    let done = success(&task, 1, Some("the whole text".into()));
    commit_event(&*store, &task, done, at(1))
        .await
        .expect("finished");
    let task = row(&*store, task.id).await;

    store.delete(task.id, task.version).await.expect("deleted");

    assert_eq!(store.record(task.id, Parts::ALL).await.expect("read"), None);
    assert_eq!(store.log(task.id, 0, 1000).await.expect("read"), []);
    assert_eq!(store.output(task.id, 0, 9).await.expect("read"), None);
    assert_eq!(store.list(&everything()).await.expect("read"), []);
    let mut tagged = everything();
    tagged.filter.any_tags = task.tags.clone();
    assert_eq!(store.list(&tagged).await.expect("read"), []);
    let group = task.group.expect("it has one");
    assert_eq!(store.group(group, Parts::ROW).await.expect("read"), []);
    let totals = store.totals().await.expect("read");
    assert_eq!(totals.tasks.values().sum::<u64>(), 0);
    // The id is free again: nothing of the old task would show.
    let anew = submit(
        &*store,
        Task {
            id: task.id,
            ..queued()
        },
    )
    .await;
    assert_eq!(anew.last_sequence, 1);
}

pub(super) async fn a_large_batch_is_one_commit(store: Arc<dyn Store>) {
    let group = GroupId::new();
    let tasks: Vec<_> = (0..1_000)
        .map(|place| Task {
            group: Some(group),
            place,
            ..queued()
        })
        .collect();
    let mut changes: Vec<_> = tasks.iter().cloned().map(made).collect();
    changes.push(made(tasks[0].clone()));
    let refused = store.commit(batch(changes.clone())).await;
    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    assert_eq!(store.group(group, Parts::ROW).await.expect("read"), []);
    changes.pop();

    let committed = store.commit(batch(changes)).await.expect("committed");

    assert_eq!(committed.len(), tasks.len());
    let members = store.group(group, Parts::ALL).await.expect("read");
    assert!(
        members
            .iter()
            .map(|m| m.task.id)
            .eq(tasks.iter().map(|t| t.id))
    );
    // A task that has ended among them is found as any other.
    let one = ended(
        &*store,
        Task {
            rank: 0,
            ..queued()
        },
    )
    .await;
    assert!(one.state.is_end());
}
