//! Workflows: named chains with arguments.

use prost::Message;

use super::{Check, NAME_BYTES_MAX, file};
use crate::chain::{self, Arguments, Limits, Skills};
use crate::error::Violation;
use crate::pb;

/// How long the prompts of a workflow may be as it is put down.
const LIMITS: Limits = Limits {
    prompt_bytes_max: 256 * 1024,
    chain_bytes_max: super::ENTRY_BYTES_MAX,
};

/// Whether `name` may name a workflow.
pub(super) fn is_workflow_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// Checks every field, but not whether the skills exist. `path` is what their
/// names begin with: `workflow.`.
pub fn check_workflow(workflow: &pb::Workflow, path: &str) -> Result<(), Vec<Violation>> {
    let mut check = Check::new(path);
    if !is_workflow_name(&workflow.name) {
        check.fail(
            "name",
            "must be 1 to 64 lower case letters, digits, \"_\" or \"-\"",
        );
    }
    check.description(&workflow.description);
    check.arguments(&workflow.arguments);
    let steps = format!("{path}steps");
    if let Err(found) = chain::check(&workflow.steps, &steps, &workflow.arguments, LIMITS) {
        check.found.extend(found);
    }
    check.size(workflow.encoded_len());
    check.end()
}

/// Makes a chain of a workflow and the arguments of a call.
///
/// What is wrong with the call is named under `arguments`. What is wrong with
/// the workflow itself, such as a skill that is gone, is named under `name`, for
/// its steps are no fields of the call.
pub fn expand(
    workflow: &pb::Workflow,
    given: &Arguments,
    skills: &Skills<'_>,
    limits: Limits,
) -> Result<pb::ChainSpec, Vec<Violation>> {
    let arguments = chain::bind(&workflow.arguments, given, "arguments")?;
    let spec = chain::accept(&workflow.steps, "steps", &arguments, skills, limits);
    match spec {
        Ok(spec) => Ok(pb::ChainSpec {
            workflow: workflow.name.clone(),
            ..spec
        }),
        Err(found) => Err(found
            .into_iter()
            .map(|v| {
                let message = format!("with these arguments, {}: {}", v.field, v.message);
                Violation::new("name", message)
            })
            .collect()),
    }
}

/// Reads a workflow's YAML. What is not checked here, [`check_workflow`] does.
pub fn workflow_from_yaml(text: &str) -> Result<pb::Workflow, String> {
    file::yaml::<file::Workflow>(text)?.try_into()
}

/// Reads a workflow's JSON; the fields are those of the YAML.
pub fn workflow_from_json(text: &str) -> Result<pb::Workflow, String> {
    file::json::<file::Workflow>(text)?.try_into()
}

#[cfg(test)]
mod tests;
