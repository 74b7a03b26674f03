use http::HeaderMap;

use super::gate::Entry;
use super::tokens::digest;
use super::*;
use crate::error::Error;
use crate::pb::Scope;

fn parse(text: &str) -> Result<Tokens, String> {
    Tokens::parse(text)
}

fn why(text: &str) -> String {
    parse(text).err().expect("refused")
}

#[test]
fn a_token_file_names_callers_by_the_hashes_of_their_tokens() {
    let (old, new, other) = (hash("old"), hash("new"), hash("other"));
    let tokens = parse(&format!(
        "# comment\n\nci work {old}\nci work {new}\n ops  operate,author\t{other} \n"
    ))
    .expect("good");

    for token in ["old", "new"] {
        let caller = tokens.caller(&digest(token.as_bytes())).expect("known");
        assert_eq!(caller.id.0, "ci");
        assert_eq!(Vec::<String>::from(caller.scopes), ["read", "work"]);
    }
    let scopes = tokens.caller(&digest(b"other")).expect("known").scopes;
    assert!(scopes.has(Scope::Operate) && scopes.has(Scope::Author));
    assert!(!scopes.has(Scope::Work), "none includes another");
    for unknown in ["", "ol", "oldx", &old] {
        assert_eq!(
            tokens.caller(&digest(unknown.as_bytes())),
            None,
            "{unknown}"
        );
    }
}

#[test]
fn a_wrong_line_is_told_by_its_number_and_never_shown() {
    let good = hash("x");
    for (line, what) in [
        ("secret-token", "must be a name, scopes and a SHA-256"),
        (&format!("ci work {good} more"), "must be a name"),
        ("ci work secret-token", "64 hexadecimal digits"),
        (&format!("ci work {}", &good[1..]), "64 hexadecimal digits"),
        (&format!("ci admin {good}"), "`admin` is no scope"),
        (&format!("ci , {good}"), "is no scope"),
        (&format!("c\u{1b}i work {good}"), "printable ASCII"),
        (
            &format!("{} work {good}", "x".repeat(129)),
            "printable ASCII",
        ),
    ] {
        let told = why(&format!("# one\n{line}\n"));
        assert!(
            told.starts_with("line 2: ") && told.contains(what),
            "{told}"
        );
        assert!(!told.contains("secret-token"), "{told}");
    }
}

#[test]
fn the_table_holds_every_method_and_every_method_has_a_scope() {
    let run = method("/claudepool.v1.PoolService/Run").expect("ours");
    assert_eq!((run.scopes, run.changes), (&[Scope::Work][..], true));
    let get = method("/claudepool.v1.PoolService/GetTask").expect("ours");
    assert_eq!((get.scopes, get.changes), (&[Scope::Read][..], false));
    assert!(method("/claudepool.v1.PoolService/Nothing").is_none());
    for (attaches, names) in [
        (true, &["Run", "RunStream", "FanOut"][..]),
        (false, &["Submit"]),
    ] {
        for name in names {
            let method = method(&format!("/claudepool.v1.PoolService/{name}")).expect("ours");
            assert_eq!(method.attaches, attaches, "{name}");
        }
    }
}

#[test]
fn two_credentials_are_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tokens");
    std::fs::write(&file, format!("ci work {}\n", hash("t"))).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).expect("set");
    let gate = Gate::new(&Options {
        token_file: Some(file),
        ..Options::default()
    })
    .expect("good");
    let enter = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("authorization", value.parse().expect("a value"));
        }
        gate.enter("/claudepool.v1.PoolService/GetStatus", &headers, None)
    };

    assert!(matches!(enter(&["Bearer t"]), Ok(Entry::As(caller, _)) if caller.id.0 == "ci"));
    for refused in [&["Bearer t", "Bearer t"][..], &["Bearer"], &[""], &[]] {
        assert!(
            matches!(enter(refused), Err(Error::Credentials)),
            "{refused:?}"
        );
    }
}
