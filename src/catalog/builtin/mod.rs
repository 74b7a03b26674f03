//! What is part of the program: data files, read as those of a folder are.

use super::Fixed;
use super::skill::skill_from_markdown;
use super::workflow::workflow_from_yaml;
use crate::pb::CatalogSource;

macro_rules! skill {
    ($name:literal) => {
        include_str!(concat!("skills/", $name, "/SKILL.md"))
    };
}

macro_rules! workflow {
    ($name:literal) => {
        include_str!(concat!("workflows/", $name, ".workflow.yaml"))
    };
}

const SKILLS: [&str; 8] = [
    skill!("code-review"),
    skill!("fix-findings"),
    skill!("implement-change"),
    skill!("open-pull-request"),
    skill!("plan-change"),
    skill!("refactor-code"),
    skill!("run-checks"),
    skill!("write-tests"),
];

const WORKFLOWS: [&str; 3] = [
    workflow!("issue_to_pr"),
    workflow!("refactor_and_test"),
    workflow!("review_and_fix"),
];

pub(super) fn all() -> Fixed {
    let mut fixed = Fixed::default();
    for text in SKILLS {
        let skill = skill_from_markdown(text).expect("a test reads every built-in file");
        fixed.add_skill(skill, CatalogSource::Builtin);
    }
    for text in WORKFLOWS {
        let workflow = workflow_from_yaml(text).expect("a test reads every built-in file");
        fixed.add_workflow(workflow, CatalogSource::Builtin);
    }
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{check_skill, check_workflow, expand};
    use crate::chain::{Arguments, Limits};

    const LIMITS: Limits = Limits {
        prompt_bytes_max: 1 << 20,
        chain_bytes_max: 1 << 20,
    };

    #[test]
    fn every_built_in_skill_and_workflow_is_sound() {
        let fixed = all();
        assert_eq!(fixed.skills.len(), SKILLS.len());
        assert_eq!(fixed.workflows.len(), WORKFLOWS.len());
        for skill in fixed.skills.values() {
            assert_eq!(check_skill(skill, ""), Ok(()), "{}", skill.name);
            for argument in &skill.arguments {
                let place = format!("{{{}}}", argument.name);
                assert!(skill.prompt.contains(&place), "{}: {place}", skill.name);
            }
        }
        for workflow in fixed.workflows.values() {
            assert_eq!(check_workflow(workflow, ""), Ok(()), "{}", workflow.name);
        }
    }

    #[test]
    fn every_built_in_workflow_expands_and_passes_steps_on() {
        let fixed = all();
        for workflow in fixed.workflows.values() {
            let given: Arguments = workflow
                .arguments
                .iter()
                .filter(|a| a.required)
                .map(|a| (a.name.clone(), "{steps.plan} <value>".to_owned()))
                .collect();
            let find = |name: &str| fixed.skills.get(name).cloned();
            let spec = expand(workflow, &given, &find, LIMITS).expect(&workflow.name);
            assert_eq!(spec.workflow, workflow.name);
            for (i, step) in spec.steps.iter().enumerate().skip(1) {
                let refers = spec.references.iter().any(|r| r.step_index as usize == i);
                assert!(refers, "{}: {}", workflow.name, step.name);
            }
        }
    }
}
