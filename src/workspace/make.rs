//! Makes workspaces.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::error::WorkspaceError;
use super::git::{Call, Git, Place};
use super::marker::{Entry, Marker};
use super::{Busy, Isolated, Kind, Workspaces, bring, refs, remove, repository, turn};

/// For tidying up after a failure.
const TIDY: Duration = Duration::from_secs(10);

const NOTE: &str = "note down the workspace";

pub(super) async fn make(
    workspaces: &Workspaces,
    dir: &Path,
    kind: Kind,
    name: &str,
    revision: &str,
    busy: Busy,
) -> Result<Isolated, WorkspaceError> {
    let git = workspaces.git();
    let shared = &workspaces.shared;
    let found = repository::find(&git, dir).await?;
    if shared.base.starts_with(&found.top) {
        return Err(WorkspaceError::Surrounded);
    }
    let top = Place::In(found.top.clone());
    let Some(start) = repository::commit(&git, &top, revision).await? else {
        return Err(match repository::commit(&git, &top, "HEAD").await? {
            None => WorkspaceError::Empty,
            Some(_) => WorkspaceError::NoSuchCommit,
        });
    };
    let mut marker = Marker {
        name: name.to_owned(),
        owner: shared.owner.id.clone(),
        node: shared.node.clone(),
        pid: std::process::id(),
        kind,
        repository: found.common,
        start: start.clone(),
        branch: None,
        git_dir: None,
    };
    let made = furnish(&git, &busy.entry, &mut marker, &found.top, &found.prefix).await;
    match made {
        Ok((dir, branch)) => Ok(Isolated {
            dir,
            top: busy.entry.tree(),
            kind,
            branch,
            start,
            entry: busy,
        }),
        Err(error) => {
            warn!(?error, "a workspace could not be made");
            // Whatever is there, the agent was never in it.
            marker.git_dir = None;
            let git = Git {
                deadline: Instant::now() + TIDY,
                ..git
            };
            if let Err(error) = discard(&git, &busy.entry, &marker).await {
                warn!(?error, "a workspace that was never used is left for later");
            }
            Err(error)
        }
    }
}

async fn furnish(
    git: &Git,
    entry: &Entry,
    marker: &mut Marker,
    top: &Path,
    prefix: &Path,
) -> Result<(PathBuf, String), WorkspaceError> {
    entry.write(marker).map_err(WorkspaceError::io(NOTE))?;
    let repository = Place::Repository(marker.repository.clone());
    let branch = refs::reserve(git, &repository, &marker.name, &marker.start).await?;
    marker.branch = Some(branch.clone());
    entry.write(marker).map_err(WorkspaceError::io(NOTE))?;

    let short = branch.strip_prefix("refs/heads/").unwrap_or(&branch);
    let tree = entry.tree();
    match marker.kind {
        Kind::Worktree => {
            let place = Place::In(top.to_owned());
            let turn = turn::take(git, &marker.repository).await?;
            // Locked, it is safe from others' `git worktree prune`.
            let add = Call::new(&place, "make the worktree")
                .args(["worktree", "add", "--quiet", "--no-checkout", "--lock"])
                .args(["--reason", "in use by claudepool", "--"])
                .arg(&tree)
                .arg(short);
            git.ok(add).await?;
            drop(turn);
            // Files and hooks may take their time; nobody waits for them.
            let place = Place::In(tree.clone());
            let fill = ["checkout", "--quiet", "--force", "HEAD", "--"];
            git.ok(Call::new(&place, "check out the worktree").args(fill))
                .await?;
        }
        Kind::Clone => bring::clone(git, top, &marker.repository, &tree, short).await?,
    }
    let place = Place::In(tree.clone());
    if repository::commit(git, &place, "HEAD").await?.as_ref() != Some(&marker.start) {
        return Err(WorkspaceError::Broken);
    }
    let dir = enter(&tree, prefix)?;
    marker.git_dir = Some(repository::git_dir(git, &tree).await?);
    entry.write(marker).map_err(WorkspaceError::io(NOTE))?;
    Ok((dir, branch))
}

/// The sub-directory, made if no commit has it, never outside of the tree.
fn enter(tree: &Path, prefix: &Path) -> Result<PathBuf, WorkspaceError> {
    let what = "enter the workspace";
    let dir = tree.join(prefix);
    std::fs::create_dir_all(&dir).map_err(WorkspaceError::io(what))?;
    let dir = dir.canonicalize().map_err(WorkspaceError::io(what))?;
    if dir.starts_with(tree) {
        Ok(dir)
    } else {
        Err(WorkspaceError::Broken)
    }
}

/// Removes a workspace that no agent was ever in.
pub(super) async fn discard(
    git: &Git,
    entry: &Entry,
    marker: &Marker,
) -> Result<(), WorkspaceError> {
    remove::tree(git, entry, marker).await?;
    if let Some(branch) = &marker.branch {
        let repository = Place::Repository(marker.repository.clone());
        if repository::commit(git, &repository, branch).await?.as_ref() == Some(&marker.start) {
            refs::delete(git, &repository, branch, &marker.start).await?;
        }
    }
    entry.forget().map_err(WorkspaceError::io(NOTE))
}
