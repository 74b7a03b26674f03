//! The page: tables and plots, made of rows and nothing else.

use std::fmt::Write;
use std::path::Path;

use super::measure::{Bound, Failure, Figure, Goal, Row, median};
use super::plot;

/// What people have found out, kept by hand beside the plots.
const FINDINGS: &str = "docs/bench/findings.md";

/// Writes `docs/benchmarks.md` and its plots.
pub fn write(root: &Path, rows: &[Row], machine: &[String]) -> Result<(), Failure> {
    let plots = root.join("docs/bench");
    std::fs::create_dir_all(&plots)?;
    let mut page = String::from(
        "# Benchmarks\n\nWritten by `make bench`: do not edit. Every figure is the median of its \
         rounds, with the lowest and the highest beside it; what is compared was measured in \
         turns, in the same run, and a ratio is made within a round.\n\n",
    );
    for line in machine {
        writeln!(page, "{line}")?;
    }
    let seconds: f64 = rows.iter().map(|row| row.seconds).sum();
    writeln!(
        page,
        "- time of all rows: {:.0} min\n\n## Goals\n",
        seconds / 60.0
    )?;
    writeln!(
        page,
        "| row | what | goal | seen | |\n| --- | --- | --- | --- | --- |"
    )?;
    for row in rows {
        for goal in &row.goals {
            let link = format!("[{}](#{})", row.name, anchor(&row.title));
            writeln!(page, "| {link} {}", goal_cells(goal))?;
        }
    }
    writeln!(page)?;
    for row in rows {
        writeln!(page, "{}", section(row, 2))?;
        for (what, figures) in compared(row) {
            let name = format!("{}-{}.svg", row.name, anchor(&what));
            std::fs::write(plots.join(&name), plot::bars(&what, &figures))?;
            writeln!(page, "![{what}](bench/{name})")?;
        }
        writeln!(page)?;
    }
    if let Ok(findings) = std::fs::read_to_string(root.join(FINDINGS)) {
        page.push_str(&findings);
    }
    Ok(std::fs::write(root.join("docs/benchmarks.md"), page)?)
}

/// A row: heading, how, figures and goals.
pub fn section(row: &Row, level: usize) -> String {
    let mut text = format!("{} {}\n\n{}\n", "#".repeat(level), row.title, row.how);
    let rounds = row.figures.iter().map(|f| f.values.len()).max();
    let _ = writeln!(
        text,
        "{} rounds, {:.0} s.\n",
        rounds.unwrap_or_default(),
        row.seconds
    );
    let columns = names(row, |figure| &figure.what);
    let _ = writeln!(text, "| | {} |", columns.join(" | "));
    let _ = writeln!(text, "| --- |{}", " --- |".repeat(columns.len()));
    for way in names(row, |figure| &figure.way) {
        let cells: Vec<_> = columns
            .iter()
            .map(|what| {
                let same = |f: &&Figure| f.what == *what && f.way == way;
                row.figures.iter().find(same).map(cell).unwrap_or_default()
            })
            .collect();
        let _ = writeln!(text, "| {way} | {} |", cells.join(" | "));
    }
    if !row.goals.is_empty() {
        let _ = writeln!(
            text,
            "\n| what | goal | seen | |\n| --- | --- | --- | --- |"
        );
        for goal in &row.goals {
            let _ = writeln!(text, "{}", goal_cells(goal));
        }
    }
    text
}

/// Different values, in the order in which they came.
fn names(row: &Row, of: fn(&Figure) -> &String) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for figure in &row.figures {
        if !names.contains(of(figure)) {
            names.push(of(figure).clone());
        }
    }
    names
}

/// What more than one way does: worth a plot.
fn compared(row: &Row) -> Vec<(String, Vec<&Figure>)> {
    let columns = names(row, |figure| &figure.what).into_iter();
    columns
        .map(|what| {
            let figures = row.figures.iter().filter(|figure| figure.what == what);
            (what.clone(), figures.collect::<Vec<_>>())
        })
        .filter(|(_, figures)| figures.len() > 1)
        .collect()
}

/// The median, and the lowest and the highest.
pub fn cell(figure: &Figure) -> String {
    let (low, high) = range(&figure.values);
    let middle = number(median(&figure.values));
    match figure.values.len() {
        1 => middle,
        _ => format!("{middle} ({}–{})", number(low), number(high)),
    }
}

fn goal_cells(goal: &Goal) -> String {
    let bound = match goal.bound {
        Bound::AtMost => "≤",
        Bound::AtLeast => "≥",
    };
    let unit = match goal.unit.as_str() {
        "" => " ×".to_owned(),
        unit => format!(" {unit}"),
    };
    let (low, high) = range(&goal.values);
    let range = match goal.values.len() {
        1 => String::new(),
        _ => format!(" ({}–{})", number(low), number(high)),
    };
    let met = if goal.is_met() { "met" } else { "**not met**" };
    let (limit, seen) = (number(goal.limit), number(goal.seen()));
    format!(
        "| {} | {bound} {limit}{unit} | {seen}{range} | {met} |",
        goal.what
    )
}

/// The lowest and the highest.
pub fn range(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (low, high)
}

/// Three figures that count, and thousands apart.
pub fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (place, digit) in digits.chars().enumerate() {
                let left = digits.len() - place;
                if place > 0 && left % 3 == 0 && !text.ends_with('-') {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// As links and file names have it.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter_map(|c| match c {
        ' ' | '-' => Some('-'),
        c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}
