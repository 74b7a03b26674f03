//! No statement that must stay fast reads a whole table: everything is done on
//! a filled database that tells how it goes about each statement.

use std::collections::BTreeSet;

use claudepool::id::{CallerId, ConversationId, GroupId, RequestId, SlotId, TaskId};
use claudepool::store::conformance::fixture::{
    at, batch, commit_event, delta, fence, made, queued, success, wish,
};
use claudepool::store::{Cluster, Filter, Note, Parts, Query, Request, SessionRef, Store};
use claudepool::task::{Level, State, Task};
use tokio_postgres::Client;

use crate::server::{Server, open};

/// Tables that grow with use.
const LARGE: [&str; 11] = [
    "tasks",
    "task_tags",
    "task_specs",
    "task_results",
    "task_outputs",
    "events",
    "sessions",
    "requests",
    "ledger",
    "removed",
    "ledger_days",
];

/// 40,000 tasks of two callers: one in a hundred waits, the others have ended.
const FILL: &str = "
    CREATE TEMP TABLE made AS SELECT gen_random_uuid() AS id, n,
        CASE WHEN n % 100 = 0 THEN 1 ELSE 4 + n % 3 END AS state
        FROM generate_series(1, 40000) AS n;
    INSERT INTO tasks SELECT id, 1, CASE WHEN n % 2 = 0 THEN 'alice' ELSE 'bob' END, state, '[]',
        gen_random_uuid(), CASE WHEN n % 10 = 1 THEN gen_random_uuid() END, 0, 1,
        gen_random_uuid(), 1700000000000000 + n,
        1700000000000000 + n, NULL,
        CASE WHEN state > 3 THEN 1700000000000000 + n END,
        CASE WHEN state = 1 THEN 1700000900000000 + n END, false, NULL,
        1, 0, 'slot-' || n % 40, 'node', NULL, 'session-' || n, 0, 0, 0, 0, 0, false, 1, true,
        CASE WHEN n % 7 = 0 THEN 'key:' || n END, 3,
        CASE WHEN state = 1 THEN 1700000900000000 + n END, NULL, '', 0 FROM made;
    INSERT INTO task_tags SELECT 'tag-' || n % 50, id FROM made;
    INSERT INTO task_specs SELECT id, '', '', NULL FROM made;
    INSERT INTO task_results SELECT id, '' FROM made WHERE state > 3;
    INSERT INTO task_outputs SELECT id, 0, '' FROM made WHERE state > 3;
    INSERT INTO events SELECT id, s, '' FROM made, generate_series(1, 3) AS s;
    INSERT INTO sessions SELECT 'session-' || n, 'alice', 'key:' || n, 1700000000000000 + n
        FROM made;
    INSERT INTO requests SELECT 'alice', gen_random_uuid(), '', id, NULL,
        1700000900000000 + n, false FROM made;
    INSERT INTO ledger (task, time, kind, reserved, cost, estimated)
        SELECT id, 0, 1, 0, 0, false FROM made;
    INSERT INTO removed SELECT gen_random_uuid() FROM made WHERE n % 10 = 0;
    UPDATE books SET state_1 = 1000000 WHERE shard = 0;
    ANALYZE";

/// What was done since, as the server tells it.
fn plans(server: &Server, from: &mut usize) -> String {
    let log = std::fs::read_to_string(server.log_path()).unwrap();
    let new = log[*from..].to_owned();
    *from = log.len();
    new
}

fn scanned(plans: &str) -> BTreeSet<&str> {
    let lines = plans.lines().filter(|line| line.contains("Seq Scan on "));
    let tables = lines.filter_map(|line| line.split("Seq Scan on ").nth(1));
    let tables = tables.filter_map(|table| table.split(' ').next());
    tables.filter(|table| LARGE.contains(table)).collect()
}

/// Has the server tell how it goes about each statement in this database.
async fn explain(admin: &Client, name: &str) {
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
    ] {
        let sql = format!("ALTER DATABASE {name} SET {setting}");
        admin.batch_execute(&sql).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_compiled_or_guessed_to_be_dear_where_there_are_no_statistics() {
    let server = Server::start();
    let name = server.database().await;
    open(&server.url(&name)).await.close().await;
    explain(&server.admin(&name).await, &name).await;
    let mut from = 0;
    plans(&server, &mut from);
    let store = open(&server.url(&name)).await;
    store.control().await.unwrap();
    store.queued().await.unwrap();
    store.orphans(Level::OWN, 9).await.unwrap();
    store.context().await.unwrap();
    live(&store).await;

    let seen = plans(&server, &mut from);

    assert!(seen.contains("FROM shared s"), "{seen}");
    assert!(!seen.contains("JIT:"), "{seen}");
    // From the first node of each plan: what PostgreSQL compiles by itself.
    let costs = seen
        .lines()
        .filter_map(|line| line.split_once("(cost=")?.1.split_once(".."));
    for (_, rest) in costs {
        let cost: f64 = rest.split(' ').next().unwrap().parse().unwrap();
        assert!(cost < 100_000.0, "{rest}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_must_stay_fast_reads_a_whole_table() {
    let server = Server::start();
    let name = server.database().await;
    open(&server.url(&name)).await.close().await;
    let admin = server.admin(&name).await;
    admin.batch_execute(FILL).await.unwrap();
    explain(&admin, &name).await;
    let store = open(&server.url(&name)).await;
    let mut from = 0;
    plans(&server, &mut from);
    let mut seen = String::new();
    // Several times: later a plan is kept for all values.
    for _ in 0..8 {
        live(&store).await;
        for filter in filters() {
            page(&store, filter).await;
        }
        seen += &plans(&server, &mut from);
        assert!(scanned(&seen).is_empty(), "{:?}: {seen}", scanned(&seen));
    }
    // Few tasks are active, but an append is no reason to go through them.
    let appends = seen
        .split("LOG:  duration")
        .filter(|plan| plan.contains("Update on tasks"));
    let appends: Vec<_> = appends
        .filter(|plan| plan.contains("attempt_cost = coalesce"))
        .collect();
    assert!(appends.len() >= 8);
    for append in appends {
        assert!(append.contains("using tasks_pkey"), "{append}");
    }
    for index in [
        "tasks_ready",
        "tasks_due",
        "tasks_ended",
        "tasks_group_live",
        "tasks_group",
        "tasks_parent",
        "tasks_conversation",
        "tasks_state",
        "tasks_caller",
        "tasks_slot",
        "task_tags_pkey",
        "events_pkey",
        "requests_expire",
        "ledger_task",
        "sessions_used",
    ] {
        assert!(seen.contains(index), "{index} is not used");
    }
}

/// A task's life, and what goes on beside it.
async fn live(store: &dyn Store) {
    let task = Task {
        tags: vec!["red".to_owned()],
        group: Some(GroupId::new()),
        request: Some(RequestId::new()),
        conversation: Some(ConversationId::of_key("a")),
        rank: 0,
        ..queued()
    };
    let mut submitted = batch(vec![made(task.clone())]);
    submitted.request = Some(Request {
        caller: task.caller.clone(),
        id: task.request.unwrap(),
        fingerprint: [7; 32],
        task: task.id,
        group: task.group,
        expire_time: at(9),
        deleted: false,
    });
    store.commit(submitted).await.unwrap();
    store.due(at(1), Level::OWN, 9).await.unwrap();
    let claimed = store.claim(wish(1, at(1))).await.unwrap();
    let running = claimed.tasks[0].task.clone();
    assert_eq!(running.id, task.id);
    let said = vec![delta("x")];
    store
        .append(fence(&running), said, Note::default(), at(1))
        .await
        .unwrap();
    store.log(task.id, 0, 99).await.unwrap();
    store.log_bytes(task.id).await.unwrap();
    let whole = Some("the whole text".into());
    commit_event(store, &running, success(&running, 1, whole), at(2))
        .await
        .unwrap();
    store.output(task.id, 0, 9).await.unwrap();
    store.record(task.id, Parts::ALL).await.unwrap();
    store.group(task.group.unwrap(), Parts::ALL).await.unwrap();
    let caller = CallerId::from("alice");
    store
        .request(&caller, task.request.unwrap(), at(1))
        .await
        .unwrap();
    for which in [
        SessionRef::Id("session-1".to_owned()),
        SessionRef::Conversation(ConversationId::of_key("1")),
    ] {
        store.session(&caller, &which).await.unwrap();
    }
    let limits = [(State::Succeeded, at(3)), (State::Failed, at(3))];
    let old = store.outdated(&limits, 9).await.unwrap();
    store.delete(old[0].id, old[0].version).await.unwrap();
    store.expire_sessions(at(0), 9).await.unwrap();
    store.expire_requests(at(1000), 9).await.unwrap();
    store.sweep().await.unwrap();
    store.totals().await.unwrap();
}

async fn page(store: &dyn Store, filter: Filter) {
    for before in [None, Some(TaskId::new())] {
        for parts in [Parts::ROW, Parts::ALL] {
            let query = Query {
                filter: filter.clone(),
                before,
                limit: 50,
                parts,
            };
            store.list(&query).await.unwrap();
        }
    }
}

fn filters() -> Vec<Filter> {
    let whole = Filter::default();
    let each = vec![
        whole.clone(),
        Filter {
            states: vec![State::Failed],
            ..whole.clone()
        },
        Filter {
            slot: Some(SlotId::from("slot-1")),
            ..whole.clone()
        },
        Filter {
            any_tags: vec!["tag-1".to_owned(), "tag-2".to_owned()],
            ..whole.clone()
        },
        Filter {
            group: Some(GroupId::new()),
            ..whole.clone()
        },
        Filter {
            parent: Some(TaskId::new()),
            ..whole
        },
    ];
    let own = each.iter().cloned().map(|filter| Filter {
        caller: Some(CallerId::from("alice")),
        ..filter
    });
    own.chain(each.clone()).collect()
}
