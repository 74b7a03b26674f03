//! Conversations: one task at a time, and the sessions that tasks leave.

use std::sync::Arc;

use super::fixture::{
    at, claim, commit_event, delta, ended, fence, queued, row, running, submit, success, wish,
};
use crate::id::{CallerId, ConversationId, NodeId, SlotId, TaskId};
use crate::pb::{FailureReason, RequeueReason};
use crate::store::{Claimed, Note, SessionNote, SessionRef, Store};
use crate::task::apply::Requeue;
use crate::task::{Bill, SavedSession, Task, TaskEvent};

fn part_of(key: &str) -> Task {
    Task {
        saves_session: true,
        conversation: Some(ConversationId::of_key(key)),
        ..queued()
    }
}

fn ids(claimed: &Claimed) -> Vec<TaskId> {
    claimed.tasks.iter().map(|c| c.task.id).collect()
}

pub(super) async fn tasks_of_a_conversation_are_claimed_one_at_a_time_in_order(
    store: Arc<dyn Store>,
) {
    let first = submit(&*store, part_of("a")).await;
    let second = submit(&*store, part_of("a")).await;
    let other = submit(&*store, queued()).await;
    let of_another_caller = Task {
        caller: CallerId::from("bob"),
        ..part_of("a")
    };
    let bobs = submit(&*store, of_another_caller).await;

    let claimed = claim(&*store, 4).await;

    assert_eq!(ids(&claimed), [first.id, other.id, bobs.id]);
    assert!(claimed.waits_for_conversation);
    assert!(ids(&claim(&*store, 1).await).is_empty(), "it is under way");

    // One that was handed back stays before those that came later.
    let handed_back = TaskEvent::Requeue(Requeue {
        attempt: 1,
        reason: RequeueReason::Interrupted,
        burn: false,
        ready_time: at(5),
        bill: Bill::default(),
        failure_reason: FailureReason::Unspecified,
        message: String::new(),
    });
    let task = row(&*store, first.id).await;
    commit_event(&*store, &task, handed_back, at(1))
        .await
        .expect("handed back");
    assert!(ids(&claim(&*store, 1).await).is_empty(), "it is not ready");
    let again = store.claim(wish(2, at(5))).await.expect("it claims");
    assert_eq!(ids(&again), [first.id]);

    let task = row(&*store, first.id).await;
    commit_event(&*store, &task, success(&task, 1, None), at(6))
        .await
        .expect("finished");
    let claimed = claim(&*store, 2).await;
    assert_eq!(ids(&claimed), [second.id]);
    assert!(!claimed.waits_for_conversation);
}

pub(super) async fn a_slot_is_preferred_for_the_conversation_it_keeps(store: Arc<dyn Store>) {
    let other = submit(&*store, queued()).await;
    let ours = submit(&*store, part_of("a")).await;
    let mut wish = wish(3, at(0));
    let keeps = |key| (CallerId::from("alice"), ConversationId::of_key(key));
    wish.keeps = [
        (SlotId::from("slot-0"), keeps("b")),
        (SlotId::from("slot-1"), keeps("a")),
    ]
    .into();

    let claimed = store.claim(wish).await.expect("it claims");

    let pairs = claimed.tasks.iter().map(|c| (c.slot.0.as_str(), c.task.id));
    assert_eq!(
        pairs.collect::<Vec<_>>(),
        [("slot-1", ours.id), ("slot-2", other.id)]
    );
}

pub(super) async fn a_session_is_noted_while_its_attempt_goes_on(store: Arc<dyn Store>) {
    let read = running(&*store, part_of("a")).await;
    let note = Note {
        cost: None,
        session: Some(SessionNote {
            id: "session-7".to_owned(),
            offset: -7,
        }),
    };
    store
        .append(fence(&read), vec![delta("a")], note, at(1))
        .await
        .expect("noted");
    let cancel = TaskEvent::Cancel { by: "caller" };
    commit_event(&*store, &read, cancel, at(1))
        .await
        .expect("cancelling");

    let noted = row(&*store, read.id).await;
    assert_eq!(
        (noted.session_id.as_str(), noted.session_offset),
        ("session-7", -7)
    );
}

pub(super) async fn an_ended_task_that_saves_leaves_its_session(store: Arc<dyn Store>) {
    let (alice, bob) = (CallerId::from("alice"), CallerId::from("bob"));
    let by_id = SessionRef::Id("session".to_owned());
    let by_key = SessionRef::Conversation(ConversationId::of_key("a"));
    ended(&*store, queued()).await;
    assert_eq!(store.session(&alice, &by_id).await.expect("read"), None);

    ended(&*store, part_of("a")).await;

    let saved = SavedSession {
        id: "session".to_owned(),
        caller: alice.clone(),
        conversation: Some(ConversationId::of_key("a")),
        used_time: at(2),
        node: Some(NodeId::from("node")),
    };
    for which in [&by_id, &by_key] {
        let found = store.session(&alice, which).await.expect("read");
        assert_eq!(found.as_ref(), Some(&saved), "{which:?}");
        assert_eq!(store.session(&bob, which).await.expect("read"), None);
    }
    store.forget_session("session").await.expect("forgotten");
    store.forget_session("session").await.expect("harmless");
    assert_eq!(store.session(&alice, &by_key).await.expect("read"), None);
}

pub(super) async fn a_session_expires_when_no_task_needs_it(store: Arc<dyn Store>) {
    ended(&*store, part_of("a")).await;
    let expired = async |before| store.expire_sessions(at(before), 9).await.expect("expired");
    let none: [String; 0] = [];
    assert_eq!(expired(2).await, none, "it was used later");

    let waiting = submit(&*store, part_of("a")).await;
    assert_eq!(expired(3).await, none, "a task goes on with it");

    let cancel = TaskEvent::Cancel { by: "caller" };
    commit_event(&*store, &waiting, cancel, at(3))
        .await
        .expect("cancelled");
    assert_eq!(expired(3).await, ["session"]);
    assert_eq!(expired(3).await, none, "it is forgotten");
}
