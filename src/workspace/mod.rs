//! Isolated working directories, in git: a worktree or a clone for each
//! attempt, and a ref in the original repository for what was done there.
//!
//! A workspace is removed only after everything that was committed in it, and
//! everything that was not, is reachable by a ref that was read back. What
//! cannot be kept so stays on disk. A ref, a branch or a directory that was
//! there before is never touched. This module knows nothing of tasks, stores,
//! agents or the wire's services; who may work in which directory is decided by
//! the caller.
//!
//! ```text
//! base/NAME-RANDOM/            the working tree
//! base/NAME-RANDOM.workspace   what it is and whose (marker.rs)
//! base/NODE-RANDOM.owner       locked while that server lives (marker.rs)
//! ```

mod bring;
mod error;
mod git;
mod make;
mod marker;
mod nested;
mod refs;
mod remove;
mod repository;
mod rescue;
mod settle;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::HashSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::warn;

pub use error::WorkspaceError;
use git::Git;
use marker::{Entry, Marker, Owner};

use crate::pb::GitResult;

/// What a workspace is to git.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A worktree: branches, stashes, configuration and hooks are the
    /// repository's own.
    Worktree,
    /// A clone: nothing but the kept refs reaches the repository.
    Clone,
}

/// How git is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The git program, 2.39 or later. Default `git`, looked up in `PATH`.
    pub program: PathBuf,
    /// Longest time to make a workspace, or to settle one, hooks and filters
    /// included. Tidying up after a failure may add 10 s. Default 5 min.
    pub limit: Duration,
    /// How long another program's lock in the repository is waited for.
    /// Default 3 s.
    pub lock_wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            program: "git".into(),
            limit: Duration::from_secs(300),
            lock_wait: Duration::from_secs(3),
        }
    }
}

/// The workspaces of a server. Cheap to clone. Dropped, with all clones and all
/// [`Isolated`], its workspaces are stale: the next [`Workspaces::recover`]
/// over the same folder settles them.
#[derive(Clone, Debug)]
pub struct Workspaces {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    base: PathBuf,
    node: String,
    options: Options,
    owner: Owner,
    /// Ids of the workspaces that somebody is at.
    busy: Mutex<HashSet<String>>,
}

/// A workspace that is in use. Dropped without [`Workspaces::keep`], it stays
/// on disk until [`Workspaces::recover`].
#[derive(Debug)]
pub struct Isolated {
    /// The agent's working directory: the same sub-directory of the workspace
    /// as was asked for of the repository.
    pub dir: PathBuf,
    /// The top of the workspace.
    pub top: PathBuf,
    /// What it is to git.
    pub kind: Kind,
    /// The branch that was made for it, a full ref name.
    pub branch: String,
    /// The commit it started from.
    pub start: String,
    entry: Busy,
}

/// What [`Workspaces::recover`] did with a stale workspace.
#[derive(Debug)]
pub struct Kept {
    /// The name it was made with.
    pub name: String,
    /// Where its work is; `None`: nothing was changed.
    pub result: Result<Option<GitResult>, WorkspaceError>,
}

impl Workspaces {
    /// Workspaces below `base`, which is made if it is missing (mode 0700) and
    /// must outlive the server. `node` is a part of file names.
    pub async fn open(base: &Path, node: &str, options: Options) -> Result<Self, WorkspaceError> {
        let what = "use its folder of workspaces";
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(base)
            .map_err(WorkspaceError::io(what))?;
        let base = base.canonicalize().map_err(WorkspaceError::io(what))?;
        let node = node
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(64)
            .collect::<String>();
        let owner = Owner::new(&base, &node).map_err(WorkspaceError::io(what))?;
        Ok(Self {
            shared: Arc::new(Shared {
                base,
                node,
                options,
                owner,
                busy: Mutex::default(),
            }),
        })
    }

    /// The top of the working tree that `dir` is in, symlinks resolved; `None`:
    /// `dir` is in no repository.
    pub async fn repository(&self, dir: &Path) -> Result<Option<PathBuf>, WorkspaceError> {
        match repository::find(&self.git(), dir).await {
            Ok(found) => Ok(Some(found.top)),
            Err(WorkspaceError::NotARepository) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a workspace from the commit that is checked out at `dir`. What is
    /// not committed there is not in it. `name` should be unique: it names the
    /// branch, which gets a random part where another has the name.
    pub async fn make(
        &self,
        dir: &Path,
        kind: Kind,
        name: &str,
    ) -> Result<Isolated, WorkspaceError> {
        self.make_from(dir, kind, name, "HEAD").await
    }

    /// The same from another commit or ref, for instance the ref that an
    /// earlier workspace was kept under.
    pub async fn make_from(
        &self,
        dir: &Path,
        kind: Kind,
        name: &str,
        revision: &str,
    ) -> Result<Isolated, WorkspaceError> {
        let plausible = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if !(1..=128).contains(&name.len()) || name.starts_with('-') || !name.bytes().all(plausible)
        {
            return Err(WorkspaceError::BadName);
        }
        let entry = Entry::new(&self.shared.base, format!("{name}-{}", marker::random()));
        let busy = self.busy(entry).ok_or(WorkspaceError::Broken)?;
        make::make(self, dir, kind, name, revision, busy).await
    }

    /// Settles a workspace: all work in it gets a ref, then it is removed.
    /// `None`: nothing was changed, and the branch is gone too. After an error
    /// everything that did not get a ref is on disk, and the next
    /// [`Workspaces::recover`] tries again.
    pub async fn keep(&self, isolated: Isolated) -> Result<Option<GitResult>, WorkspaceError> {
        let result = settle::settle(self, &isolated.entry.entry).await;
        if let Err(error) = &result {
            report(&isolated.entry.entry, error);
        }
        result
    }

    /// Settles, by the same rule, the workspaces of servers that are gone and
    /// those of this one that were dropped. Those in use are left alone,
    /// whichever server's they are. Safe to repeat.
    pub async fn recover(&self) -> Vec<Kept> {
        let entries = match Entry::all(&self.shared.base) {
            Ok(entries) => entries,
            Err(error) => {
                warn!(%error, "stale workspaces cannot be looked for");
                return Vec::new();
            }
        };
        let mut kept = Vec::new();
        for entry in entries {
            let Some(busy) = self.busy(entry) else {
                continue;
            };
            if let Some((marker, _gone)) = self.stale(&busy.entry) {
                let result = settle::settle(self, &busy.entry).await;
                if let Err(error) = &result {
                    report(&busy.entry, error);
                }
                kept.push(Kept {
                    name: marker.name,
                    result,
                });
            }
        }
        self.forget_owners();
        kept
    }

    /// The marker of a workspace that nobody is at, and its late owner's place:
    /// while it is held no other server settles the same workspace.
    fn stale(&self, entry: &Entry) -> Option<(Marker, Option<Owner>)> {
        let look = || -> std::io::Result<_> {
            let Some(marker) = entry.read()? else {
                return Ok(None);
            };
            if marker.owner == self.shared.owner.id {
                return Ok(Some((marker, None)));
            }
            let Some(gone) = Owner::take(&self.shared.base, &marker.owner)? else {
                return Ok(None);
            };
            // It may have been settled between the first look and the lock.
            Ok(entry.read()?.map(|marker| (marker, Some(gone))))
        };
        look().unwrap_or_else(|error| {
            warn!(workspace = %entry.id, %error, "a workspace cannot be looked at; it is left alone");
            None
        })
    }

    /// Removes the files of servers that are gone and left no workspace.
    fn forget_owners(&self) {
        let base = &self.shared.base;
        for id in Owner::all(base).unwrap_or_default() {
            if id == self.shared.owner.id {
                continue;
            }
            if let Ok(Some(gone)) = Owner::take(base, &id) {
                let named =
                    Entry::all(base)
                        .unwrap_or_default()
                        .iter()
                        .any(|entry| match entry.read() {
                            Ok(marker) => marker.is_some_and(|marker| marker.owner == id),
                            Err(_) => true,
                        });
                if !named {
                    gone.remove();
                }
            }
        }
    }

    fn git(&self) -> Git {
        let Options {
            program,
            limit,
            lock_wait,
        } = &self.shared.options;
        Git {
            program: program.clone(),
            deadline: Instant::now() + *limit,
            lock_wait: *lock_wait,
        }
    }

    /// `None`: somebody is at it.
    fn busy(&self, entry: Entry) -> Option<Busy> {
        self.shared.busy().insert(entry.id.clone()).then(|| Busy {
            entry,
            shared: self.shared.clone(),
        })
    }
}

impl Shared {
    fn busy(&self) -> MutexGuard<'_, HashSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody is at this workspace until this is dropped.
#[derive(Debug)]
struct Busy {
    entry: Entry,
    shared: Arc<Shared>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.busy().remove(&self.entry.id);
    }
}

/// The one place where paths and git's own words are told: the log.
fn report(entry: &Entry, error: &WorkspaceError) {
    let dir = entry.tree();
    warn!(dir = %dir.display(), ?error, "a workspace was left on disk");
}
