//! Rules of the tree that the compiler does not hold.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use claudepool::pb::{ErrorReason, FailureReason};

/// Who may import what, by module: below it, and nothing else. What every
/// module may use is in [`FOR_ALL`].
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("id", &[]),
    ("money", &[]),
    ("clock", &[]),
    ("pb", &[]),
    // An error holds what a store said and the state that is in the way.
    ("error", &["store", "task", "pb"]),
    ("event", &["pb"]),
    ("trace", &[]),
    ("slice", &[]),
    ("metrics", &["pb"]),
    ("budget", &[]),
    ("task", &["budget", "pb"]),
    ("chain", &["task", "pb"]),
    ("catalog", &["chain", "pb"]),
    ("store", &["task", "budget", "pb"]),
    ("stream", &["store", "task", "pb"]),
    ("agent", &["pb"]),
    ("workspace", &["pb"]),
    (
        "pool",
        &[
            "agent",
            "store",
            "stream",
            "task",
            "budget",
            "workspace",
            "catalog",
            "chain",
            "metrics",
            "pb",
        ],
    ),
    ("rpc", &["pool", "task", "metrics", "pb"]),
    ("status_port", &["rpc", "metrics"]),
    ("otel", &["rpc", "metrics"]),
    ("config", &["agent", "pool", "rpc"]),
    ("demo", &[]),
    (
        "cli",
        &[
            "pb",
            "config",
            "agent",
            "pool",
            "rpc",
            "store",
            "catalog",
            "demo",
            "metrics",
            "status_port",
            "otel",
        ],
    ),
];
/// The pool's methods take and give some of the store's values.
const EXCEPT: &[(&str, &str)] = &[("src/rpc/convert.rs", "store")];
const FOR_ALL: &[&str] = &["id", "money", "clock", "error", "event", "trace", "slice"];

/// Client commands know the wire contract and nothing of the server.
const CLIENT_FILES: [&str; 15] = [
    "args/chain",
    "args/mod",
    "args/operate",
    "args/work",
    "catalog",
    "chain",
    "client",
    "connect",
    "context",
    "failure",
    "json",
    "operate",
    "render",
    "table",
    "watch",
];

/// No tokio, files, environment, randomness or system time.
const PURE: &[&str] = &[
    "src/budget.rs",
    "src/task",
    "src/pool/admission.rs",
    "src/pool/plan.rs",
];

/// Lines of a file without its tests.
const LINES_MAX: usize = 400;
/// A table, a set of statements or a method per call may be longer.
const LONG: &[(&str, usize)] = &[
    ("src/rpc/convert.rs", 700),
    ("src/pool/mod.rs", 600),
    ("src/pool/slot.rs", 450),
    ("src/store/mod.rs", 450),
    ("src/store/sqlite/read.rs", 700),
    ("src/store/sqlite/write.rs", 700),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Path from the root, and the text up to the unit tests.
fn sources() -> Vec<(String, String)> {
    let found = files(&root().join("src"));
    let sources = found.iter().map(|path| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(path).unwrap();
        let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
        (name, text[..end].to_owned())
    });
    sources.filter(|(name, _)| !is_test(name)).collect()
}

fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("tests.rs")
}

fn module(name: &str) -> &str {
    let rest = name.strip_prefix("src/").unwrap();
    rest.split(['/', '.']).next().unwrap()
}

/// Top-level modules of the crate that a text names.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    for line in code {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let word: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            if !word.is_empty() {
                found.insert(word);
            }
        }
    }
    found
}

#[test]
fn a_choice_in_the_pool_is_the_same_every_time() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        if !matches!(
            module(&name),
            "pool" | "stream" | "store" | "task" | "chain"
        ) {
            continue;
        }
        let first = |(at, open): (usize, &str)| text[at + open.len()..].trim_start();
        let mut choices = text.match_indices("select! {").map(first);
        if !choices.all(|first| first.starts_with("biased;")) {
            wrong.push(format!("{name}: a select that is not biased"));
        }
        if text.contains("rand::random") {
            wrong.push(format!("{name}: chance that no seed decides"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn modules_import_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let module = module(&name).to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let Some((_, may)) = MAY_IMPORT.iter().find(|(known, _)| *known == module) else {
            wrong.push(format!(
                "{name}: the module {module} has no place in the order"
            ));
            continue;
        };
        for import in imports(&text) {
            let known = MAY_IMPORT.iter().any(|(known, _)| *known == import);
            let allowed = import == module
                || may.contains(&import.as_str())
                || EXCEPT.contains(&(name.as_str(), import.as_str()))
                || FOR_ALL.contains(&import.as_str());
            if known && !allowed {
                wrong.push(format!("{name} imports {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn client_commands_see_the_wire_contract_alone() {
    for file in CLIENT_FILES {
        let name = format!("src/cli/{file}.rs");
        let text = std::fs::read_to_string(root().join(&name)).unwrap();
        let imports = imports(&text);
        assert!(
            imports.is_subset(&["pb".to_owned(), "cli".to_owned()].into()),
            "{name}: {imports:?}"
        );
    }
}

#[test]
fn rpc_never_sees_a_store() {
    for (name, text) in sources() {
        let opens = text.contains("dyn Store") || text.contains("store::open");
        assert!(!name.starts_with("src/rpc/") || !opens, "{name}");
    }
}

#[test]
fn decisions_do_no_io() {
    for (name, text) in sources() {
        if !PURE.iter().any(|pure| name.starts_with(pure)) {
            continue;
        }
        for banned in [
            "tokio::",
            "std::fs",
            "std::env",
            "rand::",
            "SystemTime",
            "async fn",
        ] {
            assert!(!text.contains(banned), "{name} holds {banned}");
        }
    }
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        let limit = LONG
            .iter()
            .find(|(file, _)| *file == name)
            .map_or(LINES_MAX, |(_, n)| *n);
        if lines > limit {
            long.push(format!("{name}: {lines} lines, {limit} allowed"));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_program_is_only_wiring() {
    let text = std::fs::read_to_string(root().join("src/main.rs")).unwrap();

    assert!(text.lines().count() < 30);
}

#[test]
fn every_reason_has_a_row_in_the_docs() {
    let docs = std::fs::read_to_string(root().join("docs/errors.md")).unwrap();
    let (calls, tasks) = docs.split_once("## Failed tasks").unwrap();
    let errors = (1..1000).filter_map(|n| ErrorReason::try_from(n).ok());
    let errors: Vec<_> = errors.map(|reason| reason.as_str_name()).collect();
    assert!(errors.len() > 20);
    for name in errors {
        let row = format!("| `{}` |", name.strip_prefix("ERROR_REASON_").unwrap());
        assert!(calls.contains(&row), "docs/errors.md lacks {name}");
    }
    for reason in (1..1000).filter_map(|n| FailureReason::try_from(n).ok()) {
        let name = reason.as_str_name();
        let row = format!("| `{}` |", name.strip_prefix("FAILURE_REASON_").unwrap());
        assert!(tasks.contains(&row), "docs/errors.md lacks {name}");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for file in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "deploy/README.md",
        "docs/errors.md",
        "docs/threat-model.md",
        "docs/metrics.md",
        "docs/postgresql.md",
        "docs/capacity.md",
    ] {
        let path = root().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            let target = target.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let linked = path.parent().unwrap().join(target);
            assert!(linked.exists(), "{file} links to {target}");
        }
    }
}

#[test]
fn documents_name_tests_that_exist() {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, rest) = architecture.split_once("## Invariants").unwrap();
    let invariants = rest.split("\n## ").next().unwrap();
    let methods = std::fs::read_to_string(root().join("docs/pool-methods.md")).unwrap();
    let threats = std::fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let mut code: String = files(&root().join("src")).iter().map(read).collect();
    code.extend(files(&root().join("tests")).iter().map(read));
    for text in [invariants, methods.as_str(), threats.as_str()] {
        let rows = text.lines().filter(|line| line.starts_with("| "));
        let cells = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | "));
        let mut named = 0;
        for test in cells.flat_map(|(_, cell)| cell.split('`').skip(1).step_by(2)) {
            named += 1;
            assert!(
                code.contains(&format!("fn {test}(")),
                "no test is named {test}"
            );
        }
        assert!(named > 10);
    }
}

fn read(path: &PathBuf) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_pinned_cli_is_the_same_everywhere() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let makefile = read("Makefile");
    let version = makefile
        .lines()
        .find_map(|line| line.strip_prefix("CLAUDE_VERSION := "))
        .unwrap();

    assert!(read("src/cli/install.rs").contains(&format!("claude-code@{version}\"")));
}
