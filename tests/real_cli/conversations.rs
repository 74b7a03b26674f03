//! Conversations that go on, on the real CLI.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use claudepool::agent::claude::{Claude, ClaudeOptions};
use claudepool::demo::StandIn;
use claudepool::error::Error;
use claudepool::event;
use claudepool::id::{CallerId, TaskId};
use claudepool::money::Microdollars;
use claudepool::pb::conversation::Kind;
use claudepool::pb::event::Kind as Event;
use claudepool::pb::{self, ProcessOrigin, RecoveryPolicy};
use claudepool::pool::{Options, Pool, Work};
use claudepool::store::Store;
use claudepool::store::memory::Memory;
use claudepool::store::sqlite::Sqlite;
use claudepool::task::{Record, State};
use tempfile::TempDir;

/// A stand-in and the directories of one server after another.
struct World {
    standin: StandIn,
    dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is room");
        for part in ["workspace", "other"] {
            std::fs::create_dir(dir.path().join(part)).expect("there is room");
        }
        let loopback = ([127, 0, 0, 1], 0).into();
        let standin = StandIn::start_recording(loopback).await;
        Self {
            standin: standin.expect("a free port"),
            dir,
        }
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    async fn pool(&self, store: Arc<dyn Store>, options: Options) -> Pool {
        let mut agent = ClaudeOptions::new(self.path("state"));
        agent.program = crate::support::Kind::Real
            .program()
            .expect("the real CLI has one");
        agent.shim = vec![env!("CARGO_BIN_EXE_claudepool").into(), "__slot".into()];
        agent.env_allow = vec!["PATH".into()];
        for (name, value) in [
            ("ANTHROPIC_API_KEY", "dummy"),
            ("ANTHROPIC_BASE_URL", &self.standin.base_url()),
        ] {
            agent.env.insert(name.into(), value.into());
        }
        let mut options = options;
        let ceiling = Microdollars::from_dollars(options.policy.task_budget_max_usd);
        agent.budget_backstop = Some(ceiling);
        options.policy.roots = vec![self.dir.path().to_owned()];
        Pool::builder(Claude::open(agent).expect("the CLI is there"))
            .store(store)
            .options(options)
            .working_dir(self.path("workspace"))
            .build()
            .await
            .expect("it starts")
    }

    /// What the model was shown last.
    fn shown(&self) -> String {
        let requests = self.standin.requests();
        requests.last().expect("there was a turn").body["messages"].to_string()
    }

    /// Files of saved sessions.
    fn saved(&self, session_id: &str) -> usize {
        let projects = std::fs::read_dir(self.path("state/projects")).expect("read");
        let file = format!("{session_id}.jsonl");
        let files = projects.flatten().map(|p| p.path().join(&file));
        files.filter(|file| file.exists()).count()
    }
}

fn one_slot() -> Options {
    Options {
        slots: 1,
        ..Options::default()
    }
}

fn under(key: &str, prompt: &str) -> Work {
    let key = key.to_owned();
    part_of(
        Kind::ContinueConversation(pb::ContinueConversation { key }),
        prompt,
    )
}

fn resume(session_id: &str, prompt: &str) -> Work {
    let session_id = session_id.to_owned();
    part_of(
        Kind::ResumeSession(pb::ResumeSession { session_id }),
        prompt,
    )
}

fn part_of(kind: Kind, prompt: &str) -> Work {
    let mut work = Work::from(prompt);
    work.spec.conversation = Some(pb::Conversation { kind: Some(kind) });
    work
}

async fn run(pool: &Pool, work: Work) -> Record {
    let record = pool.run(work).await.expect("taken");
    assert_eq!(record.task.state, State::Succeeded, "{record:?}");
    record
}

async fn events(pool: &Pool, id: TaskId, until: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut tail = pool.watch(id, 0).await.expect("there");
    let mut events = Vec::new();
    while let Some(entry) = tail.next().await.expect("readable") {
        let event = event::decode(&entry.bytes).and_then(|event| event.kind);
        events.extend(event);
        if events.last().is_some_and(&until) {
            break;
        }
    }
    events
}

async fn origin(pool: &Pool, record: &Record) -> ProcessOrigin {
    let events = events(pool, record.task.id, |_| false).await;
    let Some(Event::Finished(finished)) = events.last() else {
        panic!("it ends with finished: {events:?}");
    };
    finished.process_origin()
}

#[tokio::test]
async fn a_conversation_goes_on_in_its_process_and_then_from_its_session() {
    let world = World::new().await;
    let pool = world.pool(Arc::new(Memory::new()), one_slot()).await;
    let first = run(&pool, under("mine", "::echo remember-5533")).await;

    let second = run(&pool, under("mine", "::echo second")).await;
    assert_eq!(origin(&pool, &second).await, ProcessOrigin::Kept);
    assert!(world.shown().contains("remember-5533"));
    assert_eq!(second.task.session_id, first.task.session_id);

    // It needs the process.
    run(&pool, "::echo other".into()).await;
    assert!(!world.shown().contains("remember-5533"));

    let third = run(&pool, under("mine", "::echo third")).await;
    assert_eq!(origin(&pool, &third).await, ProcessOrigin::Launch);
    assert!(world.shown().contains("remember-5533") && world.shown().contains("second"));
    assert_eq!(third.task.session_id, first.task.session_id);
    // What the restored conversation had cost is not paid again.
    assert!(third.task.cost.0 < 2 * second.task.cost.0, "{third:?}");

    // From another directory too, with all that was said before.
    for (dir, prompt) in [("other", "::echo fourth"), ("workspace", "::echo fifth")] {
        let mut work = under("mine", prompt);
        work.spec.working_dir = world.path(dir).to_string_lossy().into_owned();
        run(&pool, work).await;
    }
    for said in ["remember-5533", "second", "third", "fourth"] {
        assert!(world.shown().contains(said), "{said}");
    }
    pool.shutdown().await;
}

#[tokio::test]
async fn a_conversation_goes_on_past_what_one_task_may_cost() {
    let world = World::new().await;
    let mut options = one_slot();
    options.policy.task_budget_max_usd = 0.2;
    let pool = world.pool(Arc::new(Memory::new()), options).await;
    let mut cost = Microdollars::ZERO;
    for number in 1..=5 {
        let prompt = format!("::tokens 10000 1000\n::echo number {number}");
        let record = run(&pool, under("mine", &prompt)).await;
        cost = cost.saturating_add(record.task.cost);
    }

    // The CLI's own cap is the same and counts all that a process has spent.
    assert_eq!(cost, Microdollars(5 * 60_000));
    for number in 1..=5 {
        assert!(world.shown().contains(&format!("number {number}")));
    }
    pool.shutdown().await;
}

#[tokio::test]
async fn a_session_is_resumed_by_its_id_by_its_caller_alone_until_it_is_deleted() {
    let world = World::new().await;
    let options = Options {
        save_sessions: true,
        session_retention: Duration::from_secs(3),
        ..one_slot()
    };
    let pool = world.pool(Arc::new(Memory::new()), options).await;
    let first = run(&pool, "::echo remember-5533".into()).await;
    let id = &first.task.session_id;

    let bob = pool.for_caller(CallerId::from("bob"));
    let refused = bob.submit(resume(id, "::echo mine now")).await;
    assert!(matches!(refused, Err(Error::SessionUnusable { .. })));

    let second = run(&pool, resume(id, "::echo second")).await;
    assert!(world.shown().contains("remember-5533"));
    assert_eq!(&second.task.session_id, id);
    assert!(world.saved(id) > 0);

    let deleted = async {
        while world.saved(id) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), deleted)
        .await
        .expect("its retention is over");
    let refused = pool.submit(resume(id, "::echo third")).await;
    assert!(matches!(refused, Err(Error::SessionUnusable { .. })));
    pool.shutdown().await;
}

#[test]
fn after_a_killed_server_an_attempt_goes_on_with_its_conversation() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let outer = runtime();
    let world = outer.block_on(World::new());
    let open = async || {
        let store = Sqlite::open(world.path("pool.db")).await;
        let store = Arc::new(store.expect("it opens"));
        world.pool(store, one_slot()).await
    };
    let first = runtime();
    let id = first.block_on(async {
        let pool = open().await;
        let mut work = Work::from("remember-5533\n::echo begun\n::hang");
        work.spec.recovery = RecoveryPolicy::Resume as i32;
        let id = pool.submit(work).await.expect("made");
        events(&pool, id, |event| matches!(event, Event::TextDelta(_))).await;
        // The CLI saves a little later; without that it would start over.
        let saved = async {
            loop {
                let session = pool.task(id).await.expect("there").task.session_id;
                if world.saved(&session) > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let saved = tokio::time::timeout(Duration::from_secs(20), saved);
        saved.await.expect("its session is noted and saved");
        id
    });
    // Everything of the server goes at once: nothing is committed any more.
    drop(first);

    outer.block_on(async {
        let pool = open().await;
        let record = pool.result(id, Duration::from_secs(60)).await;
        let record = record.expect("there");

        assert_eq!(record.task.state, State::Succeeded, "{record:?}");
        assert_eq!(record.task.attempt, 2);
        let shown = world.shown();
        assert!(shown.contains("remember-5533"), "{shown}");
        assert!(shown.contains("You were interrupted"), "{shown}");
        pool.shutdown().await;
    });
}
