//! From the steps of a call to the chain as it runs.
//!
//! Every field is checked and every skill expanded here, once, at submit. What
//! is wrong is named by its path in the call.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::arguments::{Arguments, VIOLATIONS_MAX, bind, key, quote};
use super::template::{Expanded, Fill, Reference, is_name};
use super::{STEPS_MAX, is_path};
use crate::error::Violation;
use crate::pb::{self, chain_step::Action};

/// Most variables of a step.
const VARIABLES_MAX: usize = 32;
/// Most retries of a step.
const RETRIES_MAX: i32 = 10;
/// Longest first backoff.
const BACKOFF_MAX: Duration = Duration::from_secs(3600);
/// Most places in a chain's prompts that are replaced when their step runs.
const REFERENCES_MAX: usize = 10_000;

/// Finds a skill by name.
pub type Skills<'a> = dyn Fn(&str) -> Option<Arc<pb::Skill>> + 'a;

/// How long prompts may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest prompt, as sent and as expanded, in bytes.
    pub prompt_bytes_max: usize,
    /// Most bytes of all expanded prompts together. A fan-out of chains takes
    /// off what each one used: a short call of a skill can expand to much.
    pub chain_bytes_max: usize,
}

/// Checks the steps of a chain and expands them.
///
/// `path` is where they are in the call, for instance `steps` or
/// `chains[3].steps`. `arguments` are those of the workflow they come from,
/// complete; a chain of a caller's own has none. Neither they nor a skill's
/// defaults are ever scanned for references; the arguments that a step gives to
/// a skill are templates, as its prompt is.
pub fn accept(
    steps: &[pb::ChainStep],
    path: &str,
    arguments: &Arguments,
    skills: &Skills<'_>,
    limits: Limits,
) -> Result<pb::ChainSpec, Vec<Violation>> {
    Accept {
        steps,
        path,
        arguments,
        skills: Some(skills),
        limits,
        found: RefCell::default(),
    }
    .chain()
}

/// Checks the steps of a workflow as it is put down: everything that [`accept`]
/// checks, but not whether its skills exist and take what they are given, for
/// they may come later and change.
pub fn check(
    steps: &[pb::ChainStep],
    path: &str,
    declared: &[pb::Argument],
    limits: Limits,
) -> Result<(), Vec<Violation>> {
    // Any value will do, so long as a prompt that is nothing else is not blank.
    let arguments = declared
        .iter()
        .map(|argument| (argument.name.clone(), "x".to_owned()))
        .collect();
    Accept {
        steps,
        path,
        arguments: &arguments,
        skills: None,
        limits,
        found: RefCell::default(),
    }
    .chain()
    .map(|_| ())
}

struct Accept<'a> {
    steps: &'a [pb::ChainStep],
    path: &'a str,
    arguments: &'a Arguments,
    /// `None`: not looked up.
    skills: Option<&'a Skills<'a>>,
    limits: Limits,
    found: RefCell<Vec<Violation>>,
}

impl Accept<'_> {
    fn chain(self) -> Result<pb::ChainSpec, Vec<Violation>> {
        if !(1..=STEPS_MAX).contains(&self.steps.len()) {
            return Err(vec![Violation::new(
                self.path,
                format!("must be 1 to {STEPS_MAX} steps, are {}", self.steps.len()),
            )]);
        }
        let mut spec = pb::ChainSpec::default();
        let mut room = self.limits.chain_bytes_max;
        for (index, step) in self.steps.iter().enumerate() {
            let at = format!("{}[{index}]", self.path);
            self.form(index, step, &at);
            let mut expanded = step.clone();
            if let Some(prompt) = self.action(index, step, &at, room) {
                room -= prompt.text().len();
                refer(&mut spec, index, false, &prompt);
                expanded.action = Some(Action::Prompt(prompt.text().to_owned()));
            }
            if let Some(policy) = expanded.on_failure.as_mut()
                && let Some(prompt) = self.recovery(index, policy, &at, room)
            {
                room -= prompt.text().len();
                refer(&mut spec, index, true, &prompt);
                policy.recovery_prompt = prompt.text().to_owned();
            }
            if spec.references.len() > REFERENCES_MAX {
                self.fail(
                    at,
                    format!("must be at most {REFERENCES_MAX} references in all prompts"),
                );
                break;
            }
            spec.steps.push(expanded);
        }
        let found = self.found.into_inner();
        if found.is_empty() {
            Ok(spec)
        } else {
            Err(found)
        }
    }

    fn fail(&self, field: impl Into<String>, message: impl Into<String>) {
        let mut found = self.found.borrow_mut();
        if found.len() < VIOLATIONS_MAX {
            found.push(Violation::new(field, message));
        }
    }

    /// Everything but the prompts.
    fn form(&self, index: usize, step: &pb::ChainStep, at: &str) {
        if !is_name(&step.name) {
            self.fail(
                format!("{at}.name"),
                "must be 1 to 64 letters, digits, \"_\" or \"-\"",
            );
        } else if let Some(first) = self.place(&step.name)
            && first < index
        {
            self.fail(
                format!("{at}.name"),
                format!("is the name of {}[{first}] already", self.path),
            );
        }
        if step.output_vars.len() > VARIABLES_MAX {
            self.fail(
                format!("{at}.output_vars"),
                format!("must be at most {VARIABLES_MAX}"),
            );
        }
        for (name, path) in step.output_vars.iter().take(VARIABLES_MAX) {
            let field = key(&format!("{at}.output_vars"), name);
            if !is_name(name) {
                self.fail(
                    field,
                    "must be named by 1 to 64 letters, digits, \"_\" or \"-\"",
                );
            } else if !is_path(path) {
                self.fail(
                    field,
                    "must be a dot-path of at most 256 bytes, for instance \"items.0.title\"",
                );
            }
        }
        if let Some(policy) = &step.on_failure {
            if !(0..=RETRIES_MAX).contains(&policy.retries) {
                self.fail(
                    format!("{at}.on_failure.retries"),
                    format!("must be 0 to {RETRIES_MAX}"),
                );
            }
            if let Some(backoff) = policy.backoff
                && !Duration::try_from(backoff).is_ok_and(|d| d <= BACKOFF_MAX)
            {
                self.fail(format!("{at}.on_failure.backoff"), "must be 0 s to 1 h");
            }
        }
    }

    fn action(
        &self,
        index: usize,
        step: &pb::ChainStep,
        at: &str,
        room: usize,
    ) -> Option<Expanded> {
        match &step.action {
            None => {
                self.fail(format!("{at}.prompt"), "a prompt or a skill is required");
                None
            }
            Some(Action::Prompt(template)) => {
                let field = format!("{at}.prompt");
                self.not_blank(template, &field)?;
                let prompt = self.template(template, index, false, &field, room)?;
                self.not_blank(prompt.text(), &field)?;
                Some(prompt)
            }
            Some(Action::Skill(call)) => self.skill(call, index, &format!("{at}.skill"), room),
        }
    }

    fn recovery(
        &self,
        index: usize,
        policy: &pb::FailurePolicy,
        at: &str,
        room: usize,
    ) -> Option<Expanded> {
        if policy.recovery_prompt.is_empty() {
            return None;
        }
        let field = format!("{at}.on_failure.recovery_prompt");
        self.not_blank(&policy.recovery_prompt, &field)?;
        self.template(&policy.recovery_prompt, index, true, &field, room)
    }

    fn skill(&self, call: &pb::SkillCall, index: usize, at: &str, room: usize) -> Option<Expanded> {
        let given = format!("{at}.arguments");
        let skill = match self.skills.map(|find| find(&call.name)) {
            Some(None) => {
                self.fail(
                    format!("{at}.name"),
                    format!("there is no skill \"{}\"", quote(&call.name)),
                );
                return None;
            }
            Some(Some(skill)) => {
                if let Err(found) = bind(&skill.arguments, &call.arguments, &given) {
                    for violation in found {
                        self.fail(violation.field, violation.message);
                    }
                    return None;
                }
                Some(skill)
            }
            None if call.name.is_empty() => {
                self.fail(format!("{at}.name"), "is required");
                return None;
            }
            None => None,
        };
        let mut values = BTreeMap::new();
        for (name, template) in &call.arguments {
            let field = key(&given, name);
            values.insert(
                name.as_str(),
                self.template(template, index, false, &field, room)?,
            );
        }
        let Some(skill) = skill else {
            return Some(Expanded::default());
        };
        let declared = |name: &str| skill.arguments.iter().find(|a| a.name == name);
        let prompt = Expanded::new(&skill.prompt, self.limit(room), |reference| {
            let Reference::Argument(name) = reference else {
                return Fill::Text;
            };
            match (values.get(name), declared(name)) {
                (Some(value), _) => Fill::Nested(value),
                (None, Some(argument)) => Fill::Data(Cow::Owned(argument.default_value.clone())),
                (None, None) => Fill::Text,
            }
        });
        match prompt {
            Ok(prompt) => {
                self.not_blank(prompt.text(), at)?;
                Some(prompt)
            }
            Err(e) => {
                self.fail(at, format!("with its arguments, {e}"));
                None
            }
        }
    }

    /// Expands what a caller or a workflow's author wrote.
    fn template(
        &self,
        template: &str,
        index: usize,
        recovery: bool,
        field: &str,
        room: usize,
    ) -> Option<Expanded> {
        let before = self.found.borrow().len();
        let expanded = Expanded::new(template, self.limit(room), |reference| {
            let wrong = match reference {
                Reference::Argument(name) => {
                    return match self.arguments.get(name) {
                        Some(value) => Fill::Data(Cow::Borrowed(value)),
                        None => Fill::Text,
                    };
                }
                Reference::Error if !recovery => return Fill::Text,
                Reference::Error => None,
                Reference::PreviousOutput => {
                    (index == 0).then(|| "{previous_output}: the first step has none".to_owned())
                }
                Reference::Step(name) => self.earlier(name, index).err(),
                Reference::Variable(name, variable) => match self.earlier(name, index) {
                    Ok(step) if step.output_vars.contains_key(variable) => None,
                    Ok(_) => Some(format!(
                        "{{steps.{name}.{variable}}}: the step has no such output_vars"
                    )),
                    Err(message) => Some(message),
                },
            };
            if let Some(message) = wrong {
                self.fail(field, message);
            }
            Fill::Later
        });
        match expanded {
            Ok(expanded) => (self.found.borrow().len() == before).then_some(expanded),
            Err(e) => {
                self.fail(field, e.to_string());
                None
            }
        }
    }

    fn earlier(&self, name: &str, index: usize) -> Result<&pb::ChainStep, String> {
        match self.place(name) {
            Some(place) if place < index => Ok(&self.steps[place]),
            Some(place) if place == index => {
                Err(format!("{{steps.{name}}}: a step cannot refer to itself"))
            }
            Some(_) => Err(format!("{{steps.{name}}}: the step comes later")),
            None => Err(format!("{{steps.{name}}}: there is no such step")),
        }
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|s| s.name == name)
    }

    fn not_blank(&self, text: &str, field: &str) -> Option<()> {
        if text.trim().is_empty() {
            self.fail(field, "must not be empty or blank");
            return None;
        }
        Some(())
    }

    fn limit(&self, room: usize) -> usize {
        room.min(self.limits.prompt_bytes_max)
    }
}

/// Notes the places of a prompt that are replaced when the step runs.
fn refer(spec: &mut pb::ChainSpec, index: usize, recovery: bool, prompt: &Expanded) {
    for place in prompt.places() {
        spec.references.push(pb::ChainReference {
            step_index: i32::try_from(index).unwrap_or(i32::MAX),
            recovery,
            offset: i64::try_from(place.start).unwrap_or(i64::MAX),
            length: i32::try_from(place.len()).unwrap_or(i32::MAX),
        });
    }
}

#[cfg(test)]
mod tests;
