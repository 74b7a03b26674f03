//! The operators' commands.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::operate::{
    BudgetArgs, DrainArgs, Limit, PauseArgs, Scale, ScaleArgs, SlotsArgs, StatusArgs,
};
use super::client::Client;
use super::failure::Failure;
use super::render::{dollars, line, text};
use super::{json, table};
use crate::pb;

/// `claudepool status`.
pub(super) async fn status(mut client: Client, args: StatusArgs) -> Result<(), Failure> {
    if args.config {
        let request = pb::GetConfigRequest::default();
        let answer = client.operator.get_config(request).await;
        let answer = client.answer(answer)?;
        client.show("GetConfigResponse", &answer, |a| text(&a.toml));
        return Ok(());
    }
    if !args.watch {
        let status = client.status().await?;
        client.show("PoolStatus", &status, table::status);
        return Ok(());
    }
    let answer = client.pool.watch_status(pb::WatchStatusRequest::default());
    let answer = answer.await;
    let mut snapshots = client.answer(answer)?;
    let screen = screen();
    while let Some(next) = snapshots.message().await.map_err(|s| client.failure(&s))? {
        let Some(pb::watch_status_response::Item::Status(status)) = next.item else {
            continue;
        };
        if client.json || screen.is_hidden() {
            client.show("PoolStatus", &status, table::status_line);
            continue;
        }
        let request = pb::ListSlotsRequest::default();
        let answer = client.operator.list_slots(request).await;
        let slots = client.answer(answer)?.slots;
        let mut lines = table::status_lines(&status);
        lines.push(String::new());
        lines.extend(table::slot_lines(&slots));
        lines.push(String::new());
        lines.push("Ctrl-C ends this view, not the server.".to_owned());
        screen.set_message(lines.join("\n"));
        screen.tick();
    }
    Err(Failure::failed("the server ended the stream"))
}

/// Lines that are drawn in place of the last ones; hidden where there is no
/// terminal.
fn screen() -> ProgressBar {
    let screen = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        screen.set_style(style);
    }
    screen
}

/// `claudepool slots`.
pub(super) async fn slots(mut client: Client, args: SlotsArgs) -> Result<(), Failure> {
    let slots = if let Some(slot_id) = args.restart {
        let request = pb::RestartSlotRequest {
            slot_id,
            ..pb::RestartSlotRequest::default()
        };
        let answer = client.operator.restart_slot(request).await;
        client.answer(answer)?.slot.into_iter().collect()
    } else {
        let request = pb::ListSlotsRequest::default();
        let answer = client.operator.list_slots(request).await;
        client.answer(answer)?.slots
    };
    if client.json {
        for slot in &slots {
            line(&json::of("Slot", slot).to_string());
        }
    } else {
        table::slots(&slots);
    }
    Ok(())
}

/// `claudepool scale`.
pub(super) async fn scale(mut client: Client, args: ScaleArgs) -> Result<(), Failure> {
    let timeout = args.timeout.and_then(|wait| wait.try_into().ok());
    let request_id = uuid::Uuid::new_v4().to_string();
    let said = |target, total, retiring| {
        let leaving = match retiring {
            0 => String::new(),
            n => format!(", {n} leaving"),
        };
        line(&format!("{target} slots wanted, {total} there{leaving}"));
    };
    match args.slots {
        Scale::To(target) => {
            let request = pb::SetTargetSlotsRequest {
                target,
                timeout,
                node_id: String::new(),
            };
            let answer = client.operator.set_target_slots(request).await;
            let answer = client.answer(answer)?;
            client.show("SetTargetSlotsResponse", &answer, |a| {
                said(a.target, a.total, a.retiring);
            });
        }
        Scale::Up(count) => {
            let request = pb::ScaleUpRequest {
                count,
                request_id,
                node_id: String::new(),
            };
            let answer = client.operator.scale_up(request).await;
            let answer = client.answer(answer)?;
            client.show("ScaleUpResponse", &answer, |a| {
                said(a.target, a.total, a.retiring);
            });
        }
        Scale::Down(count) => {
            let request = pb::ScaleDownRequest {
                count,
                timeout,
                request_id,
                node_id: String::new(),
            };
            let answer = client.operator.scale_down(request).await;
            let answer = client.answer(answer)?;
            client.show("ScaleDownResponse", &answer, |a| {
                said(a.target, a.total, a.retiring);
            });
        }
    }
    Ok(())
}

/// `claudepool budget`.
pub(super) async fn budget(mut client: Client, args: BudgetArgs) -> Result<(), Failure> {
    let answer = match args.limit {
        None => {
            let status = client.status().await?;
            pb::SetBudgetResponse {
                spent_microdollars: status.spent_microdollars,
                reserved_microdollars: status.reserved_microdollars,
                budget_microdollars: status.budget_microdollars,
            }
        }
        Some(limit) => {
            let budget_microdollars = match limit {
                Limit::None => None,
                Limit::Dollars(dollars) => Some(super::args::work::microdollars(dollars)?),
            };
            let request = pb::SetBudgetRequest {
                budget_microdollars,
            };
            let answer = client.operator.set_budget(request).await;
            client.answer(answer)?
        }
    };
    client.show("SetBudgetResponse", &answer, |a| {
        let limit = match a.budget_microdollars {
            Some(limit) => dollars(limit),
            None => "no limit".to_owned(),
        };
        line(&format!(
            "{limit}; {} spent, {} reserved",
            dollars(a.spent_microdollars),
            dollars(a.reserved_microdollars)
        ));
    });
    Ok(())
}

/// `claudepool pause`.
pub(super) async fn pause(mut client: Client, args: PauseArgs) -> Result<(), Failure> {
    let request = pb::PauseRequest {
        reason: args.reason,
    };
    let answer = client.operator.pause(request).await;
    let answer = client.answer(answer)?;
    client.show("PauseResponse", &answer, |_| line("paused"));
    Ok(())
}

/// `claudepool resume`.
pub(super) async fn resume(mut client: Client) -> Result<(), Failure> {
    let answer = client.operator.resume(pb::ResumeRequest {}).await;
    let answer = client.answer(answer)?;
    client.show("ResumeResponse", &answer, |_| line("resumed"));
    Ok(())
}

/// `claudepool drain`.
pub(super) async fn drain(mut client: Client, args: DrainArgs) -> Result<(), Failure> {
    let request = pb::DrainRequest {
        deadline: args.deadline.and_then(|deadline| deadline.try_into().ok()),
        node_id: String::new(),
    };
    let answer = client.operator.drain(request).await;
    let answer = client.answer(answer)?;
    client.show("DrainResponse", &answer, |a| {
        line(&format!(
            "drained: {} tasks completed, {} spent, {} tasks left in the queue",
            a.tasks_completed,
            dollars(a.total_cost_microdollars),
            a.tasks_left
        ));
    });
    Ok(())
}
