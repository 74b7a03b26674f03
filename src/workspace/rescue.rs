//! Makes a commit of what was left uncommitted.

use std::fs;
use std::io;
use std::path::Path;

use super::error::WorkspaceError;
use super::git::{Call, Git, Place};
use super::marker::{Entry, Marker};

const WHAT: &str = "commit what was left uncommitted";

/// Stands in where the user configured nobody.
const NAME: &str = "claudepool";
const EMAIL: &str = "claudepool@localhost";

/// Commits the working tree, untracked files included and ignored ones not, on
/// top of `parent`. `None`: it is the same as there. Moves no ref, runs no hook,
/// signs nothing and leaves the agent's own index alone, so a merge in progress
/// or a lock that was left behind is no matter.
pub(super) async fn commit(
    git: &Git,
    entry: &Entry,
    marker: &Marker,
    git_dir: &Path,
    parent: &str,
) -> Result<Option<String>, WorkspaceError> {
    let place = Place::Tree {
        git_dir: git_dir.to_owned(),
        dir: entry.tree(),
        index: Some(entry.index()),
    };
    let call = || Call::new(&place, WHAT).without_hooks();
    entry.remove_index();
    // A copy knows which files are unchanged and which are left out on purpose.
    match fs::copy(git_dir.join("index"), entry.index()) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            git.ok(call().args(["read-tree", parent])).await?;
        }
        Err(source) => return Err(WorkspaceError::Io { what: WHAT, source }),
    }
    git.ok(call().args(["add", "--all", "--sparse", "--", "."]))
        .await?;
    let tree = git.ok(call().arg("write-tree")).await?.text();
    let before = call().args(["rev-parse", "--verify", &format!("{parent}^{{tree}}")]);
    if git.ok(before).await?.text() == tree {
        return Ok(None);
    }
    let message = format!(
        "Keep the uncommitted work of {}\n\nThese changes were not committed when the work ended.",
        marker.name
    );
    let mut commit = call();
    for (key, fallback) in [("user.name", NAME), ("user.email", EMAIL)] {
        let configured = git.output(call().args(["config", "--get", key])).await?;
        if !configured.success || configured.line().is_empty() {
            commit = commit.arg("-c").arg(format!("{key}={fallback}"));
        }
    }
    let commit = commit.args(["commit-tree", "-p", parent, "-m", &message, &tree]);
    Ok(Some(git.ok(commit).await?.text()))
}
