//! Processes that go wrong, as the caller sees them: a result, or FAILED with
//! its reason in time; and the slot serves the next task, in another process.

use std::os::fd::OwnedFd;
use std::time::Duration;

use claudepool::agent::conformance::{Roll, ends, has_ended};
use claudepool::pb::{self, FailureReason, SlotState, TaskState};
use claudepool::pool::Options;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::support::{Harness, Kind, PATIENCE, Program, Running, events, finished, next, prompt};

/// One slot over the scripted CLI, patient with nothing.
pub fn one_slot(set: impl FnOnce(&mut Options)) -> Harness {
    Harness::of(Kind::Fake).options(|o| {
        o.slots = 1;
        o.spares = 0;
        o.cancel_grace = Duration::from_millis(600);
        o.settings.allowed_tools = vec!["Bash".into()];
        set(o);
    })
}

/// The process of the only slot once it is idle.
pub async fn process(server: &mut Running) -> OwnedFd {
    let slot = until_slot(server, |slot| slot.state() == SlotState::Idle).await;
    let pid = slot.pid.and_then(Pid::from_raw).expect("an idle process");
    pidfd_open(pid, PidfdFlags::empty()).expect("it lives")
}

/// The only slot once it is as wanted.
async fn until_slot(server: &mut Running, wanted: impl Fn(&pb::Slot) -> bool) -> pb::Slot {
    let request = pb::WatchStatusRequest {
        interval: Some(Duration::from_millis(100).try_into().unwrap()),
        ..Default::default()
    };
    let watch = server.work.watch_status(request).await.unwrap();
    let mut watch = watch.into_inner();
    let fits = async {
        loop {
            let message = next(&mut watch).await.unwrap().expect("it goes on");
            if let Some(pb::watch_status_response::Item::Status(status)) = message.item
                && let Some(slot) = status.slots.into_iter().next()
                && wanted(&slot)
            {
                return slot;
            }
        }
    };
    tokio::time::timeout(PATIENCE, fits).await.expect("in time")
}

pub async fn serves(server: &mut Running) {
    let task = server.say("and goes on");
    let answer = server.finish(task).await;
    assert_eq!(answer.result.unwrap().output, "and goes on");
}

/// Runs a task that fails with `reason`. Its process is gone by then, and the
/// slot serves on.
pub async fn fails(harness: Harness, script: &str, reason: FailureReason) -> pb::Failure {
    let mut server = harness.start().await;
    let process = process(&mut server).await;

    let answer = server.finish(prompt(script)).await;

    assert_eq!(answer.task.unwrap().state(), TaskState::Failed, "{script}");
    let failure = answer.result.unwrap().failure.unwrap();
    assert_eq!(failure.reason(), reason, "{script}: {failure:?}");
    assert!(has_ended(&process), "{script}: its process lives");
    serves(&mut server).await;
    failure
}

/// Runs a task that succeeds with `x`. Its process is replaced, and the slot
/// serves on.
pub async fn succeeds_and_is_replaced(harness: Harness, script: &str) {
    let mut server = harness.start().await;
    let process = process(&mut server).await;

    let answer = server.finish(prompt(script)).await;

    assert_eq!(answer.result.unwrap().output, "x", "{script}");
    assert!(ends(process, PATIENCE).await, "{script}: it serves on");
    serves(&mut server).await;
}

/// Runs a task that succeeds with `x`, and another one in the same process.
pub async fn succeeds_and_serves_on(script: &str) {
    let mut server = one_slot(|_| {}).start().await;
    let process = process(&mut server).await;

    let answer = server.finish(prompt(script)).await;

    assert_eq!(answer.result.unwrap().output, "x", "{script}");
    serves(&mut server).await;
    assert!(!has_ended(&process), "{script}: it was replaced");
}

pub fn stalls(set: impl FnOnce(&mut Options)) -> Harness {
    one_slot(|o| {
        o.stall_timeout = Duration::from_secs(1);
        set(o);
    })
}

// Watchdogs.

#[tokio::test]
async fn a_turn_without_a_result_is_a_stall() {
    let script = "::no-result\n::echo x";
    fails(stalls(|_| {}), script, FailureReason::Stalled).await;
}

#[tokio::test]
async fn a_stalled_process_that_ignores_everything_is_killed() {
    let script = "::ignore-term\n::hang";
    fails(stalls(|_| {}), script, FailureReason::Stalled).await;
}

#[tokio::test]
async fn a_tool_that_runs_silently_is_no_stall() {
    let mut server = stalls(|_| {}).start().await;

    let task = prompt("::bash sleep 2\n::echo x");
    let answer = server.finish(task).await;

    assert_eq!(answer.result.unwrap().output, "x");
}

#[tokio::test]
async fn the_silence_after_a_tool_is_a_stall_again() {
    let script = "::bash true\n::hang";
    fails(stalls(|_| {}), script, FailureReason::Stalled).await;
}

#[tokio::test]
async fn a_tool_that_never_ends_is_ended_by_the_run_timeout_with_all_it_started() {
    let harness = stalls(|o| o.run_timeout = Duration::from_secs(2));
    let mut server = harness.start().await;
    let mut roll = Roll::open(server.working_dir());
    let teller = roll.teller();
    let task = prompt(format!("::ignore-term\n::bash setsid {teller} & {teller}"));
    let id = server.submit(task).await;
    let tree = roll.next(2).await;

    let log = events(server.watch(&id, 0).await).await;

    let failure = finished(&log).result.clone().unwrap().failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::RunTimeout);
    assert!(tree.iter().all(has_ended));
    serves(&mut server).await;
}

#[tokio::test]
async fn a_reset_that_is_never_answered_costs_the_process_and_nothing_else() {
    let harness = one_slot(|_| {}).agent(|o| o.reset_timeout = Duration::from_millis(200));
    succeeds_and_is_replaced(harness, "::reset-hangs\n::echo x").await;
}

/// A pool whose processes do not start while `file` is there.
fn hanging_starts(file: &std::path::Path) -> Harness {
    let file = file.display().to_string();
    one_slot(|o| o.max_restarts = 1000).agent(move |o| {
        o.env.insert("FAKE_START_HANG_FILE".into(), file);
        o.start_timeout = Duration::from_secs(1);
    })
}

#[tokio::test]
async fn a_start_that_hangs_is_told_and_the_slot_serves_once_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hang");
    let mut server = hanging_starts(&file).start().await;
    until_slot(&mut server, |slot| slot.state() == SlotState::Idle).await;
    std::fs::write(&file, "").unwrap();

    // Its process ends with it, and the next one hangs.
    let answer = server.finish(prompt("::two-results\n::echo x")).await;
    let waits = server.submit(prompt("::echo x")).await;
    let slot = until_slot(&mut server, |slot| slot.failed_launches > 0).await;
    let queued = server.task(&waits).await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(answer.result.unwrap().output, "x");
    let answer = server.result(&waits).await;

    assert!(slot.last_error.contains("no answer within 1s"), "{slot:?}");
    assert_eq!(queued.state(), TaskState::Queued);
    assert_eq!(answer.result.unwrap().output, "x");
}

#[tokio::test]
async fn a_task_whose_own_process_does_not_start_fails_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hang");
    let mut server = hanging_starts(&file).start().await;
    until_slot(&mut server, |slot| slot.state() == SlotState::Idle).await;
    std::fs::write(&file, "").unwrap();
    let own = pb::TaskSpec {
        settings: Some(pb::RunSettings {
            allowed_tools: vec!["Read".into()],
            ..Default::default()
        }),
        ..prompt("::echo x")
    };

    let answer = server.finish(own).await;

    let failure = answer.result.unwrap().failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::Launch, "{failure:?}");
    std::fs::remove_file(&file).unwrap();
    serves(&mut server).await;
}

// What a process writes.

#[tokio::test]
async fn a_line_of_twenty_megabytes_is_no_fault() {
    succeeds_and_serves_on("::big-line 20000000\n::echo x").await;
}

#[tokio::test]
async fn a_megabyte_of_stderr_is_no_fault() {
    succeeds_and_serves_on("::stderr 1000000\n::echo x").await;
}

#[tokio::test]
async fn unknown_types_are_no_fault() {
    succeeds_and_serves_on("::unknown-type\n::echo x").await;
}

#[tokio::test]
async fn bytes_that_are_no_text_cost_the_process_and_not_the_task() {
    succeeds_and_is_replaced(one_slot(|_| {}), "::bad-utf8\n::echo x").await;
}

#[tokio::test]
async fn garbage_fails_the_task_as_a_breach_of_protocol() {
    let script = "::garbage\n::echo x";
    fails(one_slot(|_| {}), script, FailureReason::Protocol).await;
}

#[tokio::test]
async fn a_line_without_end_is_a_breach_of_protocol_at_its_limit() {
    let harness = one_slot(|_| {}).agent(|o| o.line_bytes_max = 1 << 20);
    fails(harness, "::endless-line", FailureReason::Protocol).await;
}

#[tokio::test]
async fn a_closed_stdout_is_a_breach_of_protocol() {
    let script = "::close-stdout\n::hang";
    fails(one_slot(|_| {}), script, FailureReason::Protocol).await;
}

#[tokio::test]
async fn half_a_line_and_an_exit_is_a_death() {
    let script = "::half-line\n::exit 7";
    let failure = fails(one_slot(|_| {}), script, FailureReason::ProcessDied).await;
    assert_eq!(failure.exit_code, Some(7));
}

#[tokio::test]
async fn an_exit_that_calls_itself_success_without_a_result_is_a_death() {
    let script = "::stderr 10000\n::exit 0";
    let failure = fails(one_slot(|_| {}), script, FailureReason::ProcessDied).await;
    assert_eq!(failure.exit_code, Some(0));
    assert!((1..=4096).contains(&failure.stderr_tail.len()));
}

#[tokio::test]
async fn two_results_cost_the_process_and_not_the_next_task() {
    succeeds_and_is_replaced(one_slot(|_| {}), "::two-results\n::echo x").await;
}

#[tokio::test]
async fn a_result_without_a_turn_costs_the_process_and_not_the_next_task() {
    succeeds_and_is_replaced(one_slot(|_| {}), "::late-result\n::echo x").await;
}

#[tokio::test]
async fn a_turn_that_nobody_began_costs_the_process_and_not_the_next_task() {
    succeeds_and_is_replaced(one_slot(|_| {}), "::self-turn\n::echo x").await;
    succeeds_and_is_replaced(one_slot(|_| {}), "::late-turn\n::echo x").await;
}

#[tokio::test]
async fn background_work_that_would_begin_a_turn_goes_with_its_process() {
    succeeds_and_is_replaced(one_slot(|_| {}), "::background 0.1\n::echo x").await;
    succeeds_and_is_replaced(one_slot(|_| {}), "::background 1000\n::echo x").await;
}

// Memory.

/// Most memory a process had at a time, in bytes.
fn memory_peak(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    let status = status.unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

/// What a server may hold of what a process says, in bytes.
const HELD_MAX: u64 = 64 << 20;

#[tokio::test]
async fn output_without_end_takes_bounded_memory_and_ends_by_the_run_timeout() {
    let program = Program::with("run_timeout = '3s'").await;
    let mut server = program.serve().await;
    let caller = &mut server.caller;
    caller.finish(caller.say("warm")).await;
    let before = memory_peak(server.pid());

    let caller = &mut server.caller;
    let answer = caller.finish(prompt("::endless-text")).await;

    let failure = answer.result.unwrap().failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::RunTimeout);
    let task = answer.task.unwrap();
    let grown = memory_peak(server.pid()) - before;
    assert!(grown < HELD_MAX, "{grown} bytes");
    println!(
        "{} log entries, {grown} bytes of memory",
        task.last_sequence
    );
    let caller = &mut server.caller;
    let answer = caller.finish(caller.say("and goes on")).await;
    assert_eq!(answer.result.unwrap().output, "and goes on");
}

#[tokio::test]
async fn half_a_gigabyte_of_noise_takes_bounded_memory() {
    let program = Program::new().await;
    let mut server = program.serve().await;
    let caller = &mut server.caller;
    caller.finish(caller.say("warm")).await;
    let before = memory_peak(server.pid());

    let caller = &mut server.caller;
    let answer = caller.finish(prompt("::noise 500000000\n::echo x")).await;

    assert_eq!(answer.result.unwrap().output, "x");
    let grown = memory_peak(server.pid()) - before;
    assert!(grown < HELD_MAX, "{grown} bytes");
}
