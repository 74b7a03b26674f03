//! Processes: placement, sessions, trees and ends.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

use super::*;
use crate::agent::AgentError;

/// Directory and system prompts of a placement are those of every turn, also
/// after a reset.
pub async fn a_placement_is_in_force(kit: &dyn Kit) {
    let workspace = kit.workspace();
    let placement = Placement {
        system_prompt: Some("system-1188".into()),
        append_system_prompt: Some("appended-2299".into()),
        ..placement(&workspace)
    };
    let mut session = placed(kit, profile(), placement).await;

    for _ in 0..2 {
        let played = succeed(&mut *session, "::bash pwd").await;
        let (_, _, dir) = played.in_force();
        assert_eq!(Path::new(dir), workspace);
        let shown = kit.shown(&mut *session).await;
        assert!(shown.contains("system-1188") && shown.contains("appended-2299"));
        session.reset().await.expect("the process is clean");
    }
    session.end(GRACE).await;
}

/// A directory that does not exist is the caller's mistake.
pub async fn a_directory_that_is_not_there_is_refused(kit: &dyn Kit) {
    let launch = Launch {
        profile: profile(),
        placement: Some(placement(Path::new("/no/such/directory"))),
        resume: None,
    };

    let Err(AgentError::Refused { setting, .. }) = kit.agent().launch(launch).await else {
        panic!("it was not refused");
    };
    assert_eq!(setting, "working_dir");
}

/// A saved session goes on in another process and another directory.
pub async fn a_saved_session_is_resumed_and_pays_its_past_once(kit: &dyn Kit) {
    let saving = Profile {
        save_sessions: true,
        ..profile()
    };
    let prompt = "::tokens 1000 100\n::echo remember-5533";
    let mut session = placed(kit, saving.clone(), placement(&kit.workspace())).await;
    let first = succeed(&mut *session, prompt).await.end;
    session.end(GRACE).await;

    let other = kit.workspace().join("other");
    std::fs::create_dir(&other).expect("the workspace can be written");
    let launch = Launch {
        profile: saving,
        placement: Some(placement(&other)),
        resume: Some(first.session_id.clone()),
    };
    let mut session = within("the start", kit.agent().launch(launch))
        .await
        .expect("a saved session can be resumed");

    let second = succeed(&mut *session, prompt).await.end;
    assert_eq!(second.session_id, first.session_id);
    assert_eq!(second.cost, first.cost);
    assert!(kit.shown(&mut *session).await.contains("remember-5533"));
    session.end(GRACE).await;
}

/// A session that was forgotten cannot be resumed.
pub async fn a_forgotten_session_is_not_resumed(kit: &dyn Kit) {
    let saving = Profile {
        save_sessions: true,
        ..profile()
    };
    let mut session = placed(kit, saving.clone(), placement(&kit.workspace())).await;
    let saved = succeed(&mut *session, "::echo x").await.end.session_id;
    session.end(GRACE).await;

    kit.agent().forget(&saved).await;

    let launch = Launch {
        profile: saving,
        placement: Some(placement(&kit.workspace())),
        resume: Some(saved),
    };
    let launched = within("the answer", kit.agent().launch(launch)).await;
    assert!(matches!(launched, Err(AgentError::NoSession)));
}

/// A session that was never saved is an error, not an empty conversation.
pub async fn a_session_that_is_not_there_is_not_resumed(kit: &dyn Kit) {
    let launch = Launch {
        profile: profile(),
        placement: Some(placement(&kit.workspace())),
        resume: Some("7a0c4ad1-6f4b-4d5c-9d63-2f1df5e1b0aa".into()),
    };

    let launched = within("the answer", kit.agent().launch(launch)).await;

    assert!(matches!(launched, Err(AgentError::NoSession)));
}

/// A pipe with a name, through which processes of a tool tell their pids.
pub struct Roll {
    path: PathBuf,
    lines: BufReader<pipe::Receiver>,
}

impl Roll {
    /// In the directory `dir`.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("roll");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).expect("a pipe can be made");
        // Also a writer, so that it does not end between two tellers.
        let lines = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(&path)
            .expect("a pipe can be opened");
        Self {
            path,
            lines: BufReader::new(lines),
        }
    }

    /// A shell command that tells its pid and then does nothing, for ever.
    pub fn teller(&self) -> String {
        format!(
            "sh -c 'echo $$ > {}; exec tail -f /dev/null'",
            self.path.display()
        )
    }

    /// Handles of the next `count` processes that tell their pids.
    pub async fn next(&mut self, count: usize) -> Vec<OwnedFd> {
        let mut handles = Vec::new();
        for _ in 0..count {
            let mut line = String::new();
            within("a pid", self.lines.read_line(&mut line))
                .await
                .expect("the pipe can be read");
            let pid = line.trim().parse().ok().and_then(Pid::from_raw);
            let pid = pid.expect("a pid is told");
            handles.push(pidfd_open(pid, PidfdFlags::empty()).expect("it lives"));
        }
        handles
    }
}

/// Whether a process has ended.
pub fn has_ended(handle: &OwnedFd) -> bool {
    ends_within(handle, Duration::ZERO)
}

/// Waits for a process to end; `false`: it did not within `limit`.
pub async fn ends(handle: OwnedFd, limit: Duration) -> bool {
    let wait = move || ends_within(&handle, limit);
    tokio::task::spawn_blocking(wait).await.unwrap_or(false)
}

/// Waits for a process to end. Blocks.
fn ends_within(handle: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).expect("a short time");
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready > 0)
}

/// Begins a turn whose tool leaves processes in every way a shell has: in the
/// foreground, in a session of their own, and without a parent.
pub async fn spread(session: &mut dyn Session, roll: &mut Roll) -> Vec<OwnedFd> {
    let teller = roll.teller();
    let command = format!("setsid {teller} & ( ( {teller} & ) & ); {teller}");
    begin(session, &format!("::bash {command}")).await;
    roll.next(3).await
}

/// When a process has ended nothing of its tree is left.
pub async fn everything_below_is_gone_after_the_end(kit: &dyn Kit) {
    for grace in [GRACE, Duration::ZERO] {
        let mut session = ready(kit).await;
        let dir = tempfile::tempdir().expect("there is room");
        let mut roll = Roll::open(dir.path());
        let handles = spread(&mut *session, &mut roll).await;

        within("the end", session.end(grace)).await;

        assert!(handles.iter().all(has_ended), "after {grace:?}");
    }
}

/// A dropped session takes its tree with it.
pub async fn everything_below_is_gone_after_a_drop(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let mut roll = Roll::open(&kit.workspace());
    let handles = spread(&mut *session, &mut roll).await;

    drop(session);

    for handle in handles {
        assert!(ends(handle, LIMIT).await);
    }
}

/// What runs on after a turn keeps the process from another task.
pub async fn a_process_in_the_background_makes_it_unclean(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let mut roll = Roll::open(&kit.workspace());
    let command = format!("setsid {} >/dev/null 2>&1 &", roll.teller());
    succeed(&mut *session, &format!("::bash {command}")).await;
    let handles = roll.next(1).await;

    let reset = within("the reset", session.reset()).await;

    assert!(reset.is_err());
    session.end(GRACE).await;
    assert!(handles.iter().all(has_ended));
}

/// A death is told with its cause, within a turn.
pub async fn a_killed_process_tells_its_signal(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    begin(&mut *session, "::hang").await;
    let is_start = |o: &Observation| matches!(o, Observation::TurnStarted { .. });
    until(&mut *session, "the start", is_start).await;
    let pid = i32::try_from(session.pid()).ok().and_then(Pid::from_raw);
    let pid = pid.expect("a process has a pid");

    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");

    let is_end = |o: &Observation| matches!(o, Observation::ProcessEnded(_));
    let told = until(&mut *session, "the death", is_end).await;
    let Some(Observation::ProcessEnded(end)) = told.last() else {
        panic!("{told:?}");
    };
    assert_eq!(end.exit_code, Some(137));
    assert_eq!(session.end(GRACE).await, *end);
}

/// The agent under test is one that can be used.
pub async fn a_probe_finds_the_agent_usable(kit: &dyn Kit) {
    let probe = within("the probe", kit.agent().probe()).await;

    let probe = probe.expect("the agent is usable");
    assert!(!probe.version.is_empty());
    assert_eq!(probe.drift.len(), usize::from(!probe.spares), "{probe:?}");
}
