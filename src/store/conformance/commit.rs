//! Batches.

use std::sync::Arc;

use super::fixture::{
    at, batch, commit_event, ended, made, queued, row, running, snapshot, spec, submit, success,
};
use crate::id::{CallerId, ConversationId, GroupId, NodeId, RequestId, SlotId, TaskId};
use crate::money::Microdollars;
use crate::pb;
use crate::store::{Parts, Store, StoreError};
use crate::task::{Change, Lease, Level, Recovery, Task, TaskEvent};
use crate::trace::TraceContext;

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
    change.task.saves_session = true;
    change.task.node_label = Some("new".to_owned());
    change.task.level = Level(9);
    change.task.conversation = Some(ConversationId::of_key("new"));
    change.task.trace =
        TraceContext::from_stored("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=b");
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
        saves_session: true,
        home: Some(NodeId::from("node-1")),
        node_label: Some("gpu".to_owned()),
        level: Level(9),
        conversation: Some(ConversationId::of_key("a key")),
        trace: TraceContext::from_stored(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=b",
        ),
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
        usage: vec![pb::ModelUsage {
            model: "opus".to_owned(),
            input_tokens: 5,
            cost_microdollars: 3,
            ..pb::ModelUsage::default()
        }],
        session_offset: -6,
        recovery: Recovery::Resume,
        ..task
    };
    let expected = change.task.clone();
    store.commit(batch(vec![change])).await.expect("committed");
    assert_eq!(row(&*store, expected.id).await, expected);
}

pub(super) async fn a_probe_changes_nothing(store: Arc<dyn Store>) {
    ended(&*store, queued()).await;
    let before = snapshot(&*store).await;

    for thorough in [false, true] {
        store.probe(thorough).await.expect("it works");
    }

    assert_eq!(snapshot(&*store).await, before);
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
