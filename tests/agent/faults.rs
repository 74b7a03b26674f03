//! Processes that go wrong.

use std::time::Duration;

use claudepool::agent::claude::{Claude, ClaudeOptions};
use claudepool::agent::conformance::{
    GRACE, Kit, Roll, begin, has_ended, placement, play, ready, spread, succeed, until, within,
};
use claudepool::agent::{Agent, AgentError, Launch, Observation, ProcessEnd, Profile, Session};

use crate::kit::{self, Fake, fake, fake_with};

/// What the turn ends with, if it is not its end.
async fn lost(session: &mut dyn Session) -> Observation {
    within("the loss", async {
        loop {
            let observation = session.next().await;
            if matches!(
                observation,
                Observation::ProcessEnded(_) | Observation::Violation(_)
            ) {
                return observation;
            }
        }
    })
    .await
}

async fn is_unclean(session: &mut dyn Session) -> bool {
    within("the reset", session.reset()).await.is_err()
}

#[tokio::test]
async fn an_exit_is_told_with_its_code_and_the_end_of_stderr() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    begin(&mut *session, "::stderr 1000000\n::exit 3").await;

    let Observation::ProcessEnded(end) = lost(&mut *session).await else {
        panic!("a process that exits has ended");
    };

    assert_eq!(end.exit_code, Some(3));
    assert!(
        (1..=4096).contains(&end.stderr_tail.len()),
        "{}",
        end.stderr_tail.len()
    );
}

#[tokio::test]
async fn a_process_that_kills_itself_is_told() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    begin(&mut *session, "::kill-self").await;

    let lost = lost(&mut *session).await;

    assert!(matches!(
        lost,
        Observation::ProcessEnded(ProcessEnd {
            exit_code: Some(137),
            ..
        })
    ));
}

#[tokio::test]
async fn garbage_is_a_violation_and_the_process_can_be_ended() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    begin(&mut *session, "::garbage\n::echo x").await;

    assert!(matches!(
        lost(&mut *session).await,
        Observation::Violation(_)
    ));
    within("the end", session.end(GRACE)).await;
}

#[tokio::test]
async fn unknown_types_pass_by() {
    let kit = fake().await;
    let mut session = ready(&kit).await;

    let played = succeed(&mut *session, "::unknown-type\n::echo x").await;

    assert_eq!(played.end.output, "x");
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_line_of_twenty_megabytes_is_read() {
    let kit = fake().await;
    let mut session = ready(&kit).await;

    let played = succeed(&mut *session, "::big-line 20000000\n::echo x").await;

    assert_eq!(played.end.output, "x");
    assert_eq!(within("the reset", session.reset()).await, Ok(()));
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_line_above_the_limit_is_a_violation() {
    let kit = fake_with(|options| options.line_bytes_max = 1 << 20).await;
    let mut session = ready(&kit).await;
    begin(&mut *session, "::big-line 20000000\n::echo x").await;

    assert!(matches!(
        lost(&mut *session).await,
        Observation::Violation(_)
    ));
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_closed_stdout_is_a_violation() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    begin(&mut *session, "::close-stdout\n::hang").await;

    assert!(matches!(
        lost(&mut *session).await,
        Observation::Violation(_)
    ));
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_second_result_is_not_the_next_turns() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    succeed(&mut *session, "::two-results\n::echo one").await;

    let played = succeed(&mut *session, "::echo two").await;

    assert_eq!(played.end.output, "two");
    assert!(is_unclean(&mut *session).await);
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_turn_of_its_own_accord_is_not_ours() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    succeed(&mut *session, "::self-turn\n::echo one").await;

    let played = succeed(&mut *session, "::echo two").await;

    assert_eq!(played.end.output, "two");
    assert!(is_unclean(&mut *session).await);
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_reset_that_is_not_done_is_unclean() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    succeed(&mut *session, "::reset-fails\n::echo one").await;

    assert!(is_unclean(&mut *session).await);
    assert!(is_unclean(&mut *session).await, "it stays so");
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_background_task_of_the_cli_is_unclean() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    succeed(&mut *session, "::background 1000\n::echo one").await;

    assert!(is_unclean(&mut *session).await);
    within("the end", session.end(GRACE)).await;
}

#[tokio::test]
async fn a_process_that_does_not_listen_is_killed_after_the_grace() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    succeed(&mut *session, "::ignore-term\n::echo one").await;

    let end = within("the end", session.end(Duration::from_millis(50))).await;

    assert_eq!(end.exit_code, Some(137));
}

/// The shim is the parent of the CLI.
fn shim_of(session: &dyn Session) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", session.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[1].parse().unwrap()
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn a_tree_whose_shim_was_killed_is_swept() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    let mut roll = Roll::open(&kit.workspace());
    let handles = spread(&mut *session, &mut roll).await;

    signal(shim_of(&*session), rustix::process::Signal::KILL);

    let Observation::ProcessEnded(end) = lost(&mut *session).await else {
        panic!("it has ended");
    };
    assert_eq!(end.exit_code, None);
    assert!(handles.iter().all(has_ended));
}

#[tokio::test]
async fn a_shim_that_was_stopped_cannot_hold_up_the_end() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    let mut roll = Roll::open(&kit.workspace());
    let handles = spread(&mut *session, &mut roll).await;

    signal(shim_of(&*session), rustix::process::Signal::STOP);

    within("the end", session.end(Duration::ZERO)).await;
    assert!(handles.iter().all(has_ended));
}

#[tokio::test]
async fn a_shim_ignores_the_signals_of_people_and_service_managers() {
    let kit = fake().await;
    let mut session = ready(&kit).await;

    use rustix::process::Signal;
    for ignored in [Signal::TERM, Signal::INT, Signal::HUP] {
        signal(shim_of(&*session), ignored);
    }

    assert_eq!(succeed(&mut *session, "::echo x").await.end.output, "x");
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends_the_tree() {
    let kit = fake().await;
    let mut before = ready(&kit).await;
    kit.claude.lease(Duration::from_millis(10));
    let mut after = None;
    if let Ok(session) = launch(&kit).await {
        after = Some(session);
    }

    assert!(matches!(
        lost(&mut *before).await,
        Observation::ProcessEnded(_)
    ));
    if let Some(mut after) = after {
        assert!(matches!(
            lost(&mut *after).await,
            Observation::ProcessEnded(_)
        ));
    }
}

#[tokio::test]
async fn a_lease_without_end_lets_processes_live() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    kit.claude.lease(Duration::from_secs(3600));
    kit.claude.lease(Duration::ZERO);

    assert_eq!(succeed(&mut *session, "::echo x").await.end.output, "x");
    session.end(GRACE).await;
}

async fn launch(kit: &Fake) -> Result<Box<dyn Session>, AgentError> {
    kit.agent()
        .launch(Launch {
            profile: Profile::default(),
            placement: Some(placement(&kit.workspace())),
            resume: None,
        })
        .await
}

#[tokio::test]
async fn a_start_that_fails_tells_why() {
    let kit = fake_with(|options| {
        options.env.insert("FAKE_START_FAIL".into(), "1".into());
    })
    .await;

    let Err(AgentError::Launch(why)) = launch(&kit).await else {
        panic!("it cannot start");
    };

    assert!(
        why.contains("code 1") && why.contains("the start failed"),
        "{why}"
    );
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_given_up() {
    let kit = fake_with(|options| {
        options
            .env
            .insert("FAKE_START_DELAY_MS".into(), "3600000".into());
        options.start_timeout = Duration::from_millis(100);
    })
    .await;

    let Err(AgentError::Launch(why)) = within("the answer", launch(&kit)).await else {
        panic!("it cannot start");
    };

    assert!(why.contains("100ms"), "{why}");
}

#[tokio::test]
async fn a_shim_that_is_none_is_told() {
    let kit = fake_with(|options| options.shim = vec!["/bin/true".into()]).await;

    let Err(AgentError::Launch(why)) = within("the answer", launch(&kit)).await else {
        panic!("it cannot start");
    };

    assert!(why.contains("shim"), "{why}");
}

fn open(change: impl FnOnce(&mut ClaudeOptions)) -> AgentError {
    let dir = tempfile::tempdir().unwrap();
    let mut options = kit::options(dir.path());
    change(&mut options);
    match Claude::open(options) {
        Ok(_) => panic!("it is unusable"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_or_not_executable_is_named() {
    let missing = open(|options| options.program = "/no/such/claude".into());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("claude");
    std::fs::write(&file, "").unwrap();
    let plain = open(|options| options.program = file);

    for (error, words) in [(missing, "/no/such/claude"), (plain, "not executable")] {
        let AgentError::Unusable(sentence) = error else {
            panic!("{error:?}");
        };
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[tokio::test]
async fn a_program_that_is_no_claude_is_unusable() {
    let kit = fake_with(|options| options.program = "/bin/echo".into()).await;

    assert!(matches!(
        kit.agent().probe().await,
        Err(AgentError::Unusable(_))
    ));
}

#[tokio::test]
async fn a_probe_without_spares_says_so() {
    let kit = fake_with(|options| {
        options.env.insert("FAKE_NO_AWAIT_CLAIM".into(), "1".into());
    })
    .await;

    let probe = within("the probe", kit.agent().probe()).await.unwrap();

    assert!(!probe.spares);
    assert!(
        probe.drift.iter().any(|d| d.contains("--await-claim")),
        "{probe:?}"
    );
}

#[tokio::test]
async fn a_failed_turn_leaves_the_process_clean() {
    let kit = fake().await;
    let mut session = ready(&kit).await;

    let played = play(&mut *session, "::error 400").await;

    let error = played.end.error.expect("it failed");
    assert_eq!(
        (error.api_status, error.terminal_reason.as_str()),
        (Some(400), "api_error")
    );
    assert_eq!(within("the reset", session.reset()).await, Ok(()));
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_retry_is_told_before_the_answer() {
    let kit = fake().await;
    let mut session = ready(&kit).await;
    begin(&mut *session, "::error-times 1 429\n::echo x").await;

    let is_end = |o: &Observation| matches!(o, Observation::TurnEnded(_));
    let told = until(&mut *session, "the end", is_end).await;

    let is_retry = |o: &Observation| {
        matches!(
            o,
            Observation::Retrying {
                api_status: Some(429),
                ..
            }
        )
    };
    assert!(told.iter().any(is_retry), "{told:?}");
    assert!(
        told.iter()
            .any(|o| matches!(o, Observation::RateLimited { .. }))
    );
    session.end(GRACE).await;
}
