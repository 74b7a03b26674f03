//! One at a time: git fails when it makes or removes two worktrees of one
//! repository at once (it reads those that are only half there).

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::time::{Instant, sleep};

use super::error::WorkspaceError;
use super::git::Git;

const WHAT: &str = "take its turn";

/// Our turn, until it is dropped.
pub(super) struct Turn(File);

/// Waits for our turn, within the operation's time. The lock is on the git
/// directory itself: it leaves nothing there, ends with the process, and is seen
/// by all servers of the machine.
pub(super) async fn take(git: &Git, repository: &Path) -> Result<Turn, WorkspaceError> {
    let file = File::open(repository).map_err(WorkspaceError::io(WHAT))?;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            // Some network file systems lock no directory. Then two may meet,
            // and the one that fails tries again.
            break;
        }
        if Instant::now() >= git.deadline {
            return Err(WorkspaceError::Locked { what: WHAT });
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(Turn(file))
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A child that is being born may hold the file a moment longer.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
