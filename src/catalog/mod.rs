//! Skills and workflows: what they may look like, where they come from, and how
//! a workflow becomes a chain.
//!
//! A skill is a prompt with arguments, a workflow a chain with arguments. What
//! PutSkill and PutWorkflow stored goes before the folders that the operator
//! named, and those before what is built in; the stored ones are the pool's
//! business, this module knows the [`Fixed`] ones. Nothing here is ever executed:
//! no command, no include, no variable of the environment. A template only
//! receives the values of its own arguments.

mod builtin;
mod file;
mod load;
mod skill;
mod workflow;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::chain::template::Reference;
use crate::error::Violation;
use crate::pb::{self, CatalogSource, chain_step::Action};

pub use load::{Warning, load};
pub use skill::{check_skill, skill_from_json, skill_from_markdown};
pub use workflow::{check_workflow, expand, workflow_from_json, workflow_from_yaml};

/// Most skills, and most workflows, that are stored or in folders.
pub const ENTRIES_MAX: usize = 1_000;
/// Largest skill or workflow, encoded, in bytes: it must fit a message.
pub const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1024;
/// Most arguments.
const ARGUMENTS_MAX: usize = 32;
/// Longest default of an argument, in bytes.
const DEFAULT_BYTES_MAX: usize = 16 * 1024;

/// Skills and workflows that do not change while the server runs, by name.
#[derive(Clone, Debug, Default)]
pub struct Fixed {
    /// The skills.
    pub skills: BTreeMap<String, Arc<pb::Skill>>,
    /// The workflows.
    pub workflows: BTreeMap<String, Arc<pb::Workflow>>,
}

impl Fixed {
    /// What is part of the program.
    pub fn builtin() -> Self {
        builtin::all()
    }

    /// These, and those of `under` whose names are not among them.
    pub fn over(mut self, under: Self) -> Self {
        for (name, skill) in under.skills {
            self.skills.entry(name).or_insert(skill);
        }
        for (name, workflow) in under.workflows {
            self.workflows.entry(name).or_insert(workflow);
        }
        self
    }

    fn add_skill(&mut self, mut skill: pb::Skill, source: CatalogSource) -> bool {
        skill.source = source as i32;
        let free = !self.skills.contains_key(&skill.name);
        if free {
            self.skills.insert(skill.name.clone(), Arc::new(skill));
        }
        free
    }

    fn add_workflow(&mut self, mut workflow: pb::Workflow, source: CatalogSource) -> bool {
        workflow.source = source as i32;
        let free = !self.workflows.contains_key(&workflow.name);
        if free {
            self.workflows
                .insert(workflow.name.clone(), Arc::new(workflow));
        }
        free
    }
}

/// The skills that steps call, to be fetched before they are expanded.
pub fn skills_called(steps: &[pb::ChainStep]) -> BTreeSet<&str> {
    steps
        .iter()
        .filter_map(|step| match &step.action {
            Some(Action::Skill(call)) => Some(call.name.as_str()),
            Some(Action::Prompt(_)) | None => None,
        })
        .collect()
}

/// Notes what is wrong with the fields that skills and workflows share.
struct Check<'a> {
    path: &'a str,
    found: Vec<Violation>,
}

impl<'a> Check<'a> {
    fn new(path: &'a str) -> Self {
        Self {
            path,
            found: Vec::new(),
        }
    }

    fn fail(&mut self, field: &str, message: impl Into<String>) {
        self.found
            .push(Violation::new(format!("{}{field}", self.path), message));
    }

    fn length(&mut self, field: &str, text: &str, min: usize, max: usize) {
        if !(min..=max).contains(&text.len()) {
            self.fail(
                field,
                format!("must be {min} to {max} bytes, is {}", text.len()),
            );
        }
    }

    fn description(&mut self, text: &str) {
        self.length("description", text, 1, DESCRIPTION_BYTES_MAX);
    }

    fn arguments(&mut self, arguments: &[pb::Argument]) {
        if arguments.len() > ARGUMENTS_MAX {
            self.fail("arguments", format!("must be at most {ARGUMENTS_MAX}"));
        }
        let mut names = BTreeSet::new();
        for (i, argument) in arguments.iter().enumerate().take(ARGUMENTS_MAX) {
            let at = format!("arguments[{i}]");
            if !matches!(
                Reference::parse(&argument.name),
                Some(Reference::Argument(_))
            ) {
                self.fail(
                    &format!("{at}.name"),
                    "must be 1 to 64 letters, digits, \"_\" or \"-\", and neither \
                     \"previous_output\" nor \"error\"",
                );
            } else if !names.insert(&argument.name) {
                self.fail(&format!("{at}.name"), "is there twice");
            }
            self.length(
                &format!("{at}.description"),
                &argument.description,
                0,
                DESCRIPTION_BYTES_MAX,
            );
            let field = format!("{at}.default_value");
            self.length(&field, &argument.default_value, 0, DEFAULT_BYTES_MAX);
            if argument.required && !argument.default_value.is_empty() {
                self.fail(&field, "must be empty, since the argument is required");
            }
        }
    }

    fn size(&mut self, bytes: usize) {
        if bytes > ENTRY_BYTES_MAX {
            let field = self.path.trim_end_matches('.').to_owned();
            self.found.push(Violation::new(
                field,
                format!("must be at most {ENTRY_BYTES_MAX} bytes in all, is {bytes}"),
            ));
        }
    }

    fn end(self) -> Result<(), Vec<Violation>> {
        if self.found.is_empty() {
            Ok(())
        } else {
            Err(self.found)
        }
    }
}
