//! Lists, groups, totals.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fixture::{at, claim, commit_event, everything, queued, submit, submit_all, success};
use crate::id::{CallerId, GroupId, SlotId, TaskId};
use crate::store::{Filter, Parts, Query, Store};
use crate::task::{State, Task, TaskEvent};

async fn listed(store: &dyn Store, query: &Query) -> Vec<TaskId> {
    let records = store.list(query).await.expect("read");
    records.into_iter().map(|record| record.task.id).collect()
}

/// Tasks that differ in everything that a list can be restricted by; the last
/// is a step. Some have run.
async fn mixed(store: &dyn Store) -> Vec<TaskId> {
    let tag = |tag: &str| vec![tag.to_owned(), "all".to_owned()];
    let plain = queued();
    let parent = plain.id;
    let bobs = Task {
        caller: CallerId::from("bob"),
        tags: tag("red"),
        create_time: at(10),
        ..queued()
    };
    let grouped = Task {
        group: Some(GroupId::new()),
        tags: tag("blue"),
        create_time: at(20),
        ready_time: at(50),
        ..queued()
    };
    let other = Task {
        tags: tag("blue"),
        create_time: at(30),
        ready_time: at(50),
        ..queued()
    };
    let step = Task {
        parent: Some(parent),
        create_time: at(40),
        ready_time: at(50),
        ..queued()
    };
    let tasks = [plain, bobs, grouped, other, step];
    submit_all(store, &tasks).await;
    // The first two run, on slot-0 and slot-1; the second ends.
    let claimed = claim(store, 2).await;
    let second = &claimed.tasks[1].task;
    commit_event(store, second, success(second, 1, None), at(1))
        .await
        .expect("finished");
    tasks.iter().map(|task| task.id).collect()
}

pub(super) async fn the_newest_task_is_listed_first(store: Arc<dyn Store>) {
    let ids = mixed(&*store).await;
    let newest_first: Vec<_> = ids.iter().rev().copied().collect();
    assert_eq!(listed(&*store, &everything()).await, newest_first);
    let mut whole = everything();
    whole.parts = Parts::ALL;
    let records = store.list(&whole).await.expect("read");
    assert!(records.iter().all(|record| record.spec.is_some()));
    let ended = |record: &&crate::task::Record| record.result.is_some();
    assert_eq!(records.iter().filter(ended).count(), 1);
}

pub(super) async fn pages_meet_without_gap_or_overlap(store: Arc<dyn Store>) {
    let ids = mixed(&*store).await;
    for caller in [None, Some(CallerId::from("alice"))] {
        let mut query = everything();
        query.filter.caller = caller;
        let whole = listed(&*store, &query).await;
        query.limit = 2;
        let mut pages = Vec::new();
        loop {
            let page = listed(&*store, &query).await;
            let Some(last) = page.last() else { break };
            query.before = Some(*last);
            pages.extend(page);
        }
        assert_eq!(pages, whole);
    }
    let mut first = everything();
    first.before = Some(ids[0]);
    assert_eq!(listed(&*store, &first).await, []);
}

pub(super) async fn each_filter_restricts_the_list(store: Arc<dyn Store>) {
    let ids = mixed(&*store).await;
    let group = store.record(ids[2], Parts::ROW).await.expect("read");
    let group = group.expect("there").task.group;
    let any = || everything().filter;
    let tags = |tags: &[&str]| tags.iter().map(|&tag| tag.to_owned()).collect();
    #[rustfmt::skip]
    let cases: Vec<(Filter, &[usize])> = vec![
        (Filter { caller: Some(CallerId::from("alice")), ..any() }, &[4, 3, 2, 0]),
        (Filter { caller: Some(CallerId::from("bob")), ..any() }, &[1]),
        (Filter { caller: Some(CallerId::from("eve")), ..any() }, &[]),
        (Filter { states: vec![State::Queued], ..any() }, &[4, 3, 2]),
        (Filter { states: vec![State::Running, State::Succeeded], ..any() }, &[1, 0]),
        (Filter { states: vec![State::Running, State::Queued], ..any() }, &[4, 3, 2, 0]),
        (Filter { states: vec![State::Failed], ..any() }, &[]),
        (Filter { slot: Some(SlotId::from("slot-1")), ..any() }, &[1]),
        (Filter { any_tags: tags(&["red"]), ..any() }, &[1]),
        (Filter { any_tags: tags(&["blue", "red"]), ..any() }, &[3, 2, 1]),
        (Filter { any_tags: tags(&["all", "red"]), ..any() }, &[3, 2, 1]),
        (Filter { any_tags: tags(&["none"]), ..any() }, &[]),
        (Filter { created_from: Some(at(20)), ..any() }, &[4, 3, 2]),
        (Filter { created_before: Some(at(20)), ..any() }, &[1, 0]),
        (Filter { created_from: Some(at(10)), created_before: Some(at(30)), ..any() }, &[2, 1]),
        (Filter { group, ..any() }, &[2]),
        (Filter { group: Some(GroupId::new()), ..any() }, &[]),
        (Filter { parent: Some(ids[0]), ..any() }, &[4]),
        (Filter { parent: Some(ids[1]), ..any() }, &[]),
    ];
    for (filter, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|&place| ids[place]).collect();
        let query = Query {
            filter,
            ..everything()
        };
        assert_eq!(listed(&*store, &query).await, expected, "{query:?}");
    }
}

pub(super) async fn filters_restrict_together(store: Arc<dyn Store>) {
    let ids = mixed(&*store).await;
    let alice = || Some(CallerId::from("alice"));
    let tags = |tag: &str| vec![tag.to_owned()];
    let group = store.record(ids[2], Parts::ROW).await.expect("read");
    let group = group.expect("there").task.group;
    let states = vec![State::Queued];
    #[rustfmt::skip]
    let cases: Vec<(Filter, &[usize])> = vec![
        (Filter { caller: alice(), states: states.clone(), ..Filter::default() }, &[3, 2]),
        (Filter { caller: alice(), any_tags: tags("all"), ..Filter::default() }, &[3, 2]),
        (Filter { caller: alice(), any_tags: tags("red"), ..Filter::default() }, &[]),
        (Filter { any_tags: tags("all"), states: states.clone(), ..Filter::default() }, &[3, 2]),
        (Filter { group, states: vec![State::Running], ..Filter::default() }, &[]),
        (Filter { group, any_tags: tags("blue"), caller: alice(), ..Filter::default() }, &[2]),
        (Filter { parent: Some(ids[0]), states: vec![State::Failed], ..Filter::default() }, &[]),
        (Filter { parent: Some(ids[0]), caller: alice(), states, ..Filter::default() }, &[4]),
        (Filter { slot: Some(SlotId::from("slot-0")), caller: alice(), created_before: Some(at(1)), ..Filter::default() }, &[0]),
    ];
    for (filter, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|&place| ids[place]).collect();
        let query = Query {
            filter,
            ..everything()
        };
        assert_eq!(listed(&*store, &query).await, expected, "{query:?}");
    }
}

pub(super) async fn steps_are_listed_only_if_asked_for(store: Arc<dyn Store>) {
    let ids = mixed(&*store).await;
    let mut query = everything();
    query.filter.include_steps = false;
    let without: Vec<_> = ids[..4].iter().rev().copied().collect();
    assert_eq!(listed(&*store, &query).await, without);
    query.filter.parent = Some(ids[0]);
    assert_eq!(listed(&*store, &query).await, [ids[4]]);
}

pub(super) async fn many_tags_are_looked_for_at_once(store: Arc<dyn Store>) {
    let ids = mixed(&*store).await;
    let mut query = everything();
    query.filter.any_tags = (0..64).map(|n| format!("tag-{n}")).collect();
    assert_eq!(listed(&*store, &query).await, []);
    query.filter.any_tags.extend(["red".into(), "blue".into()]);
    assert_eq!(listed(&*store, &query).await, [ids[3], ids[2], ids[1]]);
}

pub(super) async fn a_group_is_read_by_place(store: Arc<dyn Store>) {
    let group = GroupId::new();
    let places = [3, 0, 2, 1];
    for place in places {
        let member = Task {
            group: Some(group),
            place,
            ready_time: at(i64::from(place)),
            ..queued()
        };
        submit(&*store, member).await;
    }
    submit(&*store, queued()).await;

    let members = store.group(group, Parts::ALL).await.expect("read");

    let found: Vec<_> = members.iter().map(|member| member.task.place).collect();
    assert_eq!(found, [0, 1, 2, 3]);
    assert!(members.iter().all(|member| member.spec.is_some()));
    let absent = store.group(GroupId::new(), Parts::ROW).await;
    assert_eq!(absent.expect("read"), []);
}

pub(super) async fn totals_count_states_without_steps(store: Arc<dyn Store>) {
    mixed(&*store).await;
    let counted = || async {
        let totals = store.totals().await.expect("read");
        let nonzero = totals.tasks.into_iter().filter(|(_, count)| *count > 0);
        nonzero.collect::<BTreeMap<_, _>>()
    };
    let expected = BTreeMap::from([
        (State::Queued, 2),
        (State::Running, 1),
        (State::Succeeded, 1),
    ]);
    assert_eq!(counted().await, expected);

    for record in store.list(&everything()).await.expect("read") {
        let cancel = TaskEvent::Cancel { by: "caller" };
        if !record.task.state.is_end() {
            commit_event(&*store, &record.task, cancel, at(3))
                .await
                .expect("cancelled");
        }
    }
    let expected = BTreeMap::from([
        (State::Cancelling, 1),
        (State::Cancelled, 2),
        (State::Succeeded, 1),
    ]);
    assert_eq!(counted().await, expected);
}
