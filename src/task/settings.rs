//! Settings merged pool < slot < task, in one place. Pure.

use crate::pb::{Effort, PermissionMode, RunSettings};

/// `over` on top of `base`: single values override, tools add up (each once, in
/// order), MCP servers merge by name.
pub fn merge(base: &RunSettings, over: &RunSettings) -> RunSettings {
    RunSettings {
        model: pick(&base.model, &over.model),
        fallback_model: pick(&base.fallback_model, &over.fallback_model),
        permission_mode: if over.permission_mode == PermissionMode::Unspecified as i32 {
            base.permission_mode
        } else {
            over.permission_mode
        },
        max_turns: over.max_turns.or(base.max_turns),
        system_prompt: pick(&base.system_prompt, &over.system_prompt),
        append_system_prompt: pick(&base.append_system_prompt, &over.append_system_prompt),
        allowed_tools: union(&base.allowed_tools, &over.allowed_tools),
        disallowed_tools: union(&base.disallowed_tools, &over.disallowed_tools),
        mcp_servers: {
            let mut servers = base.mcp_servers.clone();
            servers.extend(over.mcp_servers.clone());
            servers
        },
        effort: if over.effort == Effort::Unspecified as i32 {
            base.effort
        } else {
            over.effort
        },
        json_schema: pick(&base.json_schema, &over.json_schema),
        budget_microdollars: over.budget_microdollars.or(base.budget_microdollars),
        run_timeout: over.run_timeout.or(base.run_timeout),
        queue_timeout: over.queue_timeout.or(base.queue_timeout),
        slash_commands: over.slash_commands.or(base.slash_commands),
        attachments: over.attachments.or(base.attachments),
    }
}

fn pick(base: &Option<String>, over: &Option<String>) -> Option<String> {
    over.clone().or_else(|| base.clone())
}

fn union(base: &[String], over: &[String]) -> Vec<String> {
    let mut all = base.to_vec();
    for tool in over {
        if !all.contains(tool) {
            all.push(tool.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{McpServer, McpStdio, mcp_server::Transport};
    use proptest::prelude::*;

    fn server(command: &str) -> McpServer {
        McpServer {
            transport: Some(Transport::Stdio(McpStdio {
                command: command.to_owned(),
                ..McpStdio::default()
            })),
        }
    }

    fn any_settings() -> impl Strategy<Value = RunSettings> {
        let word = prop::option::of("[ab]");
        (
            (
                word.clone(),
                word.clone(),
                0..7i32,
                prop::option::of(1..4i32),
            ),
            (word.clone(), word),
            prop::collection::vec("[abc]", 0..3),
            prop::collection::vec("[abc]", 0..3),
            prop::collection::btree_map("[xy]", "[ab]", 0..3),
            (
                0..6i32,
                prop::option::of(0..5i64),
                prop::option::of(any::<bool>()),
            ),
        )
            .prop_map(|(a, b, allow, deny, servers, c)| {
                let mut allowed = allow;
                allowed.sort();
                allowed.dedup();
                let mut denied = deny;
                denied.sort();
                denied.dedup();
                RunSettings {
                    model: a.0,
                    fallback_model: a.1,
                    permission_mode: a.2,
                    max_turns: a.3,
                    system_prompt: b.0,
                    append_system_prompt: b.1,
                    allowed_tools: allowed,
                    disallowed_tools: denied,
                    mcp_servers: servers.into_iter().map(|(k, v)| (k, server(&v))).collect(),
                    effort: c.0,
                    budget_microdollars: c.1,
                    slash_commands: c.2,
                    ..RunSettings::default()
                }
            })
    }

    proptest! {
        #[test]
        fn merging_is_associative(a in any_settings(), b in any_settings(), c in any_settings()) {
            prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
        }

        #[test]
        fn merging_with_nothing_changes_nothing(a in any_settings()) {
            prop_assert_eq!(merge(&a, &RunSettings::default()), a.clone());
            prop_assert_eq!(merge(&RunSettings::default(), &a), a);
        }
    }

    #[test]
    fn single_values_override_tools_add_up_and_servers_merge_by_name() {
        let base = RunSettings {
            model: Some("base".into()),
            allowed_tools: vec!["Read".into()],
            mcp_servers: [("a".into(), server("one")), ("b".into(), server("two"))].into(),
            ..RunSettings::default()
        };
        let over = RunSettings {
            model: Some("over".into()),
            allowed_tools: vec!["Read".into(), "Bash".into()],
            mcp_servers: [("b".into(), server("three"))].into(),
            ..RunSettings::default()
        };

        let merged = merge(&base, &over);

        assert_eq!(merged.model.as_deref(), Some("over"));
        assert_eq!(merged.allowed_tools, ["Read", "Bash"]);
        assert_eq!(merged.mcp_servers["a"], server("one"));
        assert_eq!(merged.mcp_servers["b"], server("three"));
    }
}
