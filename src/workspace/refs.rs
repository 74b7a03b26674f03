//! Refs in the original repository: made only where there is none, moved only
//! from the value they were seen with, believed only when read back.

use super::error::WorkspaceError;
use super::git::{Call, Git, Place};
use super::marker::random;
use super::repository::commit;

const WRITE: &str = "write the ref";

/// Makes a branch for `name` at `target`; one that exists is left alone and
/// another name is taken.
pub(super) async fn reserve(
    git: &Git,
    repository: &Place,
    name: &str,
    target: &str,
) -> Result<String, WorkspaceError> {
    let wanted = [
        format!("refs/heads/claudepool/{name}"),
        format!("refs/heads/claudepool/{name}-{}", random()),
        // Where a branch `claudepool` exists, it can have none below it.
        format!("refs/heads/claudepool-{name}-{}", random()),
    ];
    let mut detail = String::new();
    for branch in wanted {
        let output = git
            .output(update(repository, &branch, target, None))
            .await?;
        if output.success {
            verify(git, repository, &branch, target).await?;
            return Ok(branch);
        }
        detail = output.stderr;
    }
    Err(WorkspaceError::Git {
        what: WRITE,
        detail,
    })
}

/// Moves a ref from one commit to another.
pub(super) async fn advance(
    git: &Git,
    repository: &Place,
    name: &str,
    from: &str,
    to: &str,
) -> Result<(), WorkspaceError> {
    git.ok(update(repository, name, to, Some(from))).await?;
    verify(git, repository, name, to).await
}

/// Deletes a ref if it still points to `value`.
pub(super) async fn delete(
    git: &Git,
    repository: &Place,
    name: &str,
    value: &str,
) -> Result<(), WorkspaceError> {
    let call = Call::new(repository, "remove the unused ref").args([
        "update-ref",
        "--no-deref",
        "-d",
        name,
        value,
    ]);
    git.ok(call).await.map(drop)
}

/// Whether all of `old` is part of `new`.
pub(super) async fn contains(
    git: &Git,
    repository: &Place,
    old: &str,
    new: &str,
) -> Result<bool, WorkspaceError> {
    let call =
        Call::new(repository, "compare commits").args(["merge-base", "--is-ancestor", old, new]);
    Ok(git.output(call).await?.success)
}

async fn verify(
    git: &Git,
    repository: &Place,
    name: &str,
    target: &str,
) -> Result<(), WorkspaceError> {
    match commit(git, repository, name).await? {
        Some(found) if found == target => Ok(()),
        found => Err(WorkspaceError::Git {
            what: WRITE,
            detail: format!("{name} is {found:?}, not {target}"),
        }),
    }
}

fn update<'a>(repository: &'a Place, name: &str, to: &str, from: Option<&str>) -> Call<'a> {
    // All zeros: there must be none.
    let none = "0".repeat(to.len());
    Call::new(repository, WRITE)
        .args(["update-ref", "--no-deref", "-m", "claudepool: keep work"])
        .args([name, to, from.unwrap_or(&none)])
}
