//! Gives every piece of work a ref, then removes the workspace.
//!
//! The order is the promise: what is committed gets its ref first, so that a
//! filter that hangs on the uncommitted rest cannot cost it; removal comes last,
//! when nothing can fail any more that would matter.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::error::WorkspaceError;
use super::git::{Call, Git, Place};
use super::marker::{Entry, Marker};
use super::{Kind, Workspaces, bring, make, nested, refs, repository, rescue};
use crate::pb::GitResult;

/// Most bytes of a diffstat, as `task.proto` promises.
const DIFFSTAT_MAX: usize = 16 << 10;

/// For a diffstat when the operation's time is up.
const DIFFSTAT_GRACE: Duration = Duration::from_secs(5);

/// A ref and where it points.
struct Safe {
    name: String,
    commit: String,
}

pub(super) async fn settle(
    workspaces: &Workspaces,
    entry: &Entry,
) -> Result<Option<GitResult>, WorkspaceError> {
    let git = workspaces.git();
    let marker = entry
        .read()
        .map_err(WorkspaceError::io(
            "read what it noted down of the workspace",
        ))?
        .ok_or(WorkspaceError::Broken)?;
    let Some(git_dir) = &marker.git_dir else {
        make::discard(&git, entry, &marker).await?;
        return Ok(None);
    };

    let mut safe = None;
    let secured = secure(&git, entry, &marker, git_dir, &mut safe).await;
    let result = match &safe {
        Some(safe) => Some(describe(&git, &marker, safe).await),
        None => None,
    };
    if let Err(cause) = secured {
        return Err(WorkspaceError::LeftOnDisk {
            dir: entry.tree(),
            kept: result,
            cause: Box::new(cause),
        });
    }
    // The work is safe; what remains of the workspace is a matter of tidiness.
    if let Err(error) = make::discard(&git, entry, &marker).await {
        warn!(dir = %entry.tree().display(), ?error, "a settled workspace was not removed");
    }
    Ok(result)
}

/// Puts all work under refs. `safe` says how far that came, also on an error.
async fn secure(
    git: &Git,
    entry: &Entry,
    marker: &Marker,
    git_dir: &Path,
    safe: &mut Option<Safe>,
) -> Result<(), WorkspaceError> {
    let there = entry.tree().exists();
    if !git_dir.exists() {
        // Removed by the agent, or by a server that died before it could forget.
        *safe = branch_alone(git, marker).await?;
        return if there {
            Err(WorkspaceError::Broken)
        } else {
            Ok(())
        };
    }
    let place = if there {
        Place::Tree {
            git_dir: git_dir.to_owned(),
            dir: entry.tree(),
            index: None,
        }
    } else {
        Place::Repository(git_dir.to_owned())
    };
    let head = head(git, &place, &marker.start).await?;
    *safe = point(git, entry, marker, &place, &head, safe.take()).await?;
    if there {
        if let Some(rest) = rescue::commit(git, entry, marker, git_dir, &head).await? {
            *safe = point(git, entry, marker, &place, &rest, safe.take()).await?;
        }
        if marker.kind == Kind::Clone {
            let head = safe.as_ref().map_or(&head, |safe| &safe.commit);
            bring::others(git, entry, marker, &place, head).await?;
        }
        nested::check(git, &place, &entry.tree()).await?;
    }
    Ok(())
}

/// The commit that is checked out; the start where the agent began a history
/// without a commit yet.
async fn head(git: &Git, place: &Place, start: &str) -> Result<String, WorkspaceError> {
    if let Some(head) = repository::commit(git, place, "HEAD").await? {
        return Ok(head);
    }
    // A HEAD that cannot be read must not pass for one without work.
    let call = || Call::new(place, "look at the workspace");
    let symbolic = git
        .ok(call().args(["symbolic-ref", "--quiet", "HEAD"]))
        .await?
        .text();
    let exists = git
        .output(call().args(["show-ref", "--verify", "--quiet", &symbolic]))
        .await?;
    if exists.success {
        Err(WorkspaceError::Broken)
    } else {
        Ok(start.to_owned())
    }
}

/// Makes `target` reachable in the original repository. A branch of ours that
/// has other commits keeps them: `target` then gets a branch of its own.
async fn point(
    git: &Git,
    entry: &Entry,
    marker: &Marker,
    place: &Place,
    target: &str,
    safe: Option<Safe>,
) -> Result<Option<Safe>, WorkspaceError> {
    let repository = Place::Repository(marker.repository.clone());
    let held = match safe {
        Some(safe) => Some(safe),
        None => held(git, marker).await?,
    };
    if target == marker.start {
        return Ok(held.filter(|held| held.commit != marker.start));
    }
    if marker.kind == Kind::Clone {
        bring::commit(git, entry, marker, place, target).await?;
    }
    let commit = target.to_owned();
    if let Some(Safe { name, commit: old }) = held {
        if old == target {
            return Ok(Some(Safe { name, commit }));
        }
        if old == marker.start || refs::contains(git, &repository, &old, target).await? {
            refs::advance(git, &repository, &name, &old, target).await?;
            return Ok(Some(Safe { name, commit }));
        }
    }
    let name = refs::reserve(git, &repository, &marker.name, target).await?;
    Ok(Some(Safe { name, commit }))
}

/// Our branch as it is now; `None` if the agent renamed or deleted it.
async fn held(git: &Git, marker: &Marker) -> Result<Option<Safe>, WorkspaceError> {
    let Some(name) = marker.branch.clone() else {
        return Ok(None);
    };
    let repository = Place::Repository(marker.repository.clone());
    let commit = repository::commit(git, &repository, &name).await?;
    Ok(commit.map(|commit| Safe { name, commit }))
}

async fn branch_alone(git: &Git, marker: &Marker) -> Result<Option<Safe>, WorkspaceError> {
    let held = held(git, marker).await?;
    Ok(held.filter(|held| held.commit != marker.start))
}

async fn describe(git: &Git, marker: &Marker, safe: &Safe) -> GitResult {
    let repository = Place::Repository(marker.repository.clone());
    let diff = Call::new(&repository, "count the changes")
        .args(["diff", "--stat", "--no-color", "--no-ext-diff"])
        .args(["--no-textconv", "--ignore-submodules=none"])
        .args([&marker.start, &safe.commit, "--"]);
    let git = Git {
        deadline: git.deadline.max(Instant::now() + DIFFSTAT_GRACE),
        ..git.clone()
    };
    let diffstat = match git.output(diff).await {
        Ok(output) => cut(&String::from_utf8_lossy(&output.stdout)),
        Err(error) => {
            warn!(?error, "kept work has no diffstat");
            String::new()
        }
    };
    GitResult {
        r#ref: safe.name.clone(),
        commit: safe.commit.clone(),
        diffstat,
    }
}

/// Whole lines, at most [`DIFFSTAT_MAX`] bytes.
fn cut(text: &str) -> String {
    if text.len() <= DIFFSTAT_MAX {
        return text.to_owned();
    }
    let mut lines = String::new();
    for line in text.split_inclusive('\n') {
        if lines.len() + line.len() > DIFFSTAT_MAX {
            break;
        }
        lines.push_str(line);
    }
    lines
}
