//! Files of skills and workflows, read as a server reads those of its folders.

use std::path::Path;

use super::args::work::read_file;
use super::failure::Failure;
use crate::catalog::{
    skill_from_json, skill_from_markdown, workflow_from_json, workflow_from_yaml,
};
use crate::pb;

/// A workflow's file: YAML, or JSON by its name. What is in it the server checks.
pub(super) fn workflow(file: &Path) -> Result<pb::Workflow, Failure> {
    read(file, workflow_from_json, workflow_from_yaml)
}

/// A skill's file: `SKILL.md`, or JSON by its name.
pub(super) fn skill(file: &Path) -> Result<pb::Skill, Failure> {
    read(file, skill_from_json, skill_from_markdown)
}

type Reader<T> = fn(&str) -> Result<T, String>;

fn read<T>(file: &Path, json: Reader<T>, other: Reader<T>) -> Result<T, Failure> {
    let text = read_file(file)?;
    let reader = match file.extension() {
        Some(kind) if kind == "json" => json,
        _ => other,
    };
    reader(&text).map_err(|why| Failure::usage(format!("{}: {why}", file.display())))
}
