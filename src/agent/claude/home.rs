//! Directories: what each process keeps for itself, what all share, and the
//! record of what runs.
//!
//! ```text
//! state_dir/lock           held while a server uses the directory
//! state_dir/run/MARKER     a running shim: its pid and start time
//! state_dir/config/MARKER  what one process at a time has for itself:
//!     claude               its CLAUDE_CONFIG_DIR and HOME
//!     idle                 where it waits that has no working directory yet
//!     private              what it reads while it starts
//! state_dir/projects       saved sessions: shared, so that any process resumes any
//! ```
//!
//! The CLI watches its configuration directory and writes in it, so that it looks at every
//! entry some four times a task: nothing of ours is in it that it does not need.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::tree;

/// How long a shim of an earlier server may take to end its tree by itself: its
/// lifeline is closed, so this is normally over in milliseconds.
const OUTLAST: Duration = Duration::from_secs(10);
/// Most directories kept for reuse; more are removed.
const FREE_MAX: usize = 64;

/// The directories of one server.
pub(crate) struct Homes {
    state_dir: PathBuf,
    credentials: Option<PathBuf>,
    known: Mutex<Known>,
    _lock: File,
}

#[derive(Default)]
struct Known {
    live: BTreeSet<String>,
    free: Vec<PathBuf>,
}

/// The directory of one process, and its record.
pub(crate) struct Home {
    homes: Arc<Homes>,
    dir: PathBuf,
    marker: String,
    recorded: bool,
    /// When its shim started, as `/proc` counts.
    start: u64,
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes what an earlier process left at `path`, and links it to `target` if there is one.
fn replace(path: &Path, target: Option<&Path>) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.and_then(|()| target.map_or(Ok(()), |target| symlink(target, path)))
}

impl Homes {
    /// Takes `state_dir` for this server. `WouldBlock`: another one has it.
    pub(crate) fn open(state_dir: &Path, credentials: Option<PathBuf>) -> io::Result<Arc<Self>> {
        for part in ["run", "config", "projects"] {
            make_dir(&state_dir.join(part))?;
        }
        let state_dir = state_dir.canonicalize()?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(state_dir.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Arc::new(Self {
            state_dir,
            credentials,
            known: Mutex::default(),
            _lock: lock,
        }))
    }

    /// The state directory, with symlinks resolved.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics holding it")
    }

    /// A directory that no process uses; with `sessions` the saved ones are found from it,
    /// and its own are among them.
    pub(crate) fn acquire(self: &Arc<Self>, sessions: bool) -> io::Result<Home> {
        let marker = Uuid::new_v4().to_string();
        let free = {
            let mut known = self.known();
            known.live.insert(marker.clone());
            known.free.pop()
        };
        let home = Home {
            dir: free.unwrap_or_else(|| self.state_dir.join("config").join(&marker)),
            homes: self.clone(),
            marker,
            recorded: false,
            start: 0,
        };
        make_dir(&home.dir())?;
        make_dir(&home.idle_dir())?;
        let projects = sessions.then(|| self.state_dir.join("projects"));
        replace(&home.dir().join("projects"), projects.as_deref())?;
        if let Some(credentials) = &self.credentials {
            replace(&home.dir().join(".credentials.json"), Some(credentials))?;
        }
        Ok(home)
    }

    /// What is saved of a session, in whichever project it was held: its file,
    /// and a folder for what belongs to it.
    fn saved(&self, session: &str) -> Vec<PathBuf> {
        let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if session.is_empty() || !session.chars().all(is_id) {
            return Vec::new();
        }
        let Ok(projects) = fs::read_dir(self.state_dir.join("projects")) else {
            return Vec::new();
        };
        let folders = projects.flatten().map(|project| project.path());
        folders
            .flat_map(|folder| {
                [
                    folder.join(format!("{session}.jsonl")),
                    folder.join(session),
                ]
            })
            .filter(|path| path.exists())
            .collect()
    }

    /// Whether a session is saved: with something that was said in it. The CLI
    /// begins the file before that, and does not resume such a one.
    pub(crate) fn has_session(&self, session: &str) -> bool {
        self.saved(session).iter().any(|path| {
            let lines = File::open(path).map(BufReader::new).map(BufRead::lines);
            lines.is_ok_and(|lines| {
                let mut said = lines.map_while(Result::ok);
                said.any(|line| line.contains(r#""type":"user""#))
            })
        })
    }

    /// Deletes what is saved of a session.
    pub(crate) fn forget_session(&self, session: &str) {
        for path in self.saved(session) {
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            if let Err(error) = removed {
                tracing::warn!(%session, %error, "a saved session was not deleted");
            }
        }
    }

    /// Ends what an earlier server over this directory left, then forgets it.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let deadline = Instant::now() + OUTLAST;
        let mut markers = Vec::new();
        for entry in fs::read_dir(self.state_dir.join("run"))?.flatten() {
            let Ok(marker) = entry.file_name().into_string() else {
                continue;
            };
            if self.known().live.contains(&marker) {
                continue;
            }
            let record = fs::read_to_string(entry.path()).unwrap_or_default();
            if let Some((pid, start)) = record.trim_end().split_once(' ')
                && let (Ok(pid), Ok(start)) = (pid.parse(), start.parse())
                && !tree::outlast(
                    pid,
                    start,
                    deadline.saturating_duration_since(Instant::now()),
                )
            {
                tracing::warn!(pid, "launch shim of an earlier server had to be killed");
            }
            markers.push(marker);
        }
        if !markers.is_empty() {
            // Also those whose shim died with the server.
            let swept = tree::sweep(&markers);
            tracing::info!(
                shims = markers.len(),
                swept,
                "processes of an earlier server are gone"
            );
        }
        for marker in markers {
            fs::remove_file(self.state_dir.join("run").join(marker))?;
        }
        let known = self.known();
        for entry in fs::read_dir(self.state_dir.join("config"))?.flatten() {
            let used = entry
                .file_name()
                .to_str()
                .is_some_and(|name| known.live.contains(name));
            if !used && !known.free.contains(&entry.path()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Home {
    /// What marks every process of this tree.
    pub(crate) fn marker(&self) -> &str {
        &self.marker
    }

    /// When its shim started.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The configuration directory of the process.
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.join("claude")
    }

    /// Where a process waits that has no working directory yet.
    pub(crate) fn idle_dir(&self) -> PathBuf {
        self.dir.join("idle")
    }

    fn private_dir(&self) -> PathBuf {
        self.dir.join("private")
    }

    /// Writes a file that only this user can read, for the time of a start.
    pub(crate) fn private(&self, name: &str, contents: &str) -> io::Result<PathBuf> {
        make_dir(&self.private_dir())?;
        let path = self.private_dir().join(name);
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)?
            .write_all(contents.as_bytes())?;
        Ok(path)
    }

    /// Removes what [`Home::private`] wrote.
    pub(crate) fn remove_private(&self) {
        let _ = fs::remove_dir_all(self.private_dir());
    }

    fn record_path(&self) -> PathBuf {
        self.homes.state_dir.join("run").join(&self.marker)
    }

    /// Notes down the running shim, for the next server.
    pub(crate) fn record(&mut self, shim_pid: u32) -> io::Result<()> {
        self.recorded = true;
        self.start = tree::stat(shim_pid).map_or(u64::MAX, |stat| stat.start);
        fs::write(self.record_path(), format!("{shim_pid} {}\n", self.start))
    }

    /// Gives the directory back after the tree is gone. Not clean: the process
    /// was killed, may have left locks or half-written files, and the directory
    /// is not used again.
    pub(crate) fn release(mut self, clean: bool) {
        self.recorded = false;
        let _ = fs::remove_file(self.record_path());
        self.remove_private();
        let mut known = self.homes.known();
        known.live.remove(&self.marker);
        let reuse = clean && known.free.len() < FREE_MAX;
        if reuse {
            let _ = fs::remove_dir_all(self.dir().join(".claude.json.lock"));
            known.free.push(self.dir.clone());
            return;
        }
        drop(known);
        let dir = self.dir.clone();
        let remove = move || {
            let _ = fs::remove_dir_all(dir);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Never started, or given back. One that may still run is left to the
        // next server's settling.
        if !self.recorded {
            self.remove_private();
            let mut known = self.homes.known();
            if known.live.remove(&self.marker) {
                known.free.push(self.dir.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
