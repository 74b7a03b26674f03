//! Chains, workflows and skills on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Remote;
use super::work::{WorkArgs, read_file};
use crate::cli::failure::Failure;
use crate::pb;

#[derive(Args)]
pub(in crate::cli) struct StepsArgs {
    /// The prompts of the steps; {previous_output} is the text of the step before.
    #[arg(required_unless_present = "file")]
    steps: Vec<String>,
    /// File with the steps, parted by lines that are ---; - is stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "steps")]
    file: Option<PathBuf>,
}

impl StepsArgs {
    /// The steps in order, named by their number.
    pub(in crate::cli) fn read(&self) -> Result<Vec<pb::ChainStep>, Failure> {
        let prompts = match &self.file {
            Some(file) => parts(&read_file(file)?),
            None => self.steps.clone(),
        };
        let step = |(i, prompt)| pb::ChainStep {
            name: format!("step_{}", i + 1),
            action: Some(pb::chain_step::Action::Prompt(prompt)),
            ..pb::ChainStep::default()
        };
        Ok(prompts.into_iter().enumerate().map(step).collect())
    }
}

/// The parts of a text between lines that are `---`.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![Vec::new()];
    for line in text.lines() {
        if line.trim_end() == "---" {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(line);
        }
    }
    parts.into_iter().map(|part| part.join("\n")).collect()
}

/// How a chain is followed.
#[derive(Args)]
pub(in crate::cli) struct FollowArgs {
    #[command(flatten)]
    pub(in crate::cli) work: WorkArgs,
    /// Print the chain's id and do not wait.
    #[arg(long)]
    pub(in crate::cli) detach: bool,
}

#[derive(Args)]
pub(in crate::cli) struct ChainArgs {
    #[command(flatten)]
    pub(in crate::cli) steps: StepsArgs,
    #[command(flatten)]
    pub(in crate::cli) follow: FollowArgs,
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

#[derive(Args)]
pub(in crate::cli) struct WorkflowArgs {
    #[command(subcommand)]
    pub(in crate::cli) action: Option<WorkflowAction>,
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

/// What is done with workflows; nothing: they are listed.
#[derive(Subcommand)]
pub(in crate::cli) enum WorkflowAction {
    /// List the workflows.
    List,
    /// Show a workflow with its steps.
    Show {
        /// Its name.
        name: String,
    },
    /// Run a workflow and show how it goes on.
    Run {
        /// Its name.
        name: String,
        /// Arguments, NAME=VALUE.
        arguments: Vec<String>,
        #[command(flatten)]
        follow: FollowArgs,
    },
    /// Store a workflow, or replace the stored one of that name.
    Put {
        /// Its name.
        name: String,
        #[command(flatten)]
        steps: StepsArgs,
        #[command(flatten)]
        about: AboutArgs,
    },
    /// Store a workflow, or replace the stored one of that name, from a file as
    /// catalog folders hold them: NAME.workflow.yaml or NAME.workflow.json.
    #[cfg(feature = "server")]
    Load {
        /// The file.
        file: PathBuf,
    },
    /// Delete a stored workflow.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Args)]
pub(in crate::cli) struct SkillArgs {
    #[command(subcommand)]
    pub(in crate::cli) action: Option<SkillAction>,
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

/// What is done with skills; nothing: they are listed.
#[derive(Subcommand)]
pub(in crate::cli) enum SkillAction {
    /// List the skills.
    List,
    /// Show a skill with its prompt.
    Show {
        /// Its name.
        name: String,
    },
    /// Run a skill and show how it goes on.
    Run {
        /// Its name.
        name: String,
        /// Arguments, NAME=VALUE.
        arguments: Vec<String>,
        #[command(flatten)]
        follow: FollowArgs,
    },
    /// Store a skill, or replace the stored one of that name.
    Put {
        /// Its name.
        name: String,
        /// Its prompt, in which {NAME} is an argument; - reads it from stdin.
        prompt: String,
        #[command(flatten)]
        about: AboutArgs,
    },
    /// Store a skill, or replace the stored one of that name, from a file as catalog
    /// folders hold them: SKILL.md or NAME.json.
    #[cfg(feature = "server")]
    Load {
        /// The file.
        file: PathBuf,
    },
    /// Delete a stored skill.
    Delete {
        /// Its name.
        name: String,
    },
}

/// What is told of a skill or a workflow.
#[derive(Args)]
pub(in crate::cli) struct AboutArgs {
    /// What it is for.
    #[arg(long)]
    pub(in crate::cli) description: String,
    /// An argument it takes: NAME if it must be given, else NAME=DEFAULT.
    #[arg(long = "argument", value_name = "NAME[=DEFAULT]")]
    arguments: Vec<String>,
}

impl AboutArgs {
    /// The arguments in order.
    pub(in crate::cli) fn arguments(&self) -> Vec<pb::Argument> {
        let argument = |word: &String| match word.split_once('=') {
            Some((name, default)) => pb::Argument {
                name: name.to_owned(),
                default_value: default.to_owned(),
                ..pb::Argument::default()
            },
            None => pb::Argument {
                name: word.clone(),
                required: true,
                ..pb::Argument::default()
            },
        };
        self.arguments.iter().map(argument).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_a_file_are_parted_by_lines_of_dashes() {
        assert_eq!(
            parts("first\nline\n---\n- second --- still\n"),
            ["first\nline", "- second --- still"]
        );
    }
}
