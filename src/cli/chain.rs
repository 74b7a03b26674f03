//! A chain as it goes on: a bar on a terminal, a line per step.

use super::args::chain::{ChainArgs, FollowArgs};
use super::client::Client;
use super::failure::{Failure, is_transport};
use super::render;
use super::watch::{self, bar};
use super::{json, table};
use crate::pb;
use crate::pb::watch_chain_response::Item;

/// `claudepool chain`.
pub(super) async fn chain(mut client: Client, args: ChainArgs) -> Result<(), Failure> {
    let request = pb::SubmitChainRequest {
        steps: args.steps.read()?,
        options: Some(args.follow.work.chain_options()?),
        request_id: args.follow.work.request(),
    };
    let answer = client.pool.submit_chain(request).await;
    let task_id = client.answer(answer)?.task_id;
    follow(client, &task_id, &args.follow).await
}

/// Shows a chain to its end, or its id alone if it is left to itself.
pub(super) async fn follow(
    mut client: Client,
    task_id: &str,
    args: &FollowArgs,
) -> Result<(), Failure> {
    if args.detach {
        let answer = pb::SubmitChainResponse {
            task_id: task_id.to_owned(),
        };
        client.show("SubmitChainResponse", &answer, |a| render::line(&a.task_id));
        return Ok(());
    }
    if !client.json {
        render::note(&format!("task {task_id}"));
    }
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut asked = false;
    let bar = bar(0, client.json);
    let mut told = 0;
    let mut tries = 0;
    'attach: loop {
        let request = pb::WatchChainRequest {
            task_id: task_id.to_owned(),
            heartbeat_interval: None,
        };
        let lost = match client.pool.watch_chain(request).await {
            Err(status) => status,
            Ok(answer) => {
                let mut stream = answer.into_inner();
                loop {
                    let next = tokio::select! {
                        next = stream.message() => next,
                        _ = interrupt.as_mut() => {
                            interrupt.set(tokio::signal::ctrl_c());
                            if std::mem::replace(&mut asked, true) {
                                return Err(Failure::cancelled());
                            }
                            bar.suspend(|| render::note("cancelling the chain"));
                            let target = pb::cancel_request::Target::TaskId(task_id.to_owned());
                            watch::cancel(&mut client, target).await?;
                            continue;
                        }
                    };
                    match next {
                        Ok(Some(pb::WatchChainResponse {
                            item: Some(Item::Progress(progress)),
                        })) => {
                            tries = 0;
                            show(&client, &bar, &progress, &mut told);
                        }
                        Ok(Some(_)) => {}
                        Ok(None) => break 'attach,
                        Err(status) => break status,
                    }
                }
            }
        };
        tries += 1;
        if tries > watch::ATTACH_TRIES || !is_transport(&lost) {
            return Err(client.failure(&lost));
        }
        tokio::time::sleep(watch::ATTACH_PAUSE).await;
    }
    bar.finish_and_clear();
    end(client, task_id).await
}

fn show(
    client: &Client,
    bar: &indicatif::ProgressBar,
    progress: &pb::ChainProgress,
    told: &mut usize,
) {
    if client.json {
        render::line(&json::of("ChainProgress", progress).to_string());
        return;
    }
    bar.set_length(u64::try_from(progress.total_steps).unwrap_or_default());
    bar.set_position(progress.completed_steps.len() as u64);
    for step in progress.completed_steps.iter().skip(*told) {
        let line = table::step(step);
        bar.suspend(|| render::note(&line));
    }
    *told = progress.completed_steps.len().max(*told);
}

/// The chain's result, as that of any task.
async fn end(mut client: Client, task_id: &str) -> Result<(), Failure> {
    let request = pb::GetResultRequest {
        task_id: task_id.to_owned(),
        wait: None,
    };
    let answer = client.pool.get_result(request).await;
    let answer = client.answer(answer)?;
    let state = answer
        .task
        .as_ref()
        .map(pb::Task::state)
        .unwrap_or_default();
    let result = answer.result.clone().unwrap_or_default();
    if client.json {
        render::line(&json::of("GetResultResponse", &answer).to_string());
    } else {
        client.print_output(task_id, &result).await?;
        render::summary(state, &result, task_id);
    }
    watch::ended(state)
}
