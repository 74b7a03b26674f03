//! Lists and the status for people.

use super::render::{dollars, glimpse, line, seconds, state};
use crate::pb;

/// Prints rows in columns.
fn columns(rows: &[Vec<String>]) {
    for row in in_columns(rows) {
        line(&row);
    }
}

/// Rows in columns; the last one is not padded.
fn in_columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..count)
        .map(|i| {
            rows.iter()
                .map(|row| row[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let padded = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let text: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}", width = *width))
            .collect();
        text.join("  ").trim_end().to_owned()
    };
    rows.iter().map(padded).collect()
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
    slot_lines(slots).iter().for_each(|row| line(row));
}

/// A line per slot below the heads.
pub(super) fn slot_lines(slots: &[pb::Slot]) -> Vec<String> {
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
    in_columns(&rows)
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
    status_lines(status).iter().for_each(|row| line(row));
}

/// The status in some lines.
pub(super) fn status_lines(status: &pb::PoolStatus) -> Vec<String> {
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
    in_columns(&rows)
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

/// A step of a chain as it ends.
pub(super) fn step(step: &pb::StepResult) -> String {
    let (how, words) = match (step.skipped, step.success) {
        (true, _) => ("skipped", String::new()),
        (_, true) if step.recovered => ("recovered", glimpse(&step.output)),
        (_, true) => ("succeeded", glimpse(&step.output)),
        _ => ("failed", glimpse(&step.failure_message)),
    };
    format!(
        "[{}] {}  {how:9}  {}  {}  {words}",
        step.step_index + 1,
        step.name,
        dollars(step.cost_microdollars),
        seconds(step.duration.as_ref()),
    )
    .trim_end()
    .to_owned()
}

/// A row of the catalog.
pub(super) fn entry(
    name: &str,
    arguments: &[pb::Argument],
    source: pb::CatalogSource,
    description: &str,
) -> Vec<String> {
    let arguments: Vec<_> = arguments.iter().map(usage).collect();
    let source = source.as_str_name();
    let source = source.strip_prefix("CATALOG_SOURCE_").unwrap_or(source);
    vec![
        name.to_owned(),
        arguments.join(" "),
        source.to_lowercase(),
        glimpse(description),
    ]
}

/// `claudepool workflow` and `claudepool skill`.
pub(super) fn entries(kind: &str, entries: Vec<Vec<String>>) {
    let mut rows = vec![heads(&[kind, "ARGUMENTS", "SOURCE", "DESCRIPTION"])];
    rows.extend(entries);
    columns(&rows);
}

/// How an argument is said on the command line.
fn usage(argument: &pb::Argument) -> String {
    if argument.required {
        format!("{}=…", argument.name)
    } else {
        format!("[{}={}]", argument.name, argument.default_value)
    }
}

fn about(name: &str, arguments: &[pb::Argument], description: &str) {
    let arguments: Vec<_> = arguments.iter().map(usage).collect();
    line(format!("{name} {}", arguments.join(" ")).trim_end());
    if !description.is_empty() {
        line(description);
    }
}

/// One skill.
pub(super) fn skill(skill: &pb::Skill) {
    about(&skill.name, &skill.arguments, &skill.description);
    line("");
    line(skill.prompt.trim_end());
}

/// One workflow.
pub(super) fn workflow(workflow: &pb::Workflow) {
    about(&workflow.name, &workflow.arguments, &workflow.description);
    for (i, step) in workflow.steps.iter().enumerate() {
        line("");
        line(&format!("[{}] {}", i + 1, step.name));
        match &step.action {
            Some(pb::chain_step::Action::Prompt(prompt)) => line(prompt.trim_end()),
            Some(pb::chain_step::Action::Skill(call)) => {
                let mut arguments: Vec<_> = call.arguments.iter().collect();
                arguments.sort();
                let pairs = arguments
                    .iter()
                    .map(|(name, value)| format!(" {name}={value}"));
                line(&format!("skill {}{}", call.name, pairs.collect::<String>()));
            }
            None => {}
        }
    }
}
