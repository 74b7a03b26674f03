use std::time::Duration;

use super::*;
use crate::money::Microdollars;

fn launch(profile: Profile, placed: bool) -> Launch {
    Launch {
        profile,
        placement: placed.then(|| Placement {
            working_dir: "/work".into(),
            system_prompt: Some("SECRET-SYSTEM".into()),
            append_system_prompt: Some("SECRET-APPENDED".into()),
        }),
        resume: None,
    }
}

fn options() -> ClaudeOptions {
    ClaudeOptions::new("/state")
}

fn args(launch: &Launch) -> Vec<String> {
    arguments(launch, &options(), None).unwrap()
}

#[test]
fn a_spare_has_every_flag_that_keeps_it_apart() {
    let args = args(&launch(Profile::default(), false)).join(" ");

    assert_eq!(
        args,
        "--print --output-format stream-json --verbose --permission-mode dontAsk \
         --disallowed-tools CronCreate,ScheduleWakeup,Monitor,SendMessage,ListAgents,Workflow,\
         EnterWorktree --no-session-persistence --strict-mcp-config --setting-sources  \
         --include-partial-messages --input-format stream-json --await-claim"
    );
}

#[test]
fn settings_that_a_live_process_cannot_change_are_arguments() {
    let profile = Profile {
        allowed_tools: vec!["Bash(git log:*)".into(), "Read".into()],
        disallowed_tools: vec!["WebFetch".into()],
        fallback_model: Some("haiku".into()),
        bypass_permissions: true,
        save_sessions: true,
        ..Profile::default()
    };
    let mut options = options();
    options.budget_backstop = Some(Microdollars(2_500_000));
    let mut launch = launch(profile, true);
    launch.resume = Some("0b1c".into());

    let args = arguments(&launch, &options, Some(Path::new("/p/mcp.json"))).unwrap();

    let text = args.join(" ");
    for part in [
        "--allowed-tools Bash(git log:*),Read",
        "EnterWorktree,WebFetch",
        "--fallback-model haiku",
        "--allow-dangerously-skip-permissions",
        "--max-budget-usd 2.5",
        "--mcp-config /p/mcp.json",
        "--resume 0b1c",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("--no-session-persistence") && !text.contains("--await-claim"));
}

#[test]
fn no_secret_is_an_argument() {
    let profile = Profile {
        mcp_servers: [("m".to_owned(), r#"{"env":{"K":"SECRET-KEY"}}"#.to_owned())].into(),
        json_schema: Some(r#"{"title":"SECRET-SCHEMA"}"#.into()),
        ..Profile::default()
    };
    let launch = launch(profile, true);

    assert!(!args(&launch).join(" ").contains("SECRET"));
    let initialize = initialize(&launch).unwrap().to_string();
    for secret in ["SECRET-SYSTEM", "SECRET-APPENDED", "SECRET-SCHEMA"] {
        assert!(initialize.contains(secret));
    }
    let config = mcp_config(&launch.profile).unwrap().unwrap();
    assert_eq!(config, r#"{"mcpServers":{"m":{"env":{"K":"SECRET-KEY"}}}}"#);
}

#[test]
fn a_value_cannot_become_an_option() {
    let hostile = "--dangerously-skip-permissions";
    let profiles = [
        Profile {
            allowed_tools: vec![hostile.into()],
            ..Profile::default()
        },
        Profile {
            allowed_tools: vec![format!("Read,{hostile}")],
            ..Profile::default()
        },
        Profile {
            disallowed_tools: vec![String::new()],
            ..Profile::default()
        },
        Profile {
            fallback_model: Some(hostile.into()),
            ..Profile::default()
        },
    ];

    for profile in profiles {
        let refused = arguments(&launch(profile, true), &options(), None);
        assert!(matches!(refused, Err(AgentError::Refused { .. })));
    }
}

#[test]
fn what_is_not_json_is_refused_before_anything_starts() {
    let profile = Profile {
        mcp_servers: [("m".to_owned(), "{".to_owned())].into(),
        json_schema: Some("{".into()),
        ..Profile::default()
    };

    assert!(mcp_config(&profile).is_err());
    assert!(initialize(&launch(profile, true)).is_err());
}

#[test]
fn the_environment_is_an_allow_list_and_the_operators_settings() {
    let mut options = options();
    options.env.insert("LANG".into(), "C".into());
    options
        .env
        .insert("CLAUDE_CONFIG_DIR".into(), "/elsewhere".into());
    options.api_retries_max = Some(3);
    options.stream_idle_timeout = Duration::from_secs(60);
    let ours = |name: &str| {
        let known = ["PATH", "LANG", "AWS_SECRET_ACCESS_KEY"];
        known.contains(&name).then(|| OsString::from("inherited"))
    };

    let env = environment(
        &Profile::default(),
        &options,
        Path::new("/config"),
        "marker",
        ours,
    );

    let get = |name: &str| env.get(&OsString::from(name)).and_then(|v| v.to_str());
    assert_eq!(get("PATH"), Some("inherited"));
    assert_eq!(get("LANG"), Some("C"));
    assert_eq!(get("AWS_SECRET_ACCESS_KEY"), None);
    assert_eq!(get("HOME"), Some("/config"));
    assert_eq!(get("CLAUDE_CONFIG_DIR"), Some("/config"));
    assert_eq!(get("CLAUDEPOOL_TREE"), Some("marker"));
    assert_eq!(get("CLAUDE_CODE_MAX_RETRIES"), Some("3"));
    assert_eq!(get("CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS"), Some("60000"));
    assert_eq!(get("CLAUDE_CODE_DISABLE_ATTACHMENTS"), Some("1"));
    assert_eq!(get("IS_SANDBOX"), None);
}

#[test]
fn a_key_is_not_printed() {
    let mut options = options();
    options
        .env
        .insert("ANTHROPIC_API_KEY".into(), "SECRET-KEY".into());

    let printed = format!("{options:?}");

    assert!(printed.contains("ANTHROPIC_API_KEY") && !printed.contains("SECRET"));
}
