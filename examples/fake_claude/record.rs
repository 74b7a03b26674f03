//! `::record FILE`: the program's own record of who worked at something and when.
//!
//! A line per word, `WORD PID NANOSECONDS` by the monotonic clock: `begin` and
//! `end` of the turn, and `alive` in between, which is the last that one that was
//! killed has told. The kernel keeps a lock on the file until the process and all
//! the tools that it started are gone: whoever begins and finds it locked adds
//! `clash`.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use claudepool::demo::script::{self, Step};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::time::{ClockId, clock_gettime};

/// The directive.
pub const NAME: &str = "record";
/// Between two words of one that lives.
const BEAT: Duration = Duration::from_millis(10);

/// A turn that is recorded.
pub struct Record {
    file: Arc<File>,
    stop: Sender<()>,
    beats: JoinHandle<()>,
}

impl Record {
    /// Begins the one that `prompt` asks for, if it does.
    pub fn begin(prompt: &str) -> Option<Self> {
        let path = script::parse(prompt)
            .into_iter()
            .find_map(|step| match step {
                Step::Other { name, rest } if name == NAME => Some(rest),
                _ => None,
            })?;
        let file = File::options().append(true).create(true).open(path.trim());
        let file = match file {
            Ok(file) => Arc::new(file),
            Err(error) => crate::fail(&format!("no record in {path}: {error}")),
        };
        // The tools have it, too.
        let _ = fcntl_setfd(&*file, FdFlags::empty());
        if flock(&*file, FlockOperation::NonBlockingLockExclusive).is_err() {
            say(&file, "clash");
        }
        say(&file, "begin");
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::clone(&file);
        let beats = std::thread::spawn(move || {
            while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                say(&shared, "alive");
            }
        });
        Some(Self { file, stop, beats })
    }

    /// The turn has ended, and nobody was told yet.
    pub fn end(record: Option<Self>) {
        let Some(Self { file, stop, beats }) = record else {
            return;
        };
        drop(stop);
        // It did not panic, or has said so.
        let _ = beats.join();
        say(&file, "end");
        // A tool in the background does not work at it any more.
        let _ = flock(&*file, FlockOperation::Unlock);
    }
}

fn say(mut file: &File, word: &str) {
    let now = clock_gettime(ClockId::Monotonic);
    let nanoseconds = now.tv_sec * 1_000_000_000 + now.tv_nsec;
    let line = format!("{word} {} {nanoseconds}\n", std::process::id());
    // One write: lines of two who clash do not mix.
    let _ = file.write_all(line.as_bytes());
}
