//! Attempts in a worktree or clone of their own.
//!
//! Each attempt has its own; what it did is kept as a ref, and a chain's next
//! step starts from the ref of the one before. So nothing lives longer than an
//! attempt but what git keeps.

use std::path::Path;

use tracing::{info, warn};

use super::chain_steps;
use super::inner::Inner;
use crate::error::Error;
use crate::pb::{self, GitResult};
use crate::task::{Spec, Task};
use crate::workspace::{Isolated, Kind, WorkspaceError};

/// What a spec asks for.
fn kind(spec: &pb::TaskSpec) -> Option<Kind> {
    match spec.isolation() {
        pb::Isolation::Worktree => Some(Kind::Worktree),
        pb::Isolation::Clone => Some(Kind::Clone),
        pb::Isolation::Unspecified | pb::Isolation::None => None,
    }
}

/// Refuses isolation that cannot be had in a directory.
pub(super) async fn admit(
    inner: &Inner,
    spec: &pb::TaskSpec,
    dir: &Path,
    path: &str,
) -> Result<(), Error> {
    if kind(spec).is_none() {
        return Ok(());
    }
    if repository(inner, dir).await? {
        return Ok(());
    }
    Err(Error::NotARepository {
        field: format!("{path}isolation"),
    })
}

/// What a chain that does not say gets: a worktree where there is a repository.
pub(super) async fn default_of_chain(inner: &Inner, dir: &Path) -> Result<pb::Isolation, Error> {
    let isolate = inner.workspaces.is_some() && repository(inner, dir).await?;
    Ok(if isolate {
        pb::Isolation::Worktree
    } else {
        pb::Isolation::None
    })
}

async fn repository(inner: &Inner, dir: &Path) -> Result<bool, Error> {
    let Some(workspaces) = &inner.workspaces else {
        return Err(Error::Policy {
            field: "isolation".to_owned(),
            message: "the server has no workspace_dir, so it cannot isolate work".to_owned(),
        });
    };
    match workspaces.repository(dir).await {
        Ok(found) => Ok(found.is_some()),
        Err(error) => Err(Error::Internal(format!("{error:?}"))),
    }
}

/// Makes the attempt's own directory, if its spec asks for one.
pub(super) async fn make(
    inner: &Inner,
    task: &Task,
    spec: &Spec,
    dir: &Path,
) -> Result<Option<Isolated>, String> {
    let (Some(kind), Some(workspaces)) = (kind(&spec.received), &inner.workspaces) else {
        return Ok(None);
    };
    let name = format!("{}-{}", task.id, task.attempt);
    let earlier = match task.parent {
        Some(chain) => chain_steps::last_ref(inner, chain)
            .await
            .map_err(|error| error.to_string())?,
        None => None,
    };
    let made = match earlier {
        Some(revision) => workspaces.make_from(dir, kind, &name, &revision).await,
        None => workspaces.make(dir, kind, &name).await,
    };
    made.map(Some).map_err(|error| {
        warn!(?error, "no workspace");
        error.to_string()
    })
}

/// Keeps what was done, as a ref. `Err`: one sentence; nothing is lost, but
/// somebody has to look.
pub(super) async fn keep(inner: &Inner, isolated: Isolated) -> Result<Option<GitResult>, String> {
    let Some(workspaces) = &inner.workspaces else {
        return Ok(None);
    };
    match workspaces.keep(isolated).await {
        Ok(kept) => Ok(kept),
        Err(error) => {
            warn!(?error, "a workspace was left where it is");
            match error {
                // What was committed has its ref; the rest waits on the disk.
                WorkspaceError::LeftOnDisk {
                    kept: Some(kept), ..
                } => Ok(Some(kept)),
                error => Err(error.to_string()),
            }
        }
    }
}

/// Keeps what a crashed server left behind.
pub(super) async fn recover(inner: &Inner) {
    let Some(workspaces) = &inner.workspaces else {
        return;
    };
    for kept in workspaces.recover().await {
        match kept.result {
            Ok(Some(git)) => info!(name = kept.name, git_ref = git.r#ref, "workspace recovered"),
            Ok(None) => info!(
                name = kept.name,
                "workspace recovered: nothing was done in it"
            ),
            Err(error) => warn!(name = kept.name, ?error, "a workspace was left where it is"),
        }
    }
}

/// The last ref that a chain's steps have left, so that the next goes on from it.
pub(super) fn latest(records: &[crate::task::Record]) -> Option<GitResult> {
    let results = records.iter().rev().filter_map(|r| r.result.as_ref());
    results.into_iter().find_map(|result| result.git.clone())
}
