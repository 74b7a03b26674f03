//! The launch shim: one small process between the server and each CLI process.
//!
//! It is a subreaper, so whatever the CLI's tools start stays below it, in
//! whatever session or process group. It ends all of that when the CLI exits,
//! when it is told to, or when its lifeline closes, which happens at the latest
//! when the server dies. It knows nothing of the CLI's protocol and never
//! touches its pipes.
//!
//! The lifeline is a socket. The shim writes one line when the program runs,
//! `pid N`, or `fail TEXT` when it cannot be started, and `expired` before it ends
//! the tree for want of a `live`. It reads lines: `end` (end the tree now) and
//! `live N` (end it unless another `live` comes within N ms; 0: no limit).

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, wait};

use super::{process, tree};

/// First argument of a program that is to be a shim.
pub const COMMAND: &str = "__slot";

/// Turns this process into a launch shim if it was started as one, and then
/// never returns. Every program that embeds the pool calls this first in
/// `main`, before any runtime or thread starts.
pub fn intercept() {
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() != Some(OsStr::new(COMMAND)) {
        return;
    }
    let code = run(args).unwrap_or_else(|error| {
        eprintln!("claudepool {COMMAND}: {error}");
        125
    });
    exit(code);
}

fn run(mut args: impl Iterator<Item = OsString>) -> io::Result<i32> {
    let usage = || io::Error::other("usage: __slot FD -- program [argument…]");
    let fd = args.next().and_then(|fd| fd.to_str()?.parse().ok());
    let separator = args.next().is_some_and(|arg| arg == "--");
    let (Some(fd), true, Some(program)) = (fd, separator, args.next()) else {
        return Err(usage());
    };
    let mut lifeline = UnixStream::from(process::inherited(fd)?);
    lifeline.set_nonblocking(true)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let _deaf = Deaf::new()?;

    let child = match Command::new(program).args(args).process_group(0).spawn() {
        Ok(child) => child,
        Err(error) => {
            writeln!(lifeline, "fail {error}")?;
            return Ok(127);
        }
    };
    let pid = Pid::from_child(&child);
    // A server that is gone already is noticed below.
    let _ = writeln!(lifeline, "pid {}", child.id());
    let _ = leave_pipes();

    let mut status = None;
    watch(pid, lifeline, &mut status)?;
    tree::end_all_below_us(|ended, how| {
        if ended == pid {
            status = Some(how);
        }
    });
    Ok(status.map_or(125, exit_code))
}

/// What a shell would say: the exit code, or 128 and the signal.
fn exit_code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(125)
}

/// Lets go of the CLI's pipes, so that either side sees the other close them.
fn leave_pipes() -> io::Result<()> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Returns when the tree is to end.
fn watch(pid: Pid, mut lifeline: UnixStream, status: &mut Option<WaitStatus>) -> io::Result<()> {
    let program = pidfd_open(pid, PidfdFlags::empty())?;
    let mut heard = Vec::new();
    let mut lease: Option<Instant> = None;
    loop {
        // Orphans that end by themselves, and the program itself.
        while let Ok(Some((ended, how))) = wait(WaitOptions::NOHANG) {
            if ended == pid {
                *status = Some(how);
            }
        }
        let left = lease.map(|end| end.saturating_duration_since(Instant::now()));
        if status.is_some() {
            return Ok(());
        }
        if left.is_some_and(|left| left.is_zero()) {
            // A server that is stopped hears it when it goes on.
            let _ = lifeline.write_all(super::lease::EXPIRED);
            return Ok(());
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [
            PollFd::new(&program, PollFlags::IN),
            PollFd::new(&lifeline, PollFlags::IN),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled?,
        };
        if fds[0].revents().is_empty() && fds[1].revents().is_empty() {
            continue;
        }
        let mut buffer = [0; 256];
        match lifeline.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => heard.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
        while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = heard.drain(..=end).collect();
            match Order::parse(&line) {
                Some(Order::End) => return Ok(()),
                Some(Order::Live(Duration::ZERO)) => lease = None,
                Some(Order::Live(span)) => lease = Instant::now().checked_add(span),
                None => {}
            }
        }
    }
}

/// What the server may say.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    End,
    Live(Duration),
}

impl Order {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.trim_end();
        match line.split_once(' ') {
            None if line == "end" => Some(Self::End),
            Some(("live", ms)) => ms.parse().ok().map(Duration::from_millis).map(Self::Live),
            _ => None,
        }
    }
}

/// Ignores the signals with which people and service managers end a whole
/// group: the server decides how its processes end. Handlers, not SIG_IGN,
/// since the program would inherit that. SIGCHLD gets one so that it interrupts
/// the wait.
struct Deaf {
    _signals: Vec<tokio::signal::unix::Signal>,
    _runtime: tokio::runtime::Runtime,
}

impl Deaf {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let entered = runtime.enter();
        let signals = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::child(),
        ]
        .into_iter()
        .map(signal)
        .collect::<io::Result<_>>()?;
        drop(entered);
        Ok(Self {
            _signals: signals,
            _runtime: runtime,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_anything_else_is_no_order() {
        assert_eq!(Order::parse(b"end\n"), Some(Order::End));
        assert_eq!(
            Order::parse(b"live 1500\n"),
            Some(Order::Live(Duration::from_millis(1500)))
        );
        assert_eq!(Order::parse(b"live 0\n"), Some(Order::Live(Duration::ZERO)));
        for noise in [&b"\n"[..], b"end now\n", b"live x\n", b"\xff\n"] {
            assert_eq!(Order::parse(noise), None);
        }
    }
}
