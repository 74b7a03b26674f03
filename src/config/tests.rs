use std::time::Duration;

use super::*;
use crate::money::Microdollars;

fn refusal(text: &str) -> String {
    Config::parse(text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(Config::parse("").unwrap(), Config::default());
    Config::default().check().unwrap();
}

#[test]
fn the_cap_of_the_cli_itself_is_the_operators_ceiling() {
    let ceiling = Microdollars(2_500_000);
    let options = Agent::default().options("claude".into(), "/state".into(), ceiling);
    assert_eq!(options.budget_backstop, Some(ceiling));
}

#[test]
fn a_file_changes_only_what_it_names() {
    let config = Config::parse("[pool]\nslots = 7\nstall_timeout = '30s'\n").unwrap();

    assert_eq!(config.pool.slots, 7);
    assert_eq!(config.pool.stall_timeout, Duration::from_secs(30));
    assert_eq!(config.pool.queue_max, pool::Options::default().queue_max);
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let why = refusal("[pool]\nslots = 2\nslotz = 3\n");

    assert!(
        why.starts_with("line 3 (slotz): unknown field `slotz`"),
        "{why}"
    );
}

#[test]
fn a_wrong_type_is_named_with_its_line_and_key_but_not_its_value() {
    let why = refusal("[agent.env]\nANTHROPIC_API_KEY = 12345678\n");

    assert!(why.starts_with("line 2 (ANTHROPIC_API_KEY)"), "{why}");
}

#[test]
fn secrets_print_as_stars() {
    let text = "store = 'postgres://u:hunter2@h/d'\n[agent.env]\nANTHROPIC_API_KEY = 'sk-1'\n";
    let config = Config::parse(text).unwrap();

    let shown = format!("{}{config:?}", config.to_toml().unwrap());

    assert!(shown.contains("***"), "{shown}");
    assert!(
        !shown.contains("sk-1") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn the_printed_configuration_can_be_read_back() {
    let config = Config::parse("store = 'sqlite:/x.db'\n[pool]\nbudget_usd = 2.5\n").unwrap();

    assert_eq!(Config::parse(&config.to_toml().unwrap()).unwrap(), config);
}

#[test]
fn what_others_can_reach_needs_encryption_and_authentication() {
    let tls = "[server.tls]\ncertificate = 'c'\nkey = 'k'\n";
    let mutual = "[server.tls]\ncertificate = 'c'\nkey = 'k'\nclient_ca = 'a'\n\
                  [server.auth.identities]\n'spiffe://x' = ['work']\n";
    let tokens = "[server.auth]\ntoken_file = 't'\n";
    for closed in [
        "127.0.0.1:0",
        "[::1]:50051",
        "localhost:1",
        "127.9.9.9:1",
        "[::ffff:127.0.0.1]:1",
        "unix:/run/x",
    ] {
        let text = format!("[server]\nlisten = '{closed}'\n");
        Config::parse(&text).unwrap().check().expect(closed);
    }
    for open in [
        "0.0.0.0:50051",
        "[::]:50051",
        "10.0.0.1:1",
        "[::ffff:10.0.0.1]:1",
    ] {
        let check = |insecure: bool, rest: &str| {
            let text = format!("[server]\nlisten = '{open}'\ninsecure = {insecure}\n{rest}");
            Config::parse(&text).unwrap().check()
        };
        for too_little in ["", tls, tokens] {
            let why = check(false, too_little).unwrap_err().to_string();
            assert!(why.starts_with(&format!("server.listen {open}: ")), "{why}");
            check(true, too_little).expect(open);
        }
        check(false, &format!("{tls}{tokens}")).expect(open);
        check(false, mutual).expect(open);
    }
    for bad in ["", "example.org:1", "127.0.0.1", "unix:run/x"] {
        bad.parse::<Listen>().unwrap_err();
    }
}

#[test]
fn what_would_let_nobody_in_or_everybody_is_refused() {
    let of = |text: &str| {
        Config::parse(text)
            .unwrap()
            .check()
            .unwrap_err()
            .to_string()
    };

    let names_alone = of("[server.auth.identities]\n'spiffe://x' = ['work']\n");
    assert!(
        names_alone.contains("server.auth.identities"),
        "{names_alone}"
    );
    let nobody = of("[server.tls]\ncertificate = 'c'\nkey = 'k'\nclient_ca = 'a'\n");
    assert!(nobody.contains("server.tls.client_ca"), "{nobody}");
    let scope = refusal("[server.auth.identities]\nx = ['admin']\n");
    assert!(scope.contains("`admin` is no scope"), "{scope}");
}

#[test]
fn values_out_of_range_are_named_by_key() {
    let config = Config::parse("[pool]\nslots = 0\n[agent]\nreset_timeout = '0s'\n").unwrap();

    let why = config.check().unwrap_err().to_string();

    assert!(
        why.contains("pool.slots") && why.contains("agent.reset_timeout"),
        "{why}"
    );
}

#[test]
fn what_is_kept_for_less_than_a_second_is_refused() {
    let text = "[pool]\nlog_bytes_max = 4096\n[pool.retention]\nfailed = '1h'\n";
    let config = Config::parse(text).unwrap();
    config.check().unwrap();
    let kept = &config.pool.retention;
    assert_eq!(kept.failed, Duration::from_secs(3600));
    assert_eq!(kept.succeeded, pool::Retention::default().succeeded);

    let text = "[pool]\nlog_bytes_max = 4095\n[pool.retention]\nfailed = '0s'\n";
    let why = Config::parse(text)
        .unwrap()
        .check()
        .unwrap_err()
        .to_string();

    for key in ["pool.retention", "pool.log_bytes_max"] {
        assert!(why.contains(key), "{key}: {why}");
    }
}

#[test]
fn limits_and_origins_out_of_range_are_named_by_key() {
    let text = "[server.limits]\nconnections_max = 0\nstreams_max = 0\nheader_bytes_max = 1\n\
                request_bytes_max = 1\nresets_max = 0\nreceive_timeout = '0s'\n\
                first_call_timeout = '0s'\nstalled_timeout = '0s'\nconnection_age = '0s'\n\
                keepalive_interval = '0s'\nkeepalive_timeout = '0s'\n\
                [server.web]\norigins = ['*']\n";
    let config = Config::parse(text).unwrap();

    let why = config.check().unwrap_err().to_string();

    for line in text.lines() {
        match line.split_once(" =") {
            Some(("origins", _)) => assert!(why.contains("server.web.origins"), "{why}"),
            Some((key, _)) => assert!(
                why.contains(&format!("server.limits.{key}")),
                "{key}: {why}"
            ),
            None => {}
        }
    }
    let text = "[server.limits]\nreceiving_bytes_max = 1000000\n";
    let why = Config::parse(text)
        .unwrap()
        .check()
        .unwrap_err()
        .to_string();
    assert!(why.contains("server.limits.receiving_bytes_max"), "{why}");
}

#[test]
fn the_configurations_that_are_shipped_can_be_used() {
    for (file, insecure) in [
        ("systemd/claudepool.toml", false),
        ("kubernetes/base/claudepool.toml", false),
        // Its flag is an argument of the pod: the mesh is the boundary.
        ("kubernetes/components/mesh/claudepool.toml", true),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("deploy")
            .join(file);
        let mut config = Config::read(&path).unwrap();
        assert_eq!(config.server.is_insecure(), insecure, "{file}");
        config.server.insecure |= insecure;
        config.check().unwrap();
    }
}
