//! Logs and outputs.

use std::sync::Arc;

use super::fixture::{
    at, batch, commit_event, delta, ended, fence, queued, row, running, submit, success,
};
use crate::event;
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::store::{Fence, Note, Store, StoreError};
use crate::task::{Change, TaskEvent};

pub(super) async fn sequences_are_dense_from_one_across_commits_and_appends(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;
    for piece in ["a", "b"] {
        let appended = store
            .append(
                fence(&task),
                vec![delta(piece), delta(piece)],
                Note::default(),
                at(1),
            )
            .await;
        assert_eq!(appended.expect("appended").entries.len(), 2);
    }
    let committed = commit_event(&*store, &task, success(&task, 1, None), at(2)).await;

    assert_eq!(committed.expect("committed")[0].entries[0].sequence, 7);
    let log = store.log(task.id, 0, usize::MAX).await.expect("read");
    let sequences: Vec<_> = log.iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6, 7]);
    for entry in &log {
        let event = event::decode(&entry.bytes).expect("it is an event");
        assert_eq!(event.sequence, entry.sequence);
    }
    assert_eq!(row(&*store, task.id).await.last_sequence, 7);
}

pub(super) async fn a_log_is_read_back_as_the_same_bytes(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;
    let appended = store
        .append(
            fence(&task),
            vec![delta("a"), delta("b")],
            Note::default(),
            at(1),
        )
        .await
        .expect("appended");

    let read = store.log(task.id, 2, usize::MAX).await.expect("read");
    assert_eq!(read, appended.entries);
    let rest = store.log(task.id, 3, usize::MAX).await.expect("read");
    assert_eq!(rest, appended.entries[1..]);
    for after in [4, 5, u64::MAX] {
        assert_eq!(store.log(task.id, after, 9).await.expect("read"), []);
    }
}

pub(super) async fn entries_are_dated_by_the_batch(store: Arc<dyn Store>) {
    let task = submit(&*store, queued()).await;
    let mut change = Change::of(&task);
    change.events.push(delta("a"));
    let mut later = batch(vec![change]);
    later.now = at(77);

    let committed = store.commit(later).await.expect("committed");

    let event = event::decode(&committed[0].entries[0].bytes).expect("an event");
    assert_eq!(event.time, Some(at(77).to_proto()));
    assert_eq!(event.kind, Some(delta("a")));
}

pub(super) async fn a_page_of_a_log_holds_at_least_one_entry(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;
    let events = vec![delta("abc"), delta("def"), delta("ghi")];
    let appended = store
        .append(fence(&task), events, Note::default(), at(1))
        .await;
    let size = appended.expect("appended").entries[0].bytes.len();

    for (bytes_max, entries) in [(0, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2)] {
        let page = store.log(task.id, 2, bytes_max).await.expect("read");
        assert_eq!(page.len(), entries, "of {bytes_max} bytes");
        assert_eq!(page[0].sequence, 3);
    }
}

async fn assert_fenced(store: &dyn Store, fence: Fence, why: &str) {
    let events: Vec<Kind> = vec![delta("late")];
    let refused = store
        .append(fence, events, Note::cost(Microdollars(9)), at(9))
        .await;
    assert!(
        matches!(refused, Err(StoreError::Fenced)),
        "{why}: {refused:?}"
    );
}

pub(super) async fn an_append_is_fenced_by_its_attempt(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;

    for attempt in [task.attempt - 1, task.attempt + 1] {
        let fence = Fence {
            attempt,
            ..fence(&task)
        };
        assert_fenced(&*store, fence, "another attempt").await;
    }
    let absent = fence(&queued());
    assert_fenced(&*store, absent, "no such task").await;
    assert_eq!(row(&*store, task.id).await, task, "nothing was written");
}

pub(super) async fn an_append_is_fenced_by_the_state(store: Arc<dyn Store>) {
    let task = submit(&*store, queued()).await;
    assert_fenced(&*store, fence(&task), "queued").await;
    let task = super::fixture::claim(&*store, 1).await.tasks.remove(0).task;
    let cancel = TaskEvent::Cancel { by: "caller" };
    commit_event(&*store, &task, cancel, at(1))
        .await
        .expect("cancelling");
    store
        .append(fence(&task), vec![delta("still")], Note::default(), at(1))
        .await
        .expect("it is being ended, and may still write");
    let task = row(&*store, task.id).await;
    commit_event(&*store, &task, success(&task, 1, None), at(2))
        .await
        .expect("ended");
    assert_fenced(&*store, fence(&task), "ended").await;
}

pub(super) async fn an_append_changes_no_version(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;

    let appended = store
        .append(
            fence(&task),
            vec![delta("a")],
            Note::cost(Microdollars(42)),
            at(1),
        )
        .await
        .expect("appended");

    assert_eq!((appended.task, appended.state), (task.id, task.state));
    let stored = row(&*store, task.id).await;
    assert_eq!(stored.version, task.version);
    assert_eq!(stored.attempt_cost, Microdollars(42));
    // A cost alone is noted too, and no cost leaves it.
    let noted = store.append(
        fence(&task),
        Vec::new(),
        Note::cost(Microdollars(50)),
        at(1),
    );
    assert_eq!(noted.await.expect("noted").entries, []);
    store
        .append(fence(&task), vec![delta("b")], Note::default(), at(1))
        .await
        .expect("appended");
    let stored = row(&*store, task.id).await;
    assert_eq!(stored.attempt_cost, Microdollars(50));
    // What was read before the appends can still be committed upon.
    commit_event(&*store, &task, success(&task, 60, None), at(2))
        .await
        .expect("no conflict");
}

pub(super) async fn a_commit_keeps_the_cost_that_appends_have_noted(store: Arc<dyn Store>) {
    let read = running(&*store, queued()).await;
    store
        .append(
            fence(&read),
            Vec::new(),
            Note::cost(Microdollars(42)),
            at(1),
        )
        .await
        .expect("noted");

    let cancel = TaskEvent::Cancel { by: "caller" };
    commit_event(&*store, &read, cancel, at(1))
        .await
        .expect("cancelling");

    let stored = row(&*store, read.id).await;
    assert_eq!(stored.attempt_cost, Microdollars(42));
    commit_event(&*store, &stored, success(&stored, 60, None), at(2))
        .await
        .expect("ended");
    let stored = row(&*store, read.id).await;
    assert_eq!(stored.attempt_cost, Microdollars::ZERO, "it is settled");
}

pub(super) async fn concurrent_appends_to_one_log_leave_no_gap(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (store, fence) = (Arc::clone(&store), fence(&task));
            tokio::spawn(async move {
                for _ in 0..10 {
                    let appended = store
                        .append(fence, vec![delta("x")], Note::default(), at(1))
                        .await;
                    appended.expect("appended");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("it wrote");
    }

    let log = store.log(task.id, 0, usize::MAX).await.expect("read");
    assert!(log.iter().map(|entry| entry.sequence).eq(1..=82));
}

pub(super) async fn an_output_is_read_in_pieces(store: Arc<dyn Store>) {
    let task = running(&*store, queued()).await;
    // Longer than any piece that a store is likely to keep it in, and uneven.
    let text: String = ('a'..='z').cycle().take(700_001).collect();
    let done = success(&task, 1, Some(text.as_str().into()));
    commit_event(&*store, &task, done, at(1))
        .await
        .expect("finished");

    let len = text.len();
    for (from, to) in [
        (0, 10),
        (262_140, 262_150),
        (262_144, 262_145),
        (100, 600_000),
        (0, len),
        (len - 1, len),
        (len, len),
    ] {
        let piece = store.output(task.id, from as u64, to - from).await;
        let piece = piece.expect("read").expect("it was kept");
        assert!(piece == text[from..to], "{from} to {to}");
    }
    let beyond = store.output(task.id, len as u64 - 1, 10).await;
    assert_eq!(beyond.expect("read").expect("kept").len(), 1);
    let after = store.output(task.id, u64::MAX, usize::MAX).await;
    assert_eq!(after.expect("read").expect("kept").len(), 0);
}

pub(super) async fn an_output_that_was_not_kept_apart_is_none(store: Arc<dyn Store>) {
    let task = ended(&*store, queued()).await;
    assert_eq!(store.output(task.id, 0, 10).await.expect("read"), None);
    let absent = queued().id;
    assert_eq!(store.output(absent, 0, 10).await.expect("read"), None);
    assert_eq!(store.log(absent, 0, 10).await.expect("read"), []);
}
