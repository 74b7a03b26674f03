//! Skills: `SKILL.md` of the Agent Skills standard, and JSON.

use std::collections::BTreeMap;

use prost::Message;
use serde::Deserialize;

use super::{Check, NAME_BYTES_MAX, file};
use crate::error::Violation;
use crate::pb;

/// Longest prompt of a skill, in bytes.
const PROMPT_BYTES_MAX: usize = 256 * 1024;
/// Longest front matter, in bytes.
const FRONT_MATTER_BYTES_MAX: usize = 64 * 1024;
/// Where the standard leaves room for us: a text under `metadata`.
const ARGUMENTS_KEY: &str = "claudepool.arguments";

/// The standard's front matter. Fields of other readers are passed by.
#[derive(Debug, Deserialize)]
struct FrontMatter {
    name: String,
    description: String,
    metadata: Option<BTreeMap<String, Meta>>,
}

/// A value of `metadata`: a text, or what others nest there.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Meta {
    Text(String),
    Other(serde::de::IgnoredAny),
}

/// Whether `name` may name a skill: the standard's rule.
pub(super) fn is_skill_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.split('-').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
}

/// Checks every field. `path` is what their names begin with: `skill.`.
pub fn check_skill(skill: &pb::Skill, path: &str) -> Result<(), Vec<Violation>> {
    let mut check = Check::new(path);
    if !is_skill_name(&skill.name) {
        check.fail(
            "name",
            "must be 1 to 64 lower case letters, digits or single \"-\" between them",
        );
    }
    check.description(&skill.description);
    check.arguments(&skill.arguments);
    if skill.prompt.trim().is_empty() {
        check.fail("prompt", "must not be empty or blank");
    } else {
        check.length("prompt", &skill.prompt, 1, PROMPT_BYTES_MAX);
    }
    check.size(skill.encoded_len());
    check.end()
}

/// Reads a `SKILL.md`. What is not checked here, [`check_skill`] does.
pub fn skill_from_markdown(text: &str) -> Result<pb::Skill, String> {
    let (front, body) = split(text)?;
    let front: FrontMatter = file::yaml(front)?;
    let arguments = match front.metadata.and_then(|mut m| m.remove(ARGUMENTS_KEY)) {
        None => Vec::new(),
        Some(Meta::Text(text)) => file::yaml::<Vec<file::Argument>>(&text)
            .map_err(|e| format!("metadata.{ARGUMENTS_KEY}: {e}"))?,
        Some(Meta::Other(_)) => {
            return Err(format!(
                "metadata.{ARGUMENTS_KEY}: must be a text that holds a list: write \"|\" after \
                 the colon"
            ));
        }
    };
    Ok(pb::Skill {
        name: front.name,
        description: front.description,
        arguments: arguments.into_iter().map(Into::into).collect(),
        prompt: body.trim().to_owned(),
        ..pb::Skill::default()
    })
}

/// Reads a skill's JSON. What is not checked here, [`check_skill`] does.
pub fn skill_from_json(text: &str) -> Result<pb::Skill, String> {
    file::json::<file::Skill>(text).map(Into::into)
}

/// Front matter and body.
fn split(text: &str) -> Result<(&str, &str), String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rest = text
        .strip_prefix("---\n")
        .or_else(|| text.strip_prefix("---\r\n"))
        .ok_or("must begin with front matter: a line \"---\"")?;
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Ok((&rest[..at], &rest[at + line.len()..]));
        }
        at += line.len();
        if at > FRONT_MATTER_BYTES_MAX {
            return Err(format!(
                "the front matter is longer than {FRONT_MATTER_BYTES_MAX} bytes"
            ));
        }
    }
    Err("the front matter has no end: a line \"---\"".to_owned())
}

#[cfg(test)]
mod tests;
