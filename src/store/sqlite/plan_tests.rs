//! No statement that must stay fast reads a whole table: what the store does is
//! traced, and SQLite is asked how it goes about each statement.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use rusqlite::trace::{TraceEvent, TraceEventCodes};
use rusqlite::{Connection, StatementStatus};
use tempfile::TempDir;

use super::write::{Books, Transaction};
use super::{open, read, retain};
use crate::id::{CallerId, ConversationId, GroupId, RequestId, SlotId, TaskId};
use crate::store::conformance::fixture::{at, batch, delta, fence, made, queued, success, wish};
use crate::store::{Filter, Note, Parts, Query, Request};
use crate::task::{Level, RANK_CHAIN, State, Task, apply};

/// Tables that grow with use, and their short names in statements.
const LARGE: [&str; 13] = [
    "tasks",
    "t",
    "m",
    "task_tags",
    "g",
    "task_specs",
    "s",
    "task_results",
    "r",
    "task_outputs",
    "events",
    "requests",
    "ledger",
];

struct Traced {
    conn: Connection,
    said: Arc<Mutex<Vec<String>>>,
    _directory: TempDir,
}

impl Traced {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let opened = open::open(&directory.path().join("pool.db")).expect("opened");
        let mut conn = opened.writer;
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        let trace = move |event: TraceEvent<'_>| {
            if let TraceEvent::Stmt(statement, _) = event {
                heard
                    .lock()
                    .expect("whole")
                    .push(statement.sql().into_owned());
            }
        };
        conn.trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(trace))
            .expect("traced");
        Self {
            conn,
            said,
            _directory: directory,
        }
    }

    fn write<T>(&self, work: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        let books = Books::read(&self.conn).expect("read");
        work(&mut Transaction {
            conn: &self.conn,
            books,
        })
    }

    /// The statements since the last call, each once.
    fn statements(&self) -> BTreeSet<String> {
        let said = std::mem::take(&mut *self.said.lock().expect("whole"));
        let words = ["SELECT", "INSERT", "UPDATE", "DELETE"];
        said.into_iter()
            .filter(|sql| words.iter().any(|word| sql.starts_with(word)))
            .collect()
    }

    /// How SQLite goes about what was done since the last call.
    fn plans(&self) -> Vec<String> {
        let mut plans = Vec::new();
        for sql in self.statements() {
            let mut explained = self
                .conn
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .expect("explained");
            // With nothing bound: a plan is one for all values.
            let mut details = explained.raw_query();
            while let Some(step) = details.next().expect("explained") {
                plans.push(step.get::<_, String>(3).expect("a text"));
            }
        }
        self.said.lock().expect("whole").clear();
        assert!(!plans.is_empty(), "something was done");
        for plan in &plans {
            let scanned = plan.strip_prefix("SCAN ").and_then(|p| p.split(' ').next());
            assert!(!scanned.is_some_and(|t| LARGE.contains(&t)), "{plans:#?}");
        }
        plans
    }
}

fn task() -> Task {
    Task {
        tags: vec!["red".to_owned()],
        group: Some(GroupId::new()),
        request: Some(RequestId::new()),
        conversation: Some(ConversationId::of_key("a")),
        queue_deadline: Some(at(9)),
        ..queued()
    }
}

#[test]
fn a_task_lives_and_goes_without_a_scan() {
    let db = Traced::new();
    let task = task();
    let mut submitted = batch(vec![made(task.clone())]);
    submitted.request = Some(Request {
        caller: task.caller.clone(),
        id: task.request.expect("it has one"),
        fingerprint: [7; 32],
        task: task.id,
        group: task.group,
        expire_time: at(9),
        deleted: false,
    });
    db.write(|tx| tx.commit(submitted)).expect("submitted");
    read::due(&db.conn, at(1), Level::OWN, 9).expect("read");
    db.plans();

    let claimed = db.write(|tx| tx.claim(&wish(1, at(1)))).expect("claimed");
    let running = claimed.tasks[0].task.clone();
    let plans = db.plans().join("\n");
    assert!(
        plans.contains("SEARCH tasks USING INDEX tasks_ready"),
        "{plans}"
    );

    let said = vec![delta("x")];
    db.write(|tx| tx.append(fence(&running), said, Note::default(), at(1)))
        .expect("appended");
    read::log(&db.conn, task.id, 0, 99).expect("read");
    read::log_bytes(&db.conn, task.id).expect("read");
    let end = success(&running, 1, Some("the whole text".into()));
    let end = apply(&running, end, at(2)).expect("fits");
    db.write(|tx| tx.commit(batch(end.into_iter().collect())))
        .expect("ended");
    read::output(&db.conn, task.id, 0, 9).expect("read");
    read::record(&db.conn, task.id, Parts::ALL).expect("read");
    read::group(&db.conn, task.group.expect("it has one"), Parts::ALL).expect("read");
    db.plans();

    let limits = [(State::Succeeded, at(3)), (State::Failed, at(3))];
    let old = retain::outdated(&db.conn, &limits, 9).expect("read");
    assert_eq!(old.len(), 1);
    db.write(|tx| tx.delete(old[0].id, old[0].version))
        .expect("deleted");
    db.write(|tx| tx.expire_sessions(at(9), 9))
        .expect("expired");
    db.write(|tx| tx.expire_requests(at(10), 9))
        .expect("expired");
    while db.write(|tx| tx.sweep()).expect("swept") {}
    let plans = db.plans().join("\n");
    for index in [
        "tasks_ended",
        "tasks_group_live",
        "requests_expire",
        "ledger_task",
    ] {
        assert!(plans.contains(index), "{index}: {plans}");
    }
}

#[test]
fn a_chain_goes_without_a_scan() {
    let db = Traced::new();
    let chain = Task {
        rank: RANK_CHAIN,
        state: State::Succeeded,
        end_time: Some(at(1)),
        ..queued()
    };
    let step = Task {
        parent: Some(chain.id),
        ..chain.clone()
    };
    let step = Task {
        id: TaskId::new(),
        ..step
    };
    let both = batch(vec![made(chain.clone()), made(step)]);
    db.write(|tx| tx.commit(both)).expect("made");
    db.plans();

    let gone = db.write(|tx| tx.delete(chain.id, 1)).expect("deleted");

    assert_eq!(gone.len(), 2);
    db.plans();
}

#[test]
fn no_statement_is_prepared_again_for_another_value() {
    let db = Traced::new();
    for moment in 1..4 {
        db.write(|tx| tx.commit(batch(vec![made(queued())])))
            .expect("submitted");
        db.write(|tx| tx.claim(&wish(1, at(moment))))
            .expect("claimed");
        let query = Query {
            filter: Filter {
                states: vec![State::Queued],
                ..Filter::default()
            },
            before: Some(TaskId::new()),
            limit: 50,
            parts: Parts::ROW,
        };
        read::list(&db.conn, &query).expect("listed");
    }

    let statements = db.statements();

    assert!(statements.iter().any(|sql| sql.contains("tasks_ready")));
    for sql in statements {
        let kept = db.conn.prepare_cached(&sql).expect("prepared");
        assert!(kept.get_status(StatementStatus::Run) >= 3, "{sql}");
        assert_eq!(kept.get_status(StatementStatus::RePrepare), 0, "{sql}");
    }
}

/// Lists by a filter, first page and a later one, and tells the plans.
fn list(filter: Filter) -> String {
    let db = Traced::new();
    let mut all = String::new();
    for before in [None, Some(TaskId::new())] {
        for parts in [Parts::ROW, Parts::ALL] {
            let query = Query {
                filter: filter.clone(),
                before,
                limit: 50,
                parts,
            };
            read::list(&db.conn, &query).expect("listed");
            all += &db.plans().join("\n");
        }
    }
    all
}

#[test]
fn a_page_of_each_filter_is_read_without_a_scan() {
    let whole = Filter::default();
    for (filter, index) in [
        (whole.clone(), "t USING PRIMARY KEY (id<?)"),
        (
            Filter {
                states: vec![State::Failed],
                ..whole.clone()
            },
            "t USING COVERING INDEX tasks_state (state=? AND id<?)",
        ),
        (
            Filter {
                slot: Some(SlotId("slot-0".to_owned())),
                ..whole.clone()
            },
            "t USING INDEX tasks_slot (slot=? AND id<?)",
        ),
        (
            Filter {
                created_from: Some(at(0)),
                ..whole.clone()
            },
            "t USING COVERING INDEX tasks_state (state=? AND id<?)",
        ),
        (
            Filter {
                any_tags: vec!["red".to_owned(), "blue".to_owned()],
                ..whole.clone()
            },
            "g USING PRIMARY KEY (tag=? AND task<?)",
        ),
        (
            Filter {
                group: Some(GroupId::new()),
                ..whole.clone()
            },
            "t USING INDEX tasks_group (group_id=?",
        ),
        (
            Filter {
                parent: Some(TaskId::new()),
                ..whole.clone()
            },
            "t USING INDEX tasks_parent (parent_id=? AND id<?)",
        ),
    ] {
        let plans = list(filter.clone());
        assert!(plans.contains(index), "{index}: {plans}");
        // As the pool asks: of one caller.
        let own = Filter {
            caller: Some(CallerId::from("alice")),
            ..filter
        };
        let plans = list(own.clone());
        if own.slot.is_none()
            && own.any_tags.is_empty()
            && own.group.is_none()
            && own.parent.is_none()
        {
            let index = "t USING COVERING INDEX tasks_caller (caller=? AND state=? AND id<?)";
            assert!(plans.contains(index), "{plans}");
        } else {
            assert!(plans.contains(index), "{index}: {plans}");
        }
    }
}
