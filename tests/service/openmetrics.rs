//! A strict reader of OpenMetrics text: what it takes, everybody takes.

use std::collections::{BTreeMap, BTreeSet};

/// A metric and its series.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub unit: String,
    /// Labels and value by the series' name with its suffix.
    pub samples: Vec<(String, Labels, f64)>,
}

pub type Labels = BTreeMap<String, String>;
/// By name.
pub type Families = BTreeMap<String, Family>;

impl Family {
    /// Names of labels, without that of buckets.
    pub fn labels(&self) -> BTreeSet<String> {
        let labels = self.samples.iter().flat_map(|(_, labels, _)| labels.keys());
        labels.filter(|name| *name != "le").cloned().collect()
    }
}

/// Reads all of it; panics at the first thing that is not as it must be.
pub fn read(text: &str) -> Families {
    let body = text.strip_suffix("# EOF\n").expect("it ends with EOF");
    let mut families = Families::new();
    let mut current = String::new();
    // What was said of the current family, in order.
    let mut said: Vec<&str> = Vec::new();
    for line in body.lines() {
        assert!(!line.is_empty(), "an empty line");
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            let value = words.next().unwrap_or_else(|| panic!("{line}"));
            if name != current || what == "HELP" {
                assert!(is_name(name), "{line}");
                assert!(!families.contains_key(name), "{name} comes twice");
                families.insert(name.to_owned(), Family::default());
                current = name.to_owned();
                said.clear();
            }
            let family = families.get_mut(name).unwrap();
            assert!(family.samples.is_empty(), "{line} after the samples");
            match what {
                "HELP" => assert!(!value.trim().is_empty(), "{line}"),
                "TYPE" => family.kind = value.to_owned(),
                "UNIT" => {
                    assert!(name.ends_with(&format!("_{value}")), "{line}");
                    family.unit = value.to_owned();
                }
                _ => panic!("{line}"),
            }
            said.push(what);
            continue;
        }
        assert!(said.starts_with(&["HELP", "TYPE"]), "{current}: {said:?}");
        let (name, labels, value) = sample(line);
        assert!(name.starts_with(&current), "{line} is not of {current}");
        let family = families.get_mut(&current).unwrap();
        family.samples.push((name, labels, value));
    }
    for (name, family) in &families {
        check(name, family);
        for suffix in ["_total", "_bucket", "_count", "_sum", "_info", "_created"] {
            let other = name.strip_suffix(suffix).unwrap_or_default();
            assert!(!families.contains_key(other), "{name} reads as {other}'s");
        }
    }
    families
}

fn check(name: &str, family: &Family) {
    assert!(!family.samples.is_empty(), "{name} has no samples");
    let mut seen = BTreeSet::new();
    for (series, labels, value) in &family.samples {
        assert!(seen.insert((series, labels)), "{series} {labels:?} twice");
        let suffix = &series[name.len()..];
        let fits = match family.kind.as_str() {
            "counter" => suffix == "_total" && *value >= 0.0,
            "gauge" => suffix.is_empty() && !labels.contains_key("le"),
            "info" => suffix == "_info" && *value == 1.0 && family.unit.is_empty(),
            "histogram" => match suffix {
                "_bucket" => labels.contains_key("le"),
                "_sum" | "_count" => *value >= 0.0 && !labels.contains_key("le"),
                _ => false,
            },
            _ => false,
        };
        assert!(fits, "{series} {labels:?} {value} of a {}", family.kind);
    }
    if family.kind == "histogram" {
        check_buckets(name, family);
    }
}

fn check_buckets(name: &str, family: &Family) {
    // Bounds and counts, in order, by the other labels.
    let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for (series, labels, value) in &family.samples {
        if series.ends_with("_bucket") {
            let mut labels = labels.clone();
            let bound = labels.remove("le").unwrap();
            let bound = match bound.as_str() {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().unwrap(),
            };
            buckets.entry(labels).or_default().push((bound, *value));
        }
    }
    for (labels, buckets) in buckets {
        let grow = buckets
            .windows(2)
            .all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
        assert!(grow, "{name} {labels:?}: {buckets:?}");
        let (last, all) = buckets.last().unwrap();
        assert!(last.is_infinite(), "{name} {labels:?}");
        let count = family
            .samples
            .iter()
            .find(|(s, l, _)| s.ends_with("_count") && *l == labels);
        assert_eq!(count.map(|(_, _, n)| n), Some(all), "{name} {labels:?}");
    }
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn sample(line: &str) -> (String, Labels, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let Some((name, rest)) = series.split_once('{') else {
        assert!(is_name(series), "{line}");
        return (series.to_owned(), Labels::new(), value);
    };
    assert!(is_name(name), "{line}");
    let mut rest = rest.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
    let mut labels = Labels::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        assert!(is_name(key), "{line}");
        let mut text = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("{line}")) {
                (at, '"') => break at,
                (_, '\\') => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some(c @ ('"' | '\\')) => text.push(c),
                    _ => panic!("{line}"),
                },
                (_, c) => text.push(c),
            }
        };
        assert!(labels.insert(key.to_owned(), text).is_none(), "{line}");
        rest = &after[end + 1..];
        if let Some(more) = rest.strip_prefix(',') {
            assert!(!more.is_empty(), "{line}");
            rest = more;
        } else {
            assert!(rest.is_empty(), "{line}");
        }
    }
    (name.to_owned(), labels, value)
}
