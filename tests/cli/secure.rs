//! Credentials, encryption, the audit log, and where secrets are not.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use super::*;

/// A server with TLS and a token file, whose log goes to a file.
struct Secured {
    server: Server,
    dir: tempfile::TempDir,
}

impl Secured {
    /// With callers by name and scopes, and more lines of configuration.
    fn start(callers: &[(&str, &str)], more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(path("cert.pem"), made.cert.pem()).unwrap();
        let key = File::create(path("key.pem")).unwrap();
        key.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let tokens = path("tokens").display().to_string();
        for (name, scopes) in callers {
            let made = ["token", name, "--scope", scopes, "--file", &tokens];
            let made = run(dir.path(), &made);
            assert_eq!((made.code, made.err.as_str()), (0, ""));
            fs::write(path(name), made.out).unwrap();
        }
        let at = |name: &str| path(name).display().to_string();
        let config = format!(
            "[server.tls]\ncertificate = '{}'\nkey = '{}'\n\
             [server.auth]\ntoken_file = '{tokens}'\n{more}",
            at("cert.pem"),
            at("key.pem"),
        );
        fs::write(path("config.toml"), config).unwrap();
        let log = File::create(path("log")).unwrap();
        let args = ["--log", "debug", "--config", &at("config.toml")];
        let mut server = Server::start_to(log.into(), &args);
        server.url = server.url.replace("https://127.0.0.1", "https://localhost");
        Self { server, dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// What one of the callers says.
    fn by(&self, name: &str, args: &[&str]) -> Said {
        let (ca, token) = (self.path("cert.pem"), self.path(name));
        let ways = ["--ca-cert", &ca, "--token-file", &token];
        self.server.client(&[args, &ways].concat())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

#[test]
fn a_token_is_printed_once_and_its_file_holds_the_hash() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tokens");
    let name = file.to_str().unwrap();

    let first = run(
        home.path(),
        &["token", "ci", "--scope", "work", "--file", name],
    );
    let second = run(home.path(), &["token", "ci", "--scope", "read,author"]);
    let wrong = run(home.path(), &["token", "ci", "--scope", "everything"]);

    let line = fs::read_to_string(&file).unwrap();
    let token = first.out.trim();
    assert!(token.starts_with("cp_") && token.len() == 67, "{token}");
    assert!(
        line.starts_with("ci work ") && !line.contains(token),
        "{line}"
    );
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert!(second.err.starts_with("ci read,author "), "{}", second.err);
    assert_ne!(second.out, first.out);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.err.contains("`everything` is no scope"),
        "{}",
        wrong.err
    );
}

#[test]
fn a_caller_is_its_token_and_may_what_its_scopes_say() {
    let secured = Secured::start(&[("ci", "work"), ("ops", "operate"), ("x", "read")], "");
    fs::write(secured.path("x"), "cp_wrong").unwrap();

    let good = secured.by("ci", &["run", "::echo hello"]);
    let scale = secured.by("ci", &["scale", "3"]);
    let submit = secured.by("ops", &["submit", "::echo x"]);
    let wrong = secured.by("x", &["status"]);
    let listed = secured.by("ops", &["tasks", "--json"]);

    assert_eq!(good.out, "hello\n", "{}", good.err);
    for (refused, reason) in [
        (&scale, "SCOPE_MISSING"),
        (&submit, "SCOPE_MISSING"),
        (&wrong, "CREDENTIALS"),
    ] {
        assert_eq!(refused.code, 4, "{}", refused.err);
        assert!(refused.err.contains(reason), "{}", refused.err);
    }
    assert!(listed.out.contains(r#""caller":"ci""#), "{}", listed.out);
}

#[test]
fn each_call_that_changes_something_has_a_line() {
    let secured = Secured::start(&[("ci", "work"), ("ops", "operate"), ("x", "read")], "");
    fs::write(secured.path("x"), "cp_wrong").unwrap();

    let task = secured.by("ci", &["submit", "::echo x"]).out;
    let task = task.trim();
    assert_eq!(secured.by("ci", &["result", task, "--wait", "20s"]).code, 0);
    secured.by("ci", &["cancel", task]);
    secured.by("ci", &["scale", "3"]);
    secured.by("ops", &["scale", "3"]);
    secured.by("x", &["submit", "::echo x"]);

    let log = secured.log();
    let lines: Vec<_> = log
        .lines()
        .filter(|l| l.contains("claudepool::audit"))
        .collect();
    let expected = [
        ("ci", "PoolService/Submit", task, "OK"),
        ("ci", "PoolService/Cancel", task, "FAILED_PRECONDITION"),
        (
            "ci",
            "OperatorService/SetTargetSlots",
            "",
            "PERMISSION_DENIED",
        ),
        ("ops", "OperatorService/SetTargetSlots", "", "OK"),
        ("", "PoolService/Submit", "", "UNAUTHENTICATED"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (caller, method, ids, outcome)) in lines.iter().zip(expected) {
        for (key, value) in [
            ("caller", caller),
            ("method", &format!("/claudepool.v1.{method}")),
            ("ids", ids),
            ("outcome", outcome),
        ] {
            assert!(
                line.contains(&format!("{key}=\"{value}\"")),
                "{key}: {line}"
            );
        }
    }
}

#[test]
fn what_others_can_reach_is_not_served_without_a_word() {
    let home = tempfile::tempdir().unwrap();
    let nothing = home.path().join("nothing").display().to_string();
    // It finds no CLI and ends before it listens.
    let serve = ["serve", "--listen", "0.0.0.0:0", "--claude-bin", &nothing];

    let refused = run(home.path(), &serve);
    let warned = run(home.path(), &[&serve[..], &["--insecure"]].concat());

    assert_eq!(refused.code, 2);
    let (needs, and) = (
        "it needs server.tls, and server.auth.token_file",
        "--insecure",
    );
    assert!(
        refused.err.contains(needs) && refused.err.contains(and),
        "{}",
        refused.err
    );
    assert!(!refused.err.contains("nothing"), "{}", refused.err);
    assert!(warned.err.contains("INSECURE"), "{}", warned.err);
    assert!(warned.err.contains("nothing"), "{}", warned.err);
}

#[test]
fn credentials_that_cannot_be_used_keep_a_server_from_starting() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    let config = format!("[server.auth]\ntoken_file = '{}'\n", path("tokens"));
    fs::write(path("config.toml"), config).unwrap();
    let start = || run(home.path(), &["serve", "--config", &path("config.toml")]);

    let missing = start();
    fs::write(path("tokens"), "ci work 00\n").unwrap();
    fs::set_permissions(
        path("tokens"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let readable = start();
    fs::set_permissions(
        path("tokens"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let broken = start();

    for (said, why) in [
        (missing, "cannot be read"),
        (readable, "has mode 0644"),
        (broken, "line 1: the SHA-256 must be"),
    ] {
        assert_eq!(said.code, 2, "{}", said.err);
        assert!(
            said.err.contains("server.auth.token_file: "),
            "{}",
            said.err
        );
        assert!(said.err.contains(why), "{}", said.err);
    }
}

/// Every file below a directory, with what it holds.
fn everything(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(everything(&path));
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            found.push((path, bytes));
        }
    }
    found
}

/// The arguments of every process there is.
fn arguments() -> Vec<u8> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.map(|process| fs::read(process.path().join("cmdline")));
    lines.flat_map(Result::unwrap_or_default).collect()
}

#[test]
fn no_secret_is_where_others_look() {
    let key = "sk-ant-planted-key-4711";
    let secured = Secured::start(
        &[("ci", "work"), ("ops", "operate")],
        &format!("[agent.env]\nANTHROPIC_API_KEY = '{key}'\n"),
    );
    let token = fs::read_to_string(secured.path("ci")).unwrap();
    let private = fs::read_to_string(secured.path("key.pem")).unwrap();
    let private = private.lines().nth(1).unwrap();
    let prompt = "::echo planted-prompt-4711";

    let hung = secured.by("ci", &["submit", "::hang"]).out;
    let ran = secured.by("ci", &["run", prompt]);
    let failed = secured.by("ci", &["run", "::error 400"]);
    let refused = secured.by("ci", &["run", ""]);
    let shown = secured.by("ops", &["status", "--config"]);
    assert_eq!(ran.out, "planted-prompt-4711\n", "{}", ran.err);
    let arguments = arguments();
    secured.by("ci", &["cancel", hung.trim()]);

    assert!(
        shown.out.contains("ANTHROPIC_API_KEY = \"***\""),
        "{}",
        shown.out
    );
    let home = secured.server.home.path();
    let mut places: Vec<(PathBuf, Vec<u8>)> = everything(home);
    assert!(
        places
            .iter()
            .any(|(path, _)| path.ends_with("claudepool.db"))
    );
    places.push(("arguments".into(), arguments));
    places.push(("log".into(), secured.log().into_bytes()));
    for said in [ran, failed, refused, shown] {
        places.push(("client".into(), (said.out + &said.err).into_bytes()));
    }
    for (place, bytes) in places {
        for secret in [key, token.trim(), private] {
            let at = bytes
                .windows(secret.len())
                .position(|w| w == secret.as_bytes());
            assert_eq!(at, None, "{secret} in {}", place.display());
        }
        if place.ends_with("log") || place.ends_with("arguments") {
            let text = String::from_utf8_lossy(&bytes);
            // The client's own arguments are gone by then.
            assert!(!text.contains("planted-prompt"), "{}", place.display());
        }
    }
}

#[test]
fn neither_the_server_nor_what_it_starts_dumps_core() {
    let server = Server::start();
    // A process that has answered is there.
    assert_eq!(server.client(&["run", "::echo x"]).code, 0);
    let slots = server.client(&["slots", "--json"]).out;
    let slots: Value = serde_json::from_str(slots.lines().next().unwrap()).unwrap();
    let slots = slots.get("slots").unwrap_or(&slots);
    let slot = slots.get(0).unwrap_or(slots);
    let cli = slot["pid"]
        .as_u64()
        .unwrap_or_else(|| panic!("no pid: {slot}"));

    for pid in [u64::from(server.child.id()), cli] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|l| l.starts_with("Max core file size"));
        let words: Vec<_> = core.unwrap().split_whitespace().skip(4).collect();
        // 0: this machine had none for us to give up.
        let given_up = [["1", "1"], ["0", "0"]].contains(&[words[0], words[1]]);
        assert!(given_up, "{pid}: {words:?}");
    }
}
