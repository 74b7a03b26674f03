//! Lists and the status for people.

use super::render::{dollars, glimpse, line, seconds, state};
use crate::pb;

/// Prints rows in columns; the last one is not padded.
fn columns(rows: &[Vec<String>]) {
    let count = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..count)
        .map(|i| {
            rows.iter()
                .map(|row| row[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let text: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}", width = *width))
            .collect();
        line(text.join("  ").trim_end());
    }
}

fn heads(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// `claudepool tasks`.
pub(super) fn tasks(tasks: &[pb::Task]) {
    let mut rows = vec![heads(&[
        "TASK", "STATE", "ATTEMPT", "COST", "CREATED", "TAGS",
    ])];
    for task in tasks {
        let created = task.create_time.as_ref().map(ToString::to_string);
        rows.push(vec![
            task.task_id.clone(),
            state(task.state()).to_owned(),
            task.attempt.to_string(),
            dollars(task.cost_microdollars),
            created.unwrap_or_default().chars().take(19).collect(),
            task.tags.join(","),
        ]);
    }
    columns(&rows);
}

/// `claudepool slots`.
pub(super) fn slots(slots: &[pb::Slot]) {
    let mut rows = vec![heads(&[
        "SLOT",
        "STATE",
        "PID",
        "MEMORY",
        "ATTEMPTS",
        "RESETS",
        "LAUNCHES",
        "TASK OR ERROR",
    ])];
    for slot in slots {
        let name = slot.state().as_str_name();
        let name = name
            .strip_prefix("SLOT_STATE_")
            .unwrap_or(name)
            .to_lowercase();
        let memory = |bytes: i64| format!("{} MB", bytes / 1_000_000);
        rows.push(vec![
            slot.slot_id.clone(),
            name,
            slot.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            slot.memory_bytes.map(memory).unwrap_or_default(),
            slot.attempts_run.to_string(),
            slot.resets.to_string(),
            slot.launches.to_string(),
            if slot.last_error.is_empty() {
                slot.task_id.clone()
            } else {
                slot.last_error.clone()
            },
        ]);
    }
    columns(&rows);
}

fn counts(status: &pb::PoolStatus) -> String {
    let counts: Vec<String> = status
        .tasks
        .iter()
        .map(|count| format!("{} {}", count.count, state(count.state())))
        .collect();
    if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    }
}

fn money(status: &pb::PoolStatus) -> String {
    let budget = match status.budget_microdollars {
        Some(budget) => format!(" of {}", dollars(budget)),
        None => String::new(),
    };
    format!(
        "{} spent{budget}, {} reserved",
        dollars(status.spent_microdollars),
        dollars(status.reserved_microdollars)
    )
}

fn slots_in_words(status: &pb::PoolStatus) -> String {
    format!(
        "{} ({} idle, {} busy, {} errored)",
        status.slots_total, status.slots_idle, status.slots_busy, status.slots_errored
    )
}

/// `claudepool status`.
pub(super) fn status(status: &pb::PoolStatus) {
    let mut rows = vec![
        vec![
            "server".to_owned(),
            format!("{} on {}", status.version, status.node_id),
        ],
        vec!["agent".to_owned(), status.agent_version.clone()],
        vec!["slots".to_owned(), slots_in_words(status)],
        vec!["tasks".to_owned(), counts(status)],
        vec!["money".to_owned(), money(status)],
        vec!["watchers".to_owned(), status.watchers.to_string()],
    ];
    if let Some(hold) = &status.hold {
        let until = hold.until.as_ref().map(ToString::to_string);
        let about = if hold.estimated { "about " } else { "" };
        rows.push(vec![
            "held".to_owned(),
            format!(
                "until {about}{}: {}",
                until.unwrap_or_default(),
                hold.message
            ),
        ]);
    }
    if status.paused {
        rows.push(vec!["paused".to_owned(), "takes no new work".to_owned()]);
    }
    if status.draining {
        rows.push(vec!["draining".to_owned(), "takes no new work".to_owned()]);
    }
    columns(&rows);
}

/// `claudepool status --watch`.
pub(super) fn status_line(status: &pb::PoolStatus) {
    line(&format!(
        "slots {}; tasks {}; {}{}",
        slots_in_words(status),
        counts(status),
        money(status),
        if status.draining { "; draining" } else { "" }
    ));
}

/// One item of a fan-out as it ends.
pub(super) fn fan_out_item(item: &pb::FanOutItem) -> String {
    let result = item.result.clone().unwrap_or_default();
    let words = match &result.failure {
        Some(failure) => glimpse(&failure.message),
        None => glimpse(&result.output),
    };
    format!(
        "[{}] {:9}  {}  {}  {words}",
        item.index,
        state(item.state()),
        dollars(result.cost_microdollars),
        seconds(result.duration.as_ref()),
    )
}
