//! Clones: made without a way to push into the original, and their commits
//! brought back into it.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use super::error::WorkspaceError;
use super::git::{Call, Git, Output, Place};
use super::marker::{Entry, Marker};

const CLONE: &str = "make the clone";
const BRING: &str = "bring the clone's commits home";

/// Names the original in a clone.
const SOURCE: &str = "source";

/// Refs that one fetch is asked for.
const REFS_PER_FETCH: usize = 200;

/// Clones `common` to `tree` with `branch` checked out. The remote `source` is
/// the original, for fetching only; `origin` is what it is in the original.
pub(super) async fn clone(
    git: &Git,
    top: &Path,
    common: &Path,
    tree: &Path,
    branch: &str,
) -> Result<(), WorkspaceError> {
    let original = Place::In(top.to_owned());
    // Large files live beside the commits: a clone's own would be lost with it.
    let large = local(git, &original, "lfs.storage").await?;
    let large = common.join(large.as_deref().unwrap_or("lfs"));
    let clone = Call::new(&original, CLONE)
        .args(["clone", "--quiet", "--origin", SOURCE])
        .args(["--branch", branch, "--config"])
        .arg(format!("lfs.storage={}", large.display()))
        .arg("--")
        .arg(common)
        .arg(tree);
    git.ok(clone).await?;

    let inside = Place::In(tree.to_owned());
    let call = || Call::new(&inside, CLONE);
    git.ok(call().args(["remote", "set-url", "--push", SOURCE, "no-push"]))
        .await?;
    git.ok(call().args(["branch", "--quiet", "--unset-upstream"]))
        .await?;
    for key in ["user.name", "user.email"] {
        if let Some(value) = local(git, &original, key).await? {
            git.ok(call().args(["config", key, &value])).await?;
        }
    }
    if let Some(mut url) = local(git, &original, "remote.origin.url").await? {
        if url.starts_with("./") || url.starts_with("../") {
            url = top.join(url).to_string_lossy().into_owned();
        }
        remote(tree, &url).map_err(WorkspaceError::io(CLONE))?;
        let known = call()
            .args(FETCH)
            .arg("--")
            .arg(common)
            .arg("+refs/remotes/origin/*:refs/remotes/origin/*");
        git.ok(known).await?;
    }
    Ok(())
}

/// Adds `origin`. Not by an argument: a URL may hold a password.
fn remote(tree: &Path, url: &str) -> io::Result<()> {
    let mut quoted = String::new();
    for c in url.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c => quoted.push(c),
        }
    }
    let fetch = "+refs/heads/*:refs/remotes/origin/*";
    OpenOptions::new()
        .append(true)
        .open(tree.join(".git/config"))?
        .write_all(
            format!("[remote \"origin\"]\n\turl = \"{quoted}\"\n\tfetch = {fetch}\n").as_bytes(),
        )
}

const FETCH: [&str; 6] = [
    "fetch",
    "--quiet",
    "--no-tags",
    "--no-write-fetch-head",
    "--no-recurse-submodules",
    "--no-auto-maintenance",
];

async fn local(git: &Git, place: &Place, key: &str) -> Result<Option<String>, WorkspaceError> {
    let output = git
        .output(Call::new(place, CLONE).args(["config", "--local", "--get", key]))
        .await?;
    Ok(output.success.then(|| output.text()))
}

/// Copies a commit and its history into the original. No ref is made.
pub(super) async fn commit(
    git: &Git,
    entry: &Entry,
    marker: &Marker,
    inside: &Place,
    commit: &str,
) -> Result<(), WorkspaceError> {
    let end = "refs/claudepool/end";
    git.ok(Call::new(inside, BRING).args(["update-ref", "--no-deref", end, commit]))
        .await?;
    fetch(git, entry, marker, &[end.to_owned()]).await.map(drop)
}

/// Copies every other branch, tag and stash of the clone that the original does
/// not have to `refs/claudepool/NAME/...` there.
pub(super) async fn others(
    git: &Git,
    entry: &Entry,
    marker: &Marker,
    inside: &Place,
    head: &str,
) -> Result<(), WorkspaceError> {
    let original = Place::Repository(marker.repository.clone());
    let mut known = refs(git, &original, &[])
        .await?
        .into_iter()
        .map(|(commit, _)| commit)
        .collect::<HashSet<_>>();
    known.insert(marker.start.clone());

    stashes(git, inside).await?;
    let beyond = format!("--no-merged={head}");
    let branches = [&beyond, "refs/heads", "refs/claudepool/stash"];
    let mut new = refs(git, inside, &branches).await?;
    new.extend(refs(git, inside, &["refs/tags"]).await?);
    let new = new
        .into_iter()
        .filter(|(commit, _)| !known.contains(commit))
        .map(|(_, name)| name)
        .collect::<Vec<_>>();
    let leaf = marker
        .branch
        .as_deref()
        .and_then(|branch| branch.rsplit('/').next())
        .unwrap_or(&entry.id);
    for some in new.chunks(REFS_PER_FETCH) {
        let specs = |below: &str| {
            some.iter()
                .map(|name| {
                    let short = name
                        .strip_prefix("refs/claudepool/")
                        .or_else(|| name.strip_prefix("refs/"))
                        .unwrap_or(name);
                    format!("{name}:refs/claudepool/{below}/{short}")
                })
                .collect::<Vec<_>>()
        };
        // Without a plus a ref that is there already is left alone.
        if fetch(git, entry, marker, &specs(leaf)).await.is_err() {
            fetch(git, entry, marker, &specs(&entry.id)).await?;
        }
    }
    Ok(())
}

/// Gives refs to the clone's stashes: all but the last are in a log only.
async fn stashes(git: &Git, inside: &Place) -> Result<(), WorkspaceError> {
    let list = Call::new(inside, BRING).args(["stash", "list", "--format=%H"]);
    for (number, commit) in git.ok(list).await?.text().lines().enumerate() {
        let name = format!("refs/claudepool/stash/{number}");
        git.ok(Call::new(inside, BRING).args(["update-ref", "--no-deref", &name, commit]))
            .await?;
    }
    Ok(())
}

async fn refs(
    git: &Git,
    place: &Place,
    patterns: &[&str],
) -> Result<Vec<(String, String)>, WorkspaceError> {
    let list = Call::new(place, BRING)
        .args(["for-each-ref", "--format=%(objectname) %(refname)"])
        .args(patterns);
    Ok(git
        .ok(list)
        .await?
        .text()
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(commit, name)| (commit.to_owned(), name.to_owned()))
        .collect())
}

async fn fetch(
    git: &Git,
    entry: &Entry,
    marker: &Marker,
    specs: &[String],
) -> Result<Output, WorkspaceError> {
    let original = Place::Repository(marker.repository.clone());
    let fetch = Call::new(&original, BRING)
        .args(FETCH)
        .arg("--")
        .arg(entry.tree())
        .args(specs);
    git.ok(fetch).await
}
