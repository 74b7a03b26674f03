//! The client commands that follow a stream: run, watch, fan-out.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tonic::Status;

use super::args::{FanOutArgs, RunArgs, WatchArgs};
use super::client::Client;
use super::failure::{Failure, is_transport};
use super::render::{self, Live};
use super::{json, table};
use crate::pb;
use crate::pb::run_stream_response::Item;

/// How often a broken stream is taken up again, and the wait before it: within
/// the 5 s that the server keeps the work of a caller who left.
pub(super) const ATTACH_TRIES: u32 = 4;
pub(super) const ATTACH_PAUSE: Duration = Duration::from_secs(1);

/// The exit status that a task's end is worth.
pub(super) fn ended(state: pb::TaskState) -> Result<(), Failure> {
    match state {
        pb::TaskState::Succeeded => Ok(()),
        pb::TaskState::Cancelled => Err(Failure::cancelled()),
        _ => Err(Failure::failed("")),
    }
}

/// What a run ended with.
pub(super) struct Ended {
    pub(super) state: pb::TaskState,
    pub(super) result: pb::TaskResult,
}

/// `claudepool run`.
pub(super) async fn run(mut client: Client, args: RunArgs) -> Result<(), Failure> {
    let request = pb::RunStreamRequest {
        task: Some(args.work.spec(args.prompt.read()?)?),
        request_id: args.work.request(),
        detach: args.detach,
        ..pb::RunStreamRequest::default()
    };
    let mut live = Live::new(std::io::stdout().is_terminal(), !client.json);
    let mut run = Run::new(request);
    // One and the same while the stream is read: a new one for each message
    // would miss a signal that comes in between.
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    // The answer to whether the task is to be cancelled, while it is awaited.
    let mut sure: Option<tokio::task::JoinHandle<bool>> = None;
    let ended_with = loop {
        tokio::select! {
            step = run.next(&mut client) => match step? {
                Item::Accepted(accepted) if !client.json => live.accepted(&accepted.task_id),
                Item::Event(event) => {
                    client.show("Event", &event, |event| live.event(event));
                    if let Some(ended) = finished(event) {
                        break ended;
                    }
                }
                Item::Accepted(accepted) => client.show("RunAccepted", &accepted, |_| {}),
                Item::Heartbeat(_) => {}
            },
            _ = interrupt.as_mut() => {
                interrupt.set(tokio::signal::ctrl_c());
                if args.detach {
                    live.note(&format!("it goes on: claudepool watch {}", run.task_id));
                    return Ok(());
                }
                if sure.is_none() && can_ask() {
                    live.note("cancel the task? y, or Ctrl-C again, cancels it; anything else lets it run");
                    sure = Some(tokio::task::spawn_blocking(says_yes));
                    continue;
                }
                // The stream goes on and shows how it ends.
                run.cancel(&mut client).await?;
            }
            yes = async { sure.as_mut().expect("asked").await }, if sure.is_some() => {
                sure = None;
                if yes.unwrap_or(false) {
                    run.cancel(&mut client).await?;
                }
            }
        }
    };
    if !client.json {
        if !live.shows_text() {
            client
                .print_output(&run.task_id, &ended_with.result)
                .await?;
        }
        render::summary(ended_with.state, &ended_with.result, &run.task_id);
    }
    ended(ended_with.state)
}

/// Whether there is somebody to ask.
fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

fn says_yes() -> bool {
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// The end of the log, if that is what the event is.
pub(super) fn finished(event: pb::Event) -> Option<Ended> {
    let Some(pb::event::Kind::Finished(end)) = event.kind else {
        return None;
    };
    Some(Ended {
        state: end.state(),
        result: end.result.unwrap_or_default(),
    })
}

/// A RunStream that is taken up again where its connection broke.
pub(super) struct Run {
    request: pb::RunStreamRequest,
    stream: Option<tonic::Streaming<pb::RunStreamResponse>>,
    tries: u32,
    cancelling: bool,
    /// Empty until the task is durable.
    pub(super) task_id: String,
}

impl Run {
    pub(super) fn new(request: pb::RunStreamRequest) -> Self {
        Self {
            request,
            stream: None,
            tries: 0,
            cancelling: false,
            task_id: String::new(),
        }
    }

    /// The next message. Safe to drop and call again.
    pub(super) async fn next(&mut self, client: &mut Client) -> Result<Item, Failure> {
        loop {
            let Some(stream) = &mut self.stream else {
                match client.pool.run_stream(self.request.clone()).await {
                    Ok(answer) => self.stream = Some(answer.into_inner()),
                    Err(status) => self.lost(client, &status).await?,
                }
                continue;
            };
            match stream.message().await {
                Ok(Some(pb::RunStreamResponse { item: Some(item) })) => {
                    self.tries = 0;
                    match &item {
                        Item::Accepted(a) if self.task_id.is_empty() => {
                            self.task_id.clone_from(&a.task_id);
                        }
                        // Said already, before the connection broke.
                        Item::Accepted(_) => continue,
                        Item::Event(event) => self.request.after_sequence = event.sequence,
                        Item::Heartbeat(_) => {}
                    }
                    return Ok(item);
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    let status = Status::unavailable("the stream ended early");
                    self.lost(client, &status).await?;
                }
                Err(status) => self.lost(client, &status).await?,
            }
        }
    }

    /// Waits for the next try, if there is one.
    async fn lost(&mut self, client: &Client, status: &Status) -> Result<(), Failure> {
        self.stream = None;
        self.tries += 1;
        if self.task_id.is_empty() || self.tries > ATTACH_TRIES || !is_transport(status) {
            return Err(client.failure(status));
        }
        render::note("the connection broke; attaching again");
        tokio::time::sleep(ATTACH_PAUSE).await;
        Ok(())
    }

    /// Cancels the task, once; a second wish ends the command.
    pub(super) async fn cancel(&mut self, client: &mut Client) -> Result<(), Failure> {
        if self.task_id.is_empty() || std::mem::replace(&mut self.cancelling, true) {
            return Err(Failure::cancelled());
        }
        cancel(
            client,
            pb::cancel_request::Target::TaskId(self.task_id.clone()),
        )
        .await
    }
}

/// Cancels; that it has ended meanwhile is no failure.
pub(super) async fn cancel(
    client: &mut Client,
    target: pb::cancel_request::Target,
) -> Result<(), Failure> {
    let request = pb::CancelRequest {
        target: Some(target),
    };
    match client.pool.cancel(request).await {
        Ok(_) => Ok(()),
        // It ended in the meantime; the stream tells how.
        Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok(()),
        Err(status) => Err(client.failure(&status)),
    }
}

/// `claudepool watch`. It is only a look: Ctrl-C ends it, not the task.
pub(super) async fn watch(mut client: Client, args: WatchArgs) -> Result<(), Failure> {
    let mut live = Live::new(true, !client.json);
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut after = args.after;
    let mut tries = 0;
    loop {
        let request = pb::WatchTaskRequest {
            task_id: args.task_id.clone(),
            after_sequence: after,
            heartbeat_interval: None,
        };
        let lost = match client.pool.watch_task(request).await {
            Err(status) => status,
            Ok(answer) => {
                let mut stream = answer.into_inner();
                loop {
                    let next = tokio::select! {
                        next = stream.message() => next,
                        _ = interrupt.as_mut() => {
                            live.note(&format!(
                                "the task goes on; come back with: claudepool watch {} --after {after}",
                                args.task_id
                            ));
                            return Ok(());
                        }
                    };
                    match next {
                        Ok(Some(next)) => {
                            let Some(pb::watch_task_response::Item::Event(event)) = next.item
                            else {
                                continue;
                            };
                            (after, tries) = (event.sequence, 0);
                            client.show("Event", &event, |event| live.event(event));
                            if let Some(end) = finished(event) {
                                if !client.json {
                                    render::summary(end.state, &end.result, &args.task_id);
                                }
                                return ended(end.state);
                            }
                        }
                        Ok(None) => {
                            return Err(Failure::failed("the stream ended before the task did"));
                        }
                        Err(status) => break status,
                    }
                }
            }
        };
        tries += 1;
        if tries > ATTACH_TRIES || !is_transport(&lost) {
            return Err(client.failure(&lost));
        }
        live.note("the connection broke; attaching again");
        tokio::time::sleep(ATTACH_PAUSE).await;
    }
}

/// `claudepool fan-out`.
pub(super) async fn fan_out(mut client: Client, args: FanOutArgs) -> Result<(), Failure> {
    let request = pb::FanOutRequest {
        tasks: args.specs()?,
        request_id: args.work.request(),
        detach: args.detach,
        heartbeat_interval: None,
    };
    let total = follow_fan_out(&mut client, request, true).await?;
    if !client.json {
        render::note(&total.line());
    }
    if total.succeeded == total.tasks {
        Ok(())
    } else if total.cancelled > 0 && total.cancelled + total.succeeded == total.tasks {
        Err(Failure::cancelled())
    } else {
        Err(Failure::failed(""))
    }
}

/// What a fan-out came to.
#[derive(Default)]
pub(super) struct Total {
    pub(super) tasks: usize,
    pub(super) succeeded: usize,
    cancelled: usize,
    pub(super) cost_microdollars: i64,
}

impl Total {
    /// In one line.
    pub(super) fn line(&self) -> String {
        format!(
            "{} of {} succeeded, {}",
            self.succeeded,
            self.tasks,
            render::dollars(self.cost_microdollars)
        )
    }
}

/// Runs a fan-out to its end: a bar on a terminal and a line per item.
pub(super) async fn follow_fan_out(
    client: &mut Client,
    request: pb::FanOutRequest,
    cancel_on_signal: bool,
) -> Result<Total, Failure> {
    use pb::fan_out_response::Item;
    let detach = request.detach;
    let mut total = Total {
        tasks: request.tasks.len(),
        ..Total::default()
    };
    let answer = client.pool.fan_out(request).await;
    let mut stream = client.answer(answer)?;
    let bar = bar(total.tasks, client.json);
    let mut group = String::new();
    let mut asked = false;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let next = tokio::select! {
            next = stream.message() => next.map_err(|s| client.failure(&s))?,
            _ = interrupt.as_mut(), if cancel_on_signal => {
                interrupt.set(tokio::signal::ctrl_c());
                if detach {
                    bar.println(format!("they go on: claudepool tasks --group {group}"));
                    return Err(Failure::cancelled());
                }
                if group.is_empty() || std::mem::replace(&mut asked, true) {
                    return Err(Failure::cancelled());
                }
                let target = pb::cancel_request::Target::GroupId(group.clone());
                cancel(client, target).await?;
                continue;
            }
        };
        let Some(message) = next else { break };
        if client.json {
            if !matches!(message.item, Some(Item::Heartbeat(_)) | None) {
                render::line(&json::of("FanOutResponse", &message).to_string());
            }
        } else if let Some(Item::Finished(item)) = &message.item {
            let line = table::fan_out_item(item);
            bar.suspend(|| render::line(&line));
        }
        match message.item {
            Some(Item::Accepted(accepted)) => group = accepted.group_id,
            Some(Item::Finished(item)) => {
                bar.inc(1);
                match item.state() {
                    pb::TaskState::Succeeded => total.succeeded += 1,
                    pb::TaskState::Cancelled => total.cancelled += 1,
                    _ => {}
                }
                total.cost_microdollars += item.result.map_or(0, |r| r.cost_microdollars);
            }
            Some(Item::Heartbeat(_)) | None => {}
        }
    }
    bar.finish_and_clear();
    Ok(total)
}

/// Drawn only on a terminal.
pub(super) fn bar(length: usize, hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len} done, {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
