//! One CLI process under its shim: spawn, pipes, reap. Knows lines, not what
//! they mean. The only place with unsafe code besides `slice`.
#![allow(unsafe_code)] // Handing a file descriptor through exec: see `spawn` and `inherited`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::home::Home;
use super::lease::{Lifelines, has_expired};
use super::lines::{Cut, Lines};
use super::protocol::{Line, parse};
use super::stderr::Stderr;
use super::{argv::Invocation, tree};
use crate::agent::ProcessEnd;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// How long a process may live on without its stdout. It normally exits within
/// milliseconds.
const EXIT_AFTER_EOF: Duration = Duration::from_secs(2);

/// Takes over a descriptor that was handed to this program by number.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= 2 {
        return Err(io::Error::other("not a descriptor of ours"));
    }
    // SAFETY: called once, by the shim, with the number its server passed; no
    // other code of this program has seen it. A number that is not open fails
    // in the next line, before anything relies on it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// What a process did next.
pub(crate) enum Incoming {
    /// It said a line.
    Line(Line),
    /// It broke the rules of the wire: why.
    Broken(&'static str),
    /// It is gone, with all below it.
    Ended(ProcessEnd),
}

/// A running CLI process.
pub(crate) struct Process {
    owned: Option<Owned>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    outbox: VecDeque<u8>,
    chunk: Box<[u8]>,
    unread: std::ops::Range<usize>,
    lines: Lines,
    stderr: Stderr,
    lifeline: Option<Arc<UnixStream>>,
    pid: u32,
    shim_pid: u32,
    ended: Option<ProcessEnd>,
}

/// What outlives the handle until the shim has been reaped.
struct Owned {
    child: Child,
    home: Home,
    exit: Option<ExitStatus>,
    sweep: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts the program under its shim. Blocks until it runs. Needs a tokio
    /// runtime around it.
    pub(crate) fn spawn(
        shim: &[OsString],
        invocation: &Invocation,
        mut home: Home,
        lifelines: &Lifelines,
        line_bytes_max: usize,
        limit: Duration,
    ) -> io::Result<Self> {
        let (lifeline, shims_end) = UnixStream::pair()?;
        let (program, leading) = shim
            .split_first()
            .ok_or_else(|| io::Error::other("no launch shim is configured"))?;
        let mut command = Command::new(program);
        command
            .args(leading)
            .arg(shims_end.as_raw_fd().to_string())
            .arg("--")
            .arg(&invocation.program)
            .args(&invocation.args)
            .env_clear()
            .envs(&invocation.env)
            .current_dir(&invocation.working_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.as_std_mut().arg0_if_self(program);
        // SAFETY: between fork and exec the closure only makes two system calls;
        // it allocates nothing and takes no lock. `shims_end` is owned by the
        // closure, so its number is still that socket.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                rustix::io::fcntl_setfd(&shims_end, FdFlags::empty())?;
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        drop(command);
        let shim_pid = child.id().unwrap_or_default();
        home.record(shim_pid)?;
        let stderr = Stderr::drain(child.stderr.take());
        let mut process = Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            owned: Some(Owned {
                child,
                home,
                exit: None,
                sweep: None,
            }),
            outbox: VecDeque::new(),
            chunk: vec![0; CHUNK].into_boxed_slice(),
            unread: 0..0,
            lines: Lines::new(line_bytes_max),
            stderr,
            lifeline: None,
            pid: 0,
            shim_pid,
            ended: None,
        };
        lifeline.set_read_timeout(Some(limit))?;
        process.pid = hear_pid(&lifeline)?;
        lifeline.set_nonblocking(true)?;
        let lifeline = Arc::new(lifeline);
        lifelines.add(&lifeline);
        process.lifeline = Some(lifeline);
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn shim_pid(&self) -> u32 {
        self.shim_pid
    }

    /// The directory of this process.
    pub(crate) fn home(&mut self) -> Option<&mut Home> {
        self.owned.as_mut().map(|owned| &mut owned.home)
    }

    /// Queues a line for the process; [`Process::next`] and [`Process::flush`]
    /// write it.
    pub(crate) fn send(&mut self, line: &[u8]) {
        if self.stdin.is_some() {
            self.outbox.extend(line);
            self.outbox.push_back(b'\n');
        }
    }

    /// Closes stdin: nothing more will be said.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
        self.outbox.clear();
    }

    /// Writes what is queued. `None`: all of it is written; otherwise what the
    /// process did meanwhile, and this is to be called again. Safe to drop.
    pub(crate) async fn flush(&mut self) -> Option<Incoming> {
        self.advance(true).await
    }

    fn wrote(&mut self, written: io::Result<usize>) {
        match written {
            Ok(count) if count > 0 => {
                self.outbox.drain(..count);
                if self.outbox.is_empty() {
                    self.outbox.shrink_to(CHUNK);
                }
            }
            // It closed its stdin: its end is noticed by reading.
            _ => self.hang_up(),
        }
    }

    /// What the process does next. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> Incoming {
        loop {
            if let Some(incoming) = self.advance(false).await {
                return incoming;
            }
        }
    }

    /// Reads and writes until there is something to tell, or nothing left to
    /// write and that was to be told.
    async fn advance(&mut self, until_written: bool) -> Option<Incoming> {
        loop {
            if until_written && self.outbox.is_empty() {
                return None;
            }
            while !self.unread.is_empty() {
                let mut rest = &self.chunk[self.unread.clone()];
                let cut = self.lines.feed(&mut rest);
                self.unread.start = self.unread.end - rest.len();
                match cut {
                    Some(Cut::Line([])) | None => {}
                    Some(Cut::Line(line)) => return Some(Incoming::Line(parse(line))),
                    Some(Cut::TooLong) => return Some(Incoming::Broken("a line is too long")),
                }
            }
            let Some(stdout) = self.stdout.as_mut() else {
                return Some(self.end().await);
            };
            let Some(owned) = self.owned.as_mut() else {
                self.stdout = None;
                continue;
            };
            // Writing first: an interrupt must get through a flood of output.
            tokio::select! {
                biased;
                written = write(&mut self.stdin, &self.outbox), if !self.outbox.is_empty() => {
                    self.wrote(written);
                }
                read = stdout.read(&mut self.chunk) => match read {
                    Ok(count) if count > 0 => self.unread = 0..count,
                    _ => self.stdout = None,
                },
                exit = owned.child.wait(), if owned.exit.is_none() => owned.exited(exit),
            }
        }
    }

    /// After the last line: the exit. Safe to drop and call again.
    async fn end(&mut self) -> Incoming {
        self.outbox.clear();
        if let Some(ended) = &self.ended {
            return Incoming::Ended(ended.clone());
        }
        match tokio::time::timeout(EXIT_AFTER_EOF, self.gone()).await {
            Ok(ended) => Incoming::Ended(ended),
            Err(_) => Incoming::Broken("it closed its stdout and lives on"),
        }
    }

    /// Waits until the shim, and so everything below it, is gone, discarding
    /// what it still says. Safe to drop and call again.
    pub(crate) async fn gone(&mut self) -> ProcessEnd {
        while let Some(owned) = self.owned.as_mut() {
            if owned.exit.is_none() {
                // What is left in the pipes must not hold up the exit.
                tokio::select! {
                    exit = owned.child.wait() => owned.exited(exit),
                    read = skip(&mut self.stdout, &mut self.chunk) => if !read {
                        self.stdout = None;
                    },
                }
                continue;
            }
            owned.swept().await;
            self.stderr.ended().await;
            let exit_code = owned.exit.and_then(|status| status.code());
            let clean = exit_code.is_some_and(|code| code != 128 + 9 && code != 125);
            if let Some(owned) = self.owned.take() {
                owned.home.release(clean);
            }
            self.ended = Some(ProcessEnd {
                exit_code,
                stderr_tail: self.stderr.tail(),
                lease_expired: self.lifeline.as_deref().is_some_and(has_expired),
            });
        }
        self.ended.clone().unwrap_or_default()
    }

    /// Asks the CLI itself to end. Does nothing once it is gone.
    pub(crate) fn terminate(&self) {
        let alive = self.owned.as_ref().is_some_and(|o| o.exit.is_none());
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let (true, Some(pid)) = (alive, pid) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }

    /// Tells the shim to end the whole tree now.
    pub(crate) fn kill(&mut self) {
        // Closing alone does it as well, should the line not get through.
        if let Some(lifeline) = self.lifeline.take() {
            let _ = (&*lifeline).write_all(b"end\n");
        }
    }

    /// Kills the shim itself; its tree is swept then.
    pub(crate) fn kill_shim(&mut self) {
        if let Some(owned) = &mut self.owned {
            let _ = owned.child.start_kill();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let (Some(mut owned), Ok(runtime)) =
            (self.owned.take(), tokio::runtime::Handle::try_current())
        {
            // Its directory must not be used again before it is gone.
            runtime.spawn(async move {
                if owned.exit.is_none() {
                    let exit = owned.child.wait().await;
                    owned.exited(exit);
                }
                owned.swept().await;
                owned.home.release(false);
            });
        }
    }
}

impl Owned {
    fn exited(&mut self, exit: io::Result<ExitStatus>) {
        let exit = exit.unwrap_or_else(|_| ExitStatus::from_raw(125 << 8));
        self.exit = Some(exit);
        if exit.signal().is_some() {
            // Something killed the shim, so nobody ended what was below it. It
            // is ours now, since this process is a subreaper too.
            let (marker, start) = (self.home.marker().to_owned(), self.home.start());
            tracing::warn!(status = %exit, "launch shim was killed, sweeping its tree");
            self.sweep = Some(tokio::task::spawn_blocking(move || {
                tree::sweep_after(marker, start);
            }));
        }
    }

    /// Waits for the sweep, if there is one.
    async fn swept(&mut self) {
        if let Some(sweep) = &mut self.sweep {
            let _ = sweep.await;
            self.sweep = None;
        }
    }
}

async fn write(stdin: &mut Option<ChildStdin>, outbox: &VecDeque<u8>) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write(outbox.as_slices().0).await,
        None => Ok(0),
    }
}

/// Reads and forgets; false: nothing more comes.
async fn skip(stdout: &mut Option<ChildStdout>, chunk: &mut [u8]) -> bool {
    match stdout {
        Some(stdout) => stdout.read(chunk).await.is_ok_and(|count| count > 0),
        None => std::future::pending().await,
    }
}

/// Reads the shim's one line: the pid of the program, or why it does not run.
fn hear_pid(lifeline: &UnixStream) -> io::Result<u32> {
    let mut line = String::new();
    BufReader::new(lifeline).read_line(&mut line)?;
    let line = line.trim_end();
    match line.split_once(' ') {
        Some(("pid", pid)) => pid.parse().map_err(io::Error::other),
        Some(("fail", why)) => Err(io::Error::other(format!("it cannot be run: {why}"))),
        _ => Err(io::Error::other("the launch shim does not answer")),
    }
}

/// The name under which a shim that is this very program shows up.
trait Named {
    fn arg0_if_self(&mut self, program: &OsString);
}

impl Named for std::process::Command {
    fn arg0_if_self(&mut self, program: &OsString) {
        use std::os::unix::process::CommandExt;
        if program == super::SELF {
            self.arg0("claudepool");
        }
    }
}
