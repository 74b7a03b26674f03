//! What git says about a directory.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::error::WorkspaceError;
use super::git::{Call, Git, Output, Place};

/// A directory inside a repository's working tree.
pub(super) struct Repository {
    /// The top of the working tree, resolved.
    pub top: PathBuf,
    /// The common git directory: the same for all of its worktrees.
    pub common: PathBuf,
    /// From the top to the directory.
    pub prefix: PathBuf,
}

/// The repository of `dir`, symlinks resolved.
pub(super) async fn find(git: &Git, dir: &Path) -> Result<Repository, WorkspaceError> {
    let dir = tokio::fs::canonicalize(dir)
        .await
        .map_err(WorkspaceError::io("enter the working directory"))?;
    let place = Place::In(dir.clone());
    let inside = git
        .output(rev_parse(&place).arg("--is-inside-work-tree"))
        .await?;
    if !inside.success {
        return Err(if inside.stderr.contains("not a git repository") {
            WorkspaceError::NotARepository
        } else {
            WorkspaceError::Git {
                what: LOOK,
                detail: inside.stderr,
            }
        });
    }
    if inside.line() != b"true" {
        return Err(WorkspaceError::Bare);
    }
    let top = path(&git.ok(rev_parse(&place).arg("--show-toplevel")).await?);
    let common = rev_parse(&place).args(["--path-format=absolute", "--git-common-dir"]);
    let common = path(&git.ok(common).await?);
    let resolve = WorkspaceError::io("resolve the repository");
    let top = tokio::fs::canonicalize(top).await.map_err(resolve)?;
    let resolve = WorkspaceError::io("resolve the repository");
    let common = tokio::fs::canonicalize(common).await.map_err(resolve)?;
    let prefix = dir
        .strip_prefix(&top)
        .map_err(|_| WorkspaceError::Bare)?
        .to_owned();
    Ok(Repository {
        top,
        common,
        prefix,
    })
}

/// The commit that `revision` names at `place`.
pub(super) async fn commit(
    git: &Git,
    place: &Place,
    revision: &str,
) -> Result<Option<String>, WorkspaceError> {
    let call = rev_parse(place)
        .args(["--verify", "--quiet", "--end-of-options"])
        .arg(format!("{revision}^{{commit}}"));
    let output = git.output(call).await?;
    Ok(output.success.then(|| output.text()))
}

/// The git directory of a working tree.
pub(super) async fn git_dir(git: &Git, tree: &Path) -> Result<PathBuf, WorkspaceError> {
    let place = Place::In(tree.to_owned());
    let output = git.ok(rev_parse(&place).arg("--absolute-git-dir")).await?;
    Ok(path(&output))
}

const LOOK: &str = "look at the repository";

fn rev_parse(place: &Place) -> Call<'_> {
    Call::new(place, LOOK).arg("rev-parse")
}

fn path(output: &Output) -> PathBuf {
    PathBuf::from(OsString::from_vec(output.line().to_vec()))
}
