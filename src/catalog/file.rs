//! Skills and workflows as files say them.
//!
//! YAML is bounded before and while it is read: no file is longer than its
//! limit, aliases are refused, and nesting is shallow.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::chain::beginning;
use crate::money::Microdollars;
use crate::pb::{self, chain_step::Action};

/// Reads one YAML document.
pub(super) fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 16,
            max_documents: 1,
            max_nodes: 20_000,
            max_events: 60_000,
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| short(&e))
}

/// Reads JSON.
pub(super) fn json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| short(&e))
}

fn short(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    beginning(line, 300).to_owned()
}

/// An argument.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Argument {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    default: String,
}

impl From<Argument> for pb::Argument {
    fn from(a: Argument) -> Self {
        Self {
            name: a.name,
            description: a.description,
            required: a.required,
            default_value: a.default,
        }
    }
}

/// `NAME.json`: a skill.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Skill {
    name: String,
    description: String,
    #[serde(default)]
    arguments: Vec<Argument>,
    prompt: String,
}

impl From<Skill> for pb::Skill {
    fn from(s: Skill) -> Self {
        Self {
            name: s.name,
            description: s.description,
            arguments: s.arguments.into_iter().map(Into::into).collect(),
            prompt: s.prompt,
            ..Self::default()
        }
    }
}

/// `NAME.workflow.yaml`, `NAME.workflow.json`: a workflow.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Workflow {
    name: String,
    description: String,
    #[serde(default)]
    arguments: Vec<Argument>,
    steps: Vec<Step>,
}

impl TryFrom<Workflow> for pb::Workflow {
    type Error = String;

    fn try_from(w: Workflow) -> Result<Self, String> {
        Ok(Self {
            name: w.name,
            description: w.description,
            arguments: w.arguments.into_iter().map(Into::into).collect(),
            steps: w
                .steps
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            ..Self::default()
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    name: String,
    prompt: Option<String>,
    skill: Option<Call>,
    #[serde(default)]
    settings: Option<Settings>,
    #[serde(default)]
    on_failure: Option<OnFailure>,
    #[serde(default)]
    output_vars: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    name: String,
    #[serde(default)]
    arguments: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnFailure {
    #[serde(default)]
    retries: i32,
    #[serde(default, with = "humantime_serde")]
    backoff: Option<Duration>,
    #[serde(default)]
    recovery_prompt: String,
}

/// The settings that a step of a file may have; no MCP servers, since one is a
/// command line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    model: Option<String>,
    fallback_model: Option<String>,
    permission_mode: Option<String>,
    max_turns: Option<i32>,
    system_prompt: Option<String>,
    append_system_prompt: Option<String>,
    #[serde(default)]
    allowed_tools: Vec<String>,
    #[serde(default)]
    disallowed_tools: Vec<String>,
    effort: Option<String>,
    json_schema: Option<String>,
    budget_usd: Option<f64>,
    #[serde(default, with = "humantime_serde")]
    run_timeout: Option<Duration>,
}

impl TryFrom<Step> for pb::ChainStep {
    type Error = String;

    fn try_from(s: Step) -> Result<Self, String> {
        let action = match (s.prompt, s.skill) {
            (Some(_), Some(_)) => {
                return Err(format!("step {}: a prompt or a skill, not both", s.name));
            }
            (Some(prompt), None) => Some(Action::Prompt(prompt)),
            (None, Some(call)) => Some(Action::Skill(pb::SkillCall {
                name: call.name,
                arguments: call.arguments,
            })),
            (None, None) => None,
        };
        Ok(Self {
            name: s.name,
            action,
            settings: s.settings.map(TryInto::try_into).transpose()?,
            on_failure: s
                .on_failure
                .map(|policy| {
                    Ok::<_, String>(pb::FailurePolicy {
                        retries: policy.retries,
                        backoff: policy.backoff.map(wire).transpose()?,
                        recovery_prompt: policy.recovery_prompt,
                    })
                })
                .transpose()?,
            output_vars: s.output_vars,
        })
    }
}

impl TryFrom<Settings> for pb::RunSettings {
    type Error = String;

    fn try_from(s: Settings) -> Result<Self, String> {
        let mode = s.permission_mode.map_or(Ok(0), |name| {
            named("PERMISSION_MODE", &name, |n| {
                pb::PermissionMode::from_str_name(n).map(|m| m as i32)
            })
        })?;
        let effort = s.effort.map_or(Ok(0), |name| {
            named("EFFORT", &name, |n| {
                pb::Effort::from_str_name(n).map(|e| e as i32)
            })
        })?;
        Ok(Self {
            model: s.model,
            fallback_model: s.fallback_model,
            permission_mode: mode,
            max_turns: s.max_turns,
            system_prompt: s.system_prompt,
            append_system_prompt: s.append_system_prompt,
            allowed_tools: s.allowed_tools,
            disallowed_tools: s.disallowed_tools,
            effort,
            json_schema: s.json_schema,
            budget_microdollars: s.budget_usd.map(|d| Microdollars::from_dollars(d).0),
            run_timeout: s.run_timeout.map(wire).transpose()?,
            ..Self::default()
        })
    }
}

fn named(prefix: &str, name: &str, find: impl Fn(&str) -> Option<i32>) -> Result<i32, String> {
    find(&format!("{prefix}_{}", name.to_ascii_uppercase()))
        .filter(|number| *number != 0)
        .ok_or_else(|| {
            format!(
                "\"{}\" is no {}",
                beginning(name, 64),
                prefix.to_ascii_lowercase()
            )
        })
}

fn wire(d: Duration) -> Result<prost_types::Duration, String> {
    prost_types::Duration::try_from(d).map_err(|_| "a duration is too long".to_owned())
}
