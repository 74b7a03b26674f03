//! The whole program on PostgreSQL.

use claudepool::pb::TaskState;

use crate::server::SHARED;
use crate::support::Program;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_postgresql_runs_tasks_and_keeps_them_over_its_death() {
    let name = SHARED.database().await;
    let program = Program::new().await.on(SHARED.url(&name));
    let mut server = program.serve().await;
    let caller = &mut server.caller;
    let done = caller.submit(caller.say("hello")).await;
    caller.result(&done).await;
    server.kill().await;

    let mut server = program.serve().await;

    let caller = &mut server.caller;
    let kept = caller.task(&done).await;
    assert_eq!(kept.state(), TaskState::Succeeded);
    caller.finish(caller.say("again")).await;
}
