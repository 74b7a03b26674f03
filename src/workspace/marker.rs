//! What is known of a workspace outside of it: enough to settle it after a
//! crash, and whose it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::Kind;

/// Longest marker that is read, in bytes.
const MARKER_MAX: u64 = 64 << 10;

/// The record of one workspace, beside its directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The asker's name for it.
    pub name: String,
    /// Which server's it is; see [`Owner`].
    pub owner: String,
    /// That server's node, for people who read this file.
    pub node: String,
    /// That server's process, for people who read this file.
    pub pid: u32,
    pub kind: Kind,
    /// The original repository's common git directory.
    pub repository: PathBuf,
    /// The commit it starts from.
    pub start: String,
    /// The branch that was made for it. `None`: none yet.
    pub branch: Option<String>,
    /// The workspace's own git directory. `None`: the agent was never in it.
    pub git_dir: Option<PathBuf>,
}

/// The files of one workspace, all beside each other in the base folder.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    base: PathBuf,
    /// Its name and a random part.
    pub id: String,
}

impl Entry {
    pub fn new(base: &Path, id: String) -> Self {
        Self {
            base: base.to_owned(),
            id,
        }
    }

    /// The working tree.
    pub fn tree(&self) -> PathBuf {
        self.base.join(&self.id)
    }

    /// An index of ours, so that a lock on the agent's is no matter.
    pub fn index(&self) -> PathBuf {
        self.base.join(format!("{}.index", self.id))
    }

    /// Removes our index, and its lock if a server died while it wrote it.
    pub fn remove_index(&self) {
        let _ = fs::remove_file(self.index());
        let _ = fs::remove_file(self.base.join(format!("{}.index.lock", self.id)));
    }

    fn marker(&self) -> PathBuf {
        self.base.join(format!("{}.workspace", self.id))
    }

    /// Writes the marker, whole or not at all, and through to the disk.
    pub fn write(&self, marker: &Marker) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(marker)?;
        let new = self.base.join(format!("{}.new", self.id));
        let mut file = private().create(true).truncate(true).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, self.marker())?;
        File::open(&self.base)?.sync_all()
    }

    /// Reads the marker; `None` when it is gone.
    pub fn read(&self) -> io::Result<Option<Marker>> {
        let path = self.marker();
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MARKER_MAX => {
                return Err(io::Error::other("the marker is too long"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(serde_json::from_slice(&fs::read(path)?)?))
    }

    /// Forgets the workspace.
    pub fn forget(&self) -> io::Result<()> {
        match fs::remove_file(self.marker()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All entries of the base folder, in order of their ids.
    pub fn all(base: &Path) -> io::Result<Vec<Self>> {
        let mut entries = named(base, ".workspace")?
            .into_iter()
            .map(|id| Self::new(base, id))
            .collect::<Vec<_>>();
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(entries)
    }
}

/// A running server, as far as its workspaces go: a locked file. The lock ends
/// with the process however it ends, and is seen across containers that share
/// the folder, where a process id says nothing.
#[derive(Debug)]
pub(super) struct Owner {
    file: File,
    path: PathBuf,
    pub id: String,
}

impl Owner {
    /// A new one, of this server.
    pub fn new(base: &Path, node: &str) -> io::Result<Self> {
        for _ in 0..8 {
            let id = format!("{node}-{}", random());
            if let Some(owner) = Self::take(base, &id)? {
                return Ok(owner);
            }
        }
        Err(io::Error::other("no lock is to be had"))
    }

    /// Takes the place of a server that is gone. `None`: it lives, or another
    /// server has taken its place.
    pub fn take(base: &Path, id: &str) -> io::Result<Option<Self>> {
        if id.contains(['/', '\0']) {
            return Err(io::Error::other("the marker names no server"));
        }
        let path = base.join(format!("{id}.owner"));
        let file = private().create(true).truncate(false).open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Another server may have removed the file before we locked it.
        let ours = file.metadata()?;
        let there = fs::metadata(&path);
        let same = there.is_ok_and(|it| it.ino() == ours.ino() && it.dev() == ours.dev());
        Ok(same.then(|| Self {
            file,
            path,
            id: id.to_owned(),
        }))
    }

    /// Removes the file; nothing may name it any more.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }

    /// The ids of all servers that have a file.
    pub fn all(base: &Path) -> io::Result<Vec<String>> {
        named(base, ".owner")
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // A child that is being born may hold the file a moment longer.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// 16 random hexadecimal digits.
pub(super) fn random() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn named(base: &Path, suffix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(base)? {
        if let Some(name) = entry?.file_name().to_str()
            && let Some(id) = name.strip_suffix(suffix)
            && !id.is_empty()
        {
            names.push(id.to_owned());
        }
    }
    Ok(names)
}
