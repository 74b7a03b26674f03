//! The state directory of a server whose store is in memory: gone with it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// What the names of such directories begin with.
const PREFIX: &str = "claudepool-state-";

/// Makes one, and removes those of servers that were killed.
pub(super) fn make() -> io::Result<TempDir> {
    let dir = std::env::temp_dir();
    if let Err(error) = sweep(&dir) {
        tracing::warn!(%error, "what killed servers left could not be looked for");
    }
    tempfile::Builder::new().prefix(PREFIX).tempdir_in(dir)
}

/// Whoever uses such a directory holds its lock, which ends with the process.
fn sweep(dir: &Path) -> io::Result<()> {
    let me = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(dir)?.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry
                .metadata()
                .is_ok_and(|meta| meta.is_dir() && meta.uid() == me);
        if !ours {
            continue;
        }
        // Without a lock yet it was made just now.
        let Ok(lock) = File::open(entry.path().join("lock")) else {
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(entry.path())?;
            tracing::info!("the state that a killed server left is removed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_server_left_goes_and_what_is_used_stays() {
        let temp = tempfile::tempdir().expect("a directory");
        let make = |name: &str| {
            let dir = temp.path().join(name);
            fs::create_dir_all(dir.join("config/x/private")).expect("made");
            File::create(dir.join("lock")).expect("made")
        };
        let killed = make("claudepool-state-killed");
        let used = make("claudepool-state-used");
        make("claudepool-other");
        fs::create_dir(temp.path().join("claudepool-state-new")).expect("made");
        for lock in [&killed, &used] {
            flock(lock, FlockOperation::LockExclusive).expect("free");
        }
        drop(killed);

        sweep(temp.path()).expect("looked");

        let is_there = |name: &str| temp.path().join(name).exists();
        assert!(!is_there("claudepool-state-killed"));
        assert!(is_there("claudepool-state-used") && is_there("claudepool-state-new"));
        assert!(is_there("claudepool-other"));
    }
}
