//! What a task is, as said on the command line.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::failure::Failure;
use crate::pb;

/// How a task is to be done.
#[derive(Args)]
pub(in crate::cli) struct WorkArgs {
    /// Working directory, on the server's machine [default: the server's].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Model name or alias.
    #[arg(long)]
    model: Option<String>,
    /// The most the task may cost, in US dollars.
    #[arg(long, value_name = "X")]
    budget_usd: Option<f64>,
    /// Permission rule that allows a tool, for instance Read or 'Bash(git log:*)'.
    #[arg(long, value_name = "TOOL")]
    allow: Vec<String>,
    /// Permission mode: dont_ask, plan, default, accept_edits, auto,
    /// bypass_permissions.
    #[arg(long, value_name = "MODE")]
    permission_mode: Option<String>,
    /// Label to find the task by.
    #[arg(long)]
    tag: Vec<String>,
    /// Only servers that carry this label run it.
    #[arg(long, value_name = "LABEL")]
    node_label: Option<String>,
    /// UUID that makes the call safe to repeat.
    #[arg(long, value_name = "UUID")]
    pub(in crate::cli) request_id: Option<String>,
}

impl WorkArgs {
    /// The spec of one prompt.
    pub(in crate::cli) fn spec(&self, prompt: String) -> Result<pb::TaskSpec, Failure> {
        Ok(pb::TaskSpec {
            input: Some(pb::task_spec::Input::Prompt(prompt)),
            settings: Some(self.settings()?),
            working_dir: self.working_dir()?,
            tags: self.tag.clone(),
            node_label: self.node_label.clone().unwrap_or_default(),
            ..pb::TaskSpec::default()
        })
    }

    /// The options of a chain.
    pub(in crate::cli) fn chain_options(&self) -> Result<pb::ChainOptions, Failure> {
        Ok(pb::ChainOptions {
            settings: Some(self.settings()?),
            working_dir: self.working_dir()?,
            tags: self.tag.clone(),
            node_label: self.node_label.clone().unwrap_or_default(),
            ..pb::ChainOptions::default()
        })
    }

    fn settings(&self) -> Result<pb::RunSettings, Failure> {
        let permission_mode = match &self.permission_mode {
            None => pb::PermissionMode::Unspecified,
            Some(mode) => {
                let name = mode.to_uppercase().replace('-', "_");
                pb::PermissionMode::from_str_name(&format!("PERMISSION_MODE_{name}"))
                    .ok_or_else(|| Failure::usage(format!("--permission-mode {mode}: unknown")))?
            }
        };
        Ok(pb::RunSettings {
            model: self.model.clone(),
            permission_mode: permission_mode.into(),
            allowed_tools: self.allow.clone(),
            budget_microdollars: self.budget_usd.map(microdollars).transpose()?,
            ..pb::RunSettings::default()
        })
    }

    fn working_dir(&self) -> Result<String, Failure> {
        self.dir.as_deref().map_or(Ok(String::new()), absolute)
    }

    /// The given request id, else a new one: a connection that breaks is then
    /// taken up again, and nothing runs twice.
    pub(in crate::cli) fn request(&self) -> String {
        self.request_id
            .clone()
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string())
    }
}

/// US dollars on the wire. The server says what a negative amount is.
pub(in crate::cli) fn microdollars(dollars: f64) -> Result<i64, Failure> {
    if dollars.is_finite() {
        Ok((dollars * 1e6).round() as i64)
    } else {
        Err(Failure::usage("an amount of dollars must be a number"))
    }
}

/// `NAME=VALUE` words.
pub(in crate::cli) fn arguments(words: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Failure::usage(format!("{word}: say NAME=VALUE"))),
    };
    words.iter().map(pair).collect()
}

fn absolute(dir: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(dir).map_err(|e| Failure::usage(format!("--dir: {e}")))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::usage(format!("--dir {} is not UTF-8", path.display())))
}

/// Where a prompt comes from.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct PromptArgs {
    /// The prompt; - reads it from stdin.
    prompt: Option<String>,
    /// File that holds the prompt.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl PromptArgs {
    /// The prompt's text.
    pub(in crate::cli) fn read(&self) -> Result<String, Failure> {
        match (&self.prompt, &self.file) {
            (Some(prompt), _) if prompt != "-" => Ok(prompt.clone()),
            (_, Some(file)) => read_file(file),
            _ => read_stdin(),
        }
    }
}

pub(in crate::cli) fn read_file(file: &Path) -> Result<String, Failure> {
    if file == Path::new("-") {
        return read_stdin();
    }
    std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))
}

fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("stdin: {error}")))?;
    Ok(text)
}

/// A value, or what stdin holds if it is `-`.
pub(in crate::cli) fn value_or_stdin(value: String) -> Result<String, Failure> {
    if value == "-" {
        read_stdin()
    } else {
        Ok(value)
    }
}
