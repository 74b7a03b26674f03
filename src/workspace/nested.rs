//! Git repositories inside a workspace: submodules, and what the agent cloned
//! or began there. A commit of the outer repository holds only their ids.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::time::timeout_at;

use super::error::WorkspaceError;
use super::git::{Call, Git, Place};

const WHAT: &str = "look for repositories inside the workspace";

/// An error if one of them has work that removing it would lose: what it has
/// not committed, or commits that none of its remotes has.
pub(super) async fn check(git: &Git, outer: &Place, tree: &Path) -> Result<(), WorkspaceError> {
    let top = tree.to_owned();
    let walk = tokio::task::spawn_blocking(move || walk(&top));
    let found = timeout_at(git.deadline, walk)
        .await
        .map_err(|_| WorkspaceError::TimedOut { what: WHAT })?
        .map_err(|_| WorkspaceError::Broken)?
        .map_err(WorkspaceError::io(WHAT))?;
    for dir in found {
        let ignored = Call::new(outer, WHAT)
            .args(["check-ignore", "--quiet", "--"])
            .arg(&dir);
        if !git.output(ignored).await?.success && has_work(git, &dir).await? {
            return Err(WorkspaceError::Nested { dir });
        }
    }
    Ok(())
}

async fn has_work(git: &Git, dir: &Path) -> Result<bool, WorkspaceError> {
    match super::repository::find(git, dir).await {
        Ok(found) if dir.canonicalize().is_ok_and(|dir| dir == found.top) => {}
        // A `.git` that is none; what is there are plain files.
        Ok(_) | Err(WorkspaceError::NotARepository) => return Ok(false),
        Err(error) => return Err(error),
    }
    let inner = Place::In(dir.to_owned());
    let dirty = Call::new(&inner, WHAT).args(["status", "--porcelain", "--untracked-files=all"]);
    let stash = Call::new(&inner, WHAT).args(["rev-parse", "--verify", "--quiet", "refs/stash"]);
    if !git.ok(dirty).await?.stdout.is_empty() || git.output(stash).await?.success {
        return Ok(true);
    }
    // Without a commit there is no HEAD, and `rev-list` would refuse it.
    let head = super::repository::commit(git, &inner, "HEAD").await?;
    let own = Call::new(&inner, WHAT)
        .args(["rev-list", "--max-count=1", "--branches", "--tags"])
        .args(head)
        .args(["--not", "--remotes"]);
    Ok(!git.ok(own).await?.stdout.is_empty())
}

/// Directories below `top` that have a `.git`.
fn walk(top: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![top.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name() == ".git" {
                if dir != top {
                    found.push(dir.clone());
                }
            } else if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(found)
}
