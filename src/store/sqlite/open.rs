//! From a path to a database that is ours alone, whole, and of today's schema.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};

use crate::clock::Clock;
use crate::store::OpenError;

/// One script per schema version, from 1. Only ever appended to. One that older
/// programs cannot live with sets `claudepool_schema.compatible_from` to its own
/// number.
const MIGRATIONS: [&str; 6] = [
    include_str!("../migrations/0001_initial.sql"),
    include_str!("../migrations/0002_retention.sql"),
    include_str!("../migrations/0003_bills.sql"),
    include_str!("../migrations/0004_trace.sql"),
    include_str!("../migrations/0005_nodes.sql"),
    include_str!("../migrations/0006_level.sql"),
];

/// Marks our databases: "clpo".
const APPLICATION_ID: i32 = 0x636c_706f;

/// Longest wait for a lock inside SQLite. Only a foreign program, a backup for
/// instance, can make us wait at all.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest database that is read through at the start: some tens of
/// milliseconds. A larger one is checked where it is read.
const CHECKED_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 128;

/// The right to use a database: held as long as this lives.
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock beside the database, or says who has it.
    fn take(database: &Path) -> Result<Self, OpenError> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let failed = |error: io::Error| refused(&path, "cannot be locked", &error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // What cannot be read is only missing from the sentence.
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.split_once(' ') {
                    Some((pid, since)) => format!("process {pid}, since {}", since.trim()),
                    None => "another process".to_owned(),
                };
                return Err(OpenError(format!(
                    "{} is in use by {holder}: end it, or use another file",
                    database.display()
                )));
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let now = Clock::system().now().to_proto();
        let holder = format!("{} {now}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(holder.as_bytes()))
            .map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes each hold a lock.
        let _ = self.file.set_len(0);
    }
}

/// A database, opened.
pub(super) struct Opened {
    pub path: PathBuf,
    pub lock: Lock,
    pub writer: Connection,
}

/// Opens or makes the database.
pub(super) fn open(path: &Path) -> Result<Opened, OpenError> {
    let path = place(path)?;
    let lock = Lock::take(&path)?;
    let size = check_header(&path)?;
    let mut writer = connect(&path, &WRITER).map_err(|e| damaged(&path, &e))?;
    let version = identify(&writer, &path)?;
    keep_log(&writer, &path)?;
    migrate(&mut writer, version).map_err(|e| damaged(&path, &e))?;
    if size <= CHECKED_BYTES_MAX {
        let verdict: String = writer
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|e| damaged(&path, &e))?;
        if verdict != "ok" {
            // One sentence on one line.
            return Err(damaged(&path, &verdict.replace('\n', " ")));
        }
    }
    Ok(Opened { path, lock, writer })
}

/// The same name for the same file however it is spelled, with its directory
/// made if only that is missing.
fn place(path: &Path) -> Result<PathBuf, OpenError> {
    let Some(name) = path.file_name().filter(|name| *name != ":memory:") else {
        return Err(OpenError(
            "`sqlite:` needs the path of a file; for a store without one say `memory`".to_owned(),
        ));
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |error: io::Error| refused(directory, "cannot be used as a directory", &error);
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let whole = directory.canonicalize().map_err(failed)?.join(name);
    match whole.canonicalize() {
        Ok(followed) => Ok(followed),
        Err(_) => Ok(whole),
    }
}

/// Refuses what cannot be a database before anything is written to it, and
/// tells the file's size. An absent one is made, readable by its owner only.
fn check_header(path: &Path) -> Result<u64, OpenError> {
    let failed = |error: io::Error| refused(path, "cannot be opened", &error);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut header = Vec::with_capacity(16);
    file.take(16).read_to_end(&mut header).map_err(failed)?;
    if size > 0 && header != b"SQLite format 3\0" {
        return Err(damaged(path, &"it is no SQLite database"));
    }
    Ok(size)
}

/// What a connection is told when it opens.
pub(super) struct Role {
    flags: OpenFlags,
    pragmas: &'static str,
}

/// The one that writes. Every commit is on disk before it is answered.
const WRITER: Role = Role {
    flags: OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX),
    // temp_store: what a savepoint can undo is kept in memory, not in a file.
    // cache_size: after a commit that divided a page SQLite walks through all of its
    // cache (pcache1TruncateUnsafe), so a larger one makes commits slower: of 32 MiB
    // a tenth of this thread's time.
    // wal_autocheckpoint: pages that each commit changes are moved a third as often as
    // with SQLite's 1000; that many are 12 MiB.
    // journal_size_limit: one large batch does not leave a large log for ever;
    // as `writer::LOG_BYTES_MAX`.
    pragmas: "PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;
              PRAGMA cache_size = -8192; PRAGMA journal_size_limit = 16777216;
              PRAGMA wal_autocheckpoint = 3000;",
};

/// Those that read.
pub(super) const READER: Role = Role {
    flags: OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX),
    pragmas: "PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8192;",
};

/// One more connection to the database.
pub(super) fn connect(path: &Path, role: &Role) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, role.flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // A plan for all values. Otherwise SQLite looks whether a value makes a partial
    // index fit, and prepares the statement anew whenever that value is bound.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.execute_batch(role.pragmas)?;
    Ok(conn)
}

/// The version of the schema; refuses what is not ours, or not ours yet,
/// before anything is written.
fn identify(conn: &Connection, path: &Path) -> Result<usize, OpenError> {
    let number = |sql| {
        conn.query_row(sql, [], |row| row.get::<_, i32>(0))
            .map_err(|error| damaged(path, &error))
    };
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
        return Err(OpenError(format!(
            "{} is the database of another program: use another file",
            path.display()
        )));
    }
    let known = MIGRATIONS.len();
    match usize::try_from(version) {
        Ok(version) if version <= known => Ok(version),
        // What this program knows of it is still as it was.
        Ok(_) if compatible_from(conn).is_some_and(|from| from <= known) => Ok(known),
        Ok(_) => Err(OpenError(format!(
            "{} was written by a newer claudepool (schema {version}, this one knows {known}): \
             use that one, or another file",
            path.display(),
        ))),
        Err(_) => Err(damaged(path, &"its schema version is negative")),
    }
}

/// The oldest schema that a program must know to use the database; `None`: it
/// does not say.
fn compatible_from(conn: &Connection) -> Option<usize> {
    let sql = "SELECT compatible_from FROM claudepool_schema";
    let from: i64 = conn.query_row(sql, [], |row| row.get(0)).ok()?;
    usize::try_from(from).ok()
}

/// Has commits written to a log beside the database, where reading goes on.
fn keep_log(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    // Of a new file only: that its holes can be given back a few at a time.
    conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")
        .map_err(|error| damaged(path, &error))?;
    let mode: String = conn
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|error| damaged(path, &error))?;
    if mode != "wal" {
        return Err(OpenError(format!(
            "{} lies where SQLite cannot keep a write-ahead log: use a local disk",
            path.display()
        )));
    }
    Ok(())
}

/// Brings the schema to today's, forward only and all or nothing.
fn migrate(conn: &mut Connection, version: usize) -> rusqlite::Result<()> {
    let scripts = &MIGRATIONS[version..];
    if scripts.is_empty() {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for script in scripts {
        tx.execute_batch(script)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    tx.commit()
}

fn refused(path: &Path, what: &str, why: &dyn std::fmt::Display) -> OpenError {
    OpenError(format!("{} {what}: {why}", path.display()))
}

pub(super) fn damaged(path: &Path, why: &dyn std::fmt::Display) -> OpenError {
    OpenError(format!(
        "{} cannot be used as a database ({why}): restore it from a backup, or use another file",
        path.display()
    ))
}
