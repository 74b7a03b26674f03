//! Removes the directory of a workspace and what git knows of it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::time::{sleep, timeout_at};

use super::error::WorkspaceError;
use super::git::{Call, Git, Place};
use super::marker::{Entry, Marker};
use super::{Kind, turn};

const WHAT: &str = "remove the workspace";

/// Removes the tree; its work must be safe.
pub(super) async fn tree(git: &Git, entry: &Entry, marker: &Marker) -> Result<(), WorkspaceError> {
    entry.remove_index();
    let dir = entry.tree();
    directory(git, &dir).await?;
    if marker.kind == Kind::Worktree {
        // Only its own entry: `prune` would take the user's along.
        let repository = Place::Repository(marker.repository.clone());
        let remove = Call::new(&repository, WHAT)
            .args(["worktree", "remove", "--force", "--force", "--"])
            .arg(&dir);
        let turn = turn::take(git, &marker.repository).await?;
        let output = git.output(remove).await?;
        drop(turn);
        if !output.success && !output.stderr.contains("is not a working tree") {
            return Err(WorkspaceError::Git {
                what: WHAT,
                detail: output.stderr,
            });
        }
    }
    Ok(())
}

async fn directory(git: &Git, dir: &Path) -> Result<(), WorkspaceError> {
    // A process that still writes there makes a removal fail; it ends soon.
    for wait_ms in [50, 500, 0] {
        let dir = dir.to_owned();
        let removing = tokio::task::spawn_blocking(move || remove_all(&dir));
        let removed = timeout_at(git.deadline, removing)
            .await
            .map_err(|_| WorkspaceError::TimedOut { what: WHAT })?;
        match removed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(source)) if wait_ms == 0 => {
                return Err(WorkspaceError::Io { what: WHAT, source });
            }
            Ok(Err(_)) => sleep(std::time::Duration::from_millis(wait_ms)).await,
            Err(_) => return Err(WorkspaceError::Broken),
        }
    }
    Ok(())
}

fn remove_all(dir: &Path) -> io::Result<()> {
    match gone(fs::remove_dir_all(dir)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // Package caches are read-only directories.
            open_up(dir)?;
            gone(fs::remove_dir_all(dir))
        }
        other => other,
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open_up(top: &Path) -> io::Result<()> {
    let mut dirs = vec![top.to_owned()];
    while let Some(dir) = dirs.pop() {
        let mode = fs::symlink_metadata(&dir)?.permissions().mode();
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode | 0o700))?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(())
}
