//! What is read from files, and read again when they change.
//!
//! Files are looked at when what they hold is asked for, at most once a second:
//! so a change holds for whoever comes a second later, nothing has to watch, and
//! a server that nobody calls does nothing. A change that cannot be used is
//! logged, and what was read before stays in force.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long what was read counts as fresh.
const FRESH: Duration = Duration::from_secs(1);
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
    fresh: Duration,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
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
            fresh: FRESH,
            state: Mutex::new(State {
                value: Arc::new(value),
                stamps,
                looked: Instant::now(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value as the files have it, or had it last when they could be used.
    pub fn get(&self) -> Arc<T> {
        let known = {
            let mut state = self.state();
            if state.looked.elapsed() < self.fresh {
                return Arc::clone(&state.value);
            }
            // Others do not look meanwhile.
            state.looked = Instant::now();
            state.stamps.clone()
        };
        let now = stamps(&self.files);
        if now != known {
            let loaded = (self.load)();
            let mut state = self.state();
            // A broken one is told once, and read again when it changes.
            state.stamps = now;
            match loaded {
                Ok(value) => {
                    tracing::info!(what = self.what, "changed files are in force");
                    state.value = Arc::new(value);
                }
                Err(why) => {
                    tracing::error!(what = self.what, %why, "changed files cannot be used: what was read before stays in force");
                }
            }
        }
        Arc::clone(&self.state().value)
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

    /// A file of numbers, read at every look.
    fn number(file: &Path) -> Fresh<u32> {
        let path = file.to_owned();
        let load = move || {
            read_public(&path)?
                .trim()
                .parse()
                .map_err(|_| "is no number".into())
        };
        let mut fresh = Fresh::new("a.key", vec![file.to_owned()], load).expect("a number");
        fresh.fresh = Duration::ZERO;
        fresh
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("n");
        fs::write(&file, "1").expect("written");
        let fresh = number(&file);
        assert_eq!(*fresh.get(), 1);

        fs::write(&file, "22").expect("written");
        assert_eq!(*fresh.get(), 22, "written anew");
        fs::write(&file, "broken").expect("written");
        assert_eq!(*fresh.get(), 22, "broken");
        fs::remove_file(&file).expect("removed");
        assert_eq!(*fresh.get(), 22, "gone");
        fs::write(dir.path().join("other"), "33").expect("written");
        fs::rename(dir.path().join("other"), &file).expect("replaced");
        assert_eq!(*fresh.get(), 33, "replaced");
    }

    #[test]
    fn what_was_read_a_moment_ago_is_not_looked_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("n");
        fs::write(&file, "1").expect("written");
        let mut fresh = number(&file);
        fresh.fresh = Duration::from_secs(3600);

        fs::write(&file, "22").expect("written");
        assert_eq!(*fresh.get(), 1);
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
