//! Arguments of skills and workflows, paired with what a call gives.

use std::collections::BTreeMap;

use crate::error::Violation;
use crate::pb;

/// Most violations named: they travel in a header, and nobody reads more.
pub(super) const VIOLATIONS_MAX: usize = 32;
/// Longest part of a caller's own text in a path or message, in bytes.
const QUOTE_BYTES_MAX: usize = 64;

/// Values of arguments by name.
pub type Arguments = BTreeMap<String, String>;

/// Pairs the arguments of a skill or workflow with what a call gives: a value
/// for each declared one, the default where the call gives none. `path` is where
/// the call's values are.
pub fn bind(
    declared: &[pb::Argument],
    given: &Arguments,
    path: &str,
) -> Result<Arguments, Vec<Violation>> {
    let mut found = Vec::new();
    for name in given.keys() {
        if !declared.iter().any(|a| a.name == *name) {
            let known: Vec<&str> = declared.iter().map(|a| a.name.as_str()).collect();
            let message = if known.is_empty() {
                "it takes no arguments".to_owned()
            } else {
                format!("it takes no such argument; it takes {}", known.join(", "))
            };
            found.push(Violation::new(key(path, name), message));
        }
    }
    let mut bound = Arguments::new();
    for argument in declared {
        match given.get(&argument.name) {
            Some(value) => {
                bound.insert(argument.name.clone(), value.clone());
            }
            None if argument.required => {
                found.push(Violation::new(key(path, &argument.name), "is required"));
            }
            None => {
                bound.insert(argument.name.clone(), argument.default_value.clone());
            }
        }
    }
    found.truncate(VIOLATIONS_MAX);
    if found.is_empty() {
        Ok(bound)
    } else {
        Err(found)
    }
}

/// Path of a map's entry.
pub(super) fn key(path: &str, name: &str) -> String {
    format!("{path}[{}]", quote(name))
}

/// As much of a caller's text as fits in a sentence.
pub(super) fn quote(text: &str) -> &str {
    super::beginning(text, QUOTE_BYTES_MAX)
}
