//! Requests and their tombstones, deletion.

use std::sync::Arc;

use super::fixture::{
    at, commit_event, everything, made, queued, row, running, submit, success, sweep,
};
use crate::clock::Timestamp;
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::store::{Batch, Parts, Request, Store, StoreError};
use crate::task::Task;

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
    // The id is free again when it was swept: nothing of the old task shows.
    sweep(&*store).await;
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

pub(super) async fn requests_that_have_expired_are_forgotten_a_few_at_a_time(
    store: Arc<dyn Store>,
) {
    let tasks: Vec<Task> = (0..4).map(|_| requested()).collect();
    for (task, expires) in tasks.iter().zip([100, 100, 100, 200]) {
        let request = Request {
            expire_time: at(expires),
            ..request(task)
        };
        submit_with(&*store, request, std::slice::from_ref(task), at(0)).await;
    }

    let mut forgotten = Vec::new();
    for (now, limit) in [(100, 9), (101, 2), (101, 2), (101, 2), (200, 9), (201, 9)] {
        let some = store.expire_requests(at(now), limit).await;
        forgotten.push(some.expect("forgotten"));
    }

    assert_eq!(forgotten, [0, 2, 1, 0, 0, 1]);
    let known = tasks[3].request.expect("it has one");
    let found = store.request(&tasks[3].caller, known, at(0)).await;
    assert_eq!(found.expect("read"), None);
}
