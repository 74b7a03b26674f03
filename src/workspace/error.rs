//! What goes wrong between a server and a repository.

use std::io;
use std::path::PathBuf;

use crate::pb::GitResult;

/// Why a workspace could not be made or settled. `Display` is for the caller:
/// no path in it, and nothing that git printed; both are in the fields, for the
/// log.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// There is no git repository at or above the directory.
    #[error("the working directory is in no git repository")]
    NotARepository,
    /// The repository has no working tree, or the directory is inside `.git`.
    #[error("the working directory is in a git repository without a working tree")]
    Bare,
    /// The repository has no commit to start from.
    #[error("the git repository has no commit yet")]
    Empty,
    /// The commit to start from does not exist.
    #[error("the git repository does not have the commit to start from")]
    NoSuchCommit,
    /// The repository surrounds the server's own folder of workspaces.
    #[error("the server keeps its workspaces inside this git repository")]
    Surrounded,
    /// The name cannot be part of a ref.
    #[error("the name of a workspace is 1 to 128 of A-Z a-z 0-9 - _ and starts with no dash")]
    BadName,
    /// There is no git program.
    #[error("the git program is not installed on the server")]
    NoGit,
    /// git, a hook or a filter took too long, and was ended.
    #[error("git took too long to {what}; a hook or a filter may hang")]
    TimedOut {
        /// What was being done.
        what: &'static str,
    },
    /// Another program holds a lock of the repository for too long.
    #[error("another program is at work in the git repository, so git could not {what}")]
    Locked {
        /// What was being done.
        what: &'static str,
    },
    /// git refused.
    #[error("git could not {what}")]
    Git {
        /// What was being done.
        what: &'static str,
        /// What git printed.
        detail: String,
    },
    /// The file system refused.
    #[error("the server could not {what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Not all work could be put into the repository. Nothing was deleted: the
    /// workspace is on the server's disk still.
    #[error("not all of the work could be kept in git ({cause}); it was left on the server's disk")]
    LeftOnDisk {
        /// Where it is.
        dir: PathBuf,
        /// What did get a ref.
        kept: Option<GitResult>,
        /// Why not the rest.
        #[source]
        cause: Box<WorkspaceError>,
    },
    /// A git repository inside the workspace holds work that is nowhere else.
    #[error("a git repository inside the workspace holds work of its own")]
    Nested {
        /// Where it is.
        dir: PathBuf,
    },
    /// The agent removed what git knows of the workspace.
    #[error("the workspace is no git working tree any more")]
    Broken,
}

impl WorkspaceError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
