//! What is read from files, and read again when they change.
//!
//! Somebody looks at the files once a second, beside the calls: a file's change
//! wakes nobody, and a file system may be slow. A change that cannot be used is
//! logged, and what was read before stays in force.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Largest file that is read.
const BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What nobody but its owner may do with a private file: its group may read it,
/// since that is how Kubernetes hands secrets to a user of its own.
const OTHERS: u32 = 0o037;

type Load<T> = Box<dyn Fn() -> Result<T, String> + Send + Sync>;

/// A value made of files.
pub(super) struct Fresh<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    load: Load<T>,
    value: watch::Sender<Arc<T>>,
    stamps: Mutex<Vec<Option<Stamp>>>,
}

/// What changes when a file does, also when it is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    len: u64,
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| {
        let meta = fs::metadata(file).ok()?;
        Some(Stamp {
            inode: (meta.dev(), meta.ino()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            len: meta.len(),
        })
    };
    files.iter().map(stamp).collect()
}

impl<T> Fresh<T> {
    /// Reads for the first time; `what` is the key that names the files. The
    /// error is one sentence.
    pub fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        // Before the reading, so that a change meanwhile is seen later.
        let stamps = stamps(&files);
        let value = load().map_err(|why| format!("{what}: {why}"))?;
        Ok(Self {
            what,
            files,
            load: Box::new(load),
            value: watch::Sender::new(Arc::new(value)),
            stamps: Mutex::new(stamps),
        })
    }

    /// The value as the files had it when they were looked at last and could be
    /// used.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.value.borrow())
    }

    /// The value, now and as it becomes.
    pub fn follow(&self) -> watch::Receiver<Arc<T>> {
        self.value.subscribe()
    }

    /// Reads the files again if they have changed. Blocks.
    pub fn look(&self) {
        let mut known = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files);
        if *known == now {
            return;
        }
        // A broken one is told once, and read again when it changes.
        *known = now;
        match (self.load)() {
            Ok(value) => {
                tracing::info!(what = self.what, "changed files are in force");
                self.value.send_replace(Arc::new(value));
            }
            Err(why) => {
                tracing::error!(what = self.what, %why, "changed files cannot be used: what was read before stays in force");
            }
        }
    }
}

/// Reads a file that others must not have. The error is one sentence.
pub(super) fn read_private(file: &Path) -> Result<String, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{} {why}", file.display());
    let mut open = File::open(file).map_err(|e| wrong(&format!("cannot be read: {e}")))?;
    let meta = open
        .metadata()
        .map_err(|e| wrong(&format!("cannot be read: {e}")))?;
    if meta.mode() & OTHERS != 0 {
        return Err(wrong(&format!(
            "has mode {:04o}, so that others may read or change it: chmod 600 it",
            meta.mode() & 0o7777
        )));
    }
    read(&mut open).map_err(|why| wrong(&why))
}

/// Reads a file that everybody may have. The error is one sentence.
pub(super) fn read_public(file: &Path) -> Result<String, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{} {why}", file.display());
    let mut open = File::open(file).map_err(|e| wrong(&format!("cannot be read: {e}")))?;
    read(&mut open).map_err(|why| wrong(&why))
}

fn read(file: &mut File) -> Result<String, String> {
    let mut text = String::new();
    let read = file.take(BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| format!("cannot be read: {error}"))?;
    match text.len() as u64 > BYTES_MAX {
        true => Err(format!("is larger than {BYTES_MAX} bytes")),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A file of numbers.
    fn number(file: &Path) -> Fresh<u32> {
        let path = file.to_owned();
        let load = move || {
            read_public(&path)?
                .trim()
                .parse()
                .map_err(|_| "is no number".into())
        };
        Fresh::new("a.key", vec![file.to_owned()], load).expect("a number")
    }

    /// What it is at the next look.
    fn next(fresh: &Fresh<u32>) -> u32 {
        fresh.look();
        *fresh.get()
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("n");
        fs::write(&file, "1").expect("written");
        let fresh = number(&file);
        assert_eq!(*fresh.get(), 1);

        fs::write(&file, "22").expect("written");
        assert_eq!(next(&fresh), 22, "written anew");
        fs::write(&file, "broken").expect("written");
        assert_eq!(next(&fresh), 22, "broken");
        fs::remove_file(&file).expect("removed");
        assert_eq!(next(&fresh), 22, "gone");
        fs::write(dir.path().join("other"), "33").expect("written");
        fs::rename(dir.path().join("other"), &file).expect("replaced");
        assert_eq!(next(&fresh), 33, "replaced");
    }

    #[test]
    fn who_follows_is_told_of_what_can_be_used_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("n");
        fs::write(&file, "1").expect("written");
        let fresh = number(&file);
        let mut follower = fresh.follow();

        for (text, told) in [("1", true), ("broken", false), ("22", true)] {
            fs::write(dir.path().join("other"), text).expect("written");
            fs::rename(dir.path().join("other"), &file).expect("replaced");
            fresh.look();
            assert_eq!(follower.has_changed().expect("it lives"), told, "{text}");
            follower.mark_unchanged();
        }
        fresh.look();
        assert!(!follower.has_changed().expect("it lives"), "nothing new");
    }

    #[test]
    fn a_private_file_that_others_may_read_or_change_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("secret");
        fs::write(&file, "x").expect("written");
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o440, true),
            (0o604, false),
            (0o620, false),
            (0o644, false),
        ] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            let read = read_private(&file);
            assert_eq!(read.is_ok(), good, "{mode:o}: {read:?}");
        }
    }
}
