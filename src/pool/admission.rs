//! Accept or refuse. Pure: what needs the file system is in `workspace`.

use std::time::Duration;

use super::conversation;
use super::options::{DefaultSettings, Mode, Options};
use crate::error::{Error, Violation};
use crate::id::ConversationId;
use crate::money::Microdollars;
use crate::pb::mcp_server::Transport;
use crate::pb::{self, PermissionMode, RunSettings};
use crate::task::Recovery;
use crate::task::settings::merge;

/// Longest text of one settings field, in bytes.
const TEXT_MAX: usize = 256 * 1024;
/// Longest name (model, tag), in bytes.
const NAME_MAX: usize = 128;
/// Longest wait for a slot that may be asked for.
const QUEUE_TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What admission found out about a spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// Settings that hold.
    pub effective: RunSettings,
    /// The most it may cost.
    pub budget: Microdollars,
    /// Longest wait for a slot.
    pub queue_timeout: Option<Duration>,
    /// What a crash does to it.
    pub recovery: Recovery,
    /// Whether its sessions are saved.
    pub saves_session: bool,
    /// The conversation it goes on with; found by `conversation::admit`.
    pub conversation: Option<ConversationId>,
}

/// The pool's own settings, as those of a task.
pub fn pool_settings(settings: &DefaultSettings) -> RunSettings {
    RunSettings {
        model: settings.model.clone(),
        fallback_model: settings.fallback_model.clone(),
        permission_mode: settings.permission_mode.unwrap_or(Mode::DontAsk).to_proto() as i32,
        append_system_prompt: settings.append_system_prompt.clone(),
        allowed_tools: settings.allowed_tools.clone(),
        disallowed_tools: settings.disallowed_tools.clone(),
        ..RunSettings::default()
    }
}

/// Checks every field of a spec and holds it against the policy. `path` is what
/// the fields' names begin with: `task.`, `tasks[3].`.
pub fn admit(spec: &pb::TaskSpec, path: &str, options: &Options) -> Result<Admitted, Error> {
    let mut check = Check {
        path,
        found: Vec::new(),
    };
    check.spec(spec, options);
    let asked = spec.settings.clone().unwrap_or_default();
    check.settings(&asked);
    if !check.found.is_empty() {
        return Err(Error::Invalid(check.found));
    }

    let effective = merge(&pool_settings(&options.settings), &asked);
    allowed(&asked, path, options)?;
    let saves_session = conversation::saves_session(spec, options);
    Ok(Admitted {
        budget: effective
            .budget_microdollars
            .map_or_else(|| options.default_task_budget(), Microdollars)
            .min(Microdollars::from_dollars(
                options.policy.task_budget_max_usd,
            )),
        queue_timeout: effective.queue_timeout.as_ref().and_then(duration),
        recovery: conversation::recovery(spec, saves_session),
        saves_session,
        conversation: None,
        effective,
    })
}

/// Longest time of an attempt with these settings.
pub fn run_timeout(effective: &RunSettings, options: &Options) -> Duration {
    effective
        .run_timeout
        .as_ref()
        .and_then(duration)
        .unwrap_or(options.run_timeout)
        .min(options.policy.run_timeout_max)
}

/// A duration of the wire; `None` if it is negative or none at all.
pub fn duration(d: &prost_types::Duration) -> Option<Duration> {
    Duration::try_from(*d).ok()
}

struct Check<'a> {
    path: &'a str,
    found: Vec<Violation>,
}

impl Check<'_> {
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

    fn spec(&mut self, spec: &pb::TaskSpec, options: &Options) {
        match &spec.input {
            Some(pb::task_spec::Input::Prompt(prompt)) => {
                if prompt.trim().is_empty() {
                    self.fail("prompt", "must not be empty or blank");
                } else {
                    self.length("prompt", prompt, 1, options.policy.prompt_bytes_max);
                }
            }
            None => self.fail("prompt", "is required"),
        }
        if !spec.working_dir.is_empty() {
            let dir = &spec.working_dir;
            if !dir.starts_with('/') || dir.contains('\0') || dir.len() > 4096 {
                self.fail("working_dir", "must be an absolute path");
            }
        }
        if pb::Isolation::try_from(spec.isolation).is_err() {
            self.fail("isolation", "is no Isolation that this server knows");
        }
        if pb::RecoveryPolicy::try_from(spec.recovery).is_err() {
            self.fail("recovery", "is no RecoveryPolicy that this server knows");
        }
        self.length("node_label", &spec.node_label, 0, NAME_MAX);
        if spec.tags.len() > 64 {
            self.fail("tags", "must be at most 64");
        }
        for (i, tag) in spec.tags.iter().enumerate().take(65) {
            self.length(&format!("tags[{i}]"), tag, 1, NAME_MAX);
        }
        match spec.conversation.as_ref().and_then(|c| c.kind.as_ref()) {
            Some(pb::conversation::Kind::ContinueConversation(c)) => self.length(
                "conversation.continue_conversation.key",
                &c.key,
                1,
                NAME_MAX,
            ),
            Some(pb::conversation::Kind::ResumeSession(r)) => self.length(
                "conversation.resume_session.session_id",
                &r.session_id,
                1,
                NAME_MAX,
            ),
            Some(
                pb::conversation::Kind::NewConversation(_) | pb::conversation::Kind::NewProcess(_),
            )
            | None => {}
        }
    }

    fn settings(&mut self, s: &RunSettings) {
        for (field, name) in [
            ("settings.model", &s.model),
            ("settings.fallback_model", &s.fallback_model),
        ] {
            if let Some(name) = name {
                self.length(field, name, 1, NAME_MAX);
                // It becomes an argument of a command line.
                if name.starts_with('-') || name.contains(|c: char| c.is_control()) {
                    self.fail(field, "must be a model's name");
                }
            }
        }
        if PermissionMode::try_from(s.permission_mode).is_err() {
            self.fail(
                "settings.permission_mode",
                "is no PermissionMode that this server knows",
            );
        }
        if pb::Effort::try_from(s.effort).is_err() {
            self.fail("settings.effort", "is no Effort that this server knows");
        }
        if let Some(turns) = s.max_turns
            && !(1..=10_000).contains(&turns)
        {
            self.fail("settings.max_turns", "must be 1 to 10000");
        }
        for (field, text) in [
            ("settings.system_prompt", &s.system_prompt),
            ("settings.append_system_prompt", &s.append_system_prompt),
            ("settings.json_schema", &s.json_schema),
        ] {
            if let Some(text) = text {
                self.length(field, text, 0, TEXT_MAX);
            }
        }
        if let Some(schema) = &s.json_schema
            && !serde_json::from_str::<serde_json::Value>(schema).is_ok_and(|v| v.is_object())
        {
            self.fail("settings.json_schema", "must be the JSON text of an object");
        }
        for (field, tools) in [
            ("settings.allowed_tools", &s.allowed_tools),
            ("settings.disallowed_tools", &s.disallowed_tools),
        ] {
            if tools.len() > 256 {
                self.fail(field, "must be at most 256");
            }
            for (i, tool) in tools.iter().enumerate().take(257) {
                let field = format!("{field}[{i}]");
                self.length(&field, tool, 1, 1024);
                if !is_rule(tool) {
                    self.fail(&field, "must be a permission rule: Tool or Tool(pattern)");
                }
            }
        }
        for (name, server) in &s.mcp_servers {
            self.mcp_server(name, server);
        }
        if let Some(budget) = s.budget_microdollars
            && budget < 0
        {
            self.fail("settings.budget_microdollars", "must be 0 or more");
        }
        self.duration(
            "settings.run_timeout",
            s.run_timeout.as_ref(),
            Duration::from_secs(1),
            Duration::MAX,
        );
        self.duration(
            "settings.queue_timeout",
            s.queue_timeout.as_ref(),
            Duration::ZERO,
            QUEUE_TIMEOUT_MAX,
        );
    }

    fn mcp_server(&mut self, name: &str, server: &pb::McpServer) {
        let field = format!("settings.mcp_servers[{name}]");
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !(1..=64).contains(&name.len()) || !name.chars().all(plain) {
            self.fail(
                &field,
                "must be named by 1 to 64 letters, digits, \"_\" or \"-\"",
            );
        }
        match &server.transport {
            Some(Transport::Stdio(stdio)) => {
                self.length(&format!("{field}.stdio.command"), &stdio.command, 1, 4096);
            }
            Some(Transport::Http(http)) => {
                let field = format!("{field}.http.url");
                self.length(&field, &http.url, 1, 4096);
                if !http.url.starts_with("http://") && !http.url.starts_with("https://") {
                    self.fail(&field, "must begin with http:// or https://");
                }
            }
            None => self.fail(&format!("{field}.transport"), "is required"),
        }
    }

    fn duration(
        &mut self,
        field: &str,
        value: Option<&prost_types::Duration>,
        min: Duration,
        max: Duration,
    ) {
        if let Some(value) = value
            && !duration(value).is_some_and(|d| (min..=max).contains(&d))
        {
            let range = if max == Duration::MAX {
                format!("must be {min:?} or more")
            } else {
                format!("must be {min:?} to {max:?}")
            };
            self.fail(field, range);
        }
    }
}

/// Whether a text is one permission rule. It becomes a part of an argument, in
/// which commas and blanks separate rules.
fn is_rule(text: &str) -> bool {
    let (name, pattern) = match text.split_once('(') {
        None => (text, None),
        Some((name, rest)) => (name, rest.strip_suffix(')').or(Some(")"))),
    };
    let of_name = |c: char| c.is_ascii_alphanumeric() || "_-.:*".contains(c);
    let breaks = |c: char| matches!(c, '(' | ')' | ',') || c.is_control();
    !name.is_empty()
        && !name.starts_with('-')
        && name.chars().all(of_name)
        && !pattern.is_some_and(|pattern| pattern.contains(breaks))
}

/// Whether what the operator lists covers a rule: it is the same, or the bare
/// name of its tool.
fn covers(listed: &str, rule: &str) -> bool {
    let name = rule.split('(').next().unwrap_or(rule);
    listed == rule || listed == name
}

/// The operator's ceiling.
fn allowed(asked: &RunSettings, path: &str, options: &Options) -> Result<(), Error> {
    let policy = &options.policy;
    let refuse = |field: &str, message: String| {
        Err(Error::Policy {
            field: format!("{path}settings.{field}"),
            message,
        })
    };
    let mode = asked.permission_mode();
    if mode != PermissionMode::Unspecified
        && !policy.permission_modes.iter().any(|m| m.to_proto() == mode)
    {
        return refuse(
            "permission_mode",
            format!("the policy does not allow {}", mode.as_str_name()),
        );
    }
    for (field, model) in [
        ("model", &asked.model),
        ("fallback_model", &asked.fallback_model),
    ] {
        if let (Some(model), Some(models)) = (model, &policy.models)
            && !models.contains(model)
        {
            let models = models.join(", ");
            return refuse(field, format!("the policy allows {models} alone"));
        }
    }
    if let Some(tools) = &policy.tools {
        let covered = |rule: &String| tools.iter().any(|listed| covers(listed, rule));
        if let Some(i) = asked.allowed_tools.iter().position(|rule| !covered(rule)) {
            let tools = tools.join(", ");
            return refuse(
                &format!("allowed_tools[{i}]"),
                format!("the policy allows {tools} alone"),
            );
        }
    }
    let ceiling = Microdollars::from_dollars(policy.task_budget_max_usd);
    if let Some(budget) = asked.budget_microdollars
        && Microdollars(budget) > ceiling
    {
        return refuse(
            "budget_microdollars",
            format!("the policy allows at most {}", ceiling.0),
        );
    }
    if let Some(timeout) = asked.run_timeout.as_ref().and_then(duration)
        && timeout > policy.run_timeout_max
    {
        return refuse(
            "run_timeout",
            format!("the policy allows at most {:?}", policy.run_timeout_max),
        );
    }
    for (field, wanted, open) in [
        (
            "slash_commands",
            asked.slash_commands == Some(true),
            policy.slash_commands,
        ),
        (
            "attachments",
            asked.attachments == Some(true),
            policy.attachments,
        ),
        (
            "mcp_servers",
            !asked.mcp_servers.is_empty(),
            policy.mcp_servers,
        ),
    ] {
        if wanted && !open {
            return refuse(field, "the policy does not allow it".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(prompt: &str) -> pb::TaskSpec {
        pb::TaskSpec {
            input: Some(pb::task_spec::Input::Prompt(prompt.to_owned())),
            ..pb::TaskSpec::default()
        }
    }

    fn fields(result: Result<Admitted, Error>) -> Vec<String> {
        match result {
            Err(Error::Invalid(violations)) => violations.into_iter().map(|v| v.field).collect(),
            other => panic!("violations expected, got {other:?}"),
        }
    }

    #[test]
    fn every_wrong_field_is_named_with_its_path() {
        let mut bad = spec(" ");
        bad.working_dir = "here".into();
        bad.isolation = 99;
        bad.tags = vec![String::new()];
        bad.settings = Some(RunSettings {
            model: Some("--dangerous".into()),
            permission_mode: 77,
            max_turns: Some(0),
            json_schema: Some("[1]".into()),
            budget_microdollars: Some(-1),
            run_timeout: Some(prost_types::Duration {
                seconds: -1,
                nanos: 0,
            }),
            ..RunSettings::default()
        });

        let found = fields(admit(&bad, "tasks[3].", &Options::default()));

        for field in [
            "prompt",
            "working_dir",
            "isolation",
            "tags[0]",
            "settings.model",
            "settings.permission_mode",
            "settings.max_turns",
            "settings.json_schema",
            "settings.budget_microdollars",
            "settings.run_timeout",
        ] {
            assert!(
                found.contains(&format!("tasks[3].{field}")),
                "{field}: {found:?}"
            );
        }
    }

    #[test]
    fn a_prompt_over_the_limit_is_refused() {
        let long = "x".repeat(4 * 1024 * 1024 + 1);
        assert_eq!(
            fields(admit(&spec(&long), "task.", &Options::default())),
            ["task.prompt"]
        );
    }

    #[test]
    fn what_the_policy_does_not_open_is_refused_by_name() {
        for (settings, field) in [
            (
                RunSettings {
                    permission_mode: PermissionMode::BypassPermissions as i32,
                    ..RunSettings::default()
                },
                "task.settings.permission_mode",
            ),
            (
                RunSettings {
                    budget_microdollars: Some(10_000_001),
                    ..RunSettings::default()
                },
                "task.settings.budget_microdollars",
            ),
            (
                RunSettings {
                    attachments: Some(true),
                    ..RunSettings::default()
                },
                "task.settings.attachments",
            ),
            (
                RunSettings {
                    slash_commands: Some(true),
                    ..RunSettings::default()
                },
                "task.settings.slash_commands",
            ),
            (
                RunSettings {
                    model: Some("opus".into()),
                    ..RunSettings::default()
                },
                "task.settings.model",
            ),
            (
                RunSettings {
                    fallback_model: Some("opus".into()),
                    ..RunSettings::default()
                },
                "task.settings.fallback_model",
            ),
            (
                RunSettings {
                    allowed_tools: vec!["Read(src/**)".into(), "Bash(git log:*)".into()],
                    ..RunSettings::default()
                },
                "task.settings.allowed_tools[1]",
            ),
            (
                RunSettings {
                    run_timeout: Some(prost_types::Duration {
                        seconds: 24 * 3600 + 1,
                        nanos: 0,
                    }),
                    ..RunSettings::default()
                },
                "task.settings.run_timeout",
            ),
            (
                RunSettings {
                    mcp_servers: [("m".to_owned(), mcp("true"))].into(),
                    ..RunSettings::default()
                },
                "task.settings.mcp_servers",
            ),
        ] {
            let mut asked = spec("hello");
            asked.settings = Some(settings);
            let mut options = Options::default();
            options.policy.models = Some(vec!["sonnet".into()]);
            options.policy.tools = Some(vec!["Read".into(), "Bash(git status)".into()]);
            match admit(&asked, "task.", &options) {
                Err(Error::Policy { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    fn mcp(command: &str) -> pb::McpServer {
        let stdio = pb::McpStdio {
            command: command.to_owned(),
            ..pb::McpStdio::default()
        };
        pb::McpServer {
            transport: Some(Transport::Stdio(stdio)),
        }
    }

    #[test]
    fn a_tool_rule_is_one_rule() {
        for good in [
            "Read",
            "Bash(git log:*)",
            "mcp__m__t",
            "Read(src/**)",
            "Task(*)",
        ] {
            assert!(is_rule(good), "{good}");
        }
        for bad in [
            "",
            "--allowed-tools",
            "-x",
            "Read,Bash",
            "Read Bash",
            "Read(x),Bash(y)",
            "Read(x) Bash",
            "Read(x",
            "Read)",
            "(x)",
            "Read(x)y",
            "Read\nBash",
        ] {
            assert!(!is_rule(bad), "{bad}");
        }
        assert!(covers("Read", "Read(src/**)") && covers("Read(src/**)", "Read(src/**)"));
        assert!(!covers("Read(src/**)", "Read") && !covers("Rea", "Read(x)"));
    }

    #[test]
    fn a_task_without_a_budget_gets_the_pools_default_and_never_more_than_the_ceiling() {
        let options = Options {
            default_task_budget_usd: 50.0,
            ..Options::default()
        };
        let admitted = admit(&spec("hello"), "task.", &options).expect("admitted");
        assert_eq!(admitted.budget, Microdollars(10_000_000));
    }

    #[test]
    fn an_mcp_server_has_a_plain_name_and_a_transport() {
        let server = |transport| pb::McpServer { transport };
        let stdio = |command: &str| {
            Transport::Stdio(pb::McpStdio {
                command: command.to_owned(),
                ..pb::McpStdio::default()
            })
        };
        let http = Transport::Http(pb::McpHttp {
            url: "file:///etc/passwd".to_owned(),
            ..pb::McpHttp::default()
        });
        let mut asked = spec("hello");
        asked.settings = Some(RunSettings {
            mcp_servers: [
                ("a b".to_owned(), server(Some(stdio("x")))),
                ("none".to_owned(), server(None)),
                ("stdio".to_owned(), server(Some(stdio("")))),
                ("http".to_owned(), server(Some(http))),
            ]
            .into(),
            ..RunSettings::default()
        });
        assert_eq!(
            fields(admit(&asked, "task.", &Options::default())),
            [
                "task.settings.mcp_servers[a b]",
                "task.settings.mcp_servers[http].http.url",
                "task.settings.mcp_servers[none].transport",
                "task.settings.mcp_servers[stdio].stdio.command",
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_admitted_task_exceeds_the_ceiling(
            asked in proptest::option::of(0..40_000_000i64),
            default in 0.0..100.0f64,
            ceiling in 0.0..30.0f64,
            seconds in proptest::option::of(1..200_000i64),
            pool_seconds in 1..200_000u64,
        ) {
            let mut options = Options {
                default_task_budget_usd: default,
                run_timeout: Duration::from_secs(pool_seconds),
                ..Options::default()
            };
            options.policy.task_budget_max_usd = ceiling;
            let mut task = spec("hello");
            task.settings = Some(RunSettings {
                budget_microdollars: asked,
                run_timeout: seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
                ..RunSettings::default()
            });
            if let Ok(admitted) = admit(&task, "task.", &options) {
                proptest::prop_assert!(admitted.budget <= Microdollars::from_dollars(ceiling));
                let limit = run_timeout(&admitted.effective, &options);
                proptest::prop_assert!(limit <= options.policy.run_timeout_max);
            }
        }
    }
}
