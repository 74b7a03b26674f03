//! What lets programs of two versions share a database: see docs/postgresql.md,
//! "Rolling upgrade".

use std::path::{Path, PathBuf};

fn files(dir: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let entries = std::fs::read_dir(root.join(dir)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = paths.filter(|path| path.is_file()).collect();
    paths.sort();
    paths
}

/// The text with one space wherever there are some, and no line ends in it.
fn text(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a text");
    let text = text.replace('\\', " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn statements_name_the_columns_that_they_write_and_read() {
    let mut inserts = 0;
    for path in files("postgres").into_iter().chain(files("sqlite")) {
        let text = text(&path);
        let shown = path.display();
        for (at, _) in text.match_indices(" INTO ") {
            let rest = &text[at + " INTO ".len()..];
            let mut words = rest.split(' ');
            let table = words.next().unwrap_or_default();
            let mut next = words.next().unwrap_or_default();
            if next == "AS" {
                next = words.nth(1).unwrap_or_default();
            }
            assert!(next.starts_with('('), "{shown}: {table} {next}");
            inserts += 1;
        }
        for (at, _) in text.match_indices("SELECT *") {
            let rest = &text[at + "SELECT *".len()..];
            assert!(rest.starts_with(" FROM unnest("), "{shown}: {rest:.40}");
        }
    }
    assert!(inserts > 20, "{inserts}");
}

#[test]
fn migrations_since_the_rule_only_add() {
    let rule = [("migrations", 6), ("postgres/migrations", 2)];
    for (dir, first) in rule {
        let since: Vec<_> = files(dir).into_iter().skip(first - 1).collect();
        assert!(!since.is_empty());
        for path in since {
            let text = text(&path).to_uppercase();
            for word in [" DROP ", " RENAME ", " TYPE ", " SET NOT NULL", "DELETE "] {
                let shown = path.display();
                assert!(!text.contains(word), "{shown} has {word}");
            }
            for (at, _) in text.match_indices("ADD COLUMN ") {
                let added = text[at..].split(';').next().unwrap_or_default();
                let may_be_left_out = !added.contains("NOT NULL") || added.contains("DEFAULT");
                assert!(may_be_left_out, "{}: {added}", path.display());
            }
        }
    }
}
