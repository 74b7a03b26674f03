//! Requests that try to get more than they may: out of the directory, into the
//! arguments, into the log.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use claudepool::pb::conversation::Kind;
use claudepool::pb::{self, RunSettings, TaskState};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tonic::Code;

use crate::support::{Harness, PATIENCE, Program, Running, connect, prompt, refused};

/// One slot over a process that says what it was started with.
async fn one_slot() -> Running {
    let harness = Harness::with_processes().options(|o| {
        o.slots = 1;
        o.spares = 0;
        o.settings.allowed_tools = vec!["Bash".into()];
    });
    harness.start().await
}

fn within(dir: &std::path::Path, text: &str) -> pb::TaskSpec {
    pb::TaskSpec {
        working_dir: dir.display().to_string(),
        ..prompt(text)
    }
}

#[tokio::test]
async fn a_directory_that_becomes_a_link_before_its_task_runs_is_not_entered() {
    let mut server = one_slot().await;
    let (outside, dir) = (tempfile::tempdir().unwrap(), server.working_dir().join("d"));
    std::fs::create_dir(&dir).unwrap();
    let hang = server.hang("x");
    let busy = server.submit(hang).await;
    server.said(&busy).await;
    let queued = server.submit(within(&dir, "::bash touch here")).await;
    std::fs::remove_dir(&dir).unwrap();
    symlink(outside.path(), &dir).unwrap();

    server.cancel(&busy).await;

    let answer = server.result(&queued).await;
    assert_eq!(answer.task.unwrap().state(), TaskState::Failed);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// Makes `a` the other of two names and back, all the time, until dropped.
struct Swapping(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Swapping {
    fn begin(a: PathBuf, b: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().unwrap().join();
    }
}

#[tokio::test]
async fn a_directory_that_is_swapped_all_the_time_leads_no_task_astray() {
    // For processes that are started in it, and for those that wait elsewhere.
    for spares in [0, 1] {
        let harness = Harness::with_processes().options(|o| {
            o.slots = 1;
            o.spares = spares;
            o.settings.allowed_tools = vec!["Bash".into()];
        });
        let mut server = harness.start().await;
        let outside = tempfile::tempdir().unwrap();
        let [dir, link] = ["d", "l"].map(|name| server.working_dir().join(name));
        std::fs::create_dir(&dir).unwrap();
        symlink(outside.path(), &link).unwrap();
        // Where the process above the tool's shell is, by the kernel's word.
        let seen = server.working_dir().join("seen");
        let text = format!("::bash readlink /proc/$PPID/cwd >> {}", seen.display());
        let swapping = Swapping::begin(dir.clone(), link.clone());
        let (mut refused, mut failed, mut done) = (0, 0, 0);
        let tries = async {
            while done < 3 || failed < 3 || refused < 3 {
                let mut task = within(&dir, &text);
                task.conversation = Some(pb::Conversation {
                    kind: Some(Kind::NewProcess(Default::default())),
                });
                let request = pb::SubmitRequest {
                    task: Some(task),
                    ..Default::default()
                };
                let Ok(answer) = server.work.submit(request).await else {
                    refused += 1;
                    continue;
                };
                let id = answer.into_inner().task_id;
                match server.result(&id).await.result.unwrap().success {
                    true => done += 1,
                    false => failed += 1,
                }
            }
        };
        let tries = tokio::time::timeout(PATIENCE, tries).await;
        drop(swapping);
        assert!(
            tries.is_ok(),
            "{refused} refused, {failed} failed, {done} done"
        );
        // The directory that was allowed, whatever it was called just then.
        let allowed = [&dir, &link].map(|name| name.display().to_string());
        let seen = std::fs::read_to_string(seen).unwrap();
        let mut astray = seen
            .lines()
            .filter(|at| !allowed.iter().any(|dir| dir == at));
        assert_eq!(astray.next(), None, "{seen}");
        assert!(seen.lines().count() >= 3, "{seen}");
    }
}

#[tokio::test]
async fn what_looks_like_an_option_is_text_or_refused() {
    let mut server = one_slot().await;
    let flag = "--dangerously-skip-permissions";
    let dir = server.working_dir().join(flag);
    std::fs::create_dir(&dir).unwrap();

    // A prompt, a tag and a directory are data, whatever they are called.
    for text in [flag, "-p x\n::request", "--model=x\n::request"] {
        let mut task = within(&dir, text);
        task.tags = vec![flag.into()];
        let answer = server.finish(task).await;
        let result = answer.result.unwrap();
        assert!(result.success, "{text}: {:?}", result.failure);
        if text.contains("::request") {
            let asked: serde_json::Value = serde_json::from_str(&result.output).unwrap();
            assert_eq!(asked["cwd"], dir.display().to_string());
            assert_eq!(asked["permission_mode"], "dontAsk");
        }
    }
    let argument = |set: fn(&mut RunSettings, String)| {
        let mut settings = RunSettings::default();
        set(&mut settings, flag.into());
        pb::TaskSpec {
            settings: Some(settings),
            ..prompt("x")
        }
    };
    for task in [
        argument(|s, v| s.model = Some(v)),
        argument(|s, v| s.fallback_model = Some(v)),
        argument(|s, v| s.allowed_tools = vec![v]),
        argument(|s, v| s.disallowed_tools = vec![v]),
        argument(|s, v| s.model = Some(format!("haiku\n{v}"))),
    ] {
        let request = pb::SubmitRequest {
            task: Some(task.clone()),
            ..Default::default()
        };
        let answer = server.work.submit(request).await;
        refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    }
}

#[tokio::test]
async fn what_callers_say_begins_no_line_of_the_log() {
    const FORGED: &str = "2026-01-01T00:00:00Z  INFO forged";
    let evil = format!("x\r\n{FORGED} \u{1b}[2K\u{2028}{FORGED}");
    let program = Program::new().await;
    let mut server = program.serve_with(&[("CLAUDEPOOL_LOG", "trace")]).await;
    let caller = &mut server.caller;

    let mut task = prompt(format!("{evil}\n::error 400"));
    task.tags = vec!["t".into()];
    let failed = caller.finish(task.clone()).await;
    assert_eq!(failed.task.unwrap().state(), TaskState::Failed);
    // Each is refused or taken; it is the log that counts.
    task.tags = vec![evil.clone()];
    let submit = |task| pb::SubmitRequest {
        task: Some(task),
        request_id: evil.clone(),
    };
    let _ = caller.work.submit(submit(task.clone())).await;
    task.working_dir = format!("/{evil}");
    let _ = caller.work.submit(submit(task)).await;
    let get = pb::GetTaskRequest {
        task_id: evil.clone(),
    };
    let _ = caller.work.get_task(get).await;
    let set = pb::SetContextRequest {
        key: evil.clone(),
        value: evil.clone(),
    };
    let _ = caller.context.set_context(set).await;
    let path = format!("/claudepool.v1.PoolService/{}", "%0d%0aforged");
    let _ = crate::support::raw::call(server.addr, &path, None, b"").await;
    // A skill whose text is no good is a warning of the log.
    let put = pb::PutSkillRequest {
        skill: Some(pb::Skill {
            name: evil.clone(),
            description: evil.clone(),
            ..Default::default()
        }),
    };
    let _ = server.caller.catalog.put_skill(put).await;
    drop(connect(server.addr).await);
    server.signal(rustix::process::Signal::TERM);
    assert!(server.ended().await.success());

    let text = program.log();
    assert!(text.contains("claudepool"), "it logs: {text}");
    for line in text.lines() {
        assert!(!line.starts_with(FORGED), "{line}");
        assert!(!line.starts_with("forged"), "{line}");
    }
    assert!(!text.contains('\u{1b}'), "no escape sequence");
}
