//! A server that is killed again and again, on one store. Whatever it had told
//! still holds afterwards, and every task meets its fate.
//!
//! `CLAUDEPOOL_KILLS` says how often, `CLAUDEPOOL_SEED` repeats a run; the seed is
//! printed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use claudepool::agent::conformance::{Roll, ends};
use claudepool::pb::event::Kind as Event;
use claudepool::pb::{self, FailureReason, RecoveryPolicy, RequeueReason, TaskState};
use claudepool::store::sqlite::Sqlite;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::task::JoinSet;

use crate::support::{
    Caller, Kind, Program, assert_same_bytes, events, finished, next_event, prompt, request_id,
};

/// Attempts at a time, and tasks that wait behind them.
const RUNNING: u32 = 3;
const QUEUED: usize = 50;
/// Longest life of a process whose server was killed.
const ORPHAN_MAX: Duration = Duration::from_secs(20);
/// Tasks that ended long ago and are looked at again after each kill.
const LOOKED_AT: usize = 20;
const POLICIES: [RecoveryPolicy; 3] = [
    RecoveryPolicy::Resume,
    RecoveryPolicy::Restart,
    RecoveryPolicy::Fail,
];

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().ok().expect("a number"))
}

/// What the servers have told of a task.
struct Told {
    submit: pb::SubmitRequest,
    /// Once it was acknowledged.
    id: Option<String>,
    /// As it was last seen.
    task: Option<pb::Task>,
    /// The log as far as it was seen.
    log: Vec<pb::Event>,
}

impl Told {
    fn policy(&self) -> RecoveryPolicy {
        let task = self.submit.task.as_ref();
        task.expect("it asks for something").recovery()
    }

    fn has_ended(&self) -> bool {
        self.task
            .as_ref()
            .is_some_and(|task| task.end_time.is_some())
    }
}

/// All that outlives the servers, and what they have told so far.
struct World {
    program: Program,
    /// Where the tools of holders tell that they run.
    roll: Roll,
    random: StdRng,
    /// In the order of their submission.
    told: Vec<Told>,
    spent: i64,
    context: pb::ListContextResponse,
    /// How often an interrupted attempt met each policy.
    met: BTreeMap<RecoveryPolicy, u32>,
    resumed: u32,
}

impl World {
    /// Adds a task that is to be submitted.
    fn add(&mut self, text: String, policy: RecoveryPolicy) -> usize {
        let task = pb::TaskSpec {
            recovery: policy as i32,
            ..prompt(text)
        };
        self.told.push(Told {
            submit: pb::SubmitRequest {
                task: Some(task),
                request_id: request_id(),
            },
            id: None,
            task: None,
            log: Vec::new(),
        });
        self.told.len() - 1
    }

    /// Adds one whose first attempt stays, once it has told the roll, and whose
    /// second does not.
    fn add_holder(&mut self, policy: RecoveryPolicy) -> usize {
        let (file, stay) = (format!("held-{}", self.told.len()), self.roll.teller());
        let text = format!(
            "::tokens 1000 100\n::bash if [ -e {file} ]; then true; else touch {file}; {stay}; fi\n::echo held"
        );
        self.add(text, policy)
    }

    fn add_short(&mut self) -> usize {
        let policy = *POLICIES.choose(&mut self.random).unwrap();
        let number = self.told.len();
        self.add(format!("::tokens 100 10\n::echo short {number}"), policy)
    }

    /// Submits tasks until all are acknowledged or the server is gone.
    fn submit(&self, caller: &Caller, which: Vec<usize>) -> JoinSet<(usize, Option<String>)> {
        let mut calls = JoinSet::new();
        for number in which {
            let (mut caller, submit) = (caller.clone(), self.told[number].submit.clone());
            calls.spawn(async move {
                let made = caller.work.submit(submit).await;
                (number, made.ok().map(|made| made.into_inner().task_id))
            });
        }
        calls
    }

    async fn acknowledged(&mut self, mut calls: JoinSet<(usize, Option<String>)>) {
        while let Some(call) = calls.join_next().await {
            let (number, id) = call.unwrap();
            let told = &mut self.told[number];
            assert!(told.id.is_none() || id.is_none() || told.id == id);
            told.id = id.or(told.id.take());
        }
    }

    /// Looks at a task; what was told of it before must still be so.
    async fn look(&mut self, caller: &mut Caller, number: usize) {
        let id = self.told[number].id.clone().expect("acknowledged");
        let now = caller.task(&id).await;
        let log = caller.watch(&id, 0).await;
        let told = &mut self.told[number];
        if let Some(before) = &told.task {
            assert_eq!(
                (&before.request_id, before.create_time),
                (&now.request_id, now.create_time)
            );
            assert!(now.cost_microdollars >= before.cost_microdollars);
            assert!(now.attempt >= before.attempt);
            if told.has_ended() {
                assert_eq!(&now, before, "what has ended stays as it is");
            }
        }
        let log = match now.end_time {
            Some(_) => events(log).await,
            None => log_until(log, now.last_sequence).await,
        };
        assert!(log.len() >= told.log.len(), "nothing of a log is lost");
        assert_same_bytes(&told.log, &log[..told.log.len()], &id);
        (told.task, told.log) = (Some(now), log);
    }

    /// What an attempt that a kill has interrupted came to.
    /// `saved`: the session of a holder, if it was on disk.
    fn fate(&mut self, number: usize, saved: Option<&String>) {
        let told = &self.told[number];
        let (task, policy) = (told.task.as_ref().unwrap(), told.policy());
        let starts = told
            .log
            .iter()
            .filter(|e| matches!(e.kind, Some(Event::Started(_))));
        let attempts = starts.count();
        let interrupted = told.log.iter().filter(|event| match &event.kind {
            Some(Event::Requeued(requeued)) => requeued.reason() == RequeueReason::Interrupted,
            _ => false,
        });
        let interrupted = interrupted.count();
        let end = finished(&told.log);
        let result = end.result.as_ref().unwrap();
        let reason = result.failure.as_ref().map(pb::Failure::reason);
        match end.state() {
            TaskState::Succeeded => assert_eq!(attempts, interrupted + 1),
            TaskState::Failed => {
                assert_eq!(reason, Some(FailureReason::Interrupted), "{task:?}");
                let given_up = attempts == 3 && interrupted == 2;
                let fails = policy == RecoveryPolicy::Fail && (attempts, interrupted) == (1, 0);
                assert!(fails || given_up, "{policy:?}: {attempts} attempts");
            }
            other => panic!("it is {other:?}"),
        }
        if policy == RecoveryPolicy::Fail {
            assert_eq!(attempts, 1, "it is never run again");
        }
        if attempts > 1 || reason.is_some() {
            *self.met.entry(policy).or_default() += 1;
        }
        let resumed = result.output.contains("You were interrupted");
        self.resumed += u32::from(resumed);
        assert!(!resumed || policy == RecoveryPolicy::Resume);
        if let (Some(session), RecoveryPolicy::Resume) = (saved, policy)
            && attempts == 2
        {
            assert!(resumed, "its session was there: {task:?}");
            assert_eq!(&result.session_id, session);
        }
    }

    /// Whether a session is on disk.
    fn is_saved(&self, session: &str) -> bool {
        !session.is_empty() && holds_file(self.program.dir(), &format!("{session}.jsonl"))
    }

    /// Every process of the server and below it, by their environment.
    fn processes(&self) -> Vec<rustix::fd::OwnedFd> {
        let ours = format!("CLAUDE_CONFIG_DIR={}", self.program.dir().display());
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let of_ours = pids.filter(|pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ"));
            environ.is_ok_and(|env| {
                env.split(|b| *b == 0)
                    .any(|v| v.starts_with(ours.as_bytes()))
            })
        });
        let handle = |pid| pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok();
        of_ours.filter_map(handle).collect()
    }
}

/// A log's entries up to a sequence, of a task that may still run.
async fn log_until(mut log: tonic::Streaming<pb::WatchTaskResponse>, last: u64) -> Vec<pb::Event> {
    let mut events = Vec::new();
    while (events.len() as u64) < last {
        events.push(next_event(&mut log).await.expect("it was told to be there"));
    }
    events
}

fn holds_file(dir: &Path, name: &str) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path: PathBuf| {
        let is_dir = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        path.file_name().is_some_and(|n| n == name) || (is_dir && holds_file(&path, name))
    })
}

#[tokio::test]
async fn a_server_killed_at_random_instants_keeps_every_promise() {
    let real = crate::agent() == Kind::Real;
    let kills = number("CLAUDEPOOL_KILLS").unwrap_or(if real { 2 } else { 20 });
    let seed = number("CLAUDEPOOL_SEED").unwrap_or_else(rand::random::<u64>);
    println!("{kills} kills, CLAUDEPOOL_SEED={seed}");
    let program = Program::with_slots(RUNNING).await;
    let mut world = World {
        roll: Roll::open(program.dir()),
        program,
        random: StdRng::seed_from_u64(seed),
        told: Vec::new(),
        spent: 0,
        context: pb::ListContextResponse::default(),
        met: BTreeMap::new(),
        resumed: 0,
    };
    let mut server = world.program.serve().await;
    for kill in 1..=kills {
        // In the middle of a busy queue, or while all slots are held.
        let held = kill % 2 == 1;
        let mut new: Vec<usize> = Vec::new();
        let mut holders = Vec::new();
        if held {
            holders.extend(POLICIES.map(|policy| world.add_holder(policy)));
            let calls = world.submit(&server.caller, holders.clone());
            world.acknowledged(calls).await;
            // A tool that was asked for may not have begun; on its second attempt it would stay.
            world.roll.next(holders.len()).await;
        }
        new.extend((0..QUEUED).map(|_| world.add_short()));
        let set = pb::SetContextRequest {
            key: format!("key-{}", kill % 5),
            value: format!("kill {kill}"),
        };
        server.caller.context.set_context(set).await.unwrap();
        let list = pb::ListContextRequest::default();
        let context = server.caller.context.list_context(list).await.unwrap();
        world.context = context.into_inner();

        // Some are told before, some while, and some perhaps never.
        let later = new.split_off(world.random.random_range(0..=QUEUED));
        let calls = world.submit(&server.caller, new.clone());
        world.acknowledged(calls).await;
        let some: Vec<usize> = holders.iter().chain(new.iter().take(5)).copied().collect();
        for number in &some {
            world.look(&mut server.caller, *number).await;
        }
        world.spent = server.caller.status().await.spent_microdollars;
        let instant = Duration::from_micros(world.random.random_range(0..400_000));
        let calls = world.submit(&server.caller, later);
        // The instant of the kill is what is random; nothing is waited for.
        tokio::time::sleep(instant).await;
        let running = world.processes();
        assert!(!held || running.len() >= RUNNING as usize);
        server.kill().await;

        for process in running {
            assert!(
                ends(process, ORPHAN_MAX).await,
                "kill {kill}: no stray process"
            );
        }
        world.acknowledged(calls).await;
        let mut saved = BTreeMap::new();
        for number in &holders {
            let task = world.told[*number].task.as_ref().unwrap();
            if world.is_saved(&task.session_id) {
                saved.insert(*number, task.session_id.clone());
            }
        }
        server = world.program.serve().await;
        let caller = &mut server.caller;
        let spent = caller.status().await.spent_microdollars;
        assert!(
            spent >= world.spent,
            "kill {kill}: the spend never decreases"
        );
        let list = pb::ListContextRequest::default();
        let context = caller.context.list_context(list).await.unwrap();
        assert_eq!(context.into_inner(), world.context, "kill {kill}");
        // Who was not answered asks again; who was answered may, too.
        let unanswered = (0..world.told.len()).filter(|n| world.told[*n].id.is_none());
        let mut again: Vec<usize> = unanswered.collect();
        again.extend((0..world.told.len()).choose_multiple(&mut world.random, 5));
        let calls = world.submit(caller, again);
        world.acknowledged(calls).await;

        let open = (0..world.told.len()).filter(|n| !world.told[*n].has_ended());
        let open: Vec<usize> = open.collect();
        let ended = (0..world.told.len()).filter(|n| world.told[*n].has_ended());
        for number in ended.choose_multiple(&mut world.random, LOOKED_AT) {
            world.look(caller, number).await;
        }
        // Every other time the queue is left to the next kill.
        if held || kill == kills {
            for number in open {
                let id = world.told[number].id.clone().expect("acknowledged");
                caller.result(&id).await;
                world.look(caller, number).await;
                world.fate(number, saved.get(&number));
            }
        } else {
            for number in open.into_iter().take(LOOKED_AT) {
                world.look(caller, number).await;
            }
        }
    }

    // All that was acknowledged is there, in its order, and nothing besides.
    let caller = &mut server.caller;
    let mut listed = BTreeSet::new();
    let mut list = pb::ListTasksRequest {
        page_size: 1000,
        ..Default::default()
    };
    let mut costs = 0;
    loop {
        let page = caller
            .work
            .list_tasks(list.clone())
            .await
            .unwrap()
            .into_inner();
        assert!(page.tasks.is_sorted_by(|a, b| a.task_id > b.task_id));
        costs += page
            .tasks
            .iter()
            .map(|task| task.cost_microdollars)
            .sum::<i64>();
        listed.extend(page.tasks.into_iter().map(|task| task.task_id));
        list.page_token = page.next_page_token;
        if list.page_token.is_empty() {
            break;
        }
    }
    let told = world
        .told
        .iter()
        .map(|told| told.id.clone().expect("acknowledged"));
    assert_eq!(listed, told.collect::<BTreeSet<_>>());
    let status = caller.status().await;
    assert_eq!(
        (status.spent_microdollars, status.reserved_microdollars),
        (costs, 0)
    );
    for number in (0..world.told.len()).rev().take(4 * QUEUED) {
        world.look(caller, number).await;
    }
    server.kill().await;
    let store = Sqlite::open(world.program.store()).await.unwrap();
    store.check_sums().await.unwrap();
    println!(
        "{} tasks, fates {:?}, {} resumed",
        world.told.len(),
        world.met,
        world.resumed
    );
    assert!(POLICIES.iter().all(|policy| world.met.contains_key(policy)));
    assert!(world.resumed > 0);
}
