//! What is counted, and that what is told of it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use claudepool::pb;

use super::openmetrics::{Families, read};
use crate::support::http::get;
use crate::support::{Program, Serving};

/// A server with a budget that has done some work, and what it shows.
async fn worked() -> (Program, Serving, String) {
    let program = Program::with("budget_usd = 50.0\n").await;
    let mut server = program.serve().await;
    let paid = server.caller.paid("hello");
    server.caller.finish(paid).await;
    let refused = server.caller.refused();
    server.caller.finish(refused).await;
    let absent = pb::GetTaskRequest {
        task_id: "no id".to_owned(),
    };
    server.caller.work.get_task(absent).await.unwrap_err();
    let text = get(server.status, "/metrics").await.body;
    (program, server, text)
}

fn root(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(path).unwrap()
}

fn value(families: &Families, family: &str, series: &str, labels: &[(&str, &str)]) -> f64 {
    let found = families[family].samples.iter().find(|(name, has, _)| {
        name == series
            && labels
                .iter()
                .all(|(key, value)| has.get(*key).is_some_and(|v| v == value))
    });
    let (_, _, value) = found.unwrap_or_else(|| panic!("{series} {labels:?}"));
    *value
}

#[tokio::test]
async fn what_was_done_is_counted_in_text_that_a_strict_reader_takes() {
    let (_program, _server, text) = worked().await;

    let families = read(&text);

    let count = |family: &str, suffix: &str, labels: &[(&str, &str)]| {
        value(&families, family, &format!("{family}{suffix}"), labels)
    };
    let ended = |state| count("claudepool_tasks_ended", "_total", &[("state", state)]);
    assert_eq!(ended("SUCCEEDED"), 1.0);
    let failed = [("state", "FAILED"), ("reason", "INVALID_REQUEST")];
    assert_eq!(count("claudepool_tasks_ended", "_total", &failed), 1.0);
    let attempts = |outcome| {
        let labels = [("outcome", outcome)];
        count("claudepool_attempt_duration_seconds", "_count", &labels)
    };
    assert_eq!((attempts("succeeded"), attempts("failed")), (1.0, 1.0));
    assert_eq!(count("claudepool_tasks", "", &[("state", "FAILED")]), 1.0);
    let submit = [
        ("rpc_method", "claudepool.v1.PoolService/Submit"),
        ("rpc_response_status_code", "OK"),
    ];
    let calls = "rpc_server_call_duration_seconds";
    assert_eq!(count(calls, "_count", &submit), 2.0);
    let wrong = [("rpc_response_status_code", "INVALID_ARGUMENT")];
    assert_eq!(count(calls, "_count", &wrong), 1.0);
    let ok = [("result", "ok")];
    assert!(count("claudepool_launch_duration_seconds", "_count", &ok) >= 1.0);
    let commits = [("call", "commit")];
    assert!(count("claudepool_store_call_duration_seconds", "_count", &commits) >= 4.0);
    let spent = count("claudepool_spent_usd", "", &[]);
    assert!(spent > 0.0, "{spent}");
    let costs = &families["claudepool_cost_usd"].samples;
    let cost: f64 = costs.iter().map(|(_, _, dollars)| dollars).sum();
    assert!((cost - spent).abs() < 1e-9, "{cost} of {spent}");
    assert_eq!(count("claudepool_budget_usd", "", &[]), 50.0);
    assert_eq!(count("claudepool_ready", "", &[]), 1.0);
    assert_eq!(count("claudepool_slots", "", &[("state", "ERRORED")]), 0.0);
}

#[tokio::test]
async fn a_task_that_waits_and_a_pause_are_seen() {
    let program = Program::new().await;
    let mut server = program.serve().await;
    let hangs = server.caller.hang("busy");
    let first = server.caller.submit(hangs).await;
    server.caller.said(&first).await;
    let waits = server.caller.say("later");
    server.caller.submit(waits).await;
    let pause = pb::PauseRequest {
        reason: "a look".to_owned(),
    };
    server.caller.operator.pause(pause).await.unwrap();

    let families = read(&get(server.status, "/metrics").await.body);

    let age = "claudepool_queue_oldest_age_seconds";
    assert!(value(&families, age, age, &[]) > 0.0);
    let held = |reason| {
        value(
            &families,
            "claudepool_held",
            "claudepool_held",
            &[("reason", reason)],
        )
    };
    assert_eq!((held("paused"), held("rate_limit")), (1.0, 0.0));
    let tasks = [("state", "QUEUED")];
    assert_eq!(
        value(&families, "claudepool_tasks", "claudepool_tasks", &tasks),
        1.0
    );
    server.caller.cancel(&first).await;
}

/// Of each row of a table in the page: type and labels, by the series' name.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut rows = BTreeMap::new();
    for line in root("docs/metrics.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, meaning, _] = cells.as_slice() else {
            continue;
        };
        let Some(name) = name.strip_prefix('`').and_then(|n| n.strip_suffix('`')) else {
            continue;
        };
        assert!(!meaning.is_empty(), "{line}");
        let labels = labels
            .split(',')
            .map(|label| label.trim().trim_matches('`'));
        let labels = labels
            .filter(|l| !l.is_empty())
            .map(str::to_owned)
            .collect();
        let before = rows.insert(name.to_owned(), ((*kind).to_owned(), labels));
        assert!(before.is_none(), "{name} has two rows");
    }
    rows
}

#[tokio::test]
async fn every_metric_has_a_row_in_the_docs_and_every_row_a_metric() {
    let (_program, _server, text) = worked().await;

    let shown: BTreeMap<_, _> = read(&text)
        .into_iter()
        .map(|(name, family)| {
            let suffix = match family.kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let labels = family.labels();
            (name + suffix, (family.kind, labels))
        })
        .collect();

    assert_eq!(shown, documented());
}

/// What a PromQL expression names: series, each with the labels it is asked by,
/// and labels that results are grouped by.
fn named(expr: &str) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    const WORDS: [&str; 13] = [
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
        "and",
        "or",
        "unless",
        "offset",
        "bool",
        "inf",
        "nan",
    ];
    const GROUPS: [&str; 4] = ["by", "without", "on", "ignoring"];
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let (mut series, mut groups) = (Vec::new(), Vec::new());
    let mut rest = expr;
    while let Some(at) = rest.find(|c: char| word(c) || c == '[' || c == '"') {
        rest = &rest[at..];
        // A range or a text holds no names.
        if let Some(close) = [('[', ']'), ('"', '"')]
            .iter()
            .find_map(|(open, close)| rest.starts_with(*open).then_some(*close))
        {
            rest = &rest[rest[1..].find(close).unwrap() + 2..];
            continue;
        }
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        let then = after.trim_start();
        if GROUPS.contains(&name) {
            let list = then.strip_prefix('(').unwrap().split(')').next().unwrap();
            groups.extend(list.split(',').map(|label| label.trim().to_owned()));
            rest = &after[after.find(')').unwrap()..];
        } else if name.starts_with(|c: char| c.is_ascii_digit())
            || WORDS.contains(&name)
            || then.starts_with('(')
            || GROUPS
                .iter()
                .any(|group| then.starts_with(&format!("{group} ")))
        {
            // A number, a word of the language, a function.
        } else if let Some(matchers) = then.strip_prefix('{') {
            let matchers = matchers.split('}').next().unwrap();
            let label = |matcher: &str| {
                let end = matcher.find(|c| !word(c)).unwrap();
                matcher[..end].to_owned()
            };
            let labels = matchers.split(',').map(str::trim).map(label).collect();
            series.push((name.to_owned(), labels));
            rest = &after[after.find('}').unwrap()..];
        } else {
            series.push((name.to_owned(), Vec::new()));
        }
    }
    (series, groups)
}

#[test]
fn the_names_in_an_expression_are_found() {
    let (series, groups) =
        named("max by (le, a) (rate(x_total{b=~\"c|d\",e!=\"f\"}[5m])) / 2 > y and z offset 5m");

    let of = |labels: &[&str]| labels.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        series,
        [
            ("x_total".to_owned(), of(&["b", "e"])),
            ("y".to_owned(), of(&[])),
            ("z".to_owned(), of(&[])),
        ]
    );
    assert_eq!(groups, of(&["le", "a"]));
}

/// Every expression of the dashboard and the alert rules, with where it stands.
fn expressions() -> Vec<(String, String)> {
    let dashboard: serde_json::Value =
        serde_json::from_str(&root("deploy/grafana/dashboard.json")).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap().to_owned();
            found.push((title, target["expr"].as_str().unwrap().to_owned()));
        }
    }
    let rules: serde_json::Value =
        serde_saphyr::from_str(&root("deploy/prometheus/alerts.yaml")).unwrap();
    for group in rules["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            let alert = rule["alert"].as_str().unwrap().to_owned();
            assert!(rule["annotations"]["summary"].is_string(), "{alert}");
            assert!(rule["labels"]["severity"].is_string(), "{alert}");
            found.push((alert, rule["expr"].as_str().unwrap().to_owned()));
        }
    }
    found
}

#[tokio::test]
async fn what_the_dashboard_and_the_alerts_name_is_shown() {
    let (_program, _server, text) = worked().await;
    // Whoever scrapes adds these.
    let added = ["instance", "job"].map(str::to_owned);
    let mut labels_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for family in read(&text).into_values() {
        for (series, labels, _) in family.samples {
            let of = labels_of.entry(series).or_default();
            of.extend(labels.into_keys().chain(added.clone()));
        }
    }
    labels_of.insert("up".to_owned(), added.into());
    let expressions = expressions();
    assert!(expressions.len() > 40, "{}", expressions.len());

    let mut wrong = Vec::new();
    for (place, expr) in expressions {
        let (series, groups) = named(&expr);
        assert!(!series.is_empty(), "{place}: {expr}");
        let mut all = BTreeSet::new();
        for (name, labels) in series {
            let Some(has) = labels_of.get(&name) else {
                wrong.push(format!("{place}: there is no {name}"));
                continue;
            };
            all.extend(has);
            let unknown = labels.iter().filter(|label| !has.contains(*label));
            wrong.extend(unknown.map(|label| format!("{place}: {name} has no {label}")));
        }
        let unknown = groups.iter().filter(|label| !all.contains(*label));
        wrong.extend(unknown.map(|label| format!("{place}: nothing has {label}")));
    }

    assert!(wrong.is_empty(), "{wrong:#?}");
}
